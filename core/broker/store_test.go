package broker

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// fakeStore is a Store in memory whose commits the test decides on: it can hold them back and
// fail them. Like the real one it knows the state of sessions from the call on, whatever becomes
// of the commit; messages of a failed commit are as if they had never been handed over.
type fakeStore struct {
	mu       sync.Mutex
	c        durable.Completer
	seq      durable.Seq
	number   durable.SessionNumber
	records  []*record
	sessions map[durable.SessionNumber]*durable.Session // as committed
	outgoing map[durable.SessionNumber][]durable.Outgoing
	incoming map[durable.SessionNumber][]packet.ID
	delayed  []*waitingRecord
	waiting  []operation // not committed, in order
	reads    []*fakeRead
	held     bool // commits wait for release
	full     bool // Append takes nothing
	state    durable.StoreState
	pressure int64 // until something is evicted
	outcomes map[durable.Outcome]int
	commits  int // that were asked for by somebody who waits
	lookups  int // calls of Queued
	together bool
	ties     int  // calls of Together(true)
	lingers  bool // the last message may
	sync     bool // the last message is to be
}

type record struct {
	seq durable.Seq
	m   *message.Message
	to  []durable.Receiver // still open
	ok  bool               // committed
	// leaving are those from whom it is being moved away, which is not committed.
	leaving []durable.Receiver
}

// waitingRecord is a delayed message.
type waitingRecord struct {
	durable.Delayed
	ok bool // committed
}

type operation struct {
	token durable.Token
	seq   durable.Seq
	end   func(error) // nil: it was not taken
	tied  int         // the number of the transaction that it must be in with others, 0 = any
}

type fakeRead struct {
	token      durable.Token
	session    durable.SessionNumber
	after      durable.Seq
	max        int
	behind     durable.Seq // what has to be committed before
	superseded bool
}

// copyOf takes over what another store has committed. That one goes on with its own.
func (s *fakeStore) copyOf(other *fakeStore) {
	other.mu.Lock()
	defer other.mu.Unlock()
	s.number, s.seq = other.number, other.seq
	for _, r := range other.records {
		if !r.ok {
			continue
		}
		own := *r
		own.to, own.leaving = slices.Concat(r.to, r.leaving), nil
		s.records = append(s.records, &own)
	}
	for _, k := range other.delayed {
		if k.ok {
			s.delayed = append(s.delayed, new(*k))
		}
	}
	maps.Copy(s.sessions, other.sessions)
	for n, o := range other.outgoing {
		s.outgoing[n] = slices.Clone(o)
	}
	for n, i := range other.incoming {
		s.incoming[n] = slices.Clone(i)
	}
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		sessions: map[durable.SessionNumber]*durable.Session{},
		outgoing: map[durable.SessionNumber][]durable.Outgoing{},
		incoming: map[durable.SessionNumber][]packet.ID{},
		outcomes: map[durable.Outcome]int{},
	}
}

var (
	errDisk       = errors.New("the disk is gone")
	errFull       = errors.New("too much waits for the disk")
	errSuperseded = errors.New("superseded by another read of the session")
)

func (s *fakeStore) op(t durable.Token, seq durable.Seq, end func(error)) {
	if t != 0 {
		s.commits++
	}
	o := operation{token: t, seq: seq, end: end}
	if s.together {
		o.tied = s.ties
	}
	s.waiting = append(s.waiting, o)
}

func nothing(error) {}

func (s *fakeStore) Append(a durable.Append, t durable.Token) durable.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != durable.Taking && !a.Lazy && (len(a.Receivers) > 0 || a.Publisher != 0 || a.Retained && len(a.Message.Payload) > 0) {
		if t != 0 {
			s.c.Completed([]durable.Completion{{Token: t, Err: durable.ErrNoRoom}})
		}
		return 0
	}
	if s.full {
		s.op(t, 0, nil)
		return 0
	}
	s.seq++
	s.lingers, s.sync = a.Linger, a.Sync
	r := &record{seq: s.seq, m: a.Message, to: slices.Clone(a.Receivers)}
	s.records = append(s.records, r)
	for _, to := range a.Receivers {
		if to.PacketID != 0 {
			s.sent(to.Session, r.seq, to.PacketID)
		}
	}
	var from *record
	if a.From != 0 {
		from = s.record(a.FromSeq)
		for _, to := range from.to {
			if to.Session == a.From {
				from.leaving = append(from.leaving, to)
				s.outcomes[durable.Moved]++
			}
		}
		s.remove(a.From, a.FromSeq)
	}
	s.op(t, r.seq, func(err error) {
		left := func(to durable.Receiver) bool { return to.Session == a.From }
		if r.ok = err == nil; r.ok {
			s.list(a.Publisher, a.PublisherID)
			s.delayed = slices.DeleteFunc(s.delayed, func(k *waitingRecord) bool { return k.Seq == a.Delayed })
			if a.From != 0 {
				from.leaving = slices.DeleteFunc(from.leaving, left)
			}
			return
		}
		for _, to := range r.to {
			s.unsend(to.Session, r.seq)
		}
		r.to = nil
		if a.From != 0 {
			from.to = append(from.to, from.leaving[slices.IndexFunc(from.leaving, left)])
			from.leaving = slices.DeleteFunc(from.leaving, left)
			s.outcomes[durable.Moved]--
		}
	})
	return r.seq
}

