package broker

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/conn"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/session"
	"dunlin/core/topic"
)

// connecting is a CONNECT on its way: it owns what it needs of the packet.
type connecting struct {
	c          *client
	clientID   string
	user       string // as offered
	assigned   bool
	cleanStart bool
	keepAlive  uint16 // seconds, as asked for or as we say
	ourPace    bool   // we say
	responses  bool   // it asks for Response Information
	expiry     uint32 // seconds asked for
	capped     bool   // we grant less
	receiveMax uint16
	will       *durable.Will
	identity   access.Identity
}

// onConnect takes the first packet. It returns conn.ErrPaused if the answer has to wait:
// nothing behind the CONNECT is processed before it.
func (b *Broker) onConnect(c *client, body []byte) error {
	b.counters.Connects++
	p, err := packet.ParseConnect(body)
	if p.Version != 0 {
		c.version = p.Version
	}
	if err != nil {
		return err
	}
	if !c.listener.speaks(p.Version) {
		return &packet.Error{Code: packet.UnsupportedProtocolVersion, Detail: "this listener does not speak the version"}
	}
	c.conn.Version = p.Version
	c.maxPacket = p.MaximumPacketSize
	c.noProblems = !p.RequestProblem
	if r := &c.listener.Redirect; r.turnsAway() {
		b.counters.RefusedConnects++
		b.log.Info("client is sent on", "client_id", string(p.ClientID), "remote", c.conn.Remote(), "listener", c.listener.Name, "to", r.To)
		b.sendConnack(c, &packet.Connack{Code: r.code(), Reason: c.reason("clients are sent on from here"), ServerReference: r.reference()})
		b.end(c, abnormal)
		return nil
	}
	if !b.admits(c, &p) {
		return nil
	}
	if n := min(int(p.TopicAliasMaximum), b.limits.TopicAliases); n > 0 {
		c.given = &given{max: n}
	}
	k, code := b.prepare(c, &p)
	if code != packet.Success {
		b.refuseConnect(c, k, code, "", nil)
		return nil
	}
	c.connecting = true
	c.pendingID = k.clientID
	var call authCall
	b.auth.Authenticate(auth.Request{
		ClientID:       k.clientID,
		Username:       string(p.Username),
		Password:       p.Password,
		HasUsername:    p.HasUsername,
		HasPassword:    p.HasPassword,
		Remote:         c.listener.Name,
		AllowAnonymous: c.listener.AllowAnonymous,
	}, func(a auth.Answer) {
		if !call.atOnce(a) {
			b.loop.Post(func() { b.authenticated(k, a) })
		}
	})
	if a, ok := call.leave(); ok {
		b.authenticated(k, a)
	}
	if c.connecting && !c.ended {
		return conn.ErrPaused
	}
	return nil
}

// authCall tells an answer that comes during the call from one that comes later.
type authCall struct {
	answer auth.Answer
	state  atomic.Uint32 // 0 in the call, 1 answered in the call, 2 left without an answer
}

// atOnce takes an answer; false if the caller is gone.
func (k *authCall) atOnce(a auth.Answer) bool {
	if k.state.Load() != 0 {
		return false
	}
	k.answer = a
	return k.state.CompareAndSwap(0, 1)
}

// leave ends the call and returns the answer if there is one.
func (k *authCall) leave() (auth.Answer, bool) {
	if k.state.CompareAndSwap(0, 2) {
		return auth.Answer{}, false
	}
	return k.answer, true
}

