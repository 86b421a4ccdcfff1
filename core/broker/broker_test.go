package broker

import (
	"fmt"
	"testing"

	"dunlin/core/packet"
)

var versions = []packet.Version{packet.V31, packet.V311, packet.V5}

func TestMessageReachesSubscriber(t *testing.T) {
	for _, v := range versions {
		for qos := packet.QoS(0); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("version %d QoS %d", v, qos), func(t *testing.T) {
				x := start(t)
				sub, _ := x.connect(v, "sub")
				sub.subscribe("plant/+/temp", qos)
				pub, _ := x.connect(v, "pub")
				pub.publish("plant/7/temp", "21.5", qos, 9)
				m := sub.message()
				if string(m.Topic) != "plant/7/temp" || string(m.Payload) != "21.5" || m.QoS != qos || m.Retain || m.Dup {
					t.Fatalf("got %+v", m)
				}
				switch qos {
				case 1:
					pub.expect(packet.PUBACK)
				case 2:
					pub.expect(packet.PUBREC)
					pub.ack(packet.PUBREL, 9)
					pub.expect(packet.PUBCOMP)
				}
			})
		}
	}
}

func TestPubackWaitsForCommit(t *testing.T) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			x := start(t)
			sub, _ := x.connect(packet.V5, "sub", lasting)
			sub.subscribe("a", 2)
			sub.net.Close()
			pub, _ := x.connect(packet.V5, "pub", lasting)
			x.store.hold()
			pub.publish("a", "1", qos, 3)
			pub.nothing()
			x.store.release(nil)
			pub.expect(ackType(qos))
		})
	}
}

func TestFailedCommitIsNotAcknowledged(t *testing.T) {
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t)
			sub, _ := x.connect(v, "sub", lasting)
			sub.subscribe("a", 1)
			sub.net.Close()
			pub, _ := x.connect(v, "pub")
			x.store.hold()
			pub.publish("a", "1", 1, 3)
			pub.nothing()
			x.store.release(errDisk)
			if v == packet.V5 {
				a, err := packet.ParseAck(packet.PUBACK, pub.expect(packet.PUBACK), v)
				if err != nil || a.Code < packet.UnspecifiedError {
					t.Fatalf("got %v, %v; want a failure", a.Code, err)
				}
				return
			}
			pub.expect(packet.PUBACK) // it was held, and tried again
			x.queues("sub", 1, 0)
		})
	}
}

func TestQueueIsDeliveredInOrderAfterReconnect(t *testing.T) {
	for _, v := range versions {
		for qos := packet.QoS(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("version %d QoS %d", v, qos), func(t *testing.T) {
				x := start(t, func(o *Options) { o.Limits.MaxInFlight = 10 })
				sub, _ := x.connect(v, "sub", lasting)
				sub.subscribe("a/#", qos)
				sub.net.Close()
				pub, _ := x.connect(v, "pub")
				const n = 100
				for i := range n {
					pub.publish("a/b", fmt.Sprint(i), 1, packet.ID(i+1))
					pub.expect(packet.PUBACK)
				}
				sub, k := x.connect(v, "sub", lasting)
				if !k.SessionPresent && v > packet.V31 { // 3.1 does not say
					t.Fatal("the session is gone")
				}
				for i := range n {
					m := sub.message()
					if string(m.Payload) != fmt.Sprint(i) {
						t.Fatalf("message %d is %q", i, m.Payload)
					}
					sub.ack(packet.PUBACK, m.ID)
				}
				for x.store.open() > 0 {
					sub.nothing()
				}
			})
		}
	}
}

func TestInFlightIsSentAgainWithItsIdentifier(t *testing.T) {
	x := start(t)
	sub, _ := x.connect(packet.V311, "sub", lasting)
	sub.subscribe("a", 1)
	pub, _ := x.connect(packet.V311, "pub")
	for i := range 5 {
		pub.publish("a", fmt.Sprint(i), 1, packet.ID(i+1))
		pub.expect(packet.PUBACK)
	}
	var ids []packet.ID
	for range 5 {
		ids = append(ids, sub.message().ID)
	}
	sub.ack(packet.PUBACK, ids[1])
	sub.nothing()
	sub.net.Close()
	sub, _ = x.connect(packet.V311, "sub", lasting)
	for i, id := range ids {
		if i == 1 {
			continue
		}
		m := sub.message()
		if m.ID != id || !m.Dup || string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d: got id %d dup %v %q, want id %d with DUP", i, m.ID, m.Dup, m.Payload, id)
		}
	}
	sub.nothing()
}

