package load

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/platform/poll"
)

// maxBatch is how many bytes of messages a publisher hands to one write.
const maxBatch = 64 << 10

// began is when the process began, and the origin of now.
var began = time.Now()

// now returns a monotonic time in nanoseconds.
func now() int64 { return int64(time.Since(began)) }

// counts are what a loop has seen.
type counts struct {
	delivered uint64 // PUBLISH packets of the run, duplicates left out
	published uint64
	acked     uint64 // PUBACK or PUBCOMP for one of ours
	refused   uint64 // acknowledgements with a reason code from 0x80 on
	held      uint64 // messages that could not leave when the clock wanted it
	retried   uint64 // attempts to connect that failed and were made again
	ready     int    // clients that are connected and subscribed
	leaving   int    // clients whose DISCONNECT is sent
	faults
}

func (c *counts) add(o *counts) {
	c.delivered += o.delivered
	c.published += o.published
	c.acked += o.acked
	c.refused += o.refused
	c.held += o.held
	c.retried += o.retried
	c.ready += o.ready
	c.leaving += o.leaving
	c.duplicated += o.duplicated
	c.misordered += o.misordered
	c.crossed += o.crossed
	c.foreign += o.foreign
}

// loop owns a share of the clients. Everything in it belongs to its goroutine but the inbox.
type loop struct {
	engine  *engine
	poller  *poll.Poller
	slots   []*client // by slot of the poller, less poll.FirstSlot
	free    []uint32
	in      []byte // what is read, one socket at a time
	scratch []byte // what is written, one socket at a time
	sending []*publisher
	clients []*client

	waiting    []*client // to be opened
	inProgress int       // opened, but not ready
	maxOpening int

	counts
	latency Histogram // from when a message left, or should have, to a subscriber
	acks    Histogram // to the last acknowledgement of the broker
	connect Histogram // from connect to CONNACK, or SUBACK if it subscribes
	lastUp  int64     // when the last client became ready

	pace pace

	mu    sync.Mutex
	inbox []func()     // guarded by mu
	other []*publisher // guarded by mu: publishers of this loop that another has found a slot for
	spare []func()
	done  bool
}

func newLoop(e *engine) (*loop, error) {
	p, err := poll.New()
	if err != nil {
		return nil, err
	}
	size := max(64<<10, 2*(e.Size+1024))
	return &loop{engine: e, poller: p, in: make([]byte, size), scratch: make([]byte, 0, maxBatch+size)}, nil
}

// add gives c a slot of the poller.
func (l *loop) add(c *client) {
	generation := c.key.Generation + 1
	if n := len(l.free); n > 0 {
		c.key = poll.Key{Slot: l.free[n-1], Generation: generation}
		l.free = l.free[:n-1]
	} else {
		c.key = poll.Key{Slot: poll.FirstSlot + uint32(len(l.slots)), Generation: generation}
		l.slots = append(l.slots, nil)
	}
	l.slots[c.key.Slot-poll.FirstSlot] = c
}

func (l *loop) remove(c *client) {
	switch c.state {
	case ready:
		l.ready--
	case leaving:
		l.leaving--
	case opening, attaching:
		l.inProgress--
	}
	l.slots[c.key.Slot-poll.FirstSlot] = nil
	l.free = append(l.free, c.key.Slot)
}

// do runs f on the loop, later. It may be called from any goroutine.
func (l *loop) do(f func()) {
	l.mu.Lock()
	l.inbox = append(l.inbox, f)
	l.mu.Unlock()
	l.poller.Wake()
}

// queue notes that p may be able to send.
func (l *loop) queue(p *publisher) {
	if !p.queued.CompareAndSwap(false, true) {
		return
	}
	if owner := p.client.loop; owner != l {
		owner.mu.Lock()
		owner.other = append(owner.other, p)
		owner.mu.Unlock()
		owner.poller.Wake()
		return
	}
	l.sending = append(l.sending, p)
}

// run turns until a function that was given to do sets done.
func (l *loop) run() {
	idle := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.inbox) == 0 && len(l.other) == 0
	}
	for !l.done {
		wait, due := l.pace.wait()
		mayPark := !due && len(l.sending) == 0 && !l.mayOpen()
		if mayPark {
			if err := l.poller.SetTimer(wait); err != nil {
				l.engine.fail(err)
				return
			}
		}
		ready, _, err := l.poller.Wait(mayPark, idle)
		if err != nil {
			l.engine.fail(err)
			return
		}
		for i := range ready {
			l.event(&ready[i])
		}
		l.mu.Lock()
		l.inbox, l.spare = l.spare[:0], l.inbox
		l.sending = append(l.sending, l.other...)
		l.other = l.other[:0]
		l.mu.Unlock()
		for i, f := range l.spare {
			f()
			l.spare[i] = nil
		}
		l.openMore()
		l.tick()
		l.send()
	}
	for _, c := range l.clients {
		l.drop(c)
	}
}

