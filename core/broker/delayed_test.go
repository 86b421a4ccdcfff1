package broker

import (
	"container/heap"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dunlin/core/access"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/rule"
)

// due does what the timer would do in an hour.
func (x *bench) due() {
	x.t.Helper()
	x.do(func() { x.b.delayed.Fire(x.b.loop.Now() + time.Hour) })
}

// delayedNow checks how much is delayed.
func (x *bench) delayedNow(want int) {
	x.t.Helper()
	x.until(fmt.Sprint(want, " delayed messages"), func() bool {
		q := &x.b.delayed
		return q.count == want && (want > 0 || q.bytes == 0 && len(q.heap) == 0 && q.foreign == 0)
	})
}

// send publishes at any QoS and takes the acknowledgement; it returns its code.
func (w *wire) send(p packet.Publish) packet.ReasonCode {
	w.t.Helper()
	p.ID = 99
	b, at := packet.AppendPublish(nil, &p, w.v)
	if p.QoS > 0 {
		b[at], b[at+1] = 0, 99
	}
	w.write(b)
	switch p.QoS {
	case 1:
		return w.acked(packet.PUBACK).Code
	case 2:
		code := w.acked(packet.PUBREC).Code
		if code < packet.UnspecifiedError {
			w.ack(packet.PUBREL, 99)
			w.acked(packet.PUBCOMP)
		}
		return code
	}
	w.nothing()
	return packet.Success
}

// takes receives a message and acknowledges it whatever its QoS.
func (w *wire) takes(topic, payload string) packet.Publish {
	w.t.Helper()
	p := w.hears(topic, payload)
	switch p.QoS {
	case 1:
		w.ack(packet.PUBACK, p.ID)
	case 2:
		w.ack(packet.PUBREC, p.ID)
		w.expect(packet.PUBREL)
		w.ack(packet.PUBCOMP, p.ID)
	}
	return p
}

func TestDelayedMessageIsPublishedWhenItIsDue(t *testing.T) {
	for _, v := range []packet.Version{packet.V31, packet.V311, packet.V5} {
		for qos := range packet.QoS(3) {
			x := start(t)
			sub, _ := x.connect(v, "sub")
			sub.subscribe("a/#", 2)
			pub, _ := x.connect(v, "pub")
			if code := pub.send(packet.Publish{Topic: []byte("$delayed/3000/a/b"), Payload: []byte("x"), QoS: qos}); code != packet.Success {
				t.Errorf("got %v", code)
			}
			pub.net.Close() // it need not be there
			x.delayedNow(1)
			x.do(func() { x.b.delayed.Fire(x.b.loop.Now() + 1000*time.Second) })
			sub.nothing()
			x.due()
			if p := sub.takes("a/b", "x"); p.QoS != qos || p.Retain || p.Dup {
				t.Errorf("got %+v", p)
			}
			x.delayedNow(0)
			if left := x.store.waits(); len(left) != 0 {
				t.Errorf("%d messages are still in the store", len(left))
			}
			x.due()
			sub.nothing()
		}
	}
}

func TestDelayedMessageIsWholeWhenItIsDue(t *testing.T) { // [MQTT-3.3.2-17], [MQTT-3.3.1-5]
	x := start(t)
	pub, _ := x.connect(packet.V5, "pub")
	properties := []byte{0x01, 1, 0x03, 0, 1, 'c', 0x26, 0, 1, 'k', 0, 1, 'v'}
	for qos := range packet.QoS(3) {
		topic := fmt.Sprint("a/", qos)
		pub.send(packet.Publish{Topic: []byte("$delayed/60/" + topic), Payload: []byte("x"), QoS: qos, Retain: true, Properties: properties})
	}
	before, _ := x.connect(packet.V5, "before")
	before.subscribe("a/#", 0)
	before.nothing() // it is not retained yet
	x.due()
	for qos := range 3 {
		before.hears(fmt.Sprint("a/", qos), "x")
	}
	after, _ := x.connect(packet.V5, "after")
	after.subscribe("a/1", 0)
	if p := after.hears("a/1", "x"); !p.Retain || string(p.Properties) != string(properties) {
		t.Errorf("got RETAIN %v and properties %q", p.Retain, p.Properties)
	}
}

