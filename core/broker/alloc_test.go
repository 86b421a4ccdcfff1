package broker

import (
	"context"
	"runtime"
	"testing"
	"time"

	"dunlin/core/conn"
	"dunlin/core/durable"
	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// pair adopts one end of a socket pair as a connected client of the broker and returns the other.
func (x *bench) adopt(t testing.TB, b *Broker, id string) (c *client, peer int) {
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
	b, turn := fanOut(t, nil)
	sent := b.counters.Sent
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Errorf("%v allocations for 10 messages to 3 subscribers, want 0", got)
	}
	if b.counters.Sent == sent {
		t.Error("nothing was sent")
	}
}

func TestQoS0ToAGroupAllocatesNothing(t *testing.T) {
	b, turn := fanOut(t, nil)
	for id, m := range b.members {
		if id != "pub" {
			b.subscribe(m, durable.Subscription{Filter: "$share/g/plant/+/temp"})
		}
	}
	turn()
	sent := b.counters.Sent
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Errorf("%v allocations for 10 messages to 3 subscribers and a group of them, want 0", got)
	}
	if got := b.counters.Sent - sent; got != 101*40 {
		t.Errorf("%d messages were sent, want %d", got, 101*40)
	}
}

// unstarted is a broker whose loop does not run: the test drives it.
func unstarted(t testing.TB) *Broker {
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
