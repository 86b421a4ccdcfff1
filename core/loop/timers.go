package loop

import "time"

// Timer is something due at a time. Its owner keeps the true deadline: a timer that fires
// early, because the deadline has moved on since, is set again by its owner. So a keep-alive
// costs nothing per packet.
type Timer interface {
	// Fire is called on the loop when the time has come. It returns when to fire next, or a
	// time not after now to be forgotten.
	Fire(now time.Duration) (next time.Duration)
}

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

func (q *timers) add(at time.Duration, t Timer) {
	q.heap = append(q.heap, deadline{roundUp(at), t})
	q.up(len(q.heap) - 1)
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
		if next := t.Fire(now); next > now {
			// Fire may have added timers: find it again only if it is no longer in front.
			if q.heap[0].t == t {
				q.heap[0].at = roundUp(next)
				q.down(0)
				continue
			}
			q.removeFirst(t)
			q.add(next, t)
			continue
		}
		q.removeFirst(t)
	}
}

func (q *timers) removeFirst(t Timer) {
	i := 0
	for i < len(q.heap) && q.heap[i].t != t {
		i++
	}
	last := len(q.heap) - 1
	q.heap[i] = q.heap[last]
	q.heap[last] = deadline{}
	q.heap = q.heap[:last]
	if i < last {
		q.down(i)
		q.up(i)
	}
}

func (q *timers) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if q.heap[p].at <= q.heap[i].at {
			return
		}
		q.heap[p], q.heap[i] = q.heap[i], q.heap[p]
		i = p
	}
}

func (q *timers) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(q.heap) {
			return
		}
		if c+1 < len(q.heap) && q.heap[c+1].at < q.heap[c].at {
			c++
		}
		if q.heap[i].at <= q.heap[c].at {
			return
		}
		q.heap[i], q.heap[c] = q.heap[c], q.heap[i]
		i = c
	}
}
