// Package tally is the book-keeping of a test that proves that nothing is lost: what the
// publishers were told is safe, what the receivers got, and whether the two agree.
//
// The two lists are never computed from each other. A publisher's list (Sent) grows by what it
// hands over and by the acknowledgements that it reads from its socket; a receiver's list (Got)
// grows by the payloads that arrive. Check compares them:
//
//   - lost: acknowledged, and not with the receiver
//   - doubled: a message that must come exactly once came again
//   - disordered: the first arrival of a message came after that of a later one of the same
//     publisher, topic and QoS (MQTT5 §4.6)
//   - unknown: a payload that no publisher ever sent
//
// A message that was never acknowledged may arrive or not.
package tally

import (
	"fmt"
	"sync"
)

// A Stream is what keeps an order: the messages of one publisher to one topic at one QoS, which
// are numbered from 1 without gaps.
type Stream struct {
	Name string // unique within the Tally; part of each payload, has no space
	QoS  byte   // as published

	mu    sync.Mutex // guards acked and sent
	acked []bool     // by sequence number - 1
	sent  uint64     // highest number handed out
	count uint64     // how many of acked are set
}

// Next returns the number of the next message of the stream and notes that it will be sent.
func (s *Stream) Next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	s.acked = append(s.acked, false)
	return s.sent
}

// Acked notes that the publisher read the acknowledgement of message seq: PUBACK, or PUBREC at
// QoS 2, with a code of success. Noting it again changes nothing.
func (s *Stream) Acked(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.acked[seq-1] {
		s.acked[seq-1] = true
		s.count++
	}
}

// Last returns the highest number handed out, 0 if none.
func (s *Stream) Last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Count returns how many messages of the stream were acknowledged.
func (s *Stream) Count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// AppendPayload appends the payload of message seq, filled up to size bytes: the name of the
// stream, a space, the number, and dots.
func (s *Stream) AppendPayload(dst []byte, seq uint64, size int) []byte {
	start := len(dst)
	dst = fmt.Appendf(dst, "%s %d ", s.Name, seq)
	for len(dst)-start < size {
		dst = append(dst, '.')
	}
	return dst
}

// Tally holds the streams of one test by name. All methods may be called from any goroutine.
type Tally struct {
	mu      sync.Mutex // guards streams and order
	streams map[string]*Stream
	order   []*Stream
}

// New returns an empty Tally.
func New() *Tally { return &Tally{streams: make(map[string]*Stream)} }

// Stream returns the stream of that name, which it makes at the first call.
func (t *Tally) Stream(name string, qos byte) *Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.streams[name]
	if s == nil {
		s = &Stream{Name: name, QoS: qos}
		t.streams[name] = s
		t.order = append(t.order, s)
	}
	return s
}

// Streams returns all streams in the order in which they were made.
func (t *Tally) Streams() []*Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*Stream(nil), t.order...)
}

// Acknowledged returns how many messages were acknowledged in all.
func (t *Tally) Acknowledged() (n uint64) {
	for _, s := range t.Streams() {
		n += s.Count()
	}
	return n
}

// Snapshot returns a copy of what is acknowledged now, to check a receiver against later: a
// crash image must hold what was acknowledged before it, not what came after.
func (t *Tally) Snapshot() *Snapshot {
	snap := &Snapshot{acked: make(map[string][]bool), counts: make(map[string]uint64)}
	for _, s := range t.Streams() {
		s.mu.Lock()
		snap.acked[s.Name] = append([]bool(nil), s.acked...)
		snap.counts[s.Name] = s.count
		s.mu.Unlock()
	}
	return snap
}

// SnapshotIf returns a copy of those acknowledged messages for which keep answers true.
func (t *Tally) SnapshotIf(keep func(s *Stream, seq uint64) bool) *Snapshot {
	snap := t.Snapshot()
	for _, s := range t.Streams() {
		for i, ok := range snap.acked[s.Name] {
			if ok && !keep(s, uint64(i+1)) {
				snap.acked[s.Name][i] = false
				snap.counts[s.Name]--
			}
		}
	}
	return snap
}

// Snapshot is the acknowledged messages of a moment.
type Snapshot struct {
	acked  map[string][]bool // by name of the stream, then by sequence number - 1
	counts map[string]uint64
}

// Include adds the message with that payload, as one that will be acknowledged.
func (s *Snapshot) Include(payload []byte) {
	name, seq, ok := parse(payload)
	if !ok || seq == 0 {
		return
	}
	acked := s.acked[string(name)]
	for uint64(len(acked)) < seq {
		acked = append(acked, false)
	}
	if !acked[seq-1] {
		acked[seq-1] = true
		s.counts[string(name)]++
	}
	s.acked[string(name)] = acked
}

// Has reports whether message seq of the stream was acknowledged then.
func (s *Snapshot) Has(stream *Stream, seq uint64) bool {
	acked := s.acked[stream.Name]
	return seq >= 1 && seq <= uint64(len(acked)) && acked[seq-1]
}

// CountOf returns how many messages of the stream were acknowledged then.
func (s *Snapshot) CountOf(stream *Stream) uint64 { return s.counts[stream.Name] }

// Count returns how many messages were acknowledged then.
func (s *Snapshot) Count() (n uint64) {
	for _, c := range s.counts {
		n += c
	}
	return n
}
