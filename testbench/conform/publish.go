package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

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

func expiryCountsDown(t *T) {
	s := t.connect("s", lasting)
	s.subscribe(t.topic("a"), qos(1))
	s.leave()
	p := t.connect("p")
	started := time.Now()
	for _, seconds := range []uint32{1, 100} {
		m := text(t.topic("a"), fmt.Sprint(seconds), 1)
		m.HasExpiry, m.Expiry = true, seconds
		p.deliver(m)
	}
	m := kept(t.topic("r"), "kept", 0)
	m.HasExpiry, m.Expiry = true, 1
	p.deliver(m)
	t.pass(2)
	s = t.connect("s", lasting)
	if m := s.take("100"); !m.HasExpiry || m.Expiry > 98 || m.Expiry < t.left(100, started) {
		t.failf("it says %d", m.Expiry)
	}
	s.subscribe(t.topic("r"), qos(0))
	s.silent()
}

func propertiesTravelUnaltered(t *T) {
	block := "\x26" + str("z") + str("1") + "\x01\x01" + "\x03" + str("text/plain") + "\x26" + str("a") + str("2") +
		"\x08" + str("answer/here") + "\x09" + str("\x00\xFFdata") + "\x26" + str("z") + str("1")
	order := []string{"z=1", "a=2", "z=1"}
	look := func(m packet.Publish) {
		got, err := packet.ParseTravelling(m.AppendTravelling(nil))
		t.must(err)
		if !got.HasPayloadFormat || got.PayloadFormat != 1 || string(got.ContentType) != "text/plain" ||
			string(got.ResponseTopic) != "answer/here" || string(got.CorrelationData) != "\x00\xFFdata" {
			t.failf("it came with %+v", got)
		}
		var users []string
		for k, v := range packet.UserProperties(m.AppendTravelling(nil)) {
			users = append(users, k+"="+v)
		}
		if !slices.Equal(users, order) {
			t.failf("user properties %v, want %v", users, order)
		}
	}
	s := t.connect("s", lasting)
	s.subscribe(t.topic("a"), qos(1))
	p := t.connect("p")
	m := kept(t.topic("a"), "1", 1)
	m.Properties = []byte(block)
	p.deliver(m)
	t.where = "live"
	look(s.take("1"))
	s.leave()
	m.Payload = []byte("2")
	p.deliver(m)
	s = t.connect("s", lasting)
	t.where = "queued"
	look(s.take("2"))
	r := t.connect("r")
	r.subscribe(t.topic("a"), qos(0))
	t.where = "retained"
	look(r.take("2"))
	t.where = ""
}

func propertiesAreNotForOlderClients(t *T) {
	old := packet.V311
	m := text(t.topic("a"), "x", 1)
	m.Properties = []byte("\x03" + str("text/plain") + "\x26" + str("k") + str("v"))
	m.HasExpiry, m.Expiry = true, 100
	s := t.as(old, "s")
	s.subscribe(t.topic("a"), qos(1))
	p := t.as(packet.V5, "p")
	p.deliver(m)
	s.take("x") // parsed as 3.1.1: properties would be part of the payload
	back := t.as(packet.V5, "b")
	back.subscribe(t.topic("b"), qos(1))
	s.deliver(text(t.topic("b"), "y", 1))
	if got := back.take("y"); len(got.Raw) != 0 {
		t.failf("a message of 3.1.1 came with properties %x", got.Raw)
	}
}

// as connects in a version other than that of the check.
func (t *T) as(v packet.Version, name string) *peer {
	was := t.v
	defer func() { t.v = was }()
	t.v = v
	return t.connect(name)
}

func payloadFormatIsCheckedIfAsked(t *T) {
	p, s := t.connect("p"), t.connect("s")
	s.subscribe(t.topic("a"), qos(0))
	m := text(t.topic("a"), "\xFF", 1)
	m.Properties = []byte{1, 1}
	id := p.publish(m)
	switch a := p.acked(packet.PUBACK, id); {
	case a.Code == packet.PayloadFormatInvalid:
		s.silent()
	case a.Code < packet.UnspecifiedError:
		s.take("\xFF")
	default:
		t.failf("PUBACK says %s", a.Code)
	}
}

func requestResponse(on bool) func(*packet.Connect) {
	return func(c *packet.Connect) { c.RequestResponse = on }
}

