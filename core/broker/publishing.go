package broker

import (
	"sync"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/session"
)

// publishing is a publish until its last durable destination has answered. Answers come in
// later turns only.
type publishing struct {
	b      *Broker
	waits  int   // answers that are awaited
	failed error // the first failure among them

	// Who waits: a client for its PUBACK or PUBREC, or done. member is set at QoS 2 only.
	client *client
	member *member
	id     packet.ID
	qos    packet.QoS
	owing  bool   // the answer is among the client's acks
	owed   uint64 // its number there
	size   int    // bytes, while it waits
	isWill bool   // nobody waits; it is held all the same
	parked bool   // it is to be held
	hold   holding
	doubt  *doubt // about the retained message; nil = none
	done   func(error)
	kept   bool // if it fails, the message is still in the store and is published again

	// What follows the commit.
	msg      *message.Message
	seq      durable.Seq
	refused  bool      // the store has not taken it
	sends    []send    // live receivers: they have it at QoS 1, and get it at QoS 2
	queued   []*member // for whom it waits in the store
	outboxes []*outbox // that take it over at QoS 2
	later    *delayedMessage
}

// send is a PUBLISH to a live receiver. At QoS 1 it has left, at QoS 2 it leaves after its commit.
type send struct {
	m      *member
	epoch  uint32
	id     packet.ID
	qos    packet.QoS
	retain bool
	subIDs []uint32
}

// waitKey finds the publish of a QoS 2 message that came again before it was committed.
type waitKey struct {
	m  *member
	id packet.ID
}

// spareOps is how many finished operations are kept for reuse, each with room for spareReceivers
// at most: about 5 MiB.
const (
	spareOps       = 1024
	spareReceivers = 128
)

func (b *Broker) publishing() *publishing {
	if n := len(b.spare); n > 0 {
		op := b.spare[n-1]
		b.spare = b.spare[:n-1]
		return op
	}
	return &publishing{b: b}
}

// begin answers a publish that waits for nothing, or notes that its answer is owed.
func (b *Broker) begin(op *publishing, matched bool) {
	switch {
	case op.waits > 0:
		op.size = overhead + len(op.msg.Topic) + len(op.msg.Properties) + len(op.msg.Payload)
		b.undecided += op.size
		b.owe(op, op.client)
		if op.member != nil {
			b.waiting[waitKey{op.member, op.id}] = op
		}
	case matched:
		b.finish(op, packet.Success)
	default:
		b.finish(op, packet.NoMatchingSubscribers)
	}
}

// owe keeps a place for the answer among those that the connection is owed.
func (b *Broker) owe(op *publishing, c *client) {
	if c != nil && op.qos > 0 {
		if op.owing {
			op.client.held -= int32(op.size)
			if op.hold.counts {
				op.client.holding--
				c.holding++
			}
		}
		op.client, op.owing, op.owed = c, true, c.acks.add(op.id, op.qos)
		c.held += int32(op.size)
	}
}

// complete takes the store's answer.
func (op *publishing) complete(b *Broker, d durable.Completion) {
	if d.Err != nil {
		op.undo()
		op.hold.unstored = true
	} else {
		b.resolve(op, true)
		op.follow()
	}
	op.settle(d.Err)
}

// follow does what had to wait for the commit.
func (op *publishing) follow() {
	b := op.b
	if op.later != nil {
		b.delayed.wait(op.later)
	}
	for i := range op.sends {
		s := &op.sends[i]
		if s.qos == 1 || s.m.epoch != s.epoch || !s.m.state.Committed(s.id, op.seq) {
			continue // the next connection gets it from the store
		}
		p := packetOf(op.msg)
		p.QoS, p.Retain, p.SubscriptionIDs = 2, s.retain, s.subIDs
		b.sendStored(s.m, &p, op.msg, s.id)
		b.pump(s.m) // if it was too large, there is room for another
	}
	for _, o := range op.outboxes {
		o.takeOver(b, op.msg, op.seq)
	}
}

// undo takes the message back from sessions: it is not on disk, and the store knows nothing of it.
func (op *publishing) undo() {
	if op.later != nil {
		op.b.delayed.release(op.later)
	}
	for i := range op.sends {
		m := op.sends[i].m
		m.state.Abort(op.sends[i].id, op.seq)
		op.b.pump(m)
		op.b.greet(m)
	}
	for _, m := range op.queued {
		m.state.Lost(op.seq)
		op.b.pump(m)
		op.b.greet(m)
	}
}