func TestQoS2IsNotDeliveredTwice(t *testing.T) {
	x := start(t)
	sub, _ := x.connect(packet.V5, "sub", lasting)
	sub.subscribe("a", 2)
	pub, _ := x.connect(packet.V5, "pub", lasting)
	pub.publish("a", "once", 2, 7)
	pub.expect(packet.PUBREC)
	pub.net.Close()
	pub, _ = x.connect(packet.V5, "pub", lasting)
	pub.publish("a", "once", 2, 7)
	pub.expect(packet.PUBREC)
	m := sub.message()
	sub.ack(packet.PUBREC, m.ID)
	sub.expect(packet.PUBREL)
	sub.net.Close()
	sub, _ = x.connect(packet.V5, "sub", lasting)
	sub.expect(packet.PUBREL)
	sub.ack(packet.PUBCOMP, m.ID)
	sub.nothing()
	pub.ack(packet.PUBREL, 7)
	pub.expect(packet.PUBCOMP)
}

func TestRetainedMessageGreetsSubscriber(t *testing.T) {
	x := start(t)
	pub, _ := x.connect(packet.V5, "pub")
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("s"), Payload: []byte("on"), Retain: true}, packet.V5)
	pub.write(b)
	pub.nothing()
	sub, _ := x.connect(packet.V5, "sub")
	sub.subscribe("#", 1)
	if m := sub.message(); !m.Retain || string(m.Payload) != "on" {
		t.Fatalf("got %+v", m)
	}
}

func TestWillIsPublishedOnLoss(t *testing.T) {
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t)
			sub, _ := x.connect(v, "sub")
			sub.subscribe("gone/#", 1)
			dev, _ := x.connect(v, "dev", func(c *packet.Connect) {
				c.HasWill = true
				c.Will = packet.Will{Topic: []byte("gone/dev"), Payload: []byte("bye"), QoS: 1}
			})
			dev.net.Close()
			if m := sub.message(); string(m.Payload) != "bye" {
				t.Fatalf("got %+v", m)
			}
		})
	}
}

func TestTakeoverTellsTheOldConnection(t *testing.T) {
	x := start(t)
	old, _ := x.connect(packet.V5, "one", lasting)
	_, k := x.connect(packet.V5, "one", lasting)
	if !k.SessionPresent {
		t.Fatal("the session did not move")
	}
	h, body := old.closed()
	if h.Type != packet.DISCONNECT {
		t.Fatalf("the old connection got %v, want DISCONNECT", h.Type)
	}
	if d, err := packet.ParseDisconnect(body, packet.V5); err != nil || d.Code != packet.SessionTakenOver {
		t.Fatalf("got %v, %v", d.Code, err)
	}
}

func TestReadingRestsWhileTooMuchIsOwed(t *testing.T) {
	x := start(t)
	sub, _ := x.connect(packet.V311, "sub", lasting)
	sub.subscribe("a", 1)
	sub.net.Close()
	pub, _ := x.connect(packet.V311, "pub")
	x.store.hold()
	const n = 3 * throttleAt
	for i := range n {
		pub.publish("a", "x", 1, packet.ID(i+1))
	}
	other, _ := x.connect(packet.V311, "other")
	other.nothing()
	other.nothing()
	s, err := x.b.Snapshot(t.Context())
	if err != nil || s.Received > 2*throttleAt {
		t.Fatalf("%d messages were read, %v; want about %d", s.Received, err, throttleAt)
	}
	x.store.release(nil)
	for i := range n {
		a, err := packet.ParseAck(packet.PUBACK, pub.expect(packet.PUBACK), packet.V311)
		if err != nil || int(a.ID) != i+1 {
			t.Fatalf("answer %d has id %d, %v", i+1, a.ID, err)
		}
	}
}
