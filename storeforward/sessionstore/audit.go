package sessionstore

import (
	"context"
	"encoding/binary"
	"slices"

	"dunlin/core/durable"
)

// Audit is the account of every queue as its records say it, found without what the store counts in
// memory.
type Audit struct {
	queues map[durable.SessionNumber]*audited
	last   durable.Seq // number up to which messages were visited
}

// Walked is what was found of one queue, all of it as of one state.
type Walked struct {
	Accepted uint64 // entries that came into the queue
	Gone     uint64 // entries that left it, however
	Pending  uint64 // entries that are not done, counted one by one
	Missing  uint64 // entries that the store has in memory, and that are not among them
}

type audited struct {
	Walked
	asOf, high durable.Seq
	open       []durable.Seq
}

// Audit walks over the whole store, in slices, and counts. If the account of a queue does not add up,
// Unexplained says so from then on.
func (s *Store) Audit(ctx context.Context) (*Audit, error) {
	a := NewAudit()
	if err := s.Visit(ctx, func(v *Value) error { a.Take(v); return nil }, func() error { return nil }); err != nil {
		return nil, err
	}
	s.compare(a)
	s.unexplained.Store(a.Mismatch())
	return a, nil
}

// compare finds what is in memory up to the number of the visit, and was not found: a queue only loses
// what it had then.
func (s *Store) compare(a *Audit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, found := range a.queues {
		q := s.sessions[n]
		if q == nil {
			continue
		}
		had := q.queue.Len()
		for range q.queue.Behind(a.last) {
			had--
		}
		found.Missing = uint64(max(0, had-int(found.Pending)))
	}
}

// NewAudit returns an Audit that Take is to be called for with each value of a Visit.
func NewAudit() *Audit { return &Audit{queues: make(map[durable.SessionNumber]*audited)} }

// Take takes a value into account.
func (a *Audit) Take(v *Value) {
	switch {
	case v.Gone && v.Bucket == string(bucketSessions):
		if len(v.Key) == 8 {
			delete(a.queues, durable.SessionNumber(binary.BigEndian.Uint64(v.Key)))
		}
	case v.Session != nil:
		a.queues[v.Session.Number] = &audited{}
	case v.Cursor != nil:
		if q := a.queues[v.Cursor.Session]; q != nil {
			c := v.Cursor
			*q = audited{Walked{Accepted: c.Counts.Accepted, Gone: c.Counts.Gone()}, c.AsOf, c.High, c.Open}
		}
	case v.Counters != nil:
		a.last = v.Counters.Seq
	case v.Message != nil:
		for i := range v.Message.Receivers {
			if q := a.queues[v.Message.Receivers[i].Session]; q != nil {
				q.take(v.Message.Seq)
			}
		}
	}
}

func (q *audited) take(s durable.Seq) {
	if s > q.asOf {
		q.Accepted++
	}
	if s <= q.high {
		if _, open := slices.BinarySearch(q.open, s); !open {
			return
		}
	}
	q.Pending++
}

// Of returns what was found of one queue; false if it was not there. A nil Audit has found nothing.
func (a *Audit) Of(n durable.SessionNumber) (Walked, bool) {
	if a == nil || a.queues[n] == nil {
		return Walked{}, false
	}
	return a.queues[n].Walked, true
}

// Mismatch is the number of entries by which the accounts do not add up.
func (a *Audit) Mismatch() (n uint64) {
	for _, q := range a.queues {
		n += q.Missing
		if q.Accepted < q.Gone+q.Pending {
			n += q.Gone + q.Pending - q.Accepted
		} else {
			n += q.Accepted - q.Gone - q.Pending
		}
	}
	return n
}
