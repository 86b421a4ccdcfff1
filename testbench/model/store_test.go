package model

import (
	"errors"
	"maps"
	"slices"

	"dunlin/core/broker"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// store is a broker.Store in memory. It commits one operation after the other, when it is told to,
// so that a crash can come between any two. What it knows while the process lives, mem, is ahead
// of what a crash leaves, disk.
type store struct {
	broker.Store // nil: what nothing here leads to, such as delayed messages

	c       durable.Completer
	mem     state
	disk    state
	waiting []operation // handed over and not committed, in order
	reads   []*read
	flushed int // operations up to here may be committed

	together bool // what comes is one transaction
}

// state is what a store knows.
type state struct {
	seq      durable.Seq
	number   durable.SessionNumber
	records  []record // in order
	sessions map[durable.SessionNumber]*durable.Session
	outgoing map[durable.SessionNumber][]durable.Outgoing
	incoming map[durable.SessionNumber][]packet.ID
	retained map[string]*message.Message
}

type record struct {
	seq durable.Seq
	m   *message.Message
	to  []durable.Receiver // who is not done with it
}

// operation is a call: what it does to the disk.
type operation struct {
	token  durable.Token
	seq    durable.Seq
	apply  func(s *state)
	more   bool           // the next one is in the same transaction
	revoke func(s *state) // what takes it back in memory if its commit fails; nil = it is written later
}

type read struct {
	token   durable.Token
	session durable.SessionNumber
	after   durable.Seq
	max     int
	behind  durable.Seq // what has to be committed before
	void    bool        // another read has come
}

var (
	errDisk       = errors.New("the disk is gone")
	errSuperseded = errors.New("superseded by another read of the session")
)

func newStore() *store { return &store{mem: newState(), disk: newState()} }

func newState() state {
	return state{
		sessions: map[durable.SessionNumber]*durable.Session{},
		outgoing: map[durable.SessionNumber][]durable.Outgoing{},
		incoming: map[durable.SessionNumber][]packet.ID{},
		retained: map[string]*message.Message{},
	}
}

func (s *state) clone() state {
	c := *s
	c.records = slices.Clone(s.records)
	for i := range c.records {
		c.records[i].to = slices.Clone(c.records[i].to)
	}
	c.sessions, c.retained = maps.Clone(s.sessions), maps.Clone(s.retained)
	c.outgoing, c.incoming = maps.Clone(s.outgoing), maps.Clone(s.incoming)
	for n := range c.outgoing {
		c.outgoing[n] = slices.Clone(c.outgoing[n])
	}
	for n := range c.incoming {
		c.incoming[n] = slices.Clone(c.incoming[n])
	}
	return c
}

// crash is the store of the process that comes after one that has died now.
func (s *store) crash() *store {
	return &store{mem: s.disk.clone(), disk: s.disk.clone()}
}

// do hands an operation over: it is true in memory at once.
func (s *store) do(o operation) {
	o.apply(&s.mem)
	o.more = s.together
	s.waiting = append(s.waiting, o)
}

// commit writes the first n operations and answers them.
func (s *store) commit(n int) {
	n = min(n, s.flushed)
	for n > 0 && n < s.flushed && s.waiting[n-1].more {
		n++
	}
	for _, o := range s.waiting[:n] {
		o.apply(&s.disk)
		s.answer(o, nil)
	}
	s.waiting = s.waiting[n:]
	s.flushed -= n
	s.answerReads()
}

// fail answers everything that waits with an error. What is no message is written with the next
// commit that works, since nothing takes it back in memory.
func (s *store) fail() {
	var later []operation
	for _, o := range s.waiting[:s.flushed] {
		if o.revoke != nil {
			o.revoke(&s.mem)
		} else {
			later = append(later, operation{apply: o.apply})
		}
		s.answer(o, errDisk)
	}
	s.waiting = append(later, s.waiting[s.flushed:]...)
	s.flushed = len(later)
	s.answerReads()
}

func (s *store) answer(o operation, err error) {
	if o.token != 0 {
		s.c.Completed([]durable.Completion{{Token: o.token, Seq: o.seq, Err: err}})
	}
}

func (s *store) answerReads() {
	committed := s.mem.seq
	for _, o := range s.waiting {
		if o.seq != 0 {
			committed = o.seq - 1
			break
		}
	}
	var waiting []*read
	for _, r := range s.reads {
		switch {
		case r.void:
			s.c.Read(durable.Batch{Token: r.token, Session: r.session, Last: r.after, Err: errSuperseded})
		case r.behind > committed:
			waiting = append(waiting, r)
		default:
			s.c.Read(s.mem.batch(r, committed))
		}
	}
	s.reads = waiting
}

func (s *state) batch(r *read, committed durable.Seq) durable.Batch {
	b := durable.Batch{Token: r.token, Session: r.session, Last: r.after}
	for _, x := range s.records {
		for _, to := range x.to {
			if to.Session != r.session || x.seq <= r.after || x.seq > committed {
				continue
			}
			if len(b.Entries) == r.max {
				b.More = true
				return b
			}
			e := durable.Entry{Seq: x.seq, Message: x.m, QoS: to.QoS, Retain: to.Retain, SubscriptionIDs: to.SubscriptionIDs}
			for _, o := range s.outgoing[r.session] {
				if !o.Received && o.Seq == x.seq {
					e.PacketID = o.ID
				}
			}
			b.Entries, b.Last = append(b.Entries, e), x.seq
		}
	}
	return b
}

// left is what is queued or in flight for sessions.
func (s *state) left() (n int) {
	for _, r := range s.records {
		n += len(r.to)
	}
	for _, o := range s.outgoing {
		n += len(o)
	}
	return n
}

func (s *state) restored() (all []durable.Restored) {
	for _, n := range slices.Sorted(maps.Keys(s.sessions)) {
		r := durable.Restored{
			Session: *s.sessions[n], Floor: s.seq,
			Outgoing: slices.Clone(s.outgoing[n]), Incoming: slices.Clone(s.incoming[n]),
		}
		for _, x := range s.records {
			if slices.ContainsFunc(x.to, func(to durable.Receiver) bool { return to.Session == n }) {
				if r.Pending == 0 {
					r.Floor = x.seq - 1
				}
				r.Pending++
				r.Last = x.seq
			}
		}
		all = append(all, r)
	}
	return all
}

func (s *state) remove(match func(seq durable.Seq, n durable.SessionNumber) bool) {
	for i := range s.records {
		x := &s.records[i]
		x.to = slices.DeleteFunc(x.to, func(to durable.Receiver) bool { return match(x.seq, to.Session) })
	}
	s.records = slices.DeleteFunc(s.records, func(x record) bool { return len(x.to) == 0 })
}

func (s *state) done(n durable.SessionNumber, q durable.Seq) {
	s.remove(func(seq durable.Seq, to durable.SessionNumber) bool { return seq == q && to == n })
	s.forget(n, func(o durable.Outgoing) bool { return !o.Received && o.Seq == q })
}

func (s *state) forget(n durable.SessionNumber, match func(durable.Outgoing) bool) {
	s.outgoing[n] = slices.DeleteFunc(s.outgoing[n], match)
}

func (s *state) sent(n durable.SessionNumber, o durable.Outgoing) {
	s.forget(n, func(x durable.Outgoing) bool { return x.ID == o.ID || !x.Received && x.Seq == o.Seq })
	s.outgoing[n] = append(s.outgoing[n], o)
}

func (s *state) release(n durable.SessionNumber, id packet.ID) {
	s.incoming[n] = slices.DeleteFunc(s.incoming[n], func(x packet.ID) bool { return x == id })
}

func (s *store) Append(a durable.Append, t durable.Token) durable.Seq {
	seq := s.mem.seq + 1
	receivers := slices.Clone(a.Receivers) // the slice is the broker's own
	s.do(operation{
		token: t, seq: seq,
		apply: func(s *state) {
			s.seq = seq
			if len(receivers) > 0 {
				s.records = append(s.records, record{seq, a.Message, slices.Clone(receivers)})
			}
			for _, r := range receivers {
				if r.PacketID != 0 {
					s.sent(r.Session, durable.Outgoing{ID: r.PacketID, Seq: seq})
				}
			}
			if a.PublisherID != 0 {
				s.release(a.Publisher, a.PublisherID)
				s.incoming[a.Publisher] = append(s.incoming[a.Publisher], a.PublisherID)
			}
			switch {
			case a.Retained && len(a.Message.Payload) == 0:
				delete(s.retained, a.Message.Topic)
			case a.Retained:
				s.retained[a.Message.Topic] = a.Message
			}
		},
		revoke: func(s *state) {
			for _, r := range receivers {
				s.done(r.Session, seq)
			}
			if a.PublisherID != 0 {
				s.release(a.Publisher, a.PublisherID)
			}
		},
	})
	return seq
}

func (s *store) Together(on bool) {
	s.together = on
	if n := len(s.waiting); !on && n > 0 {
		s.waiting[n-1].more = false
	}
}

func (s *store) PutSession(r *durable.Session, t durable.Token) {
	s.do(operation{token: t, apply: func(s *state) { s.sessions[r.Number] = r }})
}

func (s *store) EndSession(n durable.SessionNumber, t durable.Token) {
	s.do(operation{token: t, apply: func(s *state) {
		delete(s.sessions, n)
		delete(s.outgoing, n)
		delete(s.incoming, n)
		s.remove(func(_ durable.Seq, to durable.SessionNumber) bool { return to == n })
	}})
}

func (s *store) Done(n durable.SessionNumber, q durable.Seq, _ durable.Outcome) {
	s.do(operation{apply: func(s *state) { s.done(n, q) }})
}

func (s *store) Sent(n durable.SessionNumber, q durable.Seq, id packet.ID, t durable.Token) {
	s.do(operation{token: t, apply: func(s *state) { s.sent(n, durable.Outgoing{ID: id, Seq: q}) }})
}

func (s *store) Received(n durable.SessionNumber, q durable.Seq, id packet.ID, t durable.Token) {
	s.do(operation{token: t, apply: func(s *state) {
		s.done(n, q)
		s.sent(n, durable.Outgoing{ID: id, Received: true})
	}})
}

func (s *store) Completed(n durable.SessionNumber, id packet.ID) {
	s.do(operation{apply: func(s *state) { s.forget(n, func(o durable.Outgoing) bool { return o.ID == id }) }})
}

func (s *store) Release(n durable.SessionNumber, id packet.ID, t durable.Token) {
	s.do(operation{token: t, apply: func(s *state) { s.release(n, id) }})
}

func (s *store) Read(n durable.SessionNumber, after durable.Seq, max, _ int, t durable.Token) {
	for _, r := range s.reads {
		r.void = r.void || r.session == n
	}
	s.reads = append(s.reads, &read{token: t, session: n, after: after, max: max, behind: s.mem.seq})
}

func (s *store) Queued(n durable.SessionNumber) (messages int, bytes int64) {
	for _, x := range s.mem.records {
		if slices.ContainsFunc(x.to, func(to durable.Receiver) bool { return to.Session == n }) {
			messages, bytes = messages+1, bytes+int64(x.m.Size())
		}
	}
	return messages, bytes
}

// DropOldest drops nothing: no queue is full here.
func (s *store) DropOldest(durable.SessionNumber, durable.Seq, int, int64) (int, durable.Seq) {
	return 0, 0
}

// Evict drops nothing: there is no Pressure.
func (s *store) Evict(durable.SessionNumber, durable.Seq, int64) (int, durable.Seq) { return 0, 0 }

func (s *store) Pressure() int64 { return 0 }

func (s *store) State() durable.StoreState { return durable.Taking }

func (s *store) NextSession() durable.SessionNumber {
	n := s.mem.number + 1
	s.do(operation{apply: func(s *state) { s.number = max(s.number, n) }})
	return n
}

func (s *store) Flush() {
	s.flushed = len(s.waiting)
	s.answerReads()
}