func responseInformationOnlyOnRequest(t *T) {
	t.with("sessions.response_information=replies")
	if p := t.connect("c", requestResponse(false)); p.connack.ResponseInformation != nil {
		t.failf("it came unasked: %q", p.connack.ResponseInformation)
	}
	t.connect("d", requestResponse(true)).silent() // may have it or not
}

func responseInformationOnRequest(t *T) {
	t.with("sessions.response_information=replies")
	if p := t.connect("c", requestResponse(true)); len(p.connack.ResponseInformation) == 0 {
		t.refused("response information")
	}
}

// Topic aliases.

func (p *peer) alias(topic string, alias uint16, payload string) {
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), TopicAlias: alias, HasTopicAlias: true}, p.Version)
	p.send(b)
}

func aliasOfZeroCloses(t *T) {
	codes := []packet.ReasonCode{packet.TopicAliasInvalid}
	if !t.ours { // it names no code for it
		codes = append(codes, packet.ProtocolError, packet.MalformedPacket)
	}
	t.refuses(false, fault{"", frame(0x30, str(t.topic("a"))+"\x03\x23\x00\x00x"), codes})
}

func aliasAboveTheMaximumCloses(t *T) {
	p := t.connect("c")
	if p.connack.TopicAliasMaximum == 65535 {
		return // there is none above
	}
	p.send(frame(0x30, str(t.topic("a"))+"\x03\x23\xFF\xFFx"))
	p.closed(packet.TopicAliasInvalid)
}

func aliasWithoutAMaximumCloses(t *T) {
	t.with("limits.topic_aliases=0")
	p := t.connect("c")
	if p.connack.TopicAliasMaximum != 0 {
		t.refused("a server without topic aliases")
	}
	p.alias(t.topic("a"), 1, "x")
	p.closed(packet.TopicAliasInvalid)
}

func aliasesAreTaken(t *T) {
	p := t.connect("p")
	highest := p.connack.TopicAliasMaximum
	if highest == 0 {
		p.alias(t.topic("a"), 1, "x")
		p.closed(packet.TopicAliasInvalid)
		t.refused("topic aliases from clients")
	}
	s := t.connect("s")
	s.subscribe(t.topic("#"), qos(0))
	for _, alias := range []uint16{1, highest} {
		for i, topic := range []string{t.topic("a"), "", t.topic("b"), "", ""} { // set, use, set anew, use
			p.alias(topic, alias, fmt.Sprint(i))
			want := t.topic("a")
			if i > 1 {
				want = t.topic("b")
			}
			if m := s.take(fmt.Sprint(i)); string(m.Topic) != want {
				t.failf("alias %d, message %d came as %q, want %q", alias, i, m.Topic, want)
			}
		}
	}
}

func unknownAliasCloses(t *T) {
	t.refuses(false, fault{"", frame(0x30, str("")+"\x03\x23\x00\x01x"), []packet.ReasonCode{packet.ProtocolError, packet.TopicAliasInvalid}})
}

func aliasesEndWithTheConnection(t *T) {
	p := t.connect("p", lasting)
	if p.connack.TopicAliasMaximum == 0 {
		p.alias(t.topic("a"), 1, "x")
		p.closed(packet.TopicAliasInvalid)
		t.refused("topic aliases from clients")
	}
	p.alias(t.topic("a"), 1, "x")
	p.leave()
	p = t.connect("p", lasting)
	p.alias("", 1, "x")
	p.closed(packet.ProtocolError, packet.TopicAliasInvalid)
}

func noAliasesToWhoAllowsNone(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(0))
	p := t.connect("p")
	for range 5 {
		p.publish(text(t.topic("a"), "x", 0))
		if m := s.take("x"); m.HasTopicAlias || len(m.Topic) == 0 {
			t.failf("it has an alias")
		}
	}
}

