// Package durable is the vocabulary between the broker and what keeps its state on disk:
// sequence numbers, receivers, session records. It has no behaviour.
package durable

import (
	"errors"

	"dunlin/core/message"
	"dunlin/core/packet"
)

// Seq numbers the Application Messages of one sessions.db in the order in which they were
// handed over, which is the order in which they are committed. 0 = none.
type Seq uint64

// SessionNumber names a persistent session for good: numbers are never reused, so that entries
// of ended sessions can be ignored. 0 = none. An uplink that takes QoS 2 has one, too.
type SessionNumber uint64

// Token is the caller's mark on an operation. 0 asks for no completion.
type Token uint64

// Receiver is one durable receiver of a message, as matched: a later SUBSCRIBE or UNSUBSCRIBE
// does not touch what is queued.
type Receiver struct {
	Session         SessionNumber
	QoS             packet.QoS // granted: min of the published and the subscribed
	Retain          bool       // RETAIN flag of the PUBLISH to this receiver
	SubscriptionIDs []uint32   // all that matched
	PacketID        packet.ID  // QoS 2 only: the id it leaves with, 0 = not sent yet
	Share           string     // filter of the shared subscription that it comes by, "" = none
}

// Append is one Application Message on its way to disk with everybody it is for.
type Append struct {
	Message   *message.Message // must not change any more
	Receivers []Receiver       // copied by the store
	// Retained: it replaces the retained message of its topic; an empty payload removes it.
	Retained bool
	// Publisher and PublisherID: at QoS 2 the incoming packet id is remembered in the same
	// transaction (design: packet id and message are one transaction, then PUBREC).
	Publisher   SessionNumber
	PublisherID packet.ID
	// Delayed is the number of the delayed message that this is, 0 = none: it ceases to wait in the
	// same transaction, also if there is no receiver.
	Delayed Seq
	// More: the next Append is of the same message, for other receivers, and goes into the same
	// transaction. Flush ends what was not ended.
	More bool
	// From and FromSeq: the message leaves that queue, as Moved, in the same transaction. It must be in
	// the queue and committed. If the transaction fails, it is in the queue again.
	From    SessionNumber
	FromSeq Seq
	// Linger: it has been sent to all its receivers, at QoS 1, and they answer quickly. It may stay off
	// the disk for a moment; when every receiver is Done with it by then it is never written, and
	// completes. It is not Retained, nor noted for a publisher, nor in several parts.
	Linger bool
	// Sync: it is written at once, though that may cost more than the flash is to bear.
	Sync bool
	// Relaxed: it is answered as any other, but need not be written before it would be without a token.
	Relaxed bool
	// Lazy: nobody waits for it (a retained message at QoS 0); it rides with the next commit or
	// goes within a minute.
	Lazy bool
}

// Delayed is an Application Message that is to be published later, by an Append with its number.
type Delayed struct {
	Seq     Seq              // among those of the Appends; given by the store
	Message *message.Message // must not change any more; its Topic is where it goes
	Delay   uint32           // seconds from Message.Received on
	// Publisher and PublisherID are as in Append, for the transaction that keeps it.
	Publisher   SessionNumber
	PublisherID packet.ID
}

// Session is the record of a persistent session (MQTT5 §4.1).
type Session struct {
	Number        SessionNumber
	ClientID      string
	Identity      string // the authenticated user that made it, "" = anonymous
	Version       packet.Version
	Expiry        uint32        // Session Expiry Interval in seconds as granted, 0xFFFFFFFF = none
	Connected     bool          // a Network Connection had it when the record was written
	Left          message.Stamp // when the last connection ended; used if not Connected
	Will          *Will         // nil = none
	Subscriptions []Subscription
}

// Subscription is one subscription of a session.
type Subscription struct {
	Filter            string
	QoS               packet.QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	ID                uint32 // Subscription Identifier, 0 = none
}

// Will is a will as kept with its session (MQTT5 §3.1.2.5).
type Will struct {
	Message *message.Message
	Delay   uint32 // Will Delay Interval, seconds
}

// Outgoing is a QoS 2 message on its way to a receiver, by the packet id it left with.
type Outgoing struct {
	ID       packet.ID
	Seq      Seq  // of the message; 0 once Received
	Received bool // PUBREC was seen: only PUBREL and PUBCOMP remain
}

// Restored is a session as it was found on disk.
type Restored struct {
	Session  Session
	Pending  int         // messages queued and not done, those in Outgoing with a Seq included
	Bytes    int64       // topic, properties and payload of them
	Shared   int         // how many of them came by a shared subscription
	Floor    Seq         // everything up to and including it is done
	Last     Seq         // the last that is queued, 0 = none
	Outgoing []Outgoing  // QoS 2 in flight, in the order in which they were sent
	Incoming []packet.ID // QoS 2 ids of the client that wait for its PUBREL
}

// Entry is a queued message read back for one session.
type Entry struct {
	Seq             Seq
	Message         *message.Message // owned by the receiver of the entry
	QoS             packet.QoS       // granted
	Retain          bool
	SubscriptionIDs []uint32
	PacketID        packet.ID // QoS 2 that had left already: its id; 0 = not sent yet
	Share           string    // filter of the shared subscription that it came by, "" = none
}

// Outcome says how a message left a queue. Every queue entry ends with exactly one.
type Outcome byte

// The outcomes.
const (
	Delivered Outcome = iota + 1
	Expired
	DroppedTooLarge // over the receiver's Maximum Packet Size
	DroppedFull     // the queue's bound
	DroppedDenied   // the receiver may no longer read the topic
	DroppedEnded    // its session ended
	DroppedDamaged  // the medium gave back something else than was written
	Moved           // another member of a shared subscription gets it
)

// ErrNoRoom answers an operation that the store refuses because of its StoreState.
var ErrNoRoom = errors.New("the store takes no messages for now")

// StoreState is what a store takes now. Whatever it is, what was taken is kept and can be read, and
// what makes things fewer is tried.
type StoreState byte

// The states.
const (
	Taking    StoreState = iota // everything
	StoreFull                   // its bound is reached: it takes no messages, but what changes sessions
	DiskFull                    // there is no room on the disk: the same, as far as it goes
	Failing                     // the last commit has failed: what is handed over may wait for long
)

var stateNames = [...]string{Taking: "none", StoreFull: "full", DiskFull: "disk_full", Failing: "failing"}

// String is what is wrong, as one word, "disk_full"; "none" if nothing is.
func (s StoreState) String() string { return stateNames[s] }

// Completion answers an operation that carried a Token. Operations complete in any order.
type Completion struct {
	Token Token
	Seq   Seq   // of an Append
	Err   error // nil: it is on disk after fsync
}

// Batch answers a Read.
type Batch struct {
	Token   Token
	Session SessionNumber
	Entries []Entry // in order of Seq, owned by the receiver
	Last    Seq     // the read went up to here; continue behind it
	More    bool    // there are entries behind Last
	Err     error
}

// Completer takes the answers of a store. The calls come from goroutines of the store, Completed and
// Changed also from within its operations; they must not block and must not call back into it. done and b are the callee's from then on.
type Completer interface {
	Completed(done []Completion)
	Read(b Batch)
	// Changed tells that the state of the store, or what it wants to get rid of, is another one.
	Changed()
}
