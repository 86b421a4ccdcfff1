package main

import (
	"fmt"
	"slices"
	"strings"

	"dunlin/core/packet"
)

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
