package session

import (
	"slices"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/message"
)

// After a crash nobody knows which messages at QoS 1 have left: DUP says that it may be so
// [MQTT-3.3.1-1].
func TestWhatMayHaveLeftBeforeACrashIsSentWithDUP(t *testing.T) {
	at := func(boot uint32, millis uint64) message.Stamp { return message.Stamp{Boot: boot, Millis: millis} }
	for _, test := range []struct {
		name      string
		connected bool
		left      message.Stamp
		received  []message.Stamp
		want      []Deliver
	}{
		{
			"the client was there to the end", true,
			message.Stamp{},
			[]message.Stamp{at(1, 1), at(1, 2), at(1, 3), at(1, 4)},
			[]Deliver{Resend, Resend, Resend, Send},
		}, // the window is 3
		{"it had left before", false, at(1, 5), []message.Stamp{at(1, 6), at(1, 7), at(2, 1)}, []Deliver{Send, Send, Send}},
		{"it had left in between", false, at(1, 5), []message.Stamp{at(1, 4), at(1, 5), at(1, 6)}, []Deliver{Resend, Resend, Send}},
		{"in a later boot", false, at(2, 1), []message.Stamp{at(1, 9), at(2, 2)}, []Deliver{Resend, Send}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := len(test.received)
			s := Restore(&durable.Restored{
				Session: durable.Session{Number: 1, Connected: test.connected, Left: test.left},
				Pending: n, Last: durable.Seq(n),
			}, &Limits{Window: 3, MaxQueued: 100})
			s.Connect(65535)
			var got []Deliver
			// What comes after the start is in no doubt.
			for i, received := range append(test.received, at(1, 1)) {
				id, what := s.Entry(&durable.Entry{Seq: durable.Seq(i + 1), Message: &message.Message{Received: received}, QoS: 1})
				got = append(got, what)
				s.Puback(id)
			}
			if want := append(test.want, Send); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
