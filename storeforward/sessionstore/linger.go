package sessionstore

import (
	"cmp"
	"slices"
	"time"

	"dunlin/core/durable"
)

// A message that lingers is in nobody's transaction. Its receivers have been sent it and are expected
// to acknowledge it in a moment: if all do, it is answered and nothing is written. Otherwise it
// becomes due, Options.Linger after it came, and joins the open transaction, with those receivers
// who have not acknowledged it.
//
// It has its number from the begin, but on disk it is not there: cursors leave it out, in their
// counts and among what is open, until the transaction that holds its record. A number that nobody
// writes is used up all the same, as long as the process lives.
//
// Its publisher may not be overtaken on disk: when another message of the same publisher is due,
// those that linger go with it.

const (
	// maxLingering and maxLingerBytes bound what lingers. What is more is due at once.
	maxLingering   = 4096
	maxLingerBytes = 1 << 20
	// spareReceivers is how many lists of receivers are kept to be used again.
	spareReceivers = 256
)

// linger is what lingers, and what has ended by it. It is guarded by the lock of its store.
type linger struct {
	wait  time.Duration // 0 = nothing lingers
	timer *time.Timer   // of the first, or of nothing; nil before Start
	set   bool          // it will fire
	ended chan struct{} // closed by Close

	list  []lingerer // ascending by number, which is by time, too
	head  int        // what is before has ended
	live  int        // what has not, behind head
	bytes int        // of that
	by    map[string]int
	done  []durable.Completion // until the next Flush
	spare [][]receiver
}

// lingerer is a message that lingers.
type lingerer struct {
	pending   // from and to mean nothing; live = 0: it has ended
	token     durable.Token
	receivers []receiver // ascending by session
	due       time.Time
	bytes     int
}

// mayLinger says whether a message of that size may linger.
func (s *Store) mayLinger(size int) bool {
	l := &s.linger
	return l.wait > 0 && s.resting == 0 && s.w != nil && l.live < maxLingering && l.bytes+size <= maxLingerBytes
}

// lingers takes a message in. The caller has found that it may.
func (s *Store) lingers(a *durable.Append, k durable.Token, size int) durable.Seq {
	l := &s.linger
	s.seq++
	e := lingerer{pending: pending{seq: s.seq, m: a.Message}, token: k, due: time.Now().Add(l.wait)}
	if n := len(l.spare); n > 0 {
		e.receivers = l.spare[n-1]
		l.spare = l.spare[:n-1]
	}
	e.receivers = s.enter(e.receivers, a, s.seq, 0)
	if e.live = len(e.receivers); e.live == 0 { // all of them have ended
		l.done = append(l.done, durable.Completion{Token: k, Seq: s.seq})
		return s.seq
	}
	for i := range e.receivers {
		s.sessions[e.receivers[i].Session].lingering++
	}
	e.bytes = size + 16*e.live
	l.bytes += e.bytes
	s.queued += int64(e.bytes)
	if l.by == nil {
		l.by = make(map[string]int)
	}
	l.by[a.Message.Publisher]++
	l.live++
	l.list = append(l.list, e)
	s.setLinger()
	return s.seq
}

// find returns the place of a message that lingers, -1 if it does not.
func (l *linger) find(seq durable.Seq) int {
	if l.live == 0 || seq < l.list[l.head].seq {
		return -1
	}
	i, found := slices.BinarySearchFunc(l.list[l.head:], seq, func(e lingerer, seq durable.Seq) int { return cmp.Compare(e.seq, seq) })
	if !found || l.list[l.head+i].live == 0 {
		return -1
	}
	return l.head + i
}

// has says whether a message lingers.
func (l *linger) has(seq durable.Seq) bool { return l.find(seq) >= 0 }

// answered notes that a session is done with a message, and reports whether that lingers. It is
// answered when nobody is left.
func (s *Store) answered(q *session, seq durable.Seq) bool {
	l := &s.linger
	i := l.find(seq)
	if i < 0 {
		return false
	}
	e := &l.list[i]
	if !takeOut(e.receivers, q.number) {
		return false
	}
	q.lingering--
	if e.live--; e.live == 0 {
		s.settled(e)
		s.queued -= int64(e.bytes)
		l.forget(e)
		l.trim()
	}
	return true
}

// settled answers a message that nobody is left for. A crash brings back what its receivers have
// acknowledged of messages on disk, if that is not saved, and they would get the older behind the newer: so
// it is saved before. While nothing can be written that is not waited for.
func (s *Store) settled(e *lingerer) {
	c := durable.Completion{Token: e.token, Seq: e.seq}
	behind := uint64(0)
	for i := range e.receivers {
		if q := s.sessions[e.receivers[i].Session]; q != nil {
			behind = max(behind, q.acked)
		}
	}
	if behind <= s.answeredTo || s.State() != durable.Taking {
		s.linger.done = append(s.linger.done, c)
		return
	}
	for _, t := range s.txns {
		if t.serial == behind {
			t.done = append(t.done, c)
			return
		}
	}
	t := s.want(0)
	t.done = append(t.done, c)
	t.ops++
}

