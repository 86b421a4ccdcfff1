package broker

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// waits publishes n messages at QoS 1, "0" and on, each answered.
func (w *wire) waits(topic string, n int) {
	w.t.Helper()
	for i := range n {
		w.publish(topic, fmt.Sprint(i), 1, packet.ID(i+1))
		w.expect(packet.PUBACK)
	}
}

// take acknowledges the messages up to the one with that payload and returns all payloads.
func (w *wire) take(last string) (got []string) {
	w.t.Helper()
	for {
		m := w.message()
		w.ack(packet.PUBACK, m.ID)
		if got = append(got, string(m.Payload)); string(m.Payload) == last {
			return got
		}
	}
}

func TestFullQueueKeepsWhatItsPolicySays(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits func(*Limits)
		want   string
	}{
		{"messages, drop_newest", func(l *Limits) { l.MaxQueued = 4 }, "[0 1 2 3 last]"},
		{"messages, drop_oldest", func(l *Limits) { l.MaxQueued, l.DropOldest = 4, true }, "[6 7 8 9 last]"},
		{"bytes, drop_newest", func(l *Limits) { l.MaxQueuedBytes = 4 * 2 }, "[0 1 2 3 last]"}, // "a" and a digit
		{"bytes, drop_oldest", func(l *Limits) { l.MaxQueuedBytes, l.DropOldest = 4*2, true }, "[6 7 8 9 last]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := start(t, func(o *Options) { test.limits(&o.Limits) })
			x.offline(packet.V5, "away", "a", 1)
			p, _ := x.connect(packet.V5, "p")
			p.waits("a", 10)
			x.queues("away", 4, 0)
			x.do(func() {
				if n := x.b.counters.DroppedFull; n != 6 {
					t.Errorf("%d are counted as dropped, want 6", n)
				}
				m := x.b.members["away"]
				if m.overflow == nil || m.overflow.dropped != 6 {
					t.Errorf("the session has %+v", m.overflow)
				}
				if n, bytes := x.b.stored(); n != 4 || bytes != 8 {
					t.Errorf("%d messages of %d bytes are stored, want 4 of 8", n, bytes)
				}
			})
			s, _ := x.connect(packet.V5, "away", lasting)
			var got []string
			for range 4 {
				m := s.message()
				s.ack(packet.PUBACK, m.ID)
				got = append(got, string(m.Payload))
			}
			s.nothing()
			x.do(func() {
				if x.b.members["away"].overflow != nil {
					t.Error("the queue still counts as full")
				}
			})
			p.publish("a", "last", 1, 1)
			if got = append(got, s.take("last")...); fmt.Sprint(got) != test.want {
				t.Errorf("got %v, want %s", got, test.want)
			}
		})
	}
}

func TestWhatWasSentIsNeverDroppedToMakeRoom(t *testing.T) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			x := start(t, func(o *Options) { o.Limits.MaxQueued, o.Limits.DropOldest = 4, true })
			s, _ := x.connect(packet.V5, "s", lasting, func(c *packet.Connect) { c.ReceiveMaximum = 3 })
			s.subscribe("a", qos)
			p, _ := x.connect(packet.V5, "p")
			send := func(n int) {
				for i := range n {
					p.publish("a", fmt.Sprint(i), 2, packet.ID(i+1))
					p.expect(packet.PUBREC)
					p.ack(packet.PUBREL, packet.ID(i+1))
					p.expect(packet.PUBCOMP)
				}
			}
			send(8) // 0, 1 and 2 are in flight, one of the others waits
			x.queues("s", 4, 3)
			x.away(s, "s")
			for i := 8; i < 10; i++ {
				p.publish("a", fmt.Sprint(i), 1, packet.ID(i+1))
				p.expect(packet.PUBACK)
			}
			s, _ = x.connect(packet.V5, "s", lasting)
			for _, want := range []string{"0 true", "1 true", "2 true", "9 false"} {
				if m := s.message(); fmt.Sprint(string(m.Payload), " ", m.Dup) != want {
					t.Fatalf("got %s with DUP %v, want %s", m.Payload, m.Dup, want)
				}
			}
			s.nothing()
		})
	}
}

func TestNewMessageIsDroppedIfEverythingElseWasSent(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxQueued, o.Limits.DropOldest = 2, true })
	s, _ := x.connect(packet.V5, "s", lasting)
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.waits("a", 3)
	for _, want := range []string{"0", "1"} {
		if m := s.message(); string(m.Payload) != want {
			t.Fatalf("got %s, want %s", m.Payload, want)
		}
	}
	s.nothing()
	x.queues("s", 2, 2)
}

