package sessionstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// valueVersion is the first byte of every value but those of the meta bucket.
const valueVersion = 1

// Keys of sequence, session and boot numbers are big endian, so that their order is that of the
// numbers.
func seqKey[N ~uint64](n N) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// errDamaged says that a value is not what was written.
var errDamaged = errors.New("sessionstore: damaged value")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the key, too: a value that turns up under another key is damage.
func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, key), castagnoli, value)
}

// appendChecksum ends the value that begins at from in dst.
func appendChecksum(dst []byte, from int, key []byte) []byte {
	return binary.BigEndian.AppendUint32(dst, checksum(key, dst[from:]))
}

// open checks version and checksum of a value and returns a decoder for what is between.
func openValue(key, value []byte) (decoder, error) {
	n := len(value) - 4
	if n < 1 {
		return decoder{}, fmt.Errorf("%w: %d bytes", errDamaged, len(value))
	}
	if got, want := checksum(key, value[:n]), binary.BigEndian.Uint32(value[n:]); got != want {
		return decoder{}, fmt.Errorf("%w: checksum %08x, want %08x", errDamaged, got, want)
	}
	if value[0] != valueVersion {
		return decoder{}, fmt.Errorf("%w: version %d, want %d", errDamaged, value[0], valueVersion)
	}
	return decoder{b: value[1:n]}, nil
}

func appendBytes[B ~string | ~[]byte](dst []byte, b B) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// decoder takes a value apart. After the first failure it returns zero values; end tells.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) fail() {
	d.b, d.failed = nil, true
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	n, k := binary.Uvarint(d.b)
	if k <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) varint() int64 {
	n, k := binary.Varint(d.b)
	if k <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[k:]
	return n
}

// uint reads a uvarint of at most max.
func (d *decoder) uint(max uint64) uint64 {
	n := d.uvarint()
	if n > max {
		d.fail()
		return 0
	}
	return n
}

// count reads the number of things that follow, each of at least one byte.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

// bytes returns what appendBytes wrote. It aliases the value.
func (d *decoder) bytes() []byte {
	n := d.count()
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) string() string { return string(d.bytes()) }

// end reports whether the value was read whole and without failure.
func (d *decoder) end() error {
	if d.failed || len(d.b) > 0 {
		return fmt.Errorf("%w: its fields do not fit its length", errDamaged)
	}
	return nil
}
