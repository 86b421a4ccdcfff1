package broker

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"dunlin/core/access"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/topic"
)

// wallClock is a clock that knows the time of day.
type wallClock struct{ fixedClock }

func (c wallClock) Stamp() message.Stamp {
	s := c.fixedClock.Stamp()
	s.Wall = time.Date(2026, 11, 20, 12, 30, 15, 250e6, time.UTC).UnixMilli()
	return s
}

func withWallClock(o *Options) { o.Clock = wallClock{fixedClock{time.Now()}} }

// event is the next message, an event of presence; what cannot be foreseen in it is checked and
// left out.
func (w *wire) event() (name, payload string) {
	w.t.Helper()
	m := w.message()
	if m.QoS != 0 || m.Retain {
		w.t.Errorf("%s has QoS %d and RETAIN %v, want 0 and false", m.Topic, m.QoS, m.Retain)
	}
	var e map[string]any
	if err := json.Unmarshal(m.Payload, &e); err != nil {
		w.t.Fatalf("%s: %v", m.Payload, err)
	}
	if r, _ := e["remote"].(string); len(r) < len("127.0.0.1:1") || r[:10] != "127.0.0.1:" {
		w.t.Errorf("%s: remote is %v", m.Topic, e["remote"])
	}
	delete(e, "remote")
	rest, _ := json.Marshal(e) // sorted by key
	return string(m.Topic), string(rest)
}

func (w *wire) expectEvent(topic, payload string) {
	w.t.Helper()
	if gotTopic, got := w.event(); gotTopic != topic || got != payload {
		w.t.Errorf("got  %s %s\nwant %s %s", gotTopic, got, topic, payload)
	}
}

func TestPresenceTellsWhoComesAndGoesAndWhy(t *testing.T) {
	x := start(t, withWallClock)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/presence/#", 1)

	c, _ := x.connect(packet.V5, "c", func(c *packet.Connect) { c.HasUsername, c.Username = true, []byte("eve") })
	w.expectEvent("$SYS/broker/presence/c/connected",
		`{"at":"2026-11-20T12:30:15.250Z","client_id":"c","reason":null,"user":"eve","version":"5.0"}`)
	c.write(packet.AppendDisconnect(nil, &packet.Disconnect{}, packet.V5))
	w.expectEvent("$SYS/broker/presence/c/disconnected",
		`{"at":"2026-11-20T12:30:15.250Z","client_id":"c","reason":"Normal disconnection","user":"eve","version":"5.0"}`)

	x.connect(packet.V311, "d")
	w.event()
	again, _ := x.connect(packet.V311, "d") // [MQTT-3.1.4-3]
	w.expectEvent("$SYS/broker/presence/d/disconnected",
		`{"at":"2026-11-20T12:30:15.250Z","client_id":"d","reason":"`+packet.SessionTakenOver.String()+`","user":null,"version":"3.1.1"}`)
	w.event()
	again.net.Close()
	w.expectEvent("$SYS/broker/presence/d/disconnected",
		`{"at":"2026-11-20T12:30:15.250Z","client_id":"d","reason":"connection lost","user":null,"version":"3.1.1"}`)
}

func TestPresenceSaysNothingOfTheTimeWithoutAClock(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/presence/+/connected", 0)
	x.connect(packet.V5, "c")
	w.expectEvent("$SYS/broker/presence/c/connected", `{"at":null,"client_id":"c","reason":null,"user":null,"version":"5.0"}`)
}

func TestPresenceEncodesWhatATopicLevelCannotHold(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/presence/+/connected", 0)
	for id, level := range map[string]string{
		"a/b+c#": "a%2Fb%2Bc%23",
		"50%":    "50%25",
		"%2F":    "%252F", // not the same as that of "/"
		"ä b":    "ä b",
		"$x":     "$x",
		`"\`:     `"\`,
	} {
		c, _ := x.connect(packet.V5, id)
		name, payload := w.event()
		if want := "$SYS/broker/presence/" + level + "/connected"; name != want {
			t.Errorf("got %s, want %s", name, want)
		}
		var e presenceEvent
		if err := json.Unmarshal([]byte(payload), &e); err != nil || e.ClientID != id {
			t.Errorf("client_id is %q, want %q (%v)", e.ClientID, id, err)
		}
		c.nothing()
	}
}

