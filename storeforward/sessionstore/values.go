package sessionstore

import (
	"crypto/sha256"
	"encoding/binary"
	"math"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/platform/clock"
)

// keyCounters, in the meta bucket, are the last numbers that were given.
var keyCounters = []byte("counters")

func appendCounters(dst []byte, seq durable.Seq, session durable.SessionNumber) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	dst = binary.AppendUvarint(dst, uint64(seq))
	dst = binary.AppendUvarint(dst, uint64(session))
	return appendChecksum(dst, from, keyCounters)
}

func parseCounters(value []byte) (seq durable.Seq, session durable.SessionNumber, err error) {
	d, err := openValue(keyCounters, value)
	if err != nil {
		return 0, 0, err
	}
	seq, session = durable.Seq(d.uvarint()), durable.SessionNumber(d.uvarint())
	return seq, session, d.end()
}

// maxTopicKey is the length up to which a topic is its own key. A key may not be longer than
// 32,768 bytes, and a page should hold several.
const maxTopicKey = 512

// retainedKey returns the key of a retained message: its topic; for a long one a zero byte, which
// no topic has [MQTT-4.7.3-2], and the SHA-256 of the topic.
func retainedKey(topic string) []byte {
	if len(topic) <= maxTopicKey {
		return []byte(topic)
	}
	sum := sha256.Sum256([]byte(topic))
	return append([]byte{0}, sum[:]...)
}

func appendRetained(dst []byte, key []byte, m *message.Message) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	dst = appendMessage(dst, m)
	return appendChecksum(dst, from, key)
}

func parseRetained(key, value []byte) (*message.Message, error) {
	d, err := openValue(key, value)
	if err != nil {
		return nil, err
	}
	m := d.message()
	return m, d.end()
}

// appendDelayed writes a delayed message: what is left of the delay is known by the stamp of the
// message alone.
func appendDelayed(dst []byte, key []byte, d *durable.Delayed) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	dst = binary.AppendUvarint(dst, uint64(d.Delay))
	dst = appendMessage(dst, d.Message)
	return appendChecksum(dst, from, key)
}

func parseDelayed(key, value []byte) (x durable.Delayed, err error) {
	d, err := openValue(key, value)
	if err != nil {
		return x, err
	}
	if len(key) != 8 {
		d.fail()
	} else {
		x.Seq = durable.Seq(binary.BigEndian.Uint64(key))
	}
	x.Delay = uint32(d.uint(math.MaxUint32))
	x.Message = d.message()
	return x, d.end()
}

func bootKey(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func appendBoot(dst []byte, key []byte, b *clock.Boot) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	dst = appendBytes(dst, b.ID)
	dst = binary.AppendUvarint(dst, b.LastMillis)
	if b.Synced {
		dst = append(dst, 1)
		dst = binary.AppendVarint(dst, b.WallOffset)
	} else {
		dst = append(dst, 0)
	}
	return appendChecksum(dst, from, key)
}

func parseBoot(key, value []byte) (b clock.Boot, err error) {
	d, err := openValue(key, value)
	if err != nil {
		return b, err
	}
	if len(key) != 4 {
		d.fail()
	} else {
		b.Number = binary.BigEndian.Uint32(key)
	}
	b.ID = d.string()
	b.LastMillis = d.uint(math.MaxInt64)
	if d.byte() == 1 {
		b.Synced, b.WallOffset = true, d.varint()
	}
	return b, d.end()
}
