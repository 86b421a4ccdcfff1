package session

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// world is a session with all that belongs to it: a store that commits in groups, fails and
// loses what it had not committed, a connection that loses what is on its way when it is cut,
// and a client that keeps its state.
type world struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	s    *Session

	seq   durable.Seq
	qos   map[durable.Seq]packet.QoS // of what was published and is on disk
	mem   stored                     // as the store knows it
	disk  stored                     // as a crash leaves it
	txn   []step                     // since the last commit
	later []func()                   // answers of reads on their way
	epoch int                        // counts connections: an answer for an earlier one is stale

	toThem []sending
	toUs   []sending
	sentAs map[durable.Seq]packet.ID // the identifier with which a message has left
	again  bool                      // messages were overdue: the client speaks MQTT 3
	gone   map[durable.Seq]bool      // dropped to make room
	back   map[durable.Seq]bool      // dropped to make room, which a crash has undone

	// The client.
	receiveMax uint16
	open       map[packet.ID]bool        // PUBLISH packets of this connection that it has not answered
	delivered  []durable.Seq             // what reached its application, in order
	known      map[packet.ID]durable.Seq // QoS 2 between PUBREC and PUBREL
	inUse      map[packet.ID]durable.Seq // identifiers that we use, by the message
}

// stored is the queue of the session in the store.
type stored struct {
	queue    []entry // what is not done, in order
	outgoing []durable.Outgoing
}

func (s *stored) clone() stored {
	return stored{queue: slices.Clone(s.queue), outgoing: slices.Clone(s.outgoing)}
}

func (s *stored) forget(match func(durable.Outgoing) bool) {
	s.outgoing = slices.DeleteFunc(s.outgoing, match)
}

func (s *stored) remove(seq durable.Seq) {
	s.queue = slices.DeleteFunc(s.queue, func(e entry) bool { return e.seq == seq })
	s.forget(func(o durable.Outgoing) bool { return !o.Received && o.Seq == seq })
}

func (s *stored) sent(seq durable.Seq, id packet.ID) {
	s.forget(func(o durable.Outgoing) bool { return o.ID == id || !o.Received && o.Seq == seq })
	s.outgoing = append(s.outgoing, durable.Outgoing{ID: id, Seq: seq})
}

type entry struct {
	seq durable.Seq
	qos packet.QoS
}

// step is an operation of a transaction: what its completion does, and for a message what takes
// it back when the commit fails.
type step struct {
	done   func(failed bool)
	revoke func()
}

type sending struct {
	kind packet.Type
	id   packet.ID
	qos  packet.QoS
	seq  durable.Seq
	dup  bool
}

func (w *world) op(done func(failed bool)) { w.txn = append(w.txn, step{done: done}) }

func (w *world) send(p sending) {
	if p.kind == packet.PUBLISH {
		if held, ok := w.inUse[p.id]; ok && held != p.seq {
			w.t.Fatalf("seed %d: identifier %d is in use for %d and sent with %d", w.seed, p.id, held, p.seq)
		}
		w.inUse[p.id] = p.seq
		if w.gone[p.seq] {
			w.t.Fatalf("seed %d: message %d leaves, which was dropped", w.seed, p.seq)
		}
		if _, before := w.sentAs[p.seq]; before != p.dup {
			w.t.Fatalf("seed %d: message %d, sent before %v, leaves with DUP %v", w.seed, p.seq, before, p.dup)
		}
		w.sentAs[p.seq] = p.id
		if p.qos == 2 && !slices.Contains(w.disk.outgoing, durable.Outgoing{ID: p.id, Seq: p.seq}) {
			w.t.Fatalf("seed %d: message %d leaves before its identifier %d is on disk", w.seed, p.seq, p.id)
		}
		w.open[p.id] = true
		if len(w.open) > int(w.receiveMax) && !w.again {
			w.t.Fatalf("seed %d: %d PUBLISH packets in flight, the client takes %d", w.seed, len(w.open), w.receiveMax)
		}
	}
	if p.kind == packet.PUBREL && slices.ContainsFunc(w.disk.outgoing, func(o durable.Outgoing) bool { return o.ID == p.id && !o.Received }) {
		w.t.Fatalf("seed %d: PUBREL %d leaves before its PUBREC is on disk", w.seed, p.id)
	}
	w.toThem = append(w.toThem, p)
}

