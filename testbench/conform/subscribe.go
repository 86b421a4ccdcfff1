package main

import (
	"fmt"
	"slices"
	"strings"

	"dunlin/core/packet"
)

// Checks of SUBSCRIBE, UNSUBSCRIBE, matching and retained messages.

func subackAnswersEachFilter(t *T) {
	p := t.connect("c")
	codes := p.subscribeAs(0,
		packet.Subscription{Filter: t.topic("a"), Options: qos(1)},
		packet.Subscription{Filter: t.topic("b"), Options: qos(0)},
		packet.Subscription{Filter: t.topic("c"), Options: qos(2)})
	if !slices.Equal(codes, []packet.ReasonCode{1, 0, 2}) {
		t.failf("the SUBACK says %v, want 1, 0, 2", codes)
	}
	for _, id := range []packet.ID{1, 65535} {
		p.lastID = id - 1
		p.subscribe(t.topic("a"), qos(1))
	}
}

func mixedSubackKeepsTheOrder(t *T) {
	if !t.ours {
		panic(result{elsewhere, "which filters a broker refuses by a code is its own"})
	}
	p := t.connect("c")
	codes := p.subscribeAs(0,
		packet.Subscription{Filter: t.topic("a"), Options: qos(1)},
		packet.Subscription{Filter: t.topic("b/#/c"), Options: qos(0)},
		packet.Subscription{Filter: t.topic("c"), Options: qos(2)})
	bad := packet.TopicFilterInvalid
	if !t.v5() {
		bad = packet.UnspecifiedError
	}
	if !slices.Equal(codes, []packet.ReasonCode{1, bad, 2}) {
		t.failf("the SUBACK says %v", codes)
	}
	p.publish(text(t.topic("c"), "x", 0))
	p.take("x")
}

func resubscribeReplaces(t *T) {
	s, p := t.connect("s"), t.connect("p")
	p.deliver(kept(t.topic("a"), "kept", 0))
	s.subscribe(t.topic("a"), qos(0))
	s.take("kept")
	s.subscribe(t.topic("a"), qos(2))
	s.take("kept") // [MQTT-3.3.1-9]
	p.deliver(text(t.topic("a"), "x", 2))
	if m := s.take("x"); m.QoS != 2 {
		t.failf("QoS %d, want that of the second", m.QoS)
	}
	s.silent() // one subscription, one message
}

func resubscribeLosesNothing(t *T) {
	s, p := t.connect("s"), t.connect("p")
	s.subscribe(t.topic("a"), qos(1))
	for i := range 20 {
		p.publish(text(t.topic("a"), fmt.Sprint(i), 1))
		s.send(packet.AppendSubscribe(nil, 9, 0, []packet.Subscription{{Filter: t.topic("a"), Options: qos(1)}}, t.v))
	}
	next, subacks := 0, 0
	for next < 20 || subacks < 20 {
		h, body := s.next()
		switch h.Type {
		case packet.SUBACK:
			subacks++
		case packet.PUBLISH:
			m, err := packet.ParsePublish(body, h.Flags, t.v)
			t.must(err)
			if string(m.Payload) != fmt.Sprint(next) {
				t.failf("got %q, want %d", m.Payload, next)
			}
			next++
			s.ack(packet.PUBACK, m.ID)
		default:
			t.failf("got %s", h.Type)
		}
	}
	s.silent()
}

func noLocal(t *T) {
	p := t.connect("c")
	p.subscribe(t.topic("a"), packet.SubscribeOptions{NoLocal: true})
	p.publish(text(t.topic("a"), "mine", 0))
	p.silent()
	t.connect("d").publish(text(t.topic("a"), "another's", 0))
	p.take("another's")
}

