package broker

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin/core/access"
	"dunlin/core/message"
	"dunlin/core/packet"
)

func suback(t *testing.T, w *wire, b []byte) []packet.ReasonCode {
	t.Helper()
	w.write(b)
	s, err := packet.ParseSuback(w.expect(packet.SUBACK), w.v)
	if err != nil {
		t.Fatal(err)
	}
	return s.Codes
}

func TestSubscribeAnswersEachFilter(t *testing.T) {
	policy, err := access.New(access.Options{Anonymous: access.Rules{Subscribe: []string{"ok/#"}}})
	if err != nil {
		t.Fatal(err)
	}
	filters := []string{"ok/a", "denied/a", "ok/+/b", "ok/#/bad", "$share/g/ok/a", "ok/b+", "$share/g/denied/a", "$queue/ok/#"}
	want := map[packet.Version][]packet.ReasonCode{
		packet.V5:   {0, packet.NotAuthorized, 2, packet.TopicFilterInvalid, 1, packet.TopicFilterInvalid, packet.NotAuthorized, 1},
		packet.V311: {0, 0x80, 2, 0x80, 1, 0x80, 0x80, 1},
		packet.V31:  {0, 0, 2, 0, 1, 0, 0, 1}, // it has no code for a failure
	}
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t, func(o *Options) { o.Policy = policy })
			w, _ := x.connect(v, "c")
			var subs []packet.Subscription
			for i, f := range filters {
				subs = append(subs, packet.Subscription{Filter: f, Options: packet.SubscribeOptions{QoS: packet.QoS(i % 3)}})
			}
			got := suback(t, w, packet.AppendSubscribe(nil, 5, 0, subs, v))
			if fmt.Sprint(got) != fmt.Sprint(want[v]) {
				t.Errorf("got %v, want %v", got, want[v])
			}
		})
	}
}

func TestSubscriptionIdentifiersOfAllMatchesAreSent(t *testing.T) { // [MQTT-3.3.4-3, MQTT-3.3.4-4]
	x := start(t)
	w, _ := x.connect(packet.V5, "c")
	for id, f := range []string{"a/+", "a/#"} {
		suback(t, w, packet.AppendSubscribe(nil, 1, uint32(id+7), []packet.Subscription{{Filter: f}}, packet.V5))
	}
	w.publish("a/b", "x", 0, 0)
	m := w.message()
	if !strings.Contains(fmt.Sprintf("%x", m.Raw), "0b07") || !strings.Contains(fmt.Sprintf("%x", m.Raw), "0b08") {
		t.Errorf("properties %x lack identifier 7 or 8", m.Raw)
	}
	w.nothing() // one copy
}

func TestNoLocalKeepsOwnMessagesAway(t *testing.T) { // [MQTT-3.8.3-3]
	x := start(t)
	w, _ := x.connect(packet.V5, "c")
	suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{NoLocal: true}}}, packet.V5))
	w.publish("a", "mine", 0, 0)
	w.nothing()
	o, _ := x.connect(packet.V5, "other")
	o.publish("a", "theirs", 0, 0)
	if m := w.message(); string(m.Payload) != "theirs" {
		t.Errorf("got %q", m.Payload)
	}
}

func TestRetainHandling(t *testing.T) { // [MQTT-3.3.1-9] to [MQTT-3.3.1-11]
	x := start(t)
	p, _ := x.connect(packet.V5, "p")
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("r"), Retain: true}, packet.V5)
	p.write(b)
	p.nothing()
	for handling, want := range map[byte][2]bool{0: {true, true}, 1: {true, false}, 2: {false, false}} {
		w, _ := x.connect(packet.V5, fmt.Sprint("c", handling))
		for i, sent := range want {
			suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{RetainHandling: handling}}}, packet.V5))
			if sent {
				if m := w.message(); !m.Retain {
					t.Errorf("handling %d, subscribe %d: RETAIN is not set", handling, i+1)
				}
			}
			w.nothing()
		}
	}
}

func TestEmptyPayloadRemovesRetained(t *testing.T) { // [MQTT-3.3.1-6]
	x := start(t)
	p, _ := x.connect(packet.V5, "p")
	for _, payload := range []string{"r", ""} {
		b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte(payload), Retain: true}, packet.V5)
		p.write(b)
	}
	p.subscribe("a", 0)
	p.nothing()
}

