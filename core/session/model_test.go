package session

import (
	"math/rand/v2"
	"slices"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// world is a session with all that belongs to it: a store whose steps take a while, a
// connection that loses what is on its way when it is cut, and a client that keeps its state.
type world struct {
	t   *testing.T
	rng *rand.Rand
	s   *Session

	seq    durable.Seq
	qos    map[durable.Seq]packet.QoS // of what was published
	stored []entry                    // what the store has and is not done, in order
	ops    []func()                   // operations of the store on their way, in order
	epoch  int                        // counts connections: an answer for an earlier one is stale
	toThem []sending
	toUs   []sending

	// The client.
	receiveMax uint16
	unacked    int                       // PUBLISH packets that it has not answered
	delivered  []durable.Seq             // what reached its application, in order
	known      map[packet.ID]bool        // QoS 2 identifiers between PUBREC and PUBREL
	inUse      map[packet.ID]durable.Seq // identifiers that we use, by the message
}

type entry struct {
	seq durable.Seq
	qos packet.QoS
	id  packet.ID
}

type sending struct {
	kind packet.Type
	id   packet.ID
	qos  packet.QoS
	seq  durable.Seq
	dup  bool
}

func (w *world) op(f func()) { w.ops = append(w.ops, f) }

func (w *world) send(p sending) {
	if p.kind == packet.PUBLISH {
		if held, ok := w.inUse[p.id]; ok && held != p.seq {
			w.t.Fatalf("identifier %d is in use for %d and sent with %d", p.id, held, p.seq)
		}
		w.inUse[p.id] = p.seq
		w.unacked++
		if w.unacked > int(w.receiveMax) {
			w.t.Fatalf("%d PUBLISH packets in flight, the client takes %d", w.unacked, w.receiveMax)
		}
	}
	w.toThem = append(w.toThem, p)
}

func (w *world) publish() {
	qos := packet.QoS(1 + w.rng.IntN(2))
	o, id := w.s.Offer()
	if o == Refuse {
		return
	}
	w.seq++
	w.qos[w.seq] = qos
	seq, epoch := w.seq, w.epoch
	e := entry{seq: seq, qos: qos}
	if qos == 2 {
		e.id = id
	}
	w.s.Took(seq, qos, id)
	w.op(func() {
		w.stored = append(w.stored, e)
		if id != 0 && qos == 2 && epoch == w.epoch && w.s.Committed(id, seq) {
			w.send(sending{kind: packet.PUBLISH, id: id, qos: 2, seq: seq})
		}
	})
	if id != 0 && qos == 1 {
		w.send(sending{kind: packet.PUBLISH, id: id, qos: 1, seq: seq})
	}
	w.pump()
}

func (w *world) remove(seq durable.Seq) {
	w.op(func() { w.stored = slices.DeleteFunc(w.stored, func(e entry) bool { return e.seq == seq }) })
}

func (w *world) pump() {
	after, room, ok := w.s.NextRead()
	if !ok {
		return
	}
	epoch := w.epoch
	w.op(func() {
		var batch []entry
		last, more := after, false
		for _, e := range w.stored {
			if e.seq <= after {
				continue
			}
			if len(batch) == room {
				more = true
				break
			}
			batch, last = append(batch, e), e.seq
		}
		w.op(func() { w.arrived(epoch, batch, last, more) }) // read now, told later
	})
}

func (w *world) arrived(epoch int, batch []entry, last durable.Seq, more bool) {
	if epoch != w.epoch {
		return
	}
	whole := true
	for _, e := range batch {
		if whole = w.s.Room(); !whole {
			break
		}
		fresh := !w.s.Sent(e.seq)
		id, again, ok := w.s.Entry(&durable.Entry{Seq: e.seq, QoS: e.qos})
		if !ok {
			continue
		}
		if e.qos == 2 && fresh {
			w.op(func() {
				if epoch == w.epoch && w.s.Committed(id, e.seq) {
					w.send(sending{kind: packet.PUBLISH, id: id, qos: 2, seq: e.seq})
				}
			})
			continue
		}
		w.send(sending{kind: packet.PUBLISH, id: id, qos: e.qos, seq: e.seq, dup: again})
	}
	w.s.EndRead(last, more, whole)
	w.pump()
}

// step of the store.
func (w *world) commit() {
	if len(w.ops) > 0 {
		f := w.ops[0]
		w.ops = w.ops[1:]
		f()
	}
}

// them: the client takes one packet.
func (w *world) them() {
	if len(w.toThem) == 0 {
		return
	}
	p := w.toThem[0]
	w.toThem = w.toThem[1:]
	switch {
	case p.kind == packet.PUBREL:
		delete(w.known, p.id)
		w.toUs = append(w.toUs, sending{kind: packet.PUBCOMP, id: p.id})
	case p.qos == 1:
		w.delivered = append(w.delivered, p.seq)
		w.toUs = append(w.toUs, sending{kind: packet.PUBACK, id: p.id})
	default:
		if !w.known[p.id] {
			w.known[p.id] = true
			w.delivered = append(w.delivered, p.seq)
		}
		w.toUs = append(w.toUs, sending{kind: packet.PUBREC, id: p.id})
	}
}

// us: the session takes one packet of the client.
func (w *world) us() {
	if len(w.toUs) == 0 {
		return
	}
	p := w.toUs[0]
	w.toUs = w.toUs[1:]
	switch p.kind {
	case packet.PUBACK:
		if seq, ok := w.s.Puback(p.id); ok {
			w.answered(p.id)
			w.remove(seq)
		}
	case packet.PUBREC:
		seq, next := w.s.Pubrec(p.id, false)
		switch next {
		case CommitReceived:
			w.remove(seq)
			w.op(func() {
				if w.s.ReceivedCommitted(p.id) {
					w.send(sending{kind: packet.PUBREL, id: p.id})
				}
			})
		case SendRelease, UnknownID:
			w.send(sending{kind: packet.PUBREL, id: p.id})
		}
	case packet.PUBCOMP:
		if w.s.Pubcomp(p.id) {
			w.answered(p.id)
		}
	}
	w.pump()
}

func (w *world) answered(id packet.ID) {
	delete(w.inUse, id)
	w.unacked = max(0, w.unacked-1)
}

func (w *world) cut() {
	if w.s.Connected() {
		w.epoch++
		w.s.Disconnect()
		w.toThem, w.toUs = nil, nil
		return
	}
	w.epoch++
	w.unacked = 0
	w.receiveMax = uint16(1 + w.rng.IntN(8))
	w.s.Connect(w.receiveMax)
	w.s.Releases(func(id packet.ID) { w.send(sending{kind: packet.PUBREL, id: id}) })
	w.pump()
}

func (w *world) quiet() bool { return len(w.ops) == 0 && len(w.toThem) == 0 && len(w.toUs) == 0 }

func TestEverythingArrivesWhateverHappens(t *testing.T) {
	for seed := range uint64(3000) {
		w := &world{
			t: t, rng: rand.New(rand.NewPCG(seed, 1)), s: New(1, Limits{Window: 6, MaxQueued: 1000}),
			qos: map[durable.Seq]packet.QoS{}, known: map[packet.ID]bool{}, inUse: map[packet.ID]durable.Seq{},
		}
		for range 300 {
			switch n := w.rng.IntN(100); {
			case n < 20:
				w.publish()
			case n < 50:
				w.commit()
			case n < 72:
				w.them()
			case n < 94:
				w.us()
			case n < 97:
				w.cut()
			}
		}
		if !w.s.Connected() {
			w.cut()
		}
		for range 100_000 {
			if w.quiet() {
				break
			}
			w.commit()
			w.them()
			w.us()
		}
		if !w.quiet() || len(w.stored) > 0 || w.s.Pending() > 0 || w.s.InFlight() > 0 {
			t.Fatalf("seed %d: not drained: %d in the store, %d pending, %d in flight", seed, len(w.stored), w.s.Pending(), w.s.InFlight())
		}
		w.check(seed)
	}
}

// check compares what was delivered with what was published: QoS 1 at least once, QoS 2 exactly
// once, each in order of the first delivery.
func (w *world) check(seed uint64) {
	times := map[durable.Seq]int{}
	var last [3]durable.Seq
	for _, seq := range w.delivered {
		qos := w.qos[seq]
		if times[seq]++; times[seq] > 1 {
			if qos == 2 {
				w.t.Fatalf("seed %d: QoS 2 message %d is delivered %d times", seed, seq, times[seq])
			}
			continue
		}
		if seq < last[qos] {
			w.t.Fatalf("seed %d: QoS %d message %d comes after %d", seed, qos, seq, last[qos])
		}
		last[qos] = seq
	}
	for seq := range w.qos {
		if times[seq] == 0 {
			w.t.Fatalf("seed %d: message %d is lost", seed, seq)
		}
	}
}
