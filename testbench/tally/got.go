package tally

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Rules say what one receiver may see.
type Rules struct {
	// ExactlyOnce forbids that a message published at QoS 2 comes twice. It does not hold for a
	// receiver that was granted a lower QoS.
	ExactlyOnce bool
	// OnlyOnce forbids that any message comes twice: nothing was interrupted.
	OnlyOnce bool
	// MaxBack is how far behind the newest of its stream a repeated message may lie, the size of
	// a resent window; 0 = no limit.
	MaxBack uint64
	// MaxRepeats bounds the repeats of all streams together; 0 = no limit.
	MaxRepeats uint64
	// JoinedLate says that the receiver subscribed while messages were on their way: of one at QoS 1
	// it may get the repetition only, behind later ones.
	JoinedLate bool
	// Refused says that the disk failed, and messages may have been refused or held that are sent or stored
	// again: they may come behind what was taken meanwhile.
	Refused bool
	// Only limits the check to streams for which it answers true; nil = all.
	Only func(s *Stream) bool
}

// maxExamples bounds how many offenders a report names.
const maxExamples = 8

// Got is the list of one receiver. All methods may be called from any goroutine.
type Got struct {
	t *Tally

	mu      sync.Mutex // guards what follows
	streams map[string]*arrivals
	unknown []string
	count   uint64 // first arrivals
	repeats uint64
	news    chan struct{} // closed at the next arrival, if somebody waits
}

// arrivals are the messages of one stream as they came.
type arrivals struct {
	seen       []bool // by sequence number - 1
	count      uint64 // first arrivals
	highest    uint64
	repeats    map[uint64]int
	back       uint64   // the farthest that a repeat lay behind highest
	disordered []string // the first maxExamples
	disorder   uint64
}

// Receiver returns a new, empty list of a receiver.
func (t *Tally) Receiver() *Got {
	return &Got{t: t, streams: make(map[string]*arrivals)}
}

// Clone returns a copy of the list as it is now.
func (g *Got) Clone() *Got {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := &Got{t: g.t, streams: make(map[string]*arrivals), count: g.count, repeats: g.repeats}
	c.unknown = append(c.unknown, g.unknown...)
	for name, a := range g.streams {
		b := *a
		b.seen, b.repeats, b.disordered = slices.Clone(a.seen), maps.Clone(a.repeats), slices.Clone(a.disordered)
		c.streams[name] = &b
	}
	return c
}

// Add notes a payload that arrived and reports whether it came for the first time.
func (g *Got) Add(payload []byte) (first bool) {
	name, seq, ok := parse(payload)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.news != nil {
		close(g.news)
		g.news = nil
	}
	a := g.streams[string(name)]
	if a == nil && ok {
		a = &arrivals{repeats: make(map[uint64]int)}
		g.streams[string(name)] = a
	}
	if !ok || seq == 0 || seq > g.last(string(name)) {
		if len(g.unknown) < maxExamples {
			g.unknown = append(g.unknown, fmt.Sprintf("%.60q", payload))
		}
		return false
	}
	for uint64(len(a.seen)) < seq {
		a.seen = append(a.seen, false)
	}
	if a.seen[seq-1] {
		a.repeats[seq]++
		g.repeats++
		a.back = max(a.back, a.highest-seq)
		return false
	}
	a.seen[seq-1] = true
	a.count++
	g.count++
	if seq < a.highest {
		a.disorder++
		if len(a.disordered) < maxExamples {
			a.disordered = append(a.disordered, fmt.Sprintf("%s %d after %d", name, seq, a.highest))
		}
	}
	a.highest = max(a.highest, seq)
	return true
}

// last returns the highest number that the stream of that name has sent, 0 if there is none.
func (g *Got) last(name string) uint64 {
	g.t.mu.Lock()
	s := g.t.streams[name]
	g.t.mu.Unlock()
	if s == nil {
		return 0
	}
	return s.Last()
}

// parse takes a payload apart.
func parse(payload []byte) (name []byte, seq uint64, ok bool) {
	for i, c := range payload {
		if c != ' ' {
			continue
		}
		name = payload[:i]
		for _, c := range payload[i+1:] {
			if c == ' ' {
				return name, seq, true
			}
			if c < '0' || c > '9' {
				return name, 0, false
			}
			seq = seq*10 + uint64(c-'0')
		}
		break
	}
	return name, 0, false
}