func TestAcknowledgementOfADelayedMessageWaitsForItsCommit(t *testing.T) {
	x := start(t)
	pub, _ := x.connect(packet.V5, "pub")
	x.store.hold()
	pub.publish("$delayed/60/a", "x", 1, 1)
	pub.nothing()
	x.due() // it is not there yet
	x.store.release(nil)
	if code := pub.acked(packet.PUBACK).Code; code != packet.Success {
		t.Errorf("got %v", code)
	}
	x.store.hold()
	pub.publish("$delayed/60/a", "x", 2, 2)
	pub.nothing()
	x.store.release(errDisk)
	if code := pub.acked(packet.PUBREC).Code; code != packet.QuotaExceeded {
		t.Errorf("got %v", code)
	}
	x.delayedNow(1)
}

// A crash at each step, and what must follow: QoS 2 comes once, whatever happens.
func TestDelayedMessageComesOnceOverCrashes(t *testing.T) { // [MQTT-4.3.3-10], [MQTT-4.3.3-13]
	for _, crash := range []string{"before the commit", "after the commit", "due, before its commit", "due, after its commit"} {
		t.Run(crash, func(t *testing.T) {
			x := start(t)
			x.offline(packet.V5, "sub", "a", 2)
			pub, _ := x.connect(packet.V5, "pub", lasting)
			if crash == "before the commit" {
				x.store.hold()
			}
			pub.publish("$delayed/60/a", "x", 2, 1)
			if crash == "before the commit" {
				pub.nothing()
			} else {
				pub.acked(packet.PUBREC)
			}
			if strings.HasPrefix(crash, "due") {
				if crash == "due, before its commit" {
					x.store.hold()
				}
				x.due()
				x.due()
				if crash == "due, before its commit" {
					x.queues("sub", 1, 0)
				} else {
					x.delayedNow(0)
				}
			}
			y := restart(t, x)
			pub, _ = y.connect(packet.V5, "pub", lasting)
			pub.again("$delayed/60/a", "x", 2, 1) // it does not know
			pub.acked(packet.PUBREC)
			pub.ack(packet.PUBREL, 1)
			pub.acked(packet.PUBCOMP)
			y.due()
			y.delayedNow(0)
			y = restart(t, y)
			y.due()
			sub, _ := y.connect(packet.V5, "sub", lasting)
			sub.takes("a", "x")
			sub.nothing()
			y.queues("sub", 0, 0)
		})
	}
}

// What could not be stored when it was due is published again: nobody gets it twice who must not.
func TestDueMessageThatCannotBeStoredIsPublishedAgain(t *testing.T) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		x := start(t)
		x.offline(packet.V5, "away", "a", 2)
		durable, _ := x.connect(packet.V5, "durable", lasting)
		durable.subscribe("a", 2)
		transient, _ := x.connect(packet.V5, "transient")
		transient.subscribe("a", 2)
		once, _ := x.connect(packet.V5, "once")
		once.subscribe("a", 0)
		pub, _ := x.connect(packet.V5, "pub")
		pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: []byte("x"), QoS: qos})
		x.store.hold()
		x.due()
		x.until("it is under way", func() bool { return x.b.undecided > 0 })
		x.store.release(errDisk)
		x.until("it waits again", func() bool { return len(x.b.delayed.heap) == 1 })
		if n := len(x.store.waits()); n != 1 {
			t.Fatalf("%d messages are in the store, want 1", n)
		}
		x.due()
		x.delayedNow(0)
		once.takes("a", "x")
		once.nothing()
		transient.takes("a", "x")
		transient.nothing()
		if qos == 1 {
			durable.takes("a", "x") // QoS 1 left before the commit
		}
		durable.takes("a", "x")
		durable.nothing()
		x.queues("away", 1, 0)
		if n := x.b.counters.DroppedStore; n != 0 {
			t.Errorf("%d messages are counted as not stored", n)
		}
	}
}