func aliasesToClientsStayWithinTheirMaximum(t *T) {
	connect := func() *peer {
		return t.connect("s", lasting, func(c *packet.Connect) { c.TopicAliasMaximum = 2 })
	}
	s := connect()
	s.subscribe(t.topic("#"), qos(1))
	p := t.connect("p")
	known := map[uint16]string{}
	used := false
	look := func(m packet.Publish, want string) {
		if m.HasTopicAlias {
			used = true
			if m.TopicAlias == 0 || m.TopicAlias > 2 {
				t.failf("alias %d, the maximum is 2", m.TopicAlias)
			}
			if len(m.Topic) > 0 {
				known[m.TopicAlias] = string(m.Topic)
			} else {
				m.Topic = []byte(known[m.TopicAlias])
			}
		}
		if string(m.Topic) != want {
			t.failf("topic %q, want %q", m.Topic, want)
		}
	}
	for i := range 12 {
		topic := t.topic(fmt.Sprint(i % 3))
		p.deliver(text(topic, "x", packet.QoS(i/6)))
		look(s.take("x"), topic)
	}
	if !used {
		t.refused("topic aliases to clients")
	}
	s.leave()
	clear(known) // a new connection knows none
	p.deliver(text(t.topic("0"), "y", 1))
	s = connect()
	look(s.take("y"), t.topic("0"))
}

// Flow control and sizes.

func receiveMaximumIsEnforced(t *T) {
	p := t.connect("p")
	n := p.connack.ReceiveMaximum
	if n == 0 || n > 5000 {
		t.refused("a receive maximum that a test can reach")
	}
	for id := packet.ID(1); id <= packet.ID(n); id++ { // QoS 2 counts until its PUBCOMP
		m := text(t.topic("a"), "x", 2)
		m.ID = id
		p.publish(m)
		p.acked(packet.PUBREC, id)
	}
	p.silent()
	m := text(t.topic("a"), "x", 2)
	m.ID = packet.ID(n) + 1
	p.publish(m)
	p.closed(packet.ReceiveMaximumExceeded)
}

func receiveMaximumOfTheClientIsObeyed(t *T) {
	s := t.connect("s", func(c *packet.Connect) { c.ReceiveMaximum = 2 })
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	for i := range 4 {
		p.deliver(text(t.topic("a"), fmt.Sprint(i), 2))
	}
	a, b := s.message(), s.message()
	s.silent()
	s.ack(packet.PUBREC, a.ID)
	s.acked(packet.PUBREL, a.ID)
	s.silent() // the quota is free with the PUBCOMP only
	s.ack(packet.PUBCOMP, a.ID)
	if c := s.message(); string(c.Payload) != "2" {
		t.failf("got %q", c.Payload)
	}
	s.silent()
	s.send(packet.AppendAck(nil, &packet.Ack{Type: packet.PUBREC, ID: b.ID, Code: packet.UnspecifiedError}, t.v))
	if d := s.message(); string(d.Payload) != "3" {
		t.failf("got %q", d.Payload)
	}
	// What waits for an absent session comes by the same rule.
	connect := func() *peer {
		return t.connect("l", lasting, func(c *packet.Connect) { c.ReceiveMaximum = 2 })
	}
	s = connect()
	s.subscribe(t.topic("b"), qos(1))
	s.leave()
	for i := range 4 {
		p.deliver(text(t.topic("b"), fmt.Sprint(i), 1))
	}
	s = connect()
	first, second := s.message(), s.message()
	s.silent()
	s.ack(packet.PUBACK, first.ID)
	s.ack(packet.PUBACK, second.ID)
	s.message()
	s.message()
	s.silent()
}

func otherPacketsPassAFullWindow(t *T) {
	s := t.connect("s", func(c *packet.Connect) { c.ReceiveMaximum = 1 })
	s.subscribe(t.topic("a"), qos(1))
	p := t.connect("p")
	p.deliver(text(t.topic("a"), "1", 1))
	p.deliver(text(t.topic("a"), "2", 1))
	s.message()
	s.silent()
	s.subscribe(t.topic("b"), qos(0))
	s.unsubscribe(t.topic("b"))
	s.subscribe(t.topic("c"), qos(1))
	p.publish(text(t.topic("c"), "0", 0))
	s.take("0")
	s.deliver(text(t.topic("d"), "x", 2))
}

func bigMessagesAreDroppedAsIfSent(t *T) {
	s := t.connect("s", lasting, func(c *packet.Connect) { c.MaximumPacketSize = 100 })
	s.subscribe(t.topic("a"), qos(1))
	p := t.connect("p")
	for q := range packet.QoS(2) {
		p.deliver(text(t.topic("a"), strings.Repeat("x", 200), q))
		p.deliver(text(t.topic("a"), "small", q))
		s.take("small")
	}
	s.leave()
	t.connect("s", lasting).silent()
}

