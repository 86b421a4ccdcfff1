package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// single is one entry of a plain list, which runs must say the same as.
type single struct {
	seq   durable.Seq
	id    packet.ID
	state state
	here  bool
	stamp uint16
}

func (f *flight) singles() (all []single) {
	for _, r := range f.all() {
		for k := range int(r.n) {
			all = append(all, single{r.seqAt(k), r.id + packet.ID(k), r.state, r.here, r.stamp})
		}
	}
	return all
}

func TestRunsSayWhatAListWouldSay(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			compareWithList(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func compareWithList(t *testing.T, rng *rand.Rand) {
	var (
		spare spareFlights
		list  []single
		seq   durable.Seq
	)
	f := flight{nextID: packet.ID(65000 + rng.IntN(600))}
	numbered := rng.IntN(2) == 0
	mixed := rng.IntN(3) > 0 // of both levels, with gaps
	at := func() (id packet.ID, j, i, k int) {
		j = rng.IntN(len(list))
		if rng.IntN(3) > 0 {
			j = min(j, 2) // nearly in order
		}
		id = list[j].id
		i, k = f.byID(id)
		return id, j, i, k
	}
	for range 3000 {
		switch op := rng.IntN(12); {
		case len(list) == 0 || op < 5 && len(list) < 40:
			s := single{id: f.takeID(), state: sent1, here: true}
			if slices.ContainsFunc(list, func(o single) bool { return o.id == s.id }) || s.id == 0 {
				t.Fatalf("identifier %d was in use", s.id)
			}
			if numbered {
				seq++
				if mixed && rng.IntN(4) == 0 {
					seq += 3
				}
				s.seq = seq
			}
			if mixed && rng.IntN(2) == 0 {
				s.state = sent2
			}
			list = append(list, s)
			f.push(run{seq: s.seq, id: s.id, n: 1, state: s.state, here: true}, &spare)
		case op < 8:
			_, j, i, k := at()
			n := 1
			for n < 1+rng.IntN(9) && k+n < int(f.runs[i].n) {
				n++
			}
			list = slices.Delete(list, j, j+n)
			f.remove(i, k, n, &spare)
		case op < 10:
			_, j, i, k := at()
			to := []state{received, released}[rng.IntN(2)]
			list[j].state = to
			f.move(i, k, 1, to, &spare)
		case op == 10:
			_, j, i, k := at()
			stamp := uint16(rng.IntN(3))
			list[j].stamp = stamp
			f.change(i, k, 1, &spare, func(r *run) { r.stamp = stamp })
		case rng.IntN(20) == 0:
			list = slices.DeleteFunc(list, func(s single) bool { return s.state == released })
			f.removeIf(&spare, func(r *run) bool { return r.state == released })
		}
		if got := f.singles(); !slices.Equal(got, list) || int(f.n) != len(list) {
			t.Fatalf("got %d: %v\nwant %v", f.n, got, list)
		}
		for _, s := range list {
			if i, k := f.byID(s.id); i < 0 || f.runs[i].id+packet.ID(k) != s.id {
				t.Fatalf("identifier %d is found in run %d at %d", s.id, i, k)
			}
			if i, k := f.bySeq(s.seq); s.seq != 0 && (i < 0 || f.runs[i].seqAt(k) != s.seq) {
				t.Fatalf("number %d is found in run %d at %d", s.seq, i, k)
			}
		}
		if i, _ := f.byID(0); i >= 0 {
			t.Fatal("identifier 0 is found")
		}
		if len(list) == 0 && cap(f.runs) > smallFlight {
			t.Fatalf("a flight without messages has room for %d runs", cap(f.runs))
		}
	}
}

func TestMessagesInOrderAreFewRuns(t *testing.T) {
	for _, qos := range []packet.QoS{1, 2} {
		s := New(0, &Limits{Window: 1000, MaxQueued: 10_000})
		s.Connect(65535)
		most := 0
		for round := range 1000 {
			exchange(t, s, qos, 100, 1+round%7)
			most = max(most, cap(s.flight.runs))
		}
		if most > smallFlight {
			t.Errorf("QoS %d: %d runs for messages that are acknowledged in order", qos, most)
		}
	}
}

// exchange sends n messages and has the client acknowledge them, so many at a time.
func exchange(tb testing.TB, s *Session, qos packet.QoS, n, together int) {
	first := packet.ID(0)
	for range n {
		o, id := s.Offer(true)
		if o != SendNow {
			tb.Fatalf("got %v", o)
		}
		if first == 0 {
			first = id
		}
		s.Sending(qos, id)
	}
	types := []packet.Type{packet.PUBACK}
	if qos == 2 {
		types = []packet.Type{packet.PUBREC, packet.PUBCOMP}
	}
	for _, t := range types {
		for id, left := first, n; left > 0; {
			k := s.Together(t, id, min(left, together))
			if k == 0 {
				tb.Fatalf("%v of %d is not expected", t, id)
			}
			if left -= k; int(id)+k > 65535 {
				id = 1
			} else {
				id += packet.ID(k)
			}
		}
	}
	if s.InFlight() != 0 || s.outstanding != 0 {
		tb.Fatalf("%d in flight", s.InFlight())
	}
}

func TestAcknowledgementsTogetherAreTakenAsFarAsTheyAreAlike(t *testing.T) {
	s := New(0, &Limits{Window: 100, MaxQueued: 100})
	s.Connect(65535)
	for _, qos := range []packet.QoS{1, 1, 2, 2, 2, 1} {
		_, id := s.Offer(true)
		s.Sending(qos, id)
	}
	for _, tt := range []struct {
		t     packet.Type
		first packet.ID
		n     int
		want  int
	}{
		{packet.PUBACK, 1, 6, 2},
		{packet.PUBACK, 1, 6, 0}, // again
		{packet.PUBACK, 3, 4, 0}, // QoS 2
		{packet.PUBREC, 6, 1, 0}, // QoS 1
		{packet.PUBCOMP, 3, 3, 0},
		{packet.PUBREC, 3, 2, 2},
		{packet.PUBREC, 3, 3, 0}, // a repetition: PUBREL is sent again
		{packet.PUBREC, 5, 1, 1},
		{packet.PUBCOMP, 4, 3, 2},
		{packet.PUBCOMP, 3, 1, 1},
		{packet.PUBACK, 7, 1, 0},
		{packet.PUBACK, 6, 3, 1},
	} {
		if got := s.Together(tt.t, tt.first, tt.n); got != tt.want {
			t.Errorf("%v, %d from %d on: %d were taken, want %d", tt.t, tt.n, tt.first, got, tt.want)
		}
	}
	if s.InFlight() != 0 {
		t.Errorf("%d in flight", s.InFlight())
	}
	d := New(1, &Limits{Window: 100})
	d.Connect(65535)
	_, id := d.Offer(true)
	d.Took(1, 1, id)
	if got := d.Together(packet.PUBACK, id, 1); got != 0 { // each is written down
		t.Errorf("a session with a number takes %d together", got)
	}
}

func TestFlowsAllocateNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		step func(s *Session)
	}{
		{"QoS 1", func(s *Session) { exchange(t, s, 1, 100, 100) }},
		{"QoS 2", func(s *Session) { exchange(t, s, 2, 100, 33) }},
		{"both in turn, acknowledged backwards", func(s *Session) {
			var ids [60]packet.ID
			for i := range ids {
				_, id := s.Offer(true)
				s.Sending(packet.QoS(1+i%2), id)
				ids[i] = id
			}
			for i := len(ids) - 1; i >= 0; i-- {
				s.Puback(ids[i])
				s.Pubrec(ids[i], false)
				s.Pubcomp(ids[i])
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(0, &Limits{Window: 1000, MaxQueued: 10_000})
			s.Connect(65535)
			if got := testing.AllocsPerRun(100, func() { tt.step(s) }); got != 0 {
				t.Errorf("%v allocations, want 0", got)
			}
			if s.InFlight() != 0 {
				t.Errorf("%d in flight", s.InFlight())
			}
		})
	}
}

func BenchmarkFlow(b *testing.B) {
	for _, bb := range []struct {
		name string
		qos  packet.QoS
		n    int // in flight
		at   int // acknowledgements at a time
	}{
		{"QoS_1/100_in_flight/in_one_read", 1, 100, 100},
		{"QoS_1/100_in_flight/one_by_one", 1, 100, 1},
		{"QoS_2/100_in_flight/in_one_read", 2, 100, 100},
		{"QoS_2/100_in_flight/one_by_one", 2, 100, 1},
		{"QoS_1/1000_in_flight/one_by_one", 1, 1000, 1},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := New(0, &Limits{Window: 1000, MaxQueued: 10_000})
			s.Connect(65535)
			b.ReportAllocs()
			for b.Loop() {
				exchange(b, s, bb.qos, bb.n, bb.at)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*bb.n), "ns/message")
		})
	}
}
