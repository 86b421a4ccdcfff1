package loop

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"dunlin/core/conn"
	"dunlin/core/packet"

	"golang.org/x/sys/unix"
)

// guard is when a test that hangs is ended.
const guard = 20 * time.Second

// server is a handler whose behaviour is the test's.
type server struct {
	loop     *Loop
	hands    int
	packet   func(c *conn.Conn, h packet.Header) error
	body     func(c *conn.Conn, h packet.Header, body []byte) error // in place of packet
	accepted func(c *conn.Conn) bool
	ended    chan error
	drained  func(c *conn.Conn)
	turns    atomic.Int64 // calls of TurnEnds
}

func (s *server) MaxPacket(*conn.Conn) int { return 1 << 20 }

func (s *server) Packet(c *conn.Conn, h packet.Header, body []byte) error {
	if s.body != nil {
		return s.body(c, h, body)
	}
	if s.packet == nil {
		return nil
	}
	return s.packet(c, h)
}

func (s *server) Acks(c *conn.Conn, t packet.Type, first packet.ID, n int) error {
	for i := range n {
		id := first + packet.ID(i)
		if err := s.Packet(c, packet.Header{Type: t, Remaining: 2}, []byte{byte(id >> 8), byte(id)}); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) Accepted(c *conn.Conn, _ any) bool { return s.accepted == nil || s.accepted(c) }

func (s *server) Ended(c *conn.Conn, err error) {
	s.loop.Close(c)
	s.ended <- err
}

func (s *server) Drained(c *conn.Conn) {
	if s.drained != nil {
		s.drained(c)
	}
}

func (s *server) ClockStepped() {}

func (s *server) TurnEnds() { s.turns.Add(1) }

// serve runs a loop on a loopback address until the test ends.
func serve(t *testing.T, s *server) (addr string) {
	t.Helper()
	s.ended = make(chan error, 100)
	if s.loop == nil {
		var err error
		if s.loop, err = New(s, s.hands); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := s.loop.Listen(ln, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.loop.Run(ctx) }() // ended by cancel, waited for in the cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if s.loop.Post(func() {}) {
			t.Error("Post takes work after the end")
		}
	})
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(guard))
	return c.(*net.TCPConn)
}

// do runs f on the loop and waits for it.
func (s *server) do(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	s.loop.Post(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(guard):
		t.Fatal("the loop does not turn")
	}
}

func TestTimerSetBeforeRunFires(t *testing.T) {
	s := &server{}
	var err error
	if s.loop, err = New(s, s.hands); err != nil {
		t.Fatal(err)
	}
	fired := make(chan struct{})
	s.loop.At(time.Millisecond, &alarm{next: func(time.Duration) time.Duration { close(fired); return 0 }})
	serve(t, s)
	select {
	case <-fired:
	case <-time.After(guard):
		t.Fatal("it does not fire")
	}
}

func TestAnswersArriveBeforeTheConnectionIsClosed(t *testing.T) {
	s := &server{}
	s.packet = func(c *conn.Conn, h packet.Header) error {
		c.Send(&s.loop.Arena, s.loop.Arena.Packet(packet.AppendPingresp), 0)
		if h.Type == packet.DISCONNECT {
			s.loop.Close(c)
		}
		return nil
	}
	c := dial(t, serve(t, s))
	c.Write([]byte{0xC0, 0, 0xC0, 0, 0xE0, 0})
	got, err := io.ReadAll(c)
	if err != nil || len(got) != 6 {
		t.Fatalf("got %x, %v; want three PINGRESP and the end", got, err)
	}
}

func TestRefusedConnectionIsClosed(t *testing.T) {
	s := &server{accepted: func(*conn.Conn) bool { return false }}
	c := dial(t, serve(t, s))
	if _, err := io.ReadAll(c); err != nil {
		t.Fatalf("got %v, want the end", err)
	}
}

func TestPausedConnectionWithoutPeerDoesNotSpin(t *testing.T) {
	s := &server{}
	var kept *conn.Conn
	paused := make(chan struct{})
	s.packet = func(c *conn.Conn, h packet.Header) error {
		kept = c
		close(paused)
		return conn.ErrPaused
	}
	c := dial(t, serve(t, s))
	c.Write([]byte{0xC0, 0})
	<-paused
	c.SetLinger(0)
	c.Close() // resets
	// The hang-up is reported to the loop again and again until it looks away.
	var before, after int64
	for deadline := time.Now().Add(guard); ; {
		before = s.turns.Load()
		for range 20 {
			s.do(t, func() {})
		}
		after = s.turns.Load()
		watched := true
		s.do(t, func() { watched = kept.Watched() })
		if !watched {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection stays in the poller")
		}
	}
	for range 20 {
		s.do(t, func() {})
	}
	if again := s.turns.Load() - after; again > 26 {
		t.Errorf("%d turns for 20 posts (%d while it was noticed)", again, after-before)
	}
	s.do(t, func() { s.loop.Resume(kept) })
	select {
	case err := <-s.ended:
		if err == nil {
			t.Error("it ended without a reason")
		}
	case <-time.After(guard):
		t.Fatal("the end of the peer is not noticed after the pause")
	}
}

func TestBrokenSocketIsAnnouncedOnce(t *testing.T) {
	s := &server{}
	var all []*conn.Conn
	s.accepted = func(c *conn.Conn) bool { all = append(all, c); return true }
	addr := serve(t, s)
	c := dial(t, addr)
	c.Write([]byte{0xC0, 0})
	for n := 0; n == 0; {
		s.do(t, func() { n = len(all) })
	}
	c.SetLinger(0)
	c.Close()
	s.do(t, func() {
		for range 3 {
			all[0].Send(&s.loop.Arena, s.loop.Arena.Packet(packet.AppendPingresp), 0)
			s.loop.Flush()
		}
	})
	select {
	case <-s.ended:
	case <-time.After(guard):
		t.Fatal("nobody is told")
	}
	s.do(t, func() {})
	if len(s.ended) != 0 {
		t.Error("told twice")
	}
}

func TestListenersRestWithoutDescriptors(t *testing.T) {
	s := &server{}
	addr := serve(t, s)
	s.do(t, s.loop.pauseListeners)
	c := dial(t, addr) // waits in the backlog
	before := s.turns.Load()
	for range 20 {
		s.do(t, func() {})
	}
	if turns := s.turns.Load() - before; turns > 25 {
		t.Errorf("%d turns for 20 posts: the loop spins on the waiting connection", turns)
	}
	accepted := make(chan struct{})
	s.do(t, func() { s.accepted = func(*conn.Conn) bool { close(accepted); return true } })
	select {
	case <-accepted: // after a second at most
	case <-time.After(guard):
		t.Fatal("the listeners do not come back")
	}
	c.Close()
	<-s.ended
}

func TestAcceptedSocketsHaveTheirOptions(t *testing.T) {
	s := &server{}
	fd := make(chan int, 1)
	s.accepted = func(c *conn.Conn) bool { fd <- c.Fd(); return true }
	dial(t, serve(t, s))
	n := <-fd
	for _, o := range []struct {
		name          string
		level, option int
	}{{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY}, {"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE}} {
		if on, err := unix.GetsockoptInt(n, o.level, o.option); err != nil || on == 0 {
			t.Errorf("%s is %d, %v", o.name, on, err)
		}
	}
	if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %o, %v: it blocks", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %o, %v: it outlives an exec", flags, err)
	}
}
