package broker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"dunlin/core/message"
	"dunlin/core/packet"
)

// willOf adds a will on topic w to a CONNECT.
func willOf(payload string, delay uint32) func(*packet.Connect) {
	return func(c *packet.Connect) {
		c.HasWill = true
		c.Will = packet.Will{Topic: []byte("w"), Payload: []byte(payload), Delay: delay}
	}
}

// send writes a CONNECT and waits for nothing.
func (x *bench) send(v packet.Version, id string, change ...func(*packet.Connect)) *wire {
	x.t.Helper()
	w := x.dial(v)
	c := packet.Connect{Version: v, ClientID: []byte(id), CleanStart: true, RequestProblem: true, ReceiveMaximum: 65535}
	for _, f := range change {
		f(&c)
	}
	w.write(packet.AppendConnect(nil, &c))
	return w
}

// entered waits until a CONNECT waits for the disk.
func (x *bench) entered(id string) {
	x.t.Helper()
	x.until("CONNECT of "+id, func() bool { m := x.b.members[id]; return m != nil && m.client != nil && !m.client.accepted })
}

func (w *wire) connack() packet.Connack {
	w.t.Helper()
	a, err := packet.ParseConnack(w.expect(packet.CONNACK), w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func TestConnackIsTheFirstPacket(t *testing.T) { // [MQTT-3.2.0-1]
	x := start(t)
	x.offline(packet.V5, "s", "a", 0)
	p, _ := x.connect(packet.V5, "p")
	x.store.hold()
	s := x.send(packet.V5, "s", lasting, func(c *packet.Connect) { c.SessionExpiry = 7200 })
	x.entered("s")
	p.publish("a", "early", 0, 0)
	p.nothing()
	x.store.release(nil)
	if a := s.connack(); !a.SessionPresent {
		t.Error("the session is gone")
	}
	p.publish("a", "now", 0, 0)
	if m := s.message(); string(m.Payload) != "now" {
		t.Errorf("got %q", m.Payload)
	}
}

func TestConnackWaitsUntilTheSessionIsOnDisk(t *testing.T) {
	x := start(t)
	x.store.hold()
	s := x.send(packet.V5, "s", lasting)
	x.entered("s")
	s.net.Close()
	// The CONNECT that was not answered has left nothing that the client could be told of.
	s = x.send(packet.V5, "s", lasting)
	x.until("the second CONNECT", func() bool { return x.b.counters.SessionsTakeover == 1 })
	x.store.release(nil)
	if a := s.connack(); a.SessionPresent {
		t.Error("a session is present that the client has never had")
	}
}

func TestRefusedConnectLeavesNoSession(t *testing.T) {
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t)
			w, _ := x.connect(packet.V5, "watch")
			w.subscribe("w", 0)
			x.store.hold()
			s := x.send(v, "s", func(c *packet.Connect) { lasting(c); willOf("x", 0)(c) })
			x.entered("s")
			x.store.release(errDisk)
			want := packet.QuotaExceeded
			if v < packet.V5 {
				want = packet.ServerUnavailable
			}
			if a := s.connack(); a.Code != want {
				t.Errorf("got %v, want %v", a.Code, want)
			}
			s.closed()
			w.nothing() // no will: it never had one
			x.do(func() {
				if x.b.members["s"] != nil {
					t.Error("the session is there")
				}
			})
			if _, a := x.connect(v, "s", lasting); a.SessionPresent {
				t.Error("the session is present")
			}
		})
	}
}

func TestRefusedResumeKeepsTheSession(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 1)
	x.store.hold()
	s := x.send(packet.V5, "s", lasting, func(c *packet.Connect) { c.SessionExpiry = 7200 })
	x.entered("s")
	x.store.release(errDisk)
	if a := s.connack(); a.Code != packet.QuotaExceeded {
		t.Errorf("got %v", a.Code)
	}
	s.closed()
	x.do(func() {
		m := x.b.members["s"]
		if m == nil || m.expiry != 3600 || m.client != nil || m.away.expires == nil || !m.away.expires.Set() {
			t.Errorf("the session is %+v, want it offline with its expiry of before running", m)
		}
	})
	if _, a := x.connect(packet.V5, "s", lasting); !a.SessionPresent {
		t.Error("the session is gone")
	}
}

