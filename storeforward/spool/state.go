package spool

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"dunlin/core/durable"
)

// Outcome says how a message left the spool.
type Outcome byte

// The outcomes. Full and Damaged are the spool's own.
const (
	Delivered Outcome = iota + 1 // the remote end has it
	Expired                      // its Message Expiry Interval passed
	Refused                      // the remote end will never take it
	TooLarge                     // larger than the whole spool, or than the remote end takes
	Full                         // gave way because of the bound
	Damaged                      // its record could not be read
	outcomes
)

func (o Outcome) String() string {
	return [...]string{"", "delivered", "expired", "refused", "too_large", "full", "damaged"}[o]
}

// Ledger counts what went in and how it came out, over all starts of the program.
type Ledger struct {
	Accepted     uint64           // messages stored, or dropped by a policy instead of being stored
	Out          [outcomes]uint64 // by Outcome; Out[0] is unused
	Pending      uint64           // messages not done
	PendingBytes int64            // of their records
}

// Delivered, Expired and Dropped sum up Out.
func (l Ledger) Delivered() uint64 { return l.Out[Delivered] }

// Expired is the number of messages that were too old to be sent.
func (l Ledger) Expired() uint64 { return l.Out[Expired] }

// Dropped is the number of messages that left for any other reason than delivery and expiry.
func (l Ledger) Dropped() (n uint64) {
	for _, c := range l.Out[Refused:] {
		n += c
	}
	return n
}

// state is what the record "cursor" holds.
//
//	+---------+------+-------+-------+--------+----------+---------+-------+------------+-------------+------------+-----+
//	| version | last | floor | limit | source | accepted | pending | bytes | n outcomes | n spans     | n received | CRC |
//	+---------+------+-------+-------+--------+----------+---------+-------+------------+-------------+------------+-----+
//	   1 B                                                                   count each   gap, length   gap each     4 B
//
// Gaps count from the floor, then from the end of the previous element. The CRC-32C covers
// everything before it.
type state struct {
	last  Seq // highest Seq ever given
	floor Seq // this and everything before is done
	// limit is how far Next may hand out: after a crash nobody else knows what was sent. A clean
	// stop writes how far it really did.
	limit    Seq
	source   durable.Seq // highest source taken over
	ledger   Ledger
	spans    []span // done above the floor: ascending, with gaps between them
	received []Seq  // QoS 2, PUBREC seen: ascending
}

// span is the sequence numbers lo to hi, both included.
type span struct{ lo, hi Seq }

func (st *state) clone() state {
	c := *st
	c.spans = slices.Clone(st.spans)
	c.received = slices.Clone(st.received)
	return c
}

// at returns the index of the first span that ends at s or behind.
func (st *state) at(s Seq) int {
	i, _ := slices.BinarySearchFunc(st.spans, s, func(p span, s Seq) int { return cmp.Compare(p.hi, s) })
	return i
}

// isDone reports whether s is done.
func (st *state) isDone(s Seq) bool {
	i := st.at(s)
	return s <= st.floor || i < len(st.spans) && st.spans[i].lo <= s
}

// undone returns the first Seq from s on that is not done; it may be behind last.
func (st *state) undone(s Seq) Seq {
	s = max(s, st.floor+1)
	if i := st.at(s); i < len(st.spans) && st.spans[i].lo <= s {
		return st.spans[i].hi + 1
	}
	return s
}

// done marks lo to hi, none of which was done before.
func (st *state) done(lo, hi Seq) {
	i := st.at(lo)
	left := i > 0 && st.spans[i-1].hi == lo-1
	right := i < len(st.spans) && st.spans[i].lo == hi+1
	switch {
	case lo == st.floor+1 && right:
		st.floor = st.spans[i].hi
		st.spans = slices.Delete(st.spans, i, i+1)
	case lo == st.floor+1:
		st.floor = hi
	case left && right:
		st.spans[i-1].hi = st.spans[i].hi
		st.spans = slices.Delete(st.spans, i, i+1)
	case left:
		st.spans[i-1].hi = hi
	case right:
		st.spans[i].lo = lo
	default:
		st.spans = slices.Insert(st.spans, i, span{lo, hi})
	}
	if len(st.received) > 0 {
		st.received = slices.DeleteFunc(st.received, func(s Seq) bool { return lo <= s && s <= hi })
	}
}

func (st *state) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, recordVersion)
	for _, v := range [...]uint64{
		uint64(st.last), uint64(st.floor), uint64(st.limit), uint64(st.source),
		st.ledger.Accepted, st.ledger.Pending, uint64(st.ledger.PendingBytes), uint64(outcomes - 1),
	} {
		dst = binary.AppendUvarint(dst, v)
	}
	for _, v := range st.ledger.Out[1:] {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = binary.AppendUvarint(dst, uint64(len(st.spans)))
	at := st.floor
	for _, p := range st.spans {
		dst = binary.AppendUvarint(dst, uint64(p.lo-at))
		dst = binary.AppendUvarint(dst, uint64(p.hi-p.lo+1))
		at = p.hi
	}
	dst = binary.AppendUvarint(dst, uint64(len(st.received)))
	at = st.floor
	for _, s := range st.received {
		dst = binary.AppendUvarint(dst, uint64(s-at))
		at = s
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// parseState reads what append wrote; ok is false if it is damaged.
func parseState(b []byte) (st state, ok bool) {
	if len(b) < 1+checksumBytes || b[0] != recordVersion {
		return st, false
	}
	body, sum := b[:len(b)-checksumBytes], b[len(b)-checksumBytes:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return st, false
	}
	r := reader{b: body[1:]}
	st.last, st.floor, st.limit = Seq(r.uvarint()), Seq(r.uvarint()), Seq(r.uvarint())
	st.source = durable.Seq(r.uvarint())
	st.ledger.Accepted, st.ledger.Pending, st.ledger.PendingBytes = r.uvarint(), r.uvarint(), int64(r.uvarint())
	for i := range r.uvarint() {
		// A count of an outcome that this program does not know cannot be kept apart: it is a drop.
		o := Outcome(min(i+1, uint64(Damaged)))
		st.ledger.Out[o] += r.uvarint()
		if r.failed {
			return st, false
		}
	}
	at := st.floor
	for range r.uvarint() {
		p := span{lo: at + Seq(r.uvarint())}
		p.hi = p.lo + Seq(r.uvarint()) - 1
		if r.failed {
			return st, false
		}
		st.spans = append(st.spans, p)
		at = p.hi
	}
	at = st.floor
	for range r.uvarint() {
		at += Seq(r.uvarint())
		if r.failed {
			return st, false
		}
		st.received = append(st.received, at)
	}
	return st, !r.failed && len(r.b) == 0
}