// smallPacketsStaySmall has each packet that may explain itself sent twice: to a client that takes
// anything, and to one that takes a byte less than that was. Ours leaves out the explanation then,
// and says the rest.
func smallPacketsStaySmall(t *T) {
	if t.ours {
		t.forbidden()
	}
	never := str("never/" + t.prefix)
	for _, row := range []struct {
		typ      packet.Type
		provoked []byte // by this
		explains bool   // ours has something to say
	}{
		{packet.SUBACK, frame(0x82, "\x00\x01\x00"+never+"\x00"), true},
		{packet.UNSUBACK, frame(0xA2, "\x00\x02\x00"+never), false},
		{packet.PUBACK, frame(0x32, never+"\x00\x03\x00x"), true},
		{packet.PUBREC, frame(0x34, never+"\x00\x04\x00x"), true},
		{packet.PUBREL, frame(0x50, "\x12\x34"), false},
		{packet.PUBCOMP, frame(0x62, "\x00\x09"), false},
		{packet.DISCONNECT, frame(0x36, str("a")), true},
	} {
		t.where = row.typ.String()
		size, code, explained := t.provoke(row.typ, row.provoked, 0)
		if t.ours && explained != row.explains {
			t.failf("it is explained: %v", explained)
		}
		if !explained {
			continue // there is nothing to leave out
		}
		less, same, still := t.provoke(row.typ, row.provoked, size-1)
		if less >= size || still || same != code {
			t.failf("%d bytes, %s, explained %v; to a client that takes anything %d bytes, %s", less, same, still, size, code)
		}
	}
	t.where = "CONNACK"
	if !t.ours {
		return
	}
	refuse := func(most uint32) packet.Connack {
		return t.try("w", will(packet.Will{Topic: []byte("never")}), func(c *packet.Connect) { c.MaximumPacketSize = most }).connack
	}
	if k := refuse(0); k.Code < packet.UnspecifiedError || k.Reason == nil {
		t.failf("%s, explained %v", k.Code, k.Reason != nil)
	}
	if k := refuse(20); k.Code < packet.UnspecifiedError || k.Reason != nil || k.UserProperties != nil {
		t.failf("%s, and it is explained in %q", k.Code, k.Reason)
	}
	t.where = ""
}

// provoke sends b as a client that takes packets up to most bytes, and returns the size of the
// answer, its Reason Code and whether it has a Reason String or User Properties.
func (t *T) provoke(typ packet.Type, b []byte, most int) (size int, code packet.ReasonCode, explained bool) {
	s := t.connect("s", func(c *packet.Connect) { c.MaximumPacketSize = uint32(most) })
	s.send(b)
	h, body := s.next()
	if h.Type != typ {
		t.failf("got %s", h.Type)
	}
	var reason, users []byte
	var err error
	switch typ {
	case packet.SUBACK, packet.UNSUBACK:
		parse := packet.ParseSuback
		if typ == packet.UNSUBACK {
			parse = packet.ParseUnsuback
		}
		var a packet.Suback
		a, err = parse(body, t.v)
		if err == nil {
			code, reason, users = a.Codes[0], a.Reason, a.UserProperties
		}
	case packet.DISCONNECT:
		var d packet.Disconnect
		d, err = packet.ParseDisconnect(body, t.v)
		code, reason, users = d.Code, d.Reason, d.UserProperties
	default:
		var a packet.Ack
		a, err = packet.ParseAck(typ, body, t.v)
		code, reason, users = a.Code, a.Reason, a.UserProperties
	}
	t.must(err)
	size = len(frame(0, string(body)))
	if most != 0 && size > most {
		t.failf("it has %d bytes for a client that takes %d", size, most)
	}
	s.Close()
	return size, code, reason != nil || users != nil
}

