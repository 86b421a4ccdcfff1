package sessionstore

import (
	"math/rand/v2"
	"slices"
	"testing"

	"dunlin/core/durable"
)

func TestSeqsAgreeWithASlice(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 0))
		var q seqs
		var model []durable.Seq
		sizes := map[durable.Seq]uint32{}
		next, gap := durable.Seq(0), 1+r.IntN(300)
		same, step, bytes := 1+r.IntN(2)*r.IntN(100), durable.Seq(1), uint32(100) // how long runs are
		for turn := range 2000 {
			switch {
			case r.IntN(3) > 0 == (turn < 1000): // grow, then shrink
				if r.IntN(same) == 0 {
					step, bytes = durable.Seq(1+r.IntN(gap)), r.Uint32()>>r.IntN(32)
				}
				next += step
				if r.IntN(200) == 0 {
					next += durable.Seq(r.Uint64() >> 20)
				}
				sizes[next] = bytes
				q.Push(next, sizes[next])
				model = append(model, next)
			case len(model) > 0:
				i := 0
				if r.IntN(2) == 0 {
					i = r.IntN(len(model))
				}
				if !q.Remove(model[i]) {
					t.Fatalf("seed %d: %d is not there", seed, model[i])
				}
				if r.IntN(20) == 0 {
					q.Insert(model[i], sizes[model[i]])
					break
				}
				delete(sizes, model[i])
				model = slices.Delete(model, i, i+1)
			}
			probe := durable.Seq(r.Uint64N(uint64(next) + 2))
			if got, want := q.Contains(probe), slices.Contains(model, probe); got != want {
				t.Fatalf("seed %d: Contains(%d) is %v, want %v", seed, probe, got, want)
			}
			if !slices.Contains(model, probe) && q.Remove(probe) {
				t.Fatalf("seed %d: removed %d, which was not there", seed, probe)
			}
			if q.Len() != len(model) || len(model) > 0 && (q.First() != model[0] || q.Last() != model[len(model)-1]) {
				t.Fatalf("seed %d: got %d numbers from %d to %d, want %v", seed, q.Len(), q.First(), q.Last(), model)
			}
			if turn%100 == 0 {
				bytes := int64(0)
				for s, size := range q.Sizes(0) {
					if bytes += int64(size); size != sizes[s] {
						t.Fatalf("seed %d: %d has %d bytes, want %d", seed, s, size, sizes[s])
					}
				}
				if bytes != q.Bytes() {
					t.Fatalf("seed %d: %d bytes are counted, want %d", seed, q.Bytes(), bytes)
				}
				i, found := slices.BinarySearch(model, probe)
				if found {
					i++
				}
				if got := slices.Collect(q.Behind(probe)); !slices.Equal(got, model[i:]) {
					t.Fatalf("seed %d: behind %d got %v, want %v", seed, probe, got, model[i:])
				}
			}
		}
	}
}

// cost is how many bytes of memory a queue takes for each message.
func (q *seqs) cost() float64 {
	bytes := cap(q.chunks) * 56
	for _, c := range q.chunks {
		bytes += cap(c.runs)
	}
	return float64(bytes) / float64(q.n)
}

func TestAQueueCostsAtMostFourBytesAMessage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for gap, sizes := range map[durable.Seq]int{1: 0, 100: 0, 40: 16_000, 2000: 120} {
		var q seqs
		for i := range durable.Seq(1_000_000) {
			size := uint32(200)
			if sizes > 0 {
				size = r.Uint32N(uint32(sizes))
			}
			q.Push((i+1)*gap+durable.Seq(min(1, sizes)*r.IntN(int(gap))), size)
		}
		most := 4.2
		if sizes == 0 {
			most = 0.1
		}
		if got := q.cost(); got > most {
			t.Errorf("%.2f bytes a message at distances around %d, sizes below %d: want at most %.1f", got, gap, sizes, most)
		}
	}
}

// Whatever is taken out of it, a queue stays in proportion.
func TestAQueueThatFallsApartStaysSmall(t *testing.T) {
	var q seqs
	const n = 200_000
	for i := range durable.Seq(n) {
		q.Push(i+1, 200)
	}
	for i := durable.Seq(2); i <= n; i += 2 {
		if !q.Remove(i) {
			t.Fatalf("%d is not there", i)
		}
	}
	if got := q.cost(); got > 8 {
		t.Errorf("%.2f bytes a message, want at most 8", got)
	}
}