// settle notes one answer; the last one answers the publisher.
func (op *publishing) settle(err error) {
	op.waits--
	if err != nil && op.failed == nil {
		op.failed = err
	}
	if op.waits > 0 {
		return
	}
	if h := &op.b.held; op.failed != nil && op.patient() && !op.gone() && (op.client != nil || h.bytes < maxHeld) {
		h.add(op)
		return
	}
	op.b.conclude(op)
}

// conclude ends a publish that has all its answers.
func (b *Broker) conclude(op *publishing) {
	code := packet.Success
	if op.failed != nil {
		if !op.kept {
			b.drop(DropNotStored, op.msg.Publisher, op.msg.Topic)
		}
		b.log.Debug("message not stored", "topic", op.msg.Topic, "err", op.failed)
		code = packet.QuotaExceeded
	}
	b.finish(op, code)
}

// finish answers whoever waits.
func (b *Broker) finish(op *publishing, code packet.ReasonCode) {
	b.held.decided(op)
	b.resolve(op, false)
	if op.owing {
		op.client.held -= int32(op.size)
	}
	refused := code >= packet.UnspecifiedError
	if op.member != nil {
		delete(b.waiting, waitKey{op.member, op.id})
		if refused {
			op.member.state.Forget(op.id)
			b.notePartly(op)
		} else {
			op.member.state.Accepted(op.id)
		}
	}
	if op.done != nil {
		op.done(op.failed)
	}
	switch c := op.client; {
	case c == nil || c.ended || op.qos == 0:
	case refused && c.version < packet.V5:
		// It cannot be told (MQTT3 §3.4). Without the acknowledgement it keeps the message and
		// sends it again.
		b.log.Info("connection closed: a message was refused, which its version of MQTT cannot be told", "client_id", c.id(), "remote", c.conn.Remote())
		c.ending = Ending{ByBroker, code}
		b.end(c, abnormal)
	case op.owing:
		c.acks.ready(op.owed, code)
		b.sendAcks(c)
	default:
		b.acknowledge(c, op.id, op.qos, code)
	}
	clear(op.sends)
	clear(op.queued)
	clear(op.outboxes)
	clear(op.hold.matched)
	hold := holding{matched: op.hold.matched[:0], handed: op.hold.handed[:0]}
	*op = publishing{b: b, hold: hold, sends: op.sends[:0], queued: op.queued[:0], outboxes: op.outboxes[:0]}
	if len(b.spare) < spareOps && cap(op.sends)+cap(op.queued)+cap(hold.matched) <= spareReceivers {
		b.spare = append(b.spare, op)
	}
}

// acknowledge answers a PUBLISH whose answer waits for nothing but those before it.
func (b *Broker) acknowledge(c *client, id packet.ID, qos packet.QoS, code packet.ReasonCode) {
	if c.acks.len() > 0 {
		c.acks.ready(c.acks.add(id, qos), code)
		return
	}
	b.sendAck(c, ackType(qos), id, code)
}

func ackType(qos packet.QoS) packet.Type {
	if qos == 2 {
		return packet.PUBREC
	}
	return packet.PUBACK
}

// sendAcks sends the acknowledgements that nothing holds back any more.
func (b *Broker) sendAcks(c *client) {
	for {
		k, ok := c.acks.next()
		if !ok {
			break
		}
		b.sendAck(c, ackType(k.qos), k.id, k.code)
	}
}

// A publisher waits for the disk by waiting for its acknowledgements, while what it sends is read
// all the same: PINGREQ and its own acknowledgements are among it. Reading from it rests while it is
// owed throttleAt answers, or those of throttleBytes of messages, or while maxUndecided bytes of
// messages of all publishers wait; it goes on at half of that. After maxRest its connection ends: it
// may find another way for its messages.
const (
	throttleAt    = 1000
	throttleBytes = 1 << 20
	maxUndecided  = 4 << 20
	maxRest       = 60 * time.Second
	overhead      = 256 // bytes that a message costs beside its own
)

// throttle says whether reading from a client has to rest.
func (b *Broker) throttle(c *client) bool {
	if c.acks.len() < throttleAt && c.held < throttleBytes && b.undecided < maxUndecided &&
		(c.holding == 0 || b.held.bytes < maxHeld) || c.acks.len() == 0 {
		return false
	}
	c.throttled = true
	b.throttled = append(b.throttled, c)
	b.loop.At(c.seen+maxRest, c)
	return true
}

