package broker

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
)

func TestBucketGivesABurstAndThenItsRate(t *testing.T) {
	for name, tt := range map[string]struct {
		each, depth time.Duration
		burst       int
	}{
		"4 a second":                {250 * time.Millisecond, time.Second, 4},
		"3, which is no whole time": {time.Second / 3, time.Second, 3},
		"three quarters of 4":       {250 * time.Millisecond, time.Second * 3 / 4, 3},
		"less than one":             {time.Second, time.Second * 3 / 4, 1},
		"a million":                 {time.Microsecond, time.Second, 1_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			var k bucket
			now := time.Duration(12345)
			takes := func(want int) {
				t.Helper()
				for i := range want {
					if !k.take(now, tt.each, tt.depth) {
						t.Fatalf("%d were taken, want %d", i, want)
					}
				}
				if k.take(now, tt.each, tt.depth) {
					t.Fatalf("more than %d were taken", want)
				}
			}
			takes(tt.burst)
			now += tt.each - 2 // within rounding
			takes(0)           // and none that is refused costs anything
			now += 2
			takes(1)
			now += 2 * tt.each
			takes(min(2, tt.burst))
			now += time.Hour
			takes(tt.burst)
		})
	}
}

func TestLastConnectsOfABurstAreForWhoIsKnown(t *testing.T) {
	const each = time.Second / 8
	var k bucket
	for range 6 {
		if !k.take(0, each, strangerDepth) {
			t.Fatal("a stranger does not get three quarters")
		}
	}
	if k.take(0, each, strangerDepth) || !k.take(0, each, connectDepth) || !k.take(0, each, connectDepth) || k.take(0, each, connectDepth) {
		t.Error("the last quarter is not for those who are known, and for nobody else")
	}

	x := start(t)
	x.offline(packet.V5, "known", "a", 1)
	x.connect(packet.V311, "here")
	x.do(func() {
		for _, tt := range []struct {
			id    string
			clean bool
			want  time.Duration
		}{
			{"known", false, connectDepth},
			{"here", false, connectDepth},
			{"known", true, strangerDepth}, // what it would come back to it does not want
			{"stranger", false, strangerDepth},
			{"", false, strangerDepth},
		} {
			if got := x.b.depthFor(&packet.Connect{ClientID: []byte(tt.id), CleanStart: tt.clean}); got != tt.want {
				t.Errorf("%q, clean %v: %v, want %v", tt.id, tt.clean, got, tt.want)
			}
		}
	})
}

// exhaust takes what a listener would let in for an hour; replenish gives it back.
func (x *bench) exhaust(ln *Listener)   { x.do(func() { ln.connects.full = x.b.loop.Now() + time.Hour }) }
func (x *bench) replenish(ln *Listener) { x.do(func() { ln.connects.full = 0 }) }

func TestConnectAboveTheRateIsRefused(t *testing.T) { // 0x9F, §3.2.2.2; MQTT3 §3.2.2.3: return code 3
	var log bytes.Buffer // written by the loop
	x := start(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	ln := &Listener{Name: "slow", AllowAnonymous: true, MaxConnectRate: 1}
	y := x.at(ln)
	x.exhaust(ln)
	for _, v := range versions {
		want, why := packet.ConnectionRateExceeded, true
		if v < packet.V5 {
			want, why = packet.ServerUnavailable, false // 0x03
		}
		w, a := y.connect(v, "c", lasting)
		if a.Code != want || a.SessionPresent || len(a.Reason) > 0 != why { // [MQTT-3.2.2-6]
			t.Errorf("version %d: got %v, %q", v, a.Code, a.Reason)
		}
		w.closed() // [MQTT-3.2.2-7]
	}
	if _, a := x.connect(packet.V5, "c"); a.Code != packet.Success {
		t.Errorf("another listener says %v", a.Code)
	}
	x.replenish(ln)
	if _, a := y.connect(packet.V5, "d"); a.Code != packet.Success {
		t.Errorf("after a rest: %v", a.Code)
	}
	x.do(func() {
		if k := &x.b.counters; k.RefusedRate != 3 || k.RefusedConnects != 3 || len(x.b.members) != 2 {
			t.Errorf("%d refused for the rate, %d in all, %d sessions; want 3, 3, 2", k.RefusedRate, k.RefusedConnects, len(x.b.members))
		}
		for _, want := range []string{
			`level=WARN msg="clients connect too fast, some are refused" listener=slow client_id=c max_connect_rate=1 count=1`,
			`level=INFO msg="clients connect too fast, some are refused: over" listener=slow count=3`,
		} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("the log does not say once: %s", want)
			}
		}
		if n := strings.Count(log.String(), "too fast"); n != 2 {
			t.Errorf("the log says it %d times, want 2:\n%s", n, &log)
		}
	})
}

