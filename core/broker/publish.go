package broker

import (
	"errors"
	"slices"
	"unicode/utf8"

	"dunlin/core/conn"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/route"
	"dunlin/core/session"
)

// publication is one Application Message on its way through a publish.
type publication struct {
	packet.Publish                  // Properties are those that travel
	topic          string           // of the cache: may be kept
	publisher      string           // client identifier
	source         string           // uplink that it came down from
	msg            *message.Message // made when something has to keep it
	own            bool             // of the broker itself: it is not kept
	// sender is the durable session that must remember sentID, at QoS 2; nil = none.
	sender     *member
	sentID     packet.ID
	copied     bool        // there are records behind the first
	delayed    durable.Seq // its number while it was delayed in the store, 0 = it was not
	again      bool        // it was published: only who is durable missed it
	redo       bool        // it was held
	durability Durability
	// from and fromSeq are the queue that the message leaves, if it is moved; 0 = it is new.
	from    durable.SessionNumber
	fromSeq durable.Seq
}

// size is what a queue is charged for the message.
func (pub *publication) size() int { return len(pub.Topic) + len(pub.Properties) + len(pub.Payload) }

// target is a durable receiver of the publish under way.
type target struct {
	m      *member
	qos    packet.QoS
	retain bool
	subIDs []uint32
	share  string    // the shared subscription that it comes by, "" = none
	id     packet.ID // 0 = it waits
}

// onPublish takes a PUBLISH of a client (MQTT5 §3.3).
func (b *Broker) onPublish(c *client, flags byte, body []byte) error {
	pub := publication{publisher: c.member.clientID}
	p := &pub.Publish
	if err := p.Parse(body, flags, c.version); err != nil {
		return err
	}
	b.counters.Received++
	b.counters.PayloadReceived += uint64(len(p.Payload))
	if p.HasTopicAlias {
		if err := c.resolve(p); err != nil {
			return err
		}
	}
	if b.paces != nil && !b.inPace(c) {
		b.outpaced(c, p)
		return nil
	}
	if p.HasSubID {
		return protocolError("PUBLISH to a server with a subscription identifier") // [MQTT-3.3.4-6]
	}
	if code := b.checkOffered(p.QoS, p.Retain); code != packet.Success { // §3.2.2.3.4, §3.2.2.3.5
		return &packet.Error{Code: code, Detail: "PUBLISH asks for what CONNACK has ruled out"}
	}
	if p.QoS == 2 {
		fresh, committed := c.member.state.Arrive(p.ID)
		if !fresh {
			b.repeated(c, p.ID, committed)
			return nil
		}
		pub.again = c.member.wasPartly(p.ID) && p.Dup
	}
	if c.version == packet.V5 && p.QoS > 0 && b.unanswered(c, p.QoS) > c.receiveMaximum() { // [MQTT-3.3.4-7]
		if p.QoS == 2 {
			c.member.state.Forget(p.ID) // or it would be taken for a repetition, next time
		}
		return &packet.Error{Code: packet.ReceiveMaximumExceeded, Detail: "more PUBLISH packets in flight than the receive maximum"}
	}
	d, code := b.resolveDelay(p)
	switch code {
	case packet.Success:
		code = b.checkTopic(p.Topic)
	case packet.QuotaExceeded:
		b.drop(DropDelayedFull, c.member.clientID, "")
		c.reportDenied("publish refused: its delay is too long", string(p.Topic))
	default:
		c.reportDenied("publish refused: it is no $delayed/SECONDS/TOPIC, or nothing is to be delayed", string(p.Topic))
	}
	if code == packet.Success {
		code = b.rewritePublish(p)
	}
	if p.Scattered {
		pub.Properties, pub.Scattered = p.AppendTravelling(nil), false
	}
	if code == packet.Success {
		if r := b.cache.Lookup(p.Topic); !c.member.grant.MayPublish(r.Topic) {
			code = packet.NotAuthorized
			b.drop(DropPublishDenied, c.member.clientID, r.Topic)
			c.reportDenied("publish denied", r.Topic)
		} else if !b.checkPayload(p.PayloadFormat, p.Payload) { // §3.3.2.3.2
			code = packet.PayloadFormatInvalid
			b.drop(DropBadPayload, c.member.clientID, r.Topic)
		}
	}
	if code != packet.Success {
		return b.refusePublish(c, p, code)
	}
	op := b.publishing()
	op.client, op.id, op.qos = c, p.ID, p.QoS
	if p.QoS == 2 {
		op.member = c.member
		if c.member.state.Durable() {
			pub.sender, pub.sentID = c.member, p.ID
		}
	}
	if d.is {
		b.delay(&pub, d, op)
	} else {
		b.publish(&pub, op)
	}
	if b.throttle(c) {
		return conn.ErrPaused
	}
	return nil
}

