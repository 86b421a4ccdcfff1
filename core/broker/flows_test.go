package broker

import (
	"fmt"
	"testing"

	"dunlin/core/packet"
)

func TestQoS2FlowSurvivesReceiveMaximumExceeded(t *testing.T) { // [MQTT-3.3.4-7]
	x := start(t, func(o *Options) { o.Limits.ReceiveMaximum = 2 })
	x.offline(packet.V5, "s", "a", 2)
	w, _ := x.connect(packet.V5, "p", lasting)
	x.store.hold()
	for id := range packet.ID(3) {
		w.publish("a", "x", 2, id+1)
	}
	if code := w.disconnected(); code != packet.ReceiveMaximumExceeded {
		t.Fatalf("got %v", code)
	}
	x.store.release(nil)
	w, _ = x.connect(packet.V5, "p", lasting)
	w.again("a", "x", 2, 3)
	if a := w.acked(packet.PUBREC); a.ID != 3 || a.Code != packet.Success {
		t.Fatalf("got PUBREC %d %v", a.ID, a.Code)
	}
	if n := x.store.open(); n != 3 {
		t.Errorf("%d messages are stored, want 3", n)
	}
}

func TestReceiveMaximumBeginsAnewWithEachConnection(t *testing.T) { // MQTT5 §4.9
	x := start(t, func(o *Options) { o.Limits.ReceiveMaximum = 3 })
	w, _ := x.connect(packet.V5, "p", lasting)
	for id := range packet.ID(3) {
		w.publish("a", "x", 2, id+1)
		w.expect(packet.PUBREC)
	}
	x.away(w, "p")
	w, _ = x.connect(packet.V5, "p", lasting)
	for id := range packet.ID(3) {
		w.publish("a", "x", 2, id+11)
		w.expect(packet.PUBREC)
	}
	w.publish("a", "x", 2, 20)
	if code := w.disconnected(); code != packet.ReceiveMaximumExceeded {
		t.Errorf("got %v", code)
	}
}

func TestPubrelBeforePubrecIsRefused(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 2)
	w, _ := x.connect(packet.V5, "p", lasting)
	x.store.hold()
	w.publish("a", "x", 2, 5)
	w.ack(packet.PUBREL, 5)
	if code := w.disconnected(); code != packet.ProtocolError {
		t.Errorf("got %v", code)
	}
	x.store.release(nil)
}

func TestMessageThatWasSentAndNotStoredLeavesNothingBehind(t *testing.T) {
	for _, acked := range []bool{false, true} {
		t.Run(fmt.Sprint("acknowledged ", acked), func(t *testing.T) {
			x := start(t)
			s, _ := x.connect(packet.V5, "s", lasting)
			s.subscribe("a", 1)
			p, _ := x.connect(packet.V5, "p")
			x.store.hold()
			p.publish("a", "x", 1, 1)
			m := s.message()
			x.store.release(errDisk)
			if a := p.acked(packet.PUBACK); a.Code != packet.QuotaExceeded {
				t.Fatalf("got %v", a.Code)
			}
			if acked {
				s.ack(packet.PUBACK, m.ID)
				s.nothing()
				x.queues("s", 0, 0)
			}
			x.away(s, "s")
			s, _ = x.connect(packet.V5, "s", lasting)
			s.nothing()
			x.queues("s", 0, 0)
			p.publish("a", "y", 1, 2)
			if m := s.message(); string(m.Payload) != "y" {
				t.Errorf("got %q", m.Payload)
			}
		})
	}
}

func TestFailedCommitFreesTheWindow(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V5, "s", lasting, func(c *packet.Connect) { c.ReceiveMaximum = 1 })
	s.subscribe("a", 2)
	p, _ := x.connect(packet.V5, "p")
	x.store.hold()
	p.publish("a", "lost", 2, 1)
	p.nothing()
	p.publish("a", "waits", 1, 2) // behind it
	p.nothing()
	// The first fails, the second does not.
	x.store.mu.Lock()
	rest := x.store.waiting[1:]
	x.store.waiting = x.store.waiting[:1]
	x.store.commit(errDisk)
	x.store.waiting = rest
	x.store.mu.Unlock()
	x.store.release(nil)
	if a := p.acked(packet.PUBREC); a.Code != packet.QuotaExceeded {
		t.Fatalf("got %v", a.Code)
	}
	if m := s.message(); string(m.Payload) != "waits" {
		t.Errorf("got %q", m.Payload)
	}
}

