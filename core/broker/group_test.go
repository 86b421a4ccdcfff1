package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dunlin/core/packet"
)

// texts returns the payloads that a client has got before a PINGRESP, and acknowledges them.
func (w *wire) texts() (all []string) {
	w.t.Helper()
	w.write(packet.AppendPingreq(nil))
	for {
		h, body := w.read()
		switch h.Type {
		case packet.PINGRESP:
			return all
		case packet.PUBREL:
			a, err := packet.ParseAck(packet.PUBREL, body, w.v)
			if err != nil {
				w.t.Fatal(err)
			}
			w.ack(packet.PUBCOMP, a.ID)
			continue
		}
		p, err := packet.ParsePublish(body, h.Flags, w.v)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, string(p.Payload))
		switch p.QoS {
		case 1:
			w.ack(packet.PUBACK, p.ID)
		case 2:
			w.ack(packet.PUBREC, p.ID)
		}
	}
}

// deliver publishes and waits until the broker has the message.
func (w *wire) deliver(topic, payload string, qos packet.QoS) {
	w.t.Helper()
	w.publish(topic, payload, qos, 1)
	switch qos {
	case 0:
		w.nothing()
	case 1:
		w.expect(packet.PUBACK)
	case 2:
		w.expect(packet.PUBREC)
		w.ack(packet.PUBREL, 1)
		w.expect(packet.PUBCOMP)
	}
}

// numbers are the decimal numbers from a to b.
func numbers(a, b int) (all []string) {
	for i := a; i <= b; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func TestMembersOfAGroupTakeTurns(t *testing.T) { // MQTT5 §4.8.2
	for _, v := range versions {
		for qos := range packet.QoS(3) {
			t.Run(fmt.Sprint("version ", v, ", QoS ", qos), func(t *testing.T) {
				x := start(t)
				members := make([]*wire, 3)
				for i := range members {
					if i == 0 {
						members[i], _ = x.connect(v, "m0", lasting)
					} else {
						members[i], _ = x.connect(v, fmt.Sprint("m", i))
					}
					members[i].subscribe("$share/g/a/+", 2)
				}
				p, _ := x.connect(v, "p")
				for i := range 9 {
					p.deliver("a/b", fmt.Sprint(i), qos)
				}
				for i, m := range members {
					if got, want := m.texts(), []string{fmt.Sprint(i), fmt.Sprint(i + 3), fmt.Sprint(i + 6)}; !slices.Equal(got, want) {
						t.Errorf("member %d got %v, want %v", i, got, want)
					}
				}
			})
		}
	}
}

func TestGroupsAreApartByShareNameAndFilter(t *testing.T) { // MQTT5 §4.8.2
	x := start(t)
	w, _ := x.connect(packet.V5, "c")
	for _, f := range []string{"$share/g/a", "$share/h/a", "$share/g/+", "$queue/a", "a"} {
		w.subscribe(f, 0)
	}
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "x", 0)
	if got := w.texts(); len(got) != 5 {
		t.Errorf("got %d copies, want one for each of 5 subscriptions", len(got))
	}
	s, err := x.b.Snapshot(t.Context())
	if err != nil || s.Subscriptions != 5 {
		t.Errorf("%d subscriptions, want 5 (%v)", s.Subscriptions, err)
	}
}