// checkPayload says whether a payload is what its Payload Format Indicator claims, as far as that is
// to be checked. 1 is UTF-8, of which any character is right, U+0000 included.
func (b *Broker) checkPayload(format byte, payload []byte) bool {
	return format != 1 || !b.limits.CheckPayloads || utf8.Valid(payload)
}

// unanswered is how many PUBLISH packets of the client are in flight: QoS 1 until its PUBACK,
// QoS 2 until its PUBCOMP. qos is that of the one that has just come. What an earlier connection
// has left does not count: the client's quota began anew with this one (MQTT5 §4.9). Since nobody
// can tell when the client learns of a PUBCOMP, it never counts.
func (b *Broker) unanswered(c *client, qos packet.QoS) int {
	n := c.acks.pubacks() + c.member.state.IncomingCount() - int(c.carried)
	if qos == 1 {
		n++
	}
	return n
}

// repeated answers a QoS 2 PUBLISH that came again: delivered once is enough [MQTT-4.3.3-10].
func (b *Broker) repeated(c *client, id packet.ID, committed bool) {
	if committed {
		b.acknowledge(c, id, 2, packet.Success)
		return
	}
	// The first is still on its way to disk. Its PUBREC goes to the connection that has the
	// session by then: if that is this one, it is owed here from now on.
	if op := b.waiting[waitKey{c.member, id}]; op != nil && op.client != c {
		b.owe(op, c)
	}
}

// refusePublish answers a PUBLISH that goes nowhere. A 3.1.1 client cannot be told
// (MQTT3 §3.3.5): it gets its acknowledgement.
func (b *Broker) refusePublish(c *client, p *packet.Publish, code packet.ReasonCode) error {
	if p.QoS == 2 && c.version == packet.V5 {
		c.member.state.Forget(p.ID) // PUBREC from 0x80 on ends the flow
	} else if p.QoS == 2 {
		c.member.state.Accepted(p.ID)
		code = packet.Success
	}
	if p.QoS > 0 {
		b.acknowledge(c, p.ID, p.QoS, code)
	}
	return nil
}

