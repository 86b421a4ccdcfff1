package sessionstore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/platform/clock"
	"dunlin/storeforward/boltfile"
)

// keepBytes is the size up to which a buffer is kept for the next transaction.
const keepBytes = 2 << 20

type boltTx = bbolt.Tx

// txn is one transaction: what was handed over, and once sealed the state that belongs to it.
type txn struct {
	serial uint64        // counts transactions, from 1 on
	within time.Duration // as which it was queued for the writer
	ops    int
	bytes  int
	sealed bool
	// searches: it looks for what can be deleted, if it does nothing else.
	searches bool
	void     bool // it has been answered: one before it failed

	appends   []pending     // ascending by seq
	late      []durable.Seq // of them those that have lingered, in no order
	receivers []receiver
	delays    []delayed
	published []durable.Seq // delayed messages that wait no more
	moves     []move
	retained  []retained
	topics    map[string]int // in retained
	done      []durable.Completion

	// Set by seal.
	last     durable.Seq
	numbered durable.SessionNumber
	blobs    []byte
	cursors  []blob
	records  []blob
	ended    []durable.SessionNumber
	total    []byte
	boot     *clock.Boot
	oldest   uint32 // boot; earlier ones are forgotten
	dead     []uint64
	garbage  []durable.Seq
}

// pending is a message that is not on disk yet.
type pending struct {
	seq         durable.Seq
	m           *message.Message
	from, to    int // its receivers
	live        int // those who are not done with it
	publisher   *session
	publisherID packet.ID
}

// delayed is a message that waits until it is due.
type delayed struct {
	durable.Delayed
	publisher *session
}

// move is a message that has left the queue of a session for that of another.
type move struct {
	q    *session
	seq  durable.Seq
	size uint32
}

// retained is a message to be retained, or with an empty payload one to be removed.
type retained struct {
	m    *message.Message
	lazy bool // nobody is told whether it was saved
}

// blob is the encoded state of a session.
type blob struct {
	q     *session
	value []byte
}

// retain notes a retained message; the last one of a topic counts. It returns by how much the
// transaction grows.
func (t *txn) retain(m *message.Message, lazy bool) int {
	if i, found := t.topics[m.Topic]; found {
		grows := messageBytes(m) - messageBytes(t.retained[i].m)
		t.retained[i] = retained{m, lazy}
		return grows
	}
	if t.topics == nil {
		t.topics = make(map[string]int)
	}
	t.topics[m.Topic] = len(t.retained)
	t.retained = append(t.retained, retained{m, lazy})
	return messageBytes(m)
}

// takeOut removes session n from the receivers of the i-th message.
func (t *txn) takeOut(i int, n durable.SessionNumber) {
	p := &t.appends[i]
	if takeOut(t.receivers[p.from:p.to], n) {
		p.live--
	}
}

// takeOut marks session n as gone among the receivers of a message, and reports whether it was not.
func takeOut(rs []receiver, n durable.SessionNumber) bool {
	j, found := slices.BinarySearchFunc(rs, n, func(r receiver, n durable.SessionNumber) int {
		switch {
		case r.Session < n:
			return -1
		case r.Session > n:
			return 1
		}
		return 0
	})
	if !found || rs[j].gone {
		return false
	}
	rs[j].gone = true
	return true
}

// want returns the transaction that collects, to be committed within d of now. If it is full, it
// is sealed, and another one begins.
func (s *Store) want(d time.Duration) *txn {
	t := s.open
	if t != nil && !s.joined && (t.ops >= boltfile.DefaultMaxOps || t.bytes >= boltfile.DefaultMaxTxBytes) {
		s.seal(t)
		t = nil
	}
	if t == nil {
		t = s.spare
		s.spare = nil
		if t == nil {
			t = new(txn)
		}
		s.serial++
		t.serial, t.within = s.serial, d
		s.open = t
		s.txns = append(s.txns, t)
		s.queue(t)
	} else if d < t.within {
		t.within = d
		if s.w != nil {
			s.w.Within(d)
		}
	}
	return t
}