func TestMessageExpires(t *testing.T) { // [MQTT-3.3.2-5, MQTT-3.3.2-6]
	clock := &stepClock{}
	x := start(t, func(o *Options) { o.Clock = clock })
	s, _ := x.connect(packet.V5, "s", lasting)
	s.subscribe("a", 1)
	s.net.Close()
	p, _ := x.connect(packet.V5, "p")
	for i, expiry := range []uint32{10, 100} {
		b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: fmt.Append(nil, expiry), QoS: 1, ID: 1, HasExpiry: true, Expiry: expiry}, packet.V5)
		b[at+1] = byte(i + 1)
		p.write(b)
		p.expect(packet.PUBACK)
	}
	clock.step(30 * time.Second)
	s, _ = x.connect(packet.V5, "s", lasting)
	m := s.message()
	if string(m.Payload) != "100" || m.Expiry < 60 || m.Expiry > 70 {
		t.Errorf("got %q with expiry %d, want 100 with about 70", m.Payload, m.Expiry)
	}
}

func TestReceiveMaximumIsEnforced(t *testing.T) { // [MQTT-3.3.4-7]
	for qos := packet.QoS(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			x := start(t, func(o *Options) { o.Limits.ReceiveMaximum = 5 })
			s, _ := x.connect(packet.V5, "s", lasting)
			s.subscribe("a", 2)
			s.net.Close()
			w, k := x.connect(packet.V5, "c")
			if k.ReceiveMaximum != 5 {
				t.Fatalf("receive maximum is %d", k.ReceiveMaximum)
			}
			x.store.hold()
			for i := range 6 {
				w.publish("a", "x", qos, packet.ID(i+1))
			}
			h, body := w.closed()
			if d, err := packet.ParseDisconnect(body, packet.V5); h.Type != packet.DISCONNECT || err != nil || d.Code != packet.ReceiveMaximumExceeded {
				t.Errorf("got %v %v, %v; want 0x93", h.Type, d.Code, err)
			}
			x.store.release(nil)
		})
	}
}

func TestClientsReceiveMaximumIsObeyed(t *testing.T) { // [MQTT-3.3.4-9]
	x := start(t)
	s, _ := x.connect(packet.V5, "s", func(c *packet.Connect) { c.ReceiveMaximum = 2 })
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 5 {
		p.publish("a", fmt.Sprint(i), 1, packet.ID(i+1))
		p.expect(packet.PUBACK)
	}
	first, second := s.message(), s.message()
	s.nothing() // PINGRESP is not held up by it [MQTT-3.3.4-10]
	s.ack(packet.PUBACK, first.ID)
	if m := s.message(); string(m.Payload) != "2" {
		t.Errorf("got %q", m.Payload)
	}
	s.nothing()
	s.ack(packet.PUBACK, second.ID)
	if m := s.message(); string(m.Payload) != "3" {
		t.Errorf("got %q", m.Payload)
	}
}

func TestClientsMaximumPacketSizeIsObeyed(t *testing.T) { // [MQTT-3.1.2-24, MQTT-3.1.2-25]
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprint("durable ", durable), func(t *testing.T) {
			x := start(t)
			s, _ := x.connect(packet.V5, "s", func(c *packet.Connect) {
				c.MaximumPacketSize = 60
				if durable {
					lasting(c)
				}
			})
			s.subscribe("a", 1)
			p, _ := x.connect(packet.V5, "p")
			p.publish("a", strings.Repeat("x", 100), 1, 1)
			p.expect(packet.PUBACK)
			p.publish("a", "small", 1, 2)
			p.expect(packet.PUBACK)
			if m := s.message(); string(m.Payload) != "small" {
				t.Errorf("got %q", m.Payload)
			}
		})
	}
}

func TestAssignedClientIdentifierCanBeUsedAgain(t *testing.T) { // [MQTT-3.1.3-7]
	x := start(t)
	w, k := x.connect(packet.V5, "", lasting)
	if len(k.AssignedClientID) == 0 {
		t.Fatal("no identifier was assigned")
	}
	w.net.Close()
	if _, again := x.connect(packet.V5, string(k.AssignedClientID), lasting); !again.SessionPresent {
		t.Error("the session is gone")
	}
}

func TestASessionBelongsToItsUser(t *testing.T) {
	x := start(t)
	as := func(user string) func(*packet.Connect) {
		return func(c *packet.Connect) {
			lasting(c)
			c.HasUsername, c.Username = true, []byte(user)
		}
	}
	w, _ := x.connect(packet.V5, "c", as("ann"))
	_, k := x.connect(packet.V5, "c", as("eve"))
	if k.Code != packet.NotAuthorized {
		t.Errorf("somebody else got %v", k.Code)
	}
	w.nothing() // and the owner was not disturbed
}

