package forward

import (
	"fmt"
	"time"
)

// Backoff says how long to wait before something is tried again: decorrelated jitter, which
// spreads a fleet that lost the same cloud at the same moment.
type Backoff struct {
	Min    time.Duration // shortest wait
	Max    time.Duration // longest wait
	Stable time.Duration // a link that held for so long starts again at Min
}

// DefaultBackoff is what an uplink uses unless told otherwise.
var DefaultBackoff = Backoff{Min: time.Second, Max: 60 * time.Second, Stable: 10 * time.Second}

// Validate reports what is wrong with b.
func (b Backoff) Validate() error {
	switch {
	case b.Min <= 0:
		return fmt.Errorf("backoff: min is %v: it must be more than 0", b.Min)
	case b.Max < b.Min:
		return fmt.Errorf("backoff: max %v is less than min %v", b.Max, b.Min)
	case b.Stable < 0:
		return fmt.Errorf("backoff: stable is %v: it must not be negative", b.Stable)
	}
	return nil
}

// Next returns the wait after one of prev, which is 0 the first time: between Min and three
// times prev, at most Max. random is in [0, 1).
func (b Backoff) Next(prev time.Duration, random float64) time.Duration {
	low, high := b.Min, 3*max(prev, b.Min)
	return min(b.Max, low+time.Duration(random*float64(high-low)))
}