// An entry may be dropped after it was read and before it is sent.
func TestDroppedMessageOfAReadUnderWayIsNotSent(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxQueued, o.Limits.DropOldest = 3, true })
	x.offline(packet.V5, "s", "a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.waits("a", 3)
	var read durable.Batch
	x.do(func() {
		m := x.b.members["s"]
		x.store.mu.Lock()
		read = x.store.batch(&fakeRead{session: m.state.Number(), max: 10})
		x.store.mu.Unlock()
	})
	p.publish("a", "new", 1, 9)
	p.expect(packet.PUBACK)
	x.do(func() {
		m := x.b.members["s"]
		if first := read.Entries[0].Seq; !m.state.Begun(first) || m.state.Begun(read.Entries[1].Seq) {
			t.Error("the session does not know which of those that were read was dropped")
		}
	})
}

func TestQueueInMemoryMakesRoom(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxQueuedTransient, o.Limits.DropOldest = 3, true })
	s, _ := x.connect(packet.V5, "s", func(c *packet.Connect) { c.ReceiveMaximum = 1 })
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.waits("a", 8)
	if got := fmt.Sprint(s.take("7")); got != "[0 6 7]" {
		t.Errorf("got %s, want 0, which was sent, and the newest", got)
	}
	x.queues("s", 0, 0)
}

func TestMessagesOfQoS0AreNotQueued(t *testing.T) { // a choice that MQTT3 §3.1.2.4 leaves
	x := start(t)
	x.offline(packet.V311, "away", "a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "0", 0, 0)
	p.publish("a", "1", 1, 1)
	p.expect(packet.PUBACK)
	x.queues("away", 1, 0)
}

// lines is where a log goes.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func TestFullQueueIsLoggedOnceAndWithItsEnd(t *testing.T) {
	log := new(lines)
	x := start(t, func(o *Options) {
		o.Limits.MaxQueued = 2
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	x.offline(packet.V5, "away", "a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.waits("a", 50)
	s, _ := x.connect(packet.V5, "away", lasting)
	s.take("1")
	s.nothing()
	if n := log.count("queue is full, messages are dropped"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if log.count("queue has room again") != 1 || log.count("client_id=away dropped=48") != 1 {
		t.Errorf("its end is not told:\n%s", log.buf.String())
	}
}

func TestObserverIsToldOfTheOldest(t *testing.T) {
	x, seen := watched(t, func(o *Options) { o.Limits.MaxQueuedBytes, o.Limits.DropOldest = 10, true })
	x.offline(packet.V5, "away", "a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.waits("a", 5)
	x.do(func() { seen.lines = nil })
	p.publish("a", "1234567", 1, 9) // takes the place of four
	x.told(seen,
		`published "p" a=1234567 1 false`,
		`dropped "away" : queue_full`,
		`4 of them`)
	x.queues("away", 2, 0)
}

func TestWhatWaitsForAnUplinkIsBoundedInBytes(t *testing.T) {
	o := &spool{filters: []string{"a"}, held: true}
	x := start(t, withOutbox(o), func(p *Options) { p.Limits.MaxQueuedBytes = 10 })
	p, _ := x.connect(packet.V5, "p")
	for i, want := range []packet.ReasonCode{packet.Success, packet.QuotaExceeded, packet.Success} {
		p.publish("a", "123456", 2, packet.ID(i+1))
		if a := p.acked(packet.PUBREC); a.Code != want {
			t.Errorf("message %d: got %v, want %v", i, a.Code, want)
		}
		if i == 1 {
			o.release()
			x.until("the uplink has it", func() bool { return x.store.open() == 0 })
		}
	}
}

func TestRetainedMessagesComeBehindAQueueThatHasExpired(t *testing.T) {
	clock := &stepClock{}
	x := start(t, func(o *Options) {
		o.Clock = clock
		o.Limits.MaxInFlight = 4
	})
	x.offline(packet.V5, "s", "a", 1)
	p, _ := x.connect(packet.V5, "p")
	send := func(publish packet.Publish, id packet.ID) {
		publish.QoS = 1
		b, at := packet.AppendPublish(nil, &publish, packet.V5)
		b[at+1] = byte(id)
		p.write(b)
	}
	send(packet.Publish{Topic: []byte("r"), Payload: []byte("retained"), Retain: true}, 1)
	p.expect(packet.PUBACK)
	for i := range packet.ID(8) {
		if i == 7 {
			x.store.hold() // the queue is read after the subscription
		}
		send(packet.Publish{Topic: []byte("a"), HasExpiry: true, Expiry: 10}, i+2)
		if i < 7 {
			p.expect(packet.PUBACK)
		}
	}
	p.nothing()
	clock.step(time.Minute)
	w, _ := x.connect(packet.V5, "s", lasting)
	w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "r", Options: packet.SubscribeOptions{QoS: 1}}}, packet.V5))
	x.until("the subscription waits", func() bool { return len(x.b.members["s"].subs) == 2 })
	x.store.release(nil)
	w.expect(packet.SUBACK)
	if m := w.message(); string(m.Payload) != "retained" {
		t.Errorf("got %q", m.Payload)
	}
}
