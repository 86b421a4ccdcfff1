package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketHoldsWhatItsBoundsSay(t *testing.T) {
	check := func(d int64) {
		i := bucket(d)
		if d > upper(i) || i > 0 && d <= upper(i-1) {
			t.Errorf("%d is in bucket %d, which ends at %d and begins behind %d", d, i, upper(i), upper(max(i-1, 0)))
		}
	}
	for d := range int64(5000) {
		check(d)
	}
	for shift := range maxBits {
		for _, d := range []int64{1<<shift - 1, 1 << shift, 1<<shift + 1} {
			check(d)
		}
	}
	if got := bucket(1 << 62); got != buckets-1 {
		t.Errorf("a time beyond all bounds is in bucket %d, want the last", got)
	}
}

func TestQuantileIsAtMostASixtyFourthTooHigh(t *testing.T) {
	var h Histogram
	random := rand.New(rand.NewPCG(1, 2))
	all := make([]int64, 20_000)
	for i := range all {
		all[i] = random.Int64N(1 << (4 + random.IntN(34)))
		h.Record(all[i])
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(int(q*float64(len(all)))-1, 0)]
		got := int64(h.Quantile(q))
		if got < want || got > want+want/subBuckets+1 {
			t.Errorf("quantile %v is %d, want %d and at most 1/64 more", q, got, want)
		}
	}
}

func TestHistogramsAddUp(t *testing.T) {
	var a, b, both, none Histogram
	for i := range int64(1000) {
		a.Record(i * 1000)
		b.Record(i * i)
		both.Record(i * 1000)
		both.Record(i * i)
	}
	a.Add(&b)
	a.Add(&none)
	if a != both {
		t.Error("the sum of two histograms is not that of what they recorded")
	}
	none.Add(&b)
	if none != b {
		t.Error("nothing and a histogram are not that histogram")
	}
}

func TestNothingRecordedHasNoPercentiles(t *testing.T) {
	var h Histogram
	if h.Percentiles() != nil || h.Quantile(0.5) != 0 {
		t.Error("a histogram without durations has percentiles")
	}
	h.Record(-int64(time.Second))
	if p := h.Percentiles(); p == nil || p.Max != 0 || p.Count != 1 {
		t.Errorf("a negative duration gives %+v, want one of 0", p)
	}
}