// publish takes one message to everybody it is for. op says who waits for it; it is answered at
// once, or when the last durable destination has the message.
func (b *Broker) publish(pub *publication, op *publishing) {
	b.variants.reset()
	b.targets, b.handed, b.durables = b.targets[:0], b.handed[:0], b.durables[:0]
	b.chosen, b.copies = b.chosen[:0], b.copies[:0]
	b.publishes++

	route := b.cache.Lookup(pub.Topic)
	pub.topic = route.Topic
	if pub.QoS > 0 && len(b.durability) > 0 {
		pub.durability = b.durabilityOf(pub)
		if pub.durability == Relaxed && op.queuesUp() {
			pub.durability = Batched // it may not overtake what is held
		}
	}
	if b.observer != nil && !pub.own && !pub.again && !pub.redo {
		b.observer.Published(Publication{
			ClientID: pub.publisher, Source: pub.source, Topic: pub.topic, Payload: pub.Payload, QoS: pub.QoS, Retain: pub.Retain,
		})
	}
	if pub.overStore() {
		if why, ok := b.admitted(pub, op, route); !ok {
			b.turnAway(pub, op, why)
			return
		}
	}
	op.hold.told = true
	if !pub.redo {
		op.hold.order = b.publishes
	}
	matched := false
	for i := range route.Hits {
		m := &route.Hits[i]
		r := &b.receivers[m.Receiver]
		if r.outbox != nil {
			if pub.source == "" { // what came down does not go up again
				b.handed = append(b.handed, r.outbox)
				matched = true
			}
			continue
		}
		if r.group != nil {
			b.chosen = append(b.chosen, r.group) // after the others: it may be one of them who gets it
			continue
		}
		t := r.member
		qos, asPublished, ids := packet.QoS(m.QoS), m.RetainAsPublished, route.IDs(i)
		if (m.NoLocal || m.OwnDiffers) && t.clientID == pub.publisher {
			own, ok := b.index.Own(pub.Topic, m.Receiver)
			if !ok {
				continue // [MQTT-3.8.3-3]
			}
			qos, asPublished, ids = packet.QoS(own.QoS), own.RetainAsPublished, own.IDs
		}
		matched = true
		b.offer(pub, target{m: t, qos: min(pub.QoS, qos), retain: asPublished && pub.Retain, subIDs: ids})
	}
	if len(b.chosen) > 0 && b.offerGroups(pub) {
		matched = true
	}
	waiter := b.apart(pub, op)
	if pub.own {
		pub.Retain = false
	} else if pub.Retain {
		b.retain(pub, waiter)
	}
	if waiter.patient() {
		waiter.hold.match(b, pub)
	}
	b.hand(pub, waiter)
	if len(b.copies) > 0 {
		b.offerCopies(pub, waiter)
	}
	op.msg, waiter.msg = pub.msg, pub.msg
	if waiter != op {
		b.begin(waiter, matched)
	}
	if !pub.redo {
		b.begin(op, matched)
	}
	if op.parked {
		op.parked = false
		b.held.add(op)
	}
}

// overStore says whether outboxes take the message over from the store: at QoS 2, and at QoS 1 if it
// was delayed, so that it is in one place at any time.
func (pub *publication) overStore() bool { return pub.QoS == 2 || pub.delayed != 0 }

// errRefused is what an internal publisher is told.
var errRefused = errors.New("broker: the store or an uplink takes nothing more for now")

// turnAway ends, or holds, a message that was not admitted.
func (b *Broker) turnAway(pub *publication, op *publishing, why DropReason) {
	switch {
	case pub.redo:
		op.hold.unstored = true
		op.failed = errRefused
	case op.patient():
		b.holdWhole(pub, op)
	default:
		if pub.delayed == 0 {
			b.drop(why, pub.publisher, pub.topic)
		}
		op.failed = errRefused
		b.finish(op, packet.QuotaExceeded)
	}
}

// admitted asks the store and the outboxes about a QoS 2 message before anything is delivered or
// stored: it is delivered to everybody or to nobody.
func (b *Broker) admitted(pub *publication, op *publishing, route *route.Route) (why DropReason, ok bool) {
	if (!b.storeTakes() || op.queuesUp() && !pub.redo) && b.needsStore(pub, route.Hits) {
		return DropNotStored, false
	}
	if len(b.outboxes) == 0 || pub.source != "" {
		return 0, true
	}
	for i := range route.Hits {
		o := b.receivers[route.Hits[i].Receiver].outbox
		if o == nil {
			continue
		}
		if messages, bytes := b.excess(o.number, pub.size()); messages > 0 || bytes > 0 || !o.Admits(pub.size()) {
			return DropUplinkFull, false
		}
	}
	return 0, true
}