// unthrottle goes on with those who have waited for the disk long enough.
func (b *Broker) unthrottle() {
	if len(b.throttled)+len(b.greeters) == 0 || b.undecided > maxUndecided/2 {
		return
	}
	greeters := b.greeters
	b.greeters = nil
	for _, m := range greeters {
		m.greeter = false
		b.greet(m)
	}
	resting := b.throttled
	b.throttled = nil
	for _, c := range resting {
		switch {
		case c.ended:
		case c.acks.len() > throttleAt/2, c.held > throttleBytes/2, c.holding > 0 && b.held.bytes > maxHeld/2:
			b.throttled = append(b.throttled, c)
		default:
			c.throttled = false
			b.restEnds(c)
			if c.keepAlive > 0 {
				b.loop.At(c.deadline(), c)
			} else {
				b.loop.Unset(c)
			}
			b.loop.Resume(c.conn)
		}
	}
}

func (b *Broker) sendAck(c *client, t packet.Type, id packet.ID, code packet.ReasonCode) {
	if code >= packet.UnspecifiedError && c.tells() && publishReasons[code] != nil {
		b.sendRefusal(c, t, id, code)
		return
	}
	c.send(b.loop.Arena.Ack(&packet.Ack{Type: t, ID: id, Code: code}, c.version))
	if t == packet.PUBREL {
		c.resend.sent(id)
	}
}

// handbacks collects the answers of outboxes, which come from other goroutines, for one turn.
type handbacks struct {
	mu   sync.Mutex
	list []handback // guarded by mu
}

type handback struct {
	op  *publishing
	o   *outbox
	err error
}

// handback returns what an outbox calls when it has the message.
func (op *publishing) handback(o *outbox) func(error) {
	return func(err error) {
		h := &op.b.handbacks
		h.mu.Lock()
		h.list = append(h.list, handback{op, o, err})
		first := len(h.list) == 1
		h.mu.Unlock()
		if first {
			op.b.loop.Post(op.b.takeHandbacks)
		}
	}
}

func (b *Broker) takeHandbacks() {
	b.handbacks.mu.Lock()
	list := b.handbacks.list
	b.handbacks.list = nil
	b.handbacks.mu.Unlock()
	for _, h := range list {
		if h.err != nil {
			h.o.report.add(b, h.err, "uplink", h.o.Name())
		} else {
			h.o.report.over(b, "uplink", h.o.Name())
		}
		if h.err != nil {
			h.op.hold.missed = append(h.op.hold.missed, h.o)
		}
		h.op.settle(h.err)
	}
}

// onAck takes PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT5 §3.4 to §3.7).
func (b *Broker) onAck(c *client, t packet.Type, body []byte) error {
	a, err := packet.ParseAck(t, body, c.version)
	if err != nil {
		return err
	}
	if err := b.takeAck(c, &a); err != nil || t == packet.PUBREL {
		return err
	}
	b.pump(c.member)
	b.greet(c.member)
	return nil
}

// onAcks takes n acknowledgements with success, whose identifiers count up from first.
func (b *Broker) onAcks(c *client, t packet.Type, first packet.ID, n int) error {
	for n > 0 && !c.ended {
		k := 0
		if t != packet.PUBREL && c.resend == nil {
			k = c.member.state.Together(t, first, n)
		}
		switch {
		case k == 0:
			if err := b.takeAck(c, &packet.Ack{Type: t, ID: first}); err != nil {
				return err
			}
			k = 1
		case t == packet.PUBREC:
			c.conn.SendReleases(&b.loop.Arena, first, k) // no client takes less, or CONNACK would have been too large
		case t == packet.PUBACK:
			b.done(c.member, 0, durable.Delivered)
		}
		first += packet.ID(k)
		n -= k
	}
	if t != packet.PUBREL {
		b.pump(c.member)
		b.greet(c.member)
	}
	return nil
}