func TestFullStoreLeavesWhatIsDueWhereItIs(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "a", 1)
	pub, _ := x.connect(packet.V5, "pub")
	pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: []byte("x"), QoS: 1})
	full := func(is bool) {
		x.store.mu.Lock()
		x.store.full = is
		x.store.mu.Unlock()
	}
	full(true)
	if code := pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), QoS: 1}); code != packet.QuotaExceeded {
		t.Errorf("got %v", code)
	}
	x.due()
	x.until("it waits again", func() bool { return len(x.b.delayed.heap) == 1 })
	full(false)
	x.due()
	x.delayedNow(0)
	x.queues("away", 1, 0)
	x.do(func() {
		if n := x.b.counters.DroppedFull; n != 0 {
			t.Errorf("%d messages are counted as dropped", n)
		}
	})
}

func TestDelayedMessagesAreBounded(t *testing.T) {
	for name, limits := range map[string]Limits{
		"messages": {MaxDelayed: 2},
		"bytes":    {MaxDelayedBytes: 2 * int64(len("a")+len("12345678"))},
	} {
		x := start(t, func(o *Options) { o.Limits = limits })
		pub, _ := x.connect(packet.V5, "pub")
		send := func(qos packet.QoS) packet.ReasonCode {
			return pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: []byte("12345678"), QoS: qos})
		}
		send(0)
		send(1)
		for qos := packet.QoS(1); qos <= 2; qos++ {
			if code := send(qos); code != packet.QuotaExceeded {
				t.Errorf("%s, QoS %d: got %v", name, qos, code)
			}
		}
		send(0)
		old, _ := x.connect(packet.V311, "old") // it keeps its message
		old.publish("$delayed/60/a", "12345678", 1, 1)
		if h, _ := old.closed(); h.Type != 0 {
			t.Errorf("%s: 3.1.1 gets %v", name, h.Type)
		}
		x.do(func() {
			if n := x.b.counters.DelayedRefused; n != 4 || x.b.delayed.count != 2 {
				t.Errorf("%s: %d refused, %d kept", name, n, x.b.delayed.count)
			}
		})
		x.due()
		x.delayedNow(0)
		if code := send(2); code != packet.Success {
			t.Errorf("%s: there is room again: %v", name, code)
		}
	}
}

func TestDelayThatIsTooLongIsRefused(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxDelay = time.Hour })
	pub, _ := x.connect(packet.V5, "pub")
	for seconds, want := range map[string]packet.ReasonCode{
		"0": packet.Success, "3600": packet.Success, "3601": packet.QuotaExceeded, "4294967295": packet.QuotaExceeded,
	} {
		if code := pub.send(packet.Publish{Topic: []byte("$delayed/" + seconds + "/a"), QoS: 1}); code != want {
			t.Errorf("%s seconds: got %v, want %v", seconds, code, want)
		}
	}
	x.do(func() {
		if n := x.b.counters.DelayedRefused; n != 2 {
			t.Errorf("%d are counted", n)
		}
	})
}

