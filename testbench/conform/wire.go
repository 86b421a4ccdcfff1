package main

import (
	"bytes"
	"fmt"
	"strings"

	"dunlin/core/packet"
)

// Checks of what may not stand in a packet: the broker closes and says why.

var (
	malformed = []packet.ReasonCode{packet.MalformedPacket, packet.ProtocolError}
	violation = []packet.ReasonCode{packet.ProtocolError, packet.MalformedPacket}
)

func badUTF8Closes(t *T) {
	var faults, first []fault
	for name, s := range map[string]string{
		"surrogate": "a\xED\xA0\x80", "overlong": "a\xC0\xAF", "cut short": "a\xE2\x82", "beyond Unicode": "a\xF5\x80\x80\x80",
	} {
		faults = append(faults, textFaults(t, name, s)...)
		first = append(first, fault{name + " in a client identifier", t.greeting("MQTT", byte(t.v), 2, "", str(s)), malformed})
	}
	t.refuses(false, faults...)
	t.refuses(true, first...)
}

func nullInAStringCloses(t *T) {
	t.refuses(false, textFaults(t, "null", "a\x00b")...)
	t.refuses(true, fault{"null in a client identifier", t.greeting("MQTT", byte(t.v), 2, "", str("a\x00b")), malformed})
}

// textFaults puts a string where packets have strings.
func textFaults(t *T, name, s string) []fault {
	none := t.props("")
	codes := append([]packet.ReasonCode{packet.TopicNameInvalid, packet.TopicFilterInvalid}, malformed...)
	if t.ours {
		codes = malformed
	}
	return []fault{
		{name + " in a topic name", frame(0x30, str(s)+none+"x"), codes},
		{name + " in a topic filter", frame(0x82, "\x00\x01"+none+str(s)+"\x00"), codes},
		{name + " in an UNSUBSCRIBE", frame(0xA2, "\x00\x01"+none+str(s)), codes},
	}
}

func badUTF8InAPropertyCloses(t *T) {
	in := func(property string) []byte { return frame(0x30, str(t.topic("a"))+t.props(property)+"x") }
	t.refuses(false,
		fault{"user property name", in("\x26" + str("\xC0\xAF") + str("v")), malformed},
		fault{"user property value", in("\x26" + str("k") + str("\xED\xA0\x80")), malformed},
		fault{"content type", in("\x03" + str("\xFF")), malformed},
		fault{"response topic", in("\x08" + str("\xFF")), malformed})
}

func byteOrderMarkStays(t *T) {
	topic := t.topic("\uFEFFa\uFEFF")
	p := t.connect("c")
	p.subscribe(topic, qos(0))
	p.subscribe(t.topic("a"), qos(0))
	p.publish(text(topic, "x", 0))
	if m := p.take("x"); string(m.Topic) != topic {
		t.failf("the topic is %q, want %q", m.Topic, topic)
	}
	p.silent()
}

func longVariableByteIntegersClose(t *T) {
	t.refuses(false, fault{"Remaining Length of five bytes", []byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01}, malformed})
	if t.v5() {
		t.refuses(false, fault{"property length of five bytes", frame(0x30, str("a")+"\x80\x80\x80\x80\x01x"), malformed})
		t.forbids(
			fault{"property length 0 in two bytes", frame(0x30, str("a")+"\x80\x00x"), malformed},
			fault{"Remaining Length 0 in two bytes", []byte{0xC0, 0x80, 0x00}, malformed},
			fault{"Subscription Identifier 1 in two bytes", frame(0x82, "\x00\x01\x03\x0B\x81\x00"+str("a")+"\x00"), malformed})
	}
}

// wrongFlags sends a packet with each value of its flags but the right one.
func (t *T) wrongFlags(typ packet.Type, right byte, body string, codes ...packet.ReasonCode) {
	var faults []fault
	for flags := range byte(16) {
		if flags != right {
			faults = append(faults, fault{fmt.Sprintf("%s with flags %X", typ, flags), frame(byte(typ)<<4|flags, body), codes})
		}
	}
	t.refuses(false, faults...)
}

func reservedFlagsClose(t *T) {
	t.refuses(true, fault{"CONNECT", append([]byte{0x11}, t.greeting("MQTT", byte(t.v), 2, "", str(t.id("x")))[1:]...), malformed})
	for _, typ := range []packet.Type{packet.PUBACK, packet.PUBREC, packet.PUBCOMP} {
		t.wrongFlags(typ, 0, "\x00\x01", malformed...)
	}
	t.wrongFlags(packet.PINGREQ, 0, "", malformed...)
}

