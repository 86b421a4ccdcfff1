package broker

import (
	"dunlin/core/access"
	"dunlin/core/durable"
	"dunlin/core/packet"
)

// Observer watches what the broker does: for those who embed it, to audit, to measure, to bridge.
//
// Its methods are called on the goroutine of the loop, in the order in which things happen. While
// one runs, nothing else does: it must return at once and never wait, not for a lock that is held
// for long, not for a full channel, not for Broker.Snapshot, Disconnect, Alive or Shutdown, which ask
// the loop. Broker.Inject may be called; what it publishes comes in a later turn. Strings may be
// kept; the bytes of a Publication are valid during the call only. A panic is the broker's.
//
// Options.Observer nil costs one comparison at each place. An observer that wants a few of the
// calls embeds [Unobserved].
type Observer interface {
	// Connected announces a client that was let in; its CONNACK is queued.
	Connected(Peer)
	// Disconnected announces the end of the connection of a client that was let in: there is one
	// for each Connected, unless the broker itself ends first.
	Disconnected(Peer, Ending)
	// Subscribed announces a subscription that is new or was replaced [MQTT-3.8.4-3]. It is called
	// before it is on disk: if that fails, Unsubscribed or the former subscription follows. What
	// was restored at start is not announced.
	Subscribed(clientID string, s durable.Subscription)
	// Unsubscribed announces the end of a subscription: by its client, or with its session.
	Unsubscribed(clientID, filter string)
	// Published announces a message that may be published, before anybody gets it: of a client,
	// of a will, or of an uplink; one that is delayed when it is due. It promises nothing: not that it is acknowledged.
	Published(Publication)
	// Delivered announces a PUBLISH that is queued for the socket of a client; at QoS 1 and 2 it
	// may not arrive, and be sent again.
	Delivered(Delivery)
	// Dropped announces messages that do not get where they were to go: one at a time, but for
	// those of a session that ends, or whose queue makes room.
	Dropped(Drop)
}

// Peer is a client as an Observer is told of it.
type Peer struct {
	ClientID string
	Identity access.Identity
	Remote   string // address, as "192.0.2.7:50312"; "unix" for a local socket; "gone" if it went before it was asked for
	Listener string // name of the listener
	Version  packet.Version
}

// Ending is why a connection ended.
type Ending struct {
	By By
	// Code is what DISCONNECT has said, or would have said to MQTT 3.1.1. It means nothing if the
	// connection was lost.
	Code packet.ReasonCode
}

// By is who ended a connection.
type By uint8

const (
	ByLoss   By = iota // the network or the process of the client, without a DISCONNECT
	ByClient           // its DISCONNECT
	ByBroker
)

// String is the reason in words: "connection lost", or the name of the reason code.
func (e Ending) String() string {
	switch {
	case e.By == ByLoss:
		return "connection lost"
	case e.Code == packet.Success:
		return "Normal disconnection" // as MQTT5 §3.14.2.1 calls 0x00 in a DISCONNECT
	}
	return e.Code.String()
}

// Publication is a message on its way in.
type Publication struct {
	ClientID string // of the publisher; "" = an uplink, or the broker itself
	Source   string // the uplink that it came down from, "" = none
	Topic    string
	Payload  []byte // valid during the call, must not be changed
	QoS      packet.QoS
	Retain   bool
}

// Delivery is a message on its way out.
type Delivery struct {
	ClientID string // of the receiver
	Topic    string
	Bytes    int // of the payload
	QoS      packet.QoS
	Retain   bool
	Dup      bool // it was sent before, on an earlier connection
}

// Drop is about messages that do not get where they were to go.
type Drop struct {
	Reason   DropReason
	ClientID string // of the receiver; of the publisher where nobody gets the message; "" = an uplink
	Topic    string // "" = not known: of a session that has ended, or of the oldest of a full queue
	Messages int
}

// DropReason is why a message was dropped.
type DropReason uint8