// prepare copies what is needed of a CONNECT, and checks what needs no one else.
func (b *Broker) prepare(c *client, p *packet.Connect) (*connecting, packet.ReasonCode) {
	k := &connecting{
		c:          c,
		clientID:   string(p.ClientID),
		user:       string(p.Username),
		cleanStart: p.CleanStart,
		keepAlive:  p.KeepAlive,
		expiry:     p.SessionExpiry,
		receiveMax: p.ReceiveMaximum,
		responses:  p.RequestResponse,
	}
	if p.Version < packet.V5 {
		k.receiveMax = 65535
		if !p.CleanStart {
			k.expiry = forever // such a session has no end of its own (MQTT3 §3.1.2.4)
		}
	}
	if limit := b.maxKeepAlive(); p.Version >= packet.V5 && (k.keepAlive == 0 || k.keepAlive > limit) && limit > 0 {
		k.keepAlive, k.ourPace = limit, true // MQTT5 §3.2.2.3.14
	}
	if limit := b.maxExpiry(); k.expiry > limit {
		k.expiry, k.capped = limit, true
	}
	switch {
	case p.AuthMethod != nil:
		return k, packet.BadAuthenticationMethod // none is offered
	case k.clientID == "" && p.Version < packet.V5 && !p.CleanStart, // [MQTT-3.1.3-8] of 3.1.1
		k.clientID == "" && p.Version == packet.V31: // MQTT 3.1 §3.1; more than its 23 characters are taken
		return k, packet.ClientIdentifierNotValid
	case len(k.clientID) > maxClientID, isOutbox(k.clientID):
		return k, packet.ClientIdentifierNotValid
	case k.clientID == "":
		k.clientID, k.assigned = newClientID(), true
	}
	if p.HasWill {
		if code := b.checkOffered(p.Will.QoS, p.Will.Retain); code != packet.Success { // [MQTT-3.2.2-12, MQTT-3.2.2-13]
			return k, code
		}
		name, code := b.willTopic(p.Will.Topic)
		if code != packet.Success {
			return k, code
		}
		if !b.checkPayload(p.Will.PayloadFormat, p.Will.Payload) { // §3.1.3.2.3
			return k, packet.PayloadFormatInvalid
		}
		k.will = &durable.Will{
			Delay: p.Will.Delay,
			Message: &message.Message{
				Topic:      name,
				Payload:    append([]byte(nil), p.Will.Payload...),
				Properties: p.Will.AppendTravelling(nil),
				QoS:        byte(p.Will.QoS),
				Retain:     p.Will.Retain,
				HasExpiry:  p.Will.HasExpiry,
				Expiry:     p.Will.Expiry,
				Publisher:  k.clientID,
			},
		}
	}
	return k, packet.Success
}

// willTopic checks the topic of a will and returns the one that it is published to.
func (b *Broker) willTopic(name []byte) (string, packet.ReasonCode) {
	p := packet.Publish{Topic: name}
	d, code := b.resolveDelay(&p)
	if code == packet.Success {
		code = b.checkTopic(p.Topic)
	}
	if code == packet.Success {
		code = b.rewritePublish(&p)
	}
	return d.delayedTopic(p.Topic), code
}

// checkOffered checks a PUBLISH or a will against what is announced at CONNECT.
func (b *Broker) checkOffered(qos packet.QoS, retain bool) packet.ReasonCode {
	switch {
	case qos > b.limits.MaxQoS:
		return packet.QoSNotSupported
	case retain && b.limits.NoRetain:
		return packet.RetainNotSupported
	}
	return packet.Success
}

// maxKeepAlive is the longest Keep Alive that is granted, in seconds; 0 = any. Clients of MQTT 3.1.1
// are not bound by it: they cannot be told, and must not be cut off for keeping to what they said.
func (b *Broker) maxKeepAlive() uint16 {
	return uint16(min(b.limits.MaxKeepAlive/time.Second, math.MaxUint16))
}

// responseTopic is the part of the topics that is a client's own for responses, nil if it has none: if
// its identifier is no single level, what is below it could be another's.
func (b *Broker) responseTopic(clientID string) []byte {
	if b.responsePrefix == "" || strings.ContainsAny(clientID, "/+#") {
		return nil
	}
	return []byte(b.responsePrefix + "/" + clientID)
}

// maxExpiry is the longest Session Expiry Interval that is granted, in seconds.
func (b *Broker) maxExpiry() uint32 {
	return uint32(min(int64(b.limits.MaxSessionExpiry/time.Second), forever))
}

// maxClientID is the longest client identifier, in bytes.
const maxClientID = 256

// newClientID makes an identifier for a client that brings none [MQTT-3.1.3-6].
func newClientID() string {
	var r [10]byte
	rand.Read(r[:]) // never fails
	return "auto-" + hex.EncodeToString(r[:])
}

// checkTopic checks a Topic Name that the codec has found well-formed against our limits.
func (b *Broker) checkTopic(name []byte) packet.ReasonCode {
	if len(name) > b.limits.MaxTopic {
		return packet.TopicNameInvalid
	}
	levels := 1
	for _, x := range name {
		if x == '/' {
			levels++
		}
	}
	if levels > b.limits.MaxTopicLevels || reserved(name) {
		return packet.TopicNameInvalid
	}
	return packet.Success
}

