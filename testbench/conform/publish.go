package main

import (
	"fmt"
	"slices"

	"dunlin/core/packet"
)

// Checks of PUBLISH and its acknowledgements.

func qos1IsAcknowledged(t *T) {
	p := t.connect("c")
	for _, id := range []packet.ID{1, 77, 65535, 1} {
		m := text(t.topic("a"), "x", 1)
		m.ID = id
		p.deliver(m)
	}
	p.silent()
}

func qos2IsAcknowledged(t *T) {
	p := t.connect("c")
	for _, id := range []packet.ID{1, 77, 65535, 1} {
		m := text(t.topic("a"), "x", 2)
		m.ID = id
		p.deliver(m)
	}
	p.silent()
}

func qos0IsNotAcknowledged(t *T) {
	p, s := t.connect("c"), t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p.publish(text(t.topic("a"), "x", 0))
	p.silent()
	if m := s.take("x"); m.QoS != 0 || m.ID != 0 || m.Dup {
		t.failf("QoS %d, packet id %d, DUP %v", m.QoS, m.ID, m.Dup)
	}
}

func messagesArriveAtEachQoS(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	seen := map[packet.ID]bool{}
	for q := range packet.QoS(3) {
		for i := range 3 {
			payload := fmt.Sprint(q, "/", i)
			p.deliver(text(t.topic("a"), payload, q))
			m := s.take(payload)
			if m.QoS != q || m.Dup || (m.ID != 0) != (q > 0) {
				t.failf("QoS %d, want %d; DUP %v, packet id %d", m.QoS, q, m.Dup, m.ID)
			}
			seen[m.ID] = true
		}
	}
}

func packetIDsInUseAreNotGivenAgain(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	seen := map[packet.ID]bool{}
	for i := range 20 {
		p.deliver(text(t.topic("a"), "x", packet.QoS(1+i%2)))
		m := s.message()
		if m.ID == 0 || seen[m.ID] {
			t.failf("message %d has the packet id %d, which is 0 or in use", i, m.ID)
		}
		seen[m.ID] = true
	}
}

// duplicateIsNotDelivered publishes at QoS 2 twice before the PUBREL, and after it as a new one.
func duplicateIsNotDelivered(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	m := text(t.topic("a"), "1", 2)
	m.ID = 5
	p.publish(m)
	p.acked(packet.PUBREC, 5)
	m.Dup = true
	p.publish(m)
	p.acked(packet.PUBREC, 5)
	p.ack(packet.PUBREL, 5)
	p.acked(packet.PUBCOMP, 5)
	m.Dup, m.Payload = false, []byte("2")
	p.deliver(m)
	s.take("1")
	s.take("2")
	s.silent()
}

func duplicateAcrossAReconnectIsNotDelivered(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p", lasting)
	m := text(t.topic("a"), "1", 2)
	m.ID = 5
	p.publish(m)
	p.acked(packet.PUBREC, 5)
	p.leave()
	p = t.connect("p", lasting)
	p.present(true)
	m.Dup = true
	p.publish(m)
	p.acked(packet.PUBREC, 5)
	p.ack(packet.PUBREL, 5)
	p.acked(packet.PUBCOMP, 5)
	s.take("1")
	s.silent()
}

// flowsSurviveAKill kills the broker at each step of QoS 2 in both directions.
func flowsSurviveAKill(t *T) {
	t.broker()
	s := t.connect("s", lasting)
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p", lasting)
	m := text(t.topic("a"), "1", 2)
	m.ID = 5
	p.publish(m)
	p.acked(packet.PUBREC, 5)
	got := s.message()
	t.restart()

	p = t.connect("p", lasting)
	p.present(true)
	m.Dup = true
	p.publish(m)
	p.acked(packet.PUBREC, 5)
	p.ack(packet.PUBREL, 5)
	p.acked(packet.PUBCOMP, 5)
	s = t.connect("s", lasting)
	s.present(true)
	again := s.message()
	if again.ID != got.ID || !again.Dup || string(again.Payload) != "1" {
		t.failf("the message came again with packet id %d and DUP %v, first with %d", again.ID, again.Dup, got.ID)
	}
	s.ack(packet.PUBREC, got.ID)
	s.acked(packet.PUBREL, got.ID)
	t.restart()

	s = t.connect("s", lasting)
	s.acked(packet.PUBREL, got.ID)
	s.ack(packet.PUBCOMP, got.ID)
	s.silent()
	// The identifier is free again: a new message.
	p = t.connect("p", lasting)
	m.Dup, m.Payload = false, []byte("2")
	p.deliver(m)
	s.take("2")
}

