package sessionstore

import (
	"encoding/binary"
	"iter"
	"slices"
	"sort"

	"dunlin/core/durable"
)

// chunkBytes is the size of a full chunk of a seqs: its header is then a tenth of it, and taking a
// number out of its middle moves at most so many bytes.
const chunkBytes = 512

// seqs is an ascending set of sequence numbers, each with the size of its message: a queue. A
// number less than 128 behind the one before costs a byte, less than 16,384 two; so do sizes.
//
// The zero value is empty.
type seqs struct {
	chunks []chunk // none empty, ascending
	n      int
	bytes  int64 // of all messages
}

// chunk is a run of numbers: the first, and for each further one the distance to it and its size,
// as uvarints.
type chunk struct {
	first, last durable.Seq
	size        uint32 // of the first
	n           int32
	deltas      []byte
}

// item reads a further number of a chunk: the distance to it, its size, and how long both are.
func item(b []byte) (delta durable.Seq, size uint32, n int) {
	d, k := binary.Uvarint(b)
	z, l := binary.Uvarint(b[k:])
	return durable.Seq(d), uint32(z), k + l
}

// Len returns how many numbers there are.
func (q *seqs) Len() int { return q.n }

// Bytes returns the size of all messages.
func (q *seqs) Bytes() int64 { return q.bytes }

// First returns the smallest number, 0 if there is none.
func (q *seqs) First() durable.Seq {
	if q.n == 0 {
		return 0
	}
	return q.chunks[0].first
}

// Last returns the greatest number, 0 if there is none.
func (q *seqs) Last() durable.Seq {
	if q.n == 0 {
		return 0
	}
	return q.chunks[len(q.chunks)-1].last
}

// Push adds s, which must be greater than Last.
func (q *seqs) Push(s durable.Seq, size uint32) {
	if s <= q.Last() {
		panic("sessionstore: internal error: a queue must grow at its end")
	}
	q.n++
	q.bytes += int64(size)
	if len(q.chunks) > 0 {
		c := &q.chunks[len(q.chunks)-1]
		if len(c.deltas)+binary.MaxVarintLen64+binary.MaxVarintLen32 <= chunkBytes {
			c.deltas = binary.AppendUvarint(c.deltas, uint64(s-c.last))
			c.deltas = binary.AppendUvarint(c.deltas, uint64(size))
			c.last = s
			c.n++
			return
		}
	}
	q.chunks = append(q.chunks, chunk{first: s, last: s, size: size, n: 1})
}

// Insert adds s, which is not in the set, wherever it belongs. It costs as much as the set is long.
func (q *seqs) Insert(s durable.Seq, size uint32) {
	old := *q
	*q = seqs{}
	for at, z := range old.Sizes(0) {
		if at > s && q.Last() < s {
			q.Push(s, size)
		}
		q.Push(at, z)
	}
	if q.Last() < s {
		q.Push(s, size)
	}
}

// find returns the chunk that s would be in, len(q.chunks) if it is behind all.
func (q *seqs) find(s durable.Seq) int {
	if len(q.chunks) > 0 && s <= q.chunks[0].last {
		return 0 // nearly always
	}
	return sort.Search(len(q.chunks), func(i int) bool { return q.chunks[i].last >= s })
}

// Contains reports whether s is in the set.
func (q *seqs) Contains(s durable.Seq) bool {
	i := q.find(s)
	if i == len(q.chunks) || s < q.chunks[i].first {
		return false
	}
	for at := range q.chunks[i].all() {
		if at >= s {
			return at == s
		}
	}
	return false
}

// Remove takes s out and reports whether it was there.
func (q *seqs) Remove(s durable.Seq) bool {
	i := q.find(s)
	if i == len(q.chunks) {
		return false
	}
	size, found := q.chunks[i].remove(s)
	if !found {
		return false
	}
	q.n--
	q.bytes -= int64(size)
	if q.chunks[i].n == 0 {
		if i == 0 {
			q.chunks[0] = chunk{}
			q.chunks = q.chunks[1:]
		} else {
			q.chunks = slices.Delete(q.chunks, i, i+1)
		}
		if len(q.chunks) == 0 {
			q.chunks = nil
		}
	}
	return true
}

func (c *chunk) remove(s durable.Seq) (size uint32, found bool) {
	if s < c.first {
		return 0, false
	}
	if s == c.first {
		size = c.size
		c.n--
		if c.n > 0 {
			d, z, k := item(c.deltas)
			c.first += d
			c.size = z
			c.deltas = c.deltas[k:]
		}
		return size, true
	}
	prev := c.first
	for at := 0; at < len(c.deltas); {
		d, z, k := item(c.deltas[at:])
		cur := prev + d
		if cur > s {
			return 0, false
		}
		if cur == s {
			c.n--
			if at+k == len(c.deltas) {
				c.deltas, c.last = c.deltas[:at], prev
			} else {
				// Two distances become one, which never needs more bytes than both.
				e, l := binary.Uvarint(c.deltas[at+k:])
				rest := c.deltas[at+k+l:]
				c.deltas = append(binary.AppendUvarint(c.deltas[:at], uint64(d)+e), rest...)
			}
			if cap(c.deltas) > 64 && len(c.deltas) < cap(c.deltas)/4 {
				c.deltas = slices.Clone(c.deltas)
			}
			return z, true
		}
		prev, at = cur, at+k
	}
	return 0, false
}

func (c *chunk) all() iter.Seq2[durable.Seq, uint32] {
	return func(yield func(durable.Seq, uint32) bool) {
		s := c.first
		if !yield(s, c.size) {
			return
		}
		for at := 0; at < len(c.deltas); {
			d, z, k := item(c.deltas[at:])
			s += d
			at += k
			if !yield(s, z) {
				return
			}
		}
	}
}

// Behind iterates over the numbers greater than after, ascending. The set must not change
// meanwhile.
func (q *seqs) Behind(after durable.Seq) iter.Seq[durable.Seq] {
	return func(yield func(durable.Seq) bool) {
		for s := range q.Sizes(after) {
			if !yield(s) {
				return
			}
		}
	}
}

// Sizes iterates like Behind, with the sizes of the messages.
func (q *seqs) Sizes(after durable.Seq) iter.Seq2[durable.Seq, uint32] {
	return func(yield func(durable.Seq, uint32) bool) {
		for i := q.find(after + 1); i < len(q.chunks); i++ {
			for s, size := range q.chunks[i].all() {
				if s > after && !yield(s, size) {
					return
				}
			}
		}
	}
}