func TestListenerHasItsOwnConnectRate(t *testing.T) {
	b := &Broker{limits: Limits{MaxConnectRate: 10}}
	for own, want := range map[int]int{0: 10, 5: 5, 20: 20} {
		c := &client{b: b, listener: &Listener{MaxConnectRate: own}}
		if got := c.maxConnectRate(); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
}

func TestWhoConnectsTooFastIsNotAskedForAPassword(t *testing.T) {
	x := start(t, func(o *Options) { o.Auth = unasked{t} })
	ln := &Listener{MaxConnectRate: 1}
	y := x.at(ln)
	x.exhaust(ln)
	w := y.dial(packet.V5)
	b := packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte("c"), CleanStart: true})
	w.write(packet.AppendSubscribe(b, 1, 0, []packet.Subscription{{Filter: "a"}}, packet.V5))
	if h, _ := w.closed(); h.Type != packet.CONNACK { // [MQTT-3.1.4-6]: nothing behind it is processed
		t.Errorf("the last packet is %v, want CONNACK", h.Type)
	}
	x.do(func() {
		if x.b.index.Len() > 0 {
			t.Error("there is a subscription")
		}
	})
}

func TestWhoPublishesTooFastIsDisconnected(t *testing.T) { // 0x96, §3.14.2.1; MQTT 3 is closed
	x, seen := watched(t, func(o *Options) { o.Limits.MaxMessageRate = 1 })
	s, _ := x.connect(packet.V5, "s")
	s.subscribe("#", 0)
	x.told(seen, `connected s "" 5`, "subscribed s # 0")
	for _, v := range versions {
		for qos := packet.QoS(0); qos <= 2; qos++ {
			w, _ := x.connect(v, "w", lasting, func(c *packet.Connect) {
				c.HasWill, c.Will.Topic = true, []byte("will")
			})
			x.do(func() { seen.lines = nil; x.b.paces[x.b.members["w"].client].full = x.b.loop.Now() + 20*time.Hour })
			both, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: qos, ID: 1}, v)
			if qos > 0 {
				both[at], both[at+1] = 0, 1
			}
			both, _ = packet.AppendPublish(both, &packet.Publish{Topic: []byte("a"), Payload: []byte("behind")}, v)
			w.write(both)
			h, body := w.closed() // [MQTT-3.14.4-1]: the second gets nowhere
			want := packet.DISCONNECT
			if v < packet.V5 {
				want = 0
			}
			if h.Type != want {
				t.Fatalf("version %d, QoS %d: the last packet is %v", v, qos, h.Type)
			}
			if v == packet.V5 {
				if d, err := packet.ParseDisconnect(body, v); err != nil || d.Code != packet.MessageRateTooHigh || len(d.Reason) == 0 {
					t.Errorf("QoS %d: told %v, %q, %v", qos, d.Code, d.Reason, err)
				}
			}
			if m := s.message(); string(m.Topic) != "will" { // [MQTT-3.1.2-8]
				t.Errorf("version %d, QoS %d: got %s", v, qos, m.Topic)
			}
			x.told(seen, `dropped "w" a: message_rate`, "disconnected w: 2, Message rate too high",
				`published "w" will= 0 false`, "delivered s will 0 bytes 0 false false")
			// It comes back to its session, and what was not acknowledged is new.
			w, a := x.connect(v, "w", lasting)
			if v > packet.V31 && !a.SessionPresent {
				t.Error("the session is gone")
			}
			if qos > 0 {
				w.again("a", "x", qos, 1)
				if typ := map[packet.QoS]packet.Type{1: packet.PUBACK, 2: packet.PUBREC}[qos]; packet.ID(w.expect(typ)[1]) != 1 {
					t.Error("another packet is acknowledged")
				}
				if m := s.message(); string(m.Payload) != "x" {
					t.Errorf("got %q", m.Payload)
				}
			}
			w.write(packet.AppendDisconnect(nil, &packet.Disconnect{}, v))
			w.closed()
			x.until("it is away", func() bool { return x.b.members["w"].client == nil })
			x.connect(v, "w") // without its session
			x.dismiss("w", Disconnection{})
		}
	}
	s.nothing()
	x.do(func() {
		if k := &x.b.counters; k.DroppedRate != 9 || k.ProtocolErrors != 0 || len(x.b.paces) != 1 {
			t.Errorf("%d dropped, %d protocol errors, %d paces; want 9, 0, and that of s", k.DroppedRate, k.ProtocolErrors, len(x.b.paces))
		}
	})
}

