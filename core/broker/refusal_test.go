package broker

import (
	"fmt"
	"slices"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

var refusing = []durable.StoreState{durable.StoreFull, durable.DiskFull, durable.Failing}

// suback returns the code of a subscription.
func (w *wire) suback(filter string, qos packet.QoS) packet.ReasonCode {
	w.t.Helper()
	w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter, Options: packet.SubscribeOptions{QoS: qos}}}, w.v))
	k, err := packet.ParseSuback(w.expect(packet.SUBACK), w.v)
	if err != nil || len(k.Codes) != 1 {
		w.t.Fatalf("got %+v, %v", k, err)
	}
	return k.Codes[0]
}

func TestAStoreThatTakesNothingLetsInWhoNeedsNothingNew(t *testing.T) {
	for _, state := range refusing {
		for _, v := range versions {
			t.Run(fmt.Sprint(state, " version ", v), func(t *testing.T) {
				x := start(t)
				x.offline(v, "old", "a", 1)
				x.store.become(state)
				_, k := x.connect(v, "new", lasting)
				if want := map[bool]packet.ReasonCode{true: packet.QuotaExceeded, false: packet.ServerUnavailable}[v == packet.V5]; k.Code != want {
					t.Errorf("a new session got %d, want %d", k.Code, want)
				}
				old, k := x.connect(v, "old", lasting)
				if k.Code != packet.Success || !k.SessionPresent && v > packet.V31 {
					t.Errorf("the session that was there got %v, present %v", k.Code, k.SessionPresent)
				}
				clean, k := x.connect(v, "clean")
				if k.Code != packet.Success {
					t.Errorf("a session that is not kept got %v", k.Code)
				}
				if code := clean.suback("a", 2); code != 2 {
					t.Errorf("its subscription got %v", code)
				}
				if code := old.suback("a", 1); code != 1 {
					t.Errorf("a subscription as before got %v", code)
				}
				want := map[packet.Version]packet.ReasonCode{packet.V5: packet.QuotaExceeded, packet.V311: 0x80, packet.V31: 0}[v]
				if code := old.suback("b", 1); code != want {
					t.Errorf("a new subscription of a session that is kept got %v, want %v", code, want)
				}
				clean.publish("a", "x", 0, 0)
				clean.hears("a", "x")
				old.hears("a", "x")
			})
		}
	}
}

func TestAQoS1MessageThatTheStoreRefusesReachesTheLAN(t *testing.T) {
	x := start(t)
	kept, _ := x.connect(packet.V5, "kept", lasting)
	kept.subscribe("a", 1)
	x.offline(packet.V5, "away", "a", 1)
	clean, _ := x.connect(packet.V311, "clean")
	clean.subscribe("a", 2)
	p, _ := x.connect(packet.V5, "p")
	x.store.become(durable.DiskFull)
	p.publish("a", "x", 1, 1)
	if a := p.acked(packet.PUBACK); a.Code != packet.QuotaExceeded {
		t.Errorf("got %v, want 0x97", a.Code)
	}
	for _, w := range []*wire{kept, clean} {
		m := w.message()
		if string(m.Payload) != "x" || m.QoS != 1 {
			t.Errorf("got %+v", m)
		}
		w.ack(packet.PUBACK, m.ID)
		w.nothing()
	}
	x.queues("kept", 0, 0)
	x.queues("away", 0, 0)
	// A message that needs no store is acknowledged.
	p.publish("nobody", "x", 1, 1)
	if a := p.acked(packet.PUBACK); a.Code >= packet.UnspecifiedError {
		t.Errorf("a message for nobody who is durable got %v", a.Code)
	}
}