func (s *fakeStore) Delay(d durable.Delayed, t durable.Token) durable.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		s.op(t, 0, nil)
		return 0
	}
	s.seq++
	d.Seq = s.seq
	k := &waitingRecord{Delayed: d}
	s.delayed = append(s.delayed, k)
	s.op(t, d.Seq, func(err error) {
		if k.ok = err == nil; k.ok {
			s.list(d.Publisher, d.PublisherID)
			return
		}
		s.delayed = slices.DeleteFunc(s.delayed, func(other *waitingRecord) bool { return other == k })
	})
	return d.Seq
}

// waits are the delayed messages that a crash leaves.
func (s *fakeStore) waits() (all []durable.Delayed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.delayed {
		if k.ok {
			all = append(all, k.Delayed)
		}
	}
	return all
}

func (s *fakeStore) PutSession(r *durable.Session, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op(t, 0, func(err error) {
		if err == nil {
			s.sessions[r.Number] = r
		}
	})
}

func (s *fakeStore) EndSession(n durable.SessionNumber, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		r.to = slices.DeleteFunc(r.to, func(x durable.Receiver) bool { return x.Session == n })
	}
	s.op(t, 0, func(err error) {
		if err == nil {
			delete(s.sessions, n)
		}
	})
}

func (s *fakeStore) Done(n durable.SessionNumber, q durable.Seq, o durable.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes[o]++
	s.remove(n, q)
	s.unsend(n, q)
}

func (s *fakeStore) record(q durable.Seq) *record {
	for _, r := range s.records {
		if r.seq == q {
			return r
		}
	}
	return nil
}

func (s *fakeStore) remove(n durable.SessionNumber, q durable.Seq) {
	for _, r := range s.records {
		if r.seq == q {
			r.to = slices.DeleteFunc(r.to, func(x durable.Receiver) bool { return x.Session == n })
		}
	}
}

func (s *fakeStore) sent(n durable.SessionNumber, q durable.Seq, id packet.ID) {
	s.unsend(n, q)
	s.forget(n, func(o durable.Outgoing) bool { return o.ID == id })
	s.outgoing[n] = append(s.outgoing[n], durable.Outgoing{ID: id, Seq: q})
}

func (s *fakeStore) unsend(n durable.SessionNumber, q durable.Seq) {
	s.forget(n, func(o durable.Outgoing) bool { return !o.Received && o.Seq == q })
}

func (s *fakeStore) forget(n durable.SessionNumber, match func(durable.Outgoing) bool) {
	s.outgoing[n] = slices.DeleteFunc(s.outgoing[n], match)
}

func (s *fakeStore) Sent(n durable.SessionNumber, q durable.Seq, id packet.ID, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent(n, q, id)
	s.op(t, 0, nothing)
}

func (s *fakeStore) Received(n durable.SessionNumber, q durable.Seq, id packet.ID, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(n, q)
	s.forget(n, func(o durable.Outgoing) bool { return o.ID == id })
	s.outgoing[n] = append(s.outgoing[n], durable.Outgoing{ID: id, Received: true})
	s.op(t, 0, nothing)
}

func (s *fakeStore) Completed(n durable.SessionNumber, id packet.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(n, func(o durable.Outgoing) bool { return o.ID == id })
}

func (s *fakeStore) Release(n durable.SessionNumber, id packet.ID, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlist(n, id)
	s.op(t, 0, nothing)
}

func (s *fakeStore) list(n durable.SessionNumber, id packet.ID) {
	if id != 0 {
		s.incoming[n] = append(s.incoming[n], id)
	}
}

func (s *fakeStore) unlist(n durable.SessionNumber, id packet.ID) {
	s.incoming[n] = slices.DeleteFunc(s.incoming[n], func(x packet.ID) bool { return x == id })
}

func (s *fakeStore) Read(n durable.SessionNumber, after durable.Seq, max, maxBytes int, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reads {
		r.superseded = r.superseded || r.session == n
	}
	s.reads = append(s.reads, &fakeRead{token: t, session: n, after: after, max: max, behind: s.seq})
}

// answer answers the reads that wait for nothing.
func (s *fakeStore) answer() {
	behind := s.seq // everything up to it is committed
	for _, r := range s.records {
		if !r.ok && len(r.to) > 0 {
			behind = min(behind, r.seq-1)
		}
	}
	waiting := s.reads
	s.reads = nil
	for _, r := range waiting {
		switch {
		case r.superseded:
			s.c.Read(durable.Batch{Token: r.token, Session: r.session, Last: r.after, Err: errSuperseded})
		case r.behind > behind:
			s.reads = append(s.reads, r)
		default:
			s.c.Read(s.batch(r))
		}
	}
}

