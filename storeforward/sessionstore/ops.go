package sessionstore

import (
	"cmp"
	"slices"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// Append queues a message for its receivers and returns its number. Receivers must have been put;
// an ended or unknown one is ignored. It is answered after the commit, also when every receiver
// was Done with it before and nothing of it was written. Without a token it goes with the next
// commit, within SaveAfter; a Lazy one within a minute.
//
// With From it is the message of another queue, which it leaves in the same transaction.
//
// It returns 0, and answers with ErrFull, if too much waits for the disk; with ErrNoRoom if the State
// is not Taking, unless nothing is added; or with the error of the
// disk, if what this belongs together with has failed already.
func (s *Store) Append(a durable.Append, k durable.Token) durable.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return 0
	}
	if s.torn != nil {
		s.turnDown(k, s.torn)
		s.join(a.More)
		return 0
	}
	size := messageBytes(a.Message)
	lingers := a.Linger && k != 0 && !s.joined && s.mayLinger(size) // maybe without the disk
	first := !s.joined || s.fresh                                   // all of it or nothing
	if first && !lingers && s.refuses(&a, size) {
		s.turnAway(k)
		return 0
	}
	if first && s.queued > 0 && s.queued+int64(size) > s.opts.MaxQueued {
		s.turnDown(k, ErrFull)
		return 0
	}
	s.fresh = false
	if lingers {
		return s.lingers(&a, k, size)
	}
	d := s.delay(k)
	switch {
	case a.Lazy:
		d = lazyDelay
	case a.Relaxed:
		d = s.opts.SaveAfter
	}
	t := s.want(d)
	if a.Sync && s.w != nil {
		s.w.Urgent()
	}
	if k != 0 {
		s.dueBy(a.Message.Publisher)
	}
	s.join(a.More)
	s.seq++
	seq := s.seq
	if k != 0 {
		t.done = append(t.done, durable.Completion{Token: k, Seq: seq})
	}
	if a.Retained {
		delete(s.room.lazy, a.Message.Topic) // it is older
		s.charge(t, t.retain(a.Message, k == 0))
	}
	p := pending{seq: seq, m: a.Message, from: len(t.receivers)}
	t.receivers = s.enter(t.receivers, &a, seq, t.serial)
	p.to = len(t.receivers)
	p.live = p.to - p.from
	if q := s.sessions[a.From]; q != nil && p.live > 0 && q.done(a.FromSeq, durable.Moved) {
		s.sweeper.left(a.FromSeq)
		s.touch(q)
		t.moves = append(t.moves, move{q, a.FromSeq, uint32(a.Message.Size())})
	}
	p.publisher, p.publisherID = s.list(a.Publisher, a.PublisherID), a.PublisherID
	if a.Delayed != 0 {
		t.published = append(t.published, a.Delayed)
	}
	if p.live > 0 || p.publisher != nil {
		t.appends = append(t.appends, p)
		s.sweeper.came(seq, p.live)
		s.charge(t, size+16*p.live)
	}
	t.ops++
	return seq
}

// enter puts a message into the queues of its receivers and appends these to dst, in the order of the
// sessions: small differences in the record, and quick to find. txn is the transaction that it is in,
// 0 = none yet.
func (s *Store) enter(dst []receiver, a *durable.Append, seq durable.Seq, txn uint64) []receiver {
	from := len(dst)
	for i := range a.Receivers {
		r := &a.Receivers[i]
		q := s.sessions[r.Session]
		if q == nil || q.queue.Last() >= seq {
			continue // ended, or named twice
		}
		q.queue.Push(seq, uint32(a.Message.Size()))
		q.ledger.Accepted++
		q.txn = max(q.txn, txn)
		if r.PacketID != 0 {
			q.sent(seq, r.PacketID)
		}
		dst = append(dst, receiver{Receiver: *r})
		dst[len(dst)-1].SubscriptionIDs = slices.Clone(r.SubscriptionIDs)
	}
	slices.SortFunc(dst[from:], func(a, b receiver) int { return cmp.Compare(a.Session, b.Session) })
	return dst
}

// refuses says whether a message is not taken because of the state of the store. What removes a
// retained message is, and so is a Lazy one, which waits in memory.
func (s *Store) refuses(a *durable.Append, bytes int) bool {
	if a.From != 0 && s.room.broken == durable.Taking { // what it leaves makes room
		return false
	}
	if len(a.Receivers) == 0 && a.Publisher == 0 && (!a.Retained || len(a.Message.Payload) == 0) || !s.lacks(bytes) {
		return false
	}
	if !a.Lazy || len(a.Receivers) > 0 {
		return true
	}
	s.keepLazy(a.Message)
	a.Retained = false
	return false
}

// list notes the identifier of a message from a client. It returns nil if there is nothing to note.
func (s *Store) list(n durable.SessionNumber, id packet.ID) *session {
	q := s.sessions[n]
	if q == nil || id == 0 || slices.Contains(q.incoming, id) {
		return nil
	}
	q.incoming = append(q.incoming, id)
	s.touch(q)
	return q
}

