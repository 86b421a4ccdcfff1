package packet

import (
	"encoding/binary"
	"math"
)

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP (MQTT5 §3.4 to §3.7).
type Ack struct {
	Type           Type
	ID             ID
	Code           ReasonCode // Success in 3.1 and 3.1.1
	Reason         []byte     // Reason String, nil if absent
	UserProperties []byte     // as in Connect
}

const ackSet = userSet | 1<<propReasonString

// ackCode reports whether c may stand in a packet of type t [MQTT-3.4.2-1], [MQTT-3.5.2-1],
// [MQTT-3.6.2-1], [MQTT-3.7.2-1].
func ackCode(t Type, c ReasonCode) bool {
	if t == PUBREL || t == PUBCOMP {
		return c == Success || c == PacketIDNotFound
	}
	switch c {
	case Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecificError,
		NotAuthorized, TopicNameInvalid, PacketIDInUse, QuotaExceeded, PayloadFormatInvalid:
		return true
	}
	return false
}

// ParseAck decodes the variable header of a PUBACK, PUBREC, PUBREL or PUBCOMP (MQTT5 §3.4 to
// §3.7, MQTT3 §3.4 to §3.7). t says which; it comes from the header.
//
//	+-----------------+----------------+------------------+
//	| packet ID (2 B) | reason (v5)*   | properties (v5)* |   * left out if Success and empty
//	+-----------------+----------------+------------------+
//
// The result aliases body. It returns an *Error with code MalformedPacket for cut fields, bytes
// behind the last, strings that are not UTF-8 and properties that are none of these packets';
// ProtocolError for packet identifier 0, a code that is not one of t's [MQTT-3.4.2-1] and a
// Reason String that stands twice.
func ParseAck(t Type, body []byte, v Version) (Ack, error) {
	a := Ack{Type: t}
	if err := a.parse(body, v); err != nil {
		return Ack{}, err
	}
	return a, nil
}

func (a *Ack) parse(b []byte, v Version) (err *Error) {
	if a.ID, b, err = cutID(b); err != nil {
		return err
	}
	if v >= V5 && len(b) > 0 {
		a.Code, b = ReasonCode(b[0]), b[1:]
		if !ackCode(a.Type, a.Code) {
			return errReason
		}
		if len(b) > 0 {
			if a.Reason, a.UserProperties, b, err = cutReason(b); err != nil {
				return err
			}
		}
	}
	if len(b) > 0 {
		return errTrailing
	}
	return nil
}

// AckRun finds the acknowledgements at the start of b that stand behind each other, are of one type,
// in their shortest form and with identifiers that count up: what most reads bring of a client that
// acknowledges many messages. n is how many, 0 if b does not begin with one; together they are 4*n
// bytes. ParseHeader and ParseAck say the same of each.
//
//	+-----------+-----------+-----------------+-----------+-----------+--------------------+
//	| type 0x*  | length 2  | packet ID (2 B) | type 0x*  | length 2  | packet ID+1 (2 B)  | ...
//	+-----------+-----------+-----------------+-----------+-----------+--------------------+
func AckRun(b []byte) (t Type, first ID, n int) {
	if len(b) < 4 || b[1] != 2 {
		return 0, 0, 0
	}
	switch b[0] {
	case byte(PUBACK) << 4, byte(PUBREC) << 4, byte(PUBREL)<<4 | fixedFlags, byte(PUBCOMP) << 4:
	default:
		return 0, 0, 0
	}
	word := binary.BigEndian.Uint32(b)
	first = ID(word)
	if first == 0 {
		return 0, 0, 0
	}
	most := math.MaxUint16 - int(first) + 1 // then comes 1
	for n = 1; n < most; n++ {
		if b = b[4:]; len(b) < 4 || binary.BigEndian.Uint32(b) != word+uint32(n) {
			break
		}
	}
	return Type(word >> 28), first, n
}

// AppendAckRun appends n acknowledgements of type t with success, whose identifiers count up from
// first and fit, the inverse of AckRun.
func AppendAckRun(dst []byte, t Type, first ID, n int) []byte {
	word := uint32(t)<<28 | 2<<16 | uint32(first)
	if t == PUBREL {
		word |= fixedFlags << 24
	}
	for i := range uint32(n) {
		dst = binary.BigEndian.AppendUint32(dst, word+i)
	}
	return dst
}

// cutReason takes a property block off b in which only a Reason String and User Properties may
// stand, as in most acknowledgements.
func cutReason(b []byte) (reason, user, rest []byte, err *Error) {
	ps, rest, err := cutProperties(b, ackSet, userSet)
	if err != nil {
		return nil, nil, nil, err
	}
	for ps.more() {
		if err := ps.next(); err != nil {
			return nil, nil, nil, err
		}
		if ps.id == propReasonString {
			reason = ps.data
		}
	}
	return reason, ps.keptBlock(), rest, nil
}

// AppendAck appends a as a whole packet, the inverse of ParseAck, in its shortest form: without
// code and properties if the code is Success and there is nothing more to say, and always in 3.1
// and 3.1.1.
func AppendAck(dst []byte, a *Ack, v Version) []byte {
	first := byte(a.Type) << 4
	if a.Type == PUBREL {
		first |= fixedFlags
	}
	bare := a.Reason == nil && len(a.UserProperties) == 0
	if v < V5 || bare && a.Code == Success {
		return append(dst, first, 2, byte(a.ID>>8), byte(a.ID))
	}
	if bare {
		return append(dst, first, 3, byte(a.ID>>8), byte(a.ID), byte(a.Code))
	}
	dst = append(dst, first)
	dst, body := openLength(dst)
	dst = append(dst, byte(a.ID>>8), byte(a.ID), byte(a.Code))
	dst = appendReason(dst, a.Reason, a.UserProperties)
	return closeLength(dst, body)
}

// appendReason appends the property block that cutReason takes off.
func appendReason(dst, reason, user []byte) []byte {
	dst, block := openLength(dst)
	dst = appendData(dst, propReasonString, reason)
	dst = appendOnly(dst, user, userSet)
	return closeLength(dst, block)
}
