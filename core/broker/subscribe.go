package broker

import (
	"slices"
	"time"

	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/packet"
	"dunlin/core/topic"
)

// subscribing is a SUBSCRIBE or UNSUBSCRIBE whose answer waits for the session's commit.
type subscribing struct {
	c         *client
	m         *member
	id        packet.ID
	codes     []packet.ReasonCode
	unsub     bool
	changes   []change
	greetings []greeting
}

// change is what happened to one subscription.
type change struct {
	filter      string
	before, now *durable.Subscription // nil = none
}

// onSubscribe takes a SUBSCRIBE (MQTT5 §3.8): one code for each filter, in order.
func (b *Broker) onSubscribe(c *client, body []byte) error {
	p, err := packet.ParseSubscribe(body, c.version)
	if err != nil {
		return err
	}
	if fault := b.offersSubscriptions(c, &p); fault != nil {
		return fault
	}
	s := &subscribing{c: c, m: c.member, id: p.ID}
	for filter, o := range p.Filters() {
		filter := plainFilter(string(b.rewriteFilter(filter)))
		code := b.checkSubscribe(c, filter)
		if code == packet.Success {
			sub := durable.Subscription{
				Filter:            filter,
				QoS:               min(o.QoS, b.limits.MaxQoS), // of any QoS is accepted [MQTT-3.2.2-10]
				NoLocal:           o.NoLocal,
				RetainAsPublished: o.RetainAsPublished,
				RetainHandling:    o.RetainHandling,
				ID:                p.SubscriptionID,
			}
			code = s.subscribe(b, &sub)
		}
		s.codes = append(s.codes, code)
	}
	b.commitSubscriptions(s)
	return nil
}

// offersSubscriptions checks a SUBSCRIBE of MQTT 5.0 against what CONNACK has announced: asking for
// more is a Protocol Error with a code of its own (MQTT5 §3.2.2.3.11 to §3.2.2.3.13).
func (b *Broker) offersSubscriptions(c *client, p *packet.Subscribe) error {
	if p.SubscriptionID != 0 && b.limits.NoSubscriptionIDs {
		return &packet.Error{Code: packet.SubIDNotSupported, Detail: "SUBSCRIBE with a subscription identifier, which CONNACK has ruled out"}
	}
	if c.version < packet.V5 || !b.limits.NoWildcards && !b.limits.NoShared {
		return nil
	}
	for filter := range p.Filters() {
		switch {
		case b.limits.NoShared && isShared(string(filter)):
			return &packet.Error{Code: packet.SharedNotSupported, Detail: "SUBSCRIBE to a shared subscription, which CONNACK has ruled out"}
		case b.limits.NoWildcards && hasWildcard(filter):
			return &packet.Error{Code: packet.WildcardNotSupported, Detail: "SUBSCRIBE with a wildcard, which CONNACK has ruled out"}
		}
	}
	return nil
}

func hasWildcard[T string | []byte](filter T) bool {
	for i := range len(filter) {
		if filter[i] == '+' || filter[i] == '#' {
			return true
		}
	}
	return false
}

func (s *subscribing) subscribe(b *Broker, sub *durable.Subscription) packet.ReasonCode {
	if s.m.state.Durable() && !b.storeTakes() {
		if i := b.subscription(s.m, sub.Filter); i < 0 || s.m.subs[i].with(sub.Filter) != *sub {
			return packet.QuotaExceeded
		}
	}
	before, ok := b.subscribe(s.m, *sub)
	if !ok {
		return packet.QuotaExceeded
	}
	if before == nil || *before != *sub {
		s.changes = append(s.changes, change{sub.Filter, before, sub})
	}
	if isShared(sub.Filter) {
		return packet.ReasonCode(sub.QoS) // it gets no retained messages (MQTT5 §4.8.2)
	}
	if sub.RetainHandling == 0 || sub.RetainHandling == 1 && before == nil { // [MQTT-3.3.1-9, MQTT-3.3.1-10]
		s.greetings = append(s.greetings, greetingOf(sub))
	}
	return packet.ReasonCode(sub.QoS)
}

func (b *Broker) checkSubscribe(c *client, filter string) packet.ReasonCode {
	_, topics, shared, err := topic.Shared(filter)
	switch {
	case shared && b.limits.NoShared:
		return packet.SharedNotSupported // 3.1.1: 0x80
	case err != nil, len(filter) > b.limits.MaxTopic:
		return packet.TopicFilterInvalid // [MQTT-4.8.2-1, MQTT-4.8.2-2]
	case filter == "$share", filter == queueName:
		return packet.TopicFilterInvalid // a plain filter that nobody can mean
	case !shared:
		topics = filter
	}
	if code := b.checkFilter([]byte(topics)); code != packet.Success {
		return code
	}
	if b.limits.NoWildcards && hasWildcard(topics) {
		return packet.WildcardNotSupported // 3.1.1: 0x80
	}
	if !c.member.grant.MaySubscribe(topics) {
		c.reportDenied("subscribe denied", filter)
		return packet.NotAuthorized
	}
	return packet.Success
}

// subscribe enters or replaces a subscription [MQTT-3.8.4-3]. before is the one that was there,
// nil if there was none; ok is false at the client's limit.
func (b *Broker) subscribe(m *member, s durable.Subscription) (before *durable.Subscription, ok bool) {
	if before, ok = b.enterSubscription(m, s); ok && b.observer != nil {
		b.observer.Subscribed(m.clientID, s)
	}
	return before, ok
}