func TestMemberGetsAMessageByItsOwnSubscription(t *testing.T) { // [MQTT-4.8.2-3]
	x := start(t)
	w, _ := x.connect(packet.V5, "c")
	got := suback(t, w, packet.AppendSubscribe(nil, 1, 300, []packet.Subscription{
		{Filter: "$share/g/a", Options: packet.SubscribeOptions{QoS: 1, RetainAsPublished: true}},
	}, w.v))
	if len(got) != 1 || got[0] != packet.GrantedQoS1 {
		t.Fatalf("got %v", got)
	}
	p, _ := x.connect(packet.V5, "p")
	b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 2, Retain: true}, p.v)
	b[at+1] = 1
	p.write(b)
	p.expect(packet.PUBREC)
	m := w.message()
	if m.QoS != 1 || !m.Retain || !strings.Contains(fmt.Sprintf("%x", m.Raw), "0bac02") {
		t.Errorf("QoS %d, retain %v, properties %x; want 1, true, identifier 300", m.QoS, m.Retain, m.Raw)
	}
	// Asked again, the subscription is replaced [MQTT-3.8.4-3] and stays one.
	w.ack(packet.PUBACK, m.ID)
	w.subscribe("$share/g/a", 0)
	p.deliver("a", "y", 1)
	if m := w.message(); m.QoS != 0 || m.Retain || strings.Contains(fmt.Sprintf("%x", m.Raw), "0bac02") {
		t.Errorf("QoS %d, retain %v, properties %x after it was replaced", m.QoS, m.Retain, m.Raw)
	}
	w.nothing()
}

func TestGroupGivesToWhoIsConnected(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "$share/g/a", 1)
	w, _ := x.connect(packet.V5, "here")
	w.subscribe("$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 4 {
		p.deliver("a", fmt.Sprint(i), 1)
	}
	if got := w.texts(); !slices.Equal(got, numbers(0, 3)) {
		t.Errorf("got %v, want all", got)
	}
	x.queues("away", 0, 0)
}

func TestGroupOfSessionsThatAreAwayFillsTheShortestQueue(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "one", "$share/g/a", 1)
	x.offline(packet.V5, "two", "$share/g/a", 2)
	x.offline(packet.V5, "three", "$share/g/a", 0) // nothing would wait for it
	p, _ := x.connect(packet.V5, "p")
	for i := range 4 {
		p.deliver("a", fmt.Sprint(i), 2)
	}
	x.queues("one", 2, 0)
	x.queues("two", 2, 0)
	x.queues("three", 0, 0)
	for i, id := range []string{"one", "two"} {
		w, _ := x.connect(packet.V5, id, lasting)
		for _, want := range []string{fmt.Sprint(i), fmt.Sprint(i + 2)} { // from the store: a PINGRESP may overtake them
			if m := w.message(); string(m.Payload) != want {
				t.Errorf("%s got %q, want %q", id, m.Payload, want)
			}
		}
	}
}

func TestMessageForAGroupOfNobodyIsAsForNoSubscriber(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "$share/g/a", 0)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 1, 1)
	if a := p.acked(packet.PUBACK); a.Code != packet.NoMatchingSubscribers {
		t.Errorf("got %v, want %v", a.Code, packet.NoMatchingSubscribers)
	}
	w, _ := x.connect(packet.V5, "c")
	w.subscribe("$share/g/a", 1)
	w.net.Close()
	x.until("the end of the member", func() bool { return x.b.members["c"] == nil })
	p.publish("a", "x", 1, 1)
	if a := p.acked(packet.PUBACK); a.Code != packet.NoMatchingSubscribers {
		t.Errorf("got %v, want %v", a.Code, packet.NoMatchingSubscribers)
	}
}

func TestGroupPassesOverAFullWindow(t *testing.T) {
	x := start(t)
	slow, _ := x.connect(packet.V5, "slow", func(c *packet.Connect) { c.ReceiveMaximum = 1 })
	slow.subscribe("$share/g/a", 1)
	quick, _ := x.connect(packet.V5, "quick")
	quick.subscribe("$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 5 {
		p.deliver("a", fmt.Sprint(i), 1)
	}
	if m := slow.message(); string(m.Payload) != "0" {
		t.Errorf("got %q first", m.Payload)
	}
	slow.nothing()
	if got := quick.texts(); !slices.Equal(got, numbers(1, 4)) {
		t.Errorf("got %v, want 1 to 4", got)
	}
}

func TestFullGroupDropsAndCounts(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxQueued = 1 })
	x.offline(packet.V5, "one", "$share/g/a", 1)
	x.offline(packet.V5, "two", "$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 3 {
		p.deliver("a", fmt.Sprint(i), 1)
	}
	x.queues("one", 1, 0)
	x.queues("two", 1, 0)
	if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedFull != 1 {
		t.Errorf("%d dropped, want 1 (%v)", s.DroppedFull, err)
	}
}

