package conn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// collector keeps what the handler is given.
type collector struct {
	max   int
	got   []string
	pause int // stop after so many packets, once
}

func (h *collector) MaxPacket(*Conn) int { return h.max }

func (h *collector) Packet(_ *Conn, k packet.Header, body []byte) error {
	h.got = append(h.got, fmt.Sprintf("%v %x", k.Type, body))
	if h.pause == len(h.got) {
		return ErrPaused
	}
	return nil
}

func (h *collector) Acks(c *Conn, t packet.Type, first packet.ID, n int) error {
	var pause error
	for i := range n {
		if err := h.Packet(c, packet.Header{Type: t}, packet.AppendAckRun(nil, t, first+packet.ID(i), 1)[2:]); err != nil {
			pause = err
		}
	}
	return pause
}

// pair returns a connection and the descriptor of its peer.
func pair(t *testing.T) (c *Conn, peer int, p *poll.Poller) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err = poll.New()
	if err != nil {
		t.Fatal(err)
	}
	k := poll.Key{Slot: poll.FirstSlot, Generation: 7}
	if err := p.Add(fds[0], k); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); unix.Close(fds[0]); unix.Close(fds[1]) })
	return New(fds[0], k), fds[1], p
}

// insideARun are the packets of stream behind which others follow that are acknowledgements of the
// same run.
var insideARun = []int{6, 7, 9, 10, 11, 13}

func stream() (b []byte, packets int) {
	b = packet.AppendPingreq(b)
	b, _ = packet.AppendPublish(b, &packet.Publish{Topic: []byte("a"), Payload: bytes.Repeat([]byte("x"), 300)}, packet.V5)
	b = packet.AppendPingreq(b)
	b, _ = packet.AppendPublish(b, &packet.Publish{Topic: []byte("b"), Payload: bytes.Repeat([]byte("y"), 9000)}, packet.V5)
	b = packet.AppendPingreq(b)
	b = packet.AppendAckRun(b, packet.PUBACK, 65533, 3)
	b = packet.AppendAckRun(b, packet.PUBACK, 1, 4)
	b = packet.AppendAckRun(b, packet.PUBREC, 5, 2)
	return b, 5 + 3 + 4 + 2
}

func TestPacketsSurviveAnySplit(t *testing.T) {
	all, n := stream()
	var want []string
	{
		h := &collector{max: 1 << 20}
		c, peer, _ := pair(t)
		var a Arena
		unix.Write(peer, all)
		if err := c.Receive(make([]byte, ReadBufferSize), &a, h); err != nil {
			t.Fatal(err)
		}
		want = h.got
	}
	if len(want) != n {
		t.Fatalf("%d packets, want %d", len(want), n)
	}
	buf := make([]byte, ReadBufferSize)
	for _, size := range []int{1, 2, 3, 7, 100, 303, 4000, 5000, 9005} {
		t.Run(fmt.Sprint("pieces of ", size), func(t *testing.T) {
			h := &collector{max: 1 << 20}
			c, peer, _ := pair(t)
			var a Arena
			for rest := all; len(rest) > 0; {
				k := min(size, len(rest))
				unix.Write(peer, rest[:k])
				rest = rest[k:]
				if err := c.Receive(buf, &a, h); err != nil {
					t.Fatal(err)
				}
			}
			if fmt.Sprint(h.got) != fmt.Sprint(want) {
				t.Errorf("got %d packets, want %d", len(h.got), len(want))
			}
			if !c.Idle() {
				t.Error("a connection without a partial packet owns a buffer")
			}
		})
	}
}

func TestTooLargeIsRefusedBeforeItIsBuffered(t *testing.T) {
	c, peer, _ := pair(t)
	var a Arena
	unix.Write(peer, []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0}) // claims 256 MiB
	err := c.Receive(make([]byte, ReadBufferSize), &a, &collector{max: 1000})
	fault, ok := errors.AsType[*packet.Error](err)
	if !ok || fault.Code != packet.PacketTooLarge {
		t.Fatalf("got %v, want packet too large", err)
	}
	if !c.Idle() {
		t.Error("a buffer was taken for it")
	}
}

func TestPauseKeepsTheRest(t *testing.T) {
	all, n := stream()
	for pause := 1; pause < n; pause++ {
		if slices.Contains(insideARun, pause) {
			continue // they are taken together
		}
		h := &collector{max: 1 << 20, pause: pause}
		c, peer, _ := pair(t)
		var a Arena
		unix.Write(peer, all)
		if err := c.Receive(make([]byte, ReadBufferSize), &a, h); !errors.Is(err, ErrPaused) {
			t.Fatalf("got %v, want ErrPaused", err)
		}
		if len(h.got) != pause {
			t.Fatalf("%d packets before the pause, want %d", len(h.got), pause)
		}
		if err := c.Resume(&a, h); err != nil || len(h.got) != n {
			t.Fatalf("%d packets after the pause, %v; want %d", len(h.got), err, n)
		}
	}
}

func TestEndOfStream(t *testing.T) {
	c, peer, _ := pair(t)
	var a Arena
	unix.Shutdown(peer, unix.SHUT_WR)
	if err := c.Receive(make([]byte, ReadBufferSize), &a, &collector{max: 100}); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want EOF", err)
	}
}

// output reads what the peer got, flushing the rest as the socket takes it.
func output(t *testing.T, c *Conn, peer int, a *Arena) []byte {
	t.Helper()
	var all []byte
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(peer, buf)
		if err == nil && n > 0 {
			all = append(all, buf[:n]...)
			continue
		}
		if c.Unsent() == 0 {
			return all
		}
		c.Writable(a)
	}
}