func TestMalformedDelayIsAnInvalidTopic(t *testing.T) {
	x := start(t)
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("#", 0)
	sub.subscribe("$delayed/#", 0)
	sub.subscribe("$SYS/x", 0)
	v5, _ := x.connect(packet.V5, "v5")
	v3, _ := x.connect(packet.V311, "v3")
	for _, topic := range []string{
		"$delayed", "$delayed/", "$delayed/5", "$delayed/5/", "$delayed//a", "$delayed/x/a", "$delayed/-1/a", "$delayed/1 /a",
		"$delayed/1.5/a", "$delayed/0x5/a", "$delayed/99999999999/a", "$delayed/4294967296/a", "$delayed/99999999999999999999999/a",
		"$delayed/5/$delayed/5/a", "$delayed/5/$SYS/x", "$delayed/5/$delayed",
	} {
		for qos := packet.QoS(1); qos <= 2; qos++ {
			if code := v5.send(packet.Publish{Topic: []byte(topic), QoS: qos}); code != packet.TopicNameInvalid {
				t.Errorf("%s: got %v", topic, code)
			}
			v3.send(packet.Publish{Topic: []byte(topic), QoS: qos}) // it cannot be told (MQTT3 §3.3.5)
		}
		v5.send(packet.Publish{Topic: []byte(topic)})
	}
	x.delayedNow(0)
	x.due()
	sub.nothing()
	// These are topics like others.
	for _, topic := range []string{"$delayedx/5/a", "a/$delayed/5/b"} {
		sub.subscribe(topic, 0)
		v5.send(packet.Publish{Topic: []byte(topic), QoS: 1})
		sub.hears(topic, "")
		if topic[0] != '$' {
			sub.nothing()
		}
	}
	// [MQTT-3.3.2-2]
	v5.publish("$delayed/5/a+", "", 0, 0)
	if code := v5.disconnected(); code != packet.TopicNameInvalid && code != packet.ProtocolError && code != packet.MalformedPacket {
		t.Errorf("got %v", code)
	}
	v3.publish("$delayed/5/a/#", "", 0, 0)
	v3.closed()
}

func TestNothingIsDelayedWhereThatIsOff(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxDelayed = -1 })
	pub, _ := x.connect(packet.V5, "pub")
	if code := pub.send(packet.Publish{Topic: []byte("$delayed/5/a"), QoS: 1}); code != packet.TopicNameInvalid {
		t.Errorf("got %v", code)
	}
}

func TestAccessIsDecidedOnTheTopicBehindTheDelay(t *testing.T) {
	x := start(t,
		rewriting(rule.Rewrite{From: "old/#", To: "new/#"}),
		allowing(t, access.Rules{Publish: []string{"$delayed/#", "a", "new/x", "old/#"}, Subscribe: []string{"#"}}))
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("#", 0)
	pub, _ := x.connect(packet.V5, "pub")
	for topic, want := range map[string]packet.ReasonCode{
		"$delayed/60/a": packet.Success, "$delayed/60/old/x": packet.Success, "$delayed/60/b": packet.NotAuthorized, "$delayed/60/old/y": packet.NotAuthorized,
	} {
		if code := pub.send(packet.Publish{Topic: []byte(topic), QoS: 1}); code != want {
			t.Errorf("%s: got %v, want %v", topic, code, want)
		}
	}
	x.due()
	got := map[string]bool{string(sub.message().Topic): true, string(sub.message().Topic): true}
	if !got["a"] || !got["new/x"] {
		t.Errorf("got %v", got)
	}
	sub.nothing()
	will := func(topic string) func(*packet.Connect) {
		return func(k *packet.Connect) {
			k.HasWill = true
			k.Will = packet.Will{Topic: []byte(topic), Payload: []byte("gone"), QoS: 1}
		}
	}
	for topic, want := range map[string]packet.ReasonCode{
		"$delayed/60/b": packet.NotAuthorized, "$delayed/60/old/y": packet.NotAuthorized, "$delayed/x/a": packet.TopicNameInvalid, "$delayed/99999999/a": packet.QuotaExceeded,
	} {
		if _, a := x.connect(packet.V5, "denied", will(topic)); a.Code != want {
			t.Errorf("will on %s: got %v, want %v", topic, a.Code, want)
		}
	}
	w, _ := x.connect(packet.V5, "allowed", will("$delayed/60/old/x"))
	w.net.Close()
	x.delayedNow(1)
	sub.nothing()
	x.due()
	sub.hears("new/x", "gone")
}

func TestDelayedWillOutlivesARestart(t *testing.T) { // [MQTT-3.1.2-8]
	x := start(t)
	x.offline(packet.V5, "sub", "a", 1)
	w, _ := x.connect(packet.V5, "w", lasting, func(k *packet.Connect) {
		k.HasWill = true
		k.Will = packet.Will{Topic: []byte("$delayed/60/a"), Payload: []byte("gone"), QoS: 1}
	})
	x.away(w, "w")
	x.until("the will waits", func() bool { return len(x.b.delayed.heap) == 1 })
	y := restart(t, x)
	y.due()
	sub, _ := y.connect(packet.V5, "sub", lasting)
	sub.takes("a", "gone")
	sub.nothing()
}

