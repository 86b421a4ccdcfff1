package badinput

import (
	"bytes"

	"dunlin/core/packet"
)

// attack is a sequence of bytes that no client may send.
type attack struct {
	name string
	// first: it is sent instead of a CONNECT, not behind one.
	first bool
	bytes []byte
	// eof: the peer ends its side of the connection behind it.
	eof bool
	// code is what the DISCONNECT or CONNACK says, if the broker says something before it
	// closes; 5.0 only.
	code packet.ReasonCode
	// passes: mosquitto 2.0 lets it pass, which shows nothing about the row.
	passes bool
}

// str is a UTF-8 Encoded String (MQTT5 §1.5.4).
func str(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// frame is a whole packet: the first byte, the Remaining Length, the body.
func frame(first byte, body string) []byte {
	out := []byte{first}
	n := len(body)
	for {
		b := byte(n & 0x7F)
		if n >>= 7; n > 0 {
			out = append(out, b|0x80)
			continue
		}
		return append(append(out, b), body...)
	}
}

// props is a block of properties with its length; none before 5.0.
func props(v packet.Version, block string) string {
	if v != packet.V5 {
		return ""
	}
	return string([]byte{byte(len(block))}) + block
}

// connect is a CONNECT whose parts can be put wrong.
func connect(v packet.Version, protocol string, level, flags byte, block, payload string) []byte {
	return frame(0x10, str(protocol)+string([]byte{level, flags, 0, 60})+props(v, block)+payload)
}

// attacks returns the table for a protocol version.
func attacks(v packet.Version) []attack {
	const (
		malformed = packet.MalformedPacket
		protocol  = packet.ProtocolError
	)
	none := props(v, "")
	options := "\x01" // of a subscription
	all := []attack{
		// Instead of a CONNECT [MQTT-3.1.0-1].
		{name: "PUBLISH first", first: true, bytes: frame(0x30, str("a")+none+"hi"), code: protocol},
		{name: "SUBSCRIBE first", first: true, bytes: frame(0x82, "\x00\x01"+none+str("a")+options), code: protocol},
		{name: "PINGREQ first", first: true, bytes: frame(0xC0, ""), code: protocol},
		{name: "DISCONNECT first", first: true, bytes: frame(0xE0, ""), code: protocol},
		{name: "packet type 0 first", first: true, bytes: frame(0x00, ""), code: malformed, passes: true},
		{name: "a web request", first: true, bytes: []byte("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"), code: protocol},
		{name: "a TLS hello", first: true, bytes: append([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3}, bytes.Repeat([]byte{7}, 300)...), code: malformed},
		{name: "CONNECT with a reserved flag in its header", first: true, bytes: append([]byte{0x11}, connect(v, "MQTT", byte(v), 2, "", str("x"))[1:]...), code: malformed},
		{name: "CONNECT with a Remaining Length of five bytes", first: true, bytes: []byte{0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, code: malformed},
		{name: "CONNECT that claims 256 MB", first: true, bytes: append([]byte{0x10, 0xFF, 0xFF, 0xFF, 0x7F}, connect(v, "MQTT", byte(v), 2, "", str("x"))[2:]...), code: packet.PacketTooLarge, passes: true},
		{name: "CONNECT for another protocol", first: true, bytes: connect(v, "MQTX", byte(v), 2, "", str("x")), code: packet.UnsupportedProtocolVersion},
		{name: "CONNECT for protocol version 9", first: true, bytes: connect(v, "MQTT", 9, 2, "", str("x")), code: packet.UnsupportedProtocolVersion},
		{name: "CONNECT with the reserved connect flag", first: true, bytes: connect(v, "MQTT", byte(v), 3, "", str("x")), code: malformed},
		{name: "CONNECT with will QoS 3", first: true, bytes: connect(v, "MQTT", byte(v), 0x1E, "", str("x")+none+str("w")+str("p")), code: malformed},
		{name: "CONNECT with will flags but no will", first: true, bytes: connect(v, "MQTT", byte(v), 0x22, "", str("x")), code: malformed},
		{name: "CONNECT whose client id is not UTF-8", first: true, bytes: connect(v, "MQTT", byte(v), 2, "", str("x\xC0\xAF")), code: malformed},
		{name: "CONNECT whose client id is cut short", first: true, bytes: connect(v, "MQTT", byte(v), 2, "", "\x00\x09abc"), code: malformed},
		{name: "CONNECT without a payload", first: true, bytes: connect(v, "MQTT", byte(v), 2, "", ""), code: malformed},
		{name: "CONNECT without its will", first: true, bytes: connect(v, "MQTT", byte(v), 6, "", str("x")), code: malformed},
		{name: "CONNECT with bytes behind its payload", first: true, bytes: connect(v, "MQTT", byte(v), 2, "", str("x")+"more"), code: malformed, passes: true},
		{name: "CONNECT cut off by the end of the connection", first: true, eof: true, bytes: connect(v, "MQTT", byte(v), 2, "", str("x"))[:9], code: malformed},
		{name: "empty CONNECT", first: true, bytes: []byte{0x10, 0x00}, code: malformed},

		// Behind a CONNECT.
		{name: "second CONNECT", bytes: connect(v, "MQTT", byte(v), 2, "", str("x")), code: protocol},
		// mosquitto takes a first byte of 0 for none if it comes alone.
		{name: "packet type 0", bytes: frame(0x00, ""), code: malformed, passes: true},
		{name: "Remaining Length of five bytes", bytes: []byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01}, code: malformed},
		{name: "CONNACK from a client", bytes: frame(0x20, "\x00\x00"+none), code: protocol},
		{name: "SUBACK from a client", bytes: frame(0x90, "\x00\x01"+none+"\x00"), code: protocol, passes: true},
		{name: "UNSUBACK from a client", bytes: frame(0xB0, "\x00\x01"+none), code: protocol, passes: true},
		{name: "PINGRESP from a client", bytes: frame(0xD0, ""), code: protocol, passes: true},

		{name: "PUBLISH at QoS 3", bytes: frame(0x36, str("a")+"\x00\x01"+none+"hi"), code: malformed},
		{name: "PUBLISH with packet id 0", bytes: frame(0x32, str("a")+"\x00\x00"+none+"hi"), code: protocol},
		{name: "PUBLISH without its packet id", bytes: frame(0x32, str("a")), code: malformed},
		{name: "PUBLISH at QoS 0 with DUP", bytes: frame(0x38, str("a")+none+"hi"), code: malformed, passes: true},
		{name: "PUBLISH to +", bytes: frame(0x30, str("a/+")+none+"hi"), code: protocol},
		{name: "PUBLISH to #", bytes: frame(0x30, str("#")+none+"hi"), code: protocol},
		{name: "PUBLISH to no topic", bytes: frame(0x30, str("")+none+"hi"), code: protocol},
		{name: "PUBLISH with NUL in its topic", bytes: frame(0x30, str("a\x00b")+none+"hi"), code: malformed},
		{name: "PUBLISH with an overlong character", bytes: frame(0x30, str("a\xC0\xAF")+none+"hi"), code: malformed},
		{name: "PUBLISH with a surrogate", bytes: frame(0x30, str("a\xED\xA0\x80")+none+"hi"), code: malformed},
		{name: "PUBLISH with half a character", bytes: frame(0x30, str("a\xE2\x82")+none+"hi"), code: malformed},
		{name: "PUBLISH whose topic runs past its end", bytes: frame(0x30, "\xFF\xFFabc"), code: malformed},
		{name: "empty PUBLISH", bytes: frame(0x30, ""), code: malformed},
		{name: "PUBLISH that claims 256 MB", bytes: []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0x00, 0x01, 'a'}, code: packet.PacketTooLarge},
		{name: "PUBLISH cut off by the end of the connection", eof: true, bytes: frame(0x30, str("a")+none+"hello")[:6], code: malformed},

		{name: "PUBACK with flags", bytes: frame(0x41, "\x00\x01"), code: malformed, passes: true},
		{name: "PUBACK with packet id 0", bytes: frame(0x40, "\x00\x00"), code: protocol},
		{name: "PUBACK of one byte", bytes: frame(0x40, "\x00"), code: malformed},
		{name: "PUBREC with flags", bytes: frame(0x52, "\x00\x01"), code: malformed, passes: true},
		{name: "PUBREC with packet id 0", bytes: frame(0x50, "\x00\x00"), code: protocol},
		{name: "PUBREL without its flags", bytes: frame(0x60, "\x00\x01"), code: malformed},
		{name: "PUBREL with packet id 0", bytes: frame(0x62, "\x00\x00"), code: protocol},
		{name: "PUBCOMP with flags", bytes: frame(0x71, "\x00\x01"), code: malformed, passes: true},
		{name: "PUBCOMP with packet id 0", bytes: frame(0x70, "\x00\x00"), code: protocol},

		{name: "SUBSCRIBE without its flags", bytes: frame(0x80, "\x00\x01"+none+str("a")+options), code: malformed},
		{name: "SUBSCRIBE with packet id 0", bytes: frame(0x82, "\x00\x00"+none+str("a")+options), code: protocol},
		{name: "SUBSCRIBE to nothing", bytes: frame(0x82, "\x00\x01"+none), code: protocol},
		{name: "SUBSCRIBE without options", bytes: frame(0x82, "\x00\x01"+none+str("a")), code: malformed},
		{name: "SUBSCRIBE at QoS 3", bytes: frame(0x82, "\x00\x01"+none+str("a")+"\x03"), code: protocol},
		{name: "SUBSCRIBE with reserved options", bytes: frame(0x82, "\x00\x01"+none+str("a")+"\xC1"), code: malformed},
		{name: "SUBSCRIBE to a filter that is not UTF-8", bytes: frame(0x82, "\x00\x01"+none+str("a\xFF")+options), code: malformed},
		{name: "SUBSCRIBE whose filter runs past its end", bytes: frame(0x82, "\x00\x01"+none+"\x00\x09a"), code: malformed},

		{name: "UNSUBSCRIBE without its flags", bytes: frame(0xA0, "\x00\x01"+none+str("a")), code: malformed},
		{name: "UNSUBSCRIBE with packet id 0", bytes: frame(0xA2, "\x00\x00"+none+str("a")), code: protocol},
		{name: "UNSUBSCRIBE from nothing", bytes: frame(0xA2, "\x00\x01"+none), code: protocol},

		{name: "PINGREQ with flags", bytes: frame(0xC1, ""), code: malformed, passes: true},
		{name: "PINGREQ with a body", bytes: frame(0xC0, "x"), code: malformed, passes: true},
		{name: "DISCONNECT with flags", bytes: frame(0xE1, ""), code: malformed},
	}
	if v != packet.V5 {
		return append(all,
			attack{name: "packet type 15", bytes: frame(0xF0, "")},
			attack{name: "DISCONNECT with a body", bytes: frame(0xE0, "\x00")},
			attack{name: "PUBACK with a reason", bytes: frame(0x40, "\x00\x01\x00"), passes: true},
			attack{name: "a password without a user name", first: true, bytes: connect(v, "MQTT", byte(v), 0x42, "", str("x")+str("secret"))},
		)
	}
	return append(all,
		attack{name: "CONNECT with Receive Maximum 0", first: true, bytes: connect(v, "MQTT", 5, 2, "\x21\x00\x00", str("x")), code: protocol},
		attack{name: "CONNECT with Maximum Packet Size 0", first: true, bytes: connect(v, "MQTT", 5, 2, "\x27\x00\x00\x00\x00", str("x")), code: protocol},
		attack{name: "CONNECT with a property twice", first: true, bytes: connect(v, "MQTT", 5, 2, "\x21\x00\x09\x21\x00\x09", str("x")), code: protocol},
		attack{name: "CONNECT with a property of PUBLISH", first: true, bytes: connect(v, "MQTT", 5, 2, "\x23\x00\x09", str("x")), code: malformed, passes: true},
		attack{name: "CONNECT whose properties run past its end", first: true, bytes: frame(0x10, str("MQTT")+"\x05\x02\x00\x3C\x7F"+str("x")), code: malformed},
		attack{name: "AUTH without a method", bytes: frame(0xF0, ""), code: protocol},
		attack{name: "PUBLISH with an unknown property", bytes: frame(0x30, str("a")+"\x02\x7E\x00"+"hi"), code: malformed},
		attack{name: "PUBLISH with a property of CONNECT", bytes: frame(0x30, str("a")+"\x03\x21\x00\x09"+"hi"), code: malformed},
		attack{name: "PUBLISH with a property twice", bytes: frame(0x30, str("a")+"\x04\x01\x01\x01\x01"+"hi"), code: protocol},
		attack{name: "PUBLISH with a property cut short", bytes: frame(0x30, str("a")+"\x03\x02\x00\x00"), code: malformed},
		attack{name: "PUBLISH with properties past its end", bytes: frame(0x30, str("a")+"\x7F\x01\x01"), code: malformed},
		attack{name: "PUBLISH with Topic Alias 0", bytes: frame(0x30, str("a")+"\x03\x23\x00\x00"+"hi"), code: packet.TopicAliasInvalid},
		attack{name: "PUBLISH with a Topic Alias above the maximum", bytes: frame(0x30, str("a")+"\x03\x23\xFF\xFF"+"hi"), code: packet.TopicAliasInvalid},
		attack{name: "PUBLISH with a Topic Alias that has no topic", bytes: frame(0x30, str("")+"\x03\x23\x00\x05"+"hi"), code: protocol},
		attack{name: "PUBLISH with a wildcard in its response topic", bytes: frame(0x30, str("a")+"\x06\x08"+str("r/#")+"hi"), code: protocol, passes: true},
		attack{name: "PUBLISH with a Subscription Identifier", bytes: frame(0x30, str("a")+"\x02\x0B\x01"+"hi"), code: protocol, passes: true},
		attack{name: "PUBLISH with Payload Format Indicator 2", bytes: frame(0x30, str("a")+"\x02\x01\x02"+"hi"), code: protocol, passes: true},
		attack{name: "SUBSCRIBE with Subscription Identifier 0", bytes: frame(0x82, "\x00\x01\x02\x0B\x00"+str("a")+options), code: protocol},
		attack{name: "SUBSCRIBE with retain handling 3", bytes: frame(0x82, "\x00\x01\x00"+str("a")+"\x31"), code: protocol},
		attack{name: "SUBSCRIBE with no local on a shared subscription", bytes: frame(0x82, "\x00\x01\x00"+str("$share/g/a")+"\x05"), code: protocol, passes: true},
		attack{name: "DISCONNECT with a reason of a server", bytes: frame(0xE0, "\x8B"), code: protocol, passes: true},
		attack{name: "DISCONNECT with a Server Reference", bytes: frame(0xE0, "\x00\x04\x1C"+str("x")), code: protocol, passes: true},
	)
}
