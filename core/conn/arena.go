package conn

import (
	"encoding/binary"

	"dunlin/core/packet"
	"dunlin/platform/poll"
)

// flushAt is the fill of the arena at which the turn should flush early: one write(2) of this
// size costs little more than a small one, and the arena stays in the processor's cache.
const flushAt = 64 << 10

// classes are the sizes of buffers for output that did not fit the turn.
var classes = [...]int{512, 2 << 10, 8 << 10, 32 << 10}

// keep is how many free buffers of each class an arena holds on to.
const keep = 64

// Arena is the output of one loop and turn. A packet is encoded once per variant; each
// connection that gets it holds a range of the arena. Packet identifiers differ by connection:
// they are patched in just before its write.
//
// An Arena belongs to one loop.
type Arena struct {
	// What was queued for connections since the start: packets, and their bytes.
	Packets, Bytes uint64

	// PUBLISH packets stand by themselves: those that go to many are contiguous then, however many
	// acknowledgements leave in the same turn.
	publishes []byte
	others    []byte

	ids   []int32 // offsets in publishes of the packet ids to patch, ascending
	dirty []*Conn // connections with something to write this turn
	free  [len(classes)][][]byte

	unblocked []*Conn // see Unblocked

	together *together // nil = the loop writes alone
}

// Segment is one encoded packet in the arena of the current turn.
type Segment struct {
	span
	id    int32 // index in Arena.ids, or -1 if the packet has nothing to patch
	other bool  // it stands in Arena.others
	loose bool  // it may change places with PUBLISH packets
}

// span is a range of one of the arena's buffers.
type span struct{ start, end int32 }

func (s span) len() int { return int(s.end - s.start) }

// Len is the size of the packet in bytes.
func (s Segment) Len() int { return s.len() }

// Publish encodes p; the packet identifier is patched when a connection writes it.
func (a *Arena) Publish(p *packet.Publish, v packet.Version) Segment {
	start := len(a.publishes)
	var idOffset int
	a.publishes, idOffset = packet.AppendPublish(a.publishes, p, v)
	s := Segment{span: span{int32(start), int32(len(a.publishes))}, id: -1}
	if idOffset > 0 {
		s.id = int32(len(a.ids))
		a.ids = append(a.ids, int32(start+idOffset))
	}
	return s
}

// Packet takes the bytes of a packet as encode appends them.
func (a *Arena) Packet(encode func(dst []byte) []byte) Segment {
	start := len(a.others)
	a.others = encode(a.others)
	return a.other(start)
}

// Ack encodes a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (a *Arena) Ack(k *packet.Ack, v packet.Version) Segment {
	start := len(a.others)
	a.others = packet.AppendAck(a.others, k, v)
	return a.other(start)
}

func (a *Arena) other(start int) Segment {
	return Segment{span: span{int32(start), int32(len(a.others))}, id: -1, other: true}
}

// Full says that Flush should be called before more is encoded.
func (a *Arena) Full() bool { return len(a.publishes)+len(a.others) >= flushAt }

// Size is the memory of the arena's buffers, in bytes.
func (a *Arena) Size() int { return cap(a.publishes) + cap(a.others) }

// Pending says that Flush has something to do.
func (a *Arena) Pending() bool { return len(a.dirty) > 0 }

// Flush writes what each dirty connection has, once each, and empties the arena. It calls
// nobody: a connection whose socket is broken notices when it reads.
func (a *Arena) Flush(p *poll.Poller) {
	if a.together != nil && len(a.dirty) >= crowd {
		a.together.write()
	} else {
		for _, c := range a.dirty {
			c.flush(a)
		}
	}
	for i, c := range a.dirty {
		a.dirty[i] = nil
		c.dirty = false
		blocked := c.Blocked()
		_ = c.Watch(p) // changes what is watched already, which cannot fail
		if blocked && !c.Blocked() {
			a.unblocked = append(a.unblocked, c)
		}
	}
	a.dirty = a.dirty[:0]
	a.publishes, a.others, a.ids = reset(a.publishes), reset(a.others), a.ids[:0]
}

// Unblocked returns the connections, since it was asked last, whose output had waited for their sockets
// and went with a Flush: the poller does not tell of them any more.
func (a *Arena) Unblocked() []*Conn {
	all := a.unblocked
	a.unblocked = nil
	return all
}

// reset empties a buffer. One huge message must not keep its memory.
func reset(b []byte) []byte {
	if cap(b) > 8*flushAt {
		return nil
	}
	return b[:0]
}

// get returns an empty buffer for at least n bytes.
func (a *Arena) get(n int) []byte {
	for i, size := range classes {
		if n <= size {
			if k := len(a.free[i]); k > 0 {
				b := a.free[i][k-1]
				a.free[i][k-1] = nil
				a.free[i] = a.free[i][:k-1]
				return b
			}
			return make([]byte, 0, size)
		}
	}
	return make([]byte, 0, n)
}

// put takes a buffer back.
func (a *Arena) put(b []byte) {
	for i, size := range classes {
		if cap(b) == size && len(a.free[i]) < keep {
			a.free[i] = append(a.free[i], b[:0])
			return
		}
	}
}

// grow returns b with room for n more bytes; a buffer that is too small goes back.
func (a *Arena) grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	bigger := a.get(max(len(b)+n, min(2*cap(b), len(b)+n+64<<10)))
	bigger = append(bigger, b...)
	a.put(b)
	return bigger
}

// patch writes the consecutive identifiers from base on into the n packets from first on. buf is the
// arena's, or a copy of it.
func (a *Arena) patch(buf []byte, first, n int32, base packet.ID) {
	for i := range n {
		binary.BigEndian.PutUint16(buf[a.ids[first+i]:], uint16(base)+uint16(i))
	}
}
