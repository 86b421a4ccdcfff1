package runner

import (
	"sync"

	"dunlin/core/message"
	"dunlin/uplink/forward"
	"dunlin/uplink/mqtt"
)

const (
	// maxQoS0Up and maxQoS0UpBytes bound the messages at QoS 0 that wait to be sent, maxQoS0Down
	// those that wait to be injected; beyond, new ones are dropped and counted.
	maxQoS0Up      = 1024
	maxQoS0UpBytes = 1 << 20
	maxQoS0Down    = 1024
)

type eventKind byte

const (
	eventOutcome    eventKind = iota // of a connection
	eventIncoming                    // of a connection
	eventSubscribed                  // of a connection
	eventLost                        // of a connection
	eventDialled                     // conn, link or err
	eventSaved                       // seq
	eventForgotten                   // seq
	eventInjected                    // held, err
	eventQoS0                        // msg
)

// event is something that happened elsewhere.
type event struct {
	kind     eventKind
	dial     uint64 // which connection, counted from 1; 0 = none
	outcome  forward.Outcome
	incoming mqtt.Incoming
	seq      forward.Seq
	conn     *mqtt.Conn
	release  func() bool // of eventDialled with conn: stops what watches it
	link     forward.Link
	msg      *message.Message
	held     heldMessage
	err      error
}

// inbox collects events for the goroutine of an uplink. What can be in it is bounded by the
// window (outcomes and notes), the Receive Maximum (incoming at QoS 1), one dial at a time, and
// the constants above.
type inbox struct {
	wake chan struct{} // capacity 1: a wake-up that nobody has taken yet says it all

	mu        sync.Mutex // guards what follows
	events    []event
	spare     []event // the array of the batch before
	readable  bool    // the spool has something new
	upQoS0    int
	upBytes   int
	downQoS0  int
	connected bool // messages at QoS 0 are taken
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) post(e event) {
	b.add(e)
	b.ring()
}

// add is post without a wake-up.
func (b *inbox) add(e event) {
	b.mu.Lock()
	b.events = append(b.events, e)
	b.mu.Unlock()
}

func (b *inbox) ringIfAny() {
	b.mu.Lock()
	n := len(b.events)
	b.mu.Unlock()
	if n > 0 {
		b.ring()
	}
}

func (b *inbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// postQoS0 takes a message at QoS 0 on its way up, and reports whether it was.
func (b *inbox) postQoS0(m *message.Message) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.connected || b.upQoS0 >= maxQoS0Up || b.upBytes >= maxQoS0UpBytes {
		return false
	}
	b.upQoS0++
	b.upBytes += len(m.Payload) + len(m.Topic) + len(m.Properties)
	b.events = append(b.events, event{kind: eventQoS0, msg: m})
	b.ring()
	return true
}

// postIncoming takes a message on its way down, and reports whether it was.
func (b *inbox) postIncoming(dial uint64, m mqtt.Incoming) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := event{kind: eventIncoming, dial: dial, incoming: m}
	if m.ID == 0 {
		if b.downQoS0 >= maxQoS0Down {
			return false
		}
		b.downQoS0++
	}
	b.events = append(b.events, e)
	b.ring()
	return true
}

// read marks that the spool has something new.
func (b *inbox) read() {
	b.mu.Lock()
	b.readable = true
	b.mu.Unlock()
	b.ring()
}

// take returns what was posted, valid until the next call.
func (b *inbox) take() (events []event, readable bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.spare)
	events, readable = b.events, b.readable
	b.events, b.spare, b.readable = b.spare[:0], events, false
	b.upQoS0, b.upBytes, b.downQoS0 = 0, 0, 0
	return events, readable
}

func (b *inbox) setConnected(on bool) {
	b.mu.Lock()
	b.connected = on
	b.mu.Unlock()
}

// connEvents posts what happens on one connection.
type connEvents struct {
	u    *Uplink
	dial uint64
}

// Outcome waits for Idle, so that a batch of acknowledgements is answered by a batch of messages.
func (c connEvents) Outcome(o forward.Outcome) {
	c.u.inbox.add(event{kind: eventOutcome, dial: c.dial, outcome: o})
}

func (c connEvents) Idle() { c.u.inbox.ringIfAny() }

func (c connEvents) Incoming(m mqtt.Incoming) {
	if !c.u.inbox.postIncoming(c.dial, m) {
		c.u.counters.downDropped.Add(1)
	}
}

func (c connEvents) Subscribed() {
	c.u.inbox.post(event{kind: eventSubscribed, dial: c.dial})
}

func (c connEvents) Lost(err error) {
	c.u.inbox.post(event{kind: eventLost, dial: c.dial, err: err})
}
