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
	shares    bool // it may have messages that came by shared subscriptions
	emptied   bool // it has ended, and the store has it until they are moved
	greeter   bool // among the broker's greeters
	anonymous bool // who made it has no user name

	movement  *movement // of what came by shared subscriptions to others; nil = none
	greetings *greeting // the first of the subscriptions that are still to get retained messages
	overflow  *overflow // since its queue was full, nil = it has room
}

// absence is what a session has that no connection has.
type absence struct {
	left    message.Stamp // when the last connection ended
	expires *expiry       // nil if the session lasts for ever
	willDue *willDelay    // nil if no will waits
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
	if m.state.Durable() {
		b.endings[m.clientID] = m
		if moves {
			b.moveAll(m)
		}
		b.storeEnd(m, b.ops.add(&ending{m}))
	}
	b.releaseWill(m) // at the latest with the session [MQTT-3.1.2-8]
	b.endAbsence(m)
}

// storeEnd has the store forget a session that has ended, or as long as something of it is being
// moved, who it was. t is answered when that is on disk.
func (b *Broker) storeEnd(m *member, t durable.Token) {
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
		b.releaseWill(m) // writes the record when it is published
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

// delayWill publishes the will after a while, unless the client is back before or the session
// ends (MQTT5 §3.1.3.2.2).
func (b *Broker) delayWill(m *member, wait time.Duration) {
	m.away.willDue = &willDelay{b: b, m: m}
	b.loop.At(b.loop.Now()+wait, m.away.willDue)
}

// willDelay publishes a will.
type willDelay struct {
	loop.Place
	b *Broker
	m *member
}

func (w *willDelay) Fire(time.Duration) time.Duration {
	w.b.releaseWill(w.m)
	return 0
}

// releaseWill publishes the member's will in this turn, if it has one and may publish it. Then
// the record of the session is written without it.
func (b *Broker) releaseWill(m *member) {
	if m.will == nil {
		return
	}
	w := *m.will.Message
	b.setWill(m, nil)
	w.Received = b.now() // its Message Expiry Interval begins when it is published
	b.wills = append(b.wills, will{m, &w})
}

// will is a will message that is to be published.
type will struct {
	m   *member
	msg *message.Message
}

// setWill gives a session its will, nil = none. All wills are in memory: of those of clients that are
// connected, which cost them one packet of up to maxConnect bytes, Limits.MaxWillBytes is the bound.
func (b *Broker) setWill(m *member, w *durable.Will) {
	b.willBytes += willSize(w) - willSize(m.will)
	m.will = w
}

// roomForWill says whether a client may bring a will; m is its session, nil if there is none.
func (b *Broker) roomForWill(m *member, w *durable.Will) bool {
	if w == nil {
		return true
	}
	n := b.willBytes + willSize(w)
	if m != nil {
		n -= willSize(m.will)
	}
	return n <= b.limits.MaxWillBytes
}

// willSize is about how much memory a will takes, in bytes.
func willSize(w *durable.Will) int64 {
	const rest = 256 // what it is made of besides
	if w == nil {
		return 0
	}
	return int64(rest + len(w.Message.Topic) + len(w.Message.Payload) + len(w.Message.Properties))
}

// publishWills publishes the wills of the turn. The records follow, so that a crash in between
// leaves the will in place.
func (b *Broker) publishWills() {
	for len(b.wills) > 0 {
		wills := b.wills
		b.wills = nil
		for _, w := range wills {
			if w.m.grant.MayPublish(realTopic(w.msg.Topic)) {
				b.publishMessage(w.msg, nil)
			} else {
				b.drop(DropPublishDenied, w.m.clientID, w.msg.Topic)
				b.log.Warn("will denied", "client_id", w.m.clientID, "user", w.m.user, "topic", w.msg.Topic)
			}
			if w.m.state.Durable() && !w.m.ended {
				b.put(w.m, nil)
			}
		}
	}
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
		m.crashed = true
		b.crashed = append(b.crashed, m)
	}
	m.grant = b.policy.For(m.identity(), m.clientID)
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
		left = max(left, willGrace)
		b.delayWill(m, max(time.Duration(m.will.Delay)*time.Second-spent, willGrace))
	}
	b.watchExpiry(m, left)
}

// willGrace is the time that clients have at least to come back after a restart of the broker,
// before their wills are published.
const willGrace = time.Minute

// leaveAfterCrash writes down that the connections of the last process have ended: the next
// crash must not begin their time anew.
func (b *Broker) leaveAfterCrash() {
	for _, m := range b.crashed {
		b.put(m, nil)
	}
	b.crashed = nil
}

// sessionLimits are those of sessions that outlive their connections, and of those that do not.
func sessionLimits(l *Limits) (durable, transient *session.Limits) {
	return &session.Limits{Window: int32(l.MaxInFlight)}, &session.Limits{
		Window:    int32(l.MaxInFlight),
		MaxQueued: int32(min(l.MaxQueuedTransient, math.MaxInt32)),
		MaxBytes:  int32(min(l.MaxTransientBytes, math.MaxInt32)),
	}
}