func (w *world) publish() {
	qos := packet.QoS(1 + w.rng.IntN(2))
	o, id := w.s.Offer(w.rng.IntN(8) > 0)
	if o == Refuse {
		return
	}
	w.seq++
	seq, epoch := w.seq, w.epoch
	w.mem.queue = append(w.mem.queue, entry{seq: seq, qos: qos})
	if id != 0 && qos == 2 {
		w.mem.sent(seq, id)
	}
	w.s.Took(seq, qos, id)
	w.txn = append(w.txn, step{
		revoke: func() { w.mem.remove(seq) },
		done: func(failed bool) {
			switch {
			case failed && id != 0:
				w.s.Abort(id, seq)
				delete(w.inUse, id)
				w.pump()
			case failed:
				w.s.Lost(seq)
				w.pump()
			default:
				w.qos[seq] = qos
				if id != 0 && qos == 2 && epoch == w.epoch && w.s.Committed(id, seq) {
					w.send(sending{kind: packet.PUBLISH, id: id, qos: 2, seq: seq})
				}
			}
		},
	})
	if id != 0 && qos == 1 {
		w.send(sending{kind: packet.PUBLISH, id: id, qos: 1, seq: seq})
	}
	w.pump()
}

func (w *world) pump() {
	after, room, ok := w.s.NextRead()
	if !ok {
		return
	}
	epoch := w.epoch
	w.op(func(bool) { // sees everything before it; also when that has failed
		var batch []entry
		last, more := after, false
		for _, e := range w.mem.queue {
			if e.seq <= after || !w.committed(e.seq) {
				continue
			}
			if len(batch) == room {
				more = true
				break
			}
			batch, last = append(batch, e), e.seq
		}
		w.later = append(w.later, func() { w.arrived(epoch, batch, last, more) })
	})
}

// drop makes room in the queue.
func (w *world) drop() {
	var oldest []durable.Seq
	most := 1 + w.rng.IntN(3)
	for _, e := range w.mem.queue {
		if e.seq > w.s.NeverSent() && len(oldest) < most {
			oldest = append(oldest, e.seq)
		}
	}
	if len(oldest) == 0 {
		return
	}
	for _, seq := range oldest {
		if _, sent := w.sentAs[seq]; sent {
			w.t.Fatalf("seed %d: message %d was sent and is dropped", w.seed, seq)
		}
		w.gone[seq] = true
		w.mem.remove(seq)
	}
	w.s.Dropped(len(oldest), oldest[len(oldest)-1])
}

// overdue sends again what the client has not acknowledged on this connection.
func (w *world) overdue() {
	if !w.s.Connected() {
		return
	}
	w.again = true
	w.s.Overdue(100, 1,
		func(id packet.ID) { w.t.Fatalf("seed %d: %d is to be sent from memory", w.seed, id) },
		func(id packet.ID) { w.send(sending{kind: packet.PUBREL, id: id}) })
	w.pump()
}

func (w *world) committed(seq durable.Seq) bool {
	return slices.ContainsFunc(w.disk.queue, func(e entry) bool { return e.seq == seq })
}

func (w *world) arrived(epoch int, batch []entry, last durable.Seq, more bool) {
	if epoch != w.epoch {
		return
	}
	whole := true
	for _, e := range batch {
		id, what := w.s.Entry(&durable.Entry{Seq: e.seq, QoS: e.qos})
		if what == Full {
			whole = false
			break
		}
		switch what {
		case Commit:
			w.mem.sent(e.seq, id)
			w.op(func(failed bool) {
				switch {
				case epoch != w.epoch:
				case failed:
					w.cut()
				case w.s.Committed(id, e.seq):
					w.send(sending{kind: packet.PUBLISH, id: id, qos: 2, seq: e.seq})
				}
			})
		case Send, Resend:
			w.send(sending{kind: packet.PUBLISH, id: id, qos: e.qos, seq: e.seq, dup: what == Resend})
		}
	}
	w.s.EndRead(last, more, whole)
	w.pump()
}

