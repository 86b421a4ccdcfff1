package sessionstore

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

var seeds = flag.Int("seeds", 200, "runs of each model test")

// model is what a store should hold, written down plainly.
type model struct {
	Seq      durable.Seq
	Numbered durable.SessionNumber
	Sessions map[durable.SessionNumber]*modelSession
	Total    Counts
	Retained map[string]string
	Delayed  map[durable.Seq]string
}

type modelSession struct {
	Record   string
	Queue    []modelEntry
	Outgoing []durable.Outgoing
	Incoming []packet.ID
	Counts   Counts
}

type modelEntry struct {
	Seq  durable.Seq
	Text string
	QoS  packet.QoS
}

func newModel() *model {
	return &model{Sessions: map[durable.SessionNumber]*modelSession{}, Retained: map[string]string{}, Delayed: map[durable.Seq]string{}}
}

func (m *model) clone() *model {
	c := *m
	c.Retained, c.Delayed = maps.Clone(m.Retained), maps.Clone(m.Delayed)
	c.Sessions = map[durable.SessionNumber]*modelSession{}
	for n, q := range m.Sessions {
		d := *q
		d.Queue, d.Outgoing, d.Incoming = slices.Clone(q.Queue), slices.Clone(q.Outgoing), slices.Clone(q.Incoming)
		c.Sessions[n] = &d
	}
	return &c
}

// op is one call: on the store with a token, and on the model.
type op struct {
	name  string
	store func(b *bench, k durable.Token)
	model func(m *model)
	// revoked is what the model does if the call was answered with an error; nil = the same.
	revoked func(m *model)
	token   bool
}

func (q *modelSession) finish(s durable.Seq, o durable.Outcome) {
	i := slices.IndexFunc(q.Queue, func(e modelEntry) bool { return e.Seq == s })
	if i < 0 {
		return
	}
	q.Queue = slices.Delete(q.Queue, i, i+1)
	q.Outgoing = slices.DeleteFunc(q.Outgoing, func(o durable.Outgoing) bool { return !o.Received && o.Seq == s })
	q.Counts.Left[o]++
}

// size is what a queue is charged for an entry.
func (e *modelEntry) size() int64 { return int64(note(e.Text).Size()) }

func (q *modelSession) bytes() (n int64) {
	for i := range q.Queue {
		n += q.Queue[i].size()
	}
	return n
}

func (q *modelSession) dropOldest(after durable.Seq, messages int, bytes int64) {
	var dropped []durable.Seq
	for i := range q.Queue {
		if e := &q.Queue[i]; e.Seq > after && (len(dropped) < messages || bytes > 0) {
			dropped = append(dropped, e.Seq)
			bytes -= e.size()
		}
	}
	if len(dropped) < messages || bytes > 0 {
		return
	}
	for _, s := range dropped {
		q.finish(s, durable.DroppedFull)
	}
}

// script invents calls that a broker could make in state m.
type script struct {
	r *rand.Rand
	// apart keeps retained topics that somebody is told about and others apart, and makes every
	// message one somebody is told about.
	apart bool
}

func (g *script) session(m *model) durable.SessionNumber {
	all := slices.Sorted(maps.Keys(m.Sessions))
	if len(all) == 0 {
		return 0
	}
	return all[g.r.IntN(len(all))]
}

// pick returns an entry of a queue, more often from its head.
func (g *script) pick(q *modelSession) (e modelEntry, found bool) {
	if len(q.Queue) == 0 {
		return e, false
	}
	if g.r.IntN(3) > 0 {
		return q.Queue[0], true
	}
	return q.Queue[g.r.IntN(len(q.Queue))], true
}

func (q *modelSession) freeID() packet.ID {
	for id := packet.ID(1); ; id++ {
		if !slices.ContainsFunc(q.Outgoing, func(o durable.Outgoing) bool { return o.ID == id }) {
			return id
		}
	}
}

