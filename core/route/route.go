// Package route finds the receivers of an Application Message: an Index of subscriptions by
// Topic Filter (MQTT5 §4.7) and a Cache of what it found by Topic Name.
//
// The index is a tree of topic levels kept flat: nodes are numbered places of 24 bytes that
// name each other by number, found through one hash table keyed (parent, level). The texts of
// levels are kept once each, in one array of bytes. There is no map or string per node, and the
// garbage collector has nothing to follow. A subscription costs 40 to 110 bytes, by how much of
// its filter it shares with others. What unsubscribing frees is used again before anything
// grows, so memory is bounded by the most that was subscribed at one time.
//
// A match goes through the topic once, level by level, with the set of nodes reached so far: no
// recursion, and no work behind the deepest filter, however long the topic is.
//
// Neither type limits what it is given: lengths, levels and the number of subscriptions are the
// caller's to limit. An Index and its caches belong to one goroutine, the loop.
package route

// Receiver is a number for whoever takes messages: a session, an outbox or a peer. The caller's
// table gives it its meaning.
type Receiver uint32

// Options are the options of a subscription (MQTT5 §3.8.3.1) and its Subscription Identifier.
type Options struct {
	QoS               byte // 0, 1 or 2
	NoLocal           bool
	RetainAsPublished bool
	ID                uint32 // Subscription Identifier, 1 to 268,435,455; 0 = none
}

// Hit is one receiver of a topic, all its matching subscriptions merged. It takes 8 bytes.
type Hit struct {
	Receiver          Receiver
	QoS               byte // the highest of the matching subscriptions
	NoLocal           bool // every matching subscription says so
	RetainAsPublished bool // one of the matching subscriptions with the highest QoS says so
	// OwnDiffers: some of the matching subscriptions are NoLocal and others are not. For a
	// message that the receiver published itself only the others count: ask Index.Own.
	OwnDiffers bool
}

// Match is a Hit with its identifiers.
type Match struct {
	Hit
	// IDs are the identifiers of all matching subscriptions that have one, in no order; the
	// same identifier as often as it matched (MQTT5 §3.3.4). nil if there is none.
	IDs []uint32
}

// subscription is a receiver with its options in one word:
//
//	63           32 31        4 3         2                   1     0
//	+--------------+-----------+---------+-------------------+-------+
//	| receiver     | ID        | NoLocal | RetainAsPublished | QoS+1 |
//	+--------------+-----------+---------+-------------------+-------+
//
// 0 is none. Because QoS+1 is never 0, a word with the low two bits clear can mean something
// else: see node.subs.
type subscription uint64

const (
	retainBit  subscription = 1 << 2
	noLocalBit subscription = 1 << 3
	maxID                   = 1<<28 - 1
)

func newSubscription(r Receiver, o Options) subscription {
	if o.QoS > 2 || o.ID > maxID {
		panic("route: internal error: QoS over 2 or Subscription Identifier over 268,435,455")
	}
	s := subscription(r)<<32 | subscription(o.ID)<<4 | subscription(o.QoS+1)
	if o.RetainAsPublished {
		s |= retainBit
	}
	if o.NoLocal {
		s |= noLocalBit
	}
	return s
}

func (s subscription) receiver() Receiver      { return Receiver(s >> 32) }
func (s subscription) id() uint32              { return uint32(s) >> 4 }
func (s subscription) qos() byte               { return byte(s&3) - 1 }
func (s subscription) noLocal() bool           { return s&noLocalBit != 0 }
func (s subscription) retainAsPublished() bool { return s&retainBit != 0 }

// match returns s alone as a Match, without its identifier.
func (s subscription) match() Match {
	return Match{Hit: Hit{
		Receiver:          s.receiver(),
		QoS:               s.qos(),
		NoLocal:           s.noLocal(),
		RetainAsPublished: s.retainAsPublished(),
	}}
}

// fold merges one more subscription of the same receiver into m, but for its identifier.
func (m *Match) fold(s subscription) {
	if s.noLocal() != m.NoLocal {
		m.OwnDiffers = true
		m.NoLocal = false
	}
	switch q := s.qos(); {
	case q > m.QoS:
		m.QoS, m.RetainAsPublished = q, s.retainAsPublished()
	case q == m.QoS:
		m.RetainAsPublished = m.RetainAsPublished || s.retainAsPublished()
	}
}