// commit ends the transaction.
func (w *world) commit(fail bool) {
	steps := w.txn
	w.txn = nil
	if fail {
		for _, s := range slices.Backward(steps) {
			if s.revoke != nil {
				s.revoke()
			}
		}
	} else {
		w.disk = w.mem.clone()
	}
	for _, s := range steps {
		s.done(fail)
	}
}

// answer lets one read arrive.
func (w *world) answer() {
	if len(w.later) > 0 {
		f := w.later[0]
		w.later = w.later[1:]
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
		w.toUs = append(w.toUs, sending{kind: packet.PUBACK, id: p.id, seq: p.seq})
	default:
		if held, ok := w.known[p.id]; !ok {
			w.known[p.id] = p.seq
			w.delivered = append(w.delivered, p.seq)
		} else if held != p.seq {
			w.t.Fatalf("seed %d: the client holds %d under %d and gets %d: it takes it for a repetition", w.seed, held, p.id, p.seq)
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
		if held, ok := w.inUse[p.id]; ok && held != p.seq {
			return // late, and the identifier has another message by now: no client does that
		}
		if seq, ok := w.s.Puback(p.id); ok {
			w.answered(p.id)
			w.mem.remove(seq)
		}
	case packet.PUBREC:
		seq, next := w.s.Pubrec(p.id, false)
		switch next {
		case CommitReceived:
			w.received(seq, p.id)
		case SendRelease, UnknownID:
			w.send(sending{kind: packet.PUBREL, id: p.id})
		}
	case packet.PUBCOMP:
		if w.s.Pubcomp(p.id) {
			w.answered(p.id)
			w.mem.forget(func(o durable.Outgoing) bool { return o.ID == p.id })
		}
	}
	w.pump()
}

func (w *world) received(seq durable.Seq, id packet.ID) {
	w.mem.forget(func(o durable.Outgoing) bool { return o.ID == id })
	w.mem.outgoing = append(w.mem.outgoing, durable.Outgoing{ID: id, Received: true})
	w.mem.remove(seq)
	w.op(func(failed bool) {
		switch {
		case failed:
			w.s.Unreceived(id)
			if w.s.Connected() {
				w.cut()
			}
		case w.s.ReceivedCommitted(id):
			w.send(sending{kind: packet.PUBREL, id: id})
		}
	})
}

func (w *world) answered(id packet.ID) {
	delete(w.inUse, id)
	delete(w.open, id)
}

// cut ends the connection, or begins one.
func (w *world) cut() {
	w.epoch++
	if w.s.Connected() {
		w.s.Disconnect()
		w.toThem, w.toUs = nil, nil
		return
	}
	clear(w.open)
	w.receiveMax = uint16(1 + w.rng.IntN(8))
	if w.rng.IntN(2) == 0 { // the client acknowledges what it had from the connection before
		for _, seq := range w.delivered[max(0, len(w.delivered)-3):] {
			if id := w.sentAs[seq]; w.qos[seq] == 1 && w.inUse[id] == seq {
				w.toUs = append(w.toUs, sending{kind: packet.PUBACK, id: id, seq: seq})
			}
		}
	}
	for id, seq := range w.inUse {
		if _, begun := w.qos[seq]; !begun && !slices.ContainsFunc(w.mem.queue, func(e entry) bool { return e.seq == seq }) {
			delete(w.inUse, id) // was never stored, and is forgotten with the connection
		}
	}
	w.s.Connect(w.receiveMax)
	w.s.Releases(
		func(id packet.ID) { w.send(sending{kind: packet.PUBREL, id: id}) },
		func(id packet.ID) { w.received(0, id) })
	w.pump()
}

// crash loses what is not on disk, the connection, and what the session had in memory.
func (w *world) crash() {
	if w.s.Connected() {
		w.cut()
	}
	w.epoch++
	w.txn, w.later = nil, nil
	w.mem = w.disk.clone()
	for _, e := range w.mem.queue {
		if w.gone[e.seq] { // that it was dropped is lost as well
			delete(w.gone, e.seq)
			w.back[e.seq] = true
		}
	}
	r := &durable.Restored{
		Session:  durable.Session{Number: 1},
		Pending:  len(w.mem.queue),
		Floor:    w.seq,
		Outgoing: slices.Clone(w.mem.outgoing),
	}
	if len(w.mem.queue) > 0 {
		r.Floor = w.mem.queue[0].seq - 1
	}
	w.s = Restore(r, &limits)
	// At QoS 1 identifiers are not stored; at QoS 2 they are, and DUP is set since it may have left.
	w.inUse = map[packet.ID]durable.Seq{}
	w.sentAs = map[durable.Seq]packet.ID{}
	for _, o := range w.mem.outgoing {
		if !o.Received {
			w.inUse[o.ID], w.sentAs[o.Seq] = o.Seq, o.ID
		}
	}
}

func (w *world) quiet() bool {
	return len(w.txn) == 0 && len(w.later) == 0 && len(w.toThem) == 0 && len(w.toUs) == 0
}

var limits = Limits{Window: 6, MaxQueued: 1000}

func TestEverythingArrivesWhateverHappens(t *testing.T) {
	seeds := uint64(6000)
	if testing.Short() {
		seeds = 500
	}
	for seed := range seeds {
		w := &world{
			t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), s: New(1, &limits),
			qos: map[durable.Seq]packet.QoS{}, sentAs: map[durable.Seq]packet.ID{},
			known: map[packet.ID]durable.Seq{}, inUse: map[packet.ID]durable.Seq{}, gone: map[durable.Seq]bool{}, back: map[durable.Seq]bool{},
			open: map[packet.ID]bool{},
		}
		for range 300 {
			switch n := w.rng.IntN(100); {
			case n < 20:
				w.publish()
			case n < 37:
				w.commit(seed%3 == 0 && w.rng.IntN(8) == 0)
			case n < 50:
				w.answer()
			case n < 72:
				w.them()
			case n < 94:
				w.us()
			case n < 97:
				w.cut()
			case n < 98 && seed%5 == 0:
				w.drop()
			case n < 98 && seed%5 == 1:
				w.overdue()
			case n < 99 && seed%2 == 0:
				w.crash()
			}
			if p := w.s.Pending(); p != len(w.mem.queue) {
				t.Fatalf("seed %d: %d are pending, the store has %d", seed, p, len(w.mem.queue))
			}
		}
		for range 100_000 {
			if !w.s.Connected() {
				w.cut()
			}
			if w.quiet() {
				break
			}
			w.commit(false)
			w.answer()
			w.them()
			w.us()
		}
		if !w.quiet() || len(w.mem.queue) > 0 || len(w.mem.outgoing) > 0 || w.s.Pending() > 0 || w.s.InFlight() > 0 {
			t.Fatalf("seed %d: not drained: %d in the store, %d pending, %d in flight", seed, len(w.mem.queue), w.s.Pending(), w.s.InFlight())
		}
		w.check()
	}
}

// check compares what was delivered with what was published: QoS 1 at least once, QoS 2 exactly
// once, each in order of the first delivery.
func (w *world) check() {
	times := map[durable.Seq]int{}
	var last [3]durable.Seq
	for _, seq := range w.delivered {
		qos, ok := w.qos[seq]
		if !ok {
			continue // sent at QoS 1 before its commit, which failed
		}
		if times[seq]++; times[seq] > 1 {
			if qos == 2 {
				w.t.Fatalf("seed %d: QoS 2 message %d is delivered %d times", w.seed, seq, times[seq])
			}
			continue
		}
		if w.back[seq] {
			continue // others have overtaken it
		}
		if seq < last[qos] {
			w.t.Fatalf("seed %d: QoS %d message %d comes after %d", w.seed, qos, seq, last[qos])
		}
		last[qos] = seq
	}
	for _, seq := range slices.Sorted(maps.Keys(w.qos)) {
		if times[seq] == 0 && !w.gone[seq] {
			w.t.Fatalf("seed %d: message %d is lost", w.seed, seq)
		}
	}
}
