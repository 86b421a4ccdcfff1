package packet

import (
	"encoding/binary"
	"iter"

	"dunlin/core/topic"
)

// The property identifiers (MQTT5 §2.2.2.2). All fit one byte of a Variable Byte Integer.
const (
	propPayloadFormat     = 0x01
	propMessageExpiry     = 0x02
	propContentType       = 0x03
	propResponseTopic     = 0x08
	propCorrelationData   = 0x09
	propSubscriptionID    = 0x0B
	propSessionExpiry     = 0x11
	propAssignedClientID  = 0x12
	propServerKeepAlive   = 0x13
	propAuthMethod        = 0x15
	propAuthData          = 0x16
	propRequestProblem    = 0x17
	propWillDelay         = 0x18
	propRequestResponse   = 0x19
	propResponseInfo      = 0x1A
	propServerReference   = 0x1C
	propReasonString      = 0x1F
	propReceiveMaximum    = 0x21
	propAliasMaximum      = 0x22
	propTopicAlias        = 0x23
	propMaximumQoS        = 0x24
	propRetainAvailable   = 0x25
	propUserProperty      = 0x26
	propMaximumPacketSize = 0x27
	propWildcardAvailable = 0x28
	propSubIDAvailable    = 0x29
	propSharedAvailable   = 0x2A
)

// kind is the form of a property's value.
type kind byte

const (
	noProperty kind = iota // the identifier is not assigned
	flag                   // a byte; every byte property takes 0 or 1 only
	uint16Number
	uint32Number
	varint
	text     // UTF-8 Encoded String
	blob     // Binary Data
	textPair // UTF-8 String Pair
)

// kinds has room for every identifier that a set has a bit for.
var kinds = [64]kind{
	propPayloadFormat:     flag,
	propMessageExpiry:     uint32Number,
	propContentType:       text,
	propResponseTopic:     text,
	propCorrelationData:   blob,
	propSubscriptionID:    varint,
	propSessionExpiry:     uint32Number,
	propAssignedClientID:  text,
	propServerKeepAlive:   uint16Number,
	propAuthMethod:        text,
	propAuthData:          blob,
	propRequestProblem:    flag,
	propWillDelay:         uint32Number,
	propRequestResponse:   flag,
	propResponseInfo:      text,
	propServerReference:   text,
	propReasonString:      text,
	propReceiveMaximum:    uint16Number,
	propAliasMaximum:      uint16Number,
	propTopicAlias:        uint16Number,
	propMaximumQoS:        flag,
	propRetainAvailable:   flag,
	propUserProperty:      textPair,
	propMaximumPacketSize: uint32Number,
	propWildcardAvailable: flag,
	propSubIDAvailable:    flag,
	propSharedAvailable:   flag,
}

// set is a set of property identifiers: bit n stands for identifier n.
type set uint64

func (s set) has(id byte) bool { return s>>id&1 != 0 }

const (
	// userSet is what may stand more than once in every packet.
	userSet set = 1 << propUserProperty

	// travellingSet goes on unaltered with the Application Message [MQTT-3.3.2-4],
	// [MQTT-3.3.2-15] to [MQTT-3.3.2-20].
	travellingSet set = 1<<propPayloadFormat | 1<<propContentType | 1<<propResponseTopic |
		1<<propCorrelationData | userSet

	// nonzeroSet is where 0 is a Protocol Error. A Topic Alias of 0 has a code of its own.
	nonzeroSet set = 1<<propReceiveMaximum | 1<<propMaximumPacketSize | 1<<propSubscriptionID
)

// property is one decoded property.
type property struct {
	id     byte
	number uint32 // flag, number or varint
	data   []byte // text or blob; the name of a pair
	value  []byte // the value of a pair
}

// cutProperty takes one property off b, which is not empty, and says how many bytes it had. It
// looks at the form only: not at UTF-8 and not at what the values mean.
func cutProperty(b []byte, p *property) (size int, err *Error) {
	id := b[0]
	if id >= byte(len(kinds)) {
		return 0, errProperty // an identifier of two bytes included, there is none
	}
	p.id = id
	rest := b[1:]
	switch kinds[id] {
	case flag:
		if len(rest) < 1 {
			return 0, errTruncated
		}
		p.number, rest = uint32(rest[0]), rest[1:]
	case uint16Number:
		if len(rest) < 2 {
			return 0, errTruncated
		}
		p.number, rest = uint32(binary.BigEndian.Uint16(rest)), rest[2:]
	case uint32Number:
		if len(rest) < 4 {
			return 0, errTruncated
		}
		p.number, rest = binary.BigEndian.Uint32(rest), rest[4:]
	case varint:
		var n int
		if n, rest, err = cutVarint(rest); err != nil {
			return 0, err
		}
		p.number = uint32(n)
	case text, blob:
		if p.data, rest, err = cutBinary(rest); err != nil {
			return 0, err
		}
	case textPair:
		if p.data, rest, err = cutBinary(rest); err != nil {
			return 0, err
		}
		if p.value, rest, err = cutBinary(rest); err != nil {
			return 0, err
		}
	default:
		return 0, errProperty
	}
	return len(b) - len(rest), nil
}

