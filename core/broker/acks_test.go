package broker

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// acks writes acknowledgements whose identifiers count up, at once.
func (w *wire) acks(t packet.Type, first packet.ID, n int) {
	w.t.Helper()
	w.write(packet.AppendAckRun(nil, t, first, n))
}

func TestAcknowledgementsOfOneReadAreTakenOneByOne(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change []func(*packet.Connect)
	}{{"session ends with its connection", nil}, {"session lasts", []func(*packet.Connect){lasting}}} {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t)
			s, _ := x.connect(packet.V5, "s", tt.change...)
			s.subscribe("a", 2)
			p, _ := x.connect(packet.V5, "p")
			for i, qos := range []packet.QoS{1, 1, 2, 2, 2, 1} {
				p.publish("a", "x", qos, packet.ID(i+1))
				if m := s.message(); m.ID != packet.ID(i+1) || m.QoS != qos {
					t.Fatalf("got %d at QoS %d", m.ID, m.QoS)
				}
			}
			s.acks(packet.PUBREC, 3, 3)
			for id := range packet.ID(3) {
				if a := s.acked(packet.PUBREL); a.ID != id+3 || a.Code != packet.Success {
					t.Errorf("got PUBREL %d %v", a.ID, a.Code)
				}
			}
			s.acks(packet.PUBREC, 4, 4) // two for the second time; then QoS 1, and one that never was
			for id, code := range []packet.ReasonCode{packet.Success, packet.Success, packet.PacketIDNotFound, packet.PacketIDNotFound} {
				if a := s.acked(packet.PUBREL); a.ID != packet.ID(id+4) || a.Code != code {
					t.Errorf("got PUBREL %d %v, want %v", a.ID, a.Code, code)
				}
			}
			s.acks(packet.PUBACK, 1, 6)
			s.nothing()
			x.queues("s", inQueue(3, tt.change), 3)
			s.acks(packet.PUBCOMP, 1, 6)
			s.nothing()
			x.queues("s", 0, 0)
		})
	}
}

// inQueue is n for a session that ends with its connection. The queue of another does not have what
// the client has acknowledged with PUBREC.
func inQueue(n int, lasts []func(*packet.Connect)) int {
	if lasts != nil {
		return 0
	}
	return n
}

// taker is a client of an exchange, and the other end of its socket.
type taker struct {
	*client
	peer int
}

// exchange is a broker with a publisher and subscribers; turn takes messages through it, with all
// acknowledgements.
func exchange(t testing.TB, qos packet.QoS) (b *Broker, turn func()) {
	t.Helper()
	x := &bench{t: t}
	b = unstarted(t)
	poller, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { poller.Close() })
	pub, pubPeer := x.adopt(t, b, "pub")
	all := []taker{{pub, pubPeer}}
	for i := range 5 {
		c, fd := x.adopt(t, b, fmt.Sprint("s", i))
		s := packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "plant/+/temp", Options: packet.SubscribeOptions{QoS: qos}}}, packet.V311)
		h, n, _ := packet.ParseHeader(s)
		if err := (handler{b}).Packet(c.conn, h, s[n:]); err != nil {
			t.Fatal(err)
		}
		all = append(all, taker{c, fd})
	}
	const n = 15 // the identifiers go around evenly
	first := packet.ID(1)
	var frames [n][]byte
	for i := range frames {
		p := packet.Publish{Topic: []byte("plant/7/temp"), Payload: make([]byte, 128), QoS: qos, ID: packet.ID(i + 1)}
		var at int
		frames[i], at = packet.AppendPublish(nil, &p, packet.V311)
		frames[i][at+1] = byte(p.ID)
	}
	sink := make([]byte, 64<<10)
	flush := func() {
		handler{b}.TurnEnds()
		b.loop.Arena.Flush(poller)
		for _, s := range all {
			for err := error(nil); err == nil; {
				_, err = unix.Read(s.peer, sink)
			}
		}
	}
	answer := func(k taker, typ packet.Type, id packet.ID) {
		if err := (handler{b}).Acks(k.conn, typ, id, n); err != nil {
			t.Fatal(err)
		}
	}
	turn = func() {
		for i := range frames {
			h, at, _ := packet.ParseHeader(frames[i])
			if err := (handler{b}).Packet(pub.conn, h, frames[i][at:]); err != nil {
				t.Fatal(err)
			}
		}
		flush()
		for _, s := range all[1:] {
			if qos == 1 {
				answer(s, packet.PUBACK, first)
				continue
			}
			answer(s, packet.PUBREC, first)
			answer(s, packet.PUBCOMP, first)
		}
		if qos == 2 {
			answer(all[0], packet.PUBREL, 1)
		}
		flush()
		if first += n; first == 0 {
			first = 1
		}
	}
	turn() // what is made once
	return b, turn
}

