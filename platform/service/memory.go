package service

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// Memory gives memory back to the system after a burst. The runtime keeps what the heap once had for
// the next burst, and what has become garbage at its end until the next collection, which an idle
// process never has.
//
// It costs nothing while nothing happens: each collection, and each call of Freed, sets a timer, and
// when there was no other for a while, Memory looks whether there is something to give back.
type Memory struct {
	quiet time.Duration
	give  func()                     // giveBack, or a test's
	heap  func() (size, live uint64) // heap, or a test's

	mu      sync.Mutex
	timer   *time.Timer    // guarded by mu
	freed   bool           // guarded by mu; since the last look
	stopped bool           // guarded by mu
	looking sync.WaitGroup // looks that were begun before stopped
}

// Settled is how long the heap must have been left alone before its memory goes back: a second would
// do between two waves of clients, but taking it anew costs a page fault each 4 KiB.
const Settled = 5 * time.Second

// worthGiving is the least that is worth a collection, in bytes.
const worthGiving = 2 << 20

// NewMemory returns a Memory that works until Stop: quiet after the last collection.
func NewMemory(quiet time.Duration) *Memory { return newMemory(quiet, giveBack, heap) }

func giveBack() {
	debug.FreeOSMemory()
	_ = ForgetProgram() // the smaller part: if it fails, it did so at the start, which has logged it
}

func newMemory(quiet time.Duration, give func(), heap func() (size, live uint64)) *Memory {
	m := &Memory{quiet: quiet, give: give, heap: heap}
	// Its first look is for what the start has taken. Owned by m: Stop waits for it.
	m.timer = time.AfterFunc(quiet, m.look)
	runtime.SetFinalizer(&collection{m: m}, collected)
	return m
}

// collection is garbage: its finalizer tells of a collection, and waits for the next.
type collection struct{ m *Memory }

func collected(c *collection) {
	if c.m.again(false) {
		runtime.SetFinalizer(c, collected)
	}
}

// Freed says that much has been freed, of which no collection may know for long. It never blocks.
func (m *Memory) Freed() { m.again(true) }

// again sets the timer anew; false after Stop.
func (m *Memory) again(freed bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.freed = m.freed || freed
	if !m.stopped {
		m.timer.Reset(m.quiet)
	}
	return !m.stopped
}

// look gives memory back if there is enough of it: a quarter of what is in use. After so long without
// a collection, much of that is garbage, or it would have come to the next. What was freed since the
// last one only the next one can tell: that is part of giving.
func (m *Memory) look() {
	m.mu.Lock()
	freed := m.freed
	m.freed = false
	if m.stopped {
		m.mu.Unlock()
		return
	}
	m.looking.Add(1)
	m.mu.Unlock()
	defer m.looking.Done()
	if size, live := m.heap(); freed || size > live+max(live/4, worthGiving) {
		m.give()
	}
}

// heap is how much memory of the system the heap has now, with what is free or garbage in it, and
// how much of it the last collection has found in use, in bytes.
func heap() (size, live uint64) {
	s := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(s)
	for i := range s {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0, 0 // a later runtime does not know it: only Freed counts
		}
	}
	return s[0].Value.Uint64() + s[1].Value.Uint64(), s[2].Value.Uint64()
}

// Stop ends the work of m and waits for it.
func (m *Memory) Stop() {
	m.mu.Lock()
	m.stopped = true
	m.timer.Stop()
	m.mu.Unlock()
	m.looking.Wait()
}
