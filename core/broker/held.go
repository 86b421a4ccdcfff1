package broker

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// heldAgain is how often it is tried whether what is held can be stored now, if nothing tells before.
const heldAgain = time.Second

// maxHeld is how many bytes of messages may be held of all clients together, beyond which reading from
// each client that has some rests.
const maxHeld = 4 << 20

// targetBytes is about what a receiver of a held message costs.
const targetBytes = 96

// heldMessages are publishes that wait for a durable destination which does not take them now, in the
// order in which they came: those of MQTT 3 clients, who cannot be told, and wills.
//
//	publish ─▶ refused, or not committed ─▶ hold ─▶ retry ─▶ publish again, for those who missed it
//	             ▲                                                       │
//	             └───────────────────────────────────────────────────────┘
type heldMessages struct {
	loop.Place
	b        *Broker
	list     []*publishing // by their order
	unstored int           // of the list, that have to be stored
	bytes    int
	logged   time.Duration
}

// holding is what a publish has that may be held, until it is decided.
type holding struct {
	order    uint64    // its place among all publishes
	counts   bool      // among its client's
	bytes    bool      // among those that are held
	told     bool      // who needs no store has it, or gets it
	unstored bool      // it is not in the store, and has to be
	missed   []*outbox // do not have it, at QoS 1
	// matched are its durable receivers: a later subscription does not touch it. handed are the outboxes
	// that get it by the store.
	matched []target
	handed  []*outbox
}

// patient says whether a publish is held rather than refused.
func (op *publishing) patient() bool {
	switch {
	case op.later != nil || op.qos == 0:
		return false
	case op.client == nil:
		return op.isWill
	}
	return op.client.version < packet.V5
}

// queuesUp says whether a publish must wait because earlier ones of its client do: it may not overtake
// them.
func (op *publishing) queuesUp() bool {
	return op.client != nil && op.client.holding > 0 && op.patient()
}

// gone says whether nobody waits for a publish any more: its client has gone, and sends it again when
// it is back. At QoS 2 it must not be taken for another one then, if somebody has it.
func (op *publishing) gone() bool {
	switch {
	case op.client == nil || !op.client.ended:
		return false
	case op.qos == 2 && op.hold.told:
		return op.member.ended
	}
	return true
}

// add holds a publish that was begun and has no answers to wait for.
func (h *heldMessages) add(op *publishing) {
	h.count(op)
	if !op.hold.bytes {
		op.hold.bytes = true
		h.b.undecided -= op.size
		receivers := len(op.hold.matched) * targetBytes
		if op.owing {
			op.client.held += int32(receivers)
		}
		op.size += receivers
		h.bytes += op.size
		if now := h.b.loop.Now(); len(h.list) == 0 && (h.logged == 0 || now-h.logged >= reportEvery) {
			h.logged = now
			h.b.log.Warn("messages cannot be stored, their acknowledgements are held", "topic", op.msg.Topic, "publisher", op.msg.Publisher)
		}
	}
	op.failed, op.waits, op.refused, op.seq = nil, 1, false, 0
	op.sends, op.queued, op.outboxes = emptied(op.sends), emptied(op.queued), emptied(op.outboxes)
	i, _ := slices.BinarySearchFunc(h.list, op.hold.order, func(op *publishing, order uint64) int { return cmp.Compare(op.hold.order, order) })
	h.list = slices.Insert(h.list, i, op)
	if op.hold.unstored {
		h.unstored++
	}
	if !h.Set() {
		h.b.loop.At(h.b.loop.Now()+heldAgain, h)
	}
}

// count has later publishes of the same client queue up behind this one.
func (h *heldMessages) count(op *publishing) {
	if op.client != nil && !op.hold.counts {
		op.hold.counts = true
		op.client.holding++
	}
}

func (h *heldMessages) uncount(op *publishing) {
	if op.hold.counts {
		op.hold.counts = false
		op.client.holding--
	}
}

