package broker

import (
	"context"
	"runtime"
	"testing"
	"time"

	"dunlin/core/conn"
	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// pair adopts one end of a socket pair as a connected client of the broker and returns the other.
func (x *bench) adopt(t *testing.T, b *Broker, id string) (c *client, peer int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := conn.New(fds[0], poll.Key{Slot: 1000})
	handler{b}.Accepted(k, &Listener{Name: "test", AllowAnonymous: true})
	c = k.Owner.(*client)
	connect := packet.AppendConnect(nil, &packet.Connect{Version: packet.V311, ClientID: []byte(id), CleanStart: true, RequestProblem: true, ReceiveMaximum: 65535})
	h, n, err := packet.ParseHeader(connect)
	if err != nil {
		t.Fatal(err)
	}
	if err := (handler{b}).Packet(k, h, connect[n:]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return c, fds[1]
}

func TestQoS0AllocatesNothingBetweenDecodeAndWrite(t *testing.T) {
	x := &bench{t: t}
	b := unstarted(t)
	poller, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	defer poller.Close()
	pub, _ := x.adopt(t, b, "pub")
	var peers []int
	for _, id := range []string{"s1", "s2", "s3"} {
		c, fd := x.adopt(t, b, id)
		s := packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "plant/+/temp"}}, packet.V311)
		h, n, _ := packet.ParseHeader(s)
		if err := (handler{b}).Packet(c.conn, h, s[n:]); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, fd)
	}
	frame, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("plant/7/temp"), Payload: make([]byte, 128)}, packet.V311)
	h, n, err := packet.ParseHeader(frame)
	if err != nil {
		t.Fatal(err)
	}
	sink := make([]byte, 64<<10)
	sent := b.counters.Sent
	turn := func() {
		for range 10 {
			if err := (handler{b}).Packet(pub.conn, h, frame[n:]); err != nil {
				t.Fatal(err)
			}
		}
		handler{b}.TurnEnds()
		b.loop.Arena.Flush(poller)
		for _, fd := range peers {
			for {
				if _, err := unix.Read(fd, sink); err != nil {
					break
				}
			}
		}
	}
	turn() // what is made once: cache entry, arena
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Errorf("%v allocations for 10 messages to 3 subscribers, want 0", got)
	}
	if b.counters.Sent == sent {
		t.Error("nothing was sent")
	}
}

// unstarted is a broker whose loop does not run: the test drives it.
func unstarted(t *testing.T) *Broker {
	t.Helper()
	x := start(t)
	o := Options{Store: newFakeStore(), Auth: open{}, Policy: x.b.policy, Clock: x.b.clock, Log: x.b.log}
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestIdleConnectionsHaveNoGoroutine(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V311, "first")
	w.nothing()
	before := runtime.NumGoroutine()
	const n = 1000
	conns := make([]*wire, n)
	for i := range conns {
		conns[i], _ = x.connect(packet.V311, "")
		conns[i].subscribe("x", 0)
	}
	after := runtime.NumGoroutine()
	if after > before {
		t.Errorf("%d goroutines with %d idle connections, %d with one", after, n, before)
	}
	s, err := x.b.Snapshot(context.Background())
	if err != nil || s.Connections != n+1 {
		t.Errorf("snapshot: %+v, %v", s, err)
	}
}

func TestIdleConnectionsOwnNoBuffer(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V311, "one")
	w.subscribe("a", 1)
	w.publish("a", "x", 1, 1)
	for range 2 {
		if h, _ := w.read(); h.Type == packet.PUBLISH {
			w.ack(packet.PUBACK, 1)
		}
	}
	w.nothing()
	done := make(chan bool)
	x.b.loop.Post(func() { done <- x.b.members["one"].client.conn.Idle() })
	select {
	case idle := <-done:
		if !idle {
			t.Error("an idle connection holds a buffer")
		}
	case <-time.After(guard):
		t.Fatal("the loop does not turn")
	}
}
