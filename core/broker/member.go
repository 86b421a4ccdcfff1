package broker

import (
	"math"
	"time"

	"dunlin/core/access"
	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/route"
	"dunlin/core/session"
)

// member is a session as the broker knows it: its state, who owns it, what it subscribes to,
// and the connection that has it, if any. There are thousands that do nothing, so what only some
// have is behind a pointer.
type member struct {
	clientID string
	user     string        // a session is bound to who made it
	grant    *access.Grant // of who made it
	state    session.Session
	client   *client  // nil while offline
	away     *absence // nil while online
	// publish is the last one that it is a durable receiver of, as Broker.publishes counts them.
	publish  uint64
	receiver route.Receiver
	// epoch counts connects and disconnects: an answer for an earlier epoch is stale.
	epoch uint32

	will      *durable.Will // nil = none
	subs      []subscription
	expiry    uint32 // seconds as granted, forever = none
	unsaved   int32  // writes of the record that somebody waits for
	version   packet.Version
	ended     bool
	crashed   bool // connected when the last process ended, and not back yet
	releasing bool // its will is published at the end of the turn, and its record follows
	shares    bool // it may have messages that came by shared subscriptions
	emptied   bool // it has ended, and the store has it until they are moved
	greeter   bool // among the broker's greeters
	anonymous bool // who made it has no user name

	partly    map[packet.ID]struct{} // see notePartly; nil = nothing
	movement  *movement              // of what came by shared subscriptions to others; nil = none
	greetings *greeting              // the first of the subscriptions that are still to get retained messages
	overflow  *overflow              // since its queue was full, nil = it has room
}

// absence is what a session has that no connection has.
type absence struct {
	left    message.Stamp // when the last connection ended
	expires *expiry       // nil if the session lasts for ever
	willDue *willDelay    // nil if no will waits
	grace   time.Duration // by the clock of the loop: the will is not published before
}

// identity is who made the session.
func (m *member) identity() access.Identity {
	return access.Identity{User: m.user, Anonymous: m.anonymous}
}

// online says whether the member has a connection that was let in.
func (m *member) online() bool { return m.client != nil && m.client.accepted }

const forever = 0xFFFFFFFF

// record is the member as the store keeps it.
func (b *Broker) record(m *member) *durable.Session {
	r := &durable.Session{
		Number:        m.state.Number(),
		ClientID:      m.clientID,
		Identity:      m.user,
		Version:       m.version,
		Expiry:        m.expiry,
		Connected:     m.client != nil,
		Will:          m.will,
		Subscriptions: b.subscriptionsOf(m),
	}
	if m.away != nil {
		r.Left = m.away.left
	}
	return r
}

// put writes the member's record. Without p nobody waits for it; with it, p counts unsaved down.
func (b *Broker) put(m *member, p pending) {
	if m.releasing {
		b.afterWill(m, func() { b.put(m, p) })
		return
	}
	var t durable.Token
	if p != nil {
		t = b.ops.add(p)
		m.unsaved++
	}
	b.store.PutSession(b.record(m), t)
}

// newMember enters a session into the tables.
func (b *Broker) newMember(m *member) {
	m.receiver = b.addReceiver(receiver{member: m})
	b.members[m.clientID] = m
}

// addReceiver gives a number to a receiver.
func (b *Broker) addReceiver(r receiver) route.Receiver {
	if n := len(b.freeRecv); n > 0 {
		i := b.freeRecv[n-1]
		b.freeRecv = b.freeRecv[:n-1]
		b.receivers[i] = r
		return i
	}
	b.receivers = append(b.receivers, r)
	return route.Receiver(len(b.receivers) - 1)
}

// freeReceiver takes the number of a receiver back that is not in the index any more.
func (b *Broker) freeReceiver(i route.Receiver) {
	b.receivers[i] = receiver{}
	b.freeRecv = append(b.freeRecv, i)
}

// endSession forgets a session, its subscriptions and what waits for it.
func (b *Broker) endSession(m *member) {
	if m.ended {
		return
	}
	m.ended = true
	m.epoch++
	b.overflowEnds(m, "session ended")
	moves := b.leavesToOthers(m)
	if n := m.state.Pending() - b.orphan(m); n > 0 && !moves {
		b.dropAll(DropSessionEnded, m.clientID, "", n)
	}
	for _, s := range b.subscriptionsOf(m) {
		b.withdraw(m, s.Filter)
		if b.observer != nil {
			b.observer.Unsubscribed(m.clientID, s.Filter)
		}
	}
	m.subs, m.greetings = nil, nil
	if v := m.movement; v != nil && v.rests {
		b.loop.Unset(v)
	}
	b.freeReceiver(m.receiver)
	if b.members[m.clientID] == m {
		delete(b.members, m.clientID)
	}
	b.releaseWill(m) // at the latest with the session [MQTT-3.1.2-8]
	if m.state.Durable() {
		b.endings[m.clientID] = m
		if moves {
			b.moveAll(m)
		}
		b.storeEnd(m, b.ops.add(&ending{m}))
	} else {
		b.dropKept(m)
	}
	b.endAbsence(m)
}

// storeEnd has the store forget a session that has ended, or as long as something of it is being
// moved, who it was. t is answered when that is on disk.
func (b *Broker) storeEnd(m *member, t durable.Token) {
	if m.releasing {
		b.afterWill(m, func() { b.storeEnd(m, t) })
		return
	}
	if m.emptied {
		b.store.PutSession(&durable.Session{Number: m.state.Number(), Version: m.version, Left: b.now()}, t)
		return
	}
	b.store.EndSession(m.state.Number(), t)
}