func TestSharedSubscriptionGetsNoRetainedMessages(t *testing.T) { // MQTT5 §4.8.2
	x := start(t)
	p, _ := x.connect(packet.V5, "p")
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), Retain: true}, p.v)
	p.write(b)
	p.nothing()
	w, _ := x.connect(packet.V5, "c")
	w.subscribe("$share/g/a", 1)
	w.nothing()
	w.subscribe("$share/g/a", 0)
	w.nothing()
}

func TestMalformedSharedSubscriptionsAreRefused(t *testing.T) { // [MQTT-4.8.2-1, MQTT-4.8.2-2]
	x := start(t)
	for _, filter := range []string{
		"$share", "$queue", "$share/", "$share//x", "$share/g", "$share/g/", "$share/+/x", "$share/#/x", "$share/a#/x", "$share/g/a#", "$queue/", "$queue/a+",
	} {
		for v, want := range map[packet.Version]packet.ReasonCode{packet.V5: packet.TopicFilterInvalid, packet.V311: 0x80} {
			w, _ := x.connect(v, "c")
			got := suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter}}, v))
			if len(got) != 1 || got[0] != want {
				t.Errorf("%s, version %d: got %v, want %v", filter, v, got, want)
			}
		}
	}
	x.do(func() {
		if x.b.index.Len() != 0 || len(x.b.groups) != 0 {
			t.Error("a refused filter was entered")
		}
	})
}

func TestNoLocalOnASharedSubscriptionIsRefused(t *testing.T) { // [MQTT-3.8.3-4]
	x := start(t)
	for _, filter := range []string{"$share/g/a", "$queue/a"} {
		w, _ := x.connect(packet.V5, "c")
		w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter, Options: packet.SubscribeOptions{NoLocal: true}}}, w.v))
		if code := w.disconnected(); code != packet.ProtocolError {
			t.Errorf("%s: got %v, want %v", filter, code, packet.ProtocolError)
		}
	}
}

func TestQueueIsAGroupOfItsOwnName(t *testing.T) {
	x := start(t)
	one, _ := x.connect(packet.V311, "one")
	one.subscribe("$queue/a/#", 1)
	two, _ := x.connect(packet.V5, "two")
	two.subscribe("$share/$queue/a/#", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 4 {
		p.deliver("a/b", fmt.Sprint(i), 1)
	}
	if a, b := one.texts(), two.texts(); len(a) != 2 || len(b) != 2 {
		t.Errorf("got %v and %v, want two each", a, b)
	}
	one.write(packet.AppendUnsubscribe(nil, 1, []string{"$queue/a/#"}, one.v))
	one.expect(packet.UNSUBACK)
	p.deliver("a/b", "x", 1)
	if a, b := one.texts(), two.texts(); len(a) != 0 || len(b) != 1 {
		t.Errorf("got %v and %v after one has left", a, b)
	}
}

func TestGroupEndsWithItsLastMember(t *testing.T) {
	x := start(t)
	one, _ := x.connect(packet.V5, "one")
	one.subscribe("$share/g/a", 1)
	two, _ := x.connect(packet.V5, "two", lasting)
	two.subscribe("$share/g/a", 1)
	two.write(packet.AppendUnsubscribe(nil, 1, []string{"$share/g/a", "$share/g/b"}, two.v))
	k, err := packet.ParseUnsuback(two.expect(packet.UNSUBACK), two.v)
	if err != nil || !slices.Equal(k.Codes, []packet.ReasonCode{packet.Success, packet.NoSubscriptionExisted}) {
		t.Errorf("got %v (%v)", k.Codes, err)
	}
	one.net.Close()
	x.until("the end of the session", func() bool { return x.b.members["one"] == nil })
	x.do(func() {
		if x.b.index.Len() != 0 || len(x.b.groups) != 0 || x.b.sharers != 0 {
			t.Errorf("%d filters, %d groups, %d members are left", x.b.index.Len(), len(x.b.groups), x.b.sharers)
		}
	})
}

func TestRestoredSessionsAreMembersAtOnce(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "one", "$share/g/a", 1)
	x.offline(packet.V311, "two", "$queue/a", 2)
	y := restart(t, x)
	p, _ := y.connect(packet.V5, "p")
	p.deliver("a", "x", 2)
	y.queues("one", 1, 0)
	y.queues("two", 1, 0)
	z := restart(t, y, func(o *Options) { o.Limits.NoShared = true })
	z.do(func() {
		if z.b.index.Len() != 0 {
			t.Error("a shared subscription was restored that is not offered any more")
		}
	})
	z.queues("one", 1, 0) // what it has stays
}

