package sessionstore

import (
	"errors"
	"slices"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/storeforward/boltfile"
)

const (
	// maxReadBytes and maxReadEntries bound one read transaction: pages it sees cannot be reused.
	maxReadBytes   = 1 << 20
	maxReadEntries = 4096
)

// read is a Read on its way. There is at most one that waits for each session.
type read struct {
	token      durable.Token
	session    durable.SessionNumber
	after      durable.Seq
	max, bytes int
	behind     uint64 // the transaction that has to be answered before
	superseded []durable.Token
	queued     bool // in ready
}

// Read reads entries of a session's queue behind after, in order, at most max entries and about
// maxBytes bytes, but at least one entry if there is one. It sees every Append before it. What is
// Done meanwhile is left out.
//
// A session has one Read at a time. A second one takes the place of one that waits, which is
// answered with ErrSuperseded.
func (s *Store) Read(n durable.SessionNumber, after durable.Seq, max, maxBytes int, k durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &read{
		token:   k,
		session: n,
		after:   after,
		max:     min(max, maxReadEntries),
		bytes:   min(maxBytes, maxReadBytes),
	}
	if q := s.sessions[n]; q != nil {
		if q.lingering > 0 {
			s.dueAll()
		}
		r.behind = q.txn
		if old := q.read; old != nil {
			old.superseded = append(old.superseded, old.token)
			old.token, old.after, old.max, old.bytes, old.behind = k, r.after, r.max, r.bytes, r.behind
			r = old
			if r.queued && r.behind > s.answeredTo {
				s.ready = slices.DeleteFunc(s.ready, func(x *read) bool { return x == r })
				r.queued = false
				s.waiting = append(s.waiting, r)
			}
		} else {
			q.read = r
			s.waiting = append(s.waiting, r)
		}
	} else {
		s.waiting = append(s.waiting, r)
	}
	if r.behind > s.answeredTo {
		if !s.closing {
			s.want(0)
		}
		return
	}
	s.release(r)
}

// release makes a waiting read ready.
func (s *Store) release(r *read) {
	if r.queued {
		return
	}
	s.waiting = slices.DeleteFunc(s.waiting, func(x *read) bool { return x == r })
	r.queued = true
	s.ready = append(s.ready, r)
}

// promote makes the reads ready that have waited for the commit that was just answered.
func (s *Store) promote() {
	s.waiting = slices.DeleteFunc(s.waiting, func(r *read) bool {
		if r.behind > s.answeredTo {
			return false
		}
		r.queued = true
		s.ready = append(s.ready, r)
		return true
	})
	if len(s.ready) > 0 {
		s.wake.Signal()
	}
}

// reading is the reader's goroutine: a page fault on the mapping stops it and nobody else.
func (s *Store) reading() {
	for {
		s.mu.Lock()
		for len(s.ready) == 0 && !s.closing {
			s.wake.Wait()
		}
		if s.closing {
			rest := append(s.ready, s.waiting...)
			s.ready, s.waiting = nil, nil
			s.mu.Unlock()
			for _, r := range rest {
				s.refuse(r, ErrClosed)
			}
			return
		}
		r := s.ready[0]
		s.ready = slices.Delete(s.ready, 0, 1)
		q := s.sessions[r.session]
		var todo []durable.Seq
		if q != nil {
			q.read = nil
			todo = s.choose(q, r)
		}
		commits := s.commits
		s.mu.Unlock()

		entries, bad, err := s.fetch(r, todo)
		for i := range entries {
			s.used(messageBytes(entries[i].Message))
		}
		if errors.Is(err, boltfile.ErrUnavailable) {
			s.again(r, commits)
			continue
		}
		for _, k := range r.superseded {
			s.c.Read(durable.Batch{Token: k, Session: r.session, Last: r.after, Err: ErrSuperseded})
		}
		s.c.Read(s.batch(r, todo, entries, bad, err))
	}
}

func (s *Store) refuse(r *read, err error) {
	for _, k := range append(r.superseded, r.token) {
		s.c.Read(durable.Batch{Token: k, Session: r.session, Last: r.after, Err: err})
	}
}

// again lets r wait until the file can be read again, which is when the failed commit is answered.
func (s *Store) again(r *read, commits uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.sessions[r.session]; q != nil {
		if newer := q.read; newer != nil {
			newer.superseded = append(newer.superseded, append(r.superseded, r.token)...)
			return
		}
		q.read = r
	}
	r.queued = s.commits != commits // it was answered meanwhile
	if r.queued {
		s.ready = append(s.ready, r)
	} else {
		s.waiting = append(s.waiting, r)
	}
}

