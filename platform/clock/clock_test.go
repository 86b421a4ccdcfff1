package clock

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// fake is a machine whose clocks are set by hand.
type fake struct {
	id     string
	millis uint64
	wall   time.Time
	synced bool
}

func (f *fake) clock() *Clock {
	return NewFrom(Source{
		BootID: f.id,
		Millis: func() uint64 { return f.millis },
		Wall:   func() (time.Time, bool) { return f.wall, f.synced },
	})
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestTheMachinesClockRuns(t *testing.T) {
	c := New()
	before := c.Millis()
	if c.BootID() == "" || c.BootID() != New().BootID() {
		t.Errorf("got boot ids %q and %q", c.BootID(), New().BootID())
	}
	if now := c.Millis(); now < before || now == 0 {
		t.Errorf("got %d ms after %d ms since boot", now, before)
	}
	if now, q := c.Wall(); time.Since(now).Abs() > time.Minute || q == Unset {
		t.Errorf("got wall clock %v, %v", now, q)
	}
}

func TestQualityOfTheWallClock(t *testing.T) {
	tests := []struct {
		name   string
		wall   time.Time
		synced bool
		want   Quality
	}{
		{"no clock", time.Unix(100, 0), false, Unset},
		{"no clock, but said to be synced", time.Unix(100, 0), true, Unset},
		{"a clock nobody vouches for", noon, false, Floor},
		{"synchronised", noon, true, Synced},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := fake{wall: test.wall, synced: test.synced}
			if _, got := f.clock().Wall(); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestARestartWithinABootKeepsItsNumber(t *testing.T) {
	f := &fake{id: "a", millis: 1000, wall: noon}
	h := NewHistory(f.clock(), nil)
	if got := h.Current().Number; got != 1 {
		t.Fatalf("the first boot has number %d, want 1", got)
	}
	f.millis = 5000
	h = NewHistory(f.clock(), h.Boots())
	if got := h.Current(); got.Number != 1 || got.LastMillis != 5000 {
		t.Errorf("got %+v", got)
	}
	if got := h.Elapsed(1, 1000); got != 4*time.Second {
		t.Errorf("got %v, want 4s", got)
	}
	f.id, f.millis = "b", 10
	if got := NewHistory(f.clock(), h.Boots()).Current().Number; got != 2 {
		t.Errorf("the next boot has number %d, want 2", got)
	}
}

func TestElapsed(t *testing.T) {
	const minute = uint64(60_000)
	at := func(t time.Time) int64 { return t.UnixMilli() }
	// Boot 1 ran 10 minutes from noon, boot 2 5 minutes from 13:00, boot 3 has run 2 minutes since 14:00.
	synced := []Boot{
		{1, "a", 10 * minute, at(noon), true},
		{2, "b", 5 * minute, at(noon.Add(time.Hour)), true},
	}
	floating := []Boot{
		{1, "a", 10 * minute, 0, false},
		{2, "b", 5 * minute, at(noon.Add(time.Hour)), true},
	}
	back := []Boot{ // the wall clock was set back between the boots
		{1, "a", 10 * minute, at(noon.Add(3 * time.Hour)), true},
		{2, "b", 5 * minute, at(noon.Add(time.Hour)), true},
	}
	tests := []struct {
		name   string
		known  []Boot
		synced bool // the current boot
		boot   uint32
		millis uint64
		want   time.Duration
	}{
		{"this boot", synced, true, 3, minute, time.Minute},
		{"this boot, not yet", synced, true, 3, 3 * minute, 0},
		{"unknown", synced, true, 0, minute, 0},
		{"a boot to come", synced, true, 4, 0, 0},
		{"all synchronised is the difference of the wall clocks", synced, true, 1, 4 * minute, 2*time.Hour + 2*time.Minute - 4*time.Minute},
		{"the boot before", synced, true, 2, 4 * minute, 62*time.Minute - 4*time.Minute},
		{"now not synchronised", synced, false, 1, 4 * minute, time.Hour - 4*time.Minute + 5*time.Minute + 2*time.Minute},
		{"then not synchronised", floating, true, 1, 4 * minute, 6*time.Minute + time.Hour + 2*time.Minute},
		{"after it was last seen", floating, false, 1, 20 * minute, 5*time.Minute + 2*time.Minute},
		{"the wall clock was set back", back, true, 1, 4 * minute, 6*time.Minute + time.Hour + 2*time.Minute},
		{"forgotten boots count from the oldest known", synced[1:], true, 1, 4 * minute, time.Hour + 2*time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := fake{id: "c", millis: 2 * minute, wall: noon.Add(2*time.Hour + 2*time.Minute), synced: test.synced}
			h := NewHistory(f.clock(), test.known)
			if got := h.Elapsed(test.boot, test.millis); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// Whatever the clocks do, time does not run backwards and never faster than it did.
func TestElapsedIsALowerBound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		var (
			real  = noon // the true time
			f     = &fake{}
			known []Boot
			h     *History
			last  time.Duration
			stamp struct {
				boot   uint32
				millis uint64
				real   time.Time
			}
		)
		for boot := range 1 + r.IntN(6) {
			f.id, f.millis, f.synced = fmt.Sprint(boot), 0, false
			h = NewHistory(f.clock(), known)
			for range 1 + r.IntN(5) {
				step := time.Duration(r.IntN(100_000)) * time.Millisecond
				real = real.Add(step)
				f.millis += uint64(step / time.Millisecond)
				f.synced = f.synced || r.IntN(2) == 0
				f.wall = real
				if !f.synced {
					f.wall = noon.Add(-time.Duration(r.IntN(1000)) * time.Hour)
				}
				if stamp.boot == 0 {
					stamp.boot, stamp.millis, stamp.real = h.Current().Number, f.millis, real
				}
				if r.IntN(2) == 0 {
					known = h.Boots()
				}
				got := h.Elapsed(stamp.boot, stamp.millis)
				if got < 0 || got > real.Sub(stamp.real) {
					t.Fatalf("got %v elapsed, truly %v", got, real.Sub(stamp.real))
				}
				if boot == int(stamp.boot)-1 && got < last {
					t.Fatalf("got %v elapsed after %v", got, last)
				}
				last = got
			}
			if r.IntN(2) == 0 {
				known = h.Boots() // otherwise the power goes: what was saved last is what is known
			}
			real = real.Add(time.Duration(r.IntN(1000)) * time.Second)
		}
	}
}

func TestTheHistoryIsBounded(t *testing.T) {
	f := &fake{wall: noon}
	var known []Boot
	for i := range MaxBoots + 10 {
		f.id, f.millis = fmt.Sprint(i), 1000
		known = NewHistory(f.clock(), known).Boots()
	}
	if len(known) != MaxBoots || known[MaxBoots-1].Number != MaxBoots+10 {
		t.Errorf("got %d boots, the last with number %d", len(known), known[len(known)-1].Number)
	}
}

func TestNow(t *testing.T) {
	f := &fake{id: "a", millis: 1000, wall: noon}
	h := NewHistory(f.clock(), []Boot{{Number: 6, ID: "z"}})
	if boot, millis, wall := h.Now(); boot != 7 || millis != 1000 || wall != 0 {
		t.Errorf("got boot %d, %d ms, %d", boot, millis, wall)
	}
	f.millis, f.synced = 2000, true
	if boot, millis, wall := h.Now(); boot != 7 || millis != 2000 || wall != noon.UnixMilli() {
		t.Errorf("got boot %d, %d ms, %d; want the time", boot, millis, wall)
	}
	f.millis, f.synced = 3000, false
	if _, _, wall := h.Now(); wall != 0 {
		t.Errorf("got %d from a clock that nobody vouches for any more", wall)
	}
}

func TestWhatIsForgottenCountsFromTheOldestKnownBoot(t *testing.T) {
	f := &fake{id: "c", millis: 5000, wall: noon}
	h := NewHistory(f.clock(), []Boot{{Number: 6, ID: "c", LastMillis: 10}})
	if got := h.Elapsed(3, 1); got != 5*time.Second {
		t.Errorf("got %v, want what this boot has run", got)
	}
}

func BenchmarkElapsed(b *testing.B) {
	var known []Boot
	for i := range MaxBoots - 1 {
		known = append(known, Boot{Number: uint32(i + 1), ID: fmt.Sprint(i), LastMillis: 1e6, Synced: true, WallOffset: int64(i) * 1e7})
	}
	h := NewHistory(New(), known)
	for b.Loop() {
		h.Elapsed(1, 0)
	}
}

func BenchmarkNow(b *testing.B) {
	h := NewHistory(New(), nil)
	for b.Loop() {
		h.Now()
	}
}