func ids(t *testing.T, b []byte) (ids []packet.ID) {
	t.Helper()
	for len(b) > 0 {
		h, n, err := packet.ParseHeader(b)
		if err != nil || n == 0 {
			t.Fatalf("what was written is no packet: %v", err)
		}
		if h.Type == packet.PUBLISH {
			p, err := packet.ParsePublish(b[n:n+h.Remaining], h.Flags, packet.V311)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, p.ID)
		}
		b = b[n+h.Remaining:]
	}
	return ids
}

func TestEachConnectionGetsItsOwnIdentifiers(t *testing.T) {
	tests := []struct {
		name  string
		first []packet.ID // of the first connection
		other []packet.ID
	}{
		{"counting up", []packet.ID{1, 2, 3, 4}, []packet.ID{900, 901, 902, 903}},
		{"with gaps", []packet.ID{1, 2, 5, 6}, []packet.ID{7, 3, 2, 1}},
		{"around the end", []packet.ID{65534, 65535, 1, 2}, []packet.ID{65535, 1, 2, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a Arena
			c1, p1, poller := pair(t)
			c2, p2, _ := pair(t)
			for i := range tt.first {
				s := a.Publish(&packet.Publish{Topic: []byte("t"), Payload: []byte("x"), QoS: 1, ID: 1}, packet.V311)
				c1.Send(&a, s, tt.first[i])
				c2.Send(&a, s, tt.other[i])
			}
			k := a.Ack(&packet.Ack{Type: packet.PUBACK, ID: 77}, packet.V311)
			c1.Send(&a, k, 0)
			a.Flush(poller)
			if got := ids(t, output(t, c1, p1, &a)); fmt.Sprint(got) != fmt.Sprint(tt.first) {
				t.Errorf("first: got %v, want %v", got, tt.first)
			}
			if got := ids(t, output(t, c2, p2, &a)); fmt.Sprint(got) != fmt.Sprint(tt.other) {
				t.Errorf("second: got %v, want %v", got, tt.other)
			}
		})
	}
}

func TestWhatTheSocketDoesNotTakeWaits(t *testing.T) {
	var a Arena
	c, peer, poller := pair(t)
	payload := bytes.Repeat([]byte("z"), 10_000)
	var want []packet.ID
	for round := range 30 {
		for i := range 5 {
			id := packet.ID(round*5 + i + 1)
			s := a.Publish(&packet.Publish{Topic: []byte("t"), Payload: payload, QoS: 1, ID: 1}, packet.V311)
			c.Send(&a, s, id)
			want = append(want, id)
		}
		a.Flush(poller)
	}
	if c.Unsent() == 0 {
		t.Fatal("the socket took everything: the test tests nothing")
	}
	if got := ids(t, output(t, c, peer, &a)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !c.Idle() {
		t.Error("a buffer is kept after everything was written")
	}
}

func TestWhatThePeerSentBeforeItWentIsRead(t *testing.T) {
	all, n := stream()
	c, peer, p := pair(t)
	var a Arena
	unix.Write(peer, all)
	unix.Close(peer)
	c.Send(&a, a.Packet(packet.AppendPingresp), 0)
	a.Flush(p) // fails
	c.Send(&a, a.Packet(packet.AppendPingresp), 0)
	a.Flush(p)
	h := &collector{max: 1 << 20}
	buf := make([]byte, ReadBufferSize)
	if err := c.Receive(buf, &a, h); err != nil || len(h.got) != n {
		t.Fatalf("%d packets, %v; want %d", len(h.got), err, n)
	}
	if err := c.Receive(buf, &a, h); err == nil {
		t.Fatal("the connection does not end")
	}
	if c.Unsent() != 0 {
		t.Errorf("%d bytes wait for a peer that is gone", c.Unsent())
	}
}

// nobody takes packets and forgets them.
type nobody struct{ packets int }

func (h *nobody) MaxPacket(*Conn) int { return 1 << 20 }

func (h *nobody) Packet(*Conn, packet.Header, []byte) error { h.packets++; return nil }

func (h *nobody) Acks(_ *Conn, _ packet.Type, _ packet.ID, n int) error { h.packets += n; return nil }

// BenchmarkTake finds the packets in what one read has brought.
func BenchmarkTake(b *testing.B) {
	publish, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("bench/8"), Payload: make([]byte, 128)}, packet.V311)
	for _, bb := range []struct {
		name string
		data []byte
	}{
		{"100 PUBLISH", bytes.Repeat(publish, 100)},
		{"100 PUBACK in a row", packet.AppendAckRun(nil, packet.PUBACK, 1, 100)},
		{"part of a packet", publish[:100]},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var a Arena
			var h nobody
			c := New(-1, poll.Key{})
			c.Version = packet.V311
			b.SetBytes(int64(len(bb.data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Take(bb.data, &a, &h); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestLastAnswerReachesAPeerThatSendsNothingMore(t *testing.T) {
	c, peer, p := pair(t)
	var a Arena
	var h nobody
	ended := unix.Shutdown(peer, unix.SHUT_WR)
	buf := make([]byte, ReadBufferSize)
	if err := c.Receive(buf, &a, &h); err != io.EOF || ended != nil {
		t.Fatalf("got %v, %v; want the end", err, ended)
	}
	c.Send(&a, a.Packet(packet.AppendPingresp), 0)
	a.Flush(p)
	c.Close(&a, buf)
	if n, err := unix.Read(peer, buf); n != 2 || err != nil {
		t.Errorf("the last answer: %d bytes, %v", n, err)
	}
	if n, err := unix.Read(peer, buf); n != 0 || err != nil {
		t.Errorf("behind it: %d bytes, %v; want the end", n, err)
	}
}