func pubrelFlagsClose(t *T) { t.wrongFlags(packet.PUBREL, 2, "\x00\x01", malformed...) }

func subscribeFlagsClose(t *T) {
	t.wrongFlags(packet.SUBSCRIBE, 2, "\x00\x01"+t.props("")+str("a")+"\x00", malformed...)
}

func unsubscribeFlagsClose(t *T) {
	t.wrongFlags(packet.UNSUBSCRIBE, 2, "\x00\x01"+t.props("")+str("a"), malformed...)
}

func disconnectFlagsClose(t *T) { t.wrongFlags(packet.DISCONNECT, 0, "", packet.MalformedPacket) }

func authReservedFlagsClose(t *T) {
	t.refuses(false, fault{"AUTH", frame(0xF1, ""), malformed})
}

func reservedConnectFlagCloses(t *T) {
	t.refuses(true, fault{"", t.greeting("MQTT", byte(t.v), 3, "", str(t.id("x"))), malformed})
}

func reservedSubscriptionOptionsClose(t *T) {
	var faults []fault
	bits := "\x03\x40\x80\xC0"
	if t.v5() {
		bits += "\x30" // retain handling 3
	} else {
		bits += "\x04\x08\x10\x20"
	}
	for _, o := range []byte(bits) {
		faults = append(faults, fault{"options " + string("0123456789ABCDEF"[o>>4]) + string("0123456789ABCDEF"[o&15]), frame(0x82, "\x00\x01"+t.props("")+str(t.topic("a"))+string([]byte{o})), malformed})
	}
	t.refuses(false, faults...)
}

func subscribeWithoutOptionsCloses(t *T) {
	t.refuses(false, fault{"", frame(0x82, "\x00\x01"+t.props("")+str(t.topic("a"))), malformed})
}

func packetIDZeroCloses(t *T) {
	none := t.props("")
	t.refuses(false,
		fault{"PUBLISH at QoS 1", frame(0x32, str(t.topic("a"))+"\x00\x00"+none+"x"), violation},
		fault{"PUBLISH at QoS 2", frame(0x34, str(t.topic("a"))+"\x00\x00"+none+"x"), violation},
		fault{"SUBSCRIBE", frame(0x82, "\x00\x00"+none+str(t.topic("a"))+"\x00"), violation},
		fault{"UNSUBSCRIBE", frame(0xA2, "\x00\x00"+none+str(t.topic("a"))), violation})
}

func badPropertiesClose(t *T) {
	topic := str(t.topic("a"))
	publish := func(block string) []byte { return frame(0x30, topic+t.props(block)+"x") }
	subscribe := func(block string) []byte { return frame(0x82, "\x00\x01"+t.props(block)+topic+"\x00") }
	t.forbids(
		fault{"unknown in PUBLISH", publish("\x7F\x00"), malformed},
		fault{"of CONNECT in PUBLISH", publish("\x11\x00\x00\x00\x05"), malformed},
		fault{"of PUBLISH in SUBSCRIBE", subscribe("\x01\x00"), malformed},
		fault{"payload format twice", publish("\x01\x00\x01\x00"), violation},
		fault{"message expiry twice", publish("\x02\x00\x00\x00\x05\x02\x00\x00\x00\x05"), violation},
		fault{"content type twice", publish("\x03\x00\x01a\x03\x00\x01a"), violation},
		fault{"response topic twice", publish("\x08\x00\x01a\x08\x00\x01a"), violation},
		fault{"correlation data twice", publish("\x09\x00\x01a\x09\x00\x01a"), violation},
		fault{"subscription identifier twice", subscribe("\x0B\x01\x0B\x01"), violation},
		fault{"subscription identifier of 0", subscribe("\x0B\x00"), violation},
		fault{"cut short", publish("\x02\x00"), malformed},
		fault{"length beyond the packet", frame(0x30, topic+"\x7F\x01\x00"), malformed})
	if t.ours { // the Standard does not say what it is
		t.refuses(false, fault{"payload format of 2", publish("\x01\x02"), violation})
	}
	id := str(t.id("x"))
	t.refuses(true,
		fault{"unknown in CONNECT", t.greeting("MQTT", 5, 2, "\x7F\x00", id), malformed},
		fault{"of PUBLISH in CONNECT", t.greeting("MQTT", 5, 2, "\x23\x00\x01", id), malformed},
		fault{"session expiry twice", t.greeting("MQTT", 5, 2, "\x11\x00\x00\x00\x00\x11\x00\x00\x00\x00", id), violation},
		fault{"receive maximum of 0", t.greeting("MQTT", 5, 2, "\x21\x00\x00", id), violation},
		fault{"maximum packet size of 0", t.greeting("MQTT", 5, 2, "\x27\x00\x00\x00\x00", id), violation},
		fault{"request problem information of 2", t.greeting("MQTT", 5, 2, "\x17\x02", id), violation},
		fault{"authentication data alone", t.greeting("MQTT", 5, 2, "\x16\x00\x01a", id), violation})
}

