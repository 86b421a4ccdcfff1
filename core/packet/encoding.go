package packet

import (
	"encoding/binary"
	"fmt"

	"dunlin/core/topic"
)

// MaxRemaining is the largest Remaining Length, in bytes (MQTT5 §2.1.4). No Append writes more:
// it panics, because the caller has let something in that it can not pass on.
const MaxRemaining = 268_435_455

// maxString is the longest UTF-8 Encoded String or Binary Data, in bytes (MQTT5 §1.5.4, §1.5.6).
const maxString = 65535

// varintSize returns how many bytes the Variable Byte Integer n takes (MQTT5 §1.5.5).
func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

// appendVarint appends n, at most MaxRemaining, as a Variable Byte Integer.
func appendVarint(dst []byte, n int) []byte {
	for n >= 1<<7 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// cutVarint takes a Variable Byte Integer off b. It must be minimal [MQTT-1.5.5-1].
func cutVarint(b []byte) (n int, rest []byte, err *Error) {
	if len(b) > 0 && b[0] < 0x80 {
		return int(b[0]), b[1:], nil
	}
	for i := range min(len(b), 4) {
		n |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			if b[i] == 0 {
				return 0, nil, errVarint
			}
			return n, b[i+1:], nil
		}
	}
	if len(b) < 4 {
		return 0, nil, errTruncated
	}
	return 0, nil, errVarint
}

// cutUint16 takes a Two Byte Integer off b.
func cutUint16(b []byte) (n uint16, rest []byte, err *Error) {
	if len(b) < 2 {
		return 0, nil, errTruncated
	}
	return binary.BigEndian.Uint16(b), b[2:], nil
}

// cutID takes a Packet Identifier off b, which must not be 0.
func cutID(b []byte) (id ID, rest []byte, err *Error) {
	n, rest, err := cutUint16(b)
	if err == nil && n == 0 {
		err = errPacketID
	}
	return ID(n), rest, err
}

// cutBinary takes Binary Data off b. data is never nil and has no spare capacity, so that an
// append to it can not write over what follows in the packet.
func cutBinary(b []byte) (data, rest []byte, err *Error) {
	if len(b) < 2 {
		return nil, nil, errTruncated
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	if end > len(b) {
		return nil, nil, errTruncated
	}
	return b[2:end:end], b[end:], nil
}

// cutString takes a UTF-8 Encoded String off b, as cutBinary does.
func cutString(b []byte) (s, rest []byte, err *Error) {
	s, rest, err = cutBinary(b)
	if err == nil && !topic.ValidString(s) {
		return nil, nil, errUTF8
	}
	return s, rest, err
}

// appendString appends a UTF-8 Encoded String or Binary Data of at most 65,535 bytes.
func appendString[T string | []byte](dst []byte, s T) []byte {
	if len(s) > maxString {
		panic(fmt.Sprintf("packet: internal error: string of %d bytes, at most %d fit", len(s), maxString))
	}
	dst = append(dst, byte(len(s)>>8), byte(len(s)))
	return append(dst, s...)
}

// openLength begins something that is preceded by its length as a Variable Byte Integer: the
// body of a packet or a property block. closeLength takes at.
func openLength(dst []byte) (out []byte, at int) {
	return append(dst, 0), len(dst)
}

// closeLength writes the length of what stands behind at, and moves that if the length takes
// more than the one byte that openLength left for it.
func closeLength(dst []byte, at int) []byte {
	n := len(dst) - at - 1
	if n > MaxRemaining {
		panic(fmt.Sprintf("packet: internal error: length of %d bytes, at most %d fit", n, MaxRemaining))
	}
	if more := varintSize(n) - 1; more > 0 {
		var room [3]byte
		dst = append(dst, room[:more]...)
		copy(dst[at+1+more:], dst[at+1:at+1+n])
	}
	appendVarint(dst[:at], n)
	return dst
}