func retainAsPublished(t *T) {
	p := t.connect("p")
	for _, on := range []bool{false, true} {
		s := t.connect("s")
		s.subscribe(t.topic("a"), packet.SubscribeOptions{RetainAsPublished: on, RetainHandling: 2})
		p.deliver(kept(t.topic("a"), "kept", 0))
		if m := s.take("kept"); m.Retain != on {
			t.failf("retain as published %v: RETAIN is %v", on, m.Retain)
		}
		p.deliver(text(t.topic("a"), "plain", 0))
		if m := s.take("plain"); m.Retain {
			t.failf("retain as published %v: RETAIN is set on what was not retained", on)
		}
	}
}

func retainedIsMarkedForNewSubscriptionsOnly(t *T) {
	p, s := t.connect("p"), t.connect("s")
	s.subscribe(t.topic("a"), qos(0))
	p.deliver(kept(t.topic("a"), "x", 0))
	if m := s.take("x"); m.Retain {
		t.failf("RETAIN is set for a subscription that was there")
	}
	late := t.connect("late")
	late.subscribe(t.topic("+"), qos(0))
	if m := late.take("x"); !m.Retain {
		t.failf("RETAIN is not set for a new subscription")
	}
}

func retainHandling(t *T) {
	t.connect("p").deliver(kept(t.topic("a"), "x", 0))
	for handling, want := range [][2]bool{{true, true}, {true, false}, {false, false}} {
		s := t.connect("s")
		for i, sent := range want {
			t.where = fmt.Sprintf("handling %d, subscribe %d", handling, i+1)
			s.subscribe(t.topic("a"), packet.SubscribeOptions{RetainHandling: byte(handling)})
			if sent {
				if m := s.take("x"); !m.Retain {
					t.failf("RETAIN is not set")
				}
			}
			s.silent()
		}
	}
	t.where = "handling 1 after resume"
	s := t.connect("l", lasting)
	s.subscribe(t.topic("a"), packet.SubscribeOptions{RetainHandling: 1})
	s.take("x")
	s.leave()
	s = t.connect("l", lasting)
	s.subscribe(t.topic("a"), packet.SubscribeOptions{RetainHandling: 1})
	s.silent()
	t.where = ""
}

func retainedIsReplacedAndRemoved(t *T) {
	p := t.connect("p")
	look := func(want string) {
		s := t.connect("s")
		s.subscribe(t.topic("a"), qos(1))
		if want != "" {
			s.take(want)
		}
		s.silent()
	}
	p.deliver(kept(t.topic("a"), "1", 1))
	look("1")
	p.deliver(kept(t.topic("a"), "2", 0))
	look("2")
	p.deliver(text(t.topic("a"), "3", 1)) // neither stored nor a replacement
	look("2")
	live := t.connect("live")
	live.subscribe(t.topic("a"), packet.SubscribeOptions{RetainHandling: 2 * byte(t.v/packet.V5)})
	if !t.v5() {
		live.take("2")
	}
	p.deliver(kept(t.topic("a"), "", 1))
	live.take("") // goes to who is there, as any
	look("")
}

func retainedOutlivesItsSession(t *T) {
	p := t.connect("p")
	p.deliver(kept(t.topic("a"), "x", 1))
	p.leave()
	s := t.connect("p")
	s.subscribe(t.topic("a"), qos(0))
	s.take("x")
}

func retainedSurvivesAKill(t *T) {
	t.broker()
	p := t.connect("p")
	p.deliver(kept(t.topic("a"), "x", 1))
	p.deliver(kept(t.topic("b"), "x", 1))
	p.deliver(kept(t.topic("b"), "", 1))
	t.restart()
	s := t.connect("s")
	s.subscribe(t.topic("#"), qos(0))
	s.take("x")
	s.silent()
}

