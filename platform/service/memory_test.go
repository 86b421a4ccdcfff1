package service

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// released is how much of the heap has been given back to the system.
func released() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

var burst [][]byte // on the heap, whatever the compiler finds out

func TestMemoryGoesBackAfterABurst(t *testing.T) {
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	m := NewMemory(10 * time.Millisecond)
	defer m.Stop()
	for range 64 {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		burst = append(burst, b)
	}
	had := released()
	burst = nil
	m.Freed() // nothing else would cause a collection
	for deadline := time.Now().Add(30 * time.Second); released()-had < 32<<20; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d KiB have gone back after a burst of 64 MiB", (released()-had)>>10)
		}
	}
}

func TestACollectionIsFollowedByALook(t *testing.T) {
	m := newMemory(time.Hour, func() {}, func() (size, live uint64) { return 0, 0 })
	defer m.Stop()
	m.timer.Stop()
	for deadline := time.Now().Add(30 * time.Second); !m.timer.Stop(); time.Sleep(time.Millisecond) { // was it set?
		if time.Now().After(deadline) {
			t.Fatal("no collection has set the timer")
		}
		runtime.GC()
	}
}

func TestMemoryIsGivenBackIfThereIsEnoughOfIt(t *testing.T) {
	const MiB = 1 << 20
	var size, live uint64
	given := 0
	m := newMemory(time.Hour, func() { given++ }, func() (uint64, uint64) { return size * MiB, live * MiB })
	for _, test := range []struct {
		size, live uint64
		freed      bool
		gives      bool
	}{
		{size: 3, live: 1},
		{size: 4, live: 1, gives: true},
		{size: 2, live: 1, freed: true, gives: true},
		{size: 25, live: 20},
		{size: 26, live: 20, gives: true},
	} {
		size, live = test.size, test.live
		before := given
		if test.freed {
			m.Freed()
		}
		m.look()
		if (given > before) != test.gives {
			t.Errorf("%+v: given back: %v", test, given > before)
		}
	}
	m.Stop()
	before := given
	m.Freed()
	m.look()
	if given != before || m.again(false) {
		t.Error("it works after Stop")
	}
}
