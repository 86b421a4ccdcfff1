package load

import "slices"

// maxHoles bounds how many separate gaps a track remembers; the oldest is given up for lost then.
const maxHoles = 1024

// track is what one subscriber has got of one publisher. Numbers start at 0 and come one after
// the other; as long as they do, holes is nil and a message costs one comparison.
type track struct {
	next  uint32 // one more than the highest number that came
	holes []hole // numbers below next that did not come yet, ascending
	given uint32 // numbers in holes that were given up
}

// hole is the numbers from first up to, not including, end.
type hole struct{ first, end uint32 }

// faults count what a broker should not do.
type faults struct {
	duplicated uint64
	misordered uint64 // behind a later message of the same publisher and topic
	crossed    uint64 // behind a later message on another topic: allowed [MQTT-4.6.0-5]
	foreign    uint64 // of no run or publisher that the subscriber knows
}

// accept takes note of number seq and reports whether it is new. The messages of one publisher
// go round topics topics, so numbers that many apart are on the same one.
func (t *track) accept(seq uint32, topics uint32, f *faults) bool {
	if seq == t.next {
		t.next++
		return true
	}
	if seq > t.next {
		if len(t.holes) == maxHoles {
			t.given += t.holes[0].end - t.holes[0].first
			t.holes = slices.Delete(t.holes, 0, 1)
		}
		t.holes = append(t.holes, hole{t.next, seq})
		t.next = seq + 1
		return true
	}
	i, open := t.find(seq)
	if !open {
		f.duplicated++
		return false
	}
	if t.overtaken(seq, topics) {
		f.misordered++
	} else {
		f.crossed++
	}
	switch h := t.holes[i]; {
	case h.first == seq && h.end == seq+1:
		t.holes = slices.Delete(t.holes, i, i+1)
	case h.first == seq:
		t.holes[i].first++
	case h.end == seq+1:
		t.holes[i].end--
	default:
		t.holes[i].end = seq
		t.holes = slices.Insert(t.holes, i+1, hole{seq + 1, h.end})
	}
	return true
}

// find returns the hole that seq is in.
func (t *track) find(seq uint32) (i int, open bool) {
	i, _ = slices.BinarySearchFunc(t.holes, seq, func(h hole, seq uint32) int {
		switch {
		case h.end <= seq:
			return -1
		case h.first > seq:
			return 1
		}
		return 0
	})
	return i, i < len(t.holes) && t.holes[i].first <= seq
}

// overtaken says whether a later message on the topic of seq has come already.
func (t *track) overtaken(seq, topics uint32) bool {
	for later := uint64(seq) + uint64(topics); later < uint64(t.next); later += uint64(topics) {
		if _, open := t.find(uint32(later)); !open {
			return true
		}
	}
	return false
}

// missing returns how many of the first sent numbers did not come.
func (t *track) missing(sent uint32) uint64 {
	n := uint64(sent-min(sent, t.next)) + uint64(t.given)
	for _, h := range t.holes {
		n += uint64(h.end - h.first)
	}
	return n
}
