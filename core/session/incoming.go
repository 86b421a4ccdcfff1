package session

import (
	"slices"

	"dunlin/core/packet"
)

// Incoming is a QoS 2 message from the client that waits for its PUBREL.
type Incoming struct {
	ID        packet.ID
	Committed bool // PUBREC was or may be sent
	releasing bool // PUBREL seen, on its way to disk
	here      bool // PUBREL seen on this connection: it is the one that gets the PUBCOMP
}

// Arrive takes a QoS 2 PUBLISH. It says whether it is new, or else whether its PUBREC may be
// repeated at once [MQTT-4.3.3-10].
func (s *Session) Arrive(id packet.ID) (fresh, committed bool) {
	if i := s.incomingByID(id); i >= 0 {
		return false, s.incoming[i].Committed
	}
	s.incoming = append(s.incoming, Incoming{ID: id})
	return true, false
}

// Accepted notes that a QoS 2 message from the client has reached its destinations.
func (s *Session) Accepted(id packet.ID) {
	if i := s.incomingByID(id); i >= 0 {
		s.incoming[i].Committed = true
	}
}

// Forget takes back an Arrive: the message was refused, its identifier is free.
func (s *Session) Forget(id packet.ID) {
	if i := s.incomingByID(id); i >= 0 {
		s.incoming = slices.Delete(s.incoming, i, i+1)
	}
}

// Pubrel takes the client's PUBREL of an incoming message.
func (s *Session) Pubrel(id packet.ID) Next {
	i := s.incomingByID(id)
	if i < 0 {
		return UnknownID
	}
	in := &s.incoming[i]
	switch {
	case !in.Committed:
		return Early
	case !s.Durable():
		s.incoming = slices.Delete(s.incoming, i, i+1)
		return SendComplete
	case in.releasing:
		in.here = true
		return Nothing // its PUBCOMP follows the commit
	}
	in.releasing, in.here = true, true
	return CommitRelease
}

// Released notes that a PUBREL is on disk: the identifier is free. It says whether the PUBCOMP
// is to be sent: not if the PUBREL came on an earlier connection, since the client repeats it on
// this one, and gets its PUBCOMP then. With two of them, the second might end another flow.
func (s *Session) Released(id packet.ID) bool {
	i := s.incomingByID(id)
	if i < 0 {
		return false
	}
	here := s.incoming[i].here
	s.incoming = slices.Delete(s.incoming, i, i+1)
	return here
}

// Unreleased takes back a PUBREL that could not be written.
func (s *Session) Unreleased(id packet.ID) {
	if i := s.incomingByID(id); i >= 0 {
		s.incoming[i].releasing = false
	}
}

// IncomingCount is how many QoS 2 messages of the client are under way.
func (s *Session) IncomingCount() int { return len(s.incoming) }

func (s *Session) incomingByID(id packet.ID) int {
	for i := range s.incoming {
		if s.incoming[i].ID == id {
			return i
		}
	}
	return -1
}
