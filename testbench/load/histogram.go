package load

import (
	"math"
	"math/bits"
	"time"
)

// A Histogram counts durations in buckets that grow with them: subBuckets in each power of two,
// so a percentile is at most 1/64 too high.
type Histogram struct {
	counts [buckets]uint64
	count  uint64
	min    int64 // nanoseconds, valid if count > 0
	max    int64
}

const (
	subBits    = 6
	subBuckets = 1 << subBits
	// maxBits bounds what is told apart: 2^40 ns are 18 minutes.
	maxBits = 40
	buckets = (maxBits-subBits)*subBuckets + subBuckets
)

// Record counts d nanoseconds. Less than nothing, as clocks of two machines have it, is nothing.
func (h *Histogram) Record(d int64) {
	if d < 0 {
		d = 0
	}
	h.counts[bucket(d)]++
	if h.count == 0 || d < h.min {
		h.min = d
	}
	if d > h.max {
		h.max = d
	}
	h.count++
}

// bucket returns the bucket of d >= 0. Below subBuckets each nanosecond has its own.
func bucket(d int64) int {
	u := uint64(d)
	if u < subBuckets {
		return int(u)
	}
	if u >= 1<<maxBits {
		return buckets - 1
	}
	shift := bits.Len64(u) - subBits - 1
	return (shift+1)<<subBits + int(u>>shift) - subBuckets
}

// upper returns the largest duration of bucket i.
func upper(i int) int64 {
	if i < subBuckets {
		return int64(i)
	}
	shift := i>>subBits - 1
	return int64(i&(subBuckets-1)+subBuckets+1)<<shift - 1
}

// Add adds the counts of o.
func (h *Histogram) Add(o *Histogram) {
	if o.count == 0 {
		return
	}
	for i, n := range o.counts {
		h.counts[i] += n
	}
	if h.count == 0 || o.min < h.min {
		h.min = o.min
	}
	h.max = max(h.max, o.max)
	h.count += o.count
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.count }

// Quantile returns the duration that the part q (0 to 1) of all does not exceed, 0 if there is
// none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(h.count))), 1)
	var seen uint64
	for i, n := range &h.counts {
		seen += n
		if seen >= rank {
			return time.Duration(min(upper(i), h.max))
		}
	}
	return time.Duration(h.max)
}

// Percentiles are what a Histogram says, in microseconds.
type Percentiles struct {
	Count uint64  `json:"count"`
	Min   float64 `json:"min_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
}

// Percentiles returns nil if nothing was recorded.
func (h *Histogram) Percentiles() *Percentiles {
	if h.count == 0 {
		return nil
	}
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return &Percentiles{
		Count: h.count,
		Min:   us(time.Duration(h.min)),
		P50:   us(h.Quantile(0.5)), P90: us(h.Quantile(0.9)), P99: us(h.Quantile(0.99)),
		P999: us(h.Quantile(0.999)), Max: us(time.Duration(h.max)),
	}
}
