package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"dunlin/core/packet"
	"dunlin/platform/poll"
)

// state is how far a client has come.
type state uint8

const (
	closed    state = iota
	opening         // CONNECT is on its way
	attaching       // SUBSCRIBE is on its way
	ready
	leaving // DISCONNECT is on its way, the broker closes
)

// client is one Network Connection to the broker. It belongs to its loop.
type client struct {
	loop    *loop
	id      string
	filters []string // what it subscribes to, nil = nothing
	qos     byte     // of the subscriptions
	// persistent asks for a session that outlives the connection.
	persistent bool

	state state
	fd    int
	key   poll.Key
	began int64  // when it connected last
	carry []byte // the start of a packet whose end has not come
	out   []byte // what the socket did not take; while there is some, it is watched for writing

	pub *publisher
	// tracks are what it has got of the publishers from number base on; nil if it does not subscribe.
	tracks []track
	base   uint32
	// stride is 0 if it gets every message of those, else it gets only one of so many: the numbers
	// offset, offset+stride and so on.
	stride, offset uint32
}

// publisher is the part of a client that publishes. Its fields belong to the loop of the client,
// except slots, whose counts every loop that delivers takes down.
type publisher struct {
	client *client
	index  uint32
	qos    byte
	frames []frame // one for each topic it goes round
	// expect is how many deliveries a slot waits for; 0 in an open loop.
	expect uint64
	slots  []slot
	// burst is how many messages leave together in a closed loop, when there are places for all.
	burst int
	next  uint32 // number of the next message
	limit uint32 // and of the first that it does not send
	// tokens are how many messages the clock has allowed and that are not sent, in an open loop.
	tokens int
	due    int64 // when the last of them was allowed
	// queued says that a loop has it in its list of those who may be able to send.
	queued atomic.Bool
	acked  uint32 // messages whose last acknowledgement has come
}

// slot is a place for a message in flight: its number in the high 32 bits, and below what is yet
// to come before the place is free.
type slot struct {
	state atomic.Uint64
	sent  int64 // when, to time the acknowledgement
}

// frame is a PUBLISH on one topic, but for what differs from message to message.
type frame struct {
	bytes   []byte
	id      int // where the packet identifier stands, 0 at QoS 0
	payload int
}

// headerSize is the part of the payload that is not filling, in bytes.
const headerSize = 20

func newFrame(topic string, qos byte, size int, version packet.Version, run uint32) frame {
	payload := make([]byte, max(size, headerSize))
	for i := range payload {
		payload[i] = 'a' + byte(i%26)
	}
	binary.BigEndian.PutUint32(payload, run)
	p := packet.Publish{Topic: []byte(topic), Payload: payload, QoS: packet.QoS(qos)}
	if qos > 0 {
		p.ID = 1
	}
	b, id := packet.AppendPublish(nil, &p, version)
	return frame{bytes: b, id: id, payload: len(b) - len(payload)}
}

// take makes the next message of p and appends it to b, or says that it cannot leave yet. In an
// open loop at is when it should have left.
func (p *publisher) take(b []byte, at int64) ([]byte, bool) {
	if p.next == p.limit {
		return b, false
	}
	pending := p.expect
	if p.qos > 0 {
		pending++
	}
	at32 := p.next % uint32(len(p.slots))
	s := &p.slots[at32]
	if pending > 0 {
		if s.state.Load()&0xffffffff != 0 {
			return b, false
		}
		s.sent = at
		s.state.Store(uint64(p.next)<<32 | pending)
	}
	f := &p.frames[(p.index+p.next)%uint32(len(p.frames))]
	start := len(b)
	b = append(b, f.bytes...)
	if f.id > 0 {
		binary.BigEndian.PutUint16(b[start+f.id:], uint16(at32+1))
	}
	payload := b[start+f.payload:]
	binary.BigEndian.PutUint32(payload[4:], p.index)
	binary.BigEndian.PutUint32(payload[8:], p.next)
	binary.BigEndian.PutUint64(payload[12:], uint64(at))
	p.next++
	return b, true
}

// clear says whether the places of the next burst are free.
func (p *publisher) clear() bool {
	n := uint32(len(p.slots))
	for i := min(uint32(p.burst), n); i > 0; i-- { // the last is free last, as a rule
		if p.slots[(p.next+i-1)%n].state.Load()&0xffffffff != 0 {
			return false
		}
	}
	return true
}

