package broker

import (
	"unsafe"

	"dunlin/core/packet"
)

// Topic Aliases (MQTT5 §3.3.2.3.4) belong to a connection and to a direction, so they are never in
// a session or in the store: what leaves these functions has its whole topic.

// received are the aliases that a client has given: the topic of alias n is topics[n-1], "" if
// it has none yet.
type received struct{ topics []string }

// refusedTopic stands in for a topic that is too long to be kept and is refused wherever its alias
// is used.
const refusedTopic = "$SYS"

// resolve notes the alias of a PUBLISH, or gives it the topic that it stands for. Whatever becomes
// of the message itself, its client takes the alias for known from here on.
func (c *client) resolve(p *packet.Publish) error {
	n, limits := int(p.TopicAlias), &c.b.limits
	if n == 0 || n > limits.TopicAliases { // [MQTT-3.3.2-8], [MQTT-3.3.2-9], §3.3.2.3.4
		return &packet.Error{Code: packet.TopicAliasInvalid, Detail: "topic alias is 0 or above the topic alias maximum"}
	}
	if c.received == nil {
		c.received = new(received)
	}
	r := c.received
	if len(p.Topic) == 0 {
		if n > len(r.topics) || r.topics[n-1] == "" {
			return protocolError("topic alias has no topic yet") // §3.3.2.3.4
		}
		name := r.topics[n-1]
		p.Topic = unsafe.Slice(unsafe.StringData(name), len(name)) // only read
		return nil
	}
	if n > len(r.topics) {
		r.topics = append(r.topics, make([]string, n-len(r.topics))...)
	}
	switch {
	case len(p.Topic) > limits.MaxTopic:
		r.topics[n-1] = refusedTopic
	case r.topics[n-1] != string(p.Topic):
		r.topics[n-1] = string(p.Topic)
	}
	return nil
}

// given are the aliases that the broker has given to the topics of one client: to those that came
// first, until there are no more. It is nil for a client that takes none [MQTT-3.1.2-27].
type given struct {
	max    int // at most the client's Topic Alias Maximum [MQTT-3.1.2-26]
	topics map[string]uint16
}

// minAliased is the shortest topic that an alias makes shorter: the property has 3 bytes.
// maxAliased is the largest payload for which a message that many clients get is encoded for one of
// them alone: beyond it, the copy costs more than the topic.
const (
	minAliased = 4
	maxAliased = 4 << 10
)

// sendAlone encodes a message for one client, with an alias if it has one or can have one, and sends
// it. topic is the name in p as a string that may be kept.
func (b *Broker) sendAlone(c *client, p *packet.Publish, topic string, id packet.ID) {
	b.makeRoom()
	d := Delivery{Topic: topic, Bytes: len(p.Payload), QoS: p.QoS, Retain: p.Retain, Dup: p.Dup}
	if c.given == nil || len(topic) < minAliased {
		b.write(c, b.loop.Arena.Publish(p, c.version), id, d)
		return
	}
	q := *p
	alias, known := c.given.topics[topic]
	switch {
	case known:
		q.TopicAlias, q.Topic = alias, nil
	case len(c.given.topics) < c.given.max:
		q.TopicAlias = uint16(len(c.given.topics) + 1)
	}
	fits := c.maxPacket == 0 || packet.PublishSize(&q, c.version) <= int(c.maxPacket)
	if !known && q.TopicAlias != 0 && fits {
		if c.given.topics == nil {
			c.given.topics = make(map[string]uint16)
		}
		c.given.topics[topic] = q.TopicAlias
	}
	if !known && !fits {
		q = *p // the property alone may be too much, and the client must not miss the first of an alias
	}
	b.write(c, b.loop.Arena.Publish(&q, c.version), id, d)
}