// reserved says whether a topic belongs to the broker. One that is delayed has lost that part.
func reserved(name []byte) bool {
	if _, _, is, _ := cutDelay(name); is {
		return true
	}
	const sys = "$SYS"
	return len(name) >= len(sys) && string(name[:len(sys)]) == sys && (len(name) == len(sys) || name[len(sys)] == '/')
}

func (b *Broker) authenticated(k *connecting, a auth.Answer) {
	c := k.c
	if c.ended {
		return
	}
	if a.Err != nil {
		code := packet.NotAuthorized
		switch {
		case errors.Is(a.Err, auth.ErrBadCredentials):
			code = packet.BadUserNameOrPassword
		case errors.Is(a.Err, auth.ErrBusy):
			code = packet.ServerBusy
		}
		b.refuseConnect(c, k, code, "", a.Err)
		return
	}
	if b.stopping {
		b.refuseStopping(c, k)
		return
	}
	k.identity = a.Identity
	b.enter(k)
}

// refuseConnect answers a CONNECT with a failure. why is for its client, too; err is not: who is
// about to guess a password must not learn what was wrong.
func (b *Broker) refuseConnect(c *client, k *connecting, code packet.ReasonCode, why string, err error) {
	b.counters.RefusedConnects++
	cause := why
	if err != nil {
		cause = err.Error()
	}
	b.log.Warn("connect refused", "client_id", k.clientID, "user", k.user, "remote", c.conn.Remote(), "listener", c.listener.Name, "reason", code.String(), "err", cause)
	b.sendConnack(c, &packet.Connack{Code: code, Reason: c.reason(why)})
	b.end(c, abnormal)
}

// refuseStopping answers a CONNECT that was under way when the broker began to stop.
func (b *Broker) refuseStopping(c *client, k *connecting) {
	r := &c.listener.Redirect
	if r.To == "" {
		b.refuseConnect(c, k, packet.ServerUnavailable, "the broker stops", nil) // 0x8B is none of CONNACK [MQTT-3.2.2-8]
		return
	}
	b.counters.RefusedConnects++
	b.sendConnack(c, &packet.Connack{Code: r.code(), Reason: c.reason("the broker stops"), ServerReference: r.reference()})
	b.end(c, abnormal)
}

// enter gives the connection its session: a new one, or the one that its client left
// [MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.1.2-6].
func (b *Broker) enter(k *connecting) {
	c := k.c
	m := b.members[k.clientID]
	if m != nil && m.identity() != k.identity && m.client == nil && m.expiry == 0 {
		b.endSession(m) // of the last process, there for its will only: nobody will come back to it
		m = nil
	}
	if m != nil && m.identity() != k.identity {
		// Somebody else's client identifier gives nobody the session behind it.
		b.refuseConnect(c, k, packet.NotAuthorized, "the client identifier belongs to a session of another user", nil)
		return
	}
	if k.will != nil && !b.policy.For(k.identity, k.clientID).MayPublish(realTopic(k.will.Message.Topic)) {
		b.refuseConnect(c, k, packet.NotAuthorized, "the will topic is not allowed", nil)
		return
	}
	if !b.roomForWill(m, k.will) {
		b.refuseConnect(c, k, packet.QuotaExceeded, "the wills of all clients are as large as they may be together", nil)
		return
	}
	if k.expiry > 0 && !b.storeTakes() && (m == nil || k.cleanStart || m.expiry == 0) {
		b.refuseConnect(c, k, packet.QuotaExceeded, "there is no room to keep a new session: the store is "+b.store.State().String(), nil)
		return
	}
	if !c.takes(b.encodeConnack(c, b.acceptance(k))) {
		// What it has to be told cannot be told [MQTT-3.1.2-24]. That nothing was wrong with its CONNECT
		// but for us is what the code says (§3.2.2.2); nothing has happened to its session.
		b.refuseConnect(c, k, packet.ImplementationSpecificError, "the Maximum Packet Size leaves no room for the CONNACK", nil)
		return
	}
	if m != nil && m.client != nil {
		b.takeOver(m, c)
	}
	if m != nil && m.ended { // the old connection took its session with it
		m = nil
	}
	var old *member // to be forgotten
	if m != nil && (k.cleanStart || m.expiry == 0) {
		if m.crashed {
			b.setWill(m, nil) // its client is back in time
		}
		old, m = m, nil
	}
	present := m != nil
	if !present {
		m = b.create(k)
		c.created = true
	}
	e := &entering{k: k, m: m, present: present, version: m.version, expiry: m.expiry}
	m.epoch++
	e.epoch = m.epoch
	m.client = c
	m.crashed = false
	c.member = m
	c.pendingID = ""
	m.version, m.expiry = c.version, k.expiry
	b.setWill(m, k.will) // one that was delayed is dropped: its client is back [MQTT-3.1.3-9]
	b.endAbsence(m)
	b.subscribeAtConnect(e)
	c.keepAlive = k.keepAlive
	if old != nil {
		b.endSession(old)
	}
	switch over := b.endings[k.clientID]; {
	case m.state.Durable():
		changed := len(e.added) > 0 || e.version != m.version || e.expiry != m.expiry
		if !present || m.unsaved > 0 || changed && b.storeWrites() {
			b.put(m, e)
			return
		}
		b.put(m, nil) // that it is connected, and its will, ride along
	case over != nil && b.storeWrites():
		b.keepWill(m)
		// A crash must not bring back what the client was told is gone: once more, to wait for it.
		b.storeEnd(over, b.ops.add(e))
		return
	default:
		b.keepWill(m)
	}
	b.welcome(e)
}

