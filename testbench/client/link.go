package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"dunlin/core/packet"
)

// roomBytes is how much encoded output may wait for the socket before Publish waits.
// Acknowledgements go in beyond it: what they answer is bounded by the peer's window.
const roomBytes = 256 << 10

// link is one Network Connection: bytes to packets and back.
type link struct {
	conn    net.Conn
	version packet.Version
	maxSize int // of a packet that arrives, bytes; 0 = no limit

	leaving atomic.Bool   // DISCONNECT was sent: an end by the broker is no error
	done    chan struct{} // closed by end
	ended   sync.WaitGroup
	once    sync.Once

	mu    sync.Mutex // guards what follows
	out   []byte     // encoded, waits for the writer
	free  chan struct{}
	kick  chan struct{} // has one element if out is not empty
	pongs []chan struct{}
	cause error // set before done is closed
}

func newLink(conn net.Conn, v packet.Version, maxSize uint32) *link {
	return &link{
		conn: conn, version: v, maxSize: int(min(maxSize, 1<<28)),
		done: make(chan struct{}), kick: make(chan struct{}, 1),
	}
}

// handshake sends CONNECT and reads the CONNACK.
func (l *link) handshake(ctx context.Context, connect []byte) (connack packet.Connack, err error) {
	// The context ends the exchange by the deadline of the socket.
	stop := context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			err = errors.Join(err, ctx.Err())
		}
	}()
	if _, err := l.conn.Write(connect); err != nil {
		return connack, err
	}
	h, body, err := readPacket(l.conn, l.maxSize)
	if err != nil {
		return connack, fmt.Errorf("no CONNACK: %w", err)
	}
	if h.Type != packet.CONNACK {
		return connack, fmt.Errorf("%s instead of CONNACK", h.Type)
	}
	return packet.ParseConnack(body, l.version)
}

// readPacket reads one packet byte by byte up to its body, so that nothing behind it is taken.
func readPacket(r io.Reader, maxSize int) (packet.Header, []byte, error) {
	var head []byte
	for {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return packet.Header{}, nil, err
		}
		head = append(head, b[0])
		h, n, err := packet.ParseHeader(head)
		if err != nil {
			return h, nil, err
		}
		if n == 0 {
			continue
		}
		if maxSize > 0 && n+h.Remaining > maxSize {
			return h, nil, fmt.Errorf("%s of %d bytes, Maximum Packet Size is %d", h.Type, n+h.Remaining, maxSize)
		}
		body := make([]byte, h.Remaining)
		_, err = io.ReadFull(r, body)
		return h, body, err
	}
}

// put appends what encode writes to the output. After the end it is dropped.
func (l *link) put(encode func(dst []byte) []byte) {
	l.mu.Lock()
	l.out = encode(l.out)
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// room returns nil if the output has room, else a channel that is closed when it has.
func (l *link) room() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.out) < roomBytes {
		return nil
	}
	if l.free == nil {
		l.free = make(chan struct{})
	}
	return l.free
}

// ping sends a PINGREQ and returns a channel that is closed by its PINGRESP.
func (l *link) ping() <-chan struct{} {
	answered := make(chan struct{})
	l.put(func(dst []byte) []byte {
		l.pongs = append(l.pongs, answered) // put holds l.mu
		return packet.AppendPingreq(dst)
	})
	return answered
}

// pong answers the oldest ping.
func (l *link) pong() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pongs) == 0 {
		return errors.New("PINGRESP without PINGREQ")
	}
	close(l.pongs[0])
	l.pongs = l.pongs[1:]
	return nil
}

// write sends the output until the end.
func (l *link) write(keepAlive uint16) error {
	var tick <-chan time.Time
	if keepAlive > 0 {
		ticker := time.NewTicker(time.Duration(keepAlive) * time.Second / 2)
		defer ticker.Stop()
		tick = ticker.C
	}
	var spare []byte
	for {
		select {
		case <-l.kick:
		case <-tick:
			l.ping()
		case <-l.done:
			return l.err()
		}
		l.mu.Lock()
		out := l.out
		l.out = spare[:0]
		if l.free != nil {
			close(l.free)
			l.free = nil
		}
		l.mu.Unlock()
		if _, err := l.conn.Write(out); err != nil {
			return err
		}
		spare = out
	}
}

// read hands each packet to take until the end. What take is given is valid during the call.
func (l *link) read(take func(packet.Header, []byte) error) error {
	buf := make([]byte, 64<<10)
	start, end := 0, 0
	for {
		for {
			h, n, err := packet.ParseHeader(buf[start:end])
			if err != nil {
				return fmt.Errorf("client: the broker sent a malformed header: %w", err)
			}
			if n == 0 {
				break
			}
			size := n + h.Remaining
			if l.maxSize > 0 && size > l.maxSize {
				return fmt.Errorf("client: %s of %d bytes, Maximum Packet Size is %d", h.Type, size, l.maxSize)
			}
			if end-start < size {
				if len(buf) < size {
					bigger := make([]byte, size)
					end = copy(bigger, buf[start:end])
					start, buf = 0, bigger
				}
				break
			}
			if err := take(h, buf[start+n:start+size]); err != nil {
				if _, ok := errors.AsType[*DisconnectedError](err); ok {
					return err
				}
				return fmt.Errorf("client: %w", err)
			}
			start += size
		}
		if start > 0 {
			end = copy(buf, buf[start:end])
			start = 0
		}
		n, err := l.conn.Read(buf[end:])
		if err != nil {
			return err
		}
		end += n
	}
}

// end ends the connection with its cause; the first call counts.
func (l *link) end(cause error) {
	l.once.Do(func() {
		if cause == nil || l.leaving.Load() {
			cause = net.ErrClosed
		}
		l.mu.Lock()
		l.cause = cause
		l.mu.Unlock()
		close(l.done)
		l.conn.Close()
	})
}

// err is why the connection has ended, nil if it lives.
func (l *link) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}
