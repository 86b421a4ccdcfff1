package broker

import (
	"testing"

	"dunlin/core/packet"
)

// failedOnce is a QoS 2 message that has reached a live session and could not be stored, and whose
// publisher has lost its connection before it was told.
func failedOnce(t *testing.T) (x *bench, p, live *wire, got packet.ID) {
	t.Helper()
	x = start(t)
	x.offline(packet.V5, "durable", "a", 2)
	live, _ = x.connect(packet.V5, "live")
	live.subscribe("a", 2)
	p, _ = x.connect(packet.V5, "p", lasting)
	x.store.hold()
	p.publish("a", "one", 2, 7)
	m := live.message()
	x.away(p, "p")
	x.store.release(errDisk)
	p, _ = x.connect(packet.V5, "p", lasting)
	return x, p, live, m.ID
}

// A disk that fails once must not let a QoS 2 message come twice to a session that needs none
// [MQTT-4.3.3-2].
func TestQoS2ThatCouldNotBeStoredComesOnceToWhoHasIt(t *testing.T) {
	x, p, live, id := failedOnce(t)
	p.again("a", "one", 2, 7)
	p.expect(packet.PUBREC)
	live.ack(packet.PUBREC, id)
	live.expect(packet.PUBREL)
	live.ack(packet.PUBCOMP, id)
	live.nothing()
	p.ack(packet.PUBREL, 7)
	p.expect(packet.PUBCOMP)

	// Another message under the identifier is another message.
	p.publish("a", "two", 2, 7)
	p.expect(packet.PUBREC)
	if m := live.message(); string(m.Payload) != "two" {
		t.Errorf("got %q", m.Payload)
	}
	d, _ := x.connect(packet.V5, "durable", lasting)
	for _, want := range []string{"one", "two"} {
		if m := d.message(); string(m.Payload) != want {
			t.Errorf("got %q, want %q", m.Payload, want)
		}
	}
}

func TestAnotherMessageUnderTheIdentifierOfOneThatFailedGoesToAll(t *testing.T) {
	_, p, live, _ := failedOnce(t)
	p.publish("a", "two", 2, 7) // without DUP: it has forgotten the first
	p.expect(packet.PUBREC)
	if m := live.message(); string(m.Payload) != "two" {
		t.Errorf("got %q", m.Payload)
	}
}