// forget empties the place of a message that lingers no more.
func (l *linger) forget(e *lingerer) {
	l.bytes -= e.bytes
	l.live--
	if n := l.by[e.m.Publisher]; n > 1 {
		l.by[e.m.Publisher] = n - 1
	} else {
		delete(l.by, e.m.Publisher)
	}
	if len(l.spare) < spareReceivers {
		clear(e.receivers)
		l.spare = append(l.spare, e.receivers[:0])
	}
	*e = lingerer{pending: pending{seq: e.seq}}
}

// trim gives places back that are empty.
func (l *linger) trim() {
	for l.head < len(l.list) && l.list[l.head].live == 0 {
		l.head++
	}
	switch {
	case l.live == 0:
		l.list, l.head = l.list[:0], 0
	case l.head > len(l.list)/2:
		n := copy(l.list, l.list[l.head:])
		clear(l.list[n:])
		l.list, l.head = l.list[:n], 0
	}
}

// due moves what lingers and is chosen into the open transaction, which is committed as soon as the
// writer is free.
func (s *Store) due(choose func(e *lingerer) bool) {
	l := &s.linger
	var t *txn
	for i := l.head; l.live > 0 && i < len(l.list); i++ {
		e := &l.list[i]
		if e.live == 0 || !choose(e) {
			continue
		}
		if s.State() != durable.Taking {
			s.giveUp(e)
			l.forget(e)
			continue
		}
		if t == nil {
			t = s.want(0)
		}
		s.admit(t, e)
		l.forget(e)
	}
	if t == nil {
		l.trim()
		return
	}
	slices.SortFunc(t.appends, func(a, b pending) int { return cmp.Compare(a.seq, b.seq) })
	l.trim()
}

// admit puts a message that has lingered into t.
func (s *Store) admit(t *txn, e *lingerer) {
	p := e.pending
	p.from = len(t.receivers)
	t.receivers = append(t.receivers, e.receivers...)
	p.to = len(t.receivers)
	for i := range e.receivers {
		r := &e.receivers[i]
		if q := s.sessions[r.Session]; q != nil && !r.gone {
			q.lingering--
			q.txn = t.serial
			s.touch(q) // its cursor says from now on that the message is open
		}
	}
	t.appends = append(t.appends, p)
	t.late = append(t.late, p.seq)
	t.done = append(t.done, durable.Completion{Token: e.token, Seq: p.seq})
	t.bytes += e.bytes
	t.ops++
	s.sweeper.came(p.seq, p.live)
}

// giveUp answers that a message cannot be written, and takes it from those who have not acknowledged
// it.
func (s *Store) giveUp(e *lingerer) {
	for i := range e.receivers {
		r := &e.receivers[i]
		if q := s.sessions[r.Session]; q != nil && !r.gone && q.queue.Remove(e.seq) {
			q.ledger.Accepted--
			q.lingering--
			q.unsend(e.seq)
		}
	}
	s.queued -= int64(e.bytes)
	s.linger.done = append(s.linger.done, durable.Completion{Token: e.token, Seq: e.seq, Err: ErrNoRoom})
}

// dueBy makes due what lingers of a publisher of whom another message is due.
func (s *Store) dueBy(publisher string) {
	if s.linger.by[publisher] > 0 {
		s.due(func(e *lingerer) bool { return e.m.Publisher == publisher })
	}
}

// dueAll makes due everything that lingers.
func (s *Store) dueAll() { s.due(func(*lingerer) bool { return true }) }

// setLinger sets the timer for what lingers longest.
func (s *Store) setLinger() {
	if l := &s.linger; l.live > 0 && !l.set {
		l.set = true
		l.timer.Reset(max(time.Until(l.list[l.head].due), 0))
	}
}

// lingering is the goroutine that makes due what has lingered too long.
func (s *Store) lingering() {
	l := &s.linger
	for {
		select {
		case <-l.ended:
			return
		case <-l.timer.C:
		}
		s.mu.Lock()
		l.set = false
		if !s.closing {
			now := time.Now()
			s.due(func(e *lingerer) bool { return !e.due.After(now) })
			s.setLinger()
		}
		done := l.done
		l.done = nil
		s.mu.Unlock()
		s.w.Flush()
		if len(done) > 0 {
			s.c.Completed(done)
		}
	}
}

// leaveLingering takes a session that ends out of everything that lingers.
func (s *Store) leaveLingering(q *session) {
	l := &s.linger
	if q.lingering == 0 {
		return
	}
	var mine []durable.Seq
	for seq := range q.queue.Behind(0) {
		if l.has(seq) {
			mine = append(mine, seq)
		}
	}
	for _, seq := range mine {
		q.done(seq, durable.DroppedEnded)
		s.answered(q, seq)
	}
}