func subscriptionIdentifiersOfAllMatches(t *T) {
	s, p := t.connect("s", lasting), t.connect("p")
	if s.connack.SubIDUnavailable {
		s.send(packet.AppendSubscribe(nil, 1, 7, []packet.Subscription{{Filter: t.topic("a")}}, t.v))
		s.closed(packet.SubIDNotSupported)
		t.refused("subscription identifiers")
	}
	s.subscribeAs(7, packet.Subscription{Filter: t.topic("a/+"), Options: qos(1)})
	s.subscribeAs(268435455, packet.Subscription{Filter: t.topic("a/#"), Options: qos(2)})
	s.subscribeAs(0, packet.Subscription{Filter: t.topic("#"), Options: qos(0)})
	want := []uint32{7, 268435455}
	look := func(payload string) {
		// One message with all identifiers, or one for each subscription with its own.
		var got []uint32
		for range 3 {
			m := s.take(payload)
			for id := range m.ReceivedSubscriptionIDs() {
				got = append(got, id)
			}
			if len(got) >= 2 {
				break
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.failf("identifiers %v, want %v", got, want)
		}
	}
	p.deliver(text(t.topic("a/b"), "live", 1))
	look("live")
	if !t.ours {
		return // copies may still be on their way
	}
	s.silent()
	s.leave()
	p.deliver(text(t.topic("a/b"), "queued", 1))
	s = t.connect("s", lasting)
	look("queued")
	s.silent()
	p.deliver(kept(t.topic("a/c"), "kept", 0))
	s.take("kept")
	s.subscribeAs(9, packet.Subscription{Filter: t.topic("a/c")})
	m := s.take("kept")
	for id := range m.ReceivedSubscriptionIDs() {
		if id != 9 {
			t.failf("a retained message has the identifier %d, want 9", id)
		}
	}
}

func overlappingSubscriptionsTakeTheHighestQoS(t *T) {
	s, p := t.connect("s"), t.connect("p")
	s.subscribe(t.topic("a/+"), qos(0))
	s.subscribe(t.topic("a/#"), qos(2))
	s.subscribe(t.topic("a/b"), qos(1))
	p.deliver(text(t.topic("a/b"), "x", 2))
	// One message of the highest QoS, or one for each subscription: all are there before the answer.
	highest, copies := packet.QoS(0), 0
	s.send(packet.AppendPingreq(nil))
	for {
		h, body := s.next()
		if h.Type == packet.PINGRESP {
			break
		}
		if h.Type != packet.PUBLISH {
			t.failf("got %s", h.Type)
		}
		m, err := packet.ParsePublish(body, h.Flags, t.v)
		t.must(err)
		highest = max(highest, m.QoS)
		copies++
	}
	if copies == 0 || copies > 3 || t.ours && copies > 1 {
		t.failf("it came %d times", copies)
	}
	if highest != 2 {
		t.failf("it came at QoS %d", highest)
	}
}

func filtersMatch(t *T) {
	for _, row := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"a/+", "a/b", true},
		{"a/+", "a", false},
		{"a/+", "a/", true},
		{"a/+", "a/b/c", false},
		{"+/+", "/", true},
		{"a/+/c", "a//c", true},
		{"A", "a", false},
		{"a", "a/", false},
		{"a", "/a", false},
		{"a b", "a b", true},
		{"ä", "a\u0308", false}, // no normalising
		{"a/./b", "a/b", false},
		{"a//b", "a/b", false},
		{"#", "a", true},
	} {
		t.where = fmt.Sprintf("filter %q, topic %q", row.filter, row.topic)
		s := t.connect("s")
		s.subscribe(t.topic(row.filter), qos(0))
		s.publish(text(t.topic(row.topic), "x", 0))
		if row.want {
			if m := s.take("x"); string(m.Topic) != t.topic(row.topic) {
				t.failf("it came as %q", m.Topic)
			}
		}
		s.silent()
		s.leave()
	}
	t.where = ""
}

func wildcardsDoNotMatchDollar(t *T) {
	s := t.connect("s")
	s.subscribe("#", qos(0))
	s.subscribe("+/"+t.prefix, qos(0))
	p := t.connect("p")
	// What a broker does with a client's message to such a topic is its own: but it does not
	// match, whether it is taken or refused.
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("$conform/" + t.prefix), Payload: []byte("dollar")}, t.v)
	p.send(b)
	t.connect("q").deliver(text(t.topic("end"), "end", 1))
	for {
		m := s.message() // what others publish comes, too
		if strings.HasPrefix(string(m.Topic), "$") {
			t.failf("%q matches", m.Topic)
		}
		if string(m.Topic) == t.topic("end") {
			return
		}
	}
}