// [MQTT-3.3.2-8] The alias stands for the whole topic.
func TestAliasMayStandForADelayedTopic(t *testing.T) {
	x := start(t)
	pub, _ := x.connect(packet.V5, "pub")
	for _, topic := range []string{"$delayed/60/a", ""} {
		if code := pub.send(packet.Publish{Topic: []byte(topic), HasTopicAlias: true, TopicAlias: 1, QoS: 1}); code != packet.Success {
			t.Errorf("got %v", code)
		}
	}
	x.delayedNow(2)
}

func TestExpiryOfADelayedMessageCountsFromItsReception(t *testing.T) { // [MQTT-3.3.2-5], [MQTT-3.3.2-6]
	clock := &stepClock{}
	x := start(t, func(o *Options) { o.Clock = clock })
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("a", 0)
	x.offline(packet.V5, "away", "a", 1)
	pub, _ := x.connect(packet.V5, "pub")
	for _, expiry := range []uint32{30, 100} {
		for qos := range packet.QoS(2) {
			pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: fmt.Append(nil, expiry), QoS: qos, HasExpiry: true, Expiry: expiry})
		}
	}
	clock.step(70 * time.Second)
	x.due()
	x.delayedNow(0)
	for range 2 {
		if p := sub.hears("a", "100"); !p.HasExpiry || p.Expiry != 30 {
			t.Errorf("%d seconds remain, want 30", p.Expiry)
		}
	}
	sub.nothing()
	x.queues("away", 1, 0)
	x.do(func() {
		if n := x.b.counters.Expired; n != 2 {
			t.Errorf("%d are counted as expired, want 2", n)
		}
	})
	if n := len(x.store.waits()); n != 0 {
		t.Errorf("%d messages are still in the store", n)
	}
	clock.step(40 * time.Second)
	away, _ := x.connect(packet.V5, "away", lasting)
	away.nothing()
}

func TestDelayedMessagesKeepTheirOrder(t *testing.T) { // [MQTT-4.6.0-6]
	x := start(t)
	x.offline(packet.V5, "sub", "a", 1)
	pub, _ := x.connect(packet.V5, "pub")
	const n = 50
	for i := range n {
		pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: fmt.Append(nil, i), QoS: 1})
	}
	pub.send(packet.Publish{Topic: []byte("$delayed/10/a"), Payload: []byte("sooner"), QoS: 1})
	y := restart(t, x)
	y.due()
	y.delayedNow(0)
	sub, _ := y.connect(packet.V5, "sub", lasting)
	sub.takes("a", "sooner")
	for i := range n {
		sub.takes("a", fmt.Sprint(i))
	}
}

// boots is a clock over several boots of a machine.
type boots struct {
	boot    uint32
	millis  uint64
	elapsed time.Duration // since anything of an earlier boot, as far as that is known
}

func (c *boots) Stamp() message.Stamp { return message.Stamp{Boot: c.boot, Millis: c.millis} }

func (c *boots) Elapsed(s message.Stamp) time.Duration {
	if s.Boot != c.boot {
		return c.elapsed
	}
	return time.Duration(c.millis-s.Millis) * time.Millisecond
}

// A machine boots with a wrong clock, and only learns later how long it was off.
func TestDelayGoesOnOverABootWhoseClockIsSetLate(t *testing.T) {
	x := start(t, func(o *Options) { o.Clock = &boots{boot: 1} })
	x.offline(packet.V5, "sub", "a", 1)
	pub, _ := x.connect(packet.V5, "pub")
	for i := range 3 {
		pub.send(packet.Publish{Topic: []byte("$delayed/600000/a"), Payload: fmt.Append(nil, i), QoS: 1})
	}
	clock := &boots{boot: 2}
	y := restart(t, x, func(o *Options) { o.Clock = clock })
	fire := func() {
		y.do(func() {
			next := y.b.delayed.Fire(y.b.loop.Now())
			if n := len(y.b.delayed.heap); n > 0 && (next == 0 || next > y.b.loop.Now()+redateEvery) {
				t.Errorf("the clock is not looked at again before %v", next)
			}
		})
	}
	fire()
	y.queues("sub", 0, 0)
	y.do(func() { clock.elapsed = 599_000 * time.Second })
	fire()
	y.queues("sub", 0, 0)
	y.do(func() { clock.elapsed = 600_000 * time.Second })
	fire()
	y.delayedNow(0)
	sub, _ := y.connect(packet.V5, "sub", lasting)
	for i := range 3 {
		sub.takes("a", fmt.Sprint(i))
	}
}

