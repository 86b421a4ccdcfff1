package broker

import (
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/route"
	"dunlin/core/topic"
)

// subscribing is a SUBSCRIBE or UNSUBSCRIBE whose answer waits for the session's commit.
type subscribing struct {
	c        *client
	id       packet.ID
	codes    []packet.ReasonCode
	unsub    bool
	retained []wanted
}

// wanted is a subscription that is to get the retained messages.
type wanted struct {
	filter string
	qos    packet.QoS
	subID  uint32
}

// onSubscribe takes a SUBSCRIBE (MQTT5 §3.8): one code for each filter, in order.
func (b *Broker) onSubscribe(c *client, body []byte) error {
	p, err := packet.ParseSubscribe(body, c.version)
	if err != nil {
		return err
	}
	s := &subscribing{c: c, id: p.ID}
	changed := false
	for filter, o := range p.Filters() {
		code := b.checkSubscribe(c, filter)
		if code == packet.Success {
			sub := durable.Subscription{
				Filter:            string(filter),
				QoS:               o.QoS,
				NoLocal:           o.NoLocal,
				RetainAsPublished: o.RetainAsPublished,
				RetainHandling:    o.RetainHandling,
				ID:                p.SubscriptionID,
			}
			fresh, ok := b.subscribe(c.member, sub)
			switch {
			case !ok:
				code = packet.QuotaExceeded
			case o.RetainHandling == 0, o.RetainHandling == 1 && fresh: // [MQTT-3.3.1-9, MQTT-3.3.1-10]
				s.retained = append(s.retained, wanted{filter: sub.Filter, qos: o.QoS, subID: sub.ID})
				fallthrough
			default:
				code = packet.ReasonCode(o.QoS)
				changed = true
			}
		}
		s.codes = append(s.codes, code)
	}
	b.commitSubscriptions(s, changed)
	return nil
}

func (b *Broker) checkSubscribe(c *client, filter []byte) packet.ReasonCode {
	if _, _, shared, err := topic.Shared(string(filter)); shared || err != nil {
		return packet.SharedNotSupported // announced in CONNACK
	}
	if code := b.checkFilter(filter); code != packet.Success {
		return code
	}
	if !c.grant.MaySubscribe(string(filter)) {
		b.log.Info("subscribe denied", "client_id", c.member.clientID, "user", c.member.identity.User, "listener", c.listener.Name, "topic", string(filter))
		return packet.NotAuthorized
	}
	return packet.Success
}

// subscribe enters or replaces a subscription [MQTT-3.8.4-3]; ok is false at the client's limit.
func (b *Broker) subscribe(m *member, s durable.Subscription) (fresh, ok bool) {
	i := m.subscription(s.Filter)
	switch {
	case i >= 0:
		m.subs[i] = s
	case len(m.subs) >= b.limits.MaxSubscriptions:
		return false, false
	default:
		m.subs = append(m.subs, s)
	}
	b.index.Subscribe(s.Filter, m.receiver, route.Options{
		QoS: byte(s.QoS), NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, ID: s.ID,
	})
	return i < 0, true
}

// onUnsubscribe takes an UNSUBSCRIBE (MQTT5 §3.10). What is queued is still delivered
// [MQTT-3.10.4-3].
func (b *Broker) onUnsubscribe(c *client, body []byte) error {
	p, err := packet.ParseUnsubscribe(body, c.version)
	if err != nil {
		return err
	}
	s := &subscribing{c: c, id: p.ID, unsub: true}
	changed := false
	for filter := range p.Filters() {
		code := packet.NoSubscriptionExisted
		if i := c.member.subscription(string(filter)); i >= 0 {
			b.index.Unsubscribe(c.member.subs[i].Filter, c.member.receiver)
			c.member.subs = append(c.member.subs[:i], c.member.subs[i+1:]...)
			code = packet.Success
			changed = true
		}
		s.codes = append(s.codes, code)
	}
	b.commitSubscriptions(s, changed)
	return nil
}

