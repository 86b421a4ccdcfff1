package session

import "dunlin/core/packet"

// Stamp notes at which second the PUBLISH or PUBREL of an identifier was sent. Seconds count modulo
// 65,536. Without stamps nothing is overdue.
func (s *Session) Stamp(id packet.ID, second uint16) {
	for i := len(s.flight) - 1; i >= 0; i-- { // nearly always the last
		if s.flight[i].ID == id {
			s.flight[i].stamp = second
			return
		}
	}
}

// Overdue finds what has been in flight on this connection since at least so many seconds without an
// acknowledgement. It calls release where PUBREL is to be sent again, and publish where PUBLISH is,
// in a session without a number. With one, NextRead brings those messages back; until then they are
// not in the window, which may let a few more pass than it has room for: MQTT 3 has no Receive
// Maximum. It returns in how many seconds to ask again.
func (s *Session) Overdue(second, after uint16, publish, release func(packet.ID)) (next uint16) {
	next = after
	for i := range s.flight {
		f := &s.flight[i]
		waits := f.here && f.state == sent && !(s.Durable() && f.Seq == 0)
		if !waits && f.state != released {
			continue
		}
		if age := second - f.stamp; age < after {
			next = min(next, after-age)
			continue
		}
		switch {
		case f.state == released:
			f.stamp = second
			release(f.ID)
		case !s.Durable():
			f.stamp = second
			publish(f.ID)
		case s.reading:
			next = 1 // a read that is under way would pass it by
		default:
			f.here = false
			s.outstanding--
			s.readTo = min(s.readTo, f.Seq-1)
			s.live, s.again = false, true
		}
	}
	return next
}
