// Package clock tells the time on machines that often do not know it.
//
// A gateway without a battery-backed clock starts in 1970 or at the last time it remembers, and
// jumps when the network answers. So nothing is ordered or expired by the wall clock. A moment is
// a boot of the machine and the milliseconds since then, suspend included; a History of the boots
// says how much time lies between two such moments, as far as that is known.
package clock

import "time"

// Quality says how far the wall clock can be believed.
type Quality byte

// The qualities, each better than the one before.
const (
	// Unset: the time is one that cannot be, such as 1970.
	Unset Quality = iota
	// Floor: nobody vouches for the time; it may be that of the last shutdown. It is probably not
	// later than that.
	Floor
	// Synced: the kernel says that something (NTP, PTP) disciplines the clock.
	Synced
)

func (q Quality) String() string {
	switch q {
	case Unset:
		return "unset"
	case Floor:
		return "floor"
	case Synced:
		return "synced"
	}
	return "unknown"
}

// firstPlausible is a time before which this program did not exist.
var firstPlausible = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// Source is where a Clock has its time from. New uses the machine's; tests bring their own.
type Source struct {
	// BootID names this boot of the machine; another boot has another.
	BootID string
	// Millis returns the milliseconds since the machine booted, suspend included.
	Millis func() uint64
	// Wall returns the wall clock and whether it is synchronised.
	Wall func() (now time.Time, synced bool)
}

// Clock reads the clocks of the machine. It may be used from any goroutine.
type Clock struct {
	source Source
}

// New returns the clock of this machine. On Linux a restart of the process stays in the same boot,
// also inside a container. Elsewhere each process counts as a boot of its own.
func New() *Clock { return NewFrom(machine()) }

// NewFrom returns a clock that reads s.
func NewFrom(s Source) *Clock { return &Clock{source: s} }

// Millis returns the milliseconds since the machine booted, suspend included. It never runs
// backwards within a boot.
func (c *Clock) Millis() uint64 { return c.source.Millis() }

// BootID names this boot of the machine.
func (c *Clock) BootID() string { return c.source.BootID }

// Wall returns the wall clock and how far it can be believed.
func (c *Clock) Wall() (time.Time, Quality) {
	now, synced := c.source.Wall()
	switch {
	case now.Before(firstPlausible):
		return now, Unset
	case synced:
		return now, Synced
	}
	return now, Floor
}
