package load

import (
	"testing"

	"dunlin/core/packet"
)

// wired returns a loop with a publisher and a subscriber that take each other's bytes, without
// sockets.
func wired(t *testing.T, version packet.Version, qos byte, window int) (*loop, *publisher, *client) {
	t.Helper()
	o := Find("fanout").Options()
	o.Version, o.PubQoS, o.SubQoS, o.Address = version, qos, qos, "127.0.0.1:1"
	e, err := newEngine(t.Context(), &o)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range e.loops {
		t.Cleanup(l.poller.Close)
	}
	subscriber := e.client("s")
	subscriber.state, subscriber.tracks = ready, make([]track, 1)
	p := e.publisher(e.client("p"), []string{e.topic(0), e.topic(1)}, window, 1)
	return subscriber.loop, p, subscriber
}

func TestMessagesDoNotAllocate(t *testing.T) {
	for _, version := range []packet.Version{packet.V311, packet.V5} {
		for qos := range byte(3) {
			l, p, subscriber := wired(t, version, qos, 50)
			batch := make([]byte, 0, 64<<10)
			acks := make([]byte, 0, 64<<10)
			turn := func() {
				batch, acks = batch[:0], acks[:0]
				for ok := true; ok; {
					batch, ok = p.take(batch, now())
				}
				l.scratch = l.scratch[:0]
				rest, err := l.packets(subscriber, batch)
				if err != nil || len(rest) > 0 {
					t.Fatalf("%d bytes are left, error %v", len(rest), err)
				}
				// The broker would acknowledge to the publisher what the subscriber does to it.
				kinds := [][]packet.Type{nil, {packet.PUBACK}, {packet.PUBREC, packet.PUBCOMP}}[qos]
				for _, kind := range kinds {
					for id := range len(p.slots) {
						acks = append(acks, byte(kind)<<4, 2, byte((id+1)>>8), byte(id+1))
					}
				}
				if _, err := l.packets(p.client, acks); err != nil {
					t.Fatal(err)
				}
				l.sending = l.sending[:0]
				p.queued.Store(false)
			}
			turn()
			before := l.delivered
			if n := testing.AllocsPerRun(100, turn); n != 0 {
				t.Errorf("version %d, QoS %d: %v allocations for 50 messages", version, qos, n)
			}
			if l.delivered != before+101*50 {
				t.Errorf("version %d, QoS %d: %d deliveries, want %d", version, qos, l.delivered-before, 101*50)
			}
		}
	}
}

func TestNoMoreMessagesThanTheWindowAreInFlight(t *testing.T) {
	l, p, subscriber := wired(t, packet.V311, 1, 3)
	var first []byte
	n := 0
	for ok := true; ok; n++ {
		var b []byte
		if b, ok = p.take(nil, 0); ok && n == 0 {
			first = b
		}
	}
	if n-1 != 3 {
		t.Fatalf("%d messages could leave, want 3", n-1)
	}
	if _, err := l.packets(subscriber, first); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.take(nil, 0); ok {
		t.Fatal("a message that is not acknowledged has made room for another")
	}
	if _, err := l.packets(p.client, []byte{byte(packet.PUBACK) << 4, 2, 0, 1}); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.take(nil, 0); !ok {
		t.Fatal("a message that has arrived and is acknowledged makes no room")
	}
	if _, err := l.packets(p.client, []byte{byte(packet.PUBACK) << 4, 2, 0, 200}); err == nil {
		t.Error("the acknowledgement of an identifier that is not in use passes")
	}
}

func TestPacketsMayComeInAnyPieces(t *testing.T) {
	l, p, subscriber := wired(t, packet.V5, 1, 5)
	var stream []byte
	for range 5 {
		stream, _ = p.take(stream, 0)
	}
	var kept []byte
	for _, b := range stream {
		kept = append(kept, b)
		rest, err := l.packets(subscriber, kept)
		if err != nil {
			t.Fatal(err)
		}
		kept = append([]byte(nil), rest...)
	}
	if l.delivered != 5 || len(kept) != 0 || l.faults != (faults{}) {
		t.Errorf("%d deliveries, %d bytes left, %+v; want 5, none, none", l.delivered, len(kept), l.faults)
	}
}
