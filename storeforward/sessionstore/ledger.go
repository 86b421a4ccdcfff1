package sessionstore

import (
	"encoding/binary"

	"dunlin/core/durable"
)

// outcomes is one more than the highest outcome.
const outcomes = int(durable.Moved) + 1

// Counts is what has been counted about queue entries, each exactly once when it comes and once
// when it goes.
type Counts struct {
	Accepted uint64           // entries that came into a queue
	Left     [outcomes]uint64 // entries that left it, by durable.Outcome
}

// Gone returns how many entries have left, whatever the outcome.
func (c *Counts) Gone() (n uint64) {
	for _, k := range c.Left {
		n += k
	}
	return n
}

// Add adds what e has counted.
func (c *Counts) Add(e *Counts) {
	c.Accepted += e.Accepted
	for o := range c.Left {
		c.Left[o] += e.Left[o]
	}
}

func (c *Counts) count(o durable.Outcome, n uint64) {
	if o == 0 || int(o) >= outcomes {
		panic("sessionstore: internal error: no such outcome")
	}
	c.Left[o] += n
}

// Ledger is the account of the queues: Accepted = the sum of Left + Pending.
type Ledger struct {
	Counts
	Pending uint64 // entries that are in a queue
}

func appendCounts(dst []byte, c *Counts) []byte {
	dst = binary.AppendUvarint(dst, c.Accepted)
	dst = append(dst, byte(outcomes-1))
	for _, n := range c.Left[1:] {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

func (d *decoder) counts() (c Counts) {
	c.Accepted = d.uvarint()
	n := int(d.byte())
	if n >= outcomes {
		d.fail() // a later version counts more
		return c
	}
	for o := 1; o <= n; o++ {
		c.Left[o] = d.uvarint()
	}
	return c
}

// keyTotal is the ledger of everything that is not counted with a session: sessions that have
// ended.
var keyTotal = []byte("total")

func appendTotal(dst []byte, c *Counts) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	dst = appendCounts(dst, c)
	return appendChecksum(dst, from, keyTotal)
}

func parseTotal(value []byte) (c Counts, err error) {
	d, err := openValue(keyTotal, value)
	if err != nil {
		return c, err
	}
	c = d.counts()
	return c, d.end()
}

// Ledger returns the account over all queues, those of ended sessions included.
func (s *Store) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := Ledger{Counts: s.total}
	for _, q := range s.sessions {
		l.Add(&q.ledger)
		l.Pending += uint64(q.queue.Len())
	}
	return l
}

// LedgerOf returns the account of one queue; false if there is no such session.
func (s *Store) LedgerOf(n durable.SessionNumber) (Ledger, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.sessions[n]
	if q == nil {
		return Ledger{}, false
	}
	return Ledger{Counts: q.ledger, Pending: uint64(q.queue.Len())}, true
}

// Total is the account over all queues, those of ended sessions included.
func (s *Store) Total() durable.Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, bytes := Ledger{Counts: s.total}, int64(0)
	for _, q := range s.sessions {
		l.Add(&q.ledger)
		l.Pending += uint64(q.queue.Len())
		bytes += q.queue.Bytes()
	}
	return l.account(bytes)
}

// Account is the account of one queue; false if there is no such session.
func (s *Store) Account(n durable.SessionNumber) (durable.Account, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.sessions[n]
	if q == nil {
		return durable.Account{}, false
	}
	return Ledger{Counts: q.ledger, Pending: uint64(q.queue.Len())}.account(q.queue.Bytes()), true
}

// account names what l counts.
func (l Ledger) account(bytes int64) durable.Account {
	a := durable.Account{Accepted: l.Accepted, Pending: l.Pending, Bytes: bytes}
	for o := 1; o < outcomes; o++ {
		a.Count(durable.Outcome(o), l.Left[o])
	}
	return a
}

// Unexplained is how many entries the last walk over the records could not account for: that of the
// start, or of a later Audit.
func (s *Store) Unexplained() uint64 { return s.unexplained.Load() }