// choose returns the numbers that r is about.
func (s *Store) choose(q *session, r *read) (todo []durable.Seq) {
	for seq := range q.queue.Behind(r.after) {
		if seq > s.committed || !s.written(seq) || len(todo) >= max(r.max, 1) {
			break
		}
		todo = append(todo, seq)
	}
	return todo
}

// written says of a message whose number is not above committed whether it is on disk: it may linger,
// or have lingered until it joined a transaction that is not answered.
func (s *Store) written(seq durable.Seq) bool {
	for _, t := range s.txns {
		if slices.Contains(t.late, seq) {
			return false
		}
	}
	return !s.linger.has(seq)
}

// fetch reads the records of todo, as far as r's bytes reach; bad are those that are damaged.
func (s *Store) fetch(r *read, todo []durable.Seq) (entries []durable.Entry, bad []durable.Seq, err error) {
	if len(todo) == 0 {
		return nil, nil, nil
	}
	bytes := 0
	err = s.file.View(func(tx *bbolt.Tx) error {
		entries, bad, bytes = nil, nil, 0
		for _, seq := range todo {
			e, ok := s.fetchOne(tx, r.session, seq)
			if !ok {
				bad = append(bad, seq)
				continue
			}
			entries = append(entries, e)
			bytes += messageBytes(e.Message)
			if bytes >= r.bytes {
				break
			}
		}
		return nil
	})
	if _, damaged := errors.AsType[*boltfile.DamageError](err); !damaged {
		return entries, bad, err
	}
	// A page is damaged: one by one, to find out which entries it takes with it.
	entries, bad, bytes = nil, nil, 0
	for _, seq := range todo {
		var e durable.Entry
		ok := false
		err := s.file.View(func(tx *bbolt.Tx) error {
			e, ok = s.fetchOne(tx, r.session, seq)
			return nil
		})
		if _, damaged := errors.AsType[*boltfile.DamageError](err); err != nil && !damaged {
			return nil, nil, err
		}
		if err != nil || !ok {
			if err != nil {
				s.log.Error("a queued message cannot be read and is dropped", "session", r.session, "seq", seq, "err", err)
			}
			bad = append(bad, seq)
			continue
		}
		entries = append(entries, e)
		if bytes += messageBytes(e.Message); bytes >= r.bytes {
			break
		}
	}
	return entries, bad, nil
}

func (s *Store) fetchOne(tx *bbolt.Tx, n durable.SessionNumber, seq durable.Seq) (durable.Entry, bool) {
	key := seqKey(seq)
	value := tx.Bucket(bucketMessages).Get(key)
	err := errors.New("its record is gone")
	if value != nil {
		var d decoder
		if d, err = openValue(key, value); err == nil {
			var e durable.Entry
			var found bool
			e, found, err = d.entry(n, seq)
			if err == nil && found {
				return e, true
			}
			if err == nil {
				err = errors.New("its record does not name the session")
			}
		}
	}
	s.mu.Lock()
	q := s.sessions[n]
	wanted := q != nil && q.queue.Contains(seq)
	s.mu.Unlock()
	if wanted { // otherwise it was done meanwhile, and swept
		s.log.Error("a queued message cannot be read and is dropped", "session", n, "seq", seq, "err", err)
	}
	return durable.Entry{}, false
}

// batch makes the answer: without what was done meanwhile, and with what could not be read
// counted as dropped.
func (s *Store) batch(r *read, todo []durable.Seq, entries []durable.Entry, bad []durable.Seq, err error) durable.Batch {
	b := durable.Batch{Token: r.token, Session: r.session, Last: r.after, Err: err}
	if err != nil {
		return b
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.sessions[r.session]
	if q == nil || len(todo) == 0 {
		return b
	}
	if len(entries) > 0 {
		b.Last = entries[len(entries)-1].Seq
	}
	for _, seq := range bad {
		b.Last = max(b.Last, seq)
		if !s.closing {
			s.finish(q, seq, durable.DroppedDamaged)
		}
	}
	b.Entries = q.keepQueued(entries)
	for i := range b.Entries {
		b.Entries[i].PacketID = q.packetID(b.Entries[i].Seq)
	}
	b.More = q.queue.Last() > b.Last
	return b
}

// keepQueued leaves out the entries, which are in order, that are not in the queue any more.
func (q *session) keepQueued(entries []durable.Entry) []durable.Entry {
	if len(entries) == 0 {
		return nil
	}
	kept := entries[:0]
	at := 0
	for seq := range q.queue.Behind(entries[0].Seq - 1) {
		for at < len(entries) && entries[at].Seq < seq {
			at++
		}
		if at == len(entries) {
			break
		}
		if entries[at].Seq == seq {
			kept = append(kept, entries[at])
		}
	}
	clear(entries[len(kept):])
	return kept
}
