package spool

import (
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/message"
)

// While the uplink takes messages at once and the remote end acknowledges quickly, a message at QoS 1
// lingers: it has its number and is handed out, but is in memory only. When the remote end has it, it
// is answered, and nothing is written. Otherwise it is due, Options.Linger after it came.
//
// All that is pending lingers, or nothing does: as soon as anything has to be written, everything that
// lingers goes into that transaction, before it. So the file never lacks a message that comes before
// one that it has, and what it says of numbers and counts was true. Numbers that only lingered are
// given again after a crash; the remote end keeps nothing about them.

const (
	// maxLingering and maxLingerBytes bound what lingers; what is more is written, and that with it.
	maxLingering   = 1024
	maxLingerBytes = 256 << 10
	// countsAfter is how long the counts of messages that were never written may stay unsaved while
	// there are such messages.
	countsAfter = time.Hour
)

// linger is what lingers. It is guarded by the lock of its spool.
type linger struct {
	quick bool        // the uplink takes messages at once and acknowledges quickly
	list  []*lingerer // ascending
	bytes int64
	late  []*lingerer // of the transaction in progress

	ticking bool      // an opLinger is queued
	stale   bool      // the file lacks counts of what was never written
	saved   time.Time // when it had all of them
	fresh   bool      // there is something new for Next since the last Flush
}

// lingerer is a message that lingers.
type lingerer struct {
	record Record
	value  []byte // its record
	due    time.Time
	done   func(error)
}

// Quick says whether the uplink takes messages at once, and gets them acknowledged well within
// Options.Linger. It is for the goroutine of the uplink. When a message is not acknowledged in time,
// the spool takes it that it does not, until it is told again.
func (s *Spool) Quick(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linger.quick = on
	if !on {
		s.hurry()
	}
}

// hurry makes due what lingers; the caller holds mu.
func (s *Spool) hurry() {
	if len(s.linger.list) == 0 || s.closed {
		return
	}
	for _, l := range s.linger.list {
		l.due = time.Time{}
	}
	_ = s.writer.Add(op{kind: opLinger})
	s.writer.Flush()
}

// lingers takes a message that is accepted, and reports whether it may linger; the caller holds mu.
func (s *Spool) lingers(m *message.Message, done func(error)) bool {
	l := &s.linger
	if s.o.Linger <= 0 || !l.quick || s.closed || s.queued > 0 || len(l.late) > 0 ||
		s.st.ledger.Pending != uint64(len(l.list)) || len(l.list) >= maxLingering || l.bytes >= maxLingerBytes {
		return false
	}
	seq := s.st.last + 1
	e := &lingerer{value: appendRecord(nil, seq, m, 1), due: time.Now().Add(s.o.Linger), done: done}
	e.record = Record{Seq: seq, QoS: 1, Size: len(e.value) + overhead, Message: m}
	s.st.last = seq
	s.st.ledger.Accepted++
	s.st.ledger.Pending++
	s.st.ledger.PendingBytes += int64(e.record.Size)
	l.list = append(l.list, e)
	l.bytes += int64(e.record.Size)
	l.fresh, l.stale = true, true
	s.tick()
	return true
}

// tick has the writer look at what lingers longest when it is due; the caller holds mu.
func (s *Spool) tick() {
	l := &s.linger
	if l.ticking || len(l.list) == 0 || s.closed {
		return
	}
	l.ticking = true
	_ = s.writer.AddWithin(op{kind: opLinger}, max(time.Until(l.list[0].due), 0))
	s.writer.Flush()
}

// handOut is Next for what lingers; false if nothing does.
func (s *Spool) handOut(after Seq, n, maxBytes int) (records []Record, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.linger.list) == 0 {
		return nil, false
	}
	size := 0
	for _, l := range s.linger.list {
		r := l.record
		if r.Seq <= after {
			continue
		}
		if size += r.Size; len(records) == n || len(records) > 0 && size > maxBytes {
			break
		}
		s.taken[r.Seq] = r.Size
		s.high = max(s.high, r.Seq)
		s.reach = max(s.reach, r.Seq)
		records = append(records, r)
	}
	return records, true
}

// cancel takes a message that is done out of what lingers, and returns who waits for it, nil if it does
// not linger; the caller holds mu.
func (s *Spool) cancel(seq Seq, size int, o Outcome) func(error) {
	l := &s.linger
	i := slices.IndexFunc(l.list, func(e *lingerer) bool { return e.record.Seq == seq })
	if i < 0 {
		return nil
	}
	e := l.list[i]
	l.list = slices.Delete(l.list, i, i+1)
	l.bytes -= int64(size)
	s.close(seq, size)
	s.st.ledger.Out[o]++
	return e.done
}

// close ends a message that was never written; the caller holds mu.
func (s *Spool) close(seq Seq, size int) {
	floor := s.st.floor
	s.st.done(seq, seq)
	s.st.ledger.Pending--
	s.st.ledger.PendingBytes -= int64(size)
	if s.swept == floor {
		s.swept = s.st.floor // there is nothing of it to be swept
	}
}

// join says whether a transaction is to write anything, which it has to if must; what lingers goes with
// it then. The caller holds mu.
func (s *Spool) join(batch []op, must bool) bool {
	l := &s.linger
	now := time.Now()
	for i := range batch {
		o := &batch[i]
		switch o.kind {
		case opAppend, opDrop:
			must = must || o.source == 0 || o.source > s.st.source
		case opLinger:
			l.ticking = false
		}
	}
	if len(l.list) > 0 && !l.list[0].due.After(now) {
		must, l.quick = true, false
	}
	if l.stale && now.Sub(l.saved) >= countsAfter {
		must = true
	}
	if !must {
		return false
	}
	l.late, l.list, l.bytes = l.list, nil, 0
	l.stale, l.saved = false, now
	return true
}

// putLate writes what lingered.
func (s *Spool) putLate(messages *bbolt.Bucket) error {
	for _, l := range s.linger.late { // nobody else changes it during a transaction
		if err := messages.Put(key(l.record.Seq), l.value); err != nil {
			return err
		}
	}
	return nil
}

// settle ends what lingered and was in the transaction that has been answered with err, and returns
// who waits for it; the caller holds mu.
func (s *Spool) settle(err error) (late []*lingerer) {
	l := &s.linger
	late, l.late = l.late, nil
	if err == nil {
		return late
	}
	for _, e := range late {
		seq := e.record.Seq
		if s.st.isDone(seq) {
			e.value = nil // the remote end has it
			continue
		}
		// It is not accepted. If it is in flight, it may arrive all the same.
		s.close(seq, e.record.Size)
		s.st.ledger.Accepted--
		if _, inFlight := s.taken[seq]; inFlight {
			s.taken[seq] = void
		}
	}
	return late
}

// void is the size of what is in flight and not accepted.
const void = -1