func serverPacketsFromAClientClose(t *T) {
	none := t.props("")
	t.forbids(
		fault{"CONNACK", frame(0x20, "\x00\x00"+none), violation},
		fault{"SUBACK", frame(0x90, "\x00\x01"+none+"\x00"), violation},
		fault{"UNSUBACK", frame(0xB0, "\x00\x01"+none), violation},
		fault{"PINGRESP", frame(0xD0, ""), violation},
		fault{"packet type 0", frame(0x00, ""), malformed})
}

func rubbishClosesWithReason(t *T) {
	t.refuses(false,
		fault{"PUBLISH without a topic", frame(0x30, "\x00"), malformed},
		fault{"topic beyond the packet", frame(0x30, "\x00\x09abc"), malformed},
		fault{"SUBACK-sized SUBSCRIBE", frame(0x82, "\x00"), malformed},
		fault{"PUBACK without a packet id", frame(0x40, "\x01"), malformed})
	t.forbids(fault{"PINGREQ with a body", frame(0xC0, "x"), malformed})
}

func malformedConnectCloses(t *T) {
	c := func(payload string) []byte { return t.greeting("MQTT", byte(t.v), 2, "", payload) }
	t.refuses(true,
		fault{"no client identifier", c(""), malformed},
		fault{"client identifier cut short", c("\x00\x09abc"), malformed},
		fault{"bytes behind the payload", c(str(t.id("x")) + "more"), malformed},
		fault{"no flags", frame(0x10, str("MQTT")+string([]byte{byte(t.v)})), malformed},
		fault{"nothing", frame(0x10, ""), malformed})
}

func qos3Closes(t *T) {
	t.refuses(false, fault{"", frame(0x36, str(t.topic("a"))+"\x00\x01"+t.props("")+"x"), malformed})
}

func dupAtQoS0Closes(t *T) {
	t.forbids(fault{"", frame(0x38, str(t.topic("a"))+t.props("")+"x"), malformed})
}

func wildcardsInTopicNamesClose(t *T) {
	var faults []fault
	for _, name := range []string{"#", "+", "/a/#", "/+/b", "/a+", "/a#b"} {
		faults = append(faults, fault{name, frame(0x30, str(t.prefix+name)+t.props("")+"x"), []packet.ReasonCode{packet.TopicNameInvalid, packet.ProtocolError, packet.MalformedPacket}})
	}
	t.refuses(false, faults...)
}

func emptyTopicNameCloses(t *T) {
	t.refuses(false, fault{"", frame(0x30, str("")+t.props("")+"x"), []packet.ReasonCode{packet.ProtocolError, packet.TopicNameInvalid, packet.MalformedPacket}})
}

func wildcardsInAResponseTopicClose(t *T) {
	for _, name := range []string{"a/#", "+/b"} {
		t.forbids(fault{name, frame(0x30, str(t.topic("a"))+t.props("\x08"+str(name))+"x"), []packet.ReasonCode{packet.ProtocolError, packet.TopicNameInvalid, packet.MalformedPacket}})
	}
}

func emptySubscribeCloses(t *T) {
	t.refuses(false, fault{"", frame(0x82, "\x00\x01"+t.props("")), violation})
}

func emptyUnsubscribeCloses(t *T) {
	t.refuses(false, fault{"", frame(0xA2, "\x00\x01"+t.props("")), violation})
}

