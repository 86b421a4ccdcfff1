package broker

import (
	"errors"
	"testing"

	"dunlin/core/access"
	"dunlin/core/durable"
	"dunlin/core/packet"
	"dunlin/core/rule"
)

func automatic(t *testing.T, topic string, change ...func(*AutoSubscription)) func(*Options) {
	t.Helper()
	template, err := access.ParseTemplate(topic)
	if err != nil {
		t.Fatal(err)
	}
	a := AutoSubscription{Topic: template, QoS: 1, RetainHandling: 1}
	for _, f := range change {
		f(&a)
	}
	return func(o *Options) { o.AutoSubscribe = append(o.AutoSubscribe, a) }
}

func retainHandling(n byte) func(*AutoSubscription) {
	return func(a *AutoSubscription) { a.RetainHandling = n }
}

func user(name string) func(*packet.Connect) {
	return func(c *packet.Connect) { c.HasUsername, c.Username = true, []byte(name) }
}

// filters are the subscriptions of a session.
func (x *bench) filters(id string) (all []string) {
	x.t.Helper()
	x.do(func() {
		for _, s := range x.b.subscriptionsOf(x.b.members[id]) {
			all = append(all, s.Filter)
		}
	})
	return all
}

func TestClientIsSubscribedWhenItConnects(t *testing.T) {
	for _, v := range []packet.Version{packet.V31, packet.V311, packet.V5} {
		x := start(t, automatic(t, "commands/%c/#"), automatic(t, "news/%u"), automatic(t, "all", func(a *AutoSubscription) { a.QoS = 0 }))
		c, _ := x.connect(v, "dev", user("ann"))
		pub, _ := x.connect(v, "pub", user("bob"))
		for i, topic := range []string{"commands/pub/x", "commands/dev/x", "news/bob", "news/ann", "all"} {
			pub.publish(topic, topic, 1, packet.ID(i+1))
		}
		for _, want := range []struct {
			topic string
			qos   packet.QoS
		}{{"commands/dev/x", 1}, {"news/ann", 1}, {"all", 0}} {
			if p := c.hears(want.topic, want.topic); p.QoS != want.qos {
				t.Errorf("%s came at QoS %d, want %d", want.topic, p.QoS, want.qos)
			} else if p.QoS > 0 {
				c.ack(packet.PUBACK, p.ID)
			}
		}
		c.nothing()
	}
}

func TestAutomaticSubscriptionIsOnDiskWithItsSession(t *testing.T) {
	x := start(t, automatic(t, "commands/%c"))
	w, _ := x.connect(packet.V5, "dev", lasting)
	x.away(w, "dev")
	pub, _ := x.connect(packet.V5, "pub")
	pub.publish("commands/dev", "a", 1, 1)
	pub.acked(packet.PUBACK)
	y := restart(t, x) // without the setting
	pub, _ = y.connect(packet.V5, "pub")
	pub.publish("commands/dev", "b", 1, 1)
	pub.acked(packet.PUBACK)
	w, _ = y.connect(packet.V5, "dev", lasting)
	w.hears("commands/dev", "a")
	w.hears("commands/dev", "b")
}

func TestAutomaticSubscriptionOfAResumedSessionIsOnDiskBeforeConnack(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "dev", lasting)
	x.away(w, "dev")
	y := restart(t, x, automatic(t, "commands/%c"))
	y.store.hold()
	w = y.dial(packet.V5)
	c := packet.Connect{Version: packet.V5, ClientID: []byte("dev"), RequestProblem: true, ReceiveMaximum: 65535}
	lasting(&c)
	w.write(packet.AppendConnect(nil, &c))
	y.until("the session is taken", func() bool { m := y.b.members["dev"]; return m.client != nil && m.unsaved > 0 })
	y.store.release(errors.New("disk full"))
	a, err := packet.ParseConnack(w.expect(packet.CONNACK), packet.V5)
	if err != nil || a.Code != packet.QuotaExceeded {
		t.Fatalf("got %v, %v", a.Code, err)
	}
	w, k := y.connect(packet.V5, "dev", lasting)
	if k.Code != packet.Success || !k.SessionPresent {
		t.Fatalf("got %+v", k)
	}
	w.publish("commands/dev", "x", 0, 0)
	w.hears("commands/dev", "x")
}

// A name that a client chose must not become a wildcard or more than its level.
func TestNamesDoNotSmuggleWildcards(t *testing.T) {
	x := start(t, automatic(t, "commands/%c"), automatic(t, "news/%u/x"), automatic(t, "%c/status"))
	for _, id := range []string{"+", "#", "a/b", "a+", "$SYS", "a\u0001"} {
		w, _ := x.connect(packet.V5, id, user(id))
		var want int
		if id == "$SYS" {
			want = 2 // commands/$SYS and news/$SYS/x, but not $SYS/status
		}
		if got := x.filters(id); len(got) != want {
			t.Errorf("%q has %q", id, got)
		}
		w.nothing()
	}
	x.connect(packet.V5, "anonymous")
	if got := x.filters("anonymous"); len(got) != 2 {
		t.Errorf("a client without a user name has %q", got)
	}
}

