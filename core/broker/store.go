package broker

import (
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// Store keeps sessions, their queues and the retained messages on disk. It is asynchronous: a
// call hands an operation over and returns; nothing leaves for the writer before Flush at the
// end of the turn. Operations are committed in the order of the calls. An operation with a
// Token is answered through the Completer that Open was given, after the fsync or with the
// error; one without rides along.
//
// A Store takes calls from one goroutine, the loop.
type Store interface {
	// Append queues a message for its receivers and returns its number. When every receiver is
	// Done with it before its commit, nothing needs to be written, and it completes all the same:
	// with Linger the commit waits for that a while.
	// With From it leaves another queue in the same transaction.
	Append(a durable.Append, t durable.Token) durable.Seq

	// Delay keeps a message that is to be published later and returns its number, as Append does.
	// It leaves the store in the transaction of an Append that names it.
	Delay(d durable.Delayed, t durable.Token) durable.Seq

	// PutSession creates or replaces the record of a session.
	PutSession(s *durable.Session, t durable.Token)
	// EndSession forgets a session and what is queued for it. It returns nothing to wait for
	// but the token: entries of an ended number are ignored from the call on.
	EndSession(n durable.SessionNumber, t durable.Token)

	// Done takes a message out of a queue.
	Done(n durable.SessionNumber, s durable.Seq, o durable.Outcome)
	// Sent notes the packet id under which a QoS 2 message is about to leave; the PUBLISH
	// leaves after its completion.
	Sent(n durable.SessionNumber, s durable.Seq, id packet.ID, t durable.Token)
	// Received notes a PUBREC: the message is done, its id is not; the PUBREL leaves after its
	// completion.
	Received(n durable.SessionNumber, s durable.Seq, id packet.ID, t durable.Token)
	// Completed notes a PUBCOMP: id is free.
	Completed(n durable.SessionNumber, id packet.ID)
	// Release notes the client's PUBREL of an incoming id; the PUBCOMP leaves after its completion.
	Release(n durable.SessionNumber, id packet.ID, t durable.Token)

	// Queued returns how many messages are in the queue of a session, and their bytes: of every
	// Append before, what is not Done.
	Queued(n durable.SessionNumber) (messages int, bytes int64)
	// DropOldest takes at least so many messages and bytes out of a queue, the oldest of those
	// behind after, as DroppedFull; none if there are not enough. It returns how many they were, and
	// the number of the last.
	DropOldest(n durable.SessionNumber, after durable.Seq, messages int, bytes int64) (dropped int, last durable.Seq)

	// Evict takes up to so many bytes out of a queue, the oldest of what is behind after, to make
	// room for other messages, as far as Pressure asks for it. It returns what DropOldest does.
	Evict(n durable.SessionNumber, after durable.Seq, bytes int64) (dropped int, last durable.Seq)
	// Pressure returns how many bytes should be evicted now.
	Pressure() int64
	// State returns what the store takes. Whatever else is handed over, Append and Delay return 0 then,
	// and answer with durable.ErrNoRoom at once, unless the Append adds nothing or is Lazy. It is
	// asked for each message and must be quick.
	State() durable.StoreState

	// Read reads entries of a session's queue behind after, in order, at most max entries and
	// about maxBytes bytes but at least one entry if there is one. It sees every Append before
	// it. Answered by Completer.Read.
	Read(n durable.SessionNumber, after durable.Seq, max, maxBytes int, t durable.Token)

	// NextSession returns an unused session number.
	NextSession() durable.SessionNumber

	// Together says whether the operations from here on are one transaction, until it says that they
	// are not, or Flush. If the first of them fail before the last are handed over, Appends fail with
	// them, and what is said about sessions is written later.
	Together(on bool)

	// Flush hands what was collected to the writer and returns at once.
	Flush()
}

// Outbox is a durable way out of the broker: an uplink's spool behind its rules. Calls come
// from the loop, as for Store.
type Outbox interface {
	// Name is unique among the outboxes.
	Name() string
	// Filters are the Topic Filters of its rules: what matches none is never handed over.
	Filters() []string
	// Admits says whether it would take a message of that many bytes now: false only where the
	// owner chose that a full outbox refuses.
	Admits(bytes int) bool
	// Append hands over a message. source is its number in the Store for QoS 2, where the
	// outbox must take each number once only and keep the highest with its own append;
	// 0 for QoS 0 and 1. done is called once, from any goroutine, when the message is on
	// disk, or was left out by a rule (nil), or with an error. At QoS 0 done may be nil.
	//
	// Since only the highest number is kept, the outbox takes none behind one that it has not
	// taken: those fail, too, until the missing one comes again.
	Append(m *message.Message, source durable.Seq, done func(error))
	// Urgent asks for what was appended to be written at once with the next Flush, though it costs more.
	Urgent()
	// Flush hands what was collected to the writer and returns at once.
	Flush()
}
