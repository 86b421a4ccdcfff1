package session

import (
	"math"
	"slices"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// Limits bound the sessions of one loop.
type Limits struct {
	Window int32 // PUBLISH packets in flight to the client, 1 to 65,535

	// Of a session without a number, whose queue is in memory. The queue of another is bounded by
	// whoever owns the store.
	MaxQueued int32 // messages that wait, in flight included
	MaxBytes  int32 // of messages that wait, or are kept for others; 0 = no limit

	spare spareFlights
}

// identifiers is how many may be in use. There can be more of them than the window allows: those
// of earlier connections whose PUBCOMP is missing. A client that never sends it gets nothing more
// at last, instead of taking them all.
func (l *Limits) identifiers() int { return min(2*int(l.Window), math.MaxUint16) }

// Session is the Session State of one client. The zero value is not usable: call New. A gateway has
// thousands that do nothing, so what only some need is behind a pointer.
type Session struct {
	number durable.SessionNumber // 0 = ends with its connection
	limits *Limits               // shared with other sessions

	// To the client.
	connected   bool
	live        bool
	window      uint16 // of this connection: the least of the limit and the client's Receive Maximum
	outstanding uint16 // PUBLISH sent on this connection and not answered, <= window
	flight      flight
	waiting     *waiting // of a session without a number: nil = nothing waits, nothing is kept
	*progress            // of a session with a number; nil without one

	// From the client.
	incoming []Incoming
}

// waiting is what a session without a number has in memory.
type waiting struct {
	queue queue                // what waits
	kept  map[packet.ID]Queued // what is in flight and another session gets if this one ends; nil = none
	bytes int                  // of queue and kept
}

// progress is how far a session with a number has come with what the store has for it.
type progress struct {
	reading  bool          // a read of the store is under way
	again    bool          // what is in flight is to be read and sent again
	pending  int           // messages appended and not done
	readTo   durable.Seq   // everything up to it has been sent or is done
	appended durable.Seq   // the newest message appended
	begun    durable.Seq   // the newest that has had an identifier: what is behind it was never sent
	dropped  span          // what was dropped behind begun
	mark     durable.Seq   // appended when the read under way was asked for
	late     []durable.Seq // what was done since then and may be among its entries
	doubt    *doubt        // of a restored session, until it has read what it had; nil = none
}

// span are the messages behind from, up to to.
type span struct{ from, to durable.Seq }

func (s span) has(seq durable.Seq) bool { return s.from < seq && seq <= s.to }

// Queued is a message that waits in memory for the window of a session without a number.
type Queued struct {
	Message         *message.Message
	QoS             packet.QoS
	Retain          bool
	SubscriptionIDs []uint32
	Share           string // the filter of the shared subscription that it came by, "" = none
}

// size is about the memory that it takes. The message may be shared with other sessions.
func (q *Queued) size() int { return queuedOverhead + q.Message.Size() }

const queuedOverhead = 200 // bytes

// New returns the state of a session that has just been created. number is 0 for one that ends
// with its connection. l is kept, must not change, and belongs to the loop of the session.
func New(number durable.SessionNumber, l *Limits) *Session {
	s := &Session{number: number, limits: l, live: true}
	s.flight.nextID = 1
	if number != 0 {
		s.progress = new(progress)
	}
	return s
}

// Restore returns the state of a session as it was found on disk. No connection has it.
func Restore(r *durable.Restored, l *Limits) *Session {
	s := New(r.Session.Number, l)
	s.pending = r.Pending
	s.readTo = r.Floor
	s.live = r.Pending == 0
	s.doubt = doubtOf(r, l)
	for _, o := range r.Outgoing {
		f := run{seq: o.Seq, id: o.ID, n: 1, state: sent2}
		if o.Received {
			f.state = released
		}
		s.flight.push(f, &l.spare)
		s.begun = max(s.begun, o.Seq)
	}
	for _, id := range r.Incoming {
		s.incoming = append(s.incoming, Incoming{ID: id, Committed: true})
	}
	return s
}

// Number is the session's number in the store, 0 if it ends with its connection.
func (s *Session) Number() durable.SessionNumber { return s.number }

// Durable says that the session outlives its connection.
func (s *Session) Durable() bool { return s.number != 0 }

// Pending is how many messages wait for the client or are in flight to it.
func (s *Session) Pending() int {
	if s.Durable() {
		return s.pending
	}
	return s.queued() + s.InFlight()
}

// queued is how many messages wait in memory.
func (s *Session) queued() int {
	if s.waiting == nil {
		return 0
	}
	return s.waiting.queue.len()
}

// QueuedBytes is how many bytes of messages wait in memory, or are kept there for others.
func (s *Session) QueuedBytes() int {
	w := s.waiting
	if w == nil {
		return 0
	}
	return w.bytes - queuedOverhead*(w.queue.len()+len(w.kept))
}

// InFlight is how many identifiers are in use towards the client.
func (s *Session) InFlight() int { return int(s.flight.n) }

// Connect starts a connection whose client takes receiveMaximum PUBLISH packets at once.
// Everything in flight is to be sent again: Releases names the PUBRELs, which leave at once;
// the messages come back by NextRead.
func (s *Session) Connect(receiveMaximum uint16) {
	s.connected = true
	s.window = uint16(min(s.limits.Window, int32(receiveMaximum)))
	s.outstanding = 0
	first := durable.Seq(0)
	s.flight.removeIf(&s.limits.spare, func(r *run) bool {
		if r.seq == 0 && r.state < received {
			return true
		}
		r.here = false
		if r.unacknowledged() && (first == 0 || r.seq < first) {
			first = r.seq
		}
		return false
	})
	if !s.Durable() {
		return
	}
	if first != 0 {
		s.live = false
		s.readTo = min(s.readTo, first-1)
	}
	s.mark, s.again = 0, false
	// A read that the last connection asked for must not count as this one's.
	s.reading, s.late = false, nil
}

// Disconnect ends the connection. What the client had sent at QoS 2 stays known.
func (s *Session) Disconnect() {
	s.connected = false
	if s.Durable() {
		s.reading = false
	}
	for i := range s.incoming {
		s.incoming[i].here = false
	}
}

// Connected says whether a connection has the session.
func (s *Session) Connected() bool { return s.connected }

// Releases calls release for each identifier whose PUBREL must be sent again, in order
// [MQTT-4.6.0-4], and save for those whose PUBREC has to be written down before.
func (s *Session) Releases(release, save func(packet.ID)) {
	if s.flight.n == 0 {
		return
	}
	all := slices.Clone(s.flight.all()) // what is called may note when it was sent
	for i := range all {
		r := &all[i]
		for k := range int(r.n) {
			switch id := r.id + packet.ID(k); r.state {
			case released:
				release(id)
			case unsaved:
				i, k := s.flight.byID(id)
				s.flight.move(i, k, 1, received, &s.limits.spare)
				save(id)
			}
		}
	}
}