func TestBurstOfMessagesIsThatOfASecondAndTheReceiveMaximum(t *testing.T) {
	for name, tt := range map[string]struct {
		rate, receive, burst int
	}{
		"a second's":            {500, 10, 500},
		"the receive maximum's": {10, 50, 50},
	} {
		t.Run(name, func(t *testing.T) {
			x := start(t, func(o *Options) { o.Limits.MaxMessageRate, o.Limits.ReceiveMaximum = tt.rate, tt.receive })
			x.connect(packet.V5, "w")
			x.do(func() { // within one moment
				c := x.b.members["w"].client
				*x.b.paces[c] = pace{}
				for n := range tt.burst {
					if !x.b.inPace(c) {
						t.Errorf("%d messages, want %d", n, tt.burst)
						return
					}
				}
				if x.b.inPace(c) {
					t.Errorf("more than %d messages", tt.burst)
				}
			})
		})
	}
}

func TestWithoutABoundNoPaceIsKept(t *testing.T) {
	x := start(t)
	x.connect(packet.V5, "w")
	x.do(func() {
		if x.b.paces != nil {
			t.Error("there is one")
		}
	})
}

func TestRestOfOursCountsForTheClient(t *testing.T) {
	const each = time.Second / 10
	for name, tt := range map[string]struct {
		rests [][2]time.Duration // from, to
		now   time.Duration
		want  int
	}{
		"none":                     {nil, 100 * time.Second, 10},
		"just over":                {[][2]time.Duration{{90 * time.Second, 100 * time.Second}}, 100 * time.Second, 110},
		"over for a while":         {[][2]time.Duration{{90 * time.Second, 100 * time.Second}}, 130 * time.Second, 410}, // and 30 s since
		"forgotten":                {[][2]time.Duration{{90 * time.Second, 100 * time.Second}}, 160 * time.Second, 10},
		"two, with unread between": {[][2]time.Duration{{90 * time.Second, 95 * time.Second}, {96 * time.Second, 100 * time.Second}}, 100 * time.Second, 110},
		"very long":                {[][2]time.Duration{{0, 1000 * time.Second}}, 1000 * time.Second, 610},
	} {
		t.Run(name, func(t *testing.T) {
			var p pace
			for _, r := range tt.rests {
				p.rested(r[0], r[1])
			}
			n := 0
			for p.take(tt.now, each, time.Second) {
				n++
			}
			if n != tt.want {
				t.Errorf("%d messages at once, want %d", n, tt.want)
			}
			if p.full > tt.now+time.Second {
				t.Error("the client pays for the rest")
			}
			if !p.take(tt.now+each, each, time.Second) {
				t.Error("it does not go on at its rate")
			}
		})
	}
}

func TestWhoWaitedForTheDiskIsNotTooFast(t *testing.T) {
	const rate, behind = 1000, 1500
	x := start(t, func(o *Options) { o.Limits.MaxMessageRate = rate })
	x.offline(packet.V5, "away", "a", 1)
	w, _ := x.connect(packet.V311, "w")
	x.store.hold()
	x.do(func() { x.b.paces[x.b.members["w"].client].full = 0 })
	x.flood(w, "w", 1)
	// Ten seconds later, in which the client kept to its rate.
	x.do(func() {
		c := x.b.members["w"].client
		c.seen -= 10 * time.Second
		x.b.paces[c].full -= 10 * time.Second
	})
	for i := range behind {
		w.publish("a", "x", 1, packet.ID(10_000+i))
	}
	x.store.release(nil)
	for range throttleAt + behind {
		w.expect(packet.PUBACK)
	}
}

func TestQoS0WithinABoundAllocatesNothing(t *testing.T) {
	b, turn := fanOut(t, nil)
	b.limits.MaxMessageRate, b.paces = 1_000_000, make(map[*client]*pace)
	for _, m := range b.members {
		b.setPace(m.client)
	}
	sent := b.counters.Sent
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Errorf("%v allocations for 10 messages to 3 subscribers, want 0", got)
	}
	if got := b.counters.Sent - sent; got != 101*30 {
		t.Errorf("%d messages were sent, want %d", got, 101*30)
	}
}
