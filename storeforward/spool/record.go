package spool

import (
	"encoding/binary"
	"hash/crc32"

	"dunlin/core/message"
)

const (
	recordVersion = 1

	flagQoS       = 0x03
	flagRetain    = 0x04
	flagExpiry    = 0x08
	flagWall      = 0x10
	shiftPubQoS   = 5
	recordFixed   = 2 + 5 + 5 + 10 + 10 + 3 + 3 + 5 + 4 // upper bound of everything but the byte strings
	checksumBytes = 4

	// overhead is what bbolt adds to a record: a leaf element and the key.
	overhead = 16 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxRecord is an upper bound of the bytes that appendRecord writes for m.
func maxRecord(m *message.Message) int {
	return recordFixed + len(m.Topic) + len(m.Publisher) + len(m.Properties) + len(m.Payload)
}

// appendRecord writes the stored form of m, which goes up with qos, behind dst.
func appendRecord(dst []byte, seq Seq, m *message.Message, qos byte) []byte {
	start := len(dst)
	flags := qos&flagQoS | m.QoS<<shiftPubQoS
	if m.Retain {
		flags |= flagRetain
	}
	if m.HasExpiry {
		flags |= flagExpiry
	}
	if m.Received.Wall != 0 {
		flags |= flagWall
	}
	dst = append(dst, recordVersion, flags)
	if m.HasExpiry {
		dst = binary.AppendUvarint(dst, uint64(m.Expiry))
	}
	dst = binary.AppendUvarint(dst, uint64(m.Received.Boot))
	dst = binary.AppendUvarint(dst, m.Received.Millis)
	if m.Received.Wall != 0 {
		dst = binary.AppendVarint(dst, m.Received.Wall)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.Topic)))
	dst = append(dst, m.Topic...)
	dst = binary.AppendUvarint(dst, uint64(len(m.Publisher)))
	dst = append(dst, m.Publisher...)
	dst = binary.AppendUvarint(dst, uint64(len(m.Properties)))
	dst = append(dst, m.Properties...)
	dst = append(dst, m.Payload...)
	return binary.BigEndian.AppendUint32(dst, checksum(seq, dst[start:]))
}

// parseRecord reads what appendRecord wrote. The message owns its bytes. ok is false if the
// record is damaged or of a version this program does not know.
func parseRecord(seq Seq, value []byte) (m *message.Message, qos byte, ok bool) {
	if !checkRecord(seq, value) {
		return nil, 0, false
	}
	r := reader{b: append([]byte(nil), value[2:len(value)-checksumBytes]...)}
	flags := value[1]
	m = &message.Message{QoS: flags >> shiftPubQoS & 3, Retain: flags&flagRetain != 0, HasExpiry: flags&flagExpiry != 0}
	if m.HasExpiry {
		m.Expiry = uint32(r.uvarint())
	}
	m.Received.Boot = uint32(r.uvarint())
	m.Received.Millis = r.uvarint()
	if flags&flagWall != 0 {
		m.Received.Wall = r.varint()
	}
	m.Topic = string(r.bytes())
	m.Publisher = string(r.bytes())
	if m.Properties = r.bytes(); len(m.Properties) == 0 {
		m.Properties = nil
	}
	m.Payload = r.b
	return m, flags & flagQoS, !r.failed
}

// checkRecord reports whether value is of a version that this program knows and as it was written.
func checkRecord(seq Seq, value []byte) bool {
	n := len(value) - checksumBytes
	return n >= 2 && value[0] == recordVersion && checksum(seq, value[:n]) == binary.BigEndian.Uint32(value[n:])
}

// checksum covers the key, too: a record under another key is damage.
func checksum(seq Seq, body []byte) uint32 {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], uint64(seq))
	return crc32.Update(crc32.Checksum(key[:], castagnoli), castagnoli, body)
}

// reader takes numbers and byte strings off the front of b; after a failure it returns zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return v * uint64(r.took(n))
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	return v * int64(r.took(n))
}

// took moves past n bytes and returns 1, or fails and returns 0 if n is not positive.
func (r *reader) took(n int) int {
	if n <= 0 {
		r.b, r.failed = nil, true
		return 0
	}
	r.b = r.b[n:]
	return 1
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.b, r.failed = nil, true
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}
