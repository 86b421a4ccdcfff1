package service

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// Garbage may take a quarter of what is in use, or garbageRoom if that is more. By itself the runtime
// allows as much as is in use, but at least 4 MiB: for a broker with many sessions that is much memory.
// Where little is in use, a fixed percentage would have it collect all the time.
const (
	garbageRoom  = 5 << 19 // bytes, 2.5 MiB
	leastGarbage = 25      // percent of what is in use
	mostGarbage  = 125
)

// LimitGarbage has the garbage collector run as often as suits a small machine, unless GOGC says how often.
// It adjusts that after each collection, from then on until the process ends.
func LimitGarbage() {
	if os.Getenv("GOGC") == "" {
		adjustGarbage.Do(func() {
			debug.SetGCPercent(mostGarbage)
			new(garbage).adjust()
		})
	}
}

var adjustGarbage sync.Once

// garbage is told of each collection by being collected itself.
type garbage struct{ percent int }

// adjust sets the percentage for the next collection, and has itself called after that.
func (g *garbage) adjust() {
	if percent := garbagePercent(liveHeap()); percent != g.percent {
		g.percent = percent
		debug.SetGCPercent(percent) // stops the world for some microseconds
	}
	// With a pointer it is not put together with other small objects, which would keep it.
	runtime.AddCleanup(&struct{ alone *byte }{}, (*garbage).adjust, g)
}

// garbagePercent returns how much garbage may wait for the collector, in percent of the live bytes that
// are in use. It is a multiple of 8 or one of the two ends, so that it seldom changes.
func garbagePercent(live uint64) int {
	percent := uint64(mostGarbage)
	if live > 0 {
		percent = garbageRoom * 100 / live &^ 7
	}
	return int(min(max(percent, leastGarbage), mostGarbage))
}

// liveHeap returns how many bytes of the heap the last collection left.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