func emptied[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// decided forgets that a publish was held.
func (h *heldMessages) decided(op *publishing) {
	if op.hold.bytes {
		h.bytes -= op.size
	} else {
		h.b.undecided -= op.size
	}
	h.uncount(op)
}

// errGone ends a publish that nobody waits for.
var errGone = errors.New("broker: its client has gone before it could be stored")

// Fire tries again.
func (h *heldMessages) Fire(now time.Duration) time.Duration {
	h.b.retryHeld()
	if len(h.list) == 0 {
		return 0
	}
	return now + heldAgain
}

// retryHeld publishes what is held, as far as it can be stored now.
func (b *Broker) retryHeld() {
	list := b.held.list
	b.held.list, b.held.unstored = nil, 0
	stuck := false // what is behind one that was refused must not overtake it
	for _, op := range list {
		switch {
		case op.gone():
			op.failed = errGone
			b.conclude(op)
		case stuck, op.hold.unstored && !b.storeTakes():
			b.held.add(op)
		default:
			stuck = !b.redo(op)
		}
	}
}

// redo publishes again what was held, to those who missed it. It says whether the store has taken it.
func (b *Broker) redo(op *publishing) (took bool) {
	m, hold := op.msg, &op.hold
	missed, unstored := hold.missed, hold.unstored
	hold.missed, hold.unstored = nil, false
	took = true
	if b.expired(m) { // [MQTT-3.3.2-5]
		b.drop(DropExpired, m.Publisher, m.Topic)
		op.settle(nil)
		return true
	}
	for _, o := range missed {
		op.waits++
		o.Append(m, 0, op.handback(o))
	}
	if unstored {
		pub := publication{Publish: packetOf(m), publisher: m.Publisher, source: m.Source, msg: m, topic: m.Topic, redo: true}
		if pub.HasExpiry {
			pub.Expiry = b.remaining(m) // [MQTT-3.3.2-6]
		}
		if op.member != nil && op.member.state.Durable() {
			pub.sender, pub.sentID = op.member, op.id
		}
		if hold.told {
			b.republish(&pub, op)
		} else {
			b.publish(&pub, op)
		}
		took = !op.refused && !hold.unstored
		if took && len(missed) == 0 { // what comes now is stored behind it
			b.held.uncount(op)
		}
	}
	op.settle(nil)
	return took
}

// match remembers for whom the publish under way is.
func (h *holding) match(b *Broker, pub *publication) {
	h.matched = append(append(h.matched[:0], b.targets...), b.copies...)
	for i := range h.matched {
		h.matched[i].subIDs = slices.Clone(h.matched[i].subIDs)
	}
	if h.handed = h.handed[:0]; pub.overStore() {
		h.handed = append(h.handed, b.handed...)
	}
}

// republish takes a message to those for whom it was not stored.
func (b *Broker) republish(pub *publication, op *publishing) {
	if op.doubt != nil && !b.retains(pub.msg) {
		b.resolve(op, false) // another one came meanwhile
	}
	pub.Retain = pub.Retain && op.doubt != nil
	b.variants.reset()
	b.targets, b.durables, b.copies = b.targets[:0], b.durables[:0], b.copies[:0]
	b.handed = append(b.handed[:0], op.hold.handed...)
	b.publishes++
	if len(b.durability) > 0 {
		pub.durability = b.durabilityOf(pub)
	}
	for _, t := range op.hold.matched {
		switch {
		case t.m.ended:
		case t.share != "" && b.isTarget(t.m):
			b.copies = append(b.copies, t)
		default:
			b.offer(pub, t)
		}
	}
	b.hand(pub, op)
	if len(b.copies) > 0 {
		b.offerCopies(pub, op)
	}
}

// holdWhole holds a publish of which nobody gets anything before the store takes it.
func (b *Broker) holdWhole(pub *publication, op *publishing) {
	op.hold.order = b.publishes
	op.msg = b.message(pub)
	op.hold.unstored = true
	op.waits++
	b.begin(op, true)
	b.held.add(op)
}

// park has the durable destinations of a publish wait behind earlier ones of its client. The others
// have it.
func (b *Broker) park(pub *publication, op *publishing, unstored bool) {
	if !unstored && len(b.handed) == 0 {
		return
	}
	b.message(pub)
	b.copies = b.copies[:0]
	b.held.count(op)
	op.hold.unstored, op.hold.missed = unstored, slices.Clone(b.handed)
	op.waits++
	op.parked = true
}

// pass takes a QoS 1 message that the store has not taken to those durable receivers who are live: they
// get it like sessions that end with their connection. Of what is held they get it when it is stored.
func (b *Broker) pass(pub *publication, op *publishing) {
	if op.client == nil || pub.QoS != 1 || op.patient() {
		return
	}
	for i := range b.targets {
		if t := &b.targets[i]; t.id != 0 && t.m.online() {
			t.m.state.Sending(1, t.id)
			b.sendNow(pub, t.m.client, 1, t.retain, t.subIDs, t.id)
		}
	}
}

// A retained message is in memory before it is on disk, so that who subscribes in between gets it. If
// it cannot be stored, the one that is on disk counts again.

// doubt is a topic whose retained message is not on disk yet.
type doubt struct {
	sure  *message.Message // is, or will be; nil = there is none
	waits int              // publishes that are not decided
}

// doubtful notes that the retained message of a topic may have to be taken back; before is what it
// replaces.
func (b *Broker) doubtful(op *publishing, topic string, before *message.Message) {
	d := b.doubts[topic]
	if d == nil {
		d = &doubt{sure: before}
		b.doubts[topic] = d
	}
	d.waits++
	op.doubt = d
}

// retains says whether the message of a publish is what is retained, or removed what was.
func (b *Broker) retains(m *message.Message) bool {
	now := b.retained.Get(m.Topic)
	return now == m || now == nil && len(m.Payload) == 0
}

// resolve ends the doubt about a retained message.
func (b *Broker) resolve(op *publishing, stored bool) {
	d, m := op.doubt, op.msg
	if d == nil {
		return
	}
	op.doubt = nil
	switch {
	case stored && len(m.Payload) == 0:
		d.sure = nil
	case stored:
		d.sure = m
	case !b.retains(m):
	case d.sure == nil:
		b.retained.Delete(m.Topic)
	case !b.retained.Set(d.sure):
		b.drop(DropRetainedFull, d.sure.Publisher, m.Topic)
	}
	if d.waits--; d.waits == 0 {
		delete(b.doubts, m.Topic)
	}
}

// onlyRefused says whether an error of the store means no more than that it takes nothing now.
func onlyRefused(err error) bool { return errors.Is(err, durable.ErrNoRoom) }
