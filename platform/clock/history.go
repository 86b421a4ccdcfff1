package clock

import (
	"slices"
	"sync"
	"time"
)

// MaxBoots is how many boots a History keeps, a few years of a machine that is switched off every
// night. Moments of forgotten boots count from the oldest known one.
const MaxBoots = 1024

// Boot is what is known about one boot of the machine.
type Boot struct {
	Number     uint32 // counted from 1 on, never reused
	ID         string // Clock.BootID then
	LastMillis uint64 // milliseconds since the boot when it was last seen running
	WallOffset int64  // Unix milliseconds at the moment of booting, if Synced
	Synced     bool   // the wall clock was synchronised at some time of this boot
}

// History is the boots of a machine, so that moments of different boots can be compared. It may be
// used from any goroutine.
type History struct {
	clock *Clock

	mu    sync.Mutex
	boots []Boot // ascending by number; the last one is the current
	// since is, for each boot before the current one, the time from its last moment to that of the boot
	// before the current one: what does not change any more.
	since  []time.Duration
	asked  bool // what the wall clock says is as of the current boot's LastMillis,
	synced bool // and is to be believed
}

// NewHistory returns the history of known boots, as Boots had returned them, and the current one.
// A restart of the process within a boot continues that boot.
func NewHistory(c *Clock, known []Boot) *History {
	h := &History{clock: c, boots: slices.Clone(known)}
	if n := len(h.boots); n == 0 || h.boots[n-1].ID != c.BootID() {
		next := Boot{Number: 1, ID: c.BootID()}
		if n > 0 {
			next.Number = h.boots[n-1].Number + 1
		}
		h.boots = append(h.boots, next)
	}
	if extra := len(h.boots) - MaxBoots; extra > 0 {
		h.boots = slices.Delete(h.boots, 0, extra)
	}
	h.since = make([]time.Duration, len(h.boots)-1)
	for i := len(h.since) - 2; i >= 0; i-- {
		h.since[i] = h.since[i+1] + between(&h.boots[i], &h.boots[i+1]) + span(0, h.boots[i+1].LastMillis)
	}
	return h
}

// Now is this moment: the number of the boot, the milliseconds since then, and the Unix milliseconds if
// the wall clock is synchronised, else 0.
func (h *History) Now() (boot uint32, millis uint64, wall int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.refresh()
	if h.synced {
		wall = b.WallOffset + int64(b.LastMillis)
	}
	return b.Number, b.LastMillis, wall
}

// Current returns the current boot as of now.
func (h *History) Current() Boot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *h.refresh()
}

// Boots returns all known boots, oldest first, the current one as of now. They are what the next
// start wants to be given.
func (h *History) Boots() []Boot {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refresh()
	return slices.Clone(h.boots)
}

// Oldest returns the number of the oldest known boot; earlier ones are forgotten.
func (h *History) Oldest() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boots[0].Number
}

// refresh brings the current boot up to date.
func (h *History) refresh() *Boot {
	b := &h.boots[len(h.boots)-1]
	last := b.LastMillis
	b.LastMillis = max(last, h.clock.Millis())
	if h.asked && b.LastMillis == last {
		return b
	}
	now, q := h.clock.Wall()
	if h.asked, h.synced = true, q == Synced; h.synced {
		// Taken anew each time: the first answer of a time server may still be slewed.
		b.Synced, b.WallOffset = true, now.UnixMilli()-int64(b.LastMillis)
	}
	return b
}

// Elapsed returns how much time has passed since the moment (boot, millis). It is a lower bound:
// time between two boots counts only if the wall clock was synchronised in both, and what a boot
// ran after it was last seen counts with it. A moment that is unknown (boot 0) or in the future
// was just now. The result is never negative.
func (h *History) Elapsed(boot uint32, millis uint64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	current := &h.boots[len(h.boots)-1]
	if boot == current.Number {
		return span(millis, h.clock.Millis())
	}
	if boot == 0 || boot > current.Number {
		return 0
	}
	h.refresh()
	i, found := slices.BinarySearchFunc(h.boots, boot, func(b Boot, n uint32) int {
		return int(int64(b.Number) - int64(n))
	})
	if !found {
		// Forgotten, so earlier than the boot at i: that one counts whole.
		millis = 0
	}
	last := len(h.boots) - 1
	if i == last { // forgotten, and so is all that was before this one
		return span(0, current.LastMillis)
	}
	return span(millis, h.boots[i].LastMillis) + h.since[i] +
		between(&h.boots[last-1], &h.boots[last]) + span(0, h.boots[last].LastMillis)
}

// between returns the time between a's last moment and b's first.
func between(a, b *Boot) time.Duration {
	if !a.Synced || !b.Synced {
		return 0
	}
	end := a.WallOffset + int64(a.LastMillis)
	return max(0, time.Duration(b.WallOffset-end)*time.Millisecond)
}

func span(from, to uint64) time.Duration {
	if to <= from {
		return 0
	}
	return time.Duration(to-from) * time.Millisecond
}