func TestAQoS2MessageThatTheStoreRefusesReachesNobody(t *testing.T) {
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t)
			x.offline(packet.V5, "away", "a", 2)
			clean, _ := x.connect(packet.V5, "clean")
			clean.subscribe("#", 0)
			p, _ := x.connect(v, "p", lasting)
			x.store.become(durable.StoreFull)
			p.publish("a", "x", 2, 1)
			if v == packet.V5 {
				if a := p.acked(packet.PUBREC); a.Code != packet.QuotaExceeded {
					t.Errorf("got %v, want 0x97", a.Code)
				}
				clean.nothing()
				p.publish("b", "for nobody who is durable", 2, 1)
				p.expect(packet.PUBREC)
				clean.hears("b", "for nobody who is durable")
				return
			}
			p.nothing()
			clean.nothing()
			x.store.become(durable.Taking)
			p.expect(packet.PUBREC)
			clean.hears("a", "x")
			x.queues("away", 1, 0)
			p.ack(packet.PUBREL, 1)
			p.expect(packet.PUBCOMP)
		})
	}
}

func TestHeldMessagesAreStoredInTheirOrder(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "a/#", 2)
	clean, _ := x.connect(packet.V5, "clean")
	clean.subscribe("#", 0)
	p, _ := x.connect(packet.V311, "p", lasting)
	other, _ := x.connect(packet.V5, "other", func(c *packet.Connect) {
		c.HasWill, c.Will = true, packet.Will{Topic: []byte("a/will"), Payload: []byte("gone"), QoS: 1}
	})
	x.store.become(durable.DiskFull)
	p.publish("a/1", "1", 1, 1)
	p.publish("a/2", "2", 2, 2)
	p.publish("a/1", "3", 1, 3)
	p.publish("b", "4", 1, 4)
	p.nothing()
	for _, want := range []string{"1", "3", "4"} { // whoever needs no store, at once, but for QoS 2
		if m := clean.message(); string(m.Payload) != want {
			t.Errorf("clean got %q, want %q", m.Payload, want)
		}
	}
	other.net.Close()
	clean.hears("a/will", "gone")
	x.store.become(durable.Taking)
	for i, kind := range []packet.Type{packet.PUBACK, packet.PUBREC, packet.PUBACK, packet.PUBACK} {
		if a := p.acked(kind); int(a.ID) != i+1 {
			t.Errorf("answer %d is for %d", i+1, a.ID)
		}
	}
	clean.hears("a/2", "2")
	clean.nothing()
	x.until("the will is stored", func() bool { return x.b.members["away"].state.Pending() == 4 })
	away, _ := x.connect(packet.V5, "away", lasting)
	var got []string
	for range 4 {
		got = append(got, string(away.message().Payload))
	}
	got = slices.DeleteFunc(got, func(s string) bool { return s == "2" }) // at QoS 2 it leaves a commit later
	if want := []string{"1", "3", "gone"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	x.do(func() {
		if n := x.b.held.bytes + x.b.undecided; n != 0 {
			t.Errorf("%d bytes are still held", n)
		}
	})
}

// A message that was refused or not committed is given up when its MQTT 3 client goes: it will send it
// again.
func TestWhatIsHeldEndsWithItsConnection(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "a", 2)
	p, _ := x.connect(packet.V311, "p", lasting)
	x.store.become(durable.DiskFull)
	p.publish("a", "1", 1, 1)
	p.publish("a", "2", 2, 2)
	p.nothing()
	x.away(p, "p")
	x.store.become(durable.Taking)
	x.do(x.b.retryHeld)
	x.do(func() {
		if n := len(x.b.held.list) + x.b.held.bytes; n != 0 {
			t.Errorf("%d are still held", n)
		}
	})
	p, _ = x.connect(packet.V311, "p", lasting)
	p.again("a", "1", 1, 1)
	p.again("a", "2", 2, 2)
	p.expect(packet.PUBACK)
	p.expect(packet.PUBREC)
	x.queues("away", 2, 0)
}

// At QoS 2 nobody gets it twice, also if its commit has failed when it was delivered already, and its
// client has gone meanwhile [MQTT-4.3.3-10].
func TestACommitThatFailsIsRepeatedForMQTT3(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "away", "a", 2)
	clean, _ := x.connect(packet.V5, "clean")
	clean.subscribe("a", 2)
	p, _ := x.connect(packet.V311, "p", lasting)
	x.store.hold()
	p.publish("a", "x", 2, 1)
	p.nothing()
	x.store.step(errDisk)
	p.nothing()
	x.away(p, "p")
	x.store.release(nil)
	p, _ = x.connect(packet.V311, "p", lasting)
	p.again("a", "x", 2, 1)
	p.expect(packet.PUBREC)
	x.queues("away", 1, 0)
	clean.hears("a", "x")
	clean.nothing()
}

