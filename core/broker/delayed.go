package broker

import (
	"bytes"
	"cmp"
	"container/heap"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/packet"
)

// A message that is published to $delayed/SECONDS/TOPIC is published to TOPIC after so many seconds.
//
//	PUBLISH ─▶ cutDelay ─▶ checks on TOPIC ─▶ delay ─▶ Store.Delay ─▶ PUBACK or PUBREC
//	                                                       │
//	            timer ◀─ delayed.heap ◀─ its commit ◀──────┘
//	              └─▶ publish ─▶ Store.Append with Delayed: in one transaction it ceases to wait and is
//	                             in the queues of its receivers
//
// At QoS 0 it waits in memory only, and ends with the process. The Message Expiry Interval counts
// from reception on. Who may publish is decided at reception: its client may be gone when it is due.

// cutDelay takes the topic of a delayed message apart. is says whether it begins with the level
// $delayed; ok whether SECONDS is a number of at most ten digits, up to 4,294,967,295, and a topic
// follows.
func cutDelay(name []byte) (seconds uint32, rest []byte, is, ok bool) {
	const prefix = "$delayed"
	if len(name) < len(prefix) || string(name[:len(prefix)]) != prefix || len(name) > len(prefix) && name[len(prefix)] != '/' {
		return 0, nil, false, false
	}
	if len(name) == len(prefix) {
		return 0, nil, true, false
	}
	number, rest, _ := bytes.Cut(name[len(prefix)+1:], []byte("/"))
	if len(number) > len("4294967295") {
		return 0, nil, true, false
	}
	n := uint64(0)
	for _, c := range number {
		if c < '0' || c > '9' {
			return 0, nil, true, false
		}
		n = 10*n + uint64(c-'0')
	}
	if len(number) == 0 || n > math.MaxUint32 || len(rest) == 0 {
		return 0, nil, true, false
	}
	return uint32(n), rest, true, true
}

// delayOf is the delay of a PUBLISH or a will.
type delayOf struct {
	is      bool
	seconds uint32
}

// resolveDelay takes the delay out of the topic of a PUBLISH, and checks it.
func (b *Broker) resolveDelay(p *packet.Publish) (d delayOf, code packet.ReasonCode) {
	if len(p.Topic) == 0 || p.Topic[0] != '$' {
		return d, packet.Success
	}
	seconds, rest, is, ok := cutDelay(p.Topic)
	switch {
	case !is:
		return d, packet.Success
	case !ok || b.limits.MaxDelayed < 0:
		return d, packet.TopicNameInvalid
	case time.Duration(seconds)*time.Second > b.limits.MaxDelay:
		return d, packet.QuotaExceeded
	}
	p.Topic = rest
	return delayOf{true, seconds}, packet.Success
}

// realTopic is where a message on a topic that has been checked is published to in the end.
func realTopic(name string) string {
	if _, rest, _, ok := cutDelay([]byte(name)); ok {
		return string(rest)
	}
	return name
}

// delayedTopic puts a delay in front of a topic again.
func (d delayOf) delayedTopic(name []byte) string {
	if !d.is {
		return string(name)
	}
	return "$delayed/" + strconv.FormatUint(uint64(d.seconds), 10) + "/" + string(name)
}

// delayed are the messages that are to be published later.
type delayed struct {
	loop.Place
	b      *Broker
	heap   dueHeap
	serial uint64
	count  int   // those that are on their way to and from the disk included
	bytes  int64 // topic, properties and payload
	// foreign is how many in the heap were received in an earlier boot of the machine. How long ago
	// that is may turn out only when the wall clock is synchronised.
	foreign int
	full    bool // the log has been told
}

// delayedMessage is one of them.
type delayedMessage struct {
	durable.Delayed
	due     time.Duration // by the clock of the loop
	serial  uint64        // in the order of their reception
	size    int64
	foreign bool
	again   bool // it was published, but that could not be stored
}

const (
	// dueBatch is how many messages one turn publishes. The others follow a second later.
	dueBatch = 1000
	// dueAgain is how long after a failure a message is published again.
	dueAgain = 5 * time.Second
	// redateEvery is how often it is found out anew when messages of earlier boots are due.
	redateEvery = time.Minute
)

// errDelayedFull is what an internal publisher is told.
var errDelayedFull = errors.New("broker: too much is delayed already")

// delay keeps a message whose topic has passed all checks. op is answered when it is on disk.
func (b *Broker) delay(pub *publication, d delayOf, op *publishing) {
	q := &b.delayed
	pub.topic = string(pub.Topic)
	size := int64(pub.size())
	if q.count >= b.limits.MaxDelayed || q.bytes+size > b.limits.MaxDelayedBytes {
		if !q.full {
			q.full = true
			b.log.Warn("too much is delayed already", "client_id", pub.publisher, "topic", pub.topic, "messages", q.count, "bytes", q.bytes)
		}
		b.drop(DropDelayedFull, pub.publisher, pub.topic)
		op.failed = errDelayedFull
		b.finish(op, packet.QuotaExceeded)
		return
	}
	m := b.message(pub)
	q.serial++
	x := &delayedMessage{
		Delayed: durable.Delayed{Message: m, Delay: d.seconds},
		due:     b.loop.Now() + time.Duration(d.seconds)*time.Second,
		serial:  q.serial,
		size:    size,
	}
	q.count++
	q.bytes += size
	if pub.QoS == 0 {
		q.wait(x)
		b.finish(op, packet.Success)
		return
	}
	kept := x.Delayed
	if op.member != nil && op.member.state.Durable() {
		kept.Publisher, kept.PublisherID = op.member.state.Number(), op.id
	}
	op.waits++
	op.msg, op.later = m, x
	x.Seq = b.store.Delay(kept, b.ops.add(op))
	b.begin(op, true)
}

