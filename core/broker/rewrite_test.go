package broker

import (
	"strings"
	"testing"

	"dunlin/core/access"
	"dunlin/core/packet"
	"dunlin/core/rule"
)

func rewriting(rules ...rule.Rewrite) func(*Options) {
	return func(o *Options) {
		for i := range rules {
			if !rules[i].Publish && !rules[i].Subscribe {
				rules[i].Publish, rules[i].Subscribe = true, true
			}
		}
		o.Rewrites = rules
	}
}

func allowing(t *testing.T, everyone access.Rules) func(*Options) {
	policy, err := access.New(access.Options{Everyone: everyone})
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Policy = policy }
}

func (w *wire) unsubscribe(filter string) packet.ReasonCode {
	w.t.Helper()
	w.write(packet.AppendUnsubscribe(nil, 7, []string{filter}, w.v))
	a, err := packet.ParseUnsuback(w.expect(packet.UNSUBACK), w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(a.Codes) == 0 { // 3.1.1 has none
		return packet.Success
	}
	return a.Codes[0]
}

// granted subscribes and returns the code of the SUBACK.
func (w *wire) granted(filter string, o packet.SubscribeOptions) packet.ReasonCode {
	w.t.Helper()
	w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter, Options: o}}, w.v))
	a, err := packet.ParseSuback(w.expect(packet.SUBACK), w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	return a.Codes[0]
}

func (w *wire) hears(topic, payload string) packet.Publish {
	w.t.Helper()
	p := w.message()
	if string(p.Topic) != topic || string(p.Payload) != payload {
		w.t.Errorf("got %q on %q, want %q on %q", p.Payload, p.Topic, payload, topic)
	}
	return p
}

func TestRewrittenTopicsMeet(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		x := start(t, rewriting(rule.Rewrite{From: "old/+/temp", To: "new/$1/temp"}))
		sub, _ := x.connect(v, "sub")
		sub.subscribe("old/+/temp", 1)
		sub.subscribe("new/8/temp", 1)
		pub, _ := x.connect(v, "pub")
		for qos := range packet.QoS(2) {
			pub.publish("old/7/temp", "a", qos, 1)
			sub.hears("new/7/temp", "a")
			pub.publish("new/9/temp", "b", qos, 2)
			sub.hears("new/9/temp", "b")
			pub.publish("old/7/else", "c", qos, 3)
		}
		sub.ack(packet.PUBACK, 1)
		sub.ack(packet.PUBACK, 2)
		sub.nothing()
		if code := sub.unsubscribe("old/+/temp"); code != packet.Success {
			t.Errorf("a session does not find its subscription: %v", code)
		}
		pub.publish("old/9/temp", "d", 0, 0)
		pub.publish("old/8/temp", "e", 0, 0)
		sub.hears("new/8/temp", "e")
	}
}

func TestRewriteIsForOneDirectionIfItSaysSo(t *testing.T) {
	x := start(t, rewriting(
		rule.Rewrite{From: "p/#", To: "published/#", Publish: true},
		rule.Rewrite{From: "s/#", To: "published/#", Subscribe: true},
	))
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("s/#", 0)
	sub.subscribe("p/1", 0)
	pub, _ := x.connect(packet.V5, "pub")
	pub.publish("s/1", "stays", 0, 0)
	pub.publish("p/1", "goes", 0, 0)
	sub.hears("published/1", "goes")
	sub.nothing()
}

