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
