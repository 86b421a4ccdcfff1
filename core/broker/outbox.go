package broker

import (
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/route"
)

// maxHandover is how many QoS 2 messages may be on their way from the store to one outbox.
// Beyond it the outbox is behind: what is not handed over stays in the store and is read from
// there.
const maxHandover = 1024

// handoverAgain is how long after a failure the handover is tried again.
const handoverAgain = 5 * time.Second

// outbox is an Outbox among the receivers. At QoS 2 it is a receiver of the record in the
// store first, under a session number of its own, and takes the message over from there: a
// publish for several files commits once.
type outbox struct {
	Outbox
	number durable.SessionNumber

	taken   durable.Seq // everything up to it was taken over
	moving  int         // handed over and not answered yet
	behind  bool        // what comes is left in the store
	reading bool        // a read of the store is under way
	failed  bool        // a retry is scheduled
	skipped durable.Seq // the newest that was left
	mark    durable.Seq // skipped when the read under way was asked for
	read    durable.Seq // how far the store was read
}

// addOutbox enters an outbox and its filters into the index.
func (b *Broker) addOutbox(x Outbox) *outbox {
	o := &outbox{Outbox: x}
	r := route.Receiver(len(b.receivers))
	b.receivers = append(b.receivers, receiver{outbox: o})
	b.outboxes = append(b.outboxes, o)
	for _, f := range x.Filters() {
		b.index.Subscribe(f, r, route.Options{QoS: 2})
	}
	return o
}

// restore brings back what the last process had committed and not handed over.
func (o *outbox) restore(r *durable.Restored) {
	o.number, o.taken, o.read = r.Session.Number, r.Floor, r.Floor
	o.behind = r.Pending > 0
}

// startOutboxes makes the sessions of new outboxes and hands over what was restored of others.
func (b *Broker) startOutboxes() {
	for _, o := range b.outboxes {
		if o.number == 0 {
			o.number = b.store.NextSession()
			b.store.PutSession(&durable.Session{Number: o.number, ClientID: outboxClientID(o.Name()), Expiry: forever}, 0)
		}
		if o.behind {
			b.loop.Post(func() { o.catchUp(b) })
		}
	}
}

// takeOver takes a committed QoS 2 message to the outbox, in the order of the store: an outbox
// keeps only the highest number that it has taken.
func (o *outbox) takeOver(b *Broker, m *message.Message, seq durable.Seq) {
	if o.behind || o.moving >= maxHandover {
		o.behind = true
		o.skipped = seq
		o.catchUp(b)
		return
	}
	o.read = seq
	o.hand(b, m, seq)
}

func (o *outbox) hand(b *Broker, m *message.Message, seq durable.Seq) {
	o.moving++
	o.Append(m, seq, func(err error) { b.loop.Post(func() { o.handed(b, seq, err) }) })
}

// handed is the outbox's answer: what it has, is done in the store.
func (o *outbox) handed(b *Broker, seq durable.Seq, err error) {
	o.moving--
	if err != nil {
		o.behind = true
		if !o.failed {
			o.failed = true
			b.log.Error("uplink did not take over a message", "uplink", o.Name(), "seq", uint64(seq), "err", err)
			b.loop.At(b.loop.Now()+handoverAgain, &handoverRetry{b: b, o: o})
		}
		return
	}
	o.taken = max(o.taken, seq)
	b.store.Done(o.number, seq, durable.Delivered)
	o.catchUp(b)
}

// catchUp reads the next of what was left in the store, when nothing is moving.
func (o *outbox) catchUp(b *Broker) {
	if !o.behind || o.reading || o.failed || o.moving > 0 {
		return
	}
	o.reading = true
	o.mark = o.skipped
	b.store.Read(o.number, o.read, maxHandover, readBytes, b.ops.add(&handover{o: o}))
}

// handover is a read of what an outbox is to take over.
type handover struct{ o *outbox }

func (*handover) complete(*Broker, durable.Completion) {
	panic("broker: internal error: the store answered a read with a completion")
}

func (h *handover) arrived(b *Broker, batch *durable.Batch) {
	o := h.o
	o.reading = false
	if batch.Err != nil {
		b.log.Error("uplink queue not read", "uplink", o.Name(), "err", batch.Err)
		o.failed = true
		b.loop.At(b.loop.Now()+handoverAgain, &handoverRetry{b: b, o: o})
		return
	}
	o.read = max(o.read, batch.Last)
	// A read sees everything that was committed before it was asked for.
	if !batch.More && (o.skipped == o.mark || o.skipped <= o.read) {
		o.behind = false
	}
	for i := range batch.Entries {
		o.hand(b, batch.Entries[i].Message, batch.Entries[i].Seq)
	}
	o.catchUp(b)
}

// handoverRetry begins again behind what the outbox has.
type handoverRetry struct {
	b *Broker
	o *outbox
}

func (r *handoverRetry) Fire(now time.Duration) time.Duration {
	if r.o.moving > 0 || r.o.reading {
		return now + time.Second
	}
	r.o.failed = false
	r.o.read = r.o.taken
	r.o.catchUp(r.b)
	return 0
}

// Inject publishes a message that came down an uplink. done is called from the loop when every
// durable destination of it is on disk, or with the error. It may be called from any
// goroutine; how many are under way is for the caller to bound.
func (b *Broker) Inject(m *message.Message, done func(error)) {
	b.loop.Post(func() {
		own := *m
		own.Received = b.now()
		b.publishMessage(&own, done)
	})
}
