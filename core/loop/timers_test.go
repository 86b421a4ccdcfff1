package loop

import (
	"math/rand/v2"
	"testing"
	"time"
)

// alarm is a timer that notes when it fired.
type alarm struct {
	Place
	fired []time.Duration
	next  func(now time.Duration) time.Duration
}

func (a *alarm) Fire(now time.Duration) time.Duration {
	a.fired = append(a.fired, now)
	if a.next == nil {
		return 0
	}
	return a.next(now)
}

func TestTimersFireInOrderAndOnlyWhenSet(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var q timers
		all := make([]alarm, 30)
		want := make(map[int]time.Duration)
		now := time.Duration(0)
		for range 500 {
			i := rng.IntN(len(all))
			switch rng.IntN(4) {
			case 0, 1:
				at := now + time.Duration(rng.IntN(20_000))*time.Millisecond
				q.set(at, &all[i])
				want[i] = roundUp(at)
			case 2:
				q.stop(&all[i])
				delete(want, i)
			default:
				now += time.Duration(rng.IntN(3000)) * time.Millisecond
				q.fire(now)
				for i := range all {
					at, set := want[i]
					due := set && at <= now
					if got := len(all[i].fired) > 0; got != due {
						t.Fatalf("seed %d: at %v timer %d, set %v for %v: fired %v", seed, now, i, set, at, got)
					}
					if due {
						delete(want, i)
					}
					all[i].fired = nil
				}
			}
			if len(q.heap) != len(want) {
				t.Fatalf("seed %d: %d timers are kept, %d are set", seed, len(q.heap), len(want))
			}
			first, ok := q.next()
			for i, at := range want {
				if !all[i].Set() || !ok || at < first {
					t.Fatalf("seed %d: timer %d is due at %v, the first of all at %v", seed, i, at, first)
				}
			}
		}
	}
}

func TestTimerIsSetAgainByWhatItReturns(t *testing.T) {
	var q timers
	a := &alarm{next: func(now time.Duration) time.Duration { return now + time.Millisecond }}
	q.set(time.Second, a)
	q.fire(time.Second)
	if at, ok := q.next(); !ok || at != 2*time.Second || len(a.fired) != 1 {
		t.Fatalf("fired %v, next at %v, %v", a.fired, at, ok)
	}
	a.next = nil
	q.fire(2 * time.Second)
	if a.Set() || len(q.heap) != 0 {
		t.Fatal("a timer that returned 0 is still set")
	}
}

func TestTimerMaySetOthersAndItselfWhileItFires(t *testing.T) {
	var q timers
	b := &alarm{}
	a := &alarm{}
	a.next = func(now time.Duration) time.Duration {
		q.set(now+5*time.Second, a)
		q.set(now, b)
		return now + time.Second // the deadline that was set counts
	}
	q.set(time.Second, a)
	q.fire(1500 * time.Millisecond)
	if len(a.fired) != 1 || len(b.fired) != 0 {
		t.Fatalf("fired %v and %v", a.fired, b.fired)
	}
	if at, _ := q.next(); at != 2*time.Second || len(q.heap) != 2 {
		t.Fatalf("next at %v of %d", at, len(q.heap))
	}
}
