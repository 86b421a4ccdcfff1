package broker

import (
	"errors"
	"slices"
	"sync"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// fakeStore is a Store in memory whose commits the test decides on: it can hold them back,
// answer them in another order and fail them.
type fakeStore struct {
	mu       sync.Mutex
	c        durable.Completer
	seq      durable.Seq
	number   durable.SessionNumber
	records  []*record
	sessions map[durable.SessionNumber]*durable.Session
	outgoing map[durable.SessionNumber][]durable.Outgoing
	incoming map[durable.SessionNumber][]packet.ID
	waiting  []func(error) // operations that are not committed, in order
	reads    []func()
	held     bool // commits wait for release
	fail     error
	outcomes map[durable.Outcome]int
}

type record struct {
	seq durable.Seq
	m   *message.Message
	to  []durable.Receiver // still open
	ok  bool               // committed
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		sessions: map[durable.SessionNumber]*durable.Session{},
		outgoing: map[durable.SessionNumber][]durable.Outgoing{},
		incoming: map[durable.SessionNumber][]packet.ID{},
		outcomes: map[durable.Outcome]int{},
	}
}

var errDisk = errors.New("the disk is gone")

func (s *fakeStore) op(t durable.Token, seq durable.Seq, apply func()) {
	s.waiting = append(s.waiting, func(err error) {
		if err == nil {
			apply()
		}
		if t != 0 {
			s.c.Completed([]durable.Completion{{Token: t, Seq: seq, Err: err}})
		}
	})
}

func (s *fakeStore) Append(a durable.Append, t durable.Token) durable.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	r := &record{seq: s.seq, m: a.Message, to: slices.Clone(a.Receivers)}
	s.records = append(s.records, r)
	s.op(t, r.seq, func() {
		r.ok = true
		if a.PublisherID != 0 {
			s.incoming[a.Publisher] = append(s.incoming[a.Publisher], a.PublisherID)
		}
	})
	return r.seq
}

func (s *fakeStore) PutSession(r *durable.Session, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op(t, 0, func() { s.sessions[r.Number] = r })
}

func (s *fakeStore) EndSession(n durable.SessionNumber, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op(t, 0, func() { delete(s.sessions, n) })
}

func (s *fakeStore) Done(n durable.SessionNumber, q durable.Seq, o durable.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes[o]++
	s.op(0, 0, func() { s.remove(n, q) })
}

func (s *fakeStore) remove(n durable.SessionNumber, q durable.Seq) {
	for _, r := range s.records {
		if r.seq == q {
			r.to = slices.DeleteFunc(r.to, func(x durable.Receiver) bool { return x.Session == n })
		}
	}
}

func (s *fakeStore) Sent(n durable.SessionNumber, q durable.Seq, id packet.ID, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op(t, 0, func() { s.outgoing[n] = append(s.outgoing[n], durable.Outgoing{ID: id, Seq: q}) })
}

func (s *fakeStore) Received(n durable.SessionNumber, q durable.Seq, id packet.ID, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op(t, 0, func() { s.remove(n, q) })
}

func (s *fakeStore) Completed(n durable.SessionNumber, id packet.ID) {}

func (s *fakeStore) Release(n durable.SessionNumber, id packet.ID, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op(t, 0, func() {
		s.incoming[n] = slices.DeleteFunc(s.incoming[n], func(x packet.ID) bool { return x == id })
	})
}

func (s *fakeStore) Read(n durable.SessionNumber, after durable.Seq, max, maxBytes int, t durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, func(error) {
		b := durable.Batch{Token: t, Session: n, Last: after}
		for _, r := range s.records {
			if r.seq <= after || !r.ok {
				continue
			}
			for _, to := range r.to {
				if to.Session != n {
					continue
				}
				if len(b.Entries) == max {
					b.More = true
					break
				}
				b.Entries = append(b.Entries, durable.Entry{
					Seq: r.seq, Message: r.m, QoS: to.QoS, Retain: to.Retain,
					SubscriptionIDs: to.SubscriptionIDs, PacketID: to.PacketID,
				})
				b.Last = r.seq
			}
			if b.More {
				break
			}
		}
		s.c.Read(b)
	})
}

func (s *fakeStore) NextSession() durable.SessionNumber {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return s.number
}

func (s *fakeStore) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held {
		s.commit()
	}
}

func (s *fakeStore) commit() {
	for len(s.waiting) > 0 {
		w := s.waiting
		s.waiting = nil
		for _, f := range w {
			f(s.fail)
		}
	}
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
	s.fail = err
	s.commit()
	s.fail = nil
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