func TestTimerPublishesWhatIsDue(t *testing.T) {
	x := start(t)
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("a", 0)
	sub.send(packet.Publish{Topic: []byte("$delayed/3600/a"), Payload: []byte("later"), QoS: 1})
	sub.publish("$delayed/1/a", "now", 0, 0)
	sub.hears("a", "now")
	x.delayedNow(1)
}

func TestWhatWasDueWhileTheBrokerWasAwayIsPublishedAtItsStart(t *testing.T) {
	clock := &stepClock{}
	x := start(t, func(o *Options) { o.Clock = clock })
	x.offline(packet.V5, "sub", "a", 2)
	pub, _ := x.connect(packet.V5, "pub")
	pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: []byte("x"), QoS: 2})
	clock.step(30 * time.Minute)
	y := restart(t, x, func(o *Options) { o.Clock = clock })
	y.delayedNow(0)
	sub, _ := y.connect(packet.V5, "sub", lasting)
	sub.takes("a", "x")
}

// An uplink takes a delayed message over from the store at QoS 1, too: if it refuses it for a while,
// nobody else gets it twice.
func TestUplinkTakesDelayedMessagesOverFromTheStore(t *testing.T) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		up := &spool{filters: []string{"a"}, full: true, refuse: map[string]int{"x": 1}}
		x := start(t, withOutbox(up))
		sub, _ := x.connect(packet.V5, "sub", lasting)
		sub.subscribe("a", 2)
		pub, _ := x.connect(packet.V5, "pub")
		pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: []byte("x"), QoS: qos})
		x.due()
		sub.nothing() // it goes to everybody or to nobody
		x.delayedNow(1)
		up.mu.Lock()
		up.full = false
		up.mu.Unlock()
		x.due()
		sub.takes("a", "x")
		x.delayedNow(0)
		x.retry()
		x.until("the uplink has it", func() bool { return len(up.got()) == 1 })
		sub.nothing()
		x.do(func() {
			if n := x.b.counters.DroppedUplink; n != 0 {
				t.Errorf("%d messages are counted as refused", n)
			}
		})
	}
}

func TestDelayedMessageFromAboveIsDelayed(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxDelay = time.Minute })
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("#", 0)
	answers := make(chan error, 4)
	for _, topic := range []string{"$delayed/60/a", "$delayed/60/$SYS/a", "$delayed/x/a", "$delayed/61/a"} {
		x.b.Inject(&message.Message{Topic: topic, Payload: []byte("x"), QoS: 1, Source: "cloud"}, func(err error) { answers <- err })
	}
	for range 4 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	x.delayedNow(1)
	x.due()
	sub.hears("a", "x")
	x.do(func() {
		if n := x.b.counters.DeniedPublishes; n != 2 {
			t.Errorf("%d are counted as denied, want 2", n)
		}
		if n := x.b.counters.DelayedRefused; n != 1 {
			t.Errorf("%d are counted as delayed for too long, want 1", n)
		}
	})
}

// Whatever the bounds are now: it was acknowledged.
func TestRestoredDelayedMessagesAreKept(t *testing.T) {
	x := start(t)
	pub, _ := x.connect(packet.V5, "pub")
	for range 3 {
		pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), QoS: 1, Payload: []byte("x")})
	}
	y := restart(t, x, func(o *Options) { o.Limits.MaxDelayed, o.Limits.MaxDelay = -1, time.Second })
	sub, _ := y.connect(packet.V5, "sub")
	sub.subscribe("a", 0)
	y.due()
	for range 3 {
		sub.hears("a", "x")
	}
	y.delayedNow(0)
}