func releaseOfAnUnknownIDIsAnswered(t *T) {
	p := t.connect("c")
	p.ack(packet.PUBREL, 99)
	a := p.acked(packet.PUBCOMP, 99)
	if t.v5() && a.Code != packet.PacketIDNotFound && a.Code != packet.Success {
		t.failf("PUBCOMP says %s", a.Code)
	}
}

func pubrelFollowsPubrec(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	t.connect("p").deliver(text(t.topic("a"), "x", 2))
	m := s.message()
	s.ack(packet.PUBREC, m.ID)
	h, body := s.next()
	if h.Type != packet.PUBREL || h.Flags != 2 {
		t.failf("got %s with flags %x", h.Type, h.Flags)
	}
	if a, err := packet.ParseAck(h.Type, body, t.v); err != nil || a.ID != m.ID {
		t.failf("PUBREL %x: %v", body, err)
	}
	s.ack(packet.PUBCOMP, m.ID)
	s.silent()
}

func acknowledgementWithAnErrorEndsTheDelivery(t *T) {
	for q, ack := range map[packet.QoS]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
		t.where = fmt.Sprint("QoS ", q)
		name := fmt.Sprint("s", q)
		connect := func() *peer {
			return t.connect(name, lasting, func(c *packet.Connect) { c.ReceiveMaximum = 1 })
		}
		s := connect()
		s.subscribe(t.topic(name), qos(2))
		p := t.connect("p")
		p.deliver(text(t.topic(name), "1", q))
		p.deliver(text(t.topic(name), "2", q))
		m := s.message()
		s.send(packet.AppendAck(nil, &packet.Ack{Type: ack, ID: m.ID, Code: packet.QuotaExceeded}, t.v))
		s.take("2") // its quota is free again, and no PUBREL came
		s.leave()
		s = connect()
		s.silent()
		p.leave()
	}
	t.where = ""
}

// forbidden makes the broker one that takes messages below "may" only.
func (t *T) forbidden() {
	t.broker("access.everyone.publish=[may/#]", "access.everyone.subscribe=[may/#]")
}

func idOfARefusedMessageIsFree(t *T) {
	t.forbidden()
	s, p := t.connect("s"), t.connect("p", lasting)
	s.subscribe("may/#", qos(2))
	m := text("never", "1", 2)
	m.ID = 5
	for range 2 {
		p.publish(m)
		if a := p.acked(packet.PUBREC, 5); a.Code < packet.UnspecifiedError {
			t.failf("PUBREC says %s", a.Code)
		}
	}
	m.Topic, m.Payload = []byte("may/be"), []byte("2")
	p.deliver(m)
	s.take("2")
	s.silent()
}

func forbiddenPublishIsAcknowledgedOrCloses(t *T) {
	t.forbidden()
	s := t.connect("s")
	s.subscribe("may/#", qos(2))
	for q := packet.QoS(1); q < 3; q++ {
		p := t.connect("p")
		id := p.publish(text("never", "x", q))
		h, body, err := p.Packet(t.ctx)
		if err != nil {
			if t.ctx.Err() != nil {
				t.failf("no answer")
			}
			continue // closed
		}
		want := packet.PUBACK
		if q == 2 {
			want = packet.PUBREC
		}
		if a, err := packet.ParseAck(h.Type, body, t.v); err != nil || h.Type != want || a.ID != id {
			t.failf("got %s %x", h.Type, body)
		}
	}
	s.silent()
}

func pubrelHasACodeOfItsTable(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	t.connect("p").deliver(text(t.topic("a"), "x", 2))
	m := s.message()
	s.ack(packet.PUBREC, m.ID)
	if a := s.acked(packet.PUBREL, m.ID); a.Code != packet.Success {
		t.failf("PUBREL says %s", a.Code)
	}
	s.ack(packet.PUBCOMP, m.ID)
	s.ack(packet.PUBREC, 4711) // of nothing
	if a := s.acked(packet.PUBREL, 4711); a.Code != packet.PacketIDNotFound && (t.ours || a.Code != packet.Success) {
		t.failf("PUBREL for an unknown packet id says %s", a.Code)
	}
	s.silent()
}

