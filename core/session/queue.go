package session

import "iter"

// queue is messages that wait in memory, the oldest first. It stands in blocks: it copies nothing as
// it grows, gives back as it shrinks, and needs no new memory where as much leaves as comes.
type queue struct {
	first, last *block
	spare       *block // one that was emptied; nil = none
	n           int
}

type block struct {
	next  *block
	head  int      // index of the oldest
	items []Queued // never more than its capacity
}

// blockFor is the room of a new block of a queue with n messages: a short queue is small, a long one
// has few blocks.
func blockFor(n int) int {
	switch {
	case n < 16:
		return 4
	case n < 64:
		return 16
	}
	return 64
}

// len is how many messages wait.
func (w *queue) len() int { return w.n }

// add takes a message in.
func (w *queue) add(q Queued) {
	if w.last == nil || len(w.last.items) == cap(w.last.items) {
		w.grow()
	}
	w.last.items = append(w.last.items, q)
	w.n++
}

func (w *queue) grow() {
	b := w.spare
	w.spare = nil
	if b == nil {
		b = &block{items: make([]Queued, 0, blockFor(w.n))}
	}
	if w.last == nil {
		w.first = b
	} else {
		w.last.next = b
	}
	w.last = b
}

// take takes the oldest message out. There must be one.
func (w *queue) take() Queued {
	b := w.first
	q := b.items[b.head]
	b.items[b.head] = Queued{}
	b.head++
	w.n--
	if b.head == len(b.items) {
		w.drop(b)
	}
	return q
}

// drop removes the first block, which is empty.
func (w *queue) drop(b *block) {
	w.first = b.next
	if w.first == nil {
		w.last = nil
	}
	b.next, b.head, b.items = nil, 0, b.items[:0]
	if cap(b.items) == blockFor(w.n) {
		w.spare = b
	}
}

// all are the messages that wait, the oldest first.
func (w *queue) all() iter.Seq[Queued] {
	return func(yield func(Queued) bool) {
		for b := w.first; b != nil; b = b.next {
			for _, q := range b.items[b.head:] {
				if !yield(q) {
					return
				}
			}
		}
	}
}
