// Package loop is the turn of an event loop: wait, read, timers, what other goroutines posted,
// hand over to the writers, flush.
//
//	┌▶ wait ──▶ accept, read ready sockets ──▶ timers ──▶ inbox ──▶ turn's end ──▶ flush ──▶ close ┐
//	└──────────────────────────────────────────────────────────────────────────────────────────────┘
//
// Everything a handler does runs on the one goroutine of Run and never blocks; other
// goroutines reach it by Post.
package loop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"dunlin/core/conn"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// acceptsPerTurn bounds what one listener may take from the others' turn.
const acceptsPerTurn = 256

// Handler is what the loop drives.
type Handler interface {
	conn.Handler
	// Accepted announces a new connection; where is what its listener was added with.
	// Returning false closes it.
	Accepted(c *conn.Conn, where any) bool
	// Ended announces that reading failed: io.EOF, a *packet.Error or an error of the socket.
	// The handler may still send, then calls Close. A write that fails announces nothing: what
	// the peer has sent before it went is read first, a DISCONNECT among it.
	Ended(c *conn.Conn, err error)
	// Drained announces that the socket of c has taken some of the output which had waited for it.
	Drained(c *conn.Conn)
	// ClockStepped announces that the wall clock was set, or that the machine was suspended: Now does
	// not count that time.
	ClockStepped()
	// TurnEnds is called before the flush of a turn, and again after it if there was something
	// to write or to close: what was collected for other goroutines goes out.
	TurnEnds()
}

// Loop is one event loop. Its methods belong to the goroutine of Run, or are called before
// Run, except Post.
type Loop struct {
	Arena conn.Arena

	handler Handler
	hands   int
	poller  *poll.Poller
	start   time.Time
	now     time.Duration // of this turn, since start
	buf     []byte
	timers  timers
	armed   time.Duration // what the poller's timer is set to, 0 = off

	slots     []slot
	freeSlots []uint32
	closing   []*conn.Conn
	written   func() // see Linger; nil = nothing lingers
	lingering int
	paused    bool // listeners are off: no descriptors left
	again     listenAgain
	reader    *reader // nil = the loop reads alone

	mu    sync.Mutex
	inbox []func() // guarded by mu; bounded by what those who post may have open
	over  bool     // guarded by mu
	spare []func() // last turn's inbox, reused
}

type slot struct {
	generation uint32
	conn       *conn.Conn
	lingers    bool // conn is closed but for its output
	listener   *listener
}

type listener struct {
	fd    int
	file  *os.File // owns fd
	key   poll.Key
	where any
}

// New returns a loop that drives h once it runs.
//
// hands is how many goroutines help it to read and write where there are many sockets to serve at
// once (conn.Crew). They change nothing of what it does in which order.
func New(h Handler, hands int) (*Loop, error) {
	p, err := poll.New()
	if err != nil {
		return nil, err
	}
	l := &Loop{
		handler: h,
		poller:  p,
		start:   time.Now(),
		buf:     make([]byte, conn.ReadBufferSize),
		slots:   make([]slot, poll.FirstSlot),
	}
	l.again.l = l
	l.hands = hands
	return l, nil
}

// Listen adds a listening socket. The loop uses a duplicate of it; ln may be closed after.
func (l *Loop) Listen(ln net.Listener, where any) error {
	filer, ok := ln.(interface{ File() (*os.File, error) })
	if !ok {
		return fmt.Errorf("loop: listener of type %T has no descriptor", ln)
	}
	f, err := filer.File()
	if err != nil {
		return fmt.Errorf("loop: listener %s: %w", ln.Addr(), err)
	}
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return errors.Join(fmt.Errorf("loop: listener %s: %w", ln.Addr(), err), f.Close())
	}
	if ln.Addr().Network() == "tcp" {
		setTCP(fd)
	}
	s := &listener{fd: fd, file: f, where: where}
	s.key = l.take()
	if err := l.poller.Add(fd, s.key); err != nil {
		l.giveBack(s.key.Slot)
		return errors.Join(err, f.Close())
	}
	l.slots[s.key.Slot].listener = s
	return nil
}

// CloseListeners closes every listening socket. What the kernel has accepted and we have not is
// refused with them.
func (l *Loop) CloseListeners() {
	for i := range l.slots {
		s := l.slots[i].listener
		if s == nil {
			continue
		}
		_ = l.poller.Remove(s.fd)
		_ = s.file.Close()
		l.giveBack(s.key.Slot)
	}
}

// setTCP sets the options that accepted sockets inherit from their listener. A write is sent at
// once; and a peer that went without a word, whose client keeps nothing alive by itself, is found
// out by the kernel, in hours. Without them it is slower, not wrong.
func setTCP(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}

