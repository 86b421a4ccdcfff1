package broker

import "dunlin/core/durable"

// An operation that waits for the store has a place in the table of operations; its token is
// the number of the place and how often it has been used, so that no late answer can be taken
// for another's.
type pending interface {
	// complete is called once, on the loop.
	complete(b *Broker, c durable.Completion)
}

// A reader is a pending operation that is answered by what was read.
type reader interface {
	arrived(b *Broker, r *durable.Batch)
}

type place struct {
	generation uint32
	p          pending
}

type table struct {
	places []place
	free   []uint32
}

func (t *table) add(p pending) durable.Token {
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		t.places[i].p = p
		return token(i, t.places[i].generation)
	}
	t.places = append(t.places, place{p: p})
	return token(uint32(len(t.places)-1), 0)
}

// take returns the operation of a token and frees its place.
func (t *table) take(k durable.Token) pending {
	i, generation := uint32(k)-1, uint32(k>>32)
	if int(i) >= len(t.places) || t.places[i].generation != generation || t.places[i].p == nil {
		panic("broker: internal error: the store answered an operation twice or one that never was")
	}
	p := t.places[i].p
	t.places[i] = place{generation: generation + 1}
	t.free = append(t.free, i)
	return p
}

func token(i, generation uint32) durable.Token {
	return durable.Token(generation)<<32 | durable.Token(i+1)
}

// completer takes the store's answers to the loop.
type completer struct{ b *Broker }

func (c completer) Completed(done []durable.Completion) {
	c.b.loop.Post(func() {
		b := c.b
		for _, d := range done {
			switch {
			case onlyRefused(d.Err): // the store has told why
			case d.Err != nil:
				b.faults.add(b, d.Err)
			default:
				b.faults.over(b)
			}
			b.ops.take(d.Token).complete(b, d)
		}
		if b.held.unstored > 0 && b.storeTakes() && done[len(done)-1].Err == nil {
			b.retryHeld()
		}
	})
}

func (c completer) Changed() { c.b.loop.Post(c.b.storeChanged) }

func (c completer) Read(r durable.Batch) {
	c.b.loop.Post(func() { c.b.ops.take(r.Token).(reader).arrived(c.b, &r) })
}
