package broker

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
)

// unsent is how much output waits for a client, at most since the last call.
func (x *bench) unsent(id string) (n int) {
	x.t.Helper()
	x.do(func() {
		if m := x.b.members[id]; m != nil && m.client != nil {
			n = m.client.conn.Unsent()
		}
	})
	return n
}

func TestSubscriberThatDoesNotReadCostsBoundedMemory(t *testing.T) {
	const payload, n, limit = 60_000, 400, 1 << 20 // 24 MB
	for _, durably := range []bool{false, true} {
		for qos := packet.QoS(0); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("lasting %v, QoS %d", durably, qos), func(t *testing.T) {
				x := start(t, func(o *Options) { o.Limits.MaxOutput, o.Limits.MaxTransientBytes = limit, 2*n*payload })
				s, _ := x.connect(packet.V5, "s", func(c *packet.Connect) {
					if durably {
						lasting(c)
					}
				})
				s.subscribe("a", qos)
				p, _ := x.connect(packet.V5, "p")
				filler := bytes.Repeat([]byte("x"), payload)
				for i := range n {
					p.publish("a", fmt.Sprintf("%d %s", i, filler), max(qos, 1), packet.ID(i+1))
					p.read() // PUBACK or PUBREC
					if qos == 2 {
						p.ack(packet.PUBREL, packet.ID(i+1))
						p.read()
					}
					if u := x.unsent("s"); u > limit+readBytes+2*payload {
						t.Fatalf("%d bytes wait for the client after %d messages", u, i+1)
					}
				}
				if qos == 0 {
					x.do(func() {
						if x.b.counters.DroppedOutput == 0 {
							t.Error("nothing was dropped: the test tests nothing")
						}
					})
					return
				}
				for want := 0; want < n; {
					h, body := s.read()
					if h.Type == packet.PUBREL {
						s.ack(packet.PUBCOMP, packet.ID(body[0])<<8|packet.ID(body[1]))
						continue
					}
					m, err := packet.ParsePublish(body, h.Flags, packet.V5)
					if err != nil || !strings.HasPrefix(string(m.Payload), fmt.Sprint(want, " ")) {
						t.Fatalf("got %v %.10q, %v; want %d", h.Type, m.Payload, err, want)
					}
					want++
					if qos == 1 {
						s.ack(packet.PUBACK, m.ID)
					} else {
						s.ack(packet.PUBREC, m.ID)
					}
				}
			})
		}
	}
}

