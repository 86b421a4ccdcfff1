package broker

import (
	"iter"
	"log/slog"
	"math"
	"time"

	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/retain"
	"dunlin/core/rule"
)

// Options set up a Broker.
type Options struct {
	Store    Store
	Outboxes []Outbox
	// Restored, Retained and Delayed are what the store held at start.
	Restored []durable.Restored
	Retained iter.Seq[*message.Message]
	Delayed  []durable.Delayed // in the order of their numbers

	Auth   Authenticator
	Policy *access.Policy
	Clock  Clock
	Limits Limits
	Log    *slog.Logger
	// IOThreads is how many threads read and write sockets at a time, the event loop's among them;
	// default 1. Everything else is done by the loop alone.
	IOThreads int

	// Rewrites change the topics that clients use; access rules are about what they become.
	Rewrites rule.Rewrites
	// Durability is what messages are acknowledged for, by topic: the first rule that matches decides,
	// and Batched is what no rule matches.
	Durability []DurabilityRule
	// AutoSubscribe are subscriptions that every client has from CONNECT on.
	AutoSubscribe []AutoSubscription
	// ResponsePrefix is the topic below which each client is told a topic of its own for responses,
	// if it asks for Response Information (MQTT5 §4.10): PREFIX/CLIENTID. "" tells none.
	ResponsePrefix string
	// Observer watches what the broker does; nil = nobody does, which costs nothing.
	Observer Observer
	// Freed is told, on the loop, that connections have ended which had much memory; nil = nobody.
	Freed func()
	// SysInterval is how often the values below $SYS/broker are published while somebody subscribes
	// to them, in whole seconds; 0 = there are none.
	SysInterval time.Duration
	Version     string // told below $SYS
	// Ledger is told below $SYS, too; nil = there is none.
	Ledger Ledger
	// Values are told below $SYS/broker, besides the broker's own.
	Values []Value
	// Alarms are told below $SYS, each as a retained $SYS/broker/alarm/NAME.
	Alarms []Alarm
}

// Value is something that somebody may want to know.
type Value struct {
	Name string
	Text func() string // called on the loop
}

// Alarm is something that wants a person.
type Alarm struct {
	Name string
	// Text says what is wrong, "" = nothing is. It is called on the loop.
	Text func() string
}

// AutoSubscription is entered for a client when it connects, as if it had subscribed.
type AutoSubscription struct {
	Topic             access.Template
	QoS               packet.QoS
	NoLocal           bool
	RetainAsPublished bool
	// RetainHandling: 0 sends retained messages at each CONNECT, 1 when the session gets the
	// subscription, 2 never.
	RetainHandling byte
}

// Authenticator finds out who a client is; *auth.Authenticator is one.
type Authenticator interface {
	// Authenticate calls done once, at once or later from another goroutine; it never blocks.
	Authenticate(r auth.Request, done func(auth.Answer))
}

// Clock dates messages. It must be quick: it is asked once per turn that stores something.
type Clock interface {
	Stamp() message.Stamp
	// Elapsed is the time since s, at least 0.
	Elapsed(s message.Stamp) time.Duration
}

// Limits bound what clients may ask for. A zero field takes its default.
type Limits struct {
	MaxPacket            int           // bytes of one packet; default 256 KiB
	MaxTopic             int           // bytes of a Topic Name or Filter; default 1024
	MaxTopicLevels       int           // default 128
	MaxSubscriptions     int           // per client; default 1000
	MaxInFlight          int           // PUBLISH packets of QoS 1 and 2 on their way to one client; default 256
	ReceiveMaximum       int           // the same from one client, announced to MQTT 5.0; default 256
	MaxQueued            int           // messages that wait for one session, in flight included; default 100,000
	MaxQueuedBytes       int64         // and their topics, properties and payloads; default 64 MiB
	MaxQueuedTransient   int           // the same for a session that ends with its connection; default 100,000
	MaxTransientBytes    int           // and the bytes of its messages, which are in memory; default 8 MiB
	MaxConnections       int           // of all listeners; default 0 = as many as there are descriptors
	MaxOutput            int           // bytes that wait for one socket, beyond which QoS 0 is dropped; default 1 MiB
	MaxConnectRate       int           // CONNECT packets a second, of each listener; default 0 = any
	MaxMessageRate       int           // PUBLISH packets a second, of one client; default 0 = any
	ResendAfter          time.Duration // until MQTT 3 gets again what it has not acknowledged, at most 1 h; default 0 = when it connects again
	Linger               time.Duration // that a QoS 1 message may wait for its receivers before it is stored, as the Store does; default 0 = not at all
	ConnectTimeout       time.Duration // from accept to CONNECT; default 5 s
	MaxSessionExpiry     time.Duration // default 30 days; from 0xFFFFFFFF seconds on, sessions may last for ever
	WillGrace            time.Duration // that clients have to come back after a crash, before their wills are published; default 60 s
	MaxRetained          int           // messages; default 100,000
	MaxRetainedBytes     int64         // default 16 MiB
	MaxWillBytes         int64         // of all wills; default 16 MiB
	MaxKeepAlive         time.Duration // of MQTT 5.0 clients, which are told; default any, also none
	TopicAliases         int           // of a connection, each way; default 16, negative = none
	MaxDelayed           int           // messages that are to be published later; default 10,000, negative = none
	MaxDelayedBytes      int64         // and their topics, properties and payloads, in memory, too; default 16 MiB
	MaxDelay             time.Duration // of one of them; default 7 days
	MatchCacheReferences int           // default 524,288

	// What clients may not use. MQTT 5.0 is told at CONNECT; what is used all the same is refused.
	HasMaxQoS         bool
	MaxQoS            packet.QoS // of PUBLISH packets, wills and subscriptions, if HasMaxQoS; otherwise 2
	NoRetain          bool
	NoWildcards       bool
	NoSubscriptionIDs bool
	NoShared          bool // Shared Subscriptions

	// DropOldest makes room in a full queue by dropping what has waited longest in it and was never
	// sent. Otherwise, and if that is not enough, the new message is dropped.
	DropOldest bool

	// KeepWhenFull drops nothing to make room in a store that is nearly full: when it is full, messages
	// are refused.
	KeepWhenFull bool

	// CheckPayloads refuses payloads that are not the UTF-8 that their Payload Format Indicator claims.
	CheckPayloads bool
}

