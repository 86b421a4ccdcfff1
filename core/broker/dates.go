package broker

import (
	"time"

	"dunlin/core/loop"
	"dunlin/core/message"
)

// dates finds out anew when sessions end, when wills and delayed messages are published. Timers run by
// the clock of the loop, which does not count the time for which the machine is suspended, and were set
// by what was known of the time between boots. So there is something to find out
//
//   - when the machine was suspended, or the wall clock was set, which the kernel tells;
//   - once, when the wall clock is synchronised and was not at the start, if something is of an
//     earlier boot. It may be that only time has told, so it is looked at each minute.
//
// What connections do is timed by the clock of the loop alone: a peer cannot be blamed for the silence of
// a machine that was suspended.
type dates struct {
	loop.Place
	b       *Broker
	foreign bool // something is of an earlier boot, and the time in between not known yet
	soon    bool // the clocks are looked at in a second
}

// restored notes the date of something that the store held.
func (d *dates) restored(s message.Stamp) {
	if now := d.b.now(); s.Boot != now.Boot && now.Wall == 0 && !d.foreign {
		d.foreign = true
		d.b.loop.At(d.b.loop.Now()+redateEvery, d)
	}
}

// stepped looks at the clocks in a second, when whoever has set them has said what they are worth; also
// if they are set again and again.
func (d *dates) stepped() {
	if !d.soon {
		d.soon = true
		d.b.loop.At(d.b.loop.Now()+time.Second, d)
	}
}

// Fire is called when a minute has passed, or a second after the kernel has told.
func (d *dates) Fire(now time.Duration) time.Duration {
	b, stepped := d.b, d.soon
	d.soon = false
	b.stamped = -1 // what was known in the last turn may be wrong by now
	synced := b.now().Wall != 0
	if !stepped && !synced {
		return now + redateEvery
	}
	b.log.Debug("clocks were looked at", "synced", synced)
	for _, m := range b.members {
		if m.away != nil {
			b.redate(m, now)
		}
	}
	b.delayed.redateAll(now)
	d.foreign = d.foreign && !synced
	if d.foreign {
		return now + redateEvery
	}
	return 0
}

// redate sets the timers of a session whose client is away.
func (b *Broker) redate(m *member, now time.Duration) {
	a := m.away
	spent := b.clock.Elapsed(a.left)
	if a.expires != nil {
		at := now + max(time.Duration(m.expiry)*time.Second-spent, 0)
		if m.will != nil {
			at = max(at, a.grace)
		}
		b.loop.At(at, a.expires)
	}
	if m.will != nil && a.willDue != nil {
		b.loop.At(max(now+time.Duration(m.will.Delay)*time.Second-spent, a.grace, now), a.willDue)
	}
}