// resendsComeWithTheirIDs leaves messages unacknowledged and reconnects.
func resendsComeWithTheirIDs(t *T) {
	s := t.connect("s", lasting)
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	var first []packet.Publish
	for i, q := range []packet.QoS{1, 2, 1, 2} {
		p.deliver(text(t.topic("a"), fmt.Sprint(i), q))
		first = append(first, s.message())
	}
	s.ack(packet.PUBREC, first[1].ID)
	s.acked(packet.PUBREL, first[1].ID)
	s.silent() // nothing comes again within a connection
	s.Close()
	s = t.connect("s", lasting)
	s.present(true)
	released, order := false, []string{}
	for len(order) < 3 || !released {
		h, body := s.next()
		if h.Type == packet.PUBREL {
			a, err := packet.ParseAck(h.Type, body, t.v)
			if err != nil || a.ID != first[1].ID || released {
				t.failf("PUBREL for %d, want one for %d: %v", a.ID, first[1].ID, err)
			}
			released = true
			s.ack(packet.PUBCOMP, a.ID)
			continue
		}
		if h.Type != packet.PUBLISH {
			t.failf("got %s", h.Type)
		}
		m, err := packet.ParsePublish(body, h.Flags, t.v)
		t.must(err)
		i := slices.IndexFunc(first, func(f packet.Publish) bool { return same(f.Payload, m.Payload) })
		if i < 0 || m.ID != first[i].ID || !m.Dup || m.QoS != first[i].QoS {
			t.failf("%q came again with packet id %d, DUP %v, QoS %d", m.Payload, m.ID, m.Dup, m.QoS)
		}
		order = append(order, string(m.Payload))
	}
	if !slices.Equal(order, []string{"0", "2", "3"}) {
		t.failf("they came again in the order %v", order)
	}
}

func nothingIsResentOnATimer(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	p.deliver(text(t.topic("a"), "1", 1))
	p.deliver(text(t.topic("a"), "2", 2))
	s.message()
	s.message()
	t.pass(3)
	s.silent()
}

func dupIsNotPassedOn(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	m := text(t.topic("a"), "x", 1)
	m.Dup, m.ID = true, 9
	p.deliver(m)
	if got := s.take("x"); got.Dup {
		t.failf("it is")
	}
}

func orderIsKept(t *T) {
	s := t.connect("s", lasting)
	s.subscribe(t.topic("#"), qos(2))
	p := t.connect("p")
	const n = 60
	for q := range packet.QoS(3) {
		for i := range n {
			p.deliver(text(t.topic("a"), fmt.Sprint(i), q))
			s.take(fmt.Sprint(i))
		}
		if q == 0 {
			continue
		}
		s.leave()
		for i := range n {
			p.deliver(text(t.topic("b"), fmt.Sprint(i), q))
		}
		s = t.connect("s", lasting)
		for i := range n {
			if m := s.take(fmt.Sprint(i)); m.Dup {
				t.failf("message %d was never sent before, and has DUP", i)
			}
		}
	}
}

func qosIsTheLower(t *T) {
	p := t.connect("p")
	for granted := range packet.QoS(3) {
		s := t.connect("s")
		s.subscribe(t.topic("a"), qos(granted))
		for sent := range packet.QoS(3) {
			p.deliver(text(t.topic("a"), "x", sent))
			if m := s.take("x"); m.QoS != min(granted, sent) {
				t.failf("published at %d, granted %d, came at %d", sent, granted, m.QoS)
			}
		}
	}
}

func noSubscribersIsNoError(t *T) {
	p := t.connect("p")
	id := p.publish(text(t.topic("nobody"), "x", 1))
	if a := p.acked(packet.PUBACK, id); a.Code != packet.NoMatchingSubscribers && a.Code != packet.Success {
		t.failf("PUBACK says %s", a.Code)
	}
	id = p.publish(text(t.topic("nobody"), "x", 2))
	if a := p.acked(packet.PUBREC, id); a.Code != packet.NoMatchingSubscribers && a.Code != packet.Success {
		t.failf("PUBREC says %s", a.Code)
	}
}

// Properties.
