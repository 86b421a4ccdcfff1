// Package poll is what an event loop needs of the kernel: an epoll set whose wait parks the
// goroutine, not a thread, an eventfd to be woken by, a timerfd to be woken at, and raw
// non-blocking reads and writes.
//
// The wait is nested: the epoll descriptor is registered in another one, and that in the runtime's
// poller, so a loop with nothing to do costs no thread and no system call. A loop that always has
// something to do soon takes it out of there and waits in the kernel itself, which is quicker.
package poll

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxEvents is how many ready descriptors one wait returns; the rest comes with the next.
const maxEvents = 256

// After quick parks in a row that were no longer than soon, the next event is expected as soon.
const (
	quick = 8
	soon  = time.Millisecond
)

// yieldEvery is how often a thread that waits by itself lets the scheduler have its turn. One that
// has not for 10 ms is taken for one that does not let others run, and loses its processor.
const yieldEvery = 8 * time.Millisecond

// Event is one ready descriptor.
type Event struct {
	Key      Key
	Readable bool // also set on error and hang-up: the read tells which
	Writable bool
}

// Key is what a descriptor was added with. Slot and generation together tell a descriptor from
// a later one that got the same number.
type Key struct {
	Slot       uint32
	Generation uint32
}

// Slots of the poller itself; callers use slots from FirstSlot on.
const (
	wakeSlot  = 0
	timerSlot = 1
	clockSlot = 2
	FirstSlot = 3
)

// Poller is an epoll set with a wake-up and a timer. Wait, Add, Modify, Remove and SetTimer
// belong to one goroutine; Wake may come from any.
type Poller struct {
	epfd    int
	wakeFd  int
	timerFd int
	clockFd int // fires when the wall clock is set; -1 where the kernel cannot tell

	outer    int      // an epoll descriptor that has epfd, unless busy
	file     *os.File // owns outer, keeps it in the runtime's poller
	raw      syscall.RawConn
	try      func(fd uintptr) bool // made once: a literal in Wait would allocate at each park
	ready    int
	events   []unix.EpollEvent
	out      []Event
	sleeping atomic.Bool
	armed    bool
	stepped  bool      // the wall clock was set
	parks    int       // that were quick, in a row
	busy     bool      // the next event is expected soon
	yielded  time.Time // when the scheduler has had its turn last, while busy
}

// New returns a poller with nothing in it but its wake-up and timer.
func New() (*Poller, error) {
	p := &Poller{
		epfd: -1, outer: -1, wakeFd: -1, timerFd: -1, clockFd: -1,
		events: make([]unix.EpollEvent, maxEvents), out: make([]Event, 0, maxEvents),
	}
	if err := p.open(); err != nil {
		p.Close()
		return nil, fmt.Errorf("poll: %w", err)
	}
	return p, nil
}

func (p *Poller) open() error {
	var err error
	for _, fd := range []*int{&p.epfd, &p.outer} {
		if *fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
			return fmt.Errorf("create epoll: %w", err)
		}
	}
	if err = unix.SetNonblock(p.outer, true); err != nil {
		return err
	}
	if err = p.nest(true); err != nil {
		return err
	}
	p.file = os.NewFile(uintptr(p.outer), "epoll")
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return fmt.Errorf("register epoll in the runtime: %w", err)
	}
	// Fails where the runtime's poller did not take the descriptor: waiting would spin.
	if err = p.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("register epoll in the runtime: %w", err)
	}
	p.try = func(uintptr) bool {
		p.ready = p.epollWait(atOnce)
		return p.ready > 0
	}
	if p.wakeFd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	if p.timerFd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("create timerfd: %w", err)
	}
	if err = p.Add(p.wakeFd, Key{Slot: wakeSlot}); err != nil {
		return err
	}
	if err = p.Add(p.timerFd, Key{Slot: timerSlot}); err != nil {
		return err
	}
	return p.watchClock()
}

