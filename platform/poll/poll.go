// Package poll is what an event loop needs of the kernel: an epoll set whose wait parks the
// goroutine, not a thread, an eventfd to be woken by, a timerfd to be woken at, and raw
// non-blocking reads and writes.
//
// The wait is nested: the epoll descriptor is itself registered in the runtime's poller, so a
// loop with nothing to do costs no thread and no system call.
package poll

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxEvents is how many ready descriptors one wait returns; the rest comes with the next.
const maxEvents = 256

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
	FirstSlot = 2
)

// Poller is an epoll set with a wake-up and a timer. Wait, Add, Modify, Remove and SetTimer
// belong to one goroutine; Wake may come from any.
type Poller struct {
	epfd    int
	wakeFd  int
	timerFd int

	file     *os.File // owns epfd, keeps it in the runtime's poller
	raw      syscall.RawConn
	try      func(fd uintptr) bool // made once: a literal in Wait would allocate at each park
	ready    int
	events   []unix.EpollEvent
	out      []Event
	sleeping atomic.Bool
	armed    bool
}

// New returns a poller with nothing in it but its wake-up and timer.
func New() (*Poller, error) {
	p := &Poller{epfd: -1, wakeFd: -1, timerFd: -1, events: make([]unix.EpollEvent, maxEvents), out: make([]Event, 0, maxEvents)}
	if err := p.open(); err != nil {
		p.Close()
		return nil, fmt.Errorf("poll: %w", err)
	}
	return p, nil
}

func (p *Poller) open() error {
	var err error
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	if err = unix.SetNonblock(p.epfd, true); err != nil {
		return err
	}
	p.file = os.NewFile(uintptr(p.epfd), "epoll")
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return fmt.Errorf("register epoll in the runtime: %w", err)
	}
	// Fails where the runtime's poller did not take the descriptor: waiting would spin.
	if err = p.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("register epoll in the runtime: %w", err)
	}
	p.try = func(uintptr) bool {
		p.ready = p.epollWait()
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
	return p.Add(p.timerFd, Key{Slot: timerSlot})
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
			err = p.raw.Read(p.try)
		}
		p.sleeping.Store(false)
		if err != nil {
			return nil, false, fmt.Errorf("poll: park: %w", err)
		}
	}
	if !mayPark {
		p.ready = p.epollWait()
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
	for _, fd := range []int{p.wakeFd, p.timerFd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	switch {
	case p.file != nil:
		_ = p.file.Close() // closes epfd
	case p.epfd >= 0:
		_ = unix.Close(p.epfd)
	}
	p.epfd, p.wakeFd, p.timerFd, p.file = -1, -1, -1, nil
}

func (p *Poller) drain(fd int) {
	var b [8]byte
	_, _ = Read(fd, b[:])
}

// epollWait asks without waiting. The system call does not block, so it may bypass the
// scheduler.
func (p *Poller) epollWait() int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
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