func TestQoS2LeavesOnlyWhenItsIdentifierIsOnDisk(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 2)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 2, 1)
	p.expect(packet.PUBREC)
	x.store.hold()
	for range 3 { // the note of the identifier is on its way when the connection is cut
		s, _ := x.connect(packet.V5, "s", lasting)
		s.nothing()
		x.away(s, "s")
	}
	s, _ := x.connect(packet.V5, "s", lasting)
	s.nothing()
	x.store.release(nil)
	m := s.message()
	if m.Dup || m.QoS != 2 {
		t.Errorf("got %+v", m)
	}
	s.ack(packet.PUBREC, m.ID)
	s.expect(packet.PUBREL)
	s.ack(packet.PUBCOMP, m.ID)
	s.nothing()
	x.queues("s", 0, 0)
}

func TestFailedNoteOfAnIdentifierIsRepeated(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 2)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 2, 1)
	p.expect(packet.PUBREC)
	x.store.hold()
	s, _ := x.connect(packet.V5, "s", lasting)
	s.nothing()
	x.store.step(errDisk)
	s.closed()
	s, _ = x.connect(packet.V5, "s", lasting)
	s.nothing()
	x.store.release(nil)
	if m := s.message(); m.Dup {
		t.Error("DUP is set on the first PUBLISH")
	}
}

func TestPubrelLeavesOnlyWhenItsPubrecIsOnDisk(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V5, "s", lasting)
	s.subscribe("a", 2)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 2, 1)
	p.expect(packet.PUBREC)
	m := s.message()
	x.store.hold()
	s.ack(packet.PUBREC, m.ID)
	s.nothing()
	x.store.step(errDisk)
	s.closed()
	for range 2 {
		x.until("offline", func() bool { return x.b.members["s"].client == nil })
		s, _ = x.connect(packet.V5, "s", lasting)
		s.nothing()
		x.store.step(errDisk) // again
		s.closed()
	}
	x.until("offline", func() bool { return x.b.members["s"].client == nil })
	s, _ = x.connect(packet.V5, "s", lasting)
	s.nothing()
	x.store.release(nil)
	if a := s.acked(packet.PUBREL); a.ID != m.ID {
		t.Fatalf("got PUBREL %d, want %d", a.ID, m.ID)
	}
	s.ack(packet.PUBCOMP, m.ID)
	s.nothing()
	x.queues("s", 0, 0)
}

func TestPubcompLeavesOnlyWhenTheReleaseIsOnDisk(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 2)
	p, _ := x.connect(packet.V5, "p", lasting)
	p.publish("a", "x", 2, 1)
	p.expect(packet.PUBREC)
	x.store.hold()
	p.ack(packet.PUBREL, 1)
	p.nothing()
	x.store.step(errDisk)
	p.closed()
	p, _ = x.connect(packet.V5, "p", lasting)
	p.ack(packet.PUBREL, 1)
	p.nothing()
	x.store.release(nil)
	if a := p.acked(packet.PUBCOMP); a.ID != 1 || a.Code != packet.Success {
		t.Errorf("got PUBCOMP %d %v", a.ID, a.Code)
	}
	p.nothing() // one
}

func TestReleaseOfAnEarlierConnectionIsAnsweredOnce(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 2)
	p, _ := x.connect(packet.V5, "p", lasting)
	p.publish("a", "x", 2, 1)
	p.expect(packet.PUBREC)
	x.store.hold()
	p.ack(packet.PUBREL, 1)
	p.nothing()
	x.away(p, "p")
	p, _ = x.connect(packet.V5, "p", lasting)
	x.store.release(nil)
	p.nothing() // the commit belongs to the PUBREL of the connection before
	p.ack(packet.PUBREL, 1)
	p.expect(packet.PUBCOMP)
	p.nothing()
}

func TestCommitOfAnEarlierConnectionIsAnsweredToTheOneThatAsksAgain(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "a", 2)
	p, _ := x.connect(packet.V5, "p", lasting)
	x.store.hold()
	p.publish("a", "x", 2, 1)
	p.nothing()
	x.away(p, "p")
	p, _ = x.connect(packet.V5, "p", lasting)
	p.again("a", "x", 2, 1)
	p.nothing()
	x.store.release(nil)
	p.expect(packet.PUBREC)
	p.nothing()
	if n := x.store.open(); n != 1 {
		t.Errorf("%d copies are stored", n)
	}
}