func unsubscribeMatchesExactly(t *T) {
	s, p := t.connect("s"), t.connect("p")
	s.subscribe(t.topic("a/b"), qos(0))
	s.subscribe(t.topic("a/+"), qos(0))
	u := s.unsubscribe(t.topic("a/#"), t.topic("a/+"))
	if t.v5() && !slices.Equal(u.Codes, []packet.ReasonCode{packet.NoSubscriptionExisted, packet.Success}) {
		t.failf("UNSUBACK says %v", u.Codes)
	}
	if !t.v5() && len(u.Codes) > 0 {
		t.failf("UNSUBACK has a payload")
	}
	p.deliver(text(t.topic("a/b"), "x", 1))
	s.take("x")
	p.deliver(text(t.topic("a/c"), "y", 1))
	s.silent()
	s.unsubscribe(t.topic("a/b"))
	p.deliver(text(t.topic("a/b"), "z", 1))
	s.silent()
	s.unsubscribe(t.topic("a/b")) // is answered, too
}

func unsubscribeFinishesWhatIsUnderWay(t *T) {
	s, p := t.connect("s", lasting), t.connect("p")
	s.subscribe(t.topic("a"), qos(2))
	p.deliver(text(t.topic("a"), "1", 1))
	p.deliver(text(t.topic("a"), "2", 2))
	one, two := s.message(), s.message()
	s.unsubscribe(t.topic("a"))
	s.leave()
	s = t.connect("s", lasting)
	if m := s.take("1"); m.ID != one.ID || !m.Dup {
		t.failf("packet id %d, DUP %v", m.ID, m.Dup)
	}
	if m := s.take("2"); m.ID != two.ID || !m.Dup {
		t.failf("packet id %d, DUP %v", m.ID, m.Dup)
	}
	s.silent()
}

func everySessionGetsItsMessage(t *T) {
	away := t.connect("away", lasting)
	away.subscribe(t.topic("+"), qos(1))
	away.leave()
	here, also := t.connect("here"), t.connect("also")
	here.subscribe(t.topic("a"), qos(1))
	also.subscribe(t.topic("#"), qos(0))
	t.connect("p").deliver(text(t.topic("a"), "x", 1))
	here.take("x")
	also.take("x")
	t.connect("away", lasting).take("x")
}

func announcedLimitsHold(t *T) {
	p := t.connect("c")
	a := &p.connack
	var missing []string
	if a.HasMaximumQoS {
		q := t.connect("q")
		q.publish(packet.Publish{Topic: []byte(t.topic("a")), QoS: a.MaximumQoS + 1})
		q.closed(packet.QoSNotSupported)
		missing = append(missing, fmt.Sprint("QoS ", a.MaximumQoS+1))
	}
	if a.RetainUnavailable {
		q := t.connect("r")
		q.publish(kept(t.topic("a"), "x", 0))
		q.closed(packet.RetainNotSupported)
		missing = append(missing, "retain")
	}
	if a.WildcardUnavailable {
		q := t.connect("w")
		q.send(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: t.topic("#")}}, t.v))
		q.closed(packet.WildcardNotSupported) // a Protocol Error (§3.2.2.3.11), not a matter of the SUBACK
		missing = append(missing, "wildcards")
	}
	if a.SubIDUnavailable {
		q := t.connect("i")
		q.send(packet.AppendSubscribe(nil, 1, 7, []packet.Subscription{{Filter: t.topic("a")}}, t.v))
		q.closed(packet.SubIDNotSupported)
		missing = append(missing, "subscription identifiers")
	}
	if a.SharedUnavailable {
		q := t.connect("g")
		q.send(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "$share/g/" + t.topic("a")}}, t.v))
		q.closed(packet.SharedNotSupported)
		missing = append(missing, "shared subscriptions")
	}
	if len(missing) == 0 { // all is available: it is so
		p.subscribeAs(7, packet.Subscription{Filter: t.topic("#"), Options: qos(2)})
		t.connect("p").deliver(kept(t.topic("a"), "x", 0))
		p.take("x")
	}
}