// watchClock has the kernel tell when the wall clock is set, or the machine was suspended: a timer that
// never comes is cancelled then.
func (p *Poller) watchClock() (err error) {
	if p.clockFd, err = unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("create timerfd: %w", err)
	}
	if err = p.armClock(); err != nil { // an old kernel, or an emulator: nobody is told
		_ = unix.Close(p.clockFd)
		p.clockFd = -1
		return nil
	}
	return p.Add(p.clockFd, Key{Slot: clockSlot})
}

// armClock sets the timer to the last date that there is. Where that is in 2038, a wrong clock can be past it.
func (p *Poller) armClock() error {
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt}}
	err := unix.TimerfdSettime(p.clockFd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
	if err == unix.ECANCELED { // the clock was set meanwhile; the timer is set all the same
		return nil
	}
	return err
}

// heardClock waits for the next time that the clock is set, if the timer was cancelled. One that has come
// would come again at once.
func (p *Poller) heardClock() {
	var b [8]byte
	if _, err := Read(p.clockFd, b[:]); err == unix.ECANCELED {
		_ = p.armClock() // as it worked before
	}
}

// ClockStepped says whether, since it was asked last, the wall clock was set or the machine suspended.
func (p *Poller) ClockStepped() bool {
	stepped := p.stepped
	p.stepped = false
	return stepped
}

// Wait returns the descriptors that are ready, and whether the timer has fired. If mayPark is
// false, it returns at once. idle is asked before parking, when other goroutines already see
// that a Wake is needed: if it says false there is work, and Wait returns. The result is
// valid until the next Wait.
func (p *Poller) Wait(mayPark bool, idle func() bool) (ready []Event, timer bool, err error) {
	// Before it parks, the runtime's poller lets p.try look whether that is needed: to look here
	// as well would be one system call more for each time the loop has nothing to do.
	if mayPark {
		p.sleeping.Store(true)
		if mayPark = idle(); mayPark {
			err = p.park()
		}
		p.sleeping.Store(false)
		if err != nil {
			return nil, false, fmt.Errorf("poll: park: %w", err)
		}
	}
	if !mayPark {
		p.ready = p.epollWait(atOnce)
	}
	p.out = p.out[:0]
	for i := range p.ready {
		ev := &p.events[i]
		switch {
		case ev.Fd == wakeSlot:
			p.drain(p.wakeFd)
		case ev.Fd == timerSlot:
			p.drain(p.timerFd)
			p.armed = false
			timer = true
		case ev.Fd == clockSlot:
			p.stepped = true
			p.heardClock()
		default:
			p.out = append(p.out, Event{
				Key:      Key{Slot: uint32(ev.Fd), Generation: uint32(ev.Pad)},
				Readable: ev.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0,
				Writable: ev.Events&unix.EPOLLOUT != 0,
			})
		}
	}
	return p.out, timer, nil
}

// park waits until something is ready.
//
// To park the goroutine takes the kernel four calls for each event, and the scheduler a round: the
// runtime's poller waits for ours, and both are asked before and after. So a thread waits by itself
// for an event that is to be expected; the runtime gives its processor to others if they need one.
func (p *Poller) park() error {
	began := time.Now()
	if p.busy {
		if began.Sub(p.yielded) > yieldEvery {
			p.yielded = began
			runtime.Gosched()
		}
		p.ready = p.epollWait(forever)
		if p.ready > 0 && time.Since(began) < soon {
			return nil
		}
		p.busy, p.parks = false, 0
		return p.nest(true)
	}
	if err := p.raw.Read(p.try); err != nil {
		return err
	}
	if time.Since(began) > soon {
		p.parks = 0
		return nil
	}
	if p.parks++; p.parks < quick {
		return nil
	}
	p.parks = 0
	if runtime.GOMAXPROCS(0) == 1 { // others need it meanwhile
		return nil
	}
	p.busy = true
	return p.nest(false)
}

// nest lets the runtime's poller know what is ready, or not: it would wake a thread in vain.
func (p *Poller) nest(on bool) error {
	op := unix.EPOLL_CTL_DEL
	if on {
		op = unix.EPOLL_CTL_ADD
	}
	return unix.EpollCtl(p.outer, op, p.epfd, &unix.EpollEvent{Events: unix.EPOLLIN})
}

