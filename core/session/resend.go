package session

import (
	"slices"

	"dunlin/core/packet"
)

// Stamp notes at which second the PUBLISH or PUBREL of an identifier was sent. Seconds count modulo
// 65,536. Without stamps nothing is overdue.
func (s *Session) Stamp(id packet.ID, second uint16) {
	if i, k := s.flight.byID(id); i >= 0 && s.flight.runs[i].stamp != second {
		s.flight.change(i, k, 1, &s.limits.spare, func(r *run) { r.stamp = second })
	}
}

// Overdue finds what has been in flight on this connection since at least so many seconds without an
// acknowledgement. It calls release where PUBREL is to be sent again, and publish where PUBLISH is,
// in a session without a number. With one, NextRead brings those messages back; until then they are
// not in the window, which may let a few more pass than it has room for: MQTT 3 has no Receive
// Maximum. It returns in how many seconds to ask again.
func (s *Session) Overdue(second, after uint16, publish, release func(packet.ID)) (next uint16) {
	next = after
	for _, r := range slices.Clone(s.flight.all()) { // what is called alters them
		waits := r.here && (r.state == sent1 || r.state == sent2) && !(s.Durable() && r.seq == 0)
		if !waits && r.state != released {
			continue
		}
		if age := second - r.stamp; age < after {
			next = min(next, after-age)
			continue
		}
		if waits && s.Durable() && s.reading {
			next = 1 // a read that is under way would pass it by
			continue
		}
		for k := range int(r.n) {
			s.overdue(r.id+packet.ID(k), second, publish, release)
		}
	}
	return next
}

// overdue has one message sent again.
func (s *Session) overdue(id packet.ID, second uint16, publish, release func(packet.ID)) {
	i, k := s.flight.byID(id)
	if i < 0 {
		return
	}
	switch r := s.flight.runs[i]; {
	case r.state == released:
		s.Stamp(id, second)
		release(id)
	case !s.Durable():
		s.Stamp(id, second)
		publish(id)
	default:
		s.flight.change(i, k, 1, &s.limits.spare, func(r *run) { r.here = false })
		s.outstanding--
		s.readTo = min(s.readTo, r.seqAt(k)-1)
		s.live, s.again = false, true
	}
}