func TestMemberThatRefusesEndsTheMessage(t *testing.T) { // [MQTT-4.8.2-6]
	x := start(t)
	for _, qos := range []packet.QoS{1, 2} {
		w, _ := x.connect(packet.V5, "w", lasting)
		w.subscribe("$share/g/a", 2)
		p, _ := x.connect(packet.V5, "p")
		p.deliver("a", "x", qos)
		m := w.message()
		other, _ := x.connect(packet.V5, "other")
		other.subscribe("$share/g/a", 2)
		kind := packet.PUBACK
		if qos == 2 {
			kind = packet.PUBREC
		}
		w.write(packet.AppendAck(nil, &packet.Ack{Type: kind, ID: m.ID, Code: packet.UnspecifiedError}, w.v))
		w.nothing()
		x.away(w, "w")
		if got := other.texts(); len(got) != 0 {
			t.Errorf("QoS %d: another member got %v", qos, got)
		}
		x.queues("w", 0, 0)
		other.net.Close()
		x.until("the end", func() bool { return x.b.members["other"] == nil })
	}
}

func TestOwnAndSharedSubscriptionAreTwoCopies(t *testing.T) { // MQTT5 §4.8.2
	for qos := range packet.QoS(3) {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			x := start(t)
			w, _ := x.connect(packet.V5, "w", lasting, func(c *packet.Connect) { c.ReceiveMaximum = 1 })
			for _, f := range []string{"a", "$share/g/a", "$share/h/+"} {
				w.subscribe(f, 2)
			}
			p, _ := x.connect(packet.V5, "p", lasting)
			p.deliver("a", "x", qos)
			for range 3 {
				m := w.message()
				switch {
				case m.QoS != qos || string(m.Payload) != "x":
					t.Errorf("got %q at QoS %d", m.Payload, m.QoS)
				case qos == 1:
					w.ack(packet.PUBACK, m.ID)
				case qos == 2:
					w.ack(packet.PUBREC, m.ID)
					w.expect(packet.PUBREL)
					w.ack(packet.PUBCOMP, m.ID)
				}
			}
			w.nothing()
			if n := x.store.open(); n != 0 {
				t.Errorf("%d copies are left in the store", n)
			}
		})
	}
}

func TestCopiesAreOnDiskBeforeTheAnswer(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "w", lasting)
	w.subscribe("a", 2)
	w.subscribe("$share/g/a", 2)
	x.away(w, "w")
	p, _ := x.connect(packet.V5, "p", lasting)
	p.publish("a", "x", 2, 7)
	p.expect(packet.PUBREC)
	y := restart(t, x)
	p, _ = y.connect(packet.V5, "p", lasting)
	p.again("a", "x", 2, 7)
	p.expect(packet.PUBREC) // and it is not delivered again [MQTT-4.3.3-10]
	y.queues("w", 2, 0)
	y.store.hold()
	p.publish("a", "y", 2, 8)
	p.nothing()
	y.store.release(errDisk)
	if a := p.acked(packet.PUBREC); a.Code != packet.QuotaExceeded {
		t.Errorf("got %v of a disk that fails, want %v", a.Code, packet.QuotaExceeded)
	}
	y.queues("w", 2, 0)
	p.publish("a", "y", 2, 8)
	if a := p.acked(packet.PUBREC); a.Code != packet.Success {
		t.Errorf("got %v, want success", a.Code)
	}
	y.queues("w", 4, 0)
}

