package broker

import (
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

func choosy(o *Options) {
	patient(o)
	o.Durability = []DurabilityRule{{"a/batched", Batched}, {"a/#", Relaxed}, {"s/#", Sync}}
}

// durability starts a broker with rules, somebody who is away, and a publisher.
func durability(t *testing.T, filter string) (x *bench, w *wire) {
	t.Helper()
	x = start(t, choosy)
	x.offline(packet.V311, "away", filter, 2)
	w, _ = x.connect(packet.V5, "w")
	x.store.hold()
	return x, w
}

func TestARelaxedMessageIsAcknowledgedBeforeItIsOnDisk(t *testing.T) {
	x, w := durability(t, "a/#")
	w.publish("a/x", "1", 1, 1)
	if a := w.acked(packet.PUBACK); a.ID != 1 || a.Code != packet.Success {
		t.Errorf("got %+v", a)
	}
	x.queues("away", 1, 0)
	x.store.release(nil)
	x.until("nothing waits", func() bool { return x.b.undecided == 0 })
	x.queues("away", 1, 0)
}

func TestARelaxedMessageThatCannotBeStoredIsCounted(t *testing.T) {
	x, w := durability(t, "a/#")
	w.publish("a/x", "1", 1, 1)
	w.expect(packet.PUBACK)
	x.store.release(errDisk)
	x.until("it is counted", func() bool { return x.b.counters.DroppedStore == 1 })
	x.queues("away", 0, 0)
}

// [MQTT-4.3.3-10] would not hold for a packet identifier that a crash forgets.
func TestWhatIsNotRelaxedWaitsForTheDisk(t *testing.T) {
	for _, test := range []struct {
		name, topic string
		qos         packet.QoS
	}{
		{"QoS 2", "a/x", 2},
		{"an earlier rule", "a/batched", 1},
		{"sync", "s/x", 1},
		{"no rule", "b", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			x, w := durability(t, "#")
			w.publish(test.topic, "1", test.qos, 1)
			w.nothing()
			x.store.release(nil)
			w.expect(ackType(test.qos))
		})
	}
}

func TestRelaxedMessagesWaitWhenTooMuchIsOnItsWay(t *testing.T) {
	x, w := durability(t, "a/#")
	x.do(func() { x.b.undecided += maxUndecided / 2 })
	w.publish("a/x", "1", 1, 1)
	w.nothing()
	x.do(func() { x.b.undecided -= maxUndecided / 2 })
	x.store.release(nil)
	w.expect(packet.PUBACK)
}

func TestASyncMessageDoesNotLingerAndIsUrgent(t *testing.T) {
	cloud := &spool{filters: []string{"s/#"}}
	x := start(t, choosy, func(o *Options) { o.Outboxes = []Outbox{cloud} })
	sub, _ := x.connect(packet.V311, "sub", lasting)
	sub.subscribe("#", 1)
	w, _ := x.connect(packet.V311, "w")
	for _, test := range []struct {
		topic         string
		linger, force bool
	}{{"b", true, false}, {"s/x", false, true}} {
		w.publish(test.topic, "1", 1, 1)
		w.expect(packet.PUBACK)
		x.store.mu.Lock()
		if x.store.lingers != test.linger || x.store.sync != test.force {
			t.Errorf("%s: lingers %v, sync %v", test.topic, x.store.lingers, x.store.sync)
		}
		x.store.mu.Unlock()
		cloud.mu.Lock()
		if cloud.urgent != test.force {
			t.Errorf("%s: the uplink was told that it is urgent: %v", test.topic, cloud.urgent)
		}
		cloud.mu.Unlock()
	}
}

// While the store takes nothing, what is relaxed is held, too.
func TestARelaxedMessageDoesNotOvertakeWhatIsHeld(t *testing.T) {
	x := start(t, choosy)
	x.offline(packet.V311, "away", "a/#", 1)
	p, _ := x.connect(packet.V311, "p", lasting)
	x.store.become(durable.DiskFull)
	p.publish("a/x", "1", 1, 1)
	p.nothing()
	x.do(func() { // the store takes messages again, and the broker has not been told yet
		x.store.mu.Lock()
		x.store.state = durable.Taking
		x.store.mu.Unlock()
	})
	p.publish("a/x", "2", 1, 2)
	x.store.become(durable.Taking)
	p.expect(packet.PUBACK)
	p.expect(packet.PUBACK)
	away, _ := x.connect(packet.V311, "away", lasting)
	for _, want := range []string{"1", "2"} {
		if m := away.message(); string(m.Payload) != want {
			t.Errorf("got %q, want %q", m.Payload, want)
		}
	}
}