// wait keeps a message that is on disk, or needs no disk, until it is due.
func (q *delayed) wait(x *delayedMessage) {
	heap.Push(&q.heap, x)
	if x.foreign {
		q.foreign++
	}
	q.arm()
}

// release ends the waiting of a message.
func (q *delayed) release(x *delayedMessage) {
	q.count--
	q.bytes -= x.size
	if q.full && q.count <= q.b.limits.MaxDelayed/2 && q.bytes <= q.b.limits.MaxDelayedBytes/2 {
		q.full = false
	}
}

// next is when there is something to do, 0 if there is nothing.
func (q *delayed) next() time.Duration {
	switch {
	case len(q.heap) == 0:
		return 0
	case q.foreign > 0:
		return min(q.heap[0].due, q.b.loop.Now()+redateEvery)
	}
	return q.heap[0].due
}

func (q *delayed) arm() {
	if at := q.next(); at > 0 {
		q.b.loop.At(at, q)
	}
}

// Fire publishes what is due.
func (q *delayed) Fire(now time.Duration) time.Duration {
	if q.foreign > 0 {
		q.redate(now)
	}
	for n := 0; len(q.heap) > 0 && q.heap[0].due <= now; n++ {
		if n == dueBatch || q.b.undecided >= maxUndecided {
			return now + time.Second
		}
		x := heap.Pop(&q.heap).(*delayedMessage)
		if x.foreign {
			q.foreign--
		}
		q.publish(x)
	}
	return q.next()
}

// publish takes a message that is due to its receivers, and out of the store with the commit of
// that. If it cannot be stored, durable receivers have nothing yet, and it is tried again.
func (q *delayed) publish(x *delayedMessage) {
	b, m := q.b, x.Message
	settled := func(err error) {
		if err == nil {
			q.release(x)
			return
		}
		x.again = x.again || !errors.Is(err, errRefused) // that was before it went to anybody
		x.due = b.loop.Now() + dueAgain
		q.wait(x)
	}
	if b.expired(m) { // [MQTT-3.3.2-5]
		if !x.again {
			b.drop(DropExpired, m.Publisher, m.Topic)
		}
		if x.Seq == 0 {
			q.release(x)
			return
		}
		b.store.Append(durable.Append{Message: m, Delayed: x.Seq}, b.ops.add(removal(settled)))
		return
	}
	if m.Retain && b.limits.NoRetain { // of an earlier start
		m = new(*m)
		m.Retain = false
	}
	pub := publication{Publish: packetOf(m), publisher: m.Publisher, source: m.Source, msg: m, delayed: x.Seq, again: x.again}
	if pub.HasExpiry {
		pub.Expiry = b.remaining(m) // [MQTT-3.3.2-6]
	}
	op := b.publishing()
	op.qos, op.done, op.kept = pub.QoS, settled, x.Seq != 0
	b.publish(&pub, op)
}

// removal is a delayed message on its way out of the store that nobody gets.
type removal func(error)

func (r removal) complete(_ *Broker, d durable.Completion) { r(d.Err) }

// redate finds out anew when the messages of earlier boots are due. Of those with the same delay
// none overtakes another, whatever the clocks say.
func (q *delayed) redate(now time.Duration) {
	var foreign []*delayedMessage
	for _, x := range q.heap {
		if x.foreign {
			foreign = append(foreign, x)
		}
	}
	slices.SortFunc(foreign, func(x, y *delayedMessage) int { return cmp.Compare(x.serial, y.serial) })
	q.date(foreign, now)
	heap.Init(&q.heap)
}

// redateAll finds out anew when all messages are due.
func (q *delayed) redateAll(now time.Duration) {
	all := slices.SortedFunc(slices.Values(q.heap), func(x, y *delayedMessage) int { return cmp.Compare(x.serial, y.serial) })
	q.date(all, now)
	heap.Init(&q.heap)
	q.arm()
}

// date says when messages, in the order of their reception, are due.
func (q *delayed) date(all []*delayedMessage, now time.Duration) {
	last := make(map[uint32]time.Duration) // by delay
	for _, x := range all {
		if x.again {
			continue
		}
		left := time.Duration(x.Delay)*time.Second - q.b.clock.Elapsed(x.Message.Received)
		x.due = max(now+max(left, 0), last[x.Delay])
		last[x.Delay] = x.due
	}
}

// restore brings back what the store held. What was taken over is kept, whatever the bounds are now.
func (q *delayed) restore(all []durable.Delayed) {
	if len(all) == 0 {
		return
	}
	now, boot := q.b.loop.Now(), q.b.clock.Stamp().Boot
	for _, d := range all {
		m := d.Message
		q.serial++
		x := &delayedMessage{
			Delayed: d,
			serial:  q.serial,
			size:    int64(m.Size()),
			foreign: m.Received.Boot != boot,
		}
		q.count++
		q.bytes += x.size
		if x.foreign {
			q.foreign++
		}
		q.heap = append(q.heap, x)
	}
	q.date(q.heap, now)
	heap.Init(&q.heap)
	q.b.loop.At(max(q.next(), now+1), q)
}

// dueHeap is a heap by due time, and by order of reception where that is the same.
type dueHeap []*delayedMessage

func (h dueHeap) Len() int { return len(h) }

func (h dueHeap) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return h[i].serial < h[j].serial
}

func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(*delayedMessage)) }

// Pop is for container/heap.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return x
}