func (g *script) next(m *model) op {
	r := g.r
	n := g.session(m)
	q := m.Sessions[n]
	switch x := r.IntN(100); {
	case q == nil || x < 4 && len(m.Sessions) < 6:
		return op{"new session", func(b *bench, k durable.Token) {
			b.PutSession(&durable.Session{Number: b.NextSession(), ClientID: "new"}, k)
		}, func(m *model) {
			m.Numbered++
			m.Sessions[m.Numbered] = &modelSession{Record: "new"}
		}, nil, r.IntN(2) == 0}
	case x < 8:
		name := fmt.Sprint("record ", r.Uint32())
		return op{"put session", func(b *bench, k durable.Token) {
			b.PutSession(&durable.Session{Number: n, ClientID: name}, k)
		}, func(m *model) { m.Sessions[n].Record = name }, nil, r.IntN(2) == 0}
	case x < 10:
		return op{"end session", func(b *bench, k durable.Token) { b.EndSession(n, k) }, func(m *model) {
			q := m.Sessions[n]
			q.Counts.Left[durable.DroppedEnded] += uint64(len(q.Queue))
			m.Total.Add(&q.Counts)
			delete(m.Sessions, n)
		}, nil, r.IntN(2) == 0}
	case x < 15:
		return g.retain()
	case x < 18 && !g.apart: // a failed commit would have changed what there was to drop
		after, messages, bytes := durable.Seq(0), 1+r.IntN(3), r.Int64N(600)
		if e, found := g.pick(q); found {
			after = e.Seq
		}
		return op{"drop oldest", func(b *bench, k durable.Token) { b.DropOldest(n, after, messages, bytes) }, func(m *model) {
			m.Sessions[n].dropOldest(after, messages, bytes)
		}, nil, false}
	case x < 22:
		return g.delay(m)
	case x < 26 && !g.apart: // as before: only what is on disk may be moved
		if e, found := g.pick(q); found {
			return g.move(m, n, e)
		}
	case x < 50:
		return g.append(m)
	case x < 80:
		if e, found := g.pick(q); found {
			o := durable.Delivered
			if r.IntN(4) == 0 {
				o = durable.Outcome(1 + r.IntN(outcomes-1))
			}
			return op{
				"done", func(b *bench, k durable.Token) { b.Done(n, e.Seq, o) },
				func(m *model) { m.Sessions[n].finish(e.Seq, o) }, nil, false,
			}
		}
	case x < 86:
		if e, found := g.pick(q); found && e.QoS == 2 {
			id := q.freeID()
			return op{"sent", func(b *bench, k durable.Token) { b.Sent(n, e.Seq, id, k) }, func(m *model) {
				q := m.Sessions[n]
				if slices.ContainsFunc(q.Queue, func(f modelEntry) bool { return f.Seq == e.Seq }) {
					q.Outgoing = slices.DeleteFunc(q.Outgoing, func(o durable.Outgoing) bool { return !o.Received && o.Seq == e.Seq })
					q.Outgoing = append(q.Outgoing, durable.Outgoing{ID: id, Seq: e.Seq})
				}
			}, nil, true}
		}
	case x < 94:
		if len(q.Outgoing) > 0 {
			o := q.Outgoing[r.IntN(len(q.Outgoing))]
			if o.Received {
				return op{"completed", func(b *bench, k durable.Token) { b.Completed(n, o.ID) }, func(m *model) {
					q := m.Sessions[n]
					q.Outgoing = slices.DeleteFunc(q.Outgoing, func(p durable.Outgoing) bool { return p.ID == o.ID })
				}, nil, false}
			}
			return op{"received", func(b *bench, k durable.Token) { b.Received(n, o.Seq, o.ID, k) }, func(m *model) {
				q := m.Sessions[n]
				i := slices.IndexFunc(q.Outgoing, func(p durable.Outgoing) bool { return p.ID == o.ID })
				done := durable.Outgoing{ID: o.ID, Received: true}
				if i < 0 {
					q.Outgoing = append(q.Outgoing, done)
				} else {
					q.Outgoing[i] = done
				}
				q.finish(o.Seq, durable.Delivered)
			}, nil, true}
		}
	case len(q.Incoming) > 0:
		id := q.Incoming[r.IntN(len(q.Incoming))]
		return op{"release", func(b *bench, k durable.Token) { b.Release(n, id, k) }, func(m *model) {
			q := m.Sessions[n]
			q.Incoming = slices.DeleteFunc(q.Incoming, func(i packet.ID) bool { return i == id })
		}, nil, true}
	}
	return g.append(m)
}