// join says whether what comes next belongs to the open transaction.
func (s *Store) join(more bool) {
	more = more || s.together
	if s.joined && !more {
		s.parted.Broadcast()
	}
	s.joined = more
	if !more {
		s.torn = nil
	}
}

// queue hands t to the writer; what comes before Start stays in txns until then. It is never
// refused: t counts no bytes, and the writer is closed after the last operation.
func (s *Store) queue(t *txn) {
	switch {
	case s.w == nil:
	case t.within == 0:
		s.w.Add(t)
	default:
		s.w.AddWithin(t, t.within)
	}
}

// seal closes t: nothing is added any more, and the state that goes with it is taken now. So the
// file always holds a state that was true at some call, with everything before it.
func (s *Store) seal(t *txn) {
	t.sealed = true
	s.open = nil
	t.last, t.numbered = s.seq, s.numbered
	for _, q := range s.dirty {
		q.dirty = false
		if q.ended {
			continue
		}
		from := len(t.blobs)
		t.blobs = appendCursor(t.blobs, seqKey(q.number), q, s.seq, &s.linger)
		t.cursors = append(t.cursors, blob{q, t.blobs[from:len(t.blobs):len(t.blobs)]})
		if q.acked == unsealed {
			q.acked = t.serial
		}
	}
	s.dirty = s.dirty[:0]
	for _, q := range s.recorded {
		if !q.ended {
			t.records = append(t.records, blob{q, q.record})
		}
		q.record = nil
	}
	s.recorded = s.recorded[:0]
	t.ended = append(t.ended, s.ended...)
	s.ended = s.ended[:0]
	if s.totalDirty {
		t.total = appendTotal(nil, &s.total)
		s.totalDirty = false
	}
	s.acks = 0
	b := s.history.Current()
	if !s.bootKnown || b.Synced && !s.bootSynced || b.LastMillis-s.bootSaved >= uint64(bootInterval/time.Millisecond) {
		t.boot = &b
		t.oldest = s.history.Oldest()
		s.bootKnown, s.bootSaved, s.bootSynced = true, b.LastMillis, b.Synced
	}
	if s.resting == 0 {
		t.dead, t.garbage = s.sweeper.take(t.dead, t.garbage)
		t.searches = s.sweeper.busy()
	}
}

// apply writes t. It runs on the writer's goroutine; what the operations may still change is only
// used under the lock, in seal.
func (s *Store) apply(tx *bbolt.Tx, t *txn) error {
	s.mu.Lock()
	for s.joined && t == s.open && !t.void {
		s.parted.Wait() // for calls that the loop makes one after the other
	}
	if t.void {
		s.mu.Unlock()
		return boltfile.Nothing()
	}
	if !t.sealed {
		s.seal(t)
	}
	s.mu.Unlock()

	if err := s.ensure(tx, t); err != nil {
		return err
	}
	if cap(s.values) > keepBytes {
		s.values = nil
	}
	s.values = s.values[:0]
	if err := s.applySessions(tx, t); err != nil {
		return err
	}
	messages := boltfile.Appending(tx.Bucket(bucketMessages))
	var key [8]byte
	for i := range t.appends {
		p := &t.appends[i]
		if p.live == 0 {
			continue
		}
		binary.BigEndian.PutUint64(key[:], uint64(p.seq))
		from := len(s.values)
		s.values = appendRecord(s.values, key[:], t.receivers[p.from:p.to], p.m)
		if err := messages.Put(key[:], s.values[from:]); err != nil {
			return err
		}
	}
	if err := s.applyDelayed(tx.Bucket(bucketDue), t); err != nil {
		return err
	}
	if err := applyRetained(tx.Bucket(bucketRetained), t); err != nil {
		return err
	}
	if err := s.applyBoots(tx.Bucket(bucketBoots), t); err != nil {
		return err
	}
	if t.total != nil {
		if err := tx.Bucket(bucketLedgers).Put(keyTotal, t.total); err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketMeta).Put(keyCounters, appendCounters(nil, t.last, t.numbered)); err != nil {
		return err
	}
	if err := sweep(messages, t); err != nil {
		return err
	}
	s.scan(messages)
	return nil
}