func whatIsNotOfferedIsRefused(t *T) {
	t.broker("limits.max_qos=1", "limits.retain=false", "limits.wildcards=false", "limits.subscription_ids=false",
		"limits.shared_subscriptions=false")
	p := t.connect("look")
	if a := p.connack; !a.HasMaximumQoS || a.MaximumQoS != 1 || !a.RetainUnavailable || !a.WildcardUnavailable || !a.SubIDUnavailable || !a.SharedUnavailable {
		t.failf("the CONNACK says %+v", a)
	}
	announcedLimitsHold(t)
	if code := p.subscribeAs(0, packet.Subscription{Filter: t.topic("a"), Options: qos(2)})[0]; code > 2 {
		t.failf("a subscription at QoS 2 is answered %s", code)
	}
}

// wildcardsAreServedOrRefused is of the versions that announce nothing.
func wildcardsAreServedOrRefused(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("+"), qos(0)) // granted
	s.publish(text(t.topic("a"), "x", 0))
	s.take("x")
	t.with("limits.wildcards=false")
	s = t.connect("s")
	code := s.subscribeAs(0, packet.Subscription{Filter: t.topic("+")})[0]
	s.publish(text(t.topic("a"), "x", 0))
	if code == packet.Success {
		s.take("x")
	} else if t.ours && code != packet.UnspecifiedError {
		t.failf("it is answered 0x%02X", byte(code))
	}
	s.silent()
}

func limitSettingsAreAnnouncedAndHold(t *T) {
	t.broker("limits.max_packet=100KiB", "limits.receive_maximum=7")
	p := t.connect("c")
	if a := p.connack; a.MaximumPacketSize != 100<<10 || a.ReceiveMaximum != 7 {
		t.failf("maximum packet size %d, receive maximum %d", a.MaximumPacketSize, a.ReceiveMaximum)
	}
	enormousPacketIsRefusedAtItsHeader(t)
	receiveMaximumIsEnforced(t)
}

// Shared subscriptions.

// shared subscribes to a filter in a group, or ends the check if the broker refuses that.
func (p *peer) shared(filter string, q packet.QoS) {
	filter = "$share/" + p.t.prefix + "/" + filter
	if p.connack.SharedUnavailable {
		p.send(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter, Options: qos(q)}}, p.Version))
		p.closed(packet.SharedNotSupported) // a Protocol Error (§3.2.2.3.13)
		p.t.refused("shared subscriptions")
	}
	p.subscribe(filter, qos(q))
}

func badShareNamesAreRefused(t *T) {
	if t.connect("c").connack.SharedUnavailable {
		p := t.connect("d")
		p.shared(t.topic("a"), 0)
	}
	for _, filter := range []string{"$share", "$share/", "$share/g", "$share//a", "$share/g+/a", "$share/#/a", "$share/g/"} {
		t.where = filter
		p := t.connect("c")
		p.send(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter}}, t.v))
		h, body, err := p.Packet(t.ctx)
		if err != nil && t.ctx.Err() != nil {
			t.failf("no answer: %v", err)
		}
		if err == nil && h.Type == packet.SUBACK && body[len(body)-1] < 0x80 {
			t.failf("it is granted")
		}
		p.Close()
	}
}

func oneMemberGetsAMessage(t *T) {
	a, b, p := t.connect("a"), t.connect("b"), t.connect("p")
	a.shared(t.topic("x/+"), 1)
	b.shared(t.topic("x/+"), 1)
	const n = 20
	for i := range n {
		p.deliver(text(t.topic("x/y"), fmt.Sprint(i), 2))
	}
	got := map[string]int{}
	for _, s := range []*peer{a, b} {
		s.send(packet.AppendPingreq(nil))
		for {
			h, body := s.next()
			if h.Type == packet.PINGRESP {
				break
			}
			m, err := packet.ParsePublish(body, h.Flags, t.v)
			t.must(err)
			if m.QoS != 1 || m.Retain {
				t.failf("QoS %d, want the granted 1; retain %v", m.QoS, m.Retain)
			}
			got[string(m.Payload)]++
			s.ack(packet.PUBACK, m.ID)
		}
	}
	for i := range n {
		if got[fmt.Sprint(i)] != 1 {
			t.failf("message %d came %d times", i, got[fmt.Sprint(i)])
		}
	}
}

