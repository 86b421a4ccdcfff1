package mqtt

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// readBuffer and writeBuffer are bytes per uplink. What is written is flushed from there on.
	readBuffer  = 16 << 10
	writeBuffer = 16 << 10
)

// link is the connection as the library sees it. Reading is for one goroutine at a time.
type link struct {
	net.Conn
	in        *bufio.Reader
	frame     frame
	header    int // bytes of the fixed header still to be given out
	maxPacket uint32
	once      sync.Once
	closed    chan struct{} // closed by Close

	mu      sync.Mutex    // guards what follows
	timeout time.Duration // for a write that does not get on
	out     []byte        // not flushed yet
	err     error         // why the link was closed by us
}

// newLink wraps c. idle is called before each read that may wait.
func newLink(c net.Conn, maxPacket uint32, timeout time.Duration, idle func()) *link {
	return &link{Conn: c, in: bufio.NewReaderSize(announced{c, idle}, readBuffer), maxPacket: maxPacket, timeout: timeout, closed: make(chan struct{})}
}

// announced is a reader that says before each read that everything so far was dealt with.
type announced struct {
	r    io.Reader
	idle func()
}

func (a announced) Read(p []byte) (int, error) {
	a.idle()
	return a.r.Read(p)
}

// Close closes the connection below.
func (l *link) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

// Read returns bytes of one packet at most, after a look at its fixed header.
func (l *link) Read(p []byte) (int, error) {
	for n := 2; l.frame.left == 0; n++ {
		b, err := l.in.Peek(n)
		if err != nil {
			return 0, err
		}
		if l.header, err = l.frame.begin(b, l.maxPacket); err != nil {
			return 0, l.fail(err)
		}
	}
	n := min(len(p), l.frame.left)
	if l.header > 0 {
		n = min(n, l.header)
	}
	n, err := l.in.Read(p[:n])
	l.frame.left -= n
	if l.header > 0 {
		l.header -= n
		return n, err
	}
	if err := l.frame.body(p[:n]); err != nil {
		return 0, l.fail(err)
	}
	return n, err
}

// Lock, Write and Unlock are how the library writes a packet: it leaves with Unlock.
func (l *link) Lock() { l.mu.Lock() }

// Unlock flushes.
func (l *link) Unlock() {
	l.flush()
	l.mu.Unlock()
}

// Write collects; the caller holds the lock.
func (l *link) Write(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	l.out = append(l.out, p...)
	return len(p), nil
}

// Flush sends what batch has collected.
func (l *link) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	return l.err
}

func (l *link) flush() {
	if len(l.out) == 0 || l.err != nil {
		return
	}
	l.Conn.SetWriteDeadline(time.Now().Add(l.timeout))
	if _, err := l.Conn.Write(l.out); err != nil {
		l.err = fmt.Errorf("mqtt: write: %w", err)
		l.Close()
	}
	l.out = l.out[:0]
	if cap(l.out) > 4*writeBuffer {
		l.out = nil
	}
}

// fail closes the connection because of err, which it returns; the first one stays.
func (l *link) fail(err error) error {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	err = l.err
	l.mu.Unlock()
	l.Close()
	return err
}

// hurry gives what is being written and what follows a second.
func (l *link) hurry() {
	l.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	l.mu.Lock()
	l.timeout = min(l.timeout, time.Second)
	l.mu.Unlock()
}

// failure returns why we closed the connection, nil if we did not.
func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// batch writes to a link without flushing behind each packet.
type batch struct{ *link }

// Unlock flushes only when much was collected.
func (b batch) Unlock() {
	if len(b.out) >= writeBuffer {
		b.flush()
	}
	b.mu.Unlock()
}
