package main

import (
	"fmt"
	"slices"
	"time"

	"dunlin/core/packet"
)

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