func (l *loop) event(ev *poll.Event) {
	c := l.slots[ev.Key.Slot-poll.FirstSlot]
	if c == nil || c.key != ev.Key {
		return // closed earlier in this turn
	}
	if ev.Writable {
		if err := l.writable(c); err != nil {
			l.broke(c, err)
			return
		}
	}
	if ev.Readable {
		if err := l.read(c); err != nil {
			l.broke(c, err)
		}
	}
}

// maxReads is how often one socket is read in a turn. What a flood sends to few subscribers is
// more than one read takes.
const maxReads = 16

// read takes what one socket has and writes what that makes it answer.
func (l *loop) read(c *client) error {
	for range maxReads {
		full, err := l.readOnce(c)
		if err != nil || !full || c.state == closed {
			return err
		}
	}
	return nil
}

// readOnce reports whether the socket may have more.
func (l *loop) readOnce(c *client) (full bool, err error) {
	carried := copy(l.in, c.carry)
	n, err := poll.Read(c.fd, l.in[carried:])
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			return false, nil
		}
		return false, err
	}
	if n == 0 {
		return false, io.EOF
	}
	l.scratch = l.scratch[:0]
	rest, err := l.packets(c, l.in[:carried+n])
	if err != nil {
		return false, err
	}
	c.carry = append(c.carry[:0], rest...)
	if len(c.carry) == 0 && c.tracks == nil {
		c.carry = nil
	}
	if len(l.scratch) > 0 {
		err = l.write(c, l.scratch)
	}
	return n == len(l.in)-carried, err
}

// broke handles the end of a connection that we did not want, and of one that we did.
func (l *loop) broke(c *client, err error) {
	was := c.state
	l.drop(c)
	if was == leaving {
		return
	}
	var bad *refusal
	if errors.As(err, &bad) {
		l.engine.fail(err)
		return
	}
	if was == ready {
		l.engine.fail(fmt.Errorf("load: the broker has closed the connection of %s: %w", c.id, err))
		return
	}
	// While many connect at once some are turned away; a client tries again.
	l.retried++
	if errors.Is(err, unix.ECONNREFUSED) || l.retried > uint64(10*len(l.clients)+10) {
		if errors.Is(err, io.EOF) {
			err = errors.New("it closes new connections (its limit of open files, or of connections?)")
		}
		l.engine.fail(fmt.Errorf("load: cannot connect to %v: %w", l.engine.address, err))
		return
	}
	l.waiting = append(l.waiting, c)
}

func (l *loop) mayOpen() bool {
	return len(l.waiting) > 0 && l.inProgress < l.maxOpening
}

// openMore opens connections, a few in a turn, so that answers are read between.
func (l *loop) openMore() {
	for n := 0; n < 64 && l.mayOpen(); n++ {
		c := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.inProgress++
		if err := l.open(c); err != nil {
			if c.state != closed {
				l.broke(c, err)
				continue
			}
			l.inProgress--
			l.engine.fail(err)
			return
		}
	}
}

// up notes that c is as it should be.
func (l *loop) up(c *client) {
	l.inProgress--
	c.state = ready
	l.ready++
	l.lastUp = now()
	l.connect.Record(l.lastUp - c.began)
	if c.pub != nil {
		l.queue(c.pub)
	}
}

// send lets each publisher that may be able to send fill one write.
func (l *loop) send() {
	for i := 0; i < len(l.sending); i++ {
		p := l.sending[i]
		p.queued.Store(false)
		if err := l.fill(p); err != nil {
			l.broke(p.client, err)
		}
	}
	l.sending = l.sending[:0]
}

func (l *loop) fill(p *publisher) error {
	if p.client.state != ready || len(p.client.out) > 0 || !l.engine.publishing.Load() {
		return nil
	}
	b := l.scratch[:0]
	at := now()
	for n := 0; len(b) < maxBatch; n++ {
		if l.engine.open {
			if p.tokens == 0 {
				break
			}
			at = p.due
		} else if n%p.burst == 0 && !p.clear() {
			break
		}
		var ok bool
		if b, ok = p.take(b, at); !ok {
			break
		}
		l.published++
		if l.engine.open {
			p.tokens--
		}
	}
	if len(b) == 0 {
		return nil
	}
	l.scratch = b
	if len(b) >= maxBatch && (!l.engine.open || p.tokens > 0) {
		l.again(p)
	}
	return l.write(p.client, b)
}

// again queues p for the next turn. send is under way: what is appended now it would still visit.
func (l *loop) again(p *publisher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.queued.CompareAndSwap(false, true) {
		l.other = append(l.other, p)
	}
}