// Delay keeps a message that is to be published later and returns its number; d.Seq is not used. It
// stays until an Append with that number is on disk. Delay is answered like Append, and like it
// returns 0 and answers with ErrFull if too much waits for the disk.
func (s *Store) Delay(d durable.Delayed, k durable.Token) durable.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return 0
	}
	size := messageBytes(d.Message)
	if s.lacks(size) {
		s.turnAway(k)
		return 0
	}
	if s.queued > 0 && s.queued+int64(size) > s.opts.MaxQueued {
		s.turnDown(k, ErrFull)
		return 0
	}
	t := s.want(s.delay(k))
	s.seq++
	d.Seq = s.seq
	if k != 0 {
		t.done = append(t.done, durable.Completion{Token: k, Seq: d.Seq})
	}
	t.delays = append(t.delays, delayed{d, s.list(d.Publisher, d.PublisherID)})
	s.charge(t, size)
	t.ops++
	return d.Seq
}

// turnDown answers with an error, in the order of the operations.
func (s *Store) turnDown(k durable.Token, err error) {
	t := s.want(0)
	if k != 0 {
		t.done = append(t.done, durable.Completion{Token: k, Err: err})
	}
}

// turnAway answers that a message is not taken. It waits for nothing: a disk that is full or fails may
// let the others wait for long.
func (s *Store) turnAway(k durable.Token) {
	switch {
	case k == 0:
	case s.c == nil:
		s.turnDown(k, ErrNoRoom)
	default:
		s.c.Completed([]durable.Completion{{Token: k, Err: ErrNoRoom}})
	}
}

// delay is how long an operation may stay unsaved: nobody waits for one without a token.
func (s *Store) delay(k durable.Token) time.Duration {
	if k == 0 {
		return s.opts.SaveAfter
	}
	return 0
}

// messageBytes is about what a message takes on disk.
func messageBytes(m *message.Message) int {
	return 48 + len(m.Topic) + len(m.Properties) + len(m.Payload) + len(m.Publisher)
}

func (s *Store) charge(t *txn, bytes int) {
	t.bytes += bytes
	s.queued += int64(bytes)
}

// PutSession creates or replaces the record of a session. It copies what it needs. If it is
// answered with an error, the record is not on disk yet, but goes with the next commit that works:
// the caller ends a session that it does not want any more.
func (s *Store) PutSession(r *durable.Session, k durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	q := s.sessions[r.Number]
	if q == nil {
		q = &session{number: r.Number, high: s.seq}
		s.sessions[r.Number] = q
		s.numbered = max(s.numbered, r.Number)
	}
	if q.record == nil {
		s.recorded = append(s.recorded, q)
	}
	q.record = appendSession(nil, seqKey(r.Number), r)
	s.answer(k)
}

// answer asks for a commit, and for a completion after it if k is a token.
func (s *Store) answer(k durable.Token) {
	t := s.want(s.delay(k))
	if k != 0 {
		t.done = append(t.done, durable.Completion{Token: k})
		t.ops++
	}
}

// EndSession forgets a session and what is queued for it; that is counted as DroppedEnded. The
// number is unknown from the call on.
func (s *Store) EndSession(n durable.SessionNumber, k durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	if q := s.sessions[n]; q != nil {
		s.leaveLingering(q)
		s.sweeper.leftAll(&q.queue)
		if s.open != nil {
			for i := range s.open.appends {
				s.open.takeOut(i, n)
			}
		}
		if dropped := q.queue.Len(); dropped > 0 {
			q.ledger.count(durable.DroppedEnded, uint64(dropped))
		}
		s.total.Add(&q.ledger)
		s.totalDirty = true
		delete(s.sessions, n)
		q.ended = true
		s.ended = append(s.ended, n)
		if q.read != nil {
			s.release(q.read)
		}
	}
	s.answer(k)
}

// Done takes a message out of a queue. It is saved with the next commit, after SaveAfter at
// the latest. A message that is not in the queue is ignored.
func (s *Store) Done(n durable.SessionNumber, seq durable.Seq, o durable.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.sessions[n]; q != nil && !s.closing {
		s.finish(q, seq, o)
	}
}

// Queued returns how many messages are in the queue of a session, and their bytes: what it has
// not been told to be Done of any Append before.
func (s *Store) Queued(n durable.SessionNumber) (messages int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.sessions[n]; q != nil {
		return q.queue.Len(), q.queue.Bytes()
	}
	return 0, 0
}

// DropOldest takes at least so many messages and bytes out of a queue, the oldest of those behind
// after, and counts them as DroppedFull. If there are not enough it takes none. It returns how many
// they were, and the number of the last one. It is saved as Done is: with the commit of what is
// handed over next, or before.
func (s *Store) DropOldest(n durable.SessionNumber, after durable.Seq, messages int, bytes int64) (dropped int, last durable.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropOldest(n, after, messages, bytes, false)
}