func TestSessionExpires(t *testing.T) { // [MQTT-4.1.0-2]
	x := start(t)
	w, _ := x.connect(packet.V5, "c", func(c *packet.Connect) { c.CleanStart, c.SessionExpiry = false, 1 })
	w.net.Close()
	for deadline := time.Now().Add(guard); ; {
		s, err := x.b.Snapshot(t.Context())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d sessions, %v", s.Sessions, err)
		}
		if s.Sessions == 0 {
			break
		}
	}
}

func TestSilentClientIsDisconnected(t *testing.T) { // [MQTT-3.1.2-22]
	x := start(t)
	w, _ := x.connect(packet.V5, "c", func(c *packet.Connect) { c.KeepAlive = 1 })
	h, body := w.closed()
	if d, err := packet.ParseDisconnect(body, packet.V5); h.Type != packet.DISCONNECT || err != nil || d.Code != packet.KeepAliveTimeout {
		t.Errorf("got %v %v, %v; want 0x8D", h.Type, d.Code, err)
	}
}

func TestWillDelay(t *testing.T) { // [MQTT-3.1.3-9]
	x := start(t)
	s, _ := x.connect(packet.V5, "s")
	s.subscribe("w", 0)
	will := func(delay uint32) func(*packet.Connect) {
		return func(c *packet.Connect) {
			lasting(c)
			c.HasWill = true
			c.Will = packet.Will{Topic: []byte("w"), Payload: fmt.Append(nil, delay), Delay: delay}
		}
	}
	back, _ := x.connect(packet.V5, "back", will(1))
	back.net.Close()
	back, _ = x.connect(packet.V5, "back", lasting) // in time
	gone, _ := x.connect(packet.V5, "gone", will(2))
	gone.net.Close()
	if m := s.message(); string(m.Payload) != "2" {
		t.Errorf("got the will %q, want only 2", m.Payload)
	}
	back.nothing()
}

func TestShutdownLetsSlowClientsTakeTheirOutput(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxOutput = 8 << 20 })
	w, _ := x.connect(packet.V5, "slow")
	w.subscribe("a", 0)
	deaf, _ := x.connect(packet.V5, "deaf")
	deaf.subscribe("a", 0)
	p, _ := x.connect(packet.V5, "p")
	const n = 60
	payload := strings.Repeat("x", 100_000)
	for i := range n {
		p.publish("a", fmt.Sprint(i, " ", payload), 0, 0)
	}
	p.nothing()
	if x.unsent("slow") == 0 {
		t.Fatal("the socket took everything: the test tests nothing")
	}
	done := make(chan struct{})
	go func() { // ends by itself; waited for below
		x.b.Shutdown(t.Context())
		close(done)
	}()
	if code := p.disconnected(); code != packet.ServerShuttingDown {
		t.Errorf("p is told %v, want 0x8B", code)
	}
	for i := range n {
		if m := w.message(); !strings.HasPrefix(string(m.Payload), fmt.Sprint(i, " ")) {
			t.Fatalf("message %d is %.10q", i, m.Payload)
		}
	}
	if code := w.disconnected(); code != packet.ServerShuttingDown { // and nothing behind it
		t.Errorf("the slow one is told %v, want 0x8B", code)
	}
	select {
	case <-done: // though one never reads
	case <-time.After(guard):
		t.Error("the shutdown waits for a client that never reads")
	}
	if c, err := net.Dial("tcp", x.addr); err == nil {
		c.Close()
		t.Error("the broker still listens")
	}
}

func TestShutdownTellsClients(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "c")
	x.b.Shutdown(t.Context())
	h, body := w.closed()
	if d, err := packet.ParseDisconnect(body, packet.V5); h.Type != packet.DISCONNECT || err != nil || d.Code != packet.ServerShuttingDown {
		t.Errorf("got %v %v, %v; want 0x8B", h.Type, d.Code, err)
	}
}

// stepClock is a clock that the test sets.
type stepClock struct{ now atomic.Int64 }

func (c *stepClock) step(d time.Duration) { c.now.Add(int64(d)) }

func (c *stepClock) Stamp() message.Stamp {
	return message.Stamp{Boot: 1, Millis: uint64(c.now.Load() / int64(time.Millisecond))}
}

func (c *stepClock) Elapsed(s message.Stamp) time.Duration {
	return time.Duration(c.now.Load()) - time.Duration(s.Millis)*time.Millisecond
}