// Wake ends the current or next park of Wait. It is free while the loop is awake.
func (p *Poller) Wake() {
	if p.sleeping.Load() {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		_, _ = Write(p.wakeFd, one[:]) // full counter: a wake-up is pending already
	}
}

// SetTimer arms the timer to fire once after d, at least a nanosecond; 0 disarms it.
func (p *Poller) SetTimer(d time.Duration) error {
	if d <= 0 && !p.armed {
		return nil
	}
	p.armed = d > 0
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(p.timerFd, 0, &spec, nil); err != nil {
		return fmt.Errorf("poll: set timer: %w", err)
	}
	return nil
}

// Add watches fd for reading.
func (p *Poller) Add(fd int, k Key) error { return p.control(unix.EPOLL_CTL_ADD, fd, k, true, false) }

// Modify changes what fd is watched for. A descriptor watched for neither still reports errors
// and hang-ups.
func (p *Poller) Modify(fd int, k Key, read, write bool) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, k, read, write)
}

// Remove stops watching fd.
func (p *Poller) Remove(fd int) error {
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
		return fmt.Errorf("poll: remove descriptor %d: %w", fd, err)
	}
	return nil
}

func (p *Poller) control(op, fd int, k Key, read, write bool) error {
	ev := unix.EpollEvent{Fd: int32(k.Slot), Pad: int32(k.Generation)}
	if read {
		ev.Events |= unix.EPOLLIN
	}
	if write {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(p.epfd, op, fd, &ev); err != nil {
		return fmt.Errorf("poll: watch descriptor %d: %w", fd, err)
	}
	return nil
}

// Close releases the descriptors of the poller itself.
func (p *Poller) Close() {
	for _, fd := range []int{p.wakeFd, p.timerFd, p.clockFd, p.epfd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	switch {
	case p.file != nil:
		_ = p.file.Close() // closes outer
	case p.outer >= 0:
		_ = unix.Close(p.outer)
	}
	p.epfd, p.outer, p.wakeFd, p.timerFd, p.clockFd, p.file = -1, -1, -1, -1, -1, nil
}

func (p *Poller) drain(fd int) {
	var b [8]byte
	_, _ = Read(fd, b[:])
}

// How long epollWait waits, in milliseconds. Nothing between: to set a timer of the kernel for each
// wait costs more than the wait.
const (
	atOnce  = 0
	forever = -1
)

// epollWait returns how many descriptors are ready.
func (p *Poller) epollWait(millis int) int {
	var n uintptr
	var errno syscall.Errno
	if millis == atOnce { // it does not block, so it may bypass the scheduler
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd),
			uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), atOnce, 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd),
			uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(millis), 0, 0)
	}
	if errno != 0 {
		return 0 // EINTR; other causes would be our own fault and show as a loop that never wakes
	}
	return int(n)
}

// Read reads from a non-blocking descriptor without entering the scheduler. 0 and nil is the
// end of the stream; unix.EAGAIN says that there is nothing yet.
func Read(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, unix.EINVAL
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Write writes to a non-blocking descriptor without entering the scheduler. It may write less
// than b; unix.EAGAIN says that nothing can be written yet.
func Write(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Write2 writes what stands in two places, one behind the other, with one system call.
func Write2(fd int, first, second []byte) (int, error) {
	if len(first) == 0 || len(second) == 0 {
		return 0, unix.EINVAL
	}
	parts := [2]unix.Iovec{{Base: &first[0]}, {Base: &second[0]}}
	parts[0].SetLen(len(first))
	parts[1].SetLen(len(second))
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&parts)), uintptr(len(parts)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Accept takes a connection of a non-blocking listener, itself non-blocking and closed on exec;
// unix.EAGAIN says that none waits. Unlike unix.Accept4 it does not ask who the peer is, which
// costs a second system call.
func Accept(fd int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

// Unread returns how many bytes a socket holds that were not read yet, 0 if it cannot tell.
func Unread(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}