// Post runs f on the loop in a coming turn. It never blocks and may be called from any
// goroutine. It returns false after the loop has ended: then f is never run. Nor is it when the
// loop ends before that turn.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.inbox = append(l.inbox, f)
	l.poller.Wake()
	return true
}

// end releases what Run used; from then on Post does nothing.
func (l *Loop) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.inbox = nil
	l.poller.Close()
}

// Now is the time of the turn, since the loop was made; monotonic.
func (l *Loop) Now() time.Duration { return l.now }

// At sets a timer for a moment of Now. A timer that is set already moves there.
func (l *Loop) At(at time.Duration, t Timer) { l.timers.set(at, t) }

// Unset takes a timer back, if it is set.
func (l *Loop) Unset(t Timer) { l.timers.stop(t) }

// Timers is how many timers are set.
func (l *Loop) Timers() int { return len(l.timers.heap) }

// Close ends a connection at the end of the turn, after the flush.
func (l *Loop) Close(c *conn.Conn) {
	if c.Stopped() {
		return
	}
	c.Stop()
	l.closing = append(l.closing, c)
}

// Resume hands the packets that were kept while c was paused to the handler, and reads on.
func (l *Loop) Resume(c *conn.Conn) {
	c.Pause(false)
	if err := c.Resume(&l.Arena, l.handler); err != nil {
		l.ended(c, err)
		return
	}
	l.watch(c)
}

// Pause stops reading from c until Resume.
func (l *Loop) Pause(c *conn.Conn) {
	c.Pause(true)
	l.watch(c)
}

// Run turns until the context ends, then closes every connection and listener.
func (l *Loop) Run(ctx context.Context) error {
	defer l.end()
	stop := context.AfterFunc(ctx, func() { l.Post(func() {}) })
	defer stop()
	if err := l.armTimer(); err != nil { // what was set before
		return err
	}
	if l.hands > 0 {
		crew := conn.NewCrew(l.hands)
		defer crew.Close()
		l.Arena.Join(crew)
		l.reader = newReader(l, crew)
	}
	for ctx.Err() == nil {
		if err := l.turn(true); err != nil {
			return err
		}
	}
	l.closeAll()
	return nil
}

// Turn is one turn of Run that waits for nothing: for a test that decides itself when there is one,
// and at what time. Run may follow, to end the loop.
func (l *Loop) Turn() error { return l.turn(false) }

func (l *Loop) turn(mayPark bool) error {
	ready, timer, err := l.poller.Wait(mayPark && len(l.closing) == 0, l.idle)
	if err != nil {
		return err
	}
	l.now = time.Since(l.start)
	if l.poller.ClockStepped() {
		l.handler.ClockStepped()
	}
	if l.reader == nil || !l.reader.serve(ready) {
		for _, ev := range ready {
			l.serve(ev)
		}
	}
	if timer {
		l.armed = 0
	}
	l.timers.fire(l.now)
	l.runInbox()
	l.endTurn()
	return l.armTimer()
}

// idle says whether the loop may park.
func (l *Loop) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inbox) == 0
}

func (l *Loop) serve(ev poll.Event) {
	s := &l.slots[ev.Key.Slot]
	if s.generation != ev.Key.Generation {
		return // of a connection closed earlier
	}
	if s.listener != nil {
		l.accept(s.listener)
		return
	}
	c := s.conn
	if c == nil {
		return
	}
	if c.Stopped() {
		if s.lingers {
			l.finish(s)
		}
		return
	}
	if ev.Writable {
		c.Writable(&l.Arena)
		l.handler.Drained(c)
		if l.watch(c); c.Stopped() {
			return
		}
	}
	if ev.Readable && c.Paused() {
		if err := c.Detach(l.poller); err != nil {
			l.ended(c, err)
		}
		return
	}
	if ev.Readable {
		l.received(c, c.Receive(l.buf, &l.Arena, l.handler))
	}
}

// received ends the reading of a connection in this turn.
func (l *Loop) received(c *conn.Conn, err error) {
	if err != nil {
		l.ended(c, err)
	}
	if l.Arena.Full() {
		l.flush()
	}
}

func (l *Loop) ended(c *conn.Conn, err error) {
	switch {
	case c.Stopped():
	case errors.Is(err, conn.ErrPaused):
		c.Pause(true)
		l.watch(c)
	default:
		l.handler.Ended(c, err)
	}
}

func (l *Loop) watch(c *conn.Conn) {
	if c.Stopped() {
		return
	}
	if err := c.Watch(l.poller); err != nil {
		l.handler.Ended(c, err)
	}
}

func (l *Loop) accept(s *listener) {
	for range acceptsPerTurn {
		fd, err := poll.Accept(s.fd)
		switch {
		case err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOBUFS || err == unix.ENOMEM:
			// Level-triggered: without a rest the loop would spin on the waiting connection.
			l.pauseListeners()
			return
		case err == unix.ECONNABORTED:
			continue
		case err != nil:
			return
		}
		l.adopt(fd, s.where)
	}
}