func (b *Broker) create(k *connecting) *member {
	m := &member{clientID: k.clientID, user: k.identity.User, anonymous: k.identity.Anonymous, version: k.c.version, expiry: k.expiry}
	m.grant = b.policy.For(k.identity, k.clientID)
	if k.expiry == 0 {
		m.state = *session.New(0, b.transientLimits)
	} else {
		m.state = *session.New(b.store.NextSession(), b.durableLimits)
	}
	b.newMember(m)
	return m
}

// takeOver ends the connection that has the session [MQTT-3.1.4-3].
func (b *Broker) takeOver(m *member, by *client) {
	old := m.client
	b.counters.SessionsTakeover++
	b.log.Info("session taken over", "client_id", m.clientID, "from", old.conn.Remote(), "by", by.conn.Remote())
	b.sendDisconnect(old, packet.SessionTakenOver, "another connection uses the client identifier")
	b.end(old, abnormal)
}

// entering is a CONNECT whose session is on its way to disk.
type entering struct {
	k       *connecting
	m       *member
	epoch   uint32
	present bool
	version packet.Version // of the session before
	expiry  uint32         // of the session before

	added     []durable.Subscription // that the configuration gives it
	greetings []greeting             // for them
}

func (e *entering) complete(b *Broker, d durable.Completion) {
	c, m := e.k.c, e.m
	if m.state.Durable() {
		m.unsaved--
	}
	switch {
	case c.ended || m.epoch != e.epoch:
	case d.Err == nil, !m.state.Durable(): // what ends with its connection needs no disk
		b.welcome(e)
	default:
		m.version, m.expiry = e.version, e.expiry
		b.refuseConnect(c, e.k, packet.QuotaExceeded, "the session could not be stored", nil)
	}
}

// acceptance is the CONNACK for a client that is let in, but for Session Present.
func (b *Broker) acceptance(k *connecting) *packet.Connack {
	c := k.c
	a := &packet.Connack{
		SharedUnavailable:   b.limits.NoShared,
		TopicAliasMaximum:   uint16(b.limits.TopicAliases),
		HasMaximumQoS:       b.limits.HasMaxQoS, // [MQTT-3.2.2-9]
		MaximumQoS:          b.limits.MaxQoS,
		RetainUnavailable:   b.limits.NoRetain,
		WildcardUnavailable: b.limits.NoWildcards,
		SubIDUnavailable:    b.limits.NoSubscriptionIDs,
		MaximumPacketSize:   uint32(c.maxReceived()),
		HasSessionExpiry:    k.capped,
		SessionExpiry:       k.expiry,
		ReceiveMaximum:      uint16(c.receiveMaximum()),
	}
	if k.ourPace {
		a.HasServerKeepAlive, a.ServerKeepAlive = true, k.keepAlive
	}
	if k.responses { // [MQTT-3.1.2-28]
		a.ResponseInformation = b.responseTopic(k.clientID)
	}
	if k.assigned {
		a.AssignedClientID = []byte(k.clientID)
	}
	return a
}