func TestReadingRestsWhileAnswersAreNotTaken(t *testing.T) {
	const limit, n = 64 << 10, 3_000_000
	x := start(t, func(o *Options) { o.Limits.MaxOutput = limit })
	w, _ := x.connect(packet.V311, "w")
	written := make(chan error, 1)
	go func() { // ends when everything is written or the connection is closed; waited for below
		_, err := w.net.Write(bytes.Repeat(packet.AppendPingreq(nil), n))
		written <- err
	}()
	x.until("the rest", func() bool { m := x.b.members["w"]; return m.client.choked && m.client.conn.Blocked() })
	for range 50 {
		if u := x.unsent("w"); u > 4*limit+64<<10 {
			t.Fatalf("%d bytes of answers wait", u)
		}
	}
	other, _ := x.connect(packet.V311, "other")
	other.nothing()
	answers := make([]byte, 2*n)
	w.net.SetReadDeadline(time.Now().Add(guard))
	if _, err := io.ReadFull(w.net, answers); err != nil || !bytes.Equal(answers, bytes.Repeat(packet.AppendPingresp(nil), n)) {
		t.Fatalf("the answers are not %d PINGRESP, %v", n, err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	w.nothing()
}

// QoS 0 is dropped where there is no room, and what has room takes it at once. QoS 1 waits for room, and must
// not wait for ever.
func TestMessagesThatWaitGetTheirShareOfAnOutputThatIsNeverEmpty(t *testing.T) {
	for _, durably := range []bool{false, true} {
		t.Run(fmt.Sprint("lasting ", durably), func(t *testing.T) {
			x := startOn(t, "unix", fmt.Sprintf("@dunlin-share-%d-%v", os.Getpid(), durably))
			s, _ := x.connect(packet.V311, "s", func(c *packet.Connect) {
				if durably {
					lasting(c)
				}
			})
			s.subscribe("#", 1)
			p, _ := x.connect(packet.V311, "p")
			filler := strings.Repeat("x", 30_000)
			fill := func() { // until there is no room
				var before, now uint64
				x.do(func() { before = x.b.counters.DroppedOutput })
				for now = before; now == before; {
					p.publish("a", filler, 0, 0)
					p.nothing()
					x.do(func() { now = x.b.counters.DroppedOutput })
				}
			}
			fill()
			p.publish("b", "must arrive", 1, 1)
			p.expect(packet.PUBACK)
			for n := range 300 {
				if m := s.message(); string(m.Topic) == "b" {
					return
				}
				if n%4 == 0 {
					fill()
				}
			}
			t.Error("300 messages at QoS 0 came before it")
		})
	}
}

func TestFanOutWithIdentifiersKeepsTheArenaSmall(t *testing.T) { // each has an encoding of its own
	x := start(t)
	const n = 200
	payload := strings.Repeat("x", 100_000)
	var subs []*wire
	for i := range n {
		s, _ := x.connect(packet.V5, fmt.Sprint("s", i))
		s.write(packet.AppendSubscribe(nil, 1, uint32(i+1), []packet.Subscription{{Filter: "a"}}, packet.V5))
		s.expect(packet.SUBACK)
		subs = append(subs, s)
	}
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", payload, 0, 0)
	for i, s := range subs {
		m := s.message()
		ids := 0
		for id := range m.ReceivedSubscriptionIDs() {
			if ids++; int(id) != i+1 {
				t.Errorf("subscriber %d got identifier %d", i, id)
			}
		}
		if len(m.Payload) != len(payload) || ids != 1 {
			t.Errorf("subscriber %d got %d bytes and %d identifiers", i, len(m.Payload), ids)
		}
	}
	x.do(func() {
		if c := x.b.loop.Arena.Size(); c > 1<<20 {
			t.Errorf("the arena has %d bytes", c)
		}
	})
}

func TestVariantsAreMadeAnewAfterAFlush(t *testing.T) {
	x := start(t)
	var subs []*wire
	for i := range 40 { // of all kinds, each kind several times
		v := versions[i/3%len(versions)]
		s, _ := x.connect(v, fmt.Sprint("s", i))
		id := uint32(0)
		if v == packet.V5 && i%4 == 1 {
			id = uint32(i + 1)
		}
		s.write(packet.AppendSubscribe(nil, 1, id, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{QoS: packet.QoS(i % 3)}}}, v))
		s.expect(packet.SUBACK)
		subs = append(subs, s)
	}
	p, _ := x.connect(packet.V5, "p")
	for round := range 5 {
		payload := fmt.Sprintf("%d%s", round, strings.Repeat("x", 30_000))
		p.publish("a", payload, 2, packet.ID(round+1))
		p.expect(packet.PUBREC)
		for i, s := range subs {
			if m := s.message(); string(m.Payload) != payload || m.QoS != packet.QoS(i%3) {
				t.Fatalf("round %d: subscriber %d got %d bytes at QoS %d", round, i, len(m.Payload), m.QoS)
			}
		}
	}
}

func TestMemoryThatIsGarbageIsToldOf(t *testing.T) {
	told := 0 // on the loop
	x := start(t, func(o *Options) {
		o.Freed = func() { told++ }
		o.Limits.MaxOutput = 64 << 10
	})
	p, _ := x.connect(packet.V5, "p")
	s, _ := x.connect(packet.V5, "s")
	s.subscribe("a", 1)
	few, _ := x.connect(packet.V5, "few")
	x.away(few, "few")
	x.do(func() {
		if told != 0 {
			t.Error("told of one small connection")
		}
	})
	payload := strings.Repeat("x", 100_000)
	for i := 1; ; i++ {
		p.publish("a", payload, 1, packet.ID(i))
		p.expect(packet.PUBACK)
		slow := false
		x.do(func() { slow = x.b.members["s"].client.slow })
		if slow {
			break
		}
	}
	x.away(s, "s")
	x.do(func() {
		if told != 1 {
			t.Errorf("told %d times of a connection with much output", told)
		}
	})
	for i := range muchFreed / freedConnection {
		w, _ := x.connect(packet.V5, fmt.Sprint("w", i))
		w.net.Close()
	}
	x.until("they are gone", func() bool { return x.b.counters.Connections == 1 })
	x.do(func() {
		if told != 2 {
			t.Errorf("told %d times, want once more, of a thousand connections", told)
		}
	})
	for i := range muchFreed / freedRoute {
		p.publish(fmt.Sprint("t", i), "", 0, 0)
	}
	p.publish("last", "", 1, 9)
	p.expect(packet.PUBACK)
	x.do(func() {
		if told != 3 {
			t.Errorf("told %d times, want once more, of thousands of topics", told)
		}
	})
}
