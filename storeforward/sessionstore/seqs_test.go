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
		for step := range 2000 {
			switch {
			case r.IntN(3) > 0 == (step < 1000): // grow, then shrink
				next += durable.Seq(1 + r.IntN(gap))
				if r.IntN(200) == 0 {
					next += durable.Seq(r.Uint64() >> 20)
				}
				sizes[next] = r.Uint32() >> r.IntN(32)
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
			if step%100 == 0 {
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

func TestAQueueCostsAtMostFourBytesAMessage(t *testing.T) {
	for _, gap := range []durable.Seq{1, 100} {
		var q seqs
		const n = 1_000_000
		for i := range durable.Seq(n) {
			q.Push((i+1)*gap, 200)
		}
		bytes := cap(q.chunks) * 56
		for _, c := range q.chunks {
			bytes += cap(c.deltas)
		}
		if perMessage := float64(bytes) / n; perMessage > 4 {
			t.Errorf("%.2f bytes a message at a distance of %d, want at most 4", perMessage, gap)
		}
	}
}