func TestCleanStartWaitsUntilTheOldSessionIsGone(t *testing.T) { // [MQTT-3.1.2-4]
	for _, err := range []error{nil, errDisk} {
		t.Run(fmt.Sprint("disk: ", err), func(t *testing.T) {
			x := start(t)
			x.offline(packet.V5, "s", "a", 1)
			p, _ := x.connect(packet.V5, "p")
			p.publish("a", "old", 1, 1)
			p.expect(packet.PUBACK)
			x.store.hold()
			s := x.send(packet.V5, "s")
			x.entered("s")
			x.store.release(err)
			if a := s.connack(); a.Code != packet.Success || a.SessionPresent {
				t.Errorf("got %v, session present %v", a.Code, a.SessionPresent)
			}
			s.nothing()
			if n := x.store.open(); n != 0 {
				t.Errorf("%d messages of the old session are left", n)
			}
		})
	}
}

func TestWillIsPublishedByTheRules(t *testing.T) { // [MQTT-3.1.2-8, MQTT-3.14.4-3, MQTT-3.1.4-3, MQTT-3.1.3-9]
	as := func(code packet.ReasonCode) func(*bench, *wire) {
		return func(_ *bench, w *wire) {
			w.write(packet.AppendDisconnect(nil, &packet.Disconnect{Code: code}, packet.V5))
		}
	}
	cut := func(_ *bench, w *wire) { w.net.Close() }
	takeOver := func(change ...func(*packet.Connect)) func(*bench, *wire) {
		return func(x *bench, _ *wire) { x.connect(packet.V5, "c", change...) }
	}
	brief := func(c *packet.Connect) { c.CleanStart, c.SessionExpiry = false, 1 }
	for _, tt := range []struct {
		name    string
		connect []func(*packet.Connect)
		end     func(*bench, *wire)
		want    bool
	}{
		{"DISCONNECT 0x00", []func(*packet.Connect){willOf("x", 0)}, as(packet.Success), false},
		{"DISCONNECT 0x00 with a delay", []func(*packet.Connect){lasting, willOf("x", 1)}, as(packet.Success), false},
		{"DISCONNECT 0x04", []func(*packet.Connect){willOf("x", 0)}, as(packet.DisconnectWithWill), true},
		{"DISCONNECT with an error", []func(*packet.Connect){willOf("x", 0)}, as(packet.UnspecifiedError), true},
		{"cut", []func(*packet.Connect){willOf("x", 0)}, cut, true},
		{"cut, lasting session", []func(*packet.Connect){lasting, willOf("x", 0)}, cut, true},
		{"delay longer than the session", []func(*packet.Connect){brief, willOf("x", 3600)}, cut, true},
		{"delay of a session that ends at once", []func(*packet.Connect){willOf("x", 3600)}, cut, true},
		{"takeover", []func(*packet.Connect){lasting, willOf("x", 0)}, takeOver(lasting), true},
		{"takeover within the delay", []func(*packet.Connect){lasting, willOf("x", 3600)}, takeOver(lasting), false},
		{"takeover that starts clean", []func(*packet.Connect){lasting, willOf("x", 3600)}, takeOver(), true},
		{"protocol error", []func(*packet.Connect){willOf("x", 0)}, func(_ *bench, w *wire) { w.write([]byte{0x10, 0}) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t)
			s, _ := x.connect(packet.V5, "watch")
			s.subscribe("#", 0)
			w, _ := x.connect(packet.V5, "c", tt.connect...)
			tt.end(x, w)
			w.closed()
			if tt.want {
				if m := s.message(); string(m.Topic) != "w" || string(m.Payload) != "x" {
					t.Errorf("got %s %q", m.Topic, m.Payload)
				}
			}
			x.until("the end", func() bool { m := x.b.members["c"]; return m == nil || m.client == nil || m.will == nil })
			s.nothing()
		})
	}
}