// problemsAreNotExplainedUnasked looks at answers that say no. Ours explains them to who asks.
func problemsAreNotExplainedUnasked(t *T) {
	if t.ours {
		t.forbidden()
	}
	for _, asks := range []bool{true, false} {
		t.where = fmt.Sprintf("request problem information %v", asks)
		explained := 0
		look := func(reason, users []byte) {
			switch {
			case reason == nil && users == nil:
			case !asks:
				t.failf("reason %q, user properties %q", reason, users)
			default:
				explained++
			}
		}
		connect := func() *peer { return t.connect("s", func(c *packet.Connect) { c.RequestProblem = asks }) }
		s := connect()
		s.send(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: t.topic("a")}, {Filter: "a/b#"}}, t.v))
		if h, body := s.next(); h.Type == packet.SUBACK {
			a, err := packet.ParseSuback(body, t.v)
			t.must(err)
			look(a.Reason, a.UserProperties)
		} else { // it may close for the form of a filter
			s = connect()
		}
		s.ack(packet.PUBREL, 99)
		a := s.acked(packet.PUBCOMP, 99)
		look(a.Reason, a.UserProperties)
		u := s.unsubscribe("never")
		look(u.Reason, u.UserProperties)
		id := s.publish(text(t.topic("nobody"), "x", 1))
		a = s.acked(packet.PUBACK, id)
		look(a.Reason, a.UserProperties)
		id = s.publish(text(t.topic("nobody"), "x", 2))
		a = s.acked(packet.PUBREC, id)
		look(a.Reason, a.UserProperties)
		if t.ours && asks && explained < 3 {
			t.failf("%d answers are explained, want that of SUBSCRIBE and both of PUBLISH", explained)
		}
		s.leave()
	}
	t.where = ""
}

func acknowledgementsKeepTheOrder(t *T) {
	s := t.connect("s", lasting)
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	var b []byte
	for id := packet.ID(1); id <= 10; id++ {
		m := text(t.topic("a"), "x", packet.QoS(1+id%2))
		m.ID = id
		b, _ = packet.AppendPublish(b, &m, t.v)
	}
	p.send(b)
	var pubacks, pubrecs []packet.ID
	for range 10 {
		h, body := p.next()
		a, err := packet.ParseAck(h.Type, body, t.v)
		t.must(err)
		if h.Type == packet.PUBACK {
			pubacks = append(pubacks, a.ID)
		} else {
			pubrecs = append(pubrecs, a.ID)
		}
	}
	if !slices.Equal(pubacks, []packet.ID{2, 4, 6, 8, 10}) || !slices.Equal(pubrecs, []packet.ID{1, 3, 5, 7, 9}) {
		t.failf("PUBACKs in the order %v, PUBRECs %v", pubacks, pubrecs)
	}
}

func releasesKeepTheOrder(t *T) {
	s := t.connect("s")
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	var ids []packet.ID
	for range 5 {
		p.deliver(text(t.topic("a"), "x", 2))
		ids = append(ids, s.message().ID)
	}
	slices.Reverse(ids)
	var b []byte
	for _, id := range ids {
		b = packet.AppendAck(b, &packet.Ack{Type: packet.PUBREC, ID: id}, t.v)
	}
	s.send(b)
	for _, id := range ids {
		s.acked(packet.PUBREL, id)
	}
}

// whatWasSentDoesNotExpire sends two messages, of which the client has released one, when they expire.
func whatWasSentDoesNotExpire(t *T) {
	s := t.connect("s", lasting)
	s.subscribe(t.topic("a"), qos(2))
	p := t.connect("p")
	var got []packet.Publish
	for _, payload := range []string{"1", "2"} {
		m := text(t.topic("a"), payload, 2)
		m.HasExpiry, m.Expiry = true, 1
		p.deliver(m)
		got = append(got, s.message())
	}
	t.pass(2)
	s.ack(packet.PUBREC, got[0].ID)
	s.acked(packet.PUBREL, got[0].ID)
	s.Close()
	s = t.connect("s", lasting)
	s.acked(packet.PUBREL, got[0].ID)
	s.ack(packet.PUBCOMP, got[0].ID)
	if m := s.take("2"); m.ID != got[1].ID || !m.Dup {
		t.failf("it came again with packet id %d and DUP %v", m.ID, m.Dup)
	}
	s.silent()
}

// enormousPacketIsRefused is for versions that cannot announce a size.
func enormousPacketIsRefused(t *T) {
	if !t.ours {
		panic(result{elsewhere, "how much a broker takes is its own"})
	}
	p := t.connect("c")
	p.send([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F})
	p.closed()
}