func (s *fakeStore) batch(r *fakeRead) durable.Batch {
	b := durable.Batch{Token: r.token, Session: r.session, Last: r.after}
	for _, x := range s.records {
		if x.seq <= r.after || !x.ok {
			continue
		}
		for _, to := range x.to {
			if to.Session != r.session {
				continue
			}
			if len(b.Entries) == r.max {
				b.More = true
				return b
			}
			e := durable.Entry{Seq: x.seq, Message: x.m, QoS: to.QoS, Retain: to.Retain, SubscriptionIDs: to.SubscriptionIDs, Share: to.Share}
			for _, o := range s.outgoing[r.session] {
				if o.Seq == x.seq {
					e.PacketID = o.ID
				}
			}
			b.Entries = append(b.Entries, e)
			b.Last = x.seq
		}
	}
	return b
}

func (s *fakeStore) Queued(n durable.SessionNumber) (messages int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	s.queued(n, func(r *record) bool {
		messages++
		bytes += int64(r.m.Size())
		return true
	})
	return messages, bytes
}

// queued calls fn with each record that a session is not done with, in order, while it returns true.
func (s *fakeStore) queued(n durable.SessionNumber, fn func(r *record) bool) {
	for _, r := range s.records {
		if slices.ContainsFunc(r.to, func(to durable.Receiver) bool { return to.Session == n }) && !fn(r) {
			return
		}
	}
}

func (s *fakeStore) DropOldest(n durable.SessionNumber, after durable.Seq, messages int, bytes int64) (dropped int, last durable.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest []durable.Seq
	s.queued(n, func(r *record) bool {
		if r.seq > after && (len(oldest) < messages || bytes > 0) {
			oldest = append(oldest, r.seq)
			bytes -= int64(r.m.Size())
		}
		return true
	})
	if len(oldest) == 0 || len(oldest) < messages || bytes > 0 {
		return 0, 0
	}
	for _, q := range oldest {
		s.outcomes[durable.DroppedFull]++
		s.remove(n, q)
	}
	return len(oldest), oldest[len(oldest)-1]
}

func (s *fakeStore) Evict(n durable.SessionNumber, after durable.Seq, bytes int64) (dropped int, last durable.Seq) {
	s.mu.Lock()
	s.pressure = 0
	s.mu.Unlock()
	for range 1000 {
		d, l := s.DropOldest(n, after, 1, 0)
		if d == 0 || bytes <= 0 {
			break
		}
		dropped, last = dropped+d, l
		bytes--
	}
	return dropped, last
}

func (s *fakeStore) Pressure() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pressure
}

func (s *fakeStore) State() durable.StoreState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// become changes what the store takes.
func (s *fakeStore) become(state durable.StoreState) {
	s.mu.Lock()
	s.state = state
	s.mu.Unlock()
	s.c.Changed()
}

func (s *fakeStore) NextSession() durable.SessionNumber {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return s.number
}

func (s *fakeStore) Together(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.together = on
	if on {
		s.ties++
	}
}

func (s *fakeStore) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held {
		s.commit(nil)
	}
	s.answer()
}

func (s *fakeStore) commit(err error) {
	w := s.waiting
	s.waiting = nil
	for _, o := range w {
		cause := err
		if o.end == nil {
			cause = errFull
		} else {
			o.end(err)
		}
		if o.token != 0 {
			s.c.Completed([]durable.Completion{{Token: o.token, Seq: o.seq, Err: cause}})
		}
	}
	s.answer()
}

// hold keeps commits back until release.
func (s *fakeStore) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
}

// release commits what waits, with err if it is not nil, and what comes later.
func (s *fakeStore) release(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
	s.commit(err)
}

// step commits what waits, with err if it is not nil, and holds what comes later.
func (s *fakeStore) step(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commit(err)
}

// open is how many entries are not done.
func (s *fakeStore) open() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		n += len(r.to)
	}
	return n
}

// asked is how many operations somebody has waited for.
func (s *fakeStore) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

// restored is what a crash leaves: what was committed. Only for a store that nobody uses.
func (s *fakeStore) restored() (all []durable.Restored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.number + 1 {
		r := s.sessions[n]
		if r == nil {
			continue
		}
		x := durable.Restored{Session: *r, Floor: s.seq, Outgoing: s.outgoing[n], Incoming: s.incoming[n]}
		for _, rec := range s.records {
			to := slices.Concat(rec.to, rec.leaving)
			i := slices.IndexFunc(to, func(to durable.Receiver) bool { return to.Session == n })
			if rec.ok && i >= 0 {
				if to[i].Share != "" {
					x.Shared++
				}
				if x.Pending == 0 {
					x.Floor = rec.seq - 1
				}
				x.Pending++
				x.Last = rec.seq
			}
		}
		all = append(all, x)
	}
	return all
}