func TestDelayedRemovalThatFailsIsRepeated(t *testing.T) {
	clock := &stepClock{}
	x := start(t, func(o *Options) { o.Clock = clock })
	pub, _ := x.connect(packet.V5, "pub")
	pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), QoS: 1, HasExpiry: true, Expiry: 30})
	clock.step(time.Minute)
	x.store.hold()
	x.due()
	x.store.release(errors.New("disk full"))
	x.until("it waits again", func() bool { return len(x.b.delayed.heap) == 1 })
	x.due()
	x.delayedNow(0)
	x.do(func() {
		if n := x.b.counters.Expired; n != 1 {
			t.Errorf("%d are counted as expired, want 1", n)
		}
	})
}

func TestOrderOfDueMessagesDoesNotDependOnTheClock(t *testing.T) {
	b := unstarted(t)
	b.clock = &drifting{}
	var all []durable.Delayed
	for i := range 100 {
		all = append(all, durable.Delayed{Seq: durable.Seq(i + 1), Message: &message.Message{Topic: "a"}, Delay: 60})
	}
	b.delayed.restore(all)
	for i := range all {
		if x := heap.Pop(&b.delayed.heap).(*delayedMessage); x.Seq != durable.Seq(i+1) {
			t.Fatalf("message %d is due as number %d", x.Seq, i+1)
		}
	}
}

// drifting is a clock by which more time has passed each time it is asked.
type drifting struct{ asked time.Duration }

func (*drifting) Stamp() message.Stamp { return message.Stamp{} }

func (c *drifting) Elapsed(message.Stamp) time.Duration {
	c.asked += time.Millisecond
	return c.asked
}

// A session that gets a copy by a shared subscription, too, has a record of its own for it. The last
// record is that with which the message ceases to be delayed.
func TestDelayedMessageReachesGroupsAndTheirMembers(t *testing.T) { // §4.8.2
	x := start(t)
	x.offline(packet.V5, "both", "a", 2)
	w, _ := x.connect(packet.V5, "both", lasting)
	w.subscribe("$share/g/a", 2)
	x.away(w, "both")
	pub, _ := x.connect(packet.V5, "pub", lasting)
	pub.send(packet.Publish{Topic: []byte("$delayed/60/a"), Payload: []byte("x"), QoS: 2})
	x.store.hold()
	x.due()
	if n := len(x.store.waits()); n != 1 {
		t.Errorf("%d messages are delayed before the commit", n)
	}
	x.store.release(nil)
	x.delayedNow(0)
	x.queues("both", 2, 0)
	if n := len(x.store.waits()); n != 0 {
		t.Errorf("%d messages are delayed after the commit", n)
	}
	w, _ = x.connect(packet.V5, "both", lasting)
	for range 2 {
		w.hears("a", "x")
	}
}

// What cutDelay takes apart is a number and the rest, and nothing else.
func FuzzCutDelay(f *testing.F) {
	for _, name := range []string{"$delayed/5/a", "$delayed/5/", "$delayed//a", "$delayed/-1/a", "$delayed/4294967296/a", "$delayed", "$delayedx/1/a", "a", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		seconds, rest, is, ok := cutDelay([]byte(name))
		level, _, _ := strings.Cut(name, "/")
		if is != (level == "$delayed") || ok && (!is || len(rest) == 0) {
			t.Fatalf("%q: %v, %v, %q", name, is, ok, rest)
		}
		if !ok {
			if realTopic(name) != name {
				t.Errorf("%q became %q", name, realTopic(name))
			}
			return
		}
		again := delayOf{true, seconds}.delayedTopic(rest)
		if seconds2, rest2, _, ok := cutDelay([]byte(again)); !ok || seconds2 != seconds || string(rest2) != string(rest) || realTopic(name) != string(rest) {
			t.Errorf("%q became %q", name, again)
		}
	})
}
