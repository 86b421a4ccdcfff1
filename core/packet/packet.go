// Package packet parses and appends the fifteen MQTT Control Packets of MQTT 3.1, 3.1.1 and
// 5.0 (MQTT5 §2, §3). It does no I/O and does not allocate: what Parse returns aliases its
// input, what Append writes goes behind dst.
//
// Parse and Append come in pairs. A ParseX takes the body, which is exactly the Remaining
// Length bytes behind the fixed header; an AppendX writes the whole packet with its fixed
// header. A Parse never panics, whatever the input; what it refuses is an *Error whose code is
// the reason code that goes on the wire, and the value beside it is zero unless its function
// says otherwise. ParseHeader cuts a stream into packets:
//
//	h, n, err := packet.ParseHeader(buf)
//	switch {
//	case err != nil: // close with the code of err
//	case n == 0 || len(buf)-n < h.Remaining: // read more, if h.Remaining may be that much
//	default: // parse buf[n:n+h.Remaining], go on behind it
//	}
//
// Both directions of every packet are here, so a Parse accepts what either side may send. Which
// packet may come from whom, when, and in which version (AUTH is of 5.0 only) is the caller's
// to know.
//
// A fault in the form of a packet is MalformedPacket, a value that is well-formed but forbidden
// is ProtocolError, and where the Standard names the code it is that one (MQTT5 §4.13.1). For
// 3.1 and 3.1.1, which have no codes, only the refusal counts.
//
// MQTT 3.1 has the layout of 3.1.1. Where its text asks a server for more patience than 3.1.1
// does, the function says so.
package packet

import "strconv"

// Version is the Protocol Version byte of CONNECT (MQTT5 §3.1.2.2).
type Version byte

// The protocol versions that the broker speaks.
const (
	V31  Version = 3 // MQTT 3.1, protocol name MQIsdp
	V311 Version = 4 // MQTT 3.1.1
	V5   Version = 5 // MQTT 5.0
)

// QoS is the quality of service of a PUBLISH or a subscription: 0, 1 or 2 (MQTT5 §4.3).
type QoS byte

// ID is a Packet Identifier (MQTT5 §2.2.1). 0 is no identifier.
type ID uint16

// Type is the MQTT Control Packet type, the high four bits of the first byte (MQTT5 §2.1.2).
type Type byte

// The Control Packet types. 0 is reserved.
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
	AUTH        Type = 15
)

var typeNames = [...]string{
	CONNECT:     "CONNECT",
	CONNACK:     "CONNACK",
	PUBLISH:     "PUBLISH",
	PUBACK:      "PUBACK",
	PUBREC:      "PUBREC",
	PUBREL:      "PUBREL",
	PUBCOMP:     "PUBCOMP",
	SUBSCRIBE:   "SUBSCRIBE",
	SUBACK:      "SUBACK",
	UNSUBSCRIBE: "UNSUBSCRIBE",
	UNSUBACK:    "UNSUBACK",
	PINGREQ:     "PINGREQ",
	PINGRESP:    "PINGRESP",
	DISCONNECT:  "DISCONNECT",
	AUTH:        "AUTH",
}

// String returns the name as in the specification, such as "PUBLISH".
func (t Type) String() string {
	if t == 0 || int(t) >= len(typeNames) {
		return "Type(" + strconv.Itoa(int(t)) + ")"
	}
	return typeNames[t]
}
