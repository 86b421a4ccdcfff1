// Package conn is one Network Connection (MQTT5 §1.2): bytes to packets and back over a
// non-blocking socket. It owns no buffer while it is idle.
//
// A connection belongs to one loop; nothing here is safe for concurrent use.
package conn

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// ErrPaused stops Receive: the handler wants no more packets for now. What was read is kept.
var ErrPaused = errors.New("conn: paused")

// errUnwritable is why the reading ended, where it was a write that failed.
var errUnwritable = errors.New("conn: the peer takes nothing any more")

// ReadBufferSize is what one read takes at most, in bytes. One such buffer serves a loop.
const ReadBufferSize = 64 << 10

// rejoin is the size up to which a partial packet is copied in front of the next read. A
// larger one is gathered in its own buffer, so that its bytes are copied once only.
const rejoin = 4 << 10

// Conn is one Network Connection.
type Conn struct {
	Key   poll.Key
	Owner any // whom the loop's handler finds by it

	// What it writes at the end of this turn: a range of the arena's PUBLISH packets and one of its
	// other packets.
	publishes, others span
	firstID           int32     // index in Arena.ids of the first packet id in publishes
	baseID            packet.ID // value of the first; the others count up
	nIDs              uint16    // how many follow, consecutive in Arena.ids
	publishesFirst    bool      // of the two ranges
	loose             bool      // the other packets may change places with PUBLISH packets

	Version packet.Version // of its packets, which have fixed headers of different strictness; 0 = not known yet

	dirty  bool
	closed bool
	failed bool  // a write failed: nothing is sent any more
	over   bool  // nothing more can be read: the peer has closed, or the connection is broken
	events uint8 // what the poller watches: wantRead, wantWrite, or detached
	paused bool

	fd  int32
	off int32  // bytes of out that are written
	out []byte // what did not fit the turn or the socket
	in  []byte // a packet of which not all bytes have come
}

const (
	wantRead  = 1
	wantWrite = 2
	detached  = 4
)

// New wraps a connected non-blocking socket that a poller watches for reading under k.
func New(fd int, k poll.Key) *Conn {
	return &Conn{fd: int32(fd), Key: k, events: wantRead}
}

// Fd is the socket.
func (c *Conn) Fd() int { return int(c.fd) }

// Remote is the address of the peer, for the log: "192.0.2.7:50312", or "unix" for a local
// socket.
func (c *Conn) Remote() string {
	sa, err := unix.Getpeername(int(c.fd))
	if err != nil {
		return "gone"
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)).String()
	default:
		return "unix"
	}
}

// Handler takes the packets of a connection, one at a time, in order.
type Handler interface {
	// MaxPacket is the largest packet that is taken now, in bytes with its fixed header.
	MaxPacket(c *Conn) int
	// Packet takes one packet; body is valid during the call. ErrPaused ends the reading for
	// now; any other error is returned by Receive.
	Packet(c *Conn, h packet.Header, body []byte) error
	// Acks takes n acknowledgements of type t at once: PUBACK, PUBREC, PUBREL or PUBCOMP in their
	// shortest form, with identifiers that count up from first. It answers as Packet does; ErrPaused is
	// about what comes behind them.
	Acks(c *Conn, t packet.Type, first packet.ID, n int) error
}

// Receive reads once from the socket and hands whole packets to h. buf is the read buffer of
// the loop. It returns io.EOF when the peer has closed, a *packet.Error for a packet that the
// specification forbids or that is larger than h allows (PacketTooLarge, before it is
// buffered), ErrPaused, an error of the socket, or nil.
func (c *Conn) Receive(buf []byte, a *Arena, h Handler) error {
	if len(c.in) > rejoin {
		n, err := c.read(buf)
		if err != nil {
			c.Over()
		}
		if err != nil || n == 0 {
			return err
		}
		c.in = append(c.in, buf[:n]...)
		return c.consumeHeld(a, h)
	}
	data, err := c.Fill(buf)
	if err != nil {
		c.Over()
	}
	if err != nil || len(data) == 0 {
		return err
	}
	return c.Take(data, a, h)
}

// Fill reads once from the socket, into buf behind what the connection has of a packet, and returns
// both. It changes nothing: a hand of a crew may call it, if Fillable. data is empty if there is
// nothing to read yet. The errors are those of reading that Receive has.
func (c *Conn) Fill(buf []byte) (data []byte, err error) {
	held := copy(buf, c.in)
	n, err := c.read(buf[held:])
	if err != nil || n == 0 {
		return nil, err
	}
	return buf[:held+n], nil
}

// Fillable says whether what the connection holds leaves room in a buffer of n bytes for at least
// as much again as is worth a read.
func (c *Conn) Fillable(n int) bool { return len(c.in) <= rejoin && n >= len(c.in)+minFill }

// minFill is the least that Fill is to have room for.
const minFill = 4 << 10

// Take hands the whole packets of what Fill has read to h, and keeps the rest; of a connection that
// was paused meanwhile it keeps everything. The errors are those of packets that Receive has.
func (c *Conn) Take(data []byte, a *Arena, h Handler) error {
	if c.paused {
		c.carry(data, a)
		return nil
	}
	rest, err := c.packets(data, h)
	c.carry(rest, a)
	return err
}

// Resume hands on what was kept when the handler paused.
func (c *Conn) Resume(a *Arena, h Handler) error {
	if len(c.in) == 0 {
		return nil
	}
	return c.consumeHeld(a, h)
}

