package boltfile

import (
	"bytes"
	"slices"
)

// hole is a part of a state that could not be read.
type hole struct {
	bucket string
	keys   span
	page   uint64 // that should hold it, 0 = a single value
}

func (h hole) clone() hole {
	h.keys.lo, h.keys.hi = bytes.Clone(h.keys.lo), bytes.Clone(h.keys.hi)
	return h
}

// maxHoles bounds the list of what could not be read; then whole buckets count as such.
const maxHoles = 1 << 14

// holes are those of a state: the keys of each bucket. Add first, then join, then ask.
type holes struct {
	of    map[string][]span
	count int
}

func (h *holes) add(one hole) {
	if h.of == nil {
		h.of = make(map[string][]span)
	}
	h.count++
	spans := h.of[one.bucket]
	if len(spans) >= maxHoles {
		spans = spans[:0]
		one.keys = span{} // all of the bucket
	}
	if len(spans) == 1 && spans[0].lo == nil && spans[0].hi == nil {
		return
	}
	h.of[one.bucket] = append(spans, one.clone().keys)
}

func (h *holes) clone() holes {
	c := holes{count: h.count, of: make(map[string][]span)}
	for bucket, spans := range h.of {
		c.of[bucket] = slices.Clone(spans)
	}
	return c
}

// all says that nothing could be read.
func (h *holes) all(buckets []string) {
	h.add(hole{bucket: string(metaBucket)})
	for _, b := range buckets {
		h.add(hole{bucket: b})
	}
}

// join sorts the spans and makes one of those that overlap.
func (h *holes) join() {
	for bucket, spans := range h.of {
		slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.lo, b.lo) })
		joined := spans[:1]
		for _, s := range spans[1:] {
			last := &joined[len(joined)-1]
			switch {
			case last.hi == nil: // has all that follows
			case bytes.Compare(s.lo, last.hi) > 0:
				joined = append(joined, s)
			case s.hi == nil || bytes.Compare(s.hi, last.hi) > 0:
				last.hi = s.hi
			}
		}
		h.of[bucket] = joined
	}
}

func (h *holes) has(bucket string, key []byte) bool {
	spans := h.of[bucket]
	// The first one that begins behind key: it is the one before, if any.
	i, _ := slices.BinarySearchFunc(spans, key, func(s span, key []byte) int {
		if bytes.Compare(s.lo, key) <= 0 {
			return -1
		}
		return 1
	})
	return i > 0 && spans[i-1].has(key)
}
