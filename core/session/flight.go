package session

import (
	"math"
	"slices"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// flight is what is in flight to the client, in the order in which it was sent, with the
// identifiers that it uses.
//
// Messages leave with identifiers that count up and are acknowledged in that order, so neighbours
// that are alike stand in one run: a session that has 100 messages in flight has one or two runs
// instead of 100 entries, and an acknowledgement is found by a subtraction. Who acknowledges out of
// order makes more of them; in the worst case there is one for each message.
type flight struct {
	runs   []run  // those from head on are in use
	head   uint16 // how many at the front are not
	n      uint16 // identifiers in use
	nextID packet.ID
	free   uint16 // how many identifiers from nextID on are known to be unused
}

// run is messages in flight whose identifiers, and numbers, count up.
type run struct {
	seq   durable.Seq // of the first; 0 = none has one
	id    packet.ID   // of the first
	n     uint16
	stamp uint16 // when they were sent last, if anybody wants to know: see Stamp
	state state
	here  bool // on their way on this connection, so that they count against the window
}

// unacknowledged says that the messages themselves are still in the store.
func (r *run) unacknowledged() bool { return r.seq != 0 && r.state < received }

// seqAt is the number of the entry k.
func (r *run) seqAt(k int) durable.Seq {
	if r.seq == 0 {
		return 0
	}
	return r.seq + durable.Seq(k)
}

// from is the run without its first k entries.
func (r *run) from(k int) run {
	rest := *r
	rest.seq = r.seqAt(k)
	rest.id += packet.ID(k)
	rest.n -= uint16(k)
	return rest
}

// continues says whether b goes on where a ends. Identifiers do not: 1 follows 65,535, and begins a
// run of its own.
func (r *run) continues(a *run) bool {
	return r.state == a.state && r.here == a.here && r.stamp == a.stamp &&
		int(r.id) == int(a.id)+int(a.n) &&
		(r.seq == 0) == (a.seq == 0) && r.seq == a.seqAt(int(a.n))
}

type state uint8

const (
	committing state = iota + 1 // QoS 2: identifier on its way to disk, PUBLISH not sent
	sent1                       // QoS 1: PUBLISH sent at least once
	sent2                       // QoS 2: the same
	received                    // PUBREC seen, on its way to disk
	unsaved                     // PUBREC seen, and the disk has failed: to be written again
	released                    // PUBREL sent
)

// sent is the state of a message that leaves at once.
func sent(qos packet.QoS) state {
	if qos == 2 {
		return sent2
	}
	return sent1
}

// smallFlight is the capacity that an idle session may keep, in runs of 16 bytes.
const smallFlight = 4

// all are the runs in use.
func (f *flight) all() []run { return f.runs[f.head:] }

// push adds a message behind the others.
func (f *flight) push(r run, spare *spareFlights) {
	f.n += r.n
	if n := len(f.runs); n > int(f.head) && r.continues(&f.runs[n-1]) {
		f.runs[n-1].n += r.n
		return
	}
	f.grow(spare)
	f.runs = append(f.runs, r)
}

// grow makes room for two more runs.
func (f *flight) grow(spare *spareFlights) {
	if len(f.runs)+2 <= cap(f.runs) {
		return
	}
	used := f.all()
	if len(used)+2 <= cap(f.runs) && int(f.head) >= cap(f.runs)/4 {
		f.compact()
		return
	}
	bigger := append(spare.get(2*len(used)+2), used...)
	spare.put(f.runs)
	f.runs, f.head = bigger, 0
}

// compact moves the runs in use to the front.
func (f *flight) compact() {
	f.runs = f.runs[:copy(f.runs, f.all())]
	f.head = 0
}

// byID finds an identifier: entry k of run i, or i < 0. Acknowledgements come in order, so it is
// nearly always in the first run, or the first that waits for one of its type.
func (f *flight) byID(id packet.ID) (i, k int) {
	for i := int(f.head); i < len(f.runs); i++ {
		if k := id - f.runs[i].id; k < packet.ID(f.runs[i].n) {
			return i, int(k)
		}
	}
	return -1, 0
}

// bySeq finds a message by its number.
func (f *flight) bySeq(seq durable.Seq) (i, k int) {
	for i := int(f.head); i < len(f.runs); i++ {
		if r := &f.runs[i]; r.seq != 0 && r.seq <= seq && seq-r.seq < durable.Seq(r.n) {
			return i, int(seq - r.seq)
		}
	}
	return -1, 0
}

// change has set alter m entries of run i from entry k on.
func (f *flight) change(i, k, m int, spare *spareFlights, set func(*run)) {
	i = f.part(i, k, m, spare)
	set(&f.runs[i])
	f.join(i)
}

// move gives m entries of run i from entry k on another state.
func (f *flight) move(i, k, m int, to state, spare *spareFlights) {
	// In the usual case they are the first, and those before them have gone the same way.
	if r := &f.runs[i]; k == 0 && i > int(f.head) && m < int(r.n) {
		first := *r
		first.state = to
		if before := &f.runs[i-1]; first.continues(before) {
			before.n += uint16(m)
			*r = r.from(m)
			return
		}
	}
	i = f.part(i, k, m, spare)
	f.runs[i].state = to
	f.join(i)
}

// part makes m entries of run i from entry k on a run of their own, and returns where it is.
func (f *flight) part(i, k, m int, spare *spareFlights) int {
	if k == 0 && m == int(f.runs[i].n) {
		return i
	}
	i -= int(f.head)
	f.grow(spare)
	i += int(f.head)
	if k > 0 {
		rest := f.runs[i].from(k)
		f.runs[i].n = uint16(k)
		i++
		f.runs = slices.Insert(f.runs, i, rest)
	}
	if m < int(f.runs[i].n) {
		rest := f.runs[i].from(m)
		f.runs[i].n = uint16(m)
		f.runs = slices.Insert(f.runs, i+1, rest)
	}
	return i
}

// join makes run i one with its neighbours, where they continue each other.
func (f *flight) join(i int) {
	if i+1 < len(f.runs) && f.runs[i+1].continues(&f.runs[i]) {
		f.runs[i].n += f.runs[i+1].n
		f.delete(i + 1)
	}
	if i > int(f.head) && f.runs[i].continues(&f.runs[i-1]) {
		f.runs[i-1].n += f.runs[i].n
		f.delete(i)
	}
}

// remove takes m entries of run i from entry k on out.
func (f *flight) remove(i, k, m int, spare *spareFlights) {
	f.n -= uint16(m)
	if r := &f.runs[i]; k == 0 && m < int(r.n) {
		*r = r.from(m)
		return
	}
	f.delete(f.part(i, k, m, spare))
	f.rest(spare)
}

// delete takes run i out.
func (f *flight) delete(i int) {
	if i == int(f.head) {
		if f.head++; f.head == math.MaxUint16 {
			f.compact()
		}
		return
	}
	f.runs = slices.Delete(f.runs, i, i+1)
}

// removeIf takes out the runs for which gone says so, and joins the others.
func (f *flight) removeIf(spare *spareFlights, gone func(*run) bool) {
	kept := f.runs[:0]
	f.n = 0
	for _, r := range f.all() {
		if gone(&r) {
			continue
		}
		f.n += r.n
		if n := len(kept); n > 0 && r.continues(&kept[n-1]) {
			kept[n-1].n += r.n
			continue
		}
		kept = append(kept, r)
	}
	f.runs, f.head = kept, 0
	f.rest(spare)
}

// rest gives much memory back when nothing is in flight.
func (f *flight) rest(spare *spareFlights) {
	if f.n > 0 {
		return
	}
	f.runs, f.head = f.runs[:0], 0
	if cap(f.runs) > smallFlight {
		spare.put(f.runs)
		f.runs = nil
	}
}

// takeID returns an identifier that is not in use [MQTT-2.2.1-4]. The window is smaller than
// the space of identifiers, so there always is one.
func (f *flight) takeID() packet.ID {
	for f.free == 0 {
		if f.nextID == 0 {
			f.nextID = 1
		}
		f.free = uint16(f.unusedFrom(f.nextID))
		if f.free == 0 {
			f.nextID++
		}
	}
	id := f.nextID
	f.nextID++ // at the end of the space free is 0, too
	f.free--
	return id
}

// unusedFrom counts the identifiers from id up to the next one in use or to the end of the
// space.
func (f *flight) unusedFrom(id packet.ID) int {
	n := math.MaxUint16 - int(id) + 1
	for i := int(f.head); i < len(f.runs); i++ {
		switch r := &f.runs[i]; {
		case r.id >= id:
			n = min(n, int(r.id)-int(id))
		case id-r.id < packet.ID(r.n):
			return 0
		}
	}
	return n
}

// spareFlights are slices of runs that sessions of one loop have grown out of, or need no more: who
// has much in flight that makes no long runs gets them again.
type spareFlights struct{ lists [len(flightSizes)][][]run }

// flightSizes are the capacities of slices, as far as they are kept: of each as many as make 256 KiB.
var flightSizes = [...]int{smallFlight, 16, 64, 256, 1024}

func spareSlices(size int) int { return 256 << 10 / (16 * size) }

// get returns an empty slice for n runs.
func (s *spareFlights) get(n int) []run {
	for i, size := range flightSizes {
		if n > size {
			continue
		}
		list := s.lists[i]
		if k := len(list); k > 0 {
			b := list[k-1]
			list[k-1] = nil
			s.lists[i] = list[:k-1]
			return b
		}
		return make([]run, 0, size)
	}
	return make([]run, 0, n)
}

// put takes a slice back that nobody uses any more.
func (s *spareFlights) put(b []run) {
	for i, size := range flightSizes {
		if cap(b) == size && len(s.lists[i]) < spareSlices(size) {
			s.lists[i] = append(s.lists[i], b[:0])
		}
	}
}
