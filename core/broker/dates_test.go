package broker

import (
	"sync"
	"testing"
	"time"

	"dunlin/core/message"
	"dunlin/core/packet"
)

// bootClock is a clock of the second boot of a machine, at its beginning. How long ago the first one was
// comes to be known later.
type bootClock struct {
	mu     sync.Mutex
	known  bool
	passed time.Duration // since the first boot, if known
	up     time.Duration // of this one
}

func (c *bootClock) Stamp() message.Stamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := message.Stamp{Boot: 2, Millis: uint64(c.up / time.Millisecond)}
	if c.known {
		s.Wall = 1
	}
	return s
}

func (c *bootClock) Elapsed(s message.Stamp) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.Boot == 2:
		return c.up - time.Duration(s.Millis)*time.Millisecond
	case c.known:
		return c.passed + c.up
	}
	return c.up
}

func (c *bootClock) set(known bool, passed, up time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.passed, c.up = known, passed, up
}

// sessionsOfLongAgo is a broker in the second boot, with sessions of the first that last for an hour
// and for a day.
func sessionsOfLongAgo(t *testing.T, clock *bootClock) *bench {
	t.Helper()
	x := start(t)
	for id, expiry := range map[string]uint32{"hour": 3600, "day": 24 * 3600} {
		w, _ := x.connect(packet.V5, id, func(c *packet.Connect) { c.CleanStart, c.SessionExpiry = false, expiry })
		w.write(packet.AppendDisconnect(nil, &packet.Disconnect{}, packet.V5))
		w.closed()
	}
	x.until("the records", func() bool {
		r := x.store.restored()
		return len(r) == 2 && !r[0].Session.Connected && !r[1].Session.Connected
	})
	return restart(t, x, func(o *Options) { o.Clock = clock })
}

// look has the broker look at the clocks, as after a minute.
func (x *bench) look() (again bool) {
	x.t.Helper()
	x.do(func() { again = x.b.dates.Fire(x.b.loop.Now()) > 0 })
	return again
}

func TestSessionsOfAnEarlierBootEndOnceItsTimeIsKnown(t *testing.T) {
	clock := new(bootClock)
	x := sessionsOfLongAgo(t, clock)
	x.do(func() {
		if !x.b.dates.Set() {
			t.Error("nobody will look at the clock again")
		}
	})
	if !x.look() {
		t.Error("the time is not known, and nobody looks again")
	}
	clock.set(true, 2*time.Hour, 0)
	if x.look() {
		t.Error("the time is known, and somebody looks again")
	}
	x.until("the end of the session", func() bool { return x.b.members["hour"] == nil })
	if _, k := x.connect(packet.V5, "day", lasting); !k.SessionPresent {
		t.Error("a session has ended early")
	}
}

func TestAKnownClockIsNotLookedAtAgain(t *testing.T) {
	clock := new(bootClock)
	clock.set(true, 0, 0)
	x := sessionsOfLongAgo(t, clock)
	x.do(func() {
		if x.b.dates.Set() {
			t.Error("a timer is set")
		}
	})
}

func TestASuspendedMachineTimesWhatWaitsAndNotWhoIsThere(t *testing.T) {
	clock := new(bootClock)
	clock.set(true, 0, 0)
	x := sessionsOfLongAgo(t, clock)
	watch, _ := x.connect(packet.V5, "watch", func(c *packet.Connect) { c.KeepAlive = 60 })
	watch.subscribe("#", 1)
	w, _ := x.connect(packet.V5, "will", lasting, willAtQoS1("will", 3600), func(c *packet.Connect) { c.SessionExpiry = 24 * 3600 })
	x.away(w, "will")
	watch.publish("$delayed/3600/delayed", "delayed", 1, 1)
	watch.expect(packet.PUBACK)
	clock.set(true, 0, 2*time.Hour)
	x.do(func() { handler{x.b}.ClockStepped() })
	got := map[string]bool{}
	for range 2 {
		m := watch.message()
		got[string(m.Payload)] = true
		watch.ack(packet.PUBACK, m.ID)
	}
	if !got["will"] || !got["delayed"] {
		t.Errorf("got %v", got)
	}
	x.until("the end of the session", func() bool { return x.b.members["hour"] == nil })
	watch.nothing()
}