const (
	DropOutput        DropReason = iota // QoS 0, because too much output waited for its receiver
	DropQueueFull                       // the receiver's queue, or the way to the disk, was full
	DropTooLarge                        // over the receiver's Maximum Packet Size
	DropDenied                          // the receiver may not read the topic
	DropExpired                         // past the Message Expiry Interval when its turn came
	DropNotStored                       // could not be stored, and was not acknowledged
	DropUplinkFull                      // an uplink refused it, and it was not acknowledged
	DropPublishDenied                   // the publisher may not publish to the topic
	DropRetainedFull                    // delivered, but not retained: the retained store is full
	DropBadPayload                      // its payload is not the UTF-8 that it claims to be
	DropDelayedFull                     // to be published later: too much is already, or the delay is too long
	DropSessionEnded                    // queued, or sent and not acknowledged, when the receiver's session ended
	DropRate                            // the publisher sent more than it may; its connection ends
	DropStoreFull                       // waited longest in the largest queue when the store was nearly full
	dropReasons       int        = iota
)

var dropNames = [dropReasons]string{
	DropOutput:        "output",
	DropQueueFull:     "queue_full",
	DropTooLarge:      "too_large",
	DropDenied:        "denied",
	DropExpired:       "expired",
	DropNotStored:     "not_stored",
	DropUplinkFull:    "uplink_full",
	DropPublishDenied: "publish_denied",
	DropRetainedFull:  "retained_full",
	DropBadPayload:    "bad_payload",
	DropDelayedFull:   "delayed_full",
	DropSessionEnded:  "session_ended",
	DropRate:          "message_rate",
	DropStoreFull:     "store_full",
}

// String is the reason as one word, "queue_full".
func (r DropReason) String() string { return dropNames[r] }

// Unobserved does nothing; an Observer embeds it to leave out what it does not want.
type Unobserved struct{}

// Connected does nothing.
func (Unobserved) Connected(Peer) {}

// Disconnected does nothing.
func (Unobserved) Disconnected(Peer, Ending) {}

// Subscribed does nothing.
func (Unobserved) Subscribed(string, durable.Subscription) {}

// Unsubscribed does nothing.
func (Unobserved) Unsubscribed(string, string) {}

// Published does nothing.
func (Unobserved) Published(Publication) {}

// Delivered does nothing.
func (Unobserved) Delivered(Delivery) {}

// Dropped does nothing.
func (Unobserved) Dropped(Drop) {}

// drop counts a message that does not get where it was to go. All of them come through here.
func (b *Broker) drop(why DropReason, clientID, topic string) { b.dropAll(why, clientID, topic, 1) }

func (b *Broker) dropAll(why DropReason, clientID, topic string, messages int) {
	*b.counters.dropped(why) += uint64(messages)
	if b.observer != nil {
		b.observer.Dropped(Drop{Reason: why, ClientID: clientID, Topic: topic, Messages: messages})
	}
}

// dropped is the counter of a reason.
func (k *Counters) dropped(why DropReason) *uint64 {
	switch why {
	case DropOutput:
		return &k.DroppedOutput
	case DropQueueFull:
		return &k.DroppedFull
	case DropTooLarge:
		return &k.DroppedTooLarge
	case DropDenied:
		return &k.DroppedDenied
	case DropExpired:
		return &k.Expired
	case DropNotStored:
		return &k.DroppedStore
	case DropUplinkFull:
		return &k.DroppedUplink
	case DropPublishDenied:
		return &k.DeniedPublishes
	case DropRetainedFull:
		return &k.RetainedRefused
	case DropBadPayload:
		return &k.BadPayloads
	case DropDelayedFull:
		return &k.DelayedRefused
	case DropSessionEnded:
		return &k.DroppedEnded
	case DropRate:
		return &k.DroppedRate
	case DropStoreFull:
		return &k.DroppedStoreFull
	}
	panic("broker: internal error: a drop without a reason")
}

// peer is a client as an Observer is told of it. The address is asked for once, at the first need:
// a socket whose peer is gone does not know it any more.
func (c *client) peer() Peer {
	if c.remote == "" {
		c.remote = c.conn.Remote()
	}
	return Peer{
		ClientID: c.member.clientID,
		Identity: c.member.identity(),
		Remote:   c.remote,
		Listener: c.listener.Name,
		Version:  c.version,
	}
}