// Count returns how many different messages arrived.
func (g *Got) Count() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// Of returns how many different messages of a stream arrived, and how many arrivals were
// repeats.
func (g *Got) Of(s *Stream) (count, repeats uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.streams[s.Name]
	if a == nil {
		return 0, 0
	}
	for _, again := range a.repeats {
		repeats += uint64(again)
	}
	return a.count, repeats
}

// Repeats returns how many messages arrived again.
func (g *Got) Repeats() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.repeats
}

// Changed returns a channel that is closed at the next arrival.
func (g *Got) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.news == nil {
		g.news = make(chan struct{})
	}
	return g.news
}

// Missing returns at least how many messages of the snapshot have not arrived, of the streams
// that only answers true for (nil = all); 0 if none is missing. It is cheap as long as fewer have
// arrived than must.
func (g *Got) Missing(want *Snapshot, only func(s *Stream) bool) (n uint64) {
	for _, s := range g.t.Streams() {
		if only != nil && !only(s) {
			continue
		}
		if have := g.countOf(s.Name); have < want.counts[s.Name] {
			n += want.counts[s.Name] - have
			continue
		}
		missing, _ := g.missing(s.Name, want.acked[s.Name])
		n += missing
	}
	return n
}

// countOf returns how many different messages of a stream arrived.
func (g *Got) countOf(name string) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a := g.streams[name]; a != nil {
		return a.count
	}
	return 0
}

// missing counts the acknowledged messages of a stream that have not arrived, with examples.
func (g *Got) missing(name string, acked []bool) (n uint64, examples []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var seen []bool
	if a := g.streams[name]; a != nil {
		seen = a.seen
	}
	for i, ok := range acked {
		if ok && (i >= len(seen) || !seen[i]) {
			n++
			if len(examples) < maxExamples {
				examples = append(examples, fmt.Sprintf("%s %d", name, i+1))
			}
		}
	}
	return n, examples
}

// Has reports whether message seq of the stream has arrived.
func (g *Got) Has(s *Stream, seq uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.streams[s.Name]
	return a != nil && seq >= 1 && seq <= uint64(len(a.seen)) && a.seen[seq-1]
}

// Check compares the receiver's list with what the publishers were told is safe, in want, under
// the rules. It returns nil if they agree, else an error that counts and names the offenders.
func (g *Got) Check(want *Snapshot, r Rules) error {
	var errs []error
	add := func(what string, n uint64, examples []string) {
		if n > 0 {
			errs = append(errs, fmt.Errorf("%s %d: %s", what, n, strings.Join(examples, ", ")))
		}
	}
	var repeats uint64
	for _, s := range g.t.Streams() {
		if r.Only != nil && !r.Only(s) {
			continue
		}
		n, examples := g.missing(s.Name, want.acked[s.Name])
		add("acknowledged and lost", n, examples)

		g.mu.Lock()
		if a := g.streams[s.Name]; a != nil {
			if !r.Refused && (s.QoS != 1 || !r.JoinedLate) {
				add("disordered", a.disorder, a.disordered)
			}
			if r.OnlyOnce || r.ExactlyOnce && s.QoS == 2 {
				add("came twice", uint64(len(a.repeats)), a.repeated(s.Name))
			}
			if r.MaxBack > 0 && a.back > r.MaxBack {
				errs = append(errs, fmt.Errorf("%s: a repeat lay %d behind the newest, at most %d may", s.Name, a.back, r.MaxBack))
			}
			for _, again := range a.repeats {
				repeats += uint64(again)
			}
		}
		g.mu.Unlock()
	}
	if r.MaxRepeats > 0 && repeats > r.MaxRepeats {
		errs = append(errs, fmt.Errorf("%d repeats, at most %d may be", repeats, r.MaxRepeats))
	}
	g.mu.Lock()
	add("never sent", uint64(len(g.unknown)), g.unknown)
	g.mu.Unlock()
	return errors.Join(errs...)
}

// repeated names some of the messages that came again.
func (a *arrivals) repeated(name string) (examples []string) {
	for seq, again := range a.repeats {
		if len(examples) == maxExamples {
			break
		}
		examples = append(examples, fmt.Sprintf("%s %d (%d times)", name, seq, again+1))
	}
	return examples
}
