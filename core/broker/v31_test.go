package broker

import (
	"strings"
	"testing"

	"dunlin/core/packet"
)

// What is the same in 3.1 and 3.1.1 is tested with all versions.

func TestClientOf31MayNameItselfAtLength(t *testing.T) { // MQTT 3.1 §3.1 allows 23 characters; real clients use more
	x := start(t)
	w, k := x.connect(packet.V31, strings.Repeat("x", 60))
	if k.Code != packet.Success {
		t.Errorf("got %v", k.Code)
	}
	w.nothing()
}

func TestClientOf31MustNameItself(t *testing.T) { // MQTT 3.1 §3.1, also with clean session
	w, k := start(t).connect(packet.V31, "")
	if k.Code != packet.ClientIdentifierNotValid {
		t.Errorf("got %v, want identifier rejected", k.Code)
	}
	w.closed()
}

// dup sets DUP in a packet.
func dup(b []byte) []byte {
	b[0] |= 0x08
	return b
}

func TestOnlyMQTT31MayRepeatRequestsWithDup(t *testing.T) { // MQTT 3.1 §2.1, [MQTT-2.1.3-1]
	sub := func(v packet.Version) []byte {
		return dup(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a"}}, v))
	}
	unsub := func(v packet.Version) []byte { return dup(packet.AppendUnsubscribe(nil, 2, []string{"a"}, v)) }
	rel := func(v packet.Version) []byte {
		return dup(packet.AppendAck(nil, &packet.Ack{Type: packet.PUBREL, ID: 3}, v))
	}
	x := start(t)
	w, _ := x.connect(packet.V31, "old")
	w.write(sub(packet.V31))
	w.expect(packet.SUBACK)
	w.write(unsub(packet.V31))
	w.expect(packet.UNSUBACK)
	w.publish("a", "x", 2, 3)
	w.expect(packet.PUBREC)
	w.write(rel(packet.V31))
	w.expect(packet.PUBCOMP)
	for _, frame := range [][]byte{sub(packet.V311), unsub(packet.V311), rel(packet.V311)} {
		w, _ := x.connect(packet.V311, "new")
		w.write(frame)
		w.closed()
	}
}

func TestSubscriptionOf31ThatIsNotStoredEndsTheConnection(t *testing.T) { // its SUBACK could only say yes
	x := start(t)
	w, _ := x.connect(packet.V31, "s", lasting)
	x.store.hold()
	w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{QoS: 1}}}, w.v))
	x.until("the subscription is handed over", func() bool { return len(x.b.members["s"].subs) == 1 })
	x.store.release(errDisk)
	if h, _ := w.closed(); h.Type == packet.SUBACK {
		t.Error("a SUBACK was sent")
	}
	x.do(func() {
		if x.b.index.Len() > 0 {
			t.Error("the subscription is there")
		}
	})
}
