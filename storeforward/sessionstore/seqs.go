package sessionstore

import (
	"encoding/binary"
	"iter"
	"slices"
	"sort"

	"dunlin/core/durable"
)

const (
	// chunkBytes is the size of a full chunk of a seqs: its header is then a tenth of it, and taking a
	// number out of its middle moves at most so many bytes.
	chunkBytes = 512
	// chunkItems is how many numbers a chunk has at most, into which it may fall apart when they are
	// taken out here and there.
	chunkItems = 2048
)

// seqs is an ascending set of sequence numbers, each with the size of its message: a queue. Numbers at
// the same distance, of messages of the same size, cost next to nothing; others a byte if the distance
// to the one before is less than 64, two if it is less than 8,192, and as much for the size.
//
// The zero value is empty.
type seqs struct {
	chunks []chunk // none empty, ascending
	n      int
	bytes  int64 // of all messages
}

// chunk is a stretch of numbers: the first, and runs of further ones.
type chunk struct {
	first, last durable.Seq
	size        uint32 // of the first
	n           int32
	tail        int32 // where the last run begins, -1 = not known
	runs        []byte
}

// run is one number or more, each at the same distance to the one before, and of the same size. It is
// written as uvarints: the distance times two, plus one if there are more; the size; how many more.
type run struct {
	delta durable.Seq
	size  uint32
	more  uint64
}

func (r run) append(dst []byte) []byte {
	head := uint64(r.delta) << 1
	if r.more > 0 {
		head |= 1
	}
	dst = binary.AppendUvarint(dst, head)
	dst = binary.AppendUvarint(dst, uint64(r.size))
	if r.more > 0 {
		dst = binary.AppendUvarint(dst, r.more)
	}
	return dst
}

// readRun reads the run that b begins with, and how long it is.
func readRun(b []byte) (r run, n int) {
	head, n := binary.Uvarint(b)
	size, k := binary.Uvarint(b[n:])
	n += k
	r.delta, r.size = durable.Seq(head>>1), uint32(size)
	if head&1 != 0 {
		r.more, k = binary.Uvarint(b[n:])
		n += k
	}
	return r, n
}

// end is the last number of a run that comes behind prev.
func (r run) end(prev durable.Seq) durable.Seq { return prev + r.delta*durable.Seq(1+r.more) }

// place returns which number of a run that comes behind prev is s, from 0 on.
func (r run) place(prev, s durable.Seq) (i uint64, found bool) {
	if s <= prev || s > r.end(prev) || (s-prev)%r.delta != 0 {
		return 0, false
	}
	return uint64((s-prev)/r.delta) - 1, true
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
	if len(q.chunks) > 0 && q.chunks[len(q.chunks)-1].push(s, size) {
		return
	}
	q.chunks = append(q.chunks, chunk{first: s, last: s, size: size, n: 1})
}

// push adds s behind the last number, false if the chunk is full.
func (c *chunk) push(s durable.Seq, size uint32) bool {
	if c.n >= chunkItems || len(c.runs)+3*binary.MaxVarintLen64 > chunkBytes {
		return false
	}
	next := run{delta: s - c.last, size: size}
	at := len(c.runs)
	if c.tail >= 0 && at > 0 {
		if r, _ := readRun(c.runs[c.tail:]); r.delta == next.delta && r.size == size {
			at, next.more = int(c.tail), r.more+1
		}
	}
	c.runs = next.append(c.runs[:at])
	c.tail = int32(at)
	c.last = s
	c.n++
	return true
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
	return q.chunks[i].contains(s)
}

func (c *chunk) contains(s durable.Seq) bool {
	if s == c.first {
		return true
	}
	prev := c.first
	for at := 0; at < len(c.runs); {
		r, k := readRun(c.runs[at:])
		if end := r.end(prev); end < s {
			prev, at = end, at+k
			continue
		}
		_, found := r.place(prev, s)
		return found
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
			c.shift()
		}
		return size, true
	}
	prev := c.first
	for at := 0; at < len(c.runs); {
		r, k := readRun(c.runs[at:])
		if end := r.end(prev); end < s {
			prev, at = end, at+k
			continue
		}
		i, found := r.place(prev, s)
		if found {
			c.n--
			c.cut(at, k, prev, r, i)
		}
		return r.size, found
	}
	return 0, false
}

// shift makes the second number the first.
func (c *chunk) shift() {
	r, k := readRun(c.runs)
	c.first += r.delta
	c.size = r.size
	if r.more == 0 {
		c.runs = c.runs[k:]
	} else { // what remains of the run is not longer: it ends where it did
		r.more--
		var b [3 * binary.MaxVarintLen64]byte
		left := r.append(b[:0])
		k -= len(left)
		c.runs = c.runs[k:]
		copy(c.runs, left)
	}
	if c.tail >= 0 {
		c.tail = max(c.tail-int32(k), 0)
	}
}

// cut takes the i-th number out of the run r, k bytes at at, which comes behind prev.
func (c *chunk) cut(at, k int, prev durable.Seq, r run, i uint64) {
	var b [12 * binary.MaxVarintLen64]byte
	left := b[:0]
	if i > 0 {
		left = run{r.delta, r.size, i - 1}.append(left)
	}
	// The number behind it is further from the one before it now.
	next := run{r.delta, r.size, r.more - i - 1}
	switch {
	case i < r.more:
	case at+k == len(c.runs):
		c.last = prev + r.delta*durable.Seq(i)
		next.size, next.delta = 0, 0
	default:
		var n int
		next, n = readRun(c.runs[at+k:])
		k += n
	}
	if next.delta > 0 {
		left = run{delta: next.delta + r.delta, size: next.size}.append(left)
		if next.more > 0 {
			left = run{next.delta, next.size, next.more - 1}.append(left)
		}
	}
	c.runs = slices.Replace(c.runs, at, at+k, left...)
	c.tail = -1
	if cap(c.runs) > 64 && len(c.runs) < cap(c.runs)/4 {
		c.runs = slices.Clone(c.runs)
	}
}

// behind calls yield for the numbers greater than after, until that says false.
func (c *chunk) behind(after durable.Seq, yield func(durable.Seq, uint32) bool) bool {
	if c.first > after && !yield(c.first, c.size) {
		return false
	}
	prev := c.first
	for at := 0; at < len(c.runs); {
		r, k := readRun(c.runs[at:])
		at += k
		end := r.end(prev)
		if end <= after {
			prev = end
			continue
		}
		s := prev + r.delta
		if s <= after {
			s += (after - s) / r.delta * r.delta
			if s <= after {
				s += r.delta
			}
		}
		for ; s <= end; s += r.delta {
			if !yield(s, r.size) {
				return false
			}
		}
		prev = end
	}
	return true
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
			if !q.chunks[i].behind(after, yield) {
				return
			}
		}
	}
}