func (l *Loop) adopt(fd int, where any) {
	key := l.take()
	c := conn.New(fd, key)
	l.slots[key.Slot].conn = c
	if err := l.poller.Add(fd, key); err != nil || !l.handler.Accepted(c, where) {
		l.Close(c)
	}
}

// take reserves a slot.
func (l *Loop) take() poll.Key {
	if n := len(l.freeSlots); n > 0 {
		i := l.freeSlots[n-1]
		l.freeSlots = l.freeSlots[:n-1]
		return poll.Key{Slot: i, Generation: l.slots[i].generation}
	}
	l.slots = append(l.slots, slot{})
	return poll.Key{Slot: uint32(len(l.slots) - 1)}
}

// giveBack frees a slot: events that are still on their way to it are void.
func (l *Loop) giveBack(slot uint32) {
	s := &l.slots[slot]
	s.generation++
	s.conn, s.listener, s.lingers = nil, nil, false
	l.freeSlots = append(l.freeSlots, slot)
}

func (l *Loop) runInbox() {
	l.mu.Lock()
	work := l.inbox
	l.inbox = l.spare[:0]
	l.mu.Unlock()
	for i, f := range work {
		f()
		work[i] = nil
		if l.Arena.Full() {
			l.flush()
		}
	}
	l.spare = work
}

// Flush writes what is queued, in the middle of a turn: for a handler that fills the arena. It
// calls nothing of the handler.
func (l *Loop) Flush() { l.flush() }

func (l *Loop) flush() {
	l.Arena.Flush(l.poller)
	for _, c := range l.Arena.Unblocked() {
		l.Post(func() { // in the next turn: its handler may be in the middle of sending
			if !c.Stopped() {
				l.handler.Drained(c)
			}
		})
	}
}

func (l *Loop) endTurn() {
	l.handler.TurnEnds()
	// Closing publishes wills, which are output again.
	for l.Arena.Pending() || len(l.closing) > 0 {
		l.flush()
		closing := l.closing
		l.closing = nil
		for _, c := range closing {
			if !l.lingers(c) {
				l.release(c)
			}
		}
		l.handler.TurnEnds()
	}
	if l.written != nil && l.lingering == 0 {
		l.written()
		l.written = nil
	}
}

// Linger lets connections that are closed from now on, in this turn or later, stay until their
// sockets have taken what is queued for them, or Run ends. written is called once none is left.
func (l *Loop) Linger(written func()) { l.written = written }

// lingers says whether a closed connection stays for its output.
func (l *Loop) lingers(c *conn.Conn) bool {
	if l.written == nil || c.Unsent() == 0 || !c.Watched() || c.Linger(l.poller) != nil {
		return false
	}
	l.slots[c.Key.Slot].lingers = true
	l.lingering++
	return true
}

// finish writes the output of a connection that lingers. It has ended for the handler.
func (l *Loop) finish(s *slot) {
	s.conn.Writable(&l.Arena)
	if s.conn.Unsent() == 0 {
		s.lingers = false
		l.lingering--
		l.closing = append(l.closing, s.conn)
	}
}

func (l *Loop) release(c *conn.Conn) {
	l.giveBack(c.Key.Slot)
	c.Close(&l.Arena, l.buf)
	if l.paused {
		l.resumeListeners()
	}
}

func (l *Loop) pauseListeners() {
	l.paused = true
	for i := range l.slots {
		if s := l.slots[i].listener; s != nil {
			_ = l.poller.Modify(s.fd, s.key, false, false)
		}
	}
	l.At(l.now+time.Second, &l.again)
}

func (l *Loop) resumeListeners() {
	l.paused = false
	for i := range l.slots {
		if s := l.slots[i].listener; s != nil {
			_ = l.poller.Modify(s.fd, s.key, true, false)
		}
	}
}

// listenAgain ends a rest of the listeners when no connection of ours has closed meanwhile.
type listenAgain struct {
	Place
	l *Loop
}

func (a *listenAgain) Fire(time.Duration) time.Duration {
	if a.l.paused {
		a.l.resumeListeners()
	}
	return 0
}

func (l *Loop) armTimer() error {
	at, ok := l.timers.next()
	if !ok || at == l.armed {
		return nil
	}
	l.armed = at
	return l.poller.SetTimer(max(at-time.Since(l.start), 1))
}

func (l *Loop) closeAll() {
	l.CloseListeners()
	l.written = nil
	for i := range l.slots {
		switch c := l.slots[i].conn; {
		case c == nil:
		case l.slots[i].lingers:
			l.release(c)
		default:
			l.Close(c)
		}
	}
	l.endTurn()
}
