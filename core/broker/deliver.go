package broker

import (
	"time"
	"unsafe"

	"dunlin/core/conn"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/session"
)

// readBytes is about how much one read of a queue brings into memory.
const readBytes = 256 << 10

// variants are the encodings of the publish under way: one for each kind of receiver, made when
// the first of the kind comes.
type variants struct {
	made     uint16 // bit by variant
	segments [variantCount]conn.Segment
}

const variantCount = 2 * 3 * 2 // 5.0 or older, QoS, RETAIN

func (v *variants) reset() { v.made = 0 }

func variant(version packet.Version, qos packet.QoS, retain bool) int {
	i := int(qos) * 2
	if retain {
		i++
	}
	if version == packet.V5 {
		i += variantCount / 2
	}
	return i
}

// sendNow sends the publish under way to a connected client. What does not fit the client is
// dropped and counted.
func (b *Broker) sendNow(pub *publication, c *client, qos packet.QoS, retain bool, ids []uint32, id packet.ID) {
	if qos == 0 && c.conn.Unsent() > b.limits.MaxOutput {
		b.drop(DropOutput, c.member.clientID, pub.topic)
		return
	}
	if c.given != nil && len(pub.Topic) >= minAliased && len(pub.Payload) <= maxAliased {
		p := pub.forReceiver(qos, retain, ids)
		b.sendAlone(c, &p, pub.topic, id)
		return
	}
	var s conn.Segment
	i := variant(c.version, qos, retain)
	switch {
	case ids != nil && c.version == packet.V5: // the identifiers are this client's alone
		s = b.encode(pub, c.version, qos, retain, ids)
	case b.variants.made&(1<<i) != 0:
		s = b.variants.segments[i]
	default:
		s = b.encode(pub, c.version, qos, retain, nil)
		b.variants.segments[i] = s
		b.variants.made |= 1 << i
	}
	b.write(c, s, id, Delivery{Topic: pub.topic, Bytes: len(pub.Payload), QoS: qos, Retain: retain})
}

func (b *Broker) encode(pub *publication, v packet.Version, qos packet.QoS, retain bool, ids []uint32) conn.Segment {
	b.makeRoom()
	p := pub.forReceiver(qos, retain, ids)
	return b.loop.Arena.Publish(&p, v)
}

// forReceiver is the PUBLISH as one kind of receiver gets it.
func (pub *publication) forReceiver(qos packet.QoS, retain bool, ids []uint32) packet.Publish {
	p := pub.Publish
	p.QoS, p.Retain, p.Dup = qos, retain, false
	p.HasTopicAlias, p.TopicAlias = false, 0
	p.SubscriptionIDs = ids
	return p
}

// makeRoom empties a full arena. Encodings of the publish under way are made anew after it.
func (b *Broker) makeRoom() {
	if b.loop.Arena.Full() {
		b.loop.Flush()
		b.variants.reset()
	}
}

// write sends an encoded PUBLISH, unless it is larger than the client takes: then it is treated
// as if it had been sent and acknowledged [MQTT-3.1.2-25]. d is what it is, but for the ClientID.
func (b *Broker) write(c *client, s conn.Segment, id packet.ID, d Delivery) {
	if c.maxPacket != 0 && s.Len() > int(c.maxPacket) {
		b.drop(DropTooLarge, c.member.clientID, d.Topic)
		if id != 0 {
			b.finished(c.member, id, durable.DroppedTooLarge)
		}
		return
	}
	b.counters.Sent++
	b.counters.PayloadSent += uint64(d.Bytes)
	c.conn.Send(&b.loop.Arena, s, id)
	if id != 0 {
		c.resend.sent(id)
		if d.QoS == 1 && c.member.state.Durable() {
			c.answering.watch(id, b.loop.Now())
		}
	}
	if b.observer != nil {
		d.ClientID = c.member.clientID
		b.observer.Delivered(d)
	}
}

// sendStored sends a message that has waited, with what is left of its Message Expiry Interval
// [MQTT-3.3.2-6].
func (b *Broker) sendStored(m *member, p *packet.Publish, msg *message.Message, id packet.ID) {
	if p.HasExpiry {
		p.Expiry = b.remaining(msg)
	}
	b.sendAlone(m.client, p, msg.Topic, id)
}

// remaining is what is left of a message's Message Expiry Interval, in seconds.
func (b *Broker) remaining(m *message.Message) uint32 {
	return uint32(max(0, int64(m.Expiry)-int64(b.clock.Elapsed(m.Received)/time.Second)))
}

// expired says whether a message is past its Message Expiry Interval [MQTT-3.3.2-5].
func (b *Broker) expired(m *message.Message) bool {
	return m.HasExpiry && b.clock.Elapsed(m.Received) >= time.Duration(m.Expiry)*time.Second
}

// ready says whether messages of QoS 1 and 2 may be sent to a client now. Otherwise they wait in
// its queue, until the output has gone that the client does not take.
func (b *Broker) ready(m *member) bool {
	if !m.online() || m.client.conn.Unsent() <= b.limits.MaxOutput {
		return true
	}
	b.awaitOutput(m.client)
	return false
}