func sharedGetsNoRetained(t *T) {
	t.recommended()
	t.connect("p").deliver(kept(t.topic("a"), "x", 1))
	s := t.connect("s")
	s.shared(t.topic("a"), 1)
	s.silent()
}

func lostMembersQoS1GoesToAnother(t *T) {
	t.recommended()
	a, p := t.connect("a"), t.connect("p")
	a.shared(t.topic("x"), 1)
	p.deliver(text(t.topic("x"), "1", 1))
	a.message() // and does not acknowledge it
	b := t.connect("b")
	b.shared(t.topic("x"), 1)
	a.Close()
	b.take("1")
}

func sharedErrorDiscards(t *T) {
	a, p := t.connect("a"), t.connect("p")
	a.shared(t.topic("x"), 1)
	p.deliver(text(t.topic("x"), "1", 1))
	m := a.message()
	b := t.connect("b")
	b.shared(t.topic("x"), 1)
	a.send(packet.AppendAck(nil, &packet.Ack{Type: packet.PUBACK, ID: m.ID, Code: packet.UnspecifiedError}, t.v))
	a.silent()
	a.leave()
	b.silent()
	// The same with a PUBREC.
	c, d := t.connect("c"), t.connect("d")
	c.shared(t.topic("y"), 2)
	p.deliver(text(t.topic("y"), "1", 2))
	m = c.message()
	d.shared(t.topic("y"), 2)
	c.send(packet.AppendAck(nil, &packet.Ack{Type: packet.PUBREC, ID: m.ID, Code: packet.UnspecifiedError}, t.v))
	c.silent()
	c.leave()
	d.silent()
}

// sharedQoS2StaysWithItsMember breaks the connection behind the PUBLISH and behind the PUBREL.
func sharedQoS2StaysWithItsMember(t *T) {
	a, p := t.connect("a", lasting), t.connect("p")
	a.shared(t.topic("x"), 2)
	p.deliver(text(t.topic("x"), "1", 2))
	m := a.message()
	b := t.connect("b")
	b.shared(t.topic("x"), 2)
	a.leave()
	b.silent()
	a = t.connect("a", lasting)
	if again := a.message(); again.ID != m.ID || !again.Dup {
		t.failf("it came again with packet id %d and DUP %v", again.ID, again.Dup)
	}
	a.ack(packet.PUBREC, m.ID)
	a.acked(packet.PUBREL, m.ID)
	a.leave()
	b.silent()
	a = t.connect("a", lasting)
	a.acked(packet.PUBREL, m.ID)
	a.ack(packet.PUBCOMP, m.ID)
	a.silent()
	b.silent()
}

// sharedQoS2EndsWithItsMember ends the session of a member that has not completed.
func sharedQoS2EndsWithItsMember(t *T) {
	a, p := t.connect("a", lasting), t.connect("p")
	a.shared(t.topic("x"), 2)
	p.deliver(text(t.topic("x"), "1", 2))
	a.message()
	b := t.connect("b")
	b.shared(t.topic("x"), 2)
	a.leave()
	t.connect("a").present(false) // with a clean start
	b.silent()
	p.deliver(text(t.topic("x"), "2", 2))
	b.take("2")
	b.silent()
	// The same with a session that ends with its connection.
	c, d := t.connect("c"), t.connect("d")
	c.shared(t.topic("y"), 2)
	p.deliver(text(t.topic("y"), "1", 2))
	c.message()
	d.shared(t.topic("y"), 2)
	c.leave()
	d.silent()
}