func TestTooLargeMessagesDoNotHoldUpTheQueue(t *testing.T) { // [MQTT-3.1.2-25]
	for qos := packet.QoS(1); qos <= 2; qos++ {
		for _, queued := range []bool{false, true} {
			t.Run(fmt.Sprintf("QoS %d, queued %v", qos, queued), func(t *testing.T) {
				x := start(t)
				small := func(c *packet.Connect) { lasting(c); c.MaximumPacketSize, c.ReceiveMaximum = 60, 1 }
				s, _ := x.connect(packet.V5, "s", small)
				s.subscribe("a", qos)
				if queued {
					x.away(s, "s")
				}
				p, _ := x.connect(packet.V5, "p")
				x.store.hold()
				for i, payload := range []string{fmt.Sprintf("%100d", 1), fmt.Sprintf("%100d", 2), "small", fmt.Sprintf("%100d", 3), "last"} {
					p.publish("a", payload, qos, packet.ID(i+1))
				}
				p.nothing()
				x.store.release(nil)
				if queued {
					s, _ = x.connect(packet.V5, "s", small)
				}
				for _, want := range []string{"small", "last"} {
					m := s.message()
					if string(m.Payload) != want {
						t.Fatalf("got %q, want %q", m.Payload, want)
					}
					if qos == 1 {
						s.ack(packet.PUBACK, m.ID)
						continue
					}
					s.ack(packet.PUBREC, m.ID)
					s.expect(packet.PUBREL)
					s.ack(packet.PUBCOMP, m.ID)
				}
				s.nothing()
				x.queues("s", 0, 0)
				if n := x.store.open(); n != 0 {
					t.Errorf("%d entries are left in the store", n)
				}
			})
		}
	}
}

func TestInFlightMessagesMoveToTheConnectionThatTakesOver(t *testing.T) { // [MQTT-3.1.4-3, MQTT-4.4.0-1]
	for qos := packet.QoS(1); qos <= 2; qos++ {
		for _, v := range versions {
			t.Run(fmt.Sprintf("version %d QoS %d", v, qos), func(t *testing.T) {
				x := start(t)
				s, _ := x.connect(v, "s", lasting)
				s.subscribe("a", qos)
				p, _ := x.connect(v, "p")
				var ids []packet.ID
				for i := range 5 {
					p.publish("a", fmt.Sprint(i), qos, packet.ID(i+1))
					ids = append(ids, s.message().ID)
				}
				next, k := x.connect(v, "s", lasting)
				if !k.SessionPresent && v > packet.V31 { // 3.1 does not say
					t.Fatal("the session is gone")
				}
				if v == packet.V5 {
					if code := s.disconnected(); code != packet.SessionTakenOver {
						t.Errorf("the old connection got %v", code)
					}
				}
				for i, id := range ids {
					m := next.message()
					if m.ID != id || !m.Dup || m.QoS != qos || string(m.Payload) != fmt.Sprint(i) {
						t.Fatalf("message %d: got %q with id %d, DUP %v", i, m.Payload, m.ID, m.Dup)
					}
				}
				next.nothing()
				x.queues("s", 5, 5)
			})
		}
	}
}

func TestWhatWasAcknowledgedLateIsNotSentAgain(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V5, "s", lasting)
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	var ids []packet.ID
	for i := range 3 {
		p.publish("a", fmt.Sprint(i), 1, packet.ID(i+1))
		ids = append(ids, s.message().ID)
	}
	x.away(s, "s")
	// CONNECT and PUBACK come in one piece, so that the PUBACK is there before anything is read.
	s = x.dial(packet.V5)
	c := packet.Connect{Version: packet.V5, ClientID: []byte("s"), RequestProblem: true, SessionExpiry: 3600}
	b := packet.AppendConnect(nil, &c)
	s.write(packet.AppendAck(b, &packet.Ack{Type: packet.PUBACK, ID: ids[1]}, packet.V5))
	s.expect(packet.CONNACK)
	for _, want := range []string{"0", "2"} {
		if m := s.message(); string(m.Payload) != want || !m.Dup {
			t.Errorf("got %q, DUP %v; want %q again", m.Payload, m.Dup, want)
		}
	}
	s.nothing()
	x.queues("s", 2, 2)
}

func TestStoreThatTakesNothingIsSaid(t *testing.T) {
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			x := start(t)
			s, _ := x.connect(v, "s", lasting)
			s.subscribe("a", 1)
			p, _ := x.connect(v, "p")
			x.store.mu.Lock()
			x.store.full = true
			x.store.mu.Unlock()
			p.publish("a", "x", 1, 1)
			if v == packet.V5 {
				if a := p.acked(packet.PUBACK); a.Code != packet.QuotaExceeded {
					t.Errorf("got %v", a.Code)
				}
				s.hears("a", "x") // it is there
				x.queues("s", 0, 1)
				return
			}
			p.nothing()
			s.nothing()
			x.queues("s", 0, 0)
			x.store.mu.Lock()
			x.store.full = false
			x.store.mu.Unlock()
			p.expect(packet.PUBACK)
			s.hears("a", "x")
		})
	}
}