// arrived takes note that a subscriber has message seq, and reports whether its slot is free now.
func (p *publisher) arrived(seq uint32) bool {
	s := &p.slots[seq%uint32(len(p.slots))]
	v := s.state.Load()
	if uint32(v>>32) != seq || v&0xffffffff == 0 {
		return false // written off
	}
	return s.state.Add(^uint64(0))&0xffffffff == 0
}

// open connects, which goes on in connected.
func (l *loop) open(c *client) error {
	family := unix.AF_INET
	if !l.engine.address.Addr().Is4() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			return errors.New("load: too many open files: run: ulimit -Hn unlimited; ulimit -n 200000 (or, as root: prlimit --nofile=200000 --pid $$)")
		}
		return fmt.Errorf("load: socket: %w", err)
	}
	if err := l.dial(fd, c); err != nil {
		unix.Close(fd)
		return err
	}
	c.fd = fd
	c.began = now()
	l.add(c)
	if err := l.poller.Add(fd, c.key); err != nil {
		return err
	}
	c.state = opening
	connect := packet.Connect{
		Version: l.engine.Version, CleanStart: !c.persistent, ClientID: []byte(c.id),
		ReceiveMaximum: 65535, RequestProblem: true,
		Username: []byte(l.engine.Username), HasUsername: l.engine.Username != "",
		Password: []byte(l.engine.Password), HasPassword: l.engine.Password != "",
	}
	if c.persistent {
		connect.SessionExpiry = 3600
	}
	return l.write(c, packet.AppendConnect(l.scratch[:0], &connect))
}

// portsOfAnAddress is how many connections to one port leave from one source address. The kernel
// has 28,000 ports by itself (net.ipv4.ip_local_port_range), some machines only half of them, and
// a port that was used a moment ago may not be free again.
const portsOfAnAddress = 10_000

func (l *loop) dial(fd int, c *client) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("load: TCP_NODELAY: %w", err)
	}
	to := l.engine.address
	// The ports of an address do not suffice for more: on the loopback interface there are others.
	if n := l.engine.dialled.Add(1) - 1; to.Addr().Is4() && to.Addr().IsLoopback() && len(l.engine.clients) > portsOfAnAddress {
		source := [4]byte{127, 0, 1, byte(1 + n/portsOfAnAddress%250)}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: source}); err != nil {
			return fmt.Errorf("load: bind to %v: %w", netip.AddrFrom4(source), err)
		}
	}
	err := unix.Connect(fd, sockaddr(to))
	switch {
	case err == nil, errors.Is(err, unix.EINPROGRESS):
		return nil
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("load: no source port is left for another connection to %v; run: sysctl -w net.ipv4.ip_local_port_range='1024 65535'", to)
	}
	return fmt.Errorf("load: connect to %v: %w", to, err)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// write writes b, and keeps what the socket does not take. b may be reused after it.
func (l *loop) write(c *client, b []byte) error {
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		return nil
	}
	n, err := poll.Write(c.fd, b)
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	if n == len(b) {
		return nil
	}
	c.out = append(c.out[:0], b[n:]...)
	return l.poller.Modify(c.fd, c.key, true, true)
}

// writable writes what was kept.
func (l *loop) writable(c *client) error {
	if len(c.out) == 0 {
		return nil
	}
	n, err := poll.Write(c.fd, c.out)
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			return nil
		}
		return err
	}
	if n < len(c.out) {
		c.out = c.out[:copy(c.out, c.out[n:])]
		return nil
	}
	c.out = nil
	if c.pub != nil {
		l.queue(c.pub)
	}
	return l.poller.Modify(c.fd, c.key, true, false)
}

// drop closes the socket without a word, as a client does that loses its power.
func (l *loop) drop(c *client) {
	if c.state == closed {
		return
	}
	l.remove(c)
	// A reset instead of an orderly end leaves no port behind in TIME_WAIT.
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(c.fd)
	c.state, c.fd, c.carry, c.out = closed, -1, nil, nil
}

// leave sends DISCONNECT and waits for the broker to close.
func (l *loop) leave(c *client) error {
	if c.state != ready {
		l.drop(c)
		return nil
	}
	l.ready--
	l.leaving++
	c.state = leaving
	return l.write(c, []byte{byte(packet.DISCONNECT) << 4, 0})
}