func (g *script) retain() op {
	told := g.r.IntN(2) == 0
	topic, text := fmt.Sprint("t", g.r.IntN(4)), fmt.Sprint(g.r.Uint32())
	if g.apart {
		topic += fmt.Sprint(told)
	}
	if g.r.IntN(4) == 0 {
		text = ""
	}
	return op{"retain", func(b *bench, k durable.Token) {
		b.Append(durable.Append{Message: &message.Message{Topic: topic, Payload: []byte(text)}, Retained: true, Lazy: !told}, k)
	}, func(m *model) {
		m.Seq++
		m.Retained[topic] = text
		if text == "" {
			delete(m.Retained, topic)
		}
	}, func(m *model) { m.Seq++ }, told}
}

func (g *script) delay(m *model) op {
	d := durable.Delayed{Message: note(fmt.Sprint(g.r.Uint32())), Delay: g.r.Uint32()}
	if g.r.IntN(2) == 0 {
		d.Publisher, d.PublisherID = g.session(m), packet.ID(1+g.r.IntN(5))
	}
	return op{"delay", func(b *bench, k durable.Token) { b.Delay(d, k) }, func(m *model) {
		m.Seq++
		m.Delayed[m.Seq] = fmt.Sprint(d.Delay, " ", string(d.Message.Payload))
		m.arrive(d.Publisher, d.PublisherID)
	}, func(m *model) { m.Seq++ }, g.apart || g.r.IntN(3) > 0}
}

// arrive notes the identifier of a message from a client.
func (m *model) arrive(n durable.SessionNumber, id packet.ID) {
	if q := m.Sessions[n]; q != nil && id != 0 && !slices.Contains(q.Incoming, id) {
		q.Incoming = append(q.Incoming, id)
	}
}

func (g *script) append(m *model) op {
	r := g.r
	to := map[durable.SessionNumber]durable.Receiver{}
	for range 1 + r.IntN(3) {
		n := g.session(m)
		if n == 0 {
			break
		}
		e := durable.Receiver{Session: n, QoS: packet.QoS(1 + r.IntN(2)), Retain: r.IntN(2) == 0}
		if e.QoS == 2 && r.IntN(2) == 0 {
			e.PacketID = m.Sessions[n].freeID()
		}
		if r.IntN(3) == 0 {
			e.SubscriptionIDs = []uint32{r.Uint32N(1000) + 1, 5}
		}
		to[n] = e
	}
	a := durable.Append{Message: note(fmt.Sprint(r.Uint32(), string(make([]byte, r.IntN(300)))))}
	for _, e := range to {
		a.Receivers = append(a.Receivers, e) // in random order
	}
	if r.IntN(3) == 0 {
		a.Publisher, a.PublisherID = g.session(m), packet.ID(1+r.IntN(5))
	}
	if waiting := slices.Sorted(maps.Keys(m.Delayed)); len(waiting) > 0 && r.IntN(3) == 0 {
		a.Delayed = waiting[r.IntN(len(waiting))]
		if r.IntN(3) == 0 {
			a.Receivers, to = nil, nil // it has expired, or nobody gets it
		}
	}
	return op{"append", func(b *bench, k durable.Token) { b.Append(a, k) }, func(m *model) {
		m.Seq++
		for n, e := range to {
			q := m.Sessions[n]
			q.Queue = append(q.Queue, modelEntry{m.Seq, string(a.Message.Payload), e.QoS})
			q.Counts.Accepted++
			if e.PacketID != 0 {
				q.Outgoing = append(q.Outgoing, durable.Outgoing{ID: e.PacketID, Seq: m.Seq})
			}
		}
		delete(m.Delayed, a.Delayed)
		m.arrive(a.Publisher, a.PublisherID)
	}, func(m *model) { m.Seq++ }, g.apart || r.IntN(3) > 0}
}

