package broker

import (
	"slices"
	"time"

	"dunlin/core/access"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/route"
	"dunlin/core/session"
)

// member is a session as the broker knows it: its state, who owns it, what it subscribes to,
// and the connection that has it, if any.
type member struct {
	clientID string
	identity access.Identity // a session is bound to who made it
	grant    *access.Grant   // of the identity
	state    *session.Session
	receiver route.Receiver
	client   *client // nil while offline
	// epoch counts connects and disconnects: an answer for an earlier epoch is stale.
	epoch uint32

	version packet.Version
	expiry  uint32 // seconds as granted, forever = none
	left    message.Stamp
	will    *durable.Will // nil = none
	subs    []durable.Subscription
	ended   bool
}

const forever = 0xFFFFFFFF

// record is the member as the store keeps it.
func (m *member) record() *durable.Session {
	return &durable.Session{
		Number:        m.state.Number(),
		ClientID:      m.clientID,
		Identity:      m.identity.User,
		Version:       m.version,
		Expiry:        m.expiry,
		Connected:     m.client != nil,
		Left:          m.left,
		Will:          m.will,
		Subscriptions: slices.Clone(m.subs),
	}
}

func (m *member) subscription(filter string) int {
	return slices.IndexFunc(m.subs, func(s durable.Subscription) bool { return s.Filter == filter })
}

// put writes the member's record. nil waits for nothing.
func (b *Broker) put(m *member, p pending) {
	var t durable.Token
	if p != nil {
		t = b.ops.add(p)
	}
	b.store.PutSession(m.record(), t)
}

// newMember enters a session into the tables.
func (b *Broker) newMember(m *member) {
	if n := len(b.freeRecv); n > 0 {
		m.receiver = b.freeRecv[n-1]
		b.freeRecv = b.freeRecv[:n-1]
		b.receivers[m.receiver] = receiver{member: m}
	} else {
		m.receiver = route.Receiver(len(b.receivers))
		b.receivers = append(b.receivers, receiver{member: m})
	}
	b.members[m.clientID] = m
}

// endSession forgets a session, its subscriptions and what waits for it.
func (b *Broker) endSession(m *member) {
	if m.ended {
		return
	}
	m.ended = true
	m.epoch++
	for i := range m.subs {
		b.index.Unsubscribe(m.subs[i].Filter, m.receiver)
	}
	m.subs = nil
	b.receivers[m.receiver] = receiver{}
	b.freeRecv = append(b.freeRecv, m.receiver)
	if b.members[m.clientID] == m {
		delete(b.members, m.clientID)
	}
	if m.state.Durable() {
		b.store.EndSession(m.state.Number(), 0)
	}
	b.releaseWill(m) // at the latest with the session [MQTT-3.1.2-8]
}

// leave is the end of the connection of a session.
func (b *Broker) leave(c *client, h how) {
	m := c.member
	if m.client != c {
		return // taken over
	}
	m.client = nil
	m.epoch++
	m.left = b.now()
	m.state.Disconnect()
	if h == normal {
		m.will = nil
	}
	if !m.state.Durable() || m.expiry == 0 {
		b.endSession(m)
		return
	}
	if m.will != nil {
		b.delayWill(m)
	}
	b.put(m, nil)
	b.watchExpiry(m, 0)
}

// watchExpiry ends the session when nobody has come back in time. spent is how much of its
// expiry interval is over.
func (b *Broker) watchExpiry(m *member, spent time.Duration) {
	if m.expiry == forever {
		return
	}
	left := max(time.Duration(m.expiry)*time.Second-spent, 0)
	b.loop.At(b.loop.Now()+left, &expiry{b: b, m: m, epoch: m.epoch, at: b.loop.Now() + left})
}

type expiry struct {
	b     *Broker
	m     *member
	epoch uint32
	at    time.Duration
}

func (e *expiry) Fire(now time.Duration) time.Duration {
	switch {
	case e.m.ended || e.m.epoch != e.epoch:
		return 0
	case now < e.at:
		return e.at
	}
	e.b.log.Info("session expired", "client_id", e.m.clientID, "messages", e.m.state.Pending())
	e.b.endSession(e.m)
	return 0
}

// delayWill publishes the will after its Will Delay Interval, unless the client is back before
// (MQTT5 §3.1.3.2.2).
func (b *Broker) delayWill(m *member) {
	if m.will.Delay == 0 {
		b.releaseWill(m)
		return
	}
	at := b.loop.Now() + time.Duration(m.will.Delay)*time.Second
	b.loop.At(at, &willDelay{expiry{b: b, m: m, epoch: m.epoch, at: at}})
}

type willDelay struct{ expiry }

func (w *willDelay) Fire(now time.Duration) time.Duration {
	switch {
	case w.m.ended || w.m.epoch != w.epoch:
		return 0
	case now < w.at:
		return w.at
	}
	w.b.releaseWill(w.m)
	if w.m.state.Durable() {
		w.b.put(w.m, nil)
	}
	return 0
}

// releaseWill publishes the member's will in this turn, if it has one and may publish it.
func (b *Broker) releaseWill(m *member) {
	if m.will == nil {
		return
	}
	w := *m.will.Message
	m.will = nil
	if !m.grant.MayPublish(w.Topic) {
		b.counters.DeniedPublishes++
		b.log.Warn("will denied", "client_id", m.clientID, "user", m.identity.User, "topic", w.Topic)
		return
	}
	w.Received = b.now() // its Message Expiry Interval begins when it is published
	b.wills = append(b.wills, &w)
}

// restoreSessions brings back what the store held, so that a message that arrives before its
// client does is queued (MQTT5 §4.5).
func (b *Broker) restoreSessions(o Options) {
	outboxes := make(map[string]*outbox)
	for _, x := range o.Outboxes {
		outboxes[outboxClientID(x.Name())] = b.addOutbox(x)
	}
	for i := range o.Restored {
		r := &o.Restored[i]
		if x, ok := outboxes[r.Session.ClientID]; ok {
			x.restore(r)
			continue
		}
		b.restoreSession(r)
	}
}

func (b *Broker) restoreSession(r *durable.Restored) {
	s := &r.Session
	m := &member{
		clientID: s.ClientID,
		identity: access.Identity{User: s.Identity, Anonymous: s.Identity == ""},
		state:    session.Restore(r, b.sessionLimits()),
		version:  s.Version,
		expiry:   s.Expiry,
		left:     s.Left,
		will:     s.Will,
	}
	if s.Connected {
		m.left = b.now() // the connection ended with the last process, when exactly nobody knows
	}
	m.grant = b.policy.For(m.identity, m.clientID)
	b.newMember(m)
	for _, sub := range s.Subscriptions {
		if !m.grant.MaySubscribe(sub.Filter) {
			b.log.Warn("subscription no longer allowed", "client_id", m.clientID, "user", s.Identity, "topic", sub.Filter)
			continue
		}
		b.subscribe(m, sub)
	}
	var spent time.Duration
	if !s.Connected {
		spent = b.clock.Elapsed(s.Left)
	}
	if m.will != nil {
		// Its client was connected when the power went: it has the time of its delay, and at
		// least a minute, to come back.
		m.will.Delay = max(m.will.Delay, 60)
		b.delayWill(m)
	}
	b.watchExpiry(m, spent)
}

func (b *Broker) sessionLimits() session.Limits {
	return session.Limits{Window: b.limits.MaxInFlight, MaxQueued: b.limits.MaxQueued}
}

func (b *Broker) transientLimits() session.Limits {
	return session.Limits{Window: b.limits.MaxInFlight, MaxQueued: b.limits.MaxQueuedTransient}
}