// Evict is DropOldest that takes what there is, up to so many bytes, because of Pressure.
func (s *Store) Evict(n durable.SessionNumber, after durable.Seq, bytes int64) (dropped int, last durable.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if dropped, last = s.dropOldest(n, after, 0, bytes, true); dropped > 0 {
		s.room.relief = s.want(0)
		s.sweeper.lookClosely()
	}
	return dropped, last
}

func (s *Store) dropOldest(n durable.SessionNumber, after durable.Seq, messages int, bytes int64, partly bool) (dropped int, last durable.Seq) {
	q := s.sessions[n]
	if q == nil || s.closing {
		return 0, 0
	}
	var oldest []durable.Seq
	for seq, size := range q.queue.Sizes(after) {
		if len(oldest) >= messages && bytes <= 0 {
			break
		}
		oldest = append(oldest, seq)
		bytes -= int64(size)
	}
	if len(oldest) == 0 || !partly && (len(oldest) < messages || bytes > 0) {
		return 0, 0
	}
	for _, seq := range oldest {
		s.finish(q, seq, durable.DroppedFull)
	}
	return len(oldest), oldest[len(oldest)-1]
}

// finish takes seq out of q's queue, and out of its record if that is not written yet.
func (s *Store) finish(q *session, seq durable.Seq, o durable.Outcome) {
	if !q.done(seq, o) {
		return
	}
	q.unsend(seq)
	if s.answered(q, seq) {
		s.touch(q) // nothing of it is on disk: what has changed are the counts
		return
	}
	q.acked = unsealed
	s.sweeper.left(seq)
	if t := s.open; t != nil {
		if i, found := slices.BinarySearchFunc(t.appends, seq, func(p pending, seq durable.Seq) int { return cmp.Compare(p.seq, seq) }); found {
			t.takeOut(i, q.number)
		}
	}
	s.acknowledge(q)
}

// acknowledge notes a change of q that nobody waits for.
func (s *Store) acknowledge(q *session) {
	s.touch(q)
	s.acks++
	if s.acks >= maxAcks {
		s.want(0)
	} else {
		s.want(s.opts.SaveAfter)
	}
}

// touch notes that q's cursor has to be written.
func (s *Store) touch(q *session) {
	if !q.dirty {
		q.dirty = true
		s.dirty = append(s.dirty, q)
	}
}

// Sent notes the packet id under which a QoS 2 message is about to leave (MQTT5 §4.3.3); the
// PUBLISH leaves after its completion.
func (s *Store) Sent(n durable.SessionNumber, seq durable.Seq, id packet.ID, k durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	if q := s.sessions[n]; q != nil && q.queue.Contains(seq) {
		q.sent(seq, id)
		s.touch(q)
	}
	s.answer(k)
}

// Received notes a PUBREC: the message is done, its id is not; the PUBREL leaves after its
// completion.
func (s *Store) Received(n durable.SessionNumber, seq durable.Seq, id packet.ID, k durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	if q := s.sessions[n]; q != nil {
		q.received(id)
		s.touch(q)
		s.finish(q, seq, durable.Delivered)
	}
	s.answer(k)
}

// Completed notes a PUBCOMP: id is free.
func (s *Store) Completed(n durable.SessionNumber, id packet.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.sessions[n]; q != nil && !s.closing && q.free(id) {
		s.acknowledge(q)
	}
}

// Release notes the client's PUBREL of an incoming id; the PUBCOMP leaves after its completion.
func (s *Store) Release(n durable.SessionNumber, id packet.ID, k durable.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	if q := s.sessions[n]; q != nil {
		if i := slices.Index(q.incoming, id); i >= 0 {
			q.incoming = slices.Delete(q.incoming, i, i+1)
			s.touch(q)
		}
	}
	s.answer(k)
}

// NextSession returns a session number that was never given before. It is used up with the first
// commit after it.
func (s *Store) NextSession() durable.SessionNumber {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbered++
	return s.numbered
}

// Together says whether what follows is one transaction, until it says that it is not, or Flush. If it
// fails before all of it was handed over, what follows of messages fails, too; the state of sessions
// goes with the next commit that works.
func (s *Store) Together(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.together, s.fresh = on, on
	s.join(false)
}

// Flush hands what was collected to the writer and returns at once. What comes while the writer
// is about to begin a transaction may still join it.
func (s *Store) Flush() {
	s.mu.Lock()
	s.together, s.fresh = false, false
	s.join(false)
	if len(s.ready) > 0 {
		s.wake.Signal()
	}
	w, done := s.w, s.linger.done
	s.linger.done = nil
	s.mu.Unlock()
	if w != nil {
		w.Flush()
	}
	if len(done) > 0 {
		s.c.Completed(done)
	}
}