// offer takes a message to one session: at once, into its queue in memory, or among the
// targets of hand.
func (b *Broker) offer(pub *publication, t target) {
	m := t.m
	if !m.grant.MayReceive(pub.topic) {
		b.drop(DropDenied, m.clientID, pub.topic)
		return
	}
	switch {
	case pub.again && t.share == "" && (t.qos == 0 || !m.state.Durable()): // it has it, as far as it can
	case t.qos == 0:
		if m.online() {
			b.sendNow(pub, m.client, 0, t.retain, t.subIDs, 0)
		}
	case m.state.Durable():
		if !b.fits(m, pub) {
			b.dropFull(m, pub.topic, 1)
			return
		}
		_, t.id = m.state.Offer(b.ready(m))
		m.publish = b.publishes
		b.targets = append(b.targets, t)
	default:
		switch o, id := b.offerMemory(m); o {
		case session.SendNow:
			m.state.Sending(t.qos, id)
			if t.share != "" && t.qos == 1 {
				m.state.Keep(id, b.queued(pub, t))
			}
			if r := m.client.resend; r != nil {
				r.keep(id, b.queued(pub, t))
			}
			b.sendNow(pub, m.client, t.qos, t.retain, t.subIDs, id)
		case session.Wait:
			m.state.Enqueue(b.queued(pub, t))
		case session.Refuse:
			b.dropFull(m, pub.topic, 1)
		}
	}
}

// queued is the message as it waits in memory for a session.
func (b *Broker) queued(pub *publication, t target) session.Queued {
	return session.Queued{Message: b.message(pub), QoS: t.qos, Retain: t.retain, SubscriptionIDs: slices.Clone(t.subIDs), Share: t.share}
}

// offerOne takes a message to one session, outside of a publish; op is told when it is on disk, if
// it has to be.
func (b *Broker) offerOne(pub *publication, t target, op *publishing) {
	b.variants.reset()
	b.targets, b.handed, b.durables = b.targets[:0], b.handed[:0], b.durables[:0]
	pub.Retain = false // what is to be retained is retained already
	b.offer(pub, t)
	b.hand(pub, op)
	op.msg = pub.msg
	b.begin(op, true)
}

// hand takes the message to its durable destinations.
func (b *Broker) hand(pub *publication, op *publishing) {
	for i := range b.targets {
		t := &b.targets[i]
		r := durable.Receiver{Session: t.m.state.Number(), QoS: t.qos, Retain: t.retain, SubscriptionIDs: t.subIDs, Share: t.share}
		if t.share != "" {
			t.m.shares = true
		}
		if t.qos == 2 {
			r.PacketID = t.id
		}
		b.durables = append(b.durables, r)
	}
	if pub.overStore() {
		for _, o := range b.handed {
			b.durables = append(b.durables, durable.Receiver{Session: o.number, QoS: 2})
		}
	}
	// The last record of several notes the identifier, and that it is delayed no more, also if it is for
	// nobody.
	note := len(b.copies) == 0 && (pub.delayed != 0 || pub.copied && pub.sender != nil)
	needed := len(b.durables) > 0 || pub.Retain || note
	if op.queuesUp() && !pub.redo {
		b.park(pub, op, needed)
		return
	}
	if needed {
		b.append(pub, op)
	}
	for _, o := range b.handed {
		switch {
		case pub.QoS == 0:
			o.Append(b.message(pub), 0, nil)
		case !pub.overStore():
			op.waits++
			o.Append(b.message(pub), 0, op.handback(o))
			if pub.durability == Sync {
				o.Urgent()
			}
		}
	}
}