func TestRecordFollowsTheWill(t *testing.T) {
	// A crash between the two must find the will, not a session without one.
	x := start(t)
	x.offline(packet.V5, "s", "w", 1)
	w, _ := x.connect(packet.V5, "c", lasting, func(c *packet.Connect) { willOf("x", 0)(c); c.Will.QoS = 1 })
	x.store.hold()
	x.away(w, "c")
	x.do(func() {}) // wills are published at the end of the turn
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	for _, o := range x.store.waiting {
		if o.seq != 0 {
			return // the message comes first
		}
		o.end(nil)
		for _, r := range x.store.sessions {
			if r.ClientID == "c" && r.Will == nil {
				t.Fatal("the record without the will is written before the will")
			}
		}
	}
	t.Fatal("the will is not written")
}

func TestReconnectsLeaveNoTimersBehind(t *testing.T) {
	x := start(t)
	for _, v := range versions {
		for range 50 {
			w, _ := x.connect(v, "s", lasting, willOf("x", 3600), func(c *packet.Connect) { c.KeepAlive = 60000 })
			x.away(w, "s")
			w, _ = x.connect(v, "t", func(c *packet.Connect) { c.KeepAlive = 60000 })
			w.net.Close()
			x.until("the end", func() bool { return x.b.members["t"] == nil })
		}
	}
	x.do(func() {
		if n := x.b.loop.Timers(); n > 2 { // the expiry of s and its will
			t.Errorf("%d timers are set", n)
		}
	})
}

func TestMessageSentBeforeTheSessionWasFoundMissingIsNotCountedTwice(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 4 {
		p.publish("a", fmt.Sprint(i), 1, packet.ID(i+1))
		p.expect(packet.PUBACK)
	}
	x.queues("s", 4, 0)
	x.store.mu.Lock()
	x.store.records[1].to = nil // the medium has eaten it
	x.store.mu.Unlock()
	s, _ := x.connect(packet.V5, "s", lasting)
	for range 3 {
		s.ack(packet.PUBACK, s.message().ID)
	}
	s.nothing()
	x.queues("s", 0, 0)
}

func TestFailedSubscribeIsTakenBack(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V5, "s", lasting)
	s.subscribe("kept", 1)
	s.subscribe("changed", 1)
	subs := []packet.Subscription{{Filter: "new", Options: packet.SubscribeOptions{QoS: 1}}, {Filter: "changed"}, {Filter: "a+"}}
	x.store.hold()
	s.write(packet.AppendSubscribe(nil, 7, 0, subs, packet.V5))
	s.nothing()
	x.store.step(errDisk)
	k, err := packet.ParseSuback(s.expect(packet.SUBACK), packet.V5)
	if want := []packet.ReasonCode{0x80, 0x80, packet.TopicFilterInvalid}; err != nil || fmt.Sprint(k.Codes) != fmt.Sprint(want) {
		t.Fatalf("got %v, %v; want %v", k.Codes, err, want)
	}
	s.write(packet.AppendUnsubscribe(nil, 8, []string{"kept", "unknown"}, packet.V5))
	s.nothing()
	x.store.release(errDisk)
	u, err := packet.ParseUnsuback(s.expect(packet.UNSUBACK), packet.V5)
	if want := []packet.ReasonCode{0x80, 0x80}; err != nil || len(u.Codes) != 2 || u.Codes[0] != want[0] {
		t.Fatalf("got %v, %v; want %v", u.Codes, err, want)
	}
	p, _ := x.connect(packet.V5, "p")
	for i, name := range []string{"new", "changed", "kept"} {
		p.publish(name, "x", 1, packet.ID(i+1))
		p.expect(packet.PUBACK)
	}
	for _, want := range []string{"changed", "kept"} {
		if m := s.message(); string(m.Topic) != want || m.QoS != 1 {
			t.Errorf("got %s at QoS %d, want %s at 1", m.Topic, m.QoS, want)
		}
	}
	s.nothing()
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	for _, r := range x.store.sessions {
		if r.ClientID == "s" && (len(r.Subscriptions) != 2 || r.Subscriptions[0].QoS != 1 || r.Subscriptions[1].QoS != 1) {
			t.Errorf("on disk: %+v", r.Subscriptions)
		}
	}
}