// ending is the end of a session on its way to disk. If its client comes back before and is told
// that there is no session, a crash must not bring that one back [MQTT-3.2.2-3].
type ending struct{ m *member }

func (e *ending) complete(b *Broker, _ durable.Completion) {
	if b.endings[e.m.clientID] == e.m {
		delete(b.endings, e.m.clientID)
	}
}

// leave is the end of the connection of a session.
func (b *Broker) leave(c *client, h how) {
	m := c.member
	if m.client != c {
		return // taken over
	}
	m.client = nil
	m.epoch++
	m.away = &absence{left: b.now()}
	m.state.Disconnect()
	if h == normal || !c.accepted { // without a CONNACK it never had one
		b.setWill(m, nil)
	}
	if !m.state.Durable() || m.expiry == 0 || c.created && !c.accepted {
		b.endSession(m)
		return
	}
	b.watchExpiry(m, time.Duration(m.expiry)*time.Second)
	b.moveFrom(m)
	if m.will != nil && m.will.Delay == 0 {
		b.releaseWill(m) // the record is written when it is published
		return
	}
	if m.will != nil {
		b.delayWill(m, time.Duration(m.will.Delay)*time.Second)
	}
	b.put(m, nil)
}

// watchExpiry ends the session after a while, unless its client is back before or it has no end.
func (b *Broker) watchExpiry(m *member, wait time.Duration) {
	if m.expiry == forever {
		return
	}
	m.away.expires = &expiry{b: b, m: m}
	b.loop.At(b.loop.Now()+wait, m.away.expires)
}

// endAbsence forgets what a member has while it is offline, and takes back the timers.
func (b *Broker) endAbsence(m *member) {
	if m.away == nil {
		return
	}
	if t := m.away.expires; t != nil {
		b.loop.Unset(t)
	}
	if t := m.away.willDue; t != nil {
		b.loop.Unset(t)
	}
	m.away = nil
}

// expiry ends a session.
type expiry struct {
	loop.Place
	b *Broker
	m *member
}

func (e *expiry) Fire(time.Duration) time.Duration {
	e.b.log.Info("session expired", "client_id", e.m.clientID, "messages", e.m.state.Pending())
	e.b.counters.SessionsExpired++
	e.b.endSession(e.m)
	return 0
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
		if r.Session.ClientID == "" { // it ended with the last process
			b.movements = append(b.movements, &movement{b: b, number: r.Session.Number, ended: true})
			continue
		}
		b.restoreSession(r)
	}
}

func (b *Broker) restoreSession(r *durable.Restored) {
	s := &r.Session
	m := &member{
		clientID:  s.ClientID,
		user:      s.Identity,
		anonymous: s.Identity == "",
		state:     *session.Restore(r, b.durableLimits),
		shares:    r.Shared > 0,
		version:   s.Version,
		expiry:    min(s.Expiry, b.maxExpiry()),
		away:      &absence{left: s.Left},
	}
	b.setWill(m, s.Will)
	if s.Connected {
		m.away.left = b.now() // the connection ended with the last process, when exactly nobody knows
		b.crashed = append(b.crashed, m)
	}
	m.crashed = s.Connected || m.expiry == 0 // that one would have ended with its connection
	m.grant = b.policy.For(m.identity(), m.clientID)
	if old := b.members[m.clientID]; old != nil { // a crash came between the new one and the end of the old
		b.superseded = append(b.superseded, old)
	}
	b.newMember(m)
	for _, sub := range s.Subscriptions {
		if !m.grant.MaySubscribe(topicsOf(sub.Filter)) {
			b.log.Warn("subscription no longer allowed", "client_id", m.clientID, "user", s.Identity, "topic", sub.Filter)
			continue
		}
		if b.limits.NoWildcards && hasWildcard(sub.Filter) {
			b.log.Warn("subscription with a wildcard is no longer offered", "client_id", m.clientID, "topic", sub.Filter)
			continue
		}
		if b.limits.NoShared && isShared(sub.Filter) {
			b.log.Warn("shared subscription is no longer offered", "client_id", m.clientID, "topic", sub.Filter)
			continue
		}
		sub.QoS = min(sub.QoS, b.limits.MaxQoS)
		if b.limits.NoSubscriptionIDs {
			sub.ID = 0
		}
		b.subscribe(m, sub)
	}
	var spent time.Duration
	if !s.Connected {
		spent = b.clock.Elapsed(s.Left)
	}
	left := max(time.Duration(m.expiry)*time.Second-spent, 0)
	if m.will != nil {
		m.away.grace = b.loop.Now() + b.limits.WillGrace
		left = max(left, b.limits.WillGrace)
		b.delayWill(m, max(time.Duration(m.will.Delay)*time.Second-spent, b.limits.WillGrace))
	}
	b.watchExpiry(m, left)
	b.dates.restored(m.away.left)
}

// sessionLimits are those of sessions that outlive their connections, and of those that do not.
func sessionLimits(l *Limits) (durable, transient *session.Limits) {
	return &session.Limits{Window: int32(l.MaxInFlight)}, &session.Limits{
		Window:    int32(l.MaxInFlight),
		MaxQueued: int32(min(l.MaxQueuedTransient, math.MaxInt32)),
		MaxBytes:  int32(min(l.MaxTransientBytes, math.MaxInt32)),
	}
}
