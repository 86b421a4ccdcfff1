package conn

import (
	"sync/atomic"
)

// crowd is from how many connections on it is worth while to call a crew.
const crowd = 16

// share is how many connections one of a crew takes at a time.
const share = 8

// together writes the output of many connections with a crew.
type together struct {
	crew    *Crew
	arena   *Arena
	work    func(worker int) // made once
	next    atomic.Int32     // index in arena.dirty of the first that nobody has taken
	copies  [][]byte         // of arena.publishes, by worker, if there are packet ids to write into it
	results []result         // by index in arena.dirty
}

type result struct {
	n   int
	err error
}

// Join lets crew help with Flush from now on; nil ends that.
func (a *Arena) Join(crew *Crew) {
	if crew == nil {
		a.together = nil
		return
	}
	t := &together{crew: crew, arena: a, copies: make([][]byte, crew.Workers())}
	t.work = t.share
	a.together = t
}

// write writes once for each dirty connection.
func (t *together) write() {
	a := t.arena
	if n := len(a.dirty); cap(t.results) < n {
		t.results = make([]result, 2*n)
	}
	if len(a.ids) > 0 {
		for w := 1; w < len(t.copies); w++ {
			t.copies[w] = append(t.copies[w][:0], a.publishes...)
		}
	}
	t.next.Store(0)
	t.crew.Do(t.work)
	for i, c := range a.dirty {
		r := &t.results[i]
		c.wrote(a, r.n, r.err)
		r.err = nil
	}
	for w := range t.copies {
		t.copies[w] = reset(t.copies[w])
	}
}

// share writes for connections until none is left. It touches nothing of them that another worker
// does.
func (t *together) share(worker int) {
	a := t.arena
	publishes := a.publishes
	if worker > 0 && len(a.ids) > 0 {
		publishes = t.copies[worker]
	}
	for {
		end := int(t.next.Add(share))
		for i := end - share; i < min(end, len(a.dirty)); i++ {
			c := a.dirty[i]
			n, err := c.write(a, publishes)
			t.results[i] = result{n, err}
		}
		if end >= len(a.dirty) {
			return
		}
	}
}