func (b *Broker) append(pub *publication, op *publishing) {
	a := durable.Append{
		Message:   b.message(pub),
		Receivers: b.durables,
		Retained:  pub.Retain,
		From:      pub.from,
		FromSeq:   pub.fromSeq,
		Linger:    b.lingers(pub),
		Sync:      pub.durability == Sync,
		Relaxed:   pub.durability == Relaxed,
		Lazy:      len(b.durables) == 0 && pub.QoS == 0,
	}
	if len(b.copies) == 0 {
		a.Delayed = pub.delayed
	} else {
		// With the identifier, or its number while it was delayed, all of them are one transaction.
		a.More = pub.sender != nil || pub.delayed != 0
	}
	var t durable.Token
	if !a.Lazy {
		op.waits++
		t = b.ops.add(op)
		if pub.sender != nil && len(b.copies) == 0 {
			a.Publisher, a.PublisherID = pub.sender.state.Number(), pub.sentID
		}
	}
	seq := b.store.Append(a, t)
	op.seq = seq
	if seq == 0 && pub.delayed != 0 {
		b.copies = b.copies[:0]
		return // it stays delayed
	}
	if seq == 0 {
		// The store does not take it, or too much waits for the disk: the answer will say so. What was
		// to be moved stays where it is.
		op.refused = true
		if op.patient() {
			b.held.count(op) // no later one may overtake it
		}
		if a.More { // all of them or none
			b.copies = b.copies[:0]
		}
		b.pass(pub, op)
		return
	}
	for i := range b.targets {
		t := &b.targets[i]
		t.m.state.Took(seq, t.qos, t.id)
		switch {
		case t.id == 0:
			op.queued = append(op.queued, t.m)
			b.pump(t.m)
		case t.qos == 1:
			op.sends = append(op.sends, send{m: t.m, id: t.id, qos: 1})
			b.sendNow(pub, t.m.client, 1, t.retain, t.subIDs, t.id)
		default:
			op.sends = append(op.sends, send{m: t.m, epoch: t.m.epoch, id: t.id, qos: 2, retain: t.retain, subIDs: slices.Clone(t.subIDs)})
		}
	}
	if pub.overStore() {
		op.outboxes = append(op.outboxes, b.handed...)
	}
}

// retain keeps the message as the retained message of its topic, or removes that
// [MQTT-3.3.1-5, MQTT-3.3.1-6].
func (b *Broker) retain(pub *publication, op *publishing) {
	m := b.message(pub)
	before := b.retained.Get(m.Topic)
	if !b.retained.Set(m) {
		b.drop(DropRetainedFull, pub.publisher, pub.topic)
		b.log.Warn("retained store is full", "topic", pub.topic, "client_id", pub.publisher)
		pub.Retain = false
		return
	}
	if pub.QoS > 0 {
		b.doubtful(op, m.Topic, before)
	} else if d := b.doubts[m.Topic]; d != nil {
		d.sure = b.retained.Get(m.Topic)
	}
	if m.HasExpiry {
		b.sweepRetained()
	}
}

// message returns the copy of the message that may be kept.
func (b *Broker) message(pub *publication) *message.Message {
	if pub.msg != nil {
		return pub.msg
	}
	m := message.New(pub.Payload, pub.Properties)
	m.Topic, m.QoS, m.Retain = pub.topic, byte(pub.QoS), pub.Retain
	m.HasExpiry, m.Expiry, m.Received = pub.HasExpiry, pub.Expiry, b.now()
	m.Publisher, m.Source = pub.publisher, pub.source
	pub.msg = m
	return m
}

// publishMessage publishes a message that is no client's packet: a will, or one of an uplink.
// done, which may be nil, is told when its durable destinations have it, or could not take it. It returns
// whether those that need the store have it in the transaction that is collected; a will is held
// otherwise.
func (b *Broker) publishMessage(m *message.Message, isWill bool, done func(error)) (stored bool) {
	p := packetOf(m)
	d, code := b.resolveDelay(&p)
	if d.is {
		code = b.checkTopic(p.Topic)
	}
	if code != packet.Success { // nobody is there to be told
		why := DropPublishDenied
		if code == packet.QuotaExceeded {
			why = DropDelayedFull
		}
		b.drop(why, m.Publisher, m.Topic)
		b.log.Warn("a will, or a message from above, cannot be delayed", "client_id", m.Publisher, "topic", m.Topic, "reason", code.String())
		if done != nil {
			done(nil)
		}
		return true
	}
	if d.is {
		m = new(*m)
		m.Topic = string(p.Topic)
	}
	if m.Retain && b.limits.NoRetain { // a will of an earlier start, or from above
		m = new(*m)
		m.Retain = false
	}
	pub := publication{
		Publish:   packetOf(m),
		publisher: m.Publisher,
		source:    m.Source,
		msg:       m,
	}
	op := b.publishing()
	op.qos, op.done, op.isWill = pub.QoS, done, isWill
	if d.is {
		b.delay(&pub, d, op)
		return true
	}
	b.publish(&pub, op)
	return !op.refused && !op.hold.unstored // if it is over, it is another's
}