func TestSubscribingAgainNeedsNoDisk(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V5, "s", lasting)
	x.store.hold()
	sub := packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{QoS: 1}}}, packet.V5)
	s.write(sub)
	s.nothing()
	s.write(sub) // the same, but the first is not on disk yet
	s.nothing()
	x.store.step(nil)
	s.expect(packet.SUBACK)
	s.expect(packet.SUBACK)
	asked := x.store.asked()
	s.write(sub)
	s.expect(packet.SUBACK)
	x.away(s, "s")
	s, _ = x.connect(packet.V5, "s", lasting) // nor does a resume that changes nothing
	s.write(sub)
	s.expect(packet.SUBACK)
	if n := x.store.asked() - asked; n != 0 {
		t.Errorf("%d commits were waited for", n)
	}
	x.store.release(nil)
}

func TestAnswerThatIsTooLargeEndsTheConnection(t *testing.T) { // [MQTT-3.1.2-24]
	x := start(t)
	w, _ := x.connect(packet.V5, "small", func(c *packet.Connect) { c.MaximumPacketSize = 40 })
	var subs []packet.Subscription
	for i := range 50 {
		subs = append(subs, packet.Subscription{Filter: fmt.Sprint(i)})
	}
	w.write(packet.AppendSubscribe(nil, 1, 0, subs, packet.V5))
	if code := w.disconnected(); code != packet.PacketTooLarge {
		t.Errorf("got %v", code)
	}
}

// restart begins a broker with what another has committed.
func restart(t *testing.T, of *bench, change ...func(*Options)) *bench {
	t.Helper()
	kept, delayed := of.store.restored(), of.store.waits()
	s := newFakeStore()
	x := start(t, append([]func(*Options){func(o *Options) {
		s.copyOf(of.store)
		o.Store, o.Restored, o.Delayed = s, kept, delayed
	}}, change...)...)
	return x
}

func TestSessionOutlivesARestart(t *testing.T) { // [MQTT-3.1.2-5]
	x := start(t)
	x.offline(packet.V5, "s", "a/#", 2)
	p, _ := x.connect(packet.V5, "p", lasting)
	p.publish("a/1", "before", 2, 1)
	p.expect(packet.PUBREC)
	y := restart(t, x)
	p, k := y.connect(packet.V5, "p", lasting)
	if !k.SessionPresent {
		t.Fatal("the publisher's session is gone")
	}
	p.again("a/1", "before", 2, 1) // its PUBREC was lost
	p.expect(packet.PUBREC)
	p.publish("a/2", "after", 1, 2)
	p.expect(packet.PUBACK)
	s, k := y.connect(packet.V5, "s", lasting)
	if !k.SessionPresent {
		t.Fatal("the subscriber's session is gone")
	}
	for range 2 {
		switch m := s.message(); {
		case m.QoS == 1 && string(m.Payload) == "after":
			s.ack(packet.PUBACK, m.ID)
		case m.QoS == 2 && string(m.Payload) == "before":
			s.ack(packet.PUBREC, m.ID)
		default:
			t.Fatalf("got %q at QoS %d", m.Payload, m.QoS)
		}
	}
	s.expect(packet.PUBREL)
	s.nothing()
}

func TestTimeGoesOnOverCrashes(t *testing.T) {
	clock := &stepClock{}
	x := start(t, func(o *Options) { o.Clock = clock })
	x.connect(packet.V5, "s", lasting) // 3600 s; stays connected
	x.until("the record", func() bool { return len(x.store.restored()) == 1 })
	for i := range 3 {
		clock.step(1000 * time.Second)
		x = restart(t, x, func(o *Options) { o.Clock = clock })
		x.until("the record", func() bool {
			r := x.store.restored()
			return len(r) == 1 && !r[0].Session.Connected
		})
		var left time.Duration
		x.do(func() { left = clock.Elapsed(x.b.members["s"].away.left) })
		if want := time.Duration(i) * 1000 * time.Second; left != want {
			t.Errorf("crash %d: offline since %v, want %v", i+1, left, want)
		}
	}
	clock.step(2000 * time.Second)
	x = restart(t, x, func(o *Options) { o.Clock = clock })
	x.until("the end of the session", func() bool { return x.b.members["s"] == nil })
}

