package broker

import (
	"fmt"
	"testing"
	"time"

	"dunlin/core/packet"
)

const again = 20 * time.Second

func resending(o *Options) { o.Limits.ResendAfter = again }

// fire lets the timer of a client fire so long after now, and returns when it is set to, counted from
// then.
func (x *bench) fire(id string, after time.Duration) (next time.Duration) {
	x.t.Helper()
	x.do(func() {
		r := x.b.members[id].client.resend
		if !r.Set() {
			x.t.Error("the timer is not set")
		}
		now := x.b.loop.Now() + after
		if next = r.Fire(now); next > 0 {
			next -= now
		}
	})
	return next
}

func TestWhatIsNotAcknowledgedIsSentAgain(t *testing.T) { // MQTT3 §4.4
	for _, v := range []packet.Version{packet.V31, packet.V311} {
		for _, durably := range []bool{false, true} {
			for qos := packet.QoS(1); qos <= 2; qos++ {
				t.Run(fmt.Sprintf("version %d, lasting %v, QoS %d", v, durably, qos), func(t *testing.T) {
					x := start(t, resending)
					s, _ := x.connect(v, "s", func(c *packet.Connect) { c.CleanStart = !durably })
					s.subscribe("a", qos)
					p, _ := x.connect(packet.V5, "p")
					var ids []packet.ID
					for i := range 3 {
						p.publish("a", fmt.Sprint(i), 2, packet.ID(i+1))
						p.expect(packet.PUBREC)
						m := s.message()
						if m.Dup || string(m.Payload) != fmt.Sprint(i) {
							t.Fatalf("got %s with DUP %v, want %d", m.Payload, m.Dup, i)
						}
						ids = append(ids, m.ID)
					}
					if next := x.fire("s", again-2*time.Second); next <= 0 || next > again {
						t.Errorf("the timer is set to %v later", next)
					}
					s.nothing()
					// The second has arrived.
					if qos == 1 {
						s.ack(packet.PUBACK, ids[1])
					} else {
						s.ack(packet.PUBREC, ids[1])
						if id := packet.ID(s.expect(packet.PUBREL)[1]); id != ids[1] {
							t.Fatalf("PUBREL for %d, want %d", id, ids[1])
						}
					}
					s.nothing()
					x.do(func() { x.b.loop.At(x.b.loop.Now()+time.Hour, x.b.members["s"].client.resend) })
					x.fire("s", again+2*time.Second)
					due := []int{0, 2}
					for n := 1 + int(qos); n > 0; n-- {
						h, body := s.read()
						if h.Type == packet.PUBREL && qos == 2 && packet.ID(body[1]) == ids[1] {
							s.ack(packet.PUBCOMP, ids[1])
							continue
						}
						m, err := packet.ParsePublish(body, h.Flags, v)
						if h.Type != packet.PUBLISH || err != nil || len(due) == 0 {
							t.Fatalf("got %v, %v", h.Type, err)
						}
						i := due[0]
						due = due[1:]
						if !m.Dup || m.ID != ids[i] || string(m.Payload) != fmt.Sprint(i) || m.QoS != qos { // [MQTT-3.3.1-1, MQTT-4.6.0-1]
							t.Fatalf("got %s with DUP %v as %d at QoS %d, want %d as %d", m.Payload, m.Dup, m.ID, m.QoS, i, ids[i])
						}
					}
					s.nothing()
					for _, i := range []int{0, 2} {
						if qos == 1 {
							s.ack(packet.PUBACK, ids[i])
							continue
						}
						s.ack(packet.PUBREC, ids[i])
						s.expect(packet.PUBREL)
						s.ack(packet.PUBCOMP, ids[i])
					}
					s.nothing()
					x.queues("s", 0, 0)
					x.do(func() {
						r := x.b.members["s"].client.resend
						if len(r.kept) > 0 || r.bytes != 0 {
							t.Errorf("%d messages of %d bytes are kept", len(r.kept), r.bytes)
						}
						if r.Fire(x.b.loop.Now()+time.Hour) != 0 {
							t.Error("the timer goes on, though nothing is in flight")
						}
					})
					p.publish("a", "new", 1, 9) // live again
					if m := s.message(); m.Dup || string(m.Payload) != "new" {
						t.Errorf("got %s with DUP %v", m.Payload, m.Dup)
					}
				})
			}
		}
	}
}

func TestNothingIsSentAgainToVersion5(t *testing.T) { // [MQTT-4.4.0-1]
	x := start(t, resending)
	s, _ := x.connect(packet.V5, "s", lasting)
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 1, 1)
	s.message()
	x.do(func() {
		if c := x.b.members["s"].client; c.resend != nil {
			t.Error("a client of 5.0 has a timer for it")
		}
	})
}

func TestNothingIsSentAgainUnlessItIsAskedFor(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V311, "s", lasting)
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 1, 1)
	s.message()
	x.do(func() {
		if c := x.b.members["s"].client; c.resend != nil {
			t.Error("there is a timer for it")
		}
	})
}

func TestTimerOfAConnectionThatHasEndedIsGone(t *testing.T) {
	x := start(t, resending)
	s, _ := x.connect(packet.V311, "s")
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 1, 1)
	s.message()
	var r *resend
	x.do(func() { r = x.b.members["s"].client.resend })
	x.away(s, "s")
	x.do(func() {
		if r.Set() || r.Fire(time.Hour) != 0 {
			t.Error("the timer goes on")
		}
	})
}

func TestOneOverdueMessageDoesNotWaitForTheWindow(t *testing.T) {
	x := start(t, resending, func(o *Options) { o.Limits.MaxInFlight = 4 })
	s, _ := x.connect(packet.V311, "s", lasting)
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.waits("a", 6)
	var first packet.ID
	for i := range 4 {
		if m := s.message(); i == 0 {
			first = m.ID
		}
	}
	s.nothing()
	x.do(func() { // the others have just been sent
		st := &x.b.members["s"].state
		for id := range packet.ID(10) {
			if id != first {
				st.Stamp(id, seconds(x.b.loop.Now()+again))
			}
		}
	})
	x.fire("s", again+2*time.Second)
	if m := s.message(); !m.Dup || m.ID != first {
		t.Errorf("got %d with DUP %v, want %d again", m.ID, m.Dup, first)
	}
	s.nothing()
	for id := range packet.ID(4) {
		s.ack(packet.PUBACK, first+id)
	}
	for _, want := range []string{"4", "5"} {
		if m := s.message(); m.Dup || string(m.Payload) != want {
			t.Errorf("got %s with DUP %v, want %s", m.Payload, m.Dup, want)
		}
	}
}