func (c *Conn) consumeHeld(a *Arena, h Handler) error {
	held := c.in
	rest, err := c.packets(held, h)
	if len(rest) == len(held) {
		return err
	}
	c.in = held[:copy(held, rest)]
	if len(c.in) == 0 {
		a.put(c.in)
		c.in = nil
	}
	return err
}

// read returns 0 and nil if there is nothing to read yet.
func (c *Conn) read(b []byte) (int, error) {
	n, err := poll.Read(int(c.fd), b)
	switch {
	case err == unix.EAGAIN:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("conn: read: %w", err)
	case n == 0 && c.failed:
		return 0, errUnwritable
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// packets hands on the whole packets at the start of b and returns what is left.
func (c *Conn) packets(b []byte, h Handler) (rest []byte, err error) {
	for len(b) > 0 {
		if t, first, n := packet.AckRun(b); n > 0 {
			b = b[4*n:]
			if err := h.Acks(c, t, first, n); err != nil || c.closed {
				return b, err
			}
			continue
		}
		header, n, err := c.parseHeader(b)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return b, nil
		}
		if n+header.Remaining > h.MaxPacket(c) {
			return nil, &packet.Error{Code: packet.PacketTooLarge, Detail: "packet larger than the maximum packet size"}
		}
		if len(b)-n < header.Remaining {
			return b, nil
		}
		err = h.Packet(c, header, b[n:n+header.Remaining])
		b = b[n+header.Remaining:]
		if err != nil || c.closed {
			return b, err
		}
	}
	return nil, nil
}

func (c *Conn) parseHeader(b []byte) (packet.Header, int, error) {
	switch c.Version {
	case packet.V5:
		return packet.ParseHeader5(b)
	case packet.V31:
		return packet.ParseHeader31(b)
	}
	return packet.ParseHeader(b)
}

// carry keeps the start of a packet until the rest comes.
func (c *Conn) carry(rest []byte, a *Arena) {
	if len(rest) == 0 {
		if c.in != nil {
			a.put(c.in)
			c.in = nil
		}
		return
	}
	c.in = append(a.grow(c.in[:0], len(rest)), rest...)
}

// Pause stops or restarts reading; what the socket holds stays there.
func (c *Conn) Pause(on bool) { c.paused = on }

// Paused says that reading rests.
func (c *Conn) Paused() bool { return c.paused }

// Waiting says whether the socket holds bytes that were not read yet.
func (c *Conn) Waiting() bool { return poll.Unread(int(c.fd)) > 0 }

// Detach takes a paused connection out of the poller: its peer is gone, which the poller would
// report for ever. What the socket still holds is read after the pause.
func (c *Conn) Detach(p *poll.Poller) error {
	c.events = detached
	return p.Remove(int(c.fd))
}

// Watched says whether the poller knows the connection: see Detach.
func (c *Conn) Watched() bool { return c.events != detached }

// Watch brings the poller up to date with what the connection waits for.
func (c *Conn) Watch(p *poll.Poller) error {
	var want uint8
	if !c.paused {
		want |= wantRead
	}
	if len(c.out) > int(c.off) {
		want |= wantWrite
	}
	switch {
	case c.closed || want == c.events:
		return nil
	case c.events == detached:
		if c.paused {
			return nil
		}
		if err := p.Add(int(c.fd), c.Key); err != nil {
			return err
		}
	}
	c.events = want
	return p.Modify(int(c.fd), c.Key, want&wantRead != 0, want&wantWrite != 0)
}

// Idle says that the connection owns no buffer.
func (c *Conn) Idle() bool { return c.in == nil && c.out == nil }

// Held is the memory of its buffers, in bytes.
func (c *Conn) Held() int { return cap(c.in) + cap(c.out) }

// Stop ends the traffic: nothing is sent or read from now on. What is queued is still flushed.
func (c *Conn) Stop() { c.closed = true }

// Linger watches a stopped connection for nothing but that it takes what is queued.
func (c *Conn) Linger(p *poll.Poller) error {
	c.events = wantWrite
	return p.Modify(int(c.fd), c.Key, false, true)
}

// Stopped says that Stop was called.
func (c *Conn) Stopped() bool { return c.closed }

// Over notes that Fill has failed: nothing is left that Close would have to read off.
func (c *Conn) Over() { c.over = true }

// drainAtClose is how many bytes are read off before the socket is closed: closing with unread
// bytes would reset the connection, and the peer would never see the DISCONNECT.
const drainAtClose = 4 * ReadBufferSize

// Close closes the socket and gives the buffers back. What was flushed still reaches the peer.
// The arena must have been flushed since the last Send.
func (c *Conn) Close(a *Arena, buf []byte) {
	if c.fd < 0 {
		return
	}
	c.closed = true
	if c.out != nil {
		a.put(c.out)
	}
	if c.in != nil {
		a.put(c.in)
	}
	c.out, c.in, c.off = nil, nil, 0
	if !c.over {
		c.drain(buf)
	}
	_ = unix.Close(int(c.fd))
	c.fd = -1
}

func (c *Conn) drain(buf []byte) {
	_ = unix.Shutdown(int(c.fd), unix.SHUT_WR)
	for drained := 0; drained < drainAtClose; {
		n, err := poll.Read(int(c.fd), buf)
		if err != nil || n == 0 {
			return
		}
		drained += n
	}
}