func TestWillOfACrashWaitsForItsClient(t *testing.T) {
	x := start(t)
	for _, id := range []string{"back", "gone", "short", "clean"} {
		x.connect(packet.V5, id, lasting, willOf(id, 0), func(c *packet.Connect) {
			if id == "short" {
				c.SessionExpiry = 1 // ends before the wait does
			}
		})
	}
	x.until("the records", func() bool { return len(x.store.restored()) == 4 })
	y := restart(t, x)
	w, _ := y.connect(packet.V5, "watch")
	w.subscribe("w", 0)
	y.connect(packet.V5, "back", lasting)
	y.connect(packet.V5, "clean")
	w.nothing()
	y.do(func() {
		for _, id := range []string{"gone", "short"} {
			if m := y.b.members[id]; m == nil || m.away.willDue == nil || !m.away.willDue.Set() {
				t.Errorf("the will of %s does not wait", id)
			}
		}
		for _, id := range []string{"back", "clean"} {
			if m := y.b.members[id]; m == nil || m.away != nil || m.will != nil {
				t.Errorf("the will of %s waits", id)
			}
		}
		for _, id := range []string{"gone", "short"} {
			m := y.b.members[id]
			y.b.loop.Unset(m.away.willDue)
			m.away.willDue.Fire(0)
		}
	})
	for range 2 {
		if m := w.message(); string(m.Payload) != "gone" && string(m.Payload) != "short" {
			t.Errorf("got the will of %q", m.Payload)
		}
	}
	w.nothing()
}

func TestSessionThatEndedWithTheLastProcessIsNotResumed(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 1)
	x.connect(packet.V5, "s", willOf("x", 0), func(c *packet.Connect) { c.CleanStart = false }) // expiry 0 from now on
	x.until("the record", func() bool { r := x.store.restored(); return len(r) == 1 && r[0].Session.Expiry == 0 })
	y := restart(t, x)
	if _, k := y.connect(packet.V5, "s", lasting); k.SessionPresent {
		t.Error("the session is present")
	}
}

func TestNoLocalHoldsForRetainedMessages(t *testing.T) { // [MQTT-3.8.3-3]
	x := start(t)
	w, _ := x.connect(packet.V5, "c")
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("mine"), Retain: true}, packet.V5)
	w.write(b)
	sub := packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{NoLocal: true}}}, packet.V5)
	w.write(sub)
	w.expect(packet.SUBACK)
	w.nothing()
	o, _ := x.connect(packet.V5, "o")
	o.write(sub)
	o.expect(packet.SUBACK)
	if m := o.message(); string(m.Payload) != "mine" {
		t.Errorf("got %q", m.Payload)
	}
}

func TestAllRetainedMessagesReachANewSubscriber(t *testing.T) {
	const n = 3000
	payload := strings.Repeat("x", 1000) // far more than the output may hold
	for _, durably := range []bool{false, true} {
		for qos := packet.QoS(0); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("lasting %v, QoS %d", durably, qos), func(t *testing.T) {
				x := start(t, func(o *Options) {
					o.Limits.MaxOutput = 256 << 10
					o.Limits.MaxQueuedTransient = 300
					o.Retained = func(yield func(*message.Message) bool) {
						for i := range n {
							m := &message.Message{Topic: fmt.Sprint("r/", i), Payload: []byte(payload), QoS: 2, Retain: true}
							if !yield(m) {
								return
							}
						}
					}
				})
				s, _ := x.connect(packet.V5, "s", func(c *packet.Connect) {
					c.ReceiveMaximum = 20
					if durably {
						lasting(c)
					}
				})
				s.subscribe("r/#", qos)
				got := map[string]bool{}
				for range n {
					h, body := s.read()
					for h.Type == packet.PUBREL {
						s.ack(packet.PUBCOMP, packet.ID(body[0])<<8|packet.ID(body[1]))
						h, body = s.read()
					}
					m, err := packet.ParsePublish(body, h.Flags, packet.V5)
					if h.Type != packet.PUBLISH || err != nil || !m.Retain || m.QoS != qos || got[string(m.Topic)] {
						t.Fatalf("after %d: got %v %s, QoS %d, RETAIN %v, %v", len(got), h.Type, m.Topic, m.QoS, m.Retain, err)
					}
					got[string(m.Topic)] = true
					switch qos {
					case 1:
						s.ack(packet.PUBACK, m.ID)
					case 2:
						s.ack(packet.PUBREC, m.ID)
					}
				}
				x.do(func() {
					if c := x.b.counters; c.DroppedFull+c.DroppedOutput > 0 {
						t.Errorf("%d dropped", c.DroppedFull+c.DroppedOutput)
					}
					if m := x.b.members["s"]; m.greetings != nil {
						t.Error("the greeting does not end")
					}
				})
			})
		}
	}
}