func TestPresenceKnowsWhoWasThereBefore(t *testing.T) {
	x := start(t)
	c, _ := x.connect(packet.V5, "c")
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/#", 0)
	x.do(func() {
		if x.b.members["c"].client.remote != c.net.LocalAddr().String() {
			t.Error("the address is not known: after the end of the connection it may be too late")
		}
	})
	c.net.Close()
	w.event()
}

func TestPresenceIsNotMadeForNobody(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("#", 0) // [MQTT-4.7.2-1]
	w.subscribe("$SYS/broker/clients/#", 0)
	w.got(true)
	c, _ := x.connect(packet.V5, "c")
	x.do(func() {
		if x.b.presence.filters != 0 || x.b.members["c"].client.remote != "" {
			t.Error("an event was made, but nobody subscribes to it")
		}
	})
	c.net.Close()
	w.nothing()
}

func TestPresenceDoesNotStartTheValues(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/presence/#", 0)
	x.tick()
	if !x.rests() {
		t.Error("the timer of the values is set for somebody who wants events only")
	}
}

func TestPresenceIsNeitherQueuedNorRetained(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "$SYS/broker/presence/#", 2)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/presence/#", 2)
	w.nothing()
	x.connect(packet.V5, "c")
	w.event()
	x.queues("away", 0, 0)
	x.do(func() {
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		if n := len(x.store.records); n > 0 {
			t.Errorf("%d messages are stored", n)
		}
	})
}

func TestPresenceNeedsARule(t *testing.T) {
	policy, err := access.New(access.Options{Everyone: access.Rules{Subscribe: []string{"#", "$SYS/broker/presence/%c/+"}}})
	if err != nil {
		t.Fatal(err)
	}
	x := start(t, func(o *Options) { o.Policy = policy })
	w, _ := x.connect(packet.V5, "w")
	codes := suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{
		{Filter: "$SYS/broker/presence/#"}, {Filter: "$SYS/broker/presence/w/+"},
	}, packet.V5))
	if codes[0] != packet.NotAuthorized || codes[1] != packet.Success {
		t.Errorf("got %v", codes)
	}
	x.connect(packet.V5, "c")
	w.nothing()
}

func TestPresenceOfARefusedClientIsNoEvent(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/presence/#", 0)
	c := x.dial(packet.V5)
	c.write(packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte("$uplink/x"), CleanStart: true, RequestProblem: true, ReceiveMaximum: 1}))
	c.closed()
	w.nothing()
}

func TestPresenceSurvivesAStormOfTakeovers(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V311, "w")
	w.subscribe("$SYS/broker/presence/#", 0)
	const n = 100
	for range n {
		x.connect(packet.V5, "c")
	}
	for i := range 2*n - 1 {
		want := "$SYS/broker/presence/c/connected"
		if i%2 == 1 {
			want = "$SYS/broker/presence/c/disconnected"
		}
		if got, _ := w.event(); got != want {
			t.Fatalf("event %d is %s, want %s", i, got, want)
		}
	}
}

func TestPresenceDoesNotHinderAStop(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/presence/#", 0)
	x.b.Shutdown(context.Background())
	if code := w.disconnected(); code != packet.ServerShuttingDown {
		t.Errorf("got %v", code)
	}
}

func TestPresenceFiltersAreKnown(t *testing.T) {
	for filter, want := range map[string]bool{
		"$SYS/#": true, "$SYS/broker/#": true, "$SYS/broker/presence/#": true, "$SYS/+/+/+/+": true,
		"$SYS/broker/presence/c/#": true, "$SYS/broker/presence/c/connected": true, "$SYS/broker/presence/+/disconnected/#": true,
		"$SYS/broker/presence/c/disconnected": true, "$SYS/broker/+/c/connected": true,
		"#": false, "+/broker/presence/#": false, "$SYS/broker/presence": false, "$SYS/broker/presence/+": false,
		"$SYS/broker/presence/c/gone": false, "$SYS/broker/presence/+/+/+": false, "$SYS/broker/clients/#": false, "a/b": false,
	} {
		if err := topic.CheckFilter([]byte(filter)); err != nil {
			t.Fatal(err)
		}
		if got := matchesPresence(filter); got != want {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
}