// badFiltersAreRefused: by the SUBACK, or by the end of the connection.
func badFiltersAreRefused(t *T) {
	for _, filter := range []string{"a+", "a/b#", "a/#/b", "+a", "a/+b/c", "##", ""} {
		t.where = "filter " + filter
		p := t.connect("f")
		if filter != "" {
			filter = t.topic(filter)[:len(t.prefix)] + "/" + filter
		}
		p.send(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter}}, t.v))
		h, body, err := p.Packet(t.ctx)
		switch {
		case err != nil && t.ctx.Err() == nil: // closed
		case err != nil:
			t.failf("no answer: %v", err)
		case h.Type == packet.DISCONNECT:
		case h.Type != packet.SUBACK:
			t.failf("got %s", h.Type)
		case body[len(body)-1] < 0x80:
			t.failf("the filter is granted")
		case t.v5() && t.ours && body[len(body)-1] != byte(packet.TopicFilterInvalid):
			t.failf("refused with 0x%02X, want 0x8F", body[len(body)-1])
		}
		p.Close()
	}
}

func longTopicsAreCarriedOrRefusedAtOnce(t *T) {
	p := t.connect("c")
	canary := t.connect("canary")
	for _, topic := range []string{strings.Repeat("/", 65535), strings.Repeat("a", 65535)} {
		p.publish(text(topic, "x", 0))
		canary.silent()
	}
	topic := t.topic(strings.Repeat("a", 200))
	p = t.connect("d")
	p.subscribe(topic, qos(0))
	p.publish(text(topic, "x", 0))
	p.take("x")
}

func subscriptionIdentifierFromAClientCloses(t *T) {
	t.forbids(fault{"", frame(0x30, str(t.topic("a"))+t.props("\x0B\x01")+"x"), violation})
}

func noLocalOnSharedCloses(t *T) {
	t.forbids(fault{"", frame(0x82, "\x00\x01\x00"+str("$share/g/"+t.topic("a"))+"\x04"), violation})
}

// propertyLengthIsAlwaysThere looks at the bytes of packets that have no properties. Acknowledgements
// may leave out their code and what is behind it (§3.4.2.2.1).
func propertyLengthIsAlwaysThere(t *T) {
	p := t.dial()
	p.send(t.greeting("MQTT", 5, 2, "", str(t.id("x"))))
	h, body := p.next()
	if h.Type != packet.CONNACK || len(body) < 3 || body[1] != 0 {
		t.failf("got %s %x", h.Type, body)
	}
	_, err := packet.ParseConnack(body, packet.V5)
	t.must(err)
	p.greeted = true
	topic := t.topic("a")
	p.send(frame(0x82, "\x00\x07\x00"+str(topic)+"\x00"))
	if body := p.expect(packet.SUBACK); !bytes.Equal(body, []byte{0, 7, 0, 0}) {
		t.failf("SUBACK %x, want 00070000", body)
	}
	p.send(frame(0x30, str(topic)+"\x00x"))
	if body := p.expect(packet.PUBLISH); string(body) != str(topic)+"\x00x" {
		t.failf("PUBLISH %q", body)
	}
	p.send(frame(0xA2, "\x00\x08\x00"+str(topic)))
	if body := p.expect(packet.UNSUBACK); !bytes.Equal(body, []byte{0, 8, 0, 0}) {
		t.failf("UNSUBACK %x, want 00080000", body)
	}
	// Without the length they are malformed.
	t.refuses(false,
		fault{"PUBLISH", frame(0x30, str(topic)), malformed},
		fault{"SUBSCRIBE", frame(0x82, "\x00\x01"+str("a")+"\x00"), malformed})
	t.refuses(true, fault{"CONNECT", frame(0x10, str("MQTT")+"\x05\x02\x00\x3C"), malformed})
}

func willFieldsAreThere(t *T) {
	id, none := str(t.id("x")), t.props("")
	c := func(payload string) []byte { return t.greeting("MQTT", byte(t.v), 0x06, "", payload) }
	t.refuses(true,
		fault{"no will", c(id), malformed},
		fault{"no topic", c(id + none), malformed},
		fault{"no payload", c(id + none + str(t.topic("w"))), malformed},
		fault{"payload cut short", c(id + none + str(t.topic("w")) + "\x00\x05ab"), malformed})
	if t.v5() {
		t.refuses(true, fault{"no properties", c(id + str(t.topic("w")) + str("x")), malformed})
	}
}