func (s *Store) applySessions(tx *bbolt.Tx, t *txn) error {
	sessions, cursors := tx.Bucket(bucketSessions), tx.Bucket(bucketCursors)
	for _, b := range t.records {
		if err := sessions.Put(seqKey(b.q.number), b.value); err != nil {
			return err
		}
	}
	for _, b := range t.cursors {
		if err := cursors.Put(seqKey(b.q.number), b.value); err != nil {
			return err
		}
	}
	for _, n := range t.ended {
		if err := sessions.Delete(seqKey(n)); err != nil {
			return err
		}
		if err := cursors.Delete(seqKey(n)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) applyDelayed(b *bbolt.Bucket, t *txn) error {
	for i := range t.delays {
		d := &t.delays[i].Delayed
		key := seqKey(d.Seq)
		if err := b.Put(key, appendDelayed(nil, key, d)); err != nil {
			return err
		}
	}
	for _, seq := range t.published {
		if err := b.Delete(seqKey(seq)); err != nil {
			return err
		}
	}
	return nil
}

func applyRetained(b *bbolt.Bucket, t *txn) error {
	for _, r := range t.retained {
		key := retainedKey(r.m.Topic)
		if len(r.m.Payload) == 0 {
			if err := b.Delete(key); err != nil {
				return err
			}
			continue
		}
		if err := b.Put(key, appendRetained(nil, key, r.m)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) applyBoots(b *bbolt.Bucket, t *txn) error {
	if t.boot == nil {
		return nil
	}
	key := bootKey(t.boot.Number)
	if err := b.Put(key, appendBoot(nil, key, t.boot)); err != nil {
		return err
	}
	var old [][]byte
	c := b.Cursor()
	for k, _ := c.First(); len(k) == 4 && binary.BigEndian.Uint32(k) < t.oldest; k, _ = c.Next() {
		old = append(old, k)
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// done answers t, on the writer's goroutine. If it failed, everything behind it fails with it:
// what was sealed behind it contains state that began with it.
func (s *Store) done(t *txn, err error) {
	s.mu.Lock()
	if t.void {
		s.mu.Unlock()
		return
	}
	var answers, waiting []durable.Completion
	bytes, asks := t.bytes, false
	s.commits++
	s.answeredTo = t.serial
	if err == nil {
		s.txns = slices.Delete(s.txns, 0, 1)
		s.commit(t)
		answers = append(answers, t.done...)
		s.queued -= int64(t.bytes)
		asks = s.measured(t)
		t.reset()
		if cap(t.blobs) <= keepBytes {
			s.spare = t
		}
	} else {
		failed := s.txns
		s.txns, s.open = nil, nil
		if s.joined { // the second part must not be stored without the first
			s.torn = err
		}
		// Without the messages there may be room: then the others wait for that.
		again := boltfile.IsDiskFull(err) && !s.closing && slices.ContainsFunc(failed, (*txn).hasMessages)
		if boltfile.IsDiskFull(err) {
			err = fmt.Errorf("%w: %w", ErrNoRoom, err)
		}
		for i := len(failed) - 1; i >= 0; i-- {
			s.revoke(failed[i])
		}
		for _, t := range failed { // when nothing of what has failed can delete them any more
			s.moveBack(t)
		}
		for _, t := range failed {
			for _, c := range t.done {
				if again && c.Seq == 0 && c.Err == nil {
					waiting = append(waiting, c)
					continue
				}
				if c.Err == nil {
					c.Err = err
				}
				answers = append(answers, c)
			}
			s.queued -= int64(t.bytes)
			t.void = true
		}
		s.committed, s.answeredTo = s.seq, s.serial
		s.room.relief = nil
		if !s.closing {
			s.repeat(failed)
		}
		if len(waiting) > 0 {
			t := s.want(0)
			t.done = append(t.done, waiting...)
		}
	}
	s.lift()
	fresh := s.open == nil && !s.closing
	if fresh {
		s.want(bootDelay)
	}
	s.promote()
	s.mu.Unlock()
	if len(answers) > 0 {
		s.c.Completed(answers)
	}
	s.used(bytes)
	if fresh || err != nil || asks {
		s.w.Flush()
	}
}

// commit notes that t is on disk.
func (s *Store) commit(t *txn) {
	for i := range t.appends {
		if p := &t.appends[i]; p.live > 0 {
			s.sweeper.wrote(p.seq)
		}
	}
	for _, seq := range t.late { // everybody may have been done with it meanwhile
		s.sweeper.look(blockOf(seq))
	}
	s.sweeper.swept(t.dead, t.garbage)
	s.sweeper.close(s.committed, t.last)
	s.committed = t.last
}

// revoke undoes the messages of t, and notes again what else it would have saved.
func (s *Store) revoke(t *txn) {
	for i := range t.appends {
		p := &t.appends[i]
		for j := range t.receivers[p.from:p.to] {
			r := &t.receivers[p.from+j]
			// Whoever is done with it already has counted it.
			if q := s.sessions[r.Session]; q != nil && !r.gone && q.queue.Remove(p.seq) {
				q.ledger.Accepted--
				q.unsend(p.seq)
				s.sweeper.left(p.seq)
			}
		}
		s.unlist(p.publisher, p.publisherID)
	}
	for i := range t.delays {
		s.unlist(t.delays[i].publisher, t.delays[i].PublisherID)
	}
	for _, b := range t.cursors {
		s.touch(b.q)
		if b.q.acked == t.serial {
			b.q.acked = unsealed
		}
	}
	for _, b := range t.records {
		if b.q.record == nil {
			b.q.record = b.value
			s.recorded = append(s.recorded, b.q)
		}
	}
	s.ended = append(s.ended, t.ended...)
	s.totalDirty = s.totalDirty || t.total != nil
	s.bootKnown = s.bootKnown && t.boot == nil
	s.sweeper.restore(t.dead, t.garbage)
}

// unlist forgets the identifier of a message from a client that is not on disk; q may be nil.
func (s *Store) unlist(q *session, id packet.ID) {
	if q == nil {
		return
	}
	if i := slices.Index(q.incoming, id); i >= 0 {
		q.incoming = slices.Delete(q.incoming, i, i+1)
	}
	s.touch(q)
}

// moveBack puts what t has moved into the queues that it came from.
func (s *Store) moveBack(t *txn) {
	for _, m := range t.moves {
		if m.q.ended {
			continue
		}
		m.q.queue.Insert(m.seq, m.size)
		m.q.ledger.Left[durable.Moved]--
		s.sweeper.revive(m.seq)
		s.touch(m.q)
	}
}

// repeat hands over again what failed and is true nonetheless: the state of sessions, and the
// retained messages nobody was told about.
func (s *Store) repeat(failed []*txn) {
	t := s.want(0) // which also finds out whether the disk works again
	for _, f := range failed {
		for _, r := range f.retained {
			switch {
			case !r.lazy:
			case len(r.m.Payload) == 0:
				s.charge(t, t.retain(r.m, true))
				delete(s.room.lazy, r.m.Topic)
			default:
				s.keepLazy(r.m)
			}
		}
	}
	if s.State() == durable.Taking { // too much waited for a disk that works
		s.takeLazy()
	}
}

// reset makes t ready to be used again.
func (t *txn) reset() {
	clear(t.appends)
	clear(t.receivers)
	clear(t.delays)
	clear(t.moves)
	clear(t.retained)
	clear(t.topics)
	clear(t.cursors)
	clear(t.records)
	*t = txn{
		appends:   t.appends[:0],
		late:      t.late[:0],
		receivers: t.receivers[:0],
		delays:    t.delays[:0],
		published: t.published[:0],
		moves:     t.moves[:0],
		retained:  t.retained[:0],
		topics:    t.topics,
		done:      t.done[:0],
		blobs:     t.blobs[:0],
		cursors:   t.cursors[:0],
		records:   t.records[:0],
		ended:     t.ended[:0],
		dead:      t.dead[:0],
		garbage:   t.garbage[:0],
	}
}