// welcome sends the CONNACK and starts the flow to the client.
func (b *Broker) welcome(e *entering) {
	c, m, k := e.k.c, e.m, e.k
	a := b.acceptance(k)
	a.SessionPresent = e.present
	b.sendConnack(c, a)
	c.accepted, c.connecting = true, false
	b.freed.connected()
	b.counters.Connected++
	b.counters.MaxConnected = max(b.counters.MaxConnected, b.counters.Connected)
	if b.observer != nil {
		b.observer.Connected(c.peer())
		for _, sub := range e.added {
			b.observer.Subscribed(m.clientID, sub)
		}
	}
	b.presence.connected(c)
	b.log.Debug("client connected", "client_id", m.clientID, "user", m.user, "version", int(c.version), "session_present", e.present)
	if silence := c.silence(); silence > 0 && silence < b.limits.ConnectTimeout {
		b.loop.At(b.loop.Now()+silence, c) // the timer of the CONNECT would be too late
	}
	b.setResend(c)
	b.setPace(c)
	m.state.Connect(c.window(k.receiveMax))
	c.carried = int32(m.state.IncomingCount())
	m.state.Releases(
		func(id packet.ID) { b.sendAck(c, packet.PUBREL, id, packet.Success) },
		func(id packet.ID) { b.saveReceived(m, 0, id) })
	b.pump(m)
	for _, g := range e.greetings {
		m.addGreeting(g)
	}
	b.greet(m)
	if e.present {
		b.sys.resumed(m)
	}
	if c.conn.Paused() {
		b.loop.Resume(c.conn)
	}
}

// sendConnack sends a CONNACK, without what it may do without if the client takes none so large. A
// refusal for which there is no room at all is the end of the connection alone.
func (b *Broker) sendConnack(c *client, a *packet.Connack) {
	if s := b.encodeConnack(c, a); c.takes(s) {
		c.conn.Send(&b.loop.Arena, s, 0)
	}
}

func (b *Broker) encodeConnack(c *client, a *packet.Connack) conn.Segment {
	return c.encodeWithin(
		func(dst []byte) []byte { return packet.AppendConnack(dst, a, c.version) },
		func() { a.Reason, a.ResponseInformation = nil, nil },
		func() { a.ServerReference = nil }) // the code says enough to whoever knows another server (§4.11)
}

// onDisconnect is the client's own end of the connection (MQTT5 §3.14).
func (b *Broker) onDisconnect(c *client, body []byte) error {
	d, err := packet.ParseDisconnect(body, c.version)
	if err != nil {
		return err
	}
	if serversOnly(d.Code) || d.ServerReference != nil { // [MQTT-3.14.2-1], §3.14.2.2.5
		return protocolError("DISCONNECT with what only a server says")
	}
	m := c.member
	if d.HasSessionExpiry {
		if m.expiry == 0 && d.SessionExpiry != 0 { // MQTT5 §3.14.2.2.2
			return protocolError("DISCONNECT sets a session expiry where CONNECT had none")
		}
		m.expiry = min(d.SessionExpiry, b.maxExpiry())
	}
	c.ending = Ending{ByClient, d.Code}
	if d.Code == packet.Success {
		b.end(c, normal)
	} else {
		b.end(c, abnormal)
	}
	return nil
}

// serversOnly says whether a reason code of DISCONNECT is none that a client may send: the column
// "Sent by" of its table (MQTT5 §3.14.2.1).
func serversOnly(code packet.ReasonCode) bool {
	switch code {
	case packet.NotAuthorized, packet.ServerBusy, packet.ServerShuttingDown, packet.KeepAliveTimeout,
		packet.SessionTakenOver, packet.TopicFilterInvalid, packet.RetainNotSupported, packet.QoSNotSupported,
		packet.UseAnotherServer, packet.ServerMoved, packet.SharedNotSupported, packet.ConnectionRateExceeded,
		packet.MaximumConnectTime, packet.SubIDNotSupported, packet.WildcardNotSupported:
		return true
	}
	return false
}

// isOutbox says whether a client identifier is reserved for an outbox.
func isOutbox(clientID string) bool {
	return len(clientID) > len(outboxPrefix) && clientID[:len(outboxPrefix)] == outboxPrefix
}

const outboxPrefix = "$uplink/"

func outboxClientID(name string) string { return outboxPrefix + name }

// checkFilter checks a Topic Filter of a SUBSCRIBE against the specification and our limits.
func (b *Broker) checkFilter(filter []byte) packet.ReasonCode {
	if topic.CheckFilter(filter) != nil || len(filter) > b.limits.MaxTopic {
		return packet.TopicFilterInvalid
	}
	levels := 1
	for _, x := range filter {
		if x == '/' {
			levels++
		}
	}
	if levels > b.limits.MaxTopicLevels {
		return packet.TopicFilterInvalid
	}
	return packet.Success
}