func TestGroupPrefersAMemberThatDoesNotHaveTheMessage(t *testing.T) {
	x := start(t)
	one, _ := x.connect(packet.V5, "one", lasting)
	one.subscribe("a", 1)
	one.subscribe("$share/g/a", 1)
	two, _ := x.connect(packet.V5, "two", lasting)
	two.subscribe("$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "0", 1)
	p.deliver("a", "1", 1)
	if a, b := one.texts(), two.texts(); !slices.Equal(a, numbers(0, 1)) || !slices.Equal(b, numbers(0, 1)) {
		t.Errorf("got %v and %v", a, b)
	}
}

func TestSysReachesAGroup(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w", lasting)
	w.subscribe("$share/g/$SYS/broker/publish/messages/+", 0)
	if len(w.got(true)) != 0 {
		t.Error("retained values came")
	}
	x.tick() // finds out the values
	w.got(false)
	w.publish("a", "x", 0, 0)
	w.nothing()
	x.tick()
	if got := w.got(false); got["$SYS/broker/publish/messages/received"] != "1" {
		t.Errorf("got %v", got)
	}
	x.away(w, "w")
	x.tick()
	if !x.rests() {
		t.Error("the timer runs though nobody is connected")
	}
	x.connect(packet.V5, "w", lasting)
	if x.rests() {
		t.Error("the timer rests though a member is back")
	}
}

func TestMessagesOfALostMemberGoToAnother(t *testing.T) { // MQTT5 §4.8.2
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t, func(o *Options) { o.Limits.MaxInFlight = 3 })
			one, _ := x.connect(v, "one")
			one.subscribe("$share/g/a", 2)
			p, _ := x.connect(v, "p")
			for i := range 6 {
				p.deliver("a", fmt.Sprint(i), packet.QoS(1+i/5)) // the last one at QoS 2
			}
			m := one.message()
			one.message()
			one.message()
			one.ack(packet.PUBACK, m.ID) // 0 is done, 1 to 3 are in flight, 4 and 5 wait
			one.message()
			one.nothing()
			two, _ := x.connect(v, "two")
			two.subscribe("$share/g/a", 2)
			one.net.Close()
			for i := range 5 {
				m := two.message()
				if string(m.Payload) != fmt.Sprint(i+1) || m.Dup {
					t.Fatalf("got %q, DUP %v, want %d", m.Payload, m.Dup, i+1)
				}
				if m.QoS == 1 {
					two.ack(packet.PUBACK, m.ID)
				}
			}
			two.nothing()
			if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedEnded != 0 {
				t.Errorf("%d messages were dropped (%v)", s.DroppedEnded, err)
			}
		})
	}
}

func TestQoS2OfALostMemberGoesToNobodyElse(t *testing.T) { // [MQTT-4.8.2-5]
	x := start(t)
	one, _ := x.connect(packet.V5, "one")
	one.subscribe("$share/g/a", 2)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "x", 2)
	one.message()
	two, _ := x.connect(packet.V5, "two")
	two.subscribe("$share/g/a", 2)
	one.net.Close()
	x.until("the end of the session", func() bool { return x.b.members["one"] == nil })
	two.nothing()
	if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedEnded != 1 {
		t.Errorf("%d messages were dropped, want 1 (%v)", s.DroppedEnded, err)
	}
}

func TestMessagesOfALostMemberWaitForASessionThatIsAway(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "$share/g/a", 1)
	one, _ := x.connect(packet.V5, "one")
	one.subscribe("$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "x", 1)
	one.message()
	one.net.Close()
	x.until("the message", func() bool { return x.b.members["away"].state.Pending() == 1 && x.b.members["one"] == nil })
	y := restart(t, x)
	w, _ := y.connect(packet.V5, "away", lasting)
	if p := w.message(); string(p.Payload) != "x" {
		t.Errorf("got %q", p.Payload)
	}
}