// takeAck takes one acknowledgement.
func (b *Broker) takeAck(c *client, a *packet.Ack) error {
	m := c.member
	switch a.Type {
	case packet.PUBACK:
		c.resend.forget(a.ID)
		c.answering.answered(a.ID, b.loop.Now())
		if seq, ok := m.state.Puback(a.ID); ok {
			b.done(m, seq, durable.Delivered)
		}
	case packet.PUBREC:
		c.resend.forget(a.ID)
		b.onPubrec(c, a)
	case packet.PUBREL:
		return b.onPubrel(c, a.ID)
	case packet.PUBCOMP:
		if m.state.Pubcomp(a.ID) && m.state.Durable() {
			b.store.Completed(m.state.Number(), a.ID)
		}
	}
	return nil
}

func (b *Broker) onPubrec(c *client, a *packet.Ack) {
	m := c.member
	seq, next := m.state.Pubrec(a.ID, a.Code >= packet.UnspecifiedError)
	switch next {
	case session.Finished:
		b.done(m, seq, durable.Delivered)
	case session.SendRelease:
		b.sendAck(c, packet.PUBREL, a.ID, packet.Success)
	case session.UnknownID:
		b.sendAck(c, packet.PUBREL, a.ID, packet.PacketIDNotFound)
	case session.CommitReceived:
		b.saveReceived(m, seq, a.ID)
	}
}

// saveReceived writes a PUBREC down; seq is 0 if the store has been told that the message is done.
func (b *Broker) saveReceived(m *member, seq durable.Seq, id packet.ID) {
	b.store.Received(m.state.Number(), seq, id, b.ops.add(b.flow(m, id, false)))
}

func (b *Broker) onPubrel(c *client, id packet.ID) error {
	m := c.member
	switch m.state.Pubrel(id) {
	case session.Early:
		return protocolError("PUBREL before PUBREC")
	case session.SendComplete:
		b.sendAck(c, packet.PUBCOMP, id, packet.Success)
	case session.UnknownID:
		b.sendAck(c, packet.PUBCOMP, id, packet.PacketIDNotFound)
	case session.CommitRelease:
		b.store.Release(m.state.Number(), id, b.ops.add(b.flow(m, id, true)))
	}
	return nil
}

// flow is a step of QoS 2 on its way to disk.
type flow struct {
	m        *member
	id       packet.ID
	incoming bool // a PUBREL of the client, otherwise its PUBREC
}

// spareFlows is how many finished ones are kept for reuse: 24 KiB.
const spareFlows = 1024

func (b *Broker) flow(m *member, id packet.ID, incoming bool) *flow {
	var f *flow
	if n := len(b.spareFlow); n > 0 {
		f = b.spareFlow[n-1]
		b.spareFlow = b.spareFlow[:n-1]
	} else {
		f = new(flow)
	}
	f.m, f.id, f.incoming = m, id, incoming
	return f
}

func (f *flow) complete(b *Broker, d durable.Completion) {
	f.step(b, d)
	if f.m = nil; len(b.spareFlow) < spareFlows {
		b.spareFlow = append(b.spareFlow, f)
	}
}

// step goes on when the step is on disk, or is not.
func (f *flow) step(b *Broker, d durable.Completion) {
	switch {
	case f.m.ended:
	case d.Err != nil:
		// The step is not on disk: no answer. It is repeated on the next connection: a PUBREL by
		// the client, the note of its PUBREC by us.
		if f.incoming {
			f.m.state.Unreleased(f.id)
		} else {
			f.m.state.Unreceived(f.id)
		}
		if f.m.client != nil {
			b.disconnect(f.m.client, packet.UnspecifiedError, "the session could not be stored")
		}
	case f.incoming:
		if f.m.state.Released(f.id) && f.m.client != nil {
			b.sendAck(f.m.client, packet.PUBCOMP, f.id, packet.Success)
		}
	default:
		if f.m.state.ReceivedCommitted(f.id) && f.m.client != nil {
			b.sendAck(f.m.client, packet.PUBREL, f.id, packet.Success)
		}
	}
}

// done takes a message out of a session's queue on disk.
func (b *Broker) done(m *member, seq durable.Seq, o durable.Outcome) {
	if m.state.Durable() && seq != 0 {
		b.store.Done(m.state.Number(), seq, o)
	}
	if m.overflow != nil && b.hasRoom(m) {
		b.overflowEnds(m, "queue has room again")
	}
}

// finished ends a flow that was begun and cannot be carried out.
func (b *Broker) finished(m *member, id packet.ID, o durable.Outcome) {
	if m.client != nil {
		m.client.resend.forget(id)
	}
	if seq, ok := m.state.Drop(id); ok {
		b.done(m, seq, o)
	}
}
