package broker

import (
	"time"

	"dunlin/core/durable"
	"dunlin/core/loop"
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

	moving  int         // handed over and not answered yet
	behind  bool        // what comes is left in the store
	reading bool        // a read of the store is under way
	failed  bool        // a retry is scheduled
	missed  durable.Seq // the first that was not taken, while failed; 0 = the reading failed
	skipped durable.Seq // the newest that was left
	mark    durable.Seq // skipped when the read under way was asked for
	read    durable.Seq // everything up to it was handed over
	retry   handoverRetry
	report  failures
}

// addOutbox enters an outbox and its filters into the index.
func (b *Broker) addOutbox(x Outbox) *outbox {
	o := &outbox{Outbox: x, report: failures{what: "uplink does not take messages over"}}
	o.retry.b, o.retry.o = b, o
	r := b.addReceiver(receiver{outbox: o})
	b.outboxes = append(b.outboxes, o)
	for _, f := range x.Filters() {
		if isSys(f) {
			b.log.Warn("rule of an uplink is for $SYS, which stays here", "uplink", x.Name(), "filter", f)
			continue
		}
		b.index.Subscribe(f, r, route.Options{QoS: 2})
	}
	return o
}

// restore brings back what the last process had committed and not handed over.
func (o *outbox) restore(r *durable.Restored) {
	o.number, o.read = r.Session.Number, r.Floor
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
	switch {
	case seq <= o.read: // a read was quicker than the answer to the commit
	case o.behind || o.moving >= maxHandover:
		o.behind = true
		o.skipped = seq
		o.catchUp(b)
	default:
		o.read = seq
		o.hand(b, m, seq)
	}
}

func (o *outbox) hand(b *Broker, m *message.Message, seq durable.Seq) {
	o.moving++
	o.Append(m, seq, func(err error) { b.loop.Post(func() { o.handed(b, seq, err) }) })
}

// handed is the outbox's answer: what it has, is done in the store.
func (o *outbox) handed(b *Broker, seq durable.Seq, err error) {
	o.moving--
	if err != nil {
		if !o.failed || o.missed == 0 || seq < o.missed {
			o.missed = seq
		}
		o.fail(b, err)
		return
	}
	o.report.over(b, "uplink", o.Name())
	b.store.Done(o.number, seq, durable.Delivered)
	o.catchUp(b)
}

// fail leaves everything in the store until the retry.
func (o *outbox) fail(b *Broker, err error) {
	o.report.add(b, err, "uplink", o.Name())
	o.behind, o.failed = true, true
	if !o.retry.Set() {
		b.loop.At(b.loop.Now()+handoverAgain, &o.retry)
	}
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
		o.fail(b, batch.Err)
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

// handoverRetry begins again with the first message that was not taken. What was taken behind it,
// because a rule left it out, is not in the store any more.
type handoverRetry struct {
	loop.Place
	b *Broker
	o *outbox
}

func (r *handoverRetry) Fire(now time.Duration) time.Duration {
	o := r.o
	if o.moving > 0 || o.reading {
		return now + time.Second
	}
	if o.missed != 0 {
		o.read = min(o.read, o.missed-1)
	}
	o.failed, o.missed = false, 0
	o.catchUp(r.b)
	return 0
}

// Inject publishes a message that came down an uplink; its topic is a valid Topic Name. done is
// called from the loop when every durable destination of it has it on disk, or with the error; it
// is not called if the loop ends before. A message below $SYS is dropped, which is no error. Inject
// may be called from any goroutine; how many are under way is for the caller to bound.
func (b *Broker) Inject(m *message.Message, done func(error)) {
	b.loop.Post(func() {
		if isSys(m.Topic) { // nobody but the broker publishes there
			b.drop(DropPublishDenied, m.Publisher, m.Topic)
			if done != nil {
				done(nil)
			}
			return
		}
		own := *m
		own.Received = b.now()
		b.publishMessage(&own, false, done)
	})
}