// enterSubscription is subscribe without telling the Observer.
func (b *Broker) enterSubscription(m *member, s durable.Subscription) (before *durable.Subscription, ok bool) {
	i := b.subscription(m, s.Filter)
	switch {
	case i >= 0:
		before = new(m.subs[i].with(s.Filter))
	case len(m.subs) >= b.limits.MaxSubscriptions:
		return nil, false
	}
	b.enroll(m, &s)
	if i >= 0 {
		m.subs[i] = b.compact(&s)
	} else {
		m.subs = append(m.subs, b.compact(&s))
	}
	b.sys.subscribed(topicsOf(s.Filter))
	return before, true
}

// unsubscribe ends a subscription. before is what it was, nil if there was none.
func (b *Broker) unsubscribe(m *member, filter string) (before *durable.Subscription) {
	i := b.subscription(m, filter)
	if i < 0 {
		return nil
	}
	before = new(m.subs[i].with(filter))
	b.withdraw(m, filter)
	m.subs = slices.Delete(m.subs, i, i+1)
	m.dropGreeting(filter)
	if b.observer != nil {
		b.observer.Unsubscribed(m.clientID, filter)
	}
	return before
}

// onUnsubscribe takes an UNSUBSCRIBE (MQTT5 §3.10). What is queued is still delivered
// [MQTT-3.10.4-3].
func (b *Broker) onUnsubscribe(c *client, body []byte) error {
	p, err := packet.ParseUnsubscribe(body, c.version)
	if err != nil {
		return err
	}
	s := &subscribing{c: c, m: c.member, id: p.ID, unsub: true}
	for filter := range p.Filters() {
		code := packet.NoSubscriptionExisted
		before := b.unsubscribe(c.member, plainFilter(string(b.rewriteFilter(filter))))
		if before == nil && len(b.rewrites) > 0 {
			before = b.unsubscribe(c.member, plainFilter(string(filter))) // made before there was the rule
		}
		if before != nil {
			s.changes = append(s.changes, change{before.Filter, before, nil})
			code = packet.Success
		}
		s.codes = append(s.codes, code)
	}
	b.commitSubscriptions(s)
	return nil
}

// commitSubscriptions answers when what changed is on disk. Nothing new needs no disk, unless
// what is the same is not there yet.
func (b *Broker) commitSubscriptions(s *subscribing) {
	if s.m.state.Durable() && (len(s.changes) > 0 || s.m.unsaved > 0) {
		b.put(s.m, s)
		return
	}
	s.answer(b)
}

func (s *subscribing) complete(b *Broker, d durable.Completion) {
	s.m.unsaved--
	if d.Err != nil {
		s.undo(b)
		for i, code := range s.codes {
			if code < packet.UnspecifiedError {
				s.codes[i] = packet.UnspecifiedError
			}
		}
		s.greetings = nil
		if s.c.version == packet.V31 || s.c.version < packet.V5 && s.unsub { // the answer could only say that it has worked
			b.end(s.c, abnormal)
			return
		}
	}
	s.answer(b)
}

// undo takes back what the client is told has failed, unless it has changed again since.
func (s *subscribing) undo(b *Broker) {
	if s.m.ended || len(s.changes) == 0 {
		return
	}
	for _, k := range slices.Backward(s.changes) {
		i := b.subscription(s.m, k.filter)
		switch {
		case k.now != nil && (i < 0 || s.m.subs[i].with(k.filter) != *k.now), k.now == nil && i >= 0:
		case k.before != nil:
			b.subscribe(s.m, *k.before)
		default:
			b.unsubscribe(s.m, k.filter)
		}
	}
	b.put(s.m, nil)
}

func (s *subscribing) answer(b *Broker) {
	if s.c.ended {
		return
	}
	if s.c.version == packet.V31 {
		s.grantAll()
	}
	k := packet.Suback{ID: s.id, Codes: s.codes}
	encode := packet.AppendSuback
	if s.unsub {
		encode = packet.AppendUnsuback
	}
	if s.c.tells() {
		k.Reason = subscribeReason(s.codes)
	}
	s.c.send(s.c.encodeWithin(
		func(dst []byte) []byte { return encode(dst, &k, s.c.version) },
		func() { k.Reason = nil }))
	for i := range s.greetings {
		s.m.addGreeting(s.greetings[i])
	}
	b.greet(s.m)
}

// grantAll turns refusals into grants of QoS 0: a SUBACK of MQTT 3.1 has no code for them, and its
// text asks for a positive answer (MQTT 3.1 §3.8).
func (s *subscribing) grantAll() {
	for i, code := range s.codes {
		if code >= packet.UnspecifiedError {
			s.codes[i] = packet.Success
			s.c.b.log.Info("subscription refused, which MQTT 3.1 cannot be told", "client_id", s.c.id(), "remote", s.c.conn.Remote(), "reason", code.String())
		}
	}
}

// restoreRetained brings back the retained messages.
func (b *Broker) restoreRetained(o Options) {
	if o.Retained == nil || b.limits.NoRetain { // they stay on disk
		return
	}
	for m := range o.Retained {
		if !b.retained.Set(m) {
			b.drop(DropRetainedFull, m.Publisher, m.Topic)
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
	if !b.sweep.Set() {
		b.loop.At(b.loop.Now()+sweepEvery, &b.sweep)
	}
}

// retainedSweep removes expired retained messages, so that they do not stay until somebody
// subscribes.
type retainedSweep struct {
	loop.Place
	b *Broker
}

func (s *retainedSweep) Fire(now time.Duration) time.Duration {
	b := s.b
	for _, m := range b.retained.Sweep(b.expired, sweepBatch) {
		b.drop(DropExpired, m.Publisher, m.Topic)
		gone := *m
		gone.Payload = nil
		b.store.Append(durable.Append{Message: &gone, Retained: true, Lazy: true}, 0)
	}
	if b.retained.Expiring() > 0 {
		return now + sweepEvery
	}
	return 0
}