func TestUnsubscribingEndsTheGreeting(t *testing.T) {
	var m member
	m.addGreeting(greeting{filter: "a"})
	m.addGreeting(greeting{filter: "b"})
	m.addGreeting(greeting{filter: "a", qos: 1})
	if g := m.greetings; g.filter != "b" || g.next.filter != "a" || g.next.qos != 1 || g.next.next != nil {
		t.Errorf("got %+v, then %+v", g, g.next)
	}
	m.dropGreeting("a")
	m.dropGreeting("b")
	if m.greetings != nil {
		t.Errorf("got %+v", m.greetings)
	}
}

func TestConnectionsOverTheLimitAreClosed(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxConnections = 3 })
	var all []*wire
	for i := range 3 {
		w, _ := x.connect(packet.V5, fmt.Sprint(i))
		all = append(all, w)
	}
	x.dial(packet.V5).closed()
	all[0].net.Close()
	x.until("room", func() bool { return x.b.counters.Connections == 2 })
	x.connect(packet.V5, "again")
	all[1].nothing()
}

func TestUnsubscribeThatIsNotOnDiskIsNotConfirmed(t *testing.T) { // [MQTT-3.10.4-4], 3.1.1
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t)
			w, _ := x.connect(v, "s", lasting)
			w.subscribe("a", 1)
			x.store.hold()
			w.write(packet.AppendUnsubscribe(nil, 2, []string{"a"}, v))
			x.until("the UNSUBSCRIBE", func() bool { return x.b.members["s"].unsaved == 1 })
			x.store.release(errDisk)
			if v < packet.V5 { // UNSUBACK has no code that could tell
				if h, _ := w.closed(); h.Type != 0 {
					t.Errorf("got %v", h.Type)
				}
			} else if a, err := packet.ParseUnsuback(w.expect(packet.UNSUBACK), v); err != nil || a.Codes[0] != packet.UnspecifiedError {
				t.Errorf("got %v, %v", a.Codes, err)
			}
			x.do(func() {
				if n := len(x.b.members["s"].subs); n != 1 {
					t.Errorf("%d subscriptions", n)
				}
			})
		})
	}
}

func TestSessionThatWasToldGoneStaysGone(t *testing.T) { // [MQTT-3.2.2-3]
	// The session ends by itself; before that is on disk its client is back, for a connection that
	// leaves nothing. Its CONNACK must wait, or a crash would bring the old session back.
	x := start(t)
	w, _ := x.connect(packet.V5, "s", lasting)
	x.store.hold()
	w.write(packet.AppendDisconnect(nil, &packet.Disconnect{HasSessionExpiry: true}, packet.V5))
	x.until("the DISCONNECT", func() bool { return x.b.members["s"] == nil })
	s := x.send(packet.V5, "s", func(c *packet.Connect) { c.CleanStart = false })
	x.entered("s")
	x.store.release(nil)
	if a := s.connack(); a.SessionPresent {
		t.Error("session present")
	}
	x.do(func() {
		if n := len(x.b.endings); n != 0 {
			t.Errorf("%d ends of sessions are remembered", n)
		}
	})
}