func TestMessagesOfTheLastMemberAreDroppedAndCounted(t *testing.T) {
	x := start(t)
	one, _ := x.connect(packet.V5, "one")
	one.subscribe("$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "x", 1)
	one.message()
	one.net.Close()
	x.until("the end of the session", func() bool { return x.b.members["one"] == nil })
	if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedEnded != 1 {
		t.Errorf("%d messages were dropped, want 1 (%v)", s.DroppedEnded, err)
	}
}

func TestMessagesGoFromMemberToMemberWhenTheBrokerStops(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "$share/g/a", 1)
	for i := range 3 {
		w, _ := x.connect(packet.V5, fmt.Sprint("m", i))
		w.subscribe("$share/g/a", 1)
	}
	p, _ := x.connect(packet.V5, "p")
	for i := range 6 {
		p.deliver("a", fmt.Sprint(i), 1)
	}
	x.queues("away", 0, 0)
	x.b.Shutdown(t.Context())
	x.queues("away", 6, 0)
}

func TestWhatIsKeptForOthersIsBounded(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxTransientBytes = 3000 })
	one, _ := x.connect(packet.V5, "one")
	one.subscribe("$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	for range 5 {
		p.deliver("a", strings.Repeat("x", 1000), 1)
	}
	if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedFull != 2 {
		t.Errorf("%d messages were dropped, want 2 (%v)", s.DroppedFull, err)
	}
	one.texts()
	one.nothing()
	for range 3 {
		p.deliver("a", strings.Repeat("x", 1000), 1)
	}
	if got := len(one.texts()); got != 3 {
		t.Errorf("got %d messages after the first were acknowledged, want 3", got)
	}
}

// A choice among thousands of members must not hold up everybody else.
func TestChoiceAmongManyMembersLooksAtFew(t *testing.T) {
	x := start(t)
	const absent = 4 * maxAsked
	for i := range absent {
		x.offline(packet.V5, fmt.Sprint("absent", i), "$share/g/a", 1)
	}
	p, _ := x.connect(packet.V5, "p")
	looks := func(do func()) int {
		t.Helper()
		x.store.mu.Lock()
		before := x.store.lookups
		x.store.mu.Unlock()
		do()
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		return x.store.lookups - before
	}
	if n := looks(func() { p.deliver("a", "", 1) }); n > maxAsked+2 {
		t.Errorf("the store was asked %d times where all are absent, want %d at most", n, maxAsked+2)
	}

	one := x.groupMember("one", 1, func(c *packet.Connect) { c.ReceiveMaximum = 1 })
	if n := looks(func() { p.deliver("a", "0", 1) }); n > 4 {
		t.Errorf("the store was asked %d times for one member who is ready, want 4 at most", n)
	}
	for i := 1; i < 10; i++ {
		p.deliver("a", fmt.Sprint(i), 1)
	}
	if got := one.collect(10); !slices.Equal(got, numbers(0, 9)) {
		t.Errorf("who is connected got %v", got)
	}
	for i := range 10 {
		p.deliver("a", fmt.Sprint(i), 1)
	}
	one.message() // it holds that one
	two := x.groupMember("two", 1)
	n := looks(func() {
		x.away(one, "one")
		if got := two.collect(10); !slices.Equal(got, numbers(0, 9)) {
			t.Errorf("the heir got %v", got)
		}
	})
	if n > 100 {
		t.Errorf("the store was asked %d times to move 10 messages, want 100 at most", n)
	}
}

// A member with room gets the message, however many have none.
func TestMemberWithRoomIsFoundBehindManyFullOnes(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxQueued = 1 })
	const absent = 2 * maxAsked
	p, _ := x.connect(packet.V5, "p")
	for i := range absent {
		x.offline(packet.V5, fmt.Sprint("absent", i), "$share/g/a", 1)
	}
	for range absent {
		p.deliver("a", "", 1)
	}
	for i := range absent {
		x.queues(fmt.Sprint("absent", i), 1, 0)
	}
}