// move gives an entry to another session, which gets it behind what it has.
func (g *script) move(m *model, n durable.SessionNumber, e modelEntry) op {
	to := g.session(m)
	if to == n || slices.ContainsFunc(m.Sessions[n].Outgoing, func(o durable.Outgoing) bool { return o.Seq == e.Seq }) {
		return g.append(m)
	}
	a := durable.Append{Message: note(e.Text), From: n, FromSeq: e.Seq, Receivers: []durable.Receiver{{Session: to, QoS: 1, Share: "$share/g/t"}}}
	return op{"move", func(b *bench, k durable.Token) { b.Append(a, k) }, func(m *model) {
		m.Seq++
		m.Sessions[n].finish(e.Seq, durable.Moved)
		q := m.Sessions[to]
		q.Queue = append(q.Queue, modelEntry{m.Seq, e.Text, 1})
		q.Counts.Accepted++
	}, nil, g.r.IntN(3) > 0}
}

// dump reads a store into a model.
func dump(t *testing.T, s *Store) *model {
	t.Helper()
	m := newModel()
	m.Seq, m.Numbered, m.Total = s.seq, s.numbered, s.total
	for _, r := range s.Sessions() {
		n := r.Session.Number
		q := s.sessions[n]
		d := &modelSession{Record: r.Session.ClientID, Outgoing: r.Outgoing, Incoming: r.Incoming, Counts: q.ledger}
		for seq := range q.queue.Behind(0) {
			err := s.file.View(func(tx *boltTx) error {
				e, ok := s.fetchOne(tx, n, seq)
				if !ok {
					return fmt.Errorf("message %d of session %d cannot be read", seq, n)
				}
				d.Queue = append(d.Queue, modelEntry{seq, string(e.Message.Payload), e.QoS})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if d.bytes() != r.Bytes {
			t.Fatalf("restored %d bytes of a queue of %d", r.Bytes, d.bytes())
		}
		if len(d.Queue) != r.Pending || len(d.Queue) > 0 && r.Floor != d.Queue[0].Seq-1 {
			t.Fatalf("restored %+v with queue %v", r, d.Queue)
		}
		m.Sessions[n] = d
	}
	for _, d := range s.Delayed() {
		m.Delayed[d.Seq] = fmt.Sprint(d.Delay, " ", string(d.Message.Payload))
	}
	for msg := range s.Retained() {
		m.Retained[msg.Topic] = string(msg.Payload)
	}
	return m
}

func (m *model) normal() *model {
	for _, q := range m.Sessions {
		if len(q.Queue) == 0 {
			q.Queue = nil
		}
		if len(q.Outgoing) == 0 {
			q.Outgoing = nil
		}
		if len(q.Incoming) == 0 {
			q.Incoming = nil
		}
	}
	return m
}

// After a crash at any commit the store holds exactly what it held at some call, not before the
// last one that was answered.
func TestACrashLeavesAStateThatWasTrue(t *testing.T) {
	for seed := range uint64(*seeds) {
		if !crashes(t, seed, 150) {
			t.Fatalf("seed %d", seed)
		}
	}
	for seed := range uint64(*seeds / 100) { // long enough for sweeping
		if !crashes(t, 1<<32+seed, 5000) {
			t.Fatalf("long seed %d", seed)
		}
	}
}

func crashes(t *testing.T, seed uint64, calls int) bool {
	r := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "sessions.db")
	at := newModel() // what the file holds
	for range 3 {
		base := at.clone()
		s, err := Open(path, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		s.Sessions()
		b := &bench{Store: s, a: newAnswers(), t: t, path: path}

		// The file is copied between two transactions, on the writer's goroutine.
		var copied string
		var low, high int // calls that must and that may be in the copy
		var issued atomic.Int64
		answered, commits, stop := 0, 0, r.IntN(calls/5)
		b.a.onDone = func(done []durable.Completion) {
			for _, c := range done {
				if c.Err != nil {
					t.Errorf("seed %d: operation %d: %v", seed, c.Token, c.Err)
				}
				answered = max(answered, int(c.Token))
			}
			if commits++; commits == stop {
				copied, low, high = copyFile(t, path), answered, int(issued.Load())
			}
		}
		b.Start(b.a)

		g := script{r: r}
		now := at.clone()
		var ops []op
		var last durable.Token
		for range 20 + r.IntN(calls) {
			o := g.next(now)
			ops = append(ops, o)
			issued.Store(int64(len(ops)))
			k := durable.Token(0)
			if o.token {
				k = durable.Token(len(ops))
				last = k
			}
			o.store(b, k)
			o.model(now)
			if n := g.session(now); n != 0 {
				q := now.Sessions[n]
				if messages, bytes := b.Queued(n); messages != len(q.Queue) || bytes != q.bytes() {
					t.Errorf("seed %d: after %s session %d has %d messages queued of %d bytes, want %d of %d",
						seed, o.name, n, messages, bytes, len(q.Queue), q.bytes())
					return false
				}
			}
			switch r.IntN(8) {
			case 0, 1:
				b.Flush()
			case 2:
				b.Flush()
				if last != 0 {
					b.a.wait(t, last)
				}
			case 3:
				if n := g.session(now); n != 0 && !b.agrees(t, r, now, n, 1<<32+durable.Token(len(ops))) {
					return false
				}
			}
		}
		if err := b.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if l := b.Ledger(); l.Accepted != l.Gone()+l.Pending {
			t.Errorf("ledger %+v", l)
		}
		if copied == "" {
			copied, low, high = path, len(ops), len(ops)
		}
		if s, err = Open(copied, testOptions()); err != nil {
			t.Fatal(err)
		}
		got := dump(t, s).normal()
		s.Close(context.Background())
		at = base
		var want *model
		for i := range high + 1 {
			if i >= low && i < len(ops) && ops[i].name == "new session" && got.Numbered == at.Numbered+1 {
				at.Numbered++ // between the two calls that make a session
				if cmp.Equal(at.normal(), got) {
					want = at
					break
				}
				at.Numbered--
			}
			if i >= low && cmp.Equal(at.normal(), got) {
				want = at
				break
			}
			if i == low {
				want = at.clone()
			}
			if i < high {
				ops[i].model(at)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the file holds no state between calls %d and %d; compared with the first (-want +got):\n%s", low, high, diff)
			return false
		}
		at, path = want, copied
	}
	return true
}

// agrees reads from the queue of n and compares.
func (b *bench) agrees(t *testing.T, r *rand.Rand, now *model, n durable.SessionNumber, k durable.Token) bool {
	queue := now.Sessions[n].Queue
	from := 0
	after := durable.Seq(0)
	if len(queue) > 0 && r.IntN(2) == 0 {
		from = r.IntN(len(queue))
		after = queue[from].Seq
		from++
	}
	limit := 1 + r.IntN(10)
	b.Store.Read(n, after, limit, 1<<20, k)
	b.Flush()
	got := b.a.arrived(t, k)
	var entries []modelEntry
	for _, e := range got.Entries {
		entries = append(entries, modelEntry{e.Seq, string(e.Message.Payload), e.QoS})
		var id packet.ID
		for _, o := range now.Sessions[n].Outgoing {
			if !o.Received && o.Seq == e.Seq {
				id = o.ID
			}
		}
		if e.PacketID != id {
			t.Errorf("message %d has packet id %d, want %d", e.Seq, e.PacketID, id)
			return false
		}
	}
	want := queue[from:min(from+limit, len(queue))]
	if !slices.Equal(entries, want) || got.More != (from+limit < len(queue)) || got.Err != nil {
		t.Errorf("read behind %d, at most %d: got %v, more %v, %v; want %v of %v", after, limit, entries, got.More, got.Err, want, queue)
		return false
	}
	return true
}
