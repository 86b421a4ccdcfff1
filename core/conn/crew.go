package conn

import (
	"sync"
	"sync/atomic"
)

// Crew is goroutines that make system calls side by side with a loop, while the loop waits for
// them: many sockets are read, or written, at once. What is decided between is decided by the loop
// alone.
//
// A crew is slower than its loop where there is little to do, so nobody waits for a hand that has
// not come yet: the loop works itself, and the hands take what is left when they arrive.
type Crew struct {
	call     chan struct{} // a hand for each token
	finished chan struct{} // the last hand has left a work that was closed
	wait     sync.WaitGroup

	// The work under way.
	state atomic.Int64 // hands at work, and the flag closed
	work  func(worker int)
}

// closed says that no hand may join any more.
const closed = 1 << 32

// NewCrew starts hands goroutines, which end with Close.
func NewCrew(hands int) *Crew {
	c := &Crew{call: make(chan struct{}, hands), finished: make(chan struct{}, 1)}
	c.state.Store(closed)
	for i := range hands {
		c.wait.Go(func() { c.hand(i + 1) }) // ended by Close, which waits
	}
	return c
}

// Workers is how many may be at work at a time, the caller of Do among them.
func (c *Crew) Workers() int { return cap(c.call) + 1 }

// Close ends the hands and waits for them.
func (c *Crew) Close() {
	close(c.call)
	c.wait.Wait()
}

// Do calls f(0), and f with the number of each hand, from 1 to Workers()-1, that comes before it has
// returned; a hand may come twice, one call after the other. Do returns when all calls have. It
// belongs to one goroutine.
func (c *Crew) Do(f func(worker int)) {
	c.work = f
	c.state.Store(0)
	for range cap(c.call) {
		select {
		case c.call <- struct{}{}:
		default: // as many are called already as there are
		}
	}
	f(0)
	if c.state.Or(closed) != 0 {
		<-c.finished
	}
}

func (c *Crew) hand(number int) {
	for range c.call {
		if !c.join() {
			continue
		}
		c.work(number)
		if c.state.Add(-1) == closed {
			c.finished <- struct{}{}
		}
	}
}

// join says whether there is a work to take part in. A hand that was called for an earlier one may
// come to this one.
func (c *Crew) join() bool {
	for {
		s := c.state.Load()
		if s&closed != 0 || s == int64(cap(c.call)) {
			return false
		}
		if c.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}