// commitSubscriptions answers when what changed is on disk; nothing to write needs no disk.
func (b *Broker) commitSubscriptions(s *subscribing, changed bool) {
	if changed && s.c.member.state.Durable() {
		b.put(s.c.member, s)
		return
	}
	s.answer(b)
}

func (s *subscribing) complete(b *Broker, d durable.Completion) {
	if d.Err != nil {
		b.log.Error("subscriptions not stored", "client_id", s.c.id(), "err", d.Err)
		for i, code := range s.codes {
			if code < packet.UnspecifiedError {
				s.codes[i] = packet.UnspecifiedError
			}
		}
		s.retained = nil
	}
	s.answer(b)
}

func (s *subscribing) answer(b *Broker) {
	if s.c.ended {
		return
	}
	k := packet.Suback{ID: s.id, Codes: s.codes}
	encode := packet.AppendSuback
	if s.unsub {
		encode = packet.AppendUnsuback
	}
	s.c.send(b.loop.Arena.Packet(func(dst []byte) []byte { return encode(dst, &k, s.c.version) }))
	for i := range s.retained {
		b.sendRetained(s.c, &s.retained[i])
	}
}

// sendRetained sends the retained messages of a new subscription (MQTT5 §3.3.1.3).
func (b *Broker) sendRetained(c *client, w *wanted) {
	b.retained.Match(w.filter, func(m *message.Message) bool {
		if c.ended {
			return false
		}
		if !b.expired(m) {
			b.sendOneRetained(c.member, m, w)
		}
		return true
	})
}

// sendOneRetained takes one retained message to one session, in the way of any other message.
func (b *Broker) sendOneRetained(m *member, msg *message.Message, w *wanted) {
	if b.loop.Arena.Full() {
		b.loop.Flush()
		if m.client == nil {
			return
		}
	}
	pub := publication{Publish: packetOf(msg), topic: msg.Topic, publisher: msg.Publisher, source: msg.Source, msg: msg}
	if pub.HasExpiry {
		pub.Expiry = b.remaining(msg)
	}
	b.variants.reset()
	b.targets, b.handed, b.durables = b.targets[:0], b.handed[:0], b.durables[:0]
	var ids []uint32
	if w.subID != 0 {
		ids = []uint32{w.subID}
	}
	b.offer(&pub, m, min(pub.QoS, w.qos), true, ids) // [MQTT-3.3.1-8]
	if len(b.targets) > 0 {
		pub.Retain = false // it is retained already: this is for the one session
		op := b.publishing()
		b.hand(&pub, op)
		op.msg = pub.msg
		b.begin(op, true)
	}
}

// restoreRetained brings back the retained messages.
func (b *Broker) restoreRetained(o Options) {
	if o.Retained == nil {
		return
	}
	for m := range o.Retained {
		if !b.retained.Set(m) {
			b.counters.RetainedRefused++
		}
		if m.HasExpiry {
			b.sweepRetained()
		}
	}
}

// sweepEvery is how often expired retained messages are looked for, while there are any that
// can expire; sweepBatch how many of them one turn removes.
const (
	sweepEvery = 10 * time.Second
	sweepBatch = 1000
)

func (b *Broker) sweepRetained() {
	if !b.sweeping {
		b.sweeping = true
		b.loop.At(b.loop.Now()+sweepEvery, (*retainedSweep)(b))
	}
}

// retainedSweep removes expired retained messages, so that they do not stay until somebody
// subscribes.
type retainedSweep Broker

func (s *retainedSweep) Fire(now time.Duration) time.Duration {
	b := (*Broker)(s)
	for _, m := range b.retained.Sweep(b.expired, sweepBatch) {
		b.counters.Expired++
		gone := *m
		gone.Payload = nil
		b.store.Append(durable.Append{Message: &gone, Retained: true, Lazy: true}, 0)
	}
	if b.retained.Expiring() > 0 {
		return now + sweepEvery
	}
	b.sweeping = false
	return 0
}