func TestAccessIsDecidedOnTheRewrittenTopic(t *testing.T) {
	x := start(t,
		rewriting(rule.Rewrite{From: "in/#", To: "out/#"}, rule.Rewrite{From: "out/open", To: "in/open"}),
		allowing(t, access.Rules{Publish: []string{"out/open", "in/#"}, Subscribe: []string{"out/open", "in/#"}}))
	c, _ := x.connect(packet.V5, "c")
	for _, test := range []struct {
		topic string
		want  packet.ReasonCode
	}{
		{"in/open", packet.NoMatchingSubscribers},
		{"in/secret", packet.NotAuthorized},
		{"out/open", packet.NoMatchingSubscribers}, // is in/open then, and not rewritten again
		{"out/secret", packet.NotAuthorized},
	} {
		c.publish(test.topic, "x", 1, 1)
		if got := c.acked(packet.PUBACK).Code; got != test.want {
			t.Errorf("publish to %s: %v, want %v", test.topic, got, test.want)
		}
		granted := test.want != packet.NotAuthorized
		if got := c.granted(test.topic, packet.SubscribeOptions{}); (got == 0) != granted {
			t.Errorf("subscribe to %s: %v", test.topic, got)
		}
		if granted {
			c.unsubscribe(test.topic)
		}
	}
	will := func(topic string) func(*packet.Connect) {
		return func(k *packet.Connect) {
			k.HasWill = true
			k.Will = packet.Will{Topic: []byte(topic), Payload: []byte("gone")}
		}
	}
	if _, a := x.connect(packet.V5, "denied", will("in/secret")); a.Code != packet.NotAuthorized {
		t.Errorf("a will on a topic that becomes a forbidden one: %v", a.Code)
	}
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("in/open", 0)
	w, _ := x.connect(packet.V5, "allowed", will("in/open"))
	w.net.Close()
	sub.hears("out/open", "gone")
}

func TestRewriteThatMakesATopicTooLongIsRefused(t *testing.T) {
	x := start(t, rewriting(rule.Rewrite{From: "a/+", To: "$1/$1"}))
	c, _ := x.connect(packet.V5, "c")
	long := "a/" + strings.Repeat("x", 600)
	c.publish(long, "x", 1, 1)
	if got := c.acked(packet.PUBACK).Code; got != packet.TopicNameInvalid {
		t.Errorf("publish: %v", got)
	}
	if got := c.granted(long, packet.SubscribeOptions{}); got != packet.TopicFilterInvalid {
		t.Errorf("subscribe: %v", got)
	}
}

// [MQTT-3.3.2-12] An alias stands for the topic that the client sent.
func TestAliasIsResolvedBeforeTheRewrite(t *testing.T) {
	x := start(t, rewriting(rule.Rewrite{From: "old/#", To: "new/#"}))
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("#", 0)
	pub, _ := x.connect(packet.V5, "pub")
	for _, topic := range []string{"old/a", ""} {
		b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), HasTopicAlias: true, TopicAlias: 3}, packet.V5)
		pub.write(b)
		sub.hears("new/a", "")
	}
}

func TestSubscriptionFromBeforeARuleCanBeEnded(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "sub", "old/a", 1)
	y := restart(t, x, rewriting(rule.Rewrite{From: "old/#", To: "new/#"}))
	w, _ := y.connect(packet.V5, "sub", lasting)
	if code := w.unsubscribe("old/a"); code != packet.Success {
		t.Errorf("got %v", code)
	}
}

func TestTopicsWithoutARuleAllocateNothing(t *testing.T) {
	b, turn := fanOut(t, nil)
	b.rewrites = rule.Rewrites{{From: "old/#", To: "new/#", Publish: true}}
	turn()
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Errorf("%v allocations for 10 messages to 3 subscribers, want 0", got)
	}
}

func TestRewrittenTopicsAllocateNothing(t *testing.T) {
	b, turn := fanOut(t, nil)
	b.rewrites = rule.Rewrites{{From: "plant/#", To: "plant/#", Publish: true}}
	turn()
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Errorf("%v allocations for 10 messages to 3 subscribers, want 0", got)
	}
}

// §4.8.2: the share name is no part of what is asked for.
func TestFilterBehindAShareNameIsRewritten(t *testing.T) {
	b := unstarted(t)
	b.rewrites = rule.Rewrites{{From: "old/#", To: "new/#", Subscribe: true}}
	for _, test := range [][2]string{
		{"$share/old/old/a", "$share/old/new/a"},
		{"$share/g/other", "$share/g/other"},
		{"$queue/old/+", "$queue/new/+"},
		{"$share/old", "$share/old"},
		{"$share/g/", "$share/g/"},
		{"old/#", "new/#"},
	} {
		if got := b.rewriteFilter([]byte(test[0])); string(got) != test[1] {
			t.Errorf("%s became %s, want %s", test[0], got, test[1])
		}
	}
}
