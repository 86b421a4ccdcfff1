package broker

import (
	"testing"
	"time"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

func patient(o *Options) { o.Limits.Linger = time.Hour }

// lingered says of the message that was appended last whether it may linger.
func (x *bench) lingered() bool {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	return x.store.lingers
}

func TestAMessageLingersIfItIsSentAtOnceToWhoAnswersQuickly(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(o *Options)
		before func(x *bench, sub *wire)
		send   packet.Publish
		want   bool
	}{
		{"everybody is online", patient, nil, packet.Publish{QoS: 1}, true},
		{"it is switched off", func(*Options) {}, nil, packet.Publish{QoS: 1}, false},
		{"retained", patient, nil, packet.Publish{QoS: 1, Retain: true}, false},
		{"QoS 2", patient, nil, packet.Publish{QoS: 2}, false},
		{"somebody is away", patient, func(x *bench, _ *wire) { x.offline(packet.V311, "away", "a", 1) }, packet.Publish{QoS: 1}, false},
		{"somebody is slow", patient, func(x *bench, _ *wire) {
			x.do(func() { x.b.members["sub"].client.answering.took = 3_000_000_000 })
		}, packet.Publish{QoS: 1}, false},
		{"somebody is behind", func(o *Options) { patient(o); o.Limits.MaxInFlight = 1 }, func(x *bench, _ *wire) {
			w, _ := x.connect(packet.V311, "other")
			w.publish("a", "first", 1, 9)
			x.until("the first is in flight", func() bool { return x.b.members["sub"].state.InFlight() == 1 })
		}, packet.Publish{QoS: 1}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := start(t, test.change)
			sub, _ := x.connect(packet.V311, "sub", lasting)
			sub.subscribe("a", 2)
			if test.before != nil {
				test.before(x, sub)
			}
			w, _ := x.connect(packet.V311, "w")
			p := test.send
			p.Topic, p.Payload, p.ID = []byte("a"), []byte("x"), 1
			b, at := packet.AppendPublish(nil, &p, w.v)
			b[at], b[at+1] = 0, 1
			x.store.hold()
			w.write(b)
			w.nothing()
			if got := x.lingered(); got != test.want {
				t.Errorf("it may linger: %v, want %v", got, test.want)
			}
		})
	}
}

func TestAMessageThatWaitedForASlotOrWasDelayedDoesNotLinger(t *testing.T) {
	x := start(t, patient)
	sub, _ := x.connect(packet.V311, "sub", lasting)
	sub.subscribe("a", 1)
	w, _ := x.connect(packet.V311, "w")
	w.publish("$delayed/1/a", "x", 1, 1)
	w.expect(packet.PUBACK)
	x.due()
	x.until("it is published", func() bool { return x.b.members["sub"].state.InFlight() == 1 })
	if x.lingered() {
		t.Error("it may linger, which would leave it in two places")
	}
}

func TestHowQuicklyAClientAnswersIsSeenFromItsAcknowledgements(t *testing.T) {
	const limit = 10 * time.Millisecond
	var a answering
	if !a.within(limit, 0) {
		t.Error("a client of whom nothing is known is not given a chance")
	}
	a.watch(1, time.Second)
	a.watch(2, time.Second+time.Millisecond) // the first is watched
	if !a.within(limit, time.Second+limit-1) || a.within(limit, time.Second+limit) {
		t.Error("a message is not acknowledged, and its client is not slow exactly from then on")
	}
	a.answered(2, time.Second+limit)
	if a.within(limit, time.Second+limit) {
		t.Error("the acknowledgement of another message counts")
	}
	a.answered(1, time.Second+30*time.Millisecond)
	if a.within(limit, 2*time.Second) {
		t.Error("30 ms count as 10")
	}
	for _, slow := range []time.Duration{1431655766 * time.Microsecond, time.Hour} { // a third of what fits the mean
		a := answering{took: uint32(slow / time.Microsecond)}
		a.watch(1, 0)
		if a.answered(1, time.Microsecond); a.within(limit, 0) {
			t.Errorf("one quick answer makes up for one after %v", slow)
		}
	}
	quick := 0
	for now := 3 * time.Second; !a.within(limit, now); now += time.Second {
		a.watch(3, now)
		a.answered(3, now+time.Millisecond)
		quick++
	}
	if quick < 2 || quick > 10 {
		t.Errorf("it took %d quick answers until the slow one was forgotten", quick)
	}
}

// [MQTT-4.6.0-2]: a message that lingers holds back the PUBACKs of those behind it.
func TestAcknowledgementsStayInOrderThoughOneMessageLingers(t *testing.T) {
	x := start(t, patient)
	sub, _ := x.connect(packet.V311, "sub", lasting)
	sub.subscribe("a", 1)
	w, _ := x.connect(packet.V311, "w")
	x.store.hold()
	w.publish("a", "lingers", 1, 1)
	w.publish("b", "for nobody", 1, 2)
	w.nothing()
	x.store.release(nil)
	for id := packet.ID(1); id <= 2; id++ {
		if a := w.acked(packet.PUBACK); a.ID != id {
			t.Fatalf("PUBACK of %d, want %d", a.ID, id)
		}
	}
	sub.ack(packet.PUBACK, sub.message().ID)
	x.until("the receiver is done", func() bool { return x.b.members["sub"].state.InFlight() == 0 })
	if got := x.outcome(durable.Delivered); got != 1 {
		t.Errorf("%d messages are done, want 1", got)
	}
}
