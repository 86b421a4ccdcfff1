package session

import (
	"slices"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// Offered says what to do with a message for the session.
type Offered int

// What Offer answers.
const (
	SendNow Offered = iota + 1 // it has an identifier and a place in the window
	Wait                       // it stays in the queue: append it, or Enqueue it without a number
	Refuse                     // the queue in memory is full: count it, or the oldest of it, as dropped
)

// Offer asks what happens to a message of QoS 1 or 2; ready says that the connection takes more
// output now. For SendNow it returns the identifier; the caller then calls Took with the
// message's number.
func (s *Session) Offer(ready bool) (Offered, packet.ID) {
	if !s.Durable() && s.Full() {
		return Refuse, 0
	}
	if !ready || !s.Open() {
		return Wait, 0
	}
	return SendNow, s.flight.takeID()
}

// Full says that Offer refuses messages, of a session without a number.
func (s *Session) Full() bool {
	l := s.limits
	return s.Pending() >= int(l.MaxQueued) ||
		l.MaxBytes > 0 && s.waiting != nil && s.waiting.bytes >= int(l.MaxBytes)
}

// Open says that Offer would have a message sent now, if the connection takes more output.
func (s *Session) Open() bool {
	return s.connected && s.live && s.room() > 0 && s.queued() == 0
}

// room is how many messages that were never sent may be sent now.
func (s *Session) room() int {
	return min(int(s.window)-int(s.outstanding), s.limits.identifiers()-s.InFlight())
}

// Took notes that a message was appended for a durable session. id is what Offer answered, 0
// if the message waits.
func (s *Session) Took(seq durable.Seq, qos packet.QoS, id packet.ID) {
	s.pending++
	s.appended = seq
	if id == 0 {
		s.live = false
		return
	}
	s.readTo = seq
	s.push(run{seq: seq, id: id, state: firstState(qos)})
}

// Sending notes that a message is being sent that has no number: its session has none, or the store
// did not take it.
func (s *Session) Sending(qos packet.QoS, id packet.ID) {
	s.push(run{id: id, state: sent(qos)})
}

func firstState(qos packet.QoS) state {
	if qos == 2 {
		return committing
	}
	return sent1
}

// push enters one message that is on its way on this connection.
func (s *Session) push(r run) {
	s.outstanding++
	if s.Durable() {
		s.begun = max(s.begun, r.seq)
	}
	r.n, r.here = 1, true
	s.flight.push(r, &s.limits.spare)
}

// Enqueue keeps a message of a session without a number until the window opens.
func (s *Session) Enqueue(q Queued) {
	w := s.wait()
	w.queue.add(q)
	w.bytes += q.size()
}

func (s *Session) wait() *waiting {
	if s.waiting == nil {
		s.waiting = new(waiting)
	}
	return s.waiting
}

// Take takes a message of the store out, which another session gets in its place: false if it must
// stay, since it is a QoS 2 message that has an identifier [MQTT-4.8.2-4], or if it is not there any
// more. No connection has the session.
func (s *Session) Take(seq durable.Seq) bool {
	if s.connected || s.dropped.has(seq) {
		return false
	}
	i, k := s.flight.bySeq(seq)
	switch {
	case i < 0:
		s.done(1)
	case s.flight.runs[i].state != sent1:
		return false
	default:
		s.finish(i, k, 1)
	}
	return true
}

// Returned takes back a Take: the other session could not get the message. No connection has the
// session.
func (s *Session) Returned(seq durable.Seq) {
	s.pending++
	s.live = false
	s.readTo = min(s.readTo, seq-1)
	if s.dropped.has(seq) { // those beside it were: nothing is being read in which they could be
		s.dropped = span{}
	}
}

// Keep remembers a QoS 1 message of a shared subscription that is being sent by a session without a
// number, until it is acknowledged: Orphans returns it then.
func (s *Session) Keep(id packet.ID, q Queued) {
	w := s.wait()
	if w.kept == nil {
		w.kept = make(map[packet.ID]Queued)
	}
	w.kept[id] = q
	w.bytes += q.size()
}

// Orphans returns what a session without a number leaves to other members of its groups when it
// ends: what it came by shared subscriptions and was not acknowledged, in order. QoS 2 that was sent
// is not among it [MQTT-4.8.2-5].
func (s *Session) Orphans() (all []Queued) {
	w := s.waiting
	if w == nil {
		return nil
	}
	for _, r := range s.flight.all() {
		for k := range int(r.n) {
			if q, ok := w.kept[r.id+packet.ID(k)]; ok {
				all = append(all, q)
			}
		}
	}
	for q := range w.queue.all() {
		if q.Share != "" {
			all = append(all, q)
		}
	}
	return all
}

// DropOldest takes the message that waits longest in memory away; false if none waits.
func (s *Session) DropOldest() (q Queued, ok bool) {
	if s.queued() == 0 {
		return q, false
	}
	return s.shift(), true
}

// shift takes the first message out of the queue in memory.
func (s *Session) shift() Queued {
	w := s.waiting
	q := w.queue.take()
	w.bytes -= q.size()
	switch {
	case w.queue.len() > 0:
	case w.kept == nil:
		s.waiting = nil
	default:
		w.queue = queue{}
	}
	return q
}

// NeverSent is behind which message of the store everything is that was never in flight: that may
// be dropped, the oldest first; then call Dropped.
func (s *Session) NeverSent() durable.Seq { return s.begun }

// Dropped notes that so many messages behind NeverSent were dropped from the store, the oldest, up
// to last. They may still be among the entries of a read that is under way.
func (s *Session) Dropped(messages int, last durable.Seq) {
	if s.dropped.to <= s.begun {
		s.dropped.from = s.begun
	}
	s.dropped.to = last
	s.done(messages)
}

// Dequeue takes the next message that waits in memory, if the window has room.
func (s *Session) Dequeue() (q Queued, id packet.ID, ok bool) {
	if s.queued() == 0 || s.room() <= 0 {
		return q, 0, false
	}
	return s.shift(), s.flight.takeID(), true
}

// NextRead says whether the store is to be read now, behind which number, and for how many
// entries there is room.
func (s *Session) NextRead() (after durable.Seq, room int, ok bool) {
	room = int(s.window) - int(s.outstanding)
	// A read costs the same for one entry as for many: half the window must be open.
	if !s.Durable() || !s.connected || s.live || s.reading || room <= 0 || 2*room < int(s.window) && !s.again {
		return 0, 0, false
	}
	if room = min(room, max(s.room(), s.unsent())); room <= 0 {
		return 0, 0, false
	}
	s.reading, s.again = true, false
	s.mark = s.appended
	return s.readTo, room, true
}

// unsent is how many messages are in flight from earlier connections and not sent on this one.
func (s *Session) unsent() (n int) {
	for _, r := range s.flight.all() {
		if !r.here && r.unacknowledged() {
			n += int(r.n)
		}
	}
	return n
}

// Deliver is what to do with an entry that was read.
type Deliver int

// What Entry answers.
const (
	Ignore Deliver = iota // it is on its way on this connection, past PUBREC, or dropped
	Full                  // the window has no room: it and those behind it are read again later
	Send                  // send it
	Resend                // send it with DUP set: it may have left on an earlier connection
	Commit                // QoS 2: write its identifier down, call Committed, then send it
)

// Entry takes one entry that was read, in order.
func (s *Session) Entry(e *durable.Entry) (packet.ID, Deliver) {
	if slices.Contains(s.late, e.Seq) {
		s.readTo = e.Seq
		return 0, Ignore
	}
	if i, k := s.flight.bySeq(e.Seq); i >= 0 {
		r := s.flight.runs[i]
		switch {
		case r.here || !r.unacknowledged():
			s.readTo = e.Seq
			return 0, Ignore
		case s.outstanding >= s.window:
			return 0, Full
		}
		s.readTo = e.Seq
		s.flight.change(i, k, 1, &s.limits.spare, func(r *run) { r.here = true })
		s.outstanding++
		if r.state == committing {
			return r.id + packet.ID(k), Commit
		}
		return r.id + packet.ID(k), Resend
	}
	if s.dropped.has(e.Seq) {
		s.readTo = e.Seq
		return 0, Ignore
	}
	if s.room() <= 0 {
		return 0, Full
	}
	s.readTo = e.Seq
	id := s.flight.takeID()
	s.push(run{seq: e.Seq, id: id, state: firstState(e.QoS)})
	switch {
	case e.QoS == 2:
		return id, Commit
	case s.mayHaveLeft(e):
		return id, Resend
	}
	return id, Send
}

// Begun says whether an entry is in flight, on this connection or from an earlier one, or done since
// it was read: then it neither expires nor is it denied any more.
func (s *Session) Begun(seq durable.Seq) bool {
	i, _ := s.flight.bySeq(seq)
	return i >= 0 || slices.Contains(s.late, seq) || s.dropped.has(seq)
}

// Skip notes that an entry was read and is done without having been sent.
func (s *Session) Skip(seq durable.Seq) {
	s.readTo = seq
	s.begun = max(s.begun, seq)
	s.done(1)
}

// EndRead takes the end of a read: last is how far it went, more whether the store has entries
// behind it. whole is false if Entry said Full: what was not taken is read again.
func (s *Session) EndRead(last durable.Seq, more, whole bool) {
	s.reading, s.late = false, nil
	if !whole {
		return
	}
	s.readTo = max(s.readTo, last)
	// A read sees everything that was appended before it was asked for.
	if !more && (s.appended == s.mark || s.readTo >= s.appended) {
		s.live = true
		s.settle()
	}
}

// settle compares with the store when everything that it has was seen: what was in flight on an
// earlier connection and did not come again, and what waited and did not come, is damaged there.
func (s *Session) settle() {
	s.pending = 0
	s.flight.removeIf(&s.limits.spare, func(r *run) bool {
		if r.unacknowledged() && r.here {
			s.pending += int(r.n)
		}
		return r.unacknowledged() && !r.here
	})
}

// Committed notes that the identifier of a QoS 2 message is on disk. It says whether the
// PUBLISH is to be sent on this connection now.
func (s *Session) Committed(id packet.ID, seq durable.Seq) bool {
	i, k := s.flight.byID(id)
	if i < 0 || !s.connected {
		return false
	}
	if r := &s.flight.runs[i]; r.seqAt(k) != seq || r.state != committing || !r.here {
		return false
	}
	s.flight.move(i, k, 1, sent2, &s.limits.spare)
	return true
}

// Puback ends a QoS 1 flow. It returns the number of the message that is done; ok is false if
// there is no such flow.
func (s *Session) Puback(id packet.ID) (seq durable.Seq, ok bool) {
	i, k := s.flight.byID(id)
	if i < 0 || s.flight.runs[i].state != sent1 {
		return 0, false
	}
	return s.finish(i, k, 1), true
}

// Pubrec takes the client's PUBREC. With refused, a reason code from 0x80 on, it ends the flow
// [MQTT-4.3.3-4]. Otherwise next tells what is to be done.
func (s *Session) Pubrec(id packet.ID, refused bool) (seq durable.Seq, next Next) {
	i, k := s.flight.byID(id)
	if i < 0 {
		return 0, UnknownID
	}
	r := s.flight.runs[i]
	switch {
	case r.state == committing || r.state == sent1:
		return 0, UnknownID
	case refused && r.state == sent2:
		return s.finish(i, k, 1), Finished
	case r.state == received:
		return 0, Nothing // its PUBREL follows the commit
	case r.state == released:
		return 0, SendRelease
	case !s.Durable():
		s.flight.move(i, k, 1, released, &s.limits.spare)
		return 0, SendRelease
	case r.state == sent2:
		s.acknowledged(r.seqAt(k))
	}
	s.flight.move(i, k, 1, received, &s.limits.spare)
	return r.seqAt(k), CommitReceived
}

// Together takes n acknowledgements whose identifiers count up from first, as far as the first of
// them are alike: PUBACK, PUBREC or PUBCOMP, as t says, with a reason code below 0x80, for a session
// without a number. It returns how many that are, and 0 if the first is to be taken alone, by Puback,
// Pubrec or Pubcomp. For each PUBREC, PUBREL is to be sent.
func (s *Session) Together(t packet.Type, first packet.ID, n int) int {
	i, k := s.flight.byID(first)
	if i < 0 || s.Durable() {
		return 0
	}
	r := &s.flight.runs[i]
	n = min(n, int(r.n)-k)
	switch {
	case t == packet.PUBACK && r.state == sent1, t == packet.PUBCOMP && r.state == released:
		s.finish(i, k, n)
	case t == packet.PUBREC && r.state == sent2:
		s.flight.move(i, k, n, released, &s.limits.spare)
	default:
		return 0
	}
	return n
}

// Next is what follows an acknowledgement of QoS 2.
type Next int

// What follows.
const (
	Nothing        Next = iota
	UnknownID           // no such flow: answer with Packet Identifier not found
	Finished            // the flow has ended
	SendRelease         // send PUBREL
	CommitReceived      // write it down, then call ReceivedCommitted
	CommitRelease       // write it down, then call Released
	SendComplete        // send PUBCOMP
	Early               // PUBREL before PUBREC: the client breaks the protocol
)

// ReceivedCommitted notes that a PUBREC is on disk. It says whether the PUBREL is to be sent.
func (s *Session) ReceivedCommitted(id packet.ID) bool {
	i, k := s.flight.byID(id)
	if i < 0 || s.flight.runs[i].state != received {
		return false
	}
	s.flight.move(i, k, 1, released, &s.limits.spare)
	return s.connected
}

// Unreceived notes that a PUBREC could not be written: the next connection tries again.
func (s *Session) Unreceived(id packet.ID) {
	if i, k := s.flight.byID(id); i >= 0 && s.flight.runs[i].state == received {
		s.flight.move(i, k, 1, unsaved, &s.limits.spare)
	}
}

// Pubcomp ends a QoS 2 flow; false if there is no such flow.
func (s *Session) Pubcomp(id packet.ID) bool {
	i, k := s.flight.byID(id)
	if i < 0 || s.flight.runs[i].state != released {
		return false
	}
	s.finish(i, k, 1)
	return true
}

// Drop ends a flow whose message the client cannot take.
func (s *Session) Drop(id packet.ID) (seq durable.Seq, ok bool) {
	i, k := s.flight.byID(id)
	if i < 0 {
		return 0, false
	}
	return s.finish(i, k, 1), true
}

// Abort takes back a message that got an identifier and could not be stored. At QoS 1 it has been
// sent: the client may acknowledge it on this connection, with which it is forgotten.
func (s *Session) Abort(id packet.ID, seq durable.Seq) {
	i, k := s.flight.byID(id)
	if i < 0 || s.flight.runs[i].seqAt(k) != seq {
		return
	}
	switch s.flight.runs[i].state {
	case committing:
		s.finish(i, k, 1)
	case sent1, sent2:
		s.flight.change(i, k, 1, &s.limits.spare, func(r *run) { r.seq = 0 })
		s.done(1)
	}
}

// Lost takes back a message that waits and could not be stored.
func (s *Session) Lost(seq durable.Seq) {
	if !s.dropped.has(seq) {
		s.done(1)
	}
}

// finish ends n flows of a run from the entry k on, and returns the number of the first; only of a
// session without a number it is more than one.
func (s *Session) finish(i, k, n int) durable.Seq {
	r := s.flight.runs[i]
	if r.here {
		s.outstanding -= uint16(n)
	}
	if r.unacknowledged() {
		s.acknowledged(r.seqAt(k))
	}
	if w := s.waiting; w != nil && len(w.kept) > 0 {
		for j := range n {
			w.forget(r.id + packet.ID(k+j))
		}
	}
	s.flight.remove(i, k, n, &s.limits.spare)
	return r.seqAt(k)
}

// forget drops what was kept of a message for another session.
func (w *waiting) forget(id packet.ID) {
	if q, ok := w.kept[id]; ok {
		w.bytes -= q.size()
		delete(w.kept, id)
	}
}

// acknowledged notes that a message is done. What the client acknowledges of an earlier connection
// may be among the entries of a read that is under way.
func (s *Session) acknowledged(seq durable.Seq) {
	s.done(1)
	if s.reading && seq > s.readTo {
		s.late = append(s.late, seq)
	}
}

func (s *Session) done(n int) { s.pending = max(0, s.pending-n) }