func TestARetainedMessageThatIsNotStoredIsTakenBack(t *testing.T) {
	for name, refuse := range map[string]func(x *bench){
		"refused": func(x *bench) { x.store.become(durable.DiskFull) },
		"failed":  func(x *bench) { x.store.hold() },
	} {
		t.Run(name, func(t *testing.T) {
			x := start(t)
			p, _ := x.connect(packet.V5, "p")
			retained := func(topic, payload string, qos packet.QoS, id packet.ID) {
				b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: id, Retain: true}, p.v)
				if qos > 0 {
					b[at], b[at+1] = byte(id>>8), byte(id)
				}
				p.write(b)
			}
			retained("a", "old", 1, 1)
			p.expect(packet.PUBACK)
			retained("c", "old", 1, 1)
			p.expect(packet.PUBACK)
			refuse(x)
			retained("a", "1", 1, 1)
			retained("a", "2", 1, 2)
			retained("b", "3", 1, 3)
			retained("c", "", 1, 4)
			retained("d", "lazy", 0, 0)
			p.nothingBut(func() { x.store.release(errDisk) }, name == "failed")
			for range 3 {
				if a := p.acked(packet.PUBACK); a.Code != packet.QuotaExceeded {
					t.Errorf("%d got %v", a.ID, a.Code)
				}
			}
			last, want := p.acked(packet.PUBACK), "old"
			if name == "refused" { // what removes one is always taken
				want = ""
			}
			if last.ID != 4 || (last.Code >= packet.UnspecifiedError) != (name == "failed") {
				t.Errorf("the removal got %+v", last)
			}
			s, _ := x.connect(packet.V5, "s")
			s.subscribe("#", 0)
			got := s.got(true)
			if got["a"] != "old" || got["b"] != "" || got["c"] != want || got["d"] != "lazy" {
				t.Errorf("got %v", got)
			}
			x.do(func() {
				if len(x.b.doubts) > 0 {
					t.Errorf("%d topics are in doubt", len(x.b.doubts))
				}
			})
		})
	}
}

// nothingBut lets f happen when the broker has read everything.
func (w *wire) nothingBut(f func(), so bool) {
	if so {
		w.nothing()
		f()
	}
}

func TestTheLargestQueueMakesRoom(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("keep ", keep), func(t *testing.T) {
			x := start(t, func(o *Options) { o.Limits.KeepWhenFull = keep })
			x.offline(packet.V5, "small", "a", 1)
			x.offline(packet.V5, "large", "#", 1)
			p, _ := x.connect(packet.V5, "p")
			for i := range 10 {
				p.publish([]string{"a", "b"}[i%2], fmt.Sprint(i), 1, 1)
				p.expect(packet.PUBACK)
			}
			x.store.mu.Lock()
			x.store.pressure = 3
			x.store.mu.Unlock()
			x.store.c.Changed()
			want := 7
			if keep {
				want = 10
			}
			x.queues("large", want, 0)
			x.queues("small", 5, 0)
			c, err := x.b.Snapshot(t.Context())
			if err != nil || int(c.DroppedStoreFull) != 10-want {
				t.Errorf("%d are counted, %v", c.DroppedStoreFull, err)
			}
		})
	}
}

func TestTheStateOfTheStoreIsTold(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V311, "w")
	w.subscribe(sysBroker+alarmStore, 0)
	w.hears(sysBroker+alarmStore, "none")
	x.store.become(durable.DiskFull)
	w.hears(sysBroker+alarmStore, "disk_full")
	x.store.become(durable.DiskFull)
	x.store.become(durable.Taking)
	w.hears(sysBroker+alarmStore, "none")
	w.nothing()
}
