package broker

import (
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
)

// flood publishes at QoS 1 to a store that commits nothing, until reading from w rests.
func (x *bench) flood(w *wire, id string, payload int) {
	x.t.Helper()
	text := strings.Repeat("x", payload)
	for i := 1; ; i++ {
		w.publish("a", text, 1, packet.ID(i))
		if i%50 != 0 {
			continue
		}
		rests := false
		x.until("what was sent is read, or left", func() bool {
			c := x.b.members[id].client
			rests = c.throttled
			return rests || c.acks.len() == i
		})
		if rests {
			return
		}
	}
}

func TestClientIsReadWhileItsMessagesWait(t *testing.T) {
	x := start(t)
	x.offline(packet.V311, "away", "a", 1)
	w, _ := x.connect(packet.V311, "w")
	w.subscribe("b", 0)
	x.store.hold()
	for i := range throttleAt - 1 {
		w.publish("a", "x", 1, packet.ID(i+1))
	}
	w.publish("b", "x", 0, 0)
	w.message()
	w.nothing() // PINGREQ is answered
	x.store.release(nil)
	for range throttleAt - 1 {
		w.expect(packet.PUBACK)
	}
}

func TestClientIsHeldBackForAMinuteAtMost(t *testing.T) {
	for _, test := range []struct {
		name    string
		v       packet.Version
		payload int
		rests   func(c *client) bool
	}{
		{"1,000 messages", packet.V311, 1, func(c *client) bool { return c.acks.len() == throttleAt }},
		{"1 MiB", packet.V311, 10_000, func(c *client) bool { return c.held >= throttleBytes && c.acks.len() < 120 }},
		{"1 MiB within the Receive Maximum", packet.V5, 10_000, func(c *client) bool { return c.held >= throttleBytes && c.acks.len() < 120 }},
	} {
		for _, keepAlive := range []uint16{0, 10} {
			t.Run(test.name, func(t *testing.T) {
				x := start(t)
				x.offline(packet.V5, "away", "a", 1)
				w, _ := x.connect(test.v, "w", func(c *packet.Connect) { c.KeepAlive = keepAlive })
				x.store.hold()
				x.flood(w, "w", test.payload)
				x.do(func() {
					c := x.b.members["w"].client
					if !test.rests(c) || !c.Set() {
						t.Errorf("reading rests with %d messages of %d bytes, timer set %v", c.acks.len(), c.held, c.Set())
					}
					if at := c.Fire(c.seen + maxRest - time.Second); at != c.seen+maxRest || c.ended {
						t.Errorf("after 59 seconds the timer is set to %v, ended %v", at, c.ended)
					}
					c.Fire(c.seen + maxRest)
				})
				if test.v == packet.V5 {
					if code := w.disconnected(); code != packet.ServerBusy {
						t.Errorf("told %v, want Server busy", code)
					}
				} else {
					w.closed()
				}
				x.store.release(nil)
			})
		}
	}
}

func TestKeepAliveBeginsAnewAfterARest(t *testing.T) {
	for _, keepAlive := range []uint16{0, 10} {
		x := start(t)
		x.offline(packet.V5, "away", "a", 1)
		w, _ := x.connect(packet.V311, "w", func(c *packet.Connect) { c.KeepAlive = keepAlive })
		x.store.hold()
		x.flood(w, "w", 10_000)
		x.do(func() { x.b.members["w"].client.seen -= time.Hour })
		x.store.release(nil)
		x.until("everything is answered", func() bool {
			c := x.b.members["w"].client
			return !c.throttled && c.acks.len() == 0
		})
		x.do(func() {
			c := x.b.members["w"].client
			if c.Set() != (keepAlive > 0) || c.held != 0 {
				t.Errorf("keep alive %d: the timer is set: %v; %d bytes are held", keepAlive, c.Set(), c.held)
			}
			if now := x.b.loop.Now(); keepAlive > 0 && c.Fire(now) <= now {
				t.Error("the client is closed for a silence of ours")
			}
		})
	}
}
