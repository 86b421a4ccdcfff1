package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"dunlin/core/packet"
	"dunlin/platform/poll"
)

// Bare is the least that a fan-out can cost: a server that answers CONNECT and SUBSCRIBE, and
// from then on copies every PUBLISH that comes from anybody to all who have subscribed, whatever
// is in it. It knows where a packet ends and nothing else: no topics, sessions, acknowledgements,
// bounds. Its cost is that of the kernel's sockets; the ratio of a broker to it is the same on
// fast and slow machines, more or less.
type Bare struct {
	poller   *poll.Poller
	listener *net.TCPListener
	listenFD int
	conns    []*bareConn
	to       []*bareConn
	in       []byte
	arena    []byte // what the turn has brought for all of to
}

// bareConn is a connection. Everything belongs to the goroutine of Serve.
type bareConn struct {
	fd         int
	key        poll.Key
	v5         bool
	subscribed bool
	carry      []byte
	out        []byte // what the socket did not take
}

// listenSlot is the slot of the listener in the poller.
const listenSlot = poll.FirstSlot

// maxArena is how much is gathered before all receivers are written to.
const maxArena = 64 << 10

// NewBare listens on address, host:port.
func NewBare(address string) (*Bare, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	b := &Bare{listener: l.(*net.TCPListener), in: make([]byte, 64<<10), arena: make([]byte, 0, 2*maxArena)}
	if b.poller, err = poll.New(); err != nil {
		l.Close()
		return nil, err
	}
	raw, err := b.listener.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) { b.listenFD, err = unix.Dup(int(fd)) }), err)
	}
	if err == nil {
		err = b.poller.Add(b.listenFD, poll.Key{Slot: listenSlot})
	}
	if err != nil {
		l.Close()
		b.poller.Close()
		return nil, fmt.Errorf("load: %w", err)
	}
	return b, nil
}

// Address returns where it listens.
func (b *Bare) Address() netip.AddrPort { return b.listener.Addr().(*net.TCPAddr).AddrPort() }

// Serve serves until ctx ends, and closes everything.
func (b *Bare) Serve(ctx context.Context) error {
	defer b.close()
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { // ends at once; Serve waits for it
		b.poller.Wake()
		close(woken)
	})
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	for ctx.Err() == nil {
		ready, _, err := b.poller.Wait(true, func() bool { return ctx.Err() == nil })
		if err != nil {
			return err
		}
		for i := range ready {
			if ready[i].Key.Slot == listenSlot {
				b.accept()
				continue
			}
			c := b.conns[ready[i].Key.Slot-listenSlot-1]
			if c == nil || c.key != ready[i].Key {
				continue
			}
			var err error
			if ready[i].Writable {
				err = b.writable(c)
			}
			if ready[i].Readable && err == nil {
				err = b.read(c)
			}
			if err != nil {
				b.drop(c)
			}
		}
		b.flush()
	}
	return nil
}

func (b *Bare) accept() {
	for {
		fd, err := poll.Accept(b.listenFD)
		if err != nil {
			return // none waits, or none can be had now
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		c := &bareConn{fd: fd, key: poll.Key{Slot: listenSlot + 1 + uint32(len(b.conns))}}
		b.conns = append(b.conns, c)
		if err := b.poller.Add(fd, c.key); err != nil {
			b.drop(c)
		}
	}
}

func (b *Bare) read(c *bareConn) error {
	carried := copy(b.in, c.carry)
	n, err := poll.Read(c.fd, b.in[carried:])
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			return nil
		}
		return err
	}
	if n == 0 {
		return io.EOF
	}
	in := b.in[:carried+n]
	for {
		h, n, err := packet.ParseHeader(in)
		if err != nil {
			return err
		}
		size := n + h.Remaining
		if size > len(b.in) {
			return fmt.Errorf("load: a packet of %d bytes", size)
		}
		if n == 0 || len(in) < size {
			break
		}
		if err := b.packet(c, h, in[:size], in[n:size]); err != nil {
			return err
		}
		in = in[size:]
	}
	c.carry = append(c.carry[:0], in...)
	return nil
}

func (b *Bare) packet(c *bareConn, h packet.Header, whole, body []byte) error {
	version := packet.V311
	if c.v5 {
		version = packet.V5
	}
	switch h.Type {
	case packet.CONNECT:
		connect, err := packet.ParseConnect(body)
		if err != nil {
			return err
		}
		c.v5 = connect.Version == packet.V5
		return b.write(c, packet.AppendConnack(nil, &packet.Connack{}, connect.Version))
	case packet.SUBSCRIBE:
		s, err := packet.ParseSubscribe(body, version)
		if err != nil {
			return err
		}
		answer := packet.Suback{ID: packet.ID(binary.BigEndian.Uint16(body))}
		for range s.Filters() {
			answer.Codes = append(answer.Codes, packet.Success)
		}
		if !c.subscribed {
			c.subscribed = true
			b.to = append(b.to, c)
		}
		return b.write(c, packet.AppendSuback(nil, &answer, version))
	case packet.DISCONNECT:
		return io.EOF
	}
	if h.Type != packet.PUBLISH {
		return nil
	}
	b.arena = append(b.arena, whole...)
	if len(b.arena) >= maxArena {
		b.flush()
	}
	return nil
}

// flush writes what has come to all receivers.
func (b *Bare) flush() {
	if len(b.arena) == 0 {
		return
	}
	for _, c := range b.to {
		if c.fd >= 0 && b.write(c, b.arena) != nil {
			b.drop(c)
		}
	}
	b.arena = b.arena[:0]
}

func (b *Bare) write(c *bareConn, p []byte) error {
	if len(c.out) > 0 {
		c.out = append(c.out, p...)
		return nil
	}
	n, err := poll.Write(c.fd, p)
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	if n == len(p) {
		return nil
	}
	c.out = append(c.out, p[n:]...)
	return b.poller.Modify(c.fd, c.key, true, true)
}

func (b *Bare) writable(c *bareConn) error {
	if len(c.out) > 0 {
		n, err := poll.Write(c.fd, c.out)
		if err != nil && !errors.Is(err, syscall.EAGAIN) {
			return err
		}
		c.out = c.out[:copy(c.out, c.out[n:])]
	}
	if len(c.out) > 0 {
		return nil
	}
	c.out = nil
	return b.poller.Modify(c.fd, c.key, true, false)
}

// drop closes c. Its slot is not used again: a bare server lives for one run.
func (b *Bare) drop(c *bareConn) {
	if c.fd < 0 {
		return
	}
	unix.Close(c.fd)
	c.fd = -1
	b.conns[c.key.Slot-listenSlot-1] = nil
}

func (b *Bare) close() {
	for _, c := range b.conns {
		if c != nil {
			b.drop(c)
		}
	}
	b.listener.Close()
	unix.Close(b.listenFD)
	b.poller.Close()
}