// pump sends what waits for a session, as far as its window is open.
func (b *Broker) pump(m *member) {
	if !m.online() || !b.ready(m) {
		return
	}
	if !m.state.Durable() {
		b.pumpTransient(m)
		return
	}
	if after, room, ok := m.state.NextRead(); ok {
		t := b.ops.add(&reading{m: m, epoch: m.epoch})
		b.store.Read(m.state.Number(), after, room, readBytes, t)
	}
}

func (b *Broker) pumpTransient(m *member) {
	for b.ready(m) {
		q, id, ok := m.state.Dequeue()
		if !ok {
			return
		}
		if b.expired(q.Message) {
			b.drop(DropExpired, m.clientID, q.Message.Topic)
			continue
		}
		m.state.Sending(q.QoS, id)
		if q.Share != "" && q.QoS == 1 {
			m.state.Keep(id, q)
		}
		if r := m.client.resend; r != nil {
			r.keep(id, q)
		}
		p := packetOf(q.Message)
		p.QoS, p.Retain, p.SubscriptionIDs = q.QoS, q.Retain, q.SubscriptionIDs
		b.sendStored(m, &p, q.Message, id)
	}
}

// reading is a read of a session's queue on its way.
type reading struct {
	m     *member
	epoch uint32
}

func (*reading) complete(*Broker, durable.Completion) {
	panic("broker: internal error: the store answered a read with a completion")
}

// arrived takes what was read.
func (r *reading) arrived(b *Broker, batch *durable.Batch) {
	m := r.m
	if m.ended || m.epoch != r.epoch {
		return
	}
	if batch.Err != nil {
		b.log.Warn("queue not read", "client_id", m.clientID, "err", batch.Err)
		m.state.EndRead(0, true, false)
		b.disconnect(m.client, packet.UnspecifiedError, "the queue could not be read")
		return
	}
	whole := true
	for i := range batch.Entries {
		if whole = b.deliverEntry(m, &batch.Entries[i]); !whole {
			break
		}
	}
	m.state.EndRead(batch.Last, batch.More, whole)
	b.pump(m)
	b.greet(m) // what has expired made room, and nobody acknowledges it
}

// deliverEntry takes one entry on its way to the client; false if the window has no room for it.
func (b *Broker) deliverEntry(m *member, e *durable.Entry) bool {
	if !m.state.Begun(e.Seq) { // what was begun is neither expired nor denied
		switch {
		case b.expired(e.Message):
			b.drop(DropExpired, m.clientID, e.Message.Topic)
			m.state.Skip(e.Seq)
			b.done(m, e.Seq, durable.Expired)
			return true
		case !m.grant.MayReceive(e.Message.Topic):
			b.drop(DropDenied, m.clientID, e.Message.Topic)
			m.state.Skip(e.Seq)
			b.done(m, e.Seq, durable.DroppedDenied)
			return true
		}
	}
	switch id, what := m.state.Entry(e); what {
	case session.Full:
		return false
	case session.Send, session.Resend:
		b.sendEntry(m, e, id, what == session.Resend)
	case session.Commit:
		op := &sending{m: m, epoch: m.epoch, id: id, entry: *e}
		b.store.Sent(m.state.Number(), e.Seq, id, b.ops.add(op))
	}
	return true
}

func (b *Broker) sendEntry(m *member, e *durable.Entry, id packet.ID, again bool) {
	p := packetOf(e.Message)
	p.QoS, p.Retain, p.SubscriptionIDs = e.QoS, e.Retain, e.SubscriptionIDs
	p.Dup = again // [MQTT-3.3.1-1]
	b.sendStored(m, &p, e.Message, id)
}

// sending is a QoS 2 message from the queue whose identifier is on its way to disk.
type sending struct {
	m     *member
	epoch uint32
	id    packet.ID
	entry durable.Entry
}

func (s *sending) complete(b *Broker, d durable.Completion) {
	if s.m.ended || s.m.epoch != s.epoch {
		return // the next connection reads it again
	}
	if d.Err != nil {
		b.disconnect(s.m.client, packet.UnspecifiedError, "the session could not be stored")
		return
	}
	if s.m.state.Committed(s.id, s.entry.Seq) {
		b.sendEntry(s.m, &s.entry, s.id, false)
		b.pump(s.m) // if it was too large, there is room for another
	}
}

// packetOf is the PUBLISH of a message, as far as it is the same for all receivers. It aliases
// the message.
func packetOf(m *message.Message) packet.Publish {
	return packet.Publish{
		Topic:      unsafe.Slice(unsafe.StringData(m.Topic), len(m.Topic)), // only read
		Payload:    m.Payload,
		QoS:        packet.QoS(m.QoS),
		Retain:     m.Retain,
		Properties: m.Properties,
		HasExpiry:  m.HasExpiry,
		Expiry:     m.Expiry,
	}
}
