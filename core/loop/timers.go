package loop

import "time"

// Timer is something due at a time; it embeds a Place. Its owner keeps the true deadline: a
// timer that fires early, because the deadline has moved on since, is set again by its owner.
// So a keep-alive costs nothing per packet.
type Timer interface {
	// Fire is called on the loop when the time has come; the timer is not set any more then. It
	// returns when to fire next, or a time not after now for never.
	Fire(now time.Duration) (next time.Duration)
	place() *Place
}

// Place is where a Timer stands among those of its loop. The zero value is a timer that is not
// set.
type Place struct{ i int32 } // index in the heap, counted from 1; 0 = not set

func (p *Place) place() *Place { return p }

// Set says whether the timer is set.
func (p *Place) Set() bool { return p.i != 0 }

type deadline struct {
	at time.Duration // since the loop's start, whole seconds
	t  Timer
}

// timers is a heap by deadline. Deadlines are rounded up to whole seconds, so that many of
// them fire in one wake-up.
type timers struct {
	heap []deadline
}

func roundUp(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// set adds a timer, or moves it if it is set.
func (q *timers) set(at time.Duration, t Timer) {
	i := int(t.place().i) - 1
	if i < 0 {
		i = len(q.heap)
		q.heap = append(q.heap, deadline{})
	}
	q.put(i, deadline{roundUp(at), t})
	q.fix(i)
}

// stop takes a timer out, if it is set.
func (q *timers) stop(t Timer) {
	p := t.place()
	if p.i == 0 {
		return
	}
	i, last := int(p.i)-1, len(q.heap)-1
	p.i = 0
	if i < last {
		q.put(i, q.heap[last])
	}
	q.heap[last] = deadline{}
	q.heap = q.heap[:last]
	if i < last {
		q.fix(i)
	}
}

// next returns the earliest deadline.
func (q *timers) next() (time.Duration, bool) {
	if len(q.heap) == 0 {
		return 0, false
	}
	return q.heap[0].at, true
}

// fire calls what is due at now.
func (q *timers) fire(now time.Duration) {
	for len(q.heap) > 0 && q.heap[0].at <= now {
		t := q.heap[0].t
		q.stop(t)
		if next := t.Fire(now); next > now && !t.place().Set() {
			q.set(next, t)
		}
	}
}

// put stores d at i.
func (q *timers) put(i int, d deadline) {
	q.heap[i] = d
	d.t.place().i = int32(i) + 1
}

// fix moves what stands at i to where it belongs.
func (q *timers) fix(i int) {
	d := q.heap[i]
	for i > 0 && d.at < q.heap[(i-1)/2].at {
		q.put(i, q.heap[(i-1)/2])
		i = (i - 1) / 2
	}
	for {
		c := 2*i + 1
		if c+1 < len(q.heap) && q.heap[c+1].at < q.heap[c].at {
			c++
		}
		if c >= len(q.heap) || d.at <= q.heap[c].at {
			break
		}
		q.put(i, q.heap[c])
		i = c
	}
	q.put(i, d)
}