func TestRetainedMessagesFollowAnAutomaticSubscriptionAsItSays(t *testing.T) {
	for handling, want := range map[byte][2]bool{0: {true, true}, 1: {true, false}, 2: {false, false}} {
		x := start(t, automatic(t, "state/%c", retainHandling(handling)))
		pub, _ := x.connect(packet.V5, "pub")
		b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("state/dev"), Payload: []byte("on"), QoS: 1, Retain: true}, packet.V5)
		b[at+1] = 1
		pub.write(b)
		pub.acked(packet.PUBACK)
		for i, comes := range want {
			w, _ := x.connect(packet.V5, "dev", lasting)
			if comes {
				p := w.hears("state/dev", "on")
				if !p.Retain {
					t.Error("without RETAIN") // [MQTT-3.3.1-8]
				}
				w.ack(packet.PUBACK, p.ID)
			}
			w.nothing()
			x.away(w, "dev")
			if t.Failed() {
				t.Fatalf("retain handling %d, connect %d", handling, i+1)
			}
		}
	}
}

func TestUnsubscribingLastsUntilTheNextConnect(t *testing.T) {
	x := start(t, automatic(t, "old/%c"), rewriting(rule.Rewrite{From: "old/#", To: "new/#"}))
	w, _ := x.connect(packet.V5, "dev", lasting)
	if code := w.unsubscribe("old/dev"); code != packet.Success {
		t.Fatalf("got %v", code)
	}
	w.publish("new/dev", "x", 0, 0)
	w.nothing()
	x.away(w, "dev")
	w, _ = x.connect(packet.V5, "dev", lasting)
	w.publish("new/dev", "x", 0, 0)
	w.hears("new/dev", "x")
}

func TestClientsOwnSubscriptionStays(t *testing.T) {
	x := start(t, automatic(t, "a"))
	w, _ := x.connect(packet.V5, "dev", lasting)
	w.write(packet.AppendSubscribe(nil, 1, 9, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{QoS: 0}}}, packet.V5))
	w.expect(packet.SUBACK)
	x.away(w, "dev")
	w, _ = x.connect(packet.V5, "dev", lasting)
	w.publish("a", "x", 1, 1)
	for range 2 {
		if h, body := w.read(); h.Type == packet.PUBLISH {
			p, err := packet.ParsePublish(body, h.Flags, packet.V5)
			if err != nil || p.QoS != 0 || !p.HasSubID {
				t.Errorf("got %+v, %v", p, err)
			}
		}
	}
}

func TestAutomaticSubscriptionsKeepToAccessAndLimits(t *testing.T) {
	x := start(t, automatic(t, "open/%c"), automatic(t, "secret"), automatic(t, "open/+"), automatic(t, "open/last"),
		allowing(t, access.Rules{Publish: []string{"#"}, Subscribe: []string{"open/#"}}),
		func(o *Options) { o.Limits.NoWildcards, o.Limits.MaxSubscriptions, o.Limits.HasMaxQoS = true, 1, true })
	x.connect(packet.V5, "dev")
	x.do(func() {
		if subs := x.b.subscriptionsOf(x.b.members["dev"]); len(subs) != 1 || subs[0].Filter != "open/dev" || subs[0].QoS != 0 {
			t.Errorf("got %+v", subs)
		}
	})
}

func TestNoLocalAndRetainAsPublishedHoldForAutomaticSubscriptions(t *testing.T) { // [MQTT-3.8.3-3], [MQTT-3.3.1-13]
	x := start(t, automatic(t, "a", func(a *AutoSubscription) { a.NoLocal, a.RetainAsPublished, a.QoS = true, true, 0 }))
	one, _ := x.connect(packet.V5, "one")
	two, _ := x.connect(packet.V5, "two")
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Retain: true, Payload: []byte("x")}, packet.V5)
	one.write(b)
	if p := two.hears("a", "x"); !p.Retain {
		t.Error("RETAIN is gone")
	}
	one.nothing()
}

// order tells of connects and subscriptions as they come.
type order struct {
	Unobserved
	seen chan string
}

func (o *order) Connected(p Peer) { o.seen <- "connected " + p.ClientID }

func (o *order) Subscribed(clientID string, s durable.Subscription) {
	o.seen <- "subscribed " + clientID + " " + s.Filter
}

func TestObserverIsToldOfAutomaticSubscriptionsAfterTheConnect(t *testing.T) {
	seen := make(chan string, 10)
	x := start(t, automatic(t, "a/%c"), func(o *Options) { o.Observer = &order{seen: seen} })
	w, _ := x.connect(packet.V5, "dev")
	w.nothing()
	if one, two := <-seen, <-seen; one != "connected dev" || two != "subscribed dev a/dev" {
		t.Errorf("got %q, %q", one, two)
	}
}
