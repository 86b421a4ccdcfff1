package load

import (
	"testing"

	"dunlin/core/packet"
)

func TestPublisherSendsItsNextBurstWhenThereAreFreePlacesForAllOfIt(t *testing.T) {
	p := &publisher{
		qos: 1, burst: 3, expect: 1, limit: ^uint32(0), slots: make([]slot, 3),
		frames: []frame{newFrame("t", 1, 32, packet.V311, 1)},
	}
	send := func(n int) {
		t.Helper()
		for range n {
			if _, ok := p.take(nil, 1); !ok {
				t.Fatal("a message does not leave though the burst may")
			}
		}
	}
	through := func(seq uint32) { // delivered and acknowledged
		p.arrived(seq)
		p.slots[seq%3].state.Add(^uint64(0))
	}
	if !p.clear() {
		t.Fatal("nothing is in flight, and the first burst may not leave")
	}
	send(3)
	for _, seq := range []uint32{1, 0} {
		if through(seq); p.clear() {
			t.Fatalf("the next burst may leave before the last is through")
		}
	}
	if through(2); !p.clear() {
		t.Fatal("all is through, and the next burst may not leave")
	}
	send(3) // goes round the end of the ring
	if p.clear() {
		t.Fatal("another burst may leave at once")
	}
	p.slots = p.slots[:2] // as a broker asks for that takes fewer at a time
	p.slots[0].state.Store(0)
	p.slots[1].state.Store(0)
	if !p.clear() {
		t.Fatal("a burst that is larger than the ring never leaves")
	}
}