// properties walks the property block of a packet and judges each property by what holds for
// all packets: it is one of those allowed here, stands once if it may not repeat, strings are
// UTF-8, flags are 0 or 1.
//
//	for ps.more() {
//		if err := ps.next(); err != nil { … }
//		switch ps.id { … }
//	}
type properties struct {
	property
	block    []byte
	at       int // offset of the next property
	allowed  set
	repeated set // may stand more than once
	seen     set

	// The stretch of the block from the first to the last property of kept.
	kept      set
	from, to  int  // to is 0 if there is none
	scattered bool // others stand in it, too
}

// cutProperties takes a property block with its length off b (MQTT5 §2.2.2).
//
//	+-----------------+-----+-------+-----+-------+---
//	| length (1–4 B)  | id  | value | id  | value | …
//	+-----------------+-----+-------+-----+-------+---
func cutProperties(b []byte, allowed, kept set) (ps properties, rest []byte, err *Error) {
	n, rest, err := cutVarint(b)
	if err != nil {
		return properties{}, nil, err
	}
	if n > len(rest) {
		return properties{}, nil, errTruncated
	}
	return properties{block: rest[:n:n], allowed: allowed, repeated: userSet, kept: kept}, rest[n:], nil
}

// more reports whether a property is left.
func (ps *properties) more() bool { return ps.at < len(ps.block) }

// next decodes the next property into ps.property.
func (ps *properties) next() *Error {
	start := ps.at
	if !ps.allowed.has(ps.block[start]) {
		return errProperty
	}
	size, err := cutProperty(ps.block[start:], &ps.property)
	if err != nil {
		return err
	}
	ps.at += size

	bit := set(1) << ps.id
	if ps.seen&bit&^ps.repeated != 0 {
		return errPropertyTwice
	}
	ps.seen |= bit
	switch kinds[ps.id] {
	case flag:
		if ps.number > 1 {
			return errPropertyFlag
		}
	case text:
		if !topic.ValidString(ps.data) {
			return errUTF8
		}
	case textPair:
		if !topic.ValidString(ps.data) || !topic.ValidString(ps.value) {
			return errUTF8
		}
	case uint16Number, uint32Number, varint:
		if ps.number == 0 && nonzeroSet.has(ps.id) {
			return errPropertyZero
		}
	}
	if ps.kept.has(ps.id) {
		if ps.to == 0 {
			ps.from = start
		} else if ps.to != start {
			ps.scattered = true
		}
		ps.to = ps.at
	}
	return nil
}

// keptBlock returns the stretch of kept properties, nil if there is none.
func (ps *properties) keptBlock() []byte {
	if ps.to == 0 {
		return nil
	}
	return ps.block[ps.from:ps.to:ps.to]
}

// appendOnly appends the properties of block that are in s, in order. What is not a property
// ends it.
func appendOnly(dst, block []byte, s set) []byte {
	var p property
	for len(block) > 0 {
		n, err := cutProperty(block, &p)
		if err != nil {
			break
		}
		if s.has(p.id) {
			dst = append(dst, block[:n]...)
		}
		block = block[n:]
	}
	return dst
}

// sizeOnly returns how many bytes appendOnly appends.
func sizeOnly(block []byte, s set) (size int) {
	var p property
	for len(block) > 0 {
		n, err := cutProperty(block, &p)
		if err != nil {
			break
		}
		if s.has(p.id) {
			size += n
		}
		block = block[n:]
	}
	return size
}

func appendFlag(dst []byte, id byte, on bool) []byte {
	if on {
		return append(dst, id, 1)
	}
	return append(dst, id, 0)
}

func appendUint16(dst []byte, id byte, n uint16) []byte {
	return append(dst, id, byte(n>>8), byte(n))
}

func appendUint32(dst []byte, id byte, n uint32) []byte {
	return append(dst, id, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// appendData appends a text or blob property, nothing if data is nil: that means absent, while
// an empty one is there.
func appendData(dst []byte, id byte, data []byte) []byte {
	if data == nil {
		return dst
	}
	return appendString(append(dst, id), data)
}

// AppendUserProperty appends one User Property with its identifier (MQTT5 §3.3.2.3.7), in the
// form that the UserProperties and Properties fields of this package hold one after the other.
// key and value must be UTF-8 without the null character and at most 65,535 bytes each; it
// panics if they are longer.
func AppendUserProperty(dst []byte, key, value string) []byte {
	dst = append(dst, propUserProperty)
	dst = appendString(dst, key)
	return appendString(dst, value)
}

// UserProperties yields the User Properties in block, in order and repetitions included. Other
// properties are passed over. It ends at what is not a property; a block that came from a Parse
// has none such.
func UserProperties(block []byte) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		var p property
		for len(block) > 0 {
			n, err := cutProperty(block, &p)
			if err != nil {
				return
			}
			if p.id == propUserProperty && !yield(string(p.data), string(p.value)) {
				return
			}
			block = block[n:]
		}
	}
}