func (l *Limits) setDefaults() {
	setDefault(&l.MaxPacket, 256<<10)
	l.MaxPacket = min(l.MaxPacket, largestPacket)
	if !l.HasMaxQoS {
		l.MaxQoS = 2
	}
	setDefault(&l.MaxTopic, 1024)
	setDefault(&l.MaxTopicLevels, 128)
	setDefault(&l.MaxSubscriptions, 1000)
	setDefault(&l.MaxInFlight, 256)
	setDefault(&l.ReceiveMaximum, 256)
	setDefault(&l.MaxQueued, 100_000)
	setDefault(&l.MaxQueuedBytes, 64<<20)
	setDefault(&l.MaxQueuedTransient, 100_000)
	setDefault(&l.MaxTransientBytes, 8<<20)
	setDefault(&l.MaxOutput, 1<<20)
	setDefault(&l.ConnectTimeout, 5*time.Second)
	setDefault(&l.MaxSessionExpiry, 30*24*time.Hour)
	setDefault(&l.WillGrace, time.Minute)
	setDefault(&l.MaxRetained, 100_000)
	setDefault(&l.MaxRetainedBytes, 16<<20)
	setDefault(&l.MaxWillBytes, 16<<20)
	setDefault(&l.MaxDelayed, 10_000)
	setDefault(&l.MaxDelayedBytes, 16<<20)
	setDefault(&l.MaxDelay, 7*24*time.Hour)
	setDefault(&l.TopicAliases, 16)
	l.TopicAliases = min(max(l.TopicAliases, 0), math.MaxUint16)
	setDefault(&l.MatchCacheReferences, 512<<10)
}

// maxAdded is more than a PUBLISH can grow by on its way through the broker: by the properties of
// MQTT 5.0, by the identifiers of all subscriptions that match. The largest one must still be a
// packet.
const maxAdded = 1 << 20

// largestPacket is the largest that can be allowed to a client, in bytes.
const largestPacket = packet.MaxRemaining - maxAdded

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (l *Limits) retain() retain.Options {
	return retain.Options{MaxMessages: l.MaxRetained, MaxBytes: l.MaxRetainedBytes}
}

// Counters count what the broker has done since its start. They belong to the loop: read them
// through Broker.Snapshot.
type Counters struct {
	Connections      int    // open now
	Connected        int    // clients that were let in, now
	MaxConnected     int    // the most of them at one time
	Sockets          uint64 // connections that were opened
	Connects         uint64 // CONNECT packets
	PacketsReceived  uint64 // of all types
	BytesReceived    uint64 // of them
	PayloadReceived  uint64 // bytes in PUBLISH packets from clients
	PayloadSent      uint64 // bytes in PUBLISH packets to clients
	SessionsExpired  uint64 // ended while their clients were away
	Sessions         int    // known now
	Subscriptions    int    // now
	Retained         int    // messages now
	Delayed          int    // messages that are to be published later, now
	DelayedBytes     int64  // of them
	Received         uint64 // PUBLISH packets from clients
	Sent             uint64 // PUBLISH packets to clients
	DroppedOutput    uint64 // QoS 0, because too much output waited for its client
	DroppedFull      uint64 // QoS 1 and 2, because the session's queue was full
	DroppedTooLarge  uint64 // over the client's Maximum Packet Size
	DroppedDenied    uint64 // the receiver may not read the topic
	DroppedStoreFull uint64 // QoS 1 and 2, queued, and the store was nearly full
	DroppedStore     uint64 // could not be stored and were not acknowledged
	DroppedUplink    uint64 // QoS 2, refused by an uplink and not acknowledged
	DroppedEnded     uint64 // queued, or not acknowledged, when their session ended
	Expired          uint64 // past their Message Expiry Interval when their turn came
	DeniedPublishes  uint64
	BadPayloads      uint64 // not the UTF-8 that they claim to be
	DroppedRate      uint64 // the publisher sent more than it may, and its connection was closed
	RefusedConnects  uint64
	RefusedRate      uint64 // of them those above the rate of their listener
	ProtocolErrors   uint64 // connections closed because of what the client sent
	DelayedRefused   uint64 // too much was delayed already, or for too long
	RetainedRefused  uint64 // over the bound of the retained store
	SessionsTakeover uint64
}