func TestFlowsAllocateNothing(t *testing.T) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			b, turn := exchange(t, qos)
			sent := b.counters.Sent
			if got := testing.AllocsPerRun(100, turn); got != 0 {
				t.Errorf("%v allocations for 15 messages to 5 subscribers, want 0", got)
			}
			if got := b.counters.Sent - sent; got != 101*75 {
				t.Errorf("%d messages were sent, want %d", got, 101*75)
			}
			for id, m := range b.members {
				if m.state.InFlight() != 0 {
					t.Errorf("%s has %d messages in flight", id, m.state.InFlight())
				}
			}
		})
	}
}

func BenchmarkFlow(b *testing.B) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		b.Run(fmt.Sprintf("QoS_%d/5_subscribers", qos), func(b *testing.B) {
			_, turn := exchange(b, qos)
			b.ReportAllocs()
			for b.Loop() {
				turn()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*75), "ns/delivery")
		})
	}
}

// TestBrokerAllocatesNothingForAMessage runs a whole broker over sockets, and counts what the process
// allocates. The clients allocate nothing themselves.
func TestBrokerAllocatesNothingForAMessage(t *testing.T) {
	for qos := packet.QoS(0); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			const (
				rounds  = 200
				window  = 50   // far less than may be in flight: what has to wait is copied
				bound   = 0.05 // for a message; what the runtime does beside is among it
				warmup  = 20
				clients = 8
			)
			x := start(t)
			f := flood{qos: qos, n: window}
			p, _ := x.connect(packet.V311, "pub")
			f.pub = p
			for i := range clients {
				w, _ := x.connect(packet.V311, fmt.Sprint("s", i))
				w.subscribe("a/+", qos)
				f.subs = append(f.subs, w)
			}
			for i := range window {
				m, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a/b"), Payload: make([]byte, 128), QoS: qos, ID: 1}, packet.V311)
				if at > 0 {
					m[at+1] = byte(i + 1)
				}
				f.size, f.id = len(m), at
				f.out = append(f.out, m...)
			}
			for _, w := range append(f.subs, p) {
				w.net.SetDeadline(time.Now().Add(guard))
			}
			for range warmup {
				f.round()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rounds {
				f.round()
			}
			runtime.ReadMemStats(&after)
			each := float64(after.Mallocs-before.Mallocs) / (rounds * window)
			if each > bound {
				t.Errorf("%.3f allocations for a message to %d subscribers, want 0", each, clients)
			}
			s, err := x.b.Snapshot(context.Background())
			if want := uint64((rounds + warmup) * window * clients); err != nil || s.Sent != want {
				t.Errorf("%d messages were sent (%v), want %d", s.Sent, err, want)
			}
		})
	}
}

// flood publishes n messages at a time to subscribers, who acknowledge them at once.
type flood struct {
	pub  *wire
	subs []*wire
	qos  packet.QoS
	n    int
	size int    // of one PUBLISH
	id   int    // where its identifier stands
	out  []byte // n of them
	in   [16 << 10]byte
	ack  [1 << 10]byte
}

func (f *flood) round() {
	f.pub.write(f.out)
	for _, w := range f.subs {
		got := f.take(w, f.n*f.size)
		if f.qos == 0 {
			continue
		}
		first := packet.ID(got[f.id])<<8 | packet.ID(got[f.id+1])
		if f.qos == 1 {
			f.answer(w, packet.PUBACK, first)
			continue
		}
		f.answer(w, packet.PUBREC, first)
		f.take(w, 4*f.n)
		f.answer(w, packet.PUBCOMP, first)
	}
	switch f.qos {
	case 1:
		f.take(f.pub, 4*f.n)
	case 2:
		f.take(f.pub, 4*f.n)
		f.answer(f.pub, packet.PUBREL, 1)
		f.take(f.pub, 4*f.n)
	}
}

func (f *flood) take(w *wire, n int) []byte {
	if _, err := io.ReadFull(w.net, f.in[:n]); err != nil {
		w.t.Fatalf("read %d bytes: %v", n, err)
	}
	return f.in[:n]
}

func (f *flood) answer(w *wire, t packet.Type, first packet.ID) {
	w.write(packet.AppendAckRun(f.ack[:0], t, first, f.n))
}
