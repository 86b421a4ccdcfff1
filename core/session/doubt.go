package session

import (
	"dunlin/core/durable"
	"dunlin/core/message"
)

// doubt is what a restored session does not know: which messages at QoS 1 have left on a connection
// of an earlier process. Their identifiers are not stored, which would be a write for each. They are sent
// with DUP, which says no more than that this may be so (MQTT5 §3.3.1.1): at most as many as there may be
// in flight, the oldest, of those that were there while the client was.
type doubt struct {
	last      durable.Seq // none is behind it
	window    int32       // messages that may have been in flight
	connected bool        // the client was there to the end
	left      message.Stamp
}

// doubtOf is nil if nothing is in doubt.
func doubtOf(r *durable.Restored, l *Limits) *doubt {
	if r.Pending == 0 || r.Last == 0 {
		return nil
	}
	return &doubt{last: r.Last, window: l.Window, connected: r.Session.Connected, left: r.Session.Left}
}

// mayHaveLeft says whether an entry that is not in flight may have left before; they are asked about in order.
func (s *Session) mayHaveLeft(e *durable.Entry) bool {
	d := s.doubt
	if d == nil {
		return false
	}
	if d.window--; d.window == 0 || e.Seq >= d.last {
		s.doubt = nil
	}
	return e.QoS == 1 && e.Seq <= d.last && (d.connected || !after(e.Message.Received, d.left))
}

// after says whether a message came after its receiver had left.
func after(received, left message.Stamp) bool {
	if received.Boot != left.Boot {
		return received.Boot > left.Boot
	}
	return received.Millis > left.Millis
}
