package route

import (
	"bytes"
	"hash/maphash"
)

// The levels that every index has, by number.
const (
	levelPlus  uint32 = 1 // "+"
	levelMulti uint32 = 2 // "#"
)

// level is the text between two slashes, kept once however many nodes have it.
type level struct {
	off  uint32 // of its text in levels.text
	len  uint16
	refs uint32 // nodes that have it; 0 = the place is free
	next uint32 // in the chain of its hash
}

// levels numbers the texts of levels.
type levels struct {
	slab  slab[level]
	heads []uint32 // chains by hash of the text; a power of two, at least as many as levels
	text  []byte
	dead  int // bytes of text that belong to no level any more
	seed  maphash.Seed
}

// minHeads is how many chains a hash table begins with.
const minHeads = 64

// minDead is how many dead bytes are not worth a compaction.
const minDead = 4096

func (t *levels) init() {
	t.heads = make([]uint32, minHeads)
	t.seed = maphash.MakeSeed()
	t.hold(t.intern("+"))
	t.hold(t.intern("#"))
}

// head returns the chain for a hash. The seed is random: no peer can choose levels that collide.
func (t *levels) head(hash uint64) *uint32 { return &t.heads[uint32(hash)&uint32(len(t.heads)-1)] }

// find returns the number of a level, 0 if no node has it.
func (t *levels) find(text []byte) uint32 {
	return t.search(maphash.Bytes(t.seed, text), text)
}

func (t *levels) findString(text string) uint32 {
	return t.search(maphash.String(t.seed, text), []byte(text))
}

func (t *levels) search(hash uint64, text []byte) uint32 {
	for i := *t.head(hash); i != 0; {
		l := t.slab.at(i)
		if int(l.len) == len(text) && bytes.Equal(t.of(l), text) {
			return i
		}
		i = l.next
	}
	return 0
}

// intern returns the number of a level and makes one if there is none. A new one must be held
// before anything is released.
func (t *levels) intern(text string) uint32 {
	hash := maphash.String(t.seed, text)
	if i := t.search(hash, []byte(text)); i != 0 {
		return i
	}
	if t.slab.len() >= len(t.heads) {
		t.grow()
	}
	i := t.slab.take()
	head := t.head(hash)
	*t.slab.at(i) = level{off: uint32(len(t.text)), len: uint16(len(text)), next: *head}
	*head = i
	t.text = append(t.text, text...)
	return i
}

func (t *levels) of(l *level) []byte { return t.text[l.off:][:l.len] }

func (t *levels) hold(i uint32) { t.slab.at(i).refs++ }

// release undoes a hold; the last one frees the level.
func (t *levels) release(i uint32) {
	l := t.slab.at(i)
	l.refs--
	if l.refs > 0 {
		return
	}
	link := t.head(maphash.Bytes(t.seed, t.of(l)))
	for *link != i {
		link = &t.slab.at(*link).next
	}
	*link = l.next
	t.dead += int(l.len)
	t.slab.give(i)
	if t.dead > minDead && t.dead > len(t.text)/2 {
		t.compact()
	}
}

// compact drops the dead bytes. It happens when they are the larger half, so each byte that
// dies pays for moving one.
func (t *levels) compact() {
	text := make([]byte, 0, len(t.text)-t.dead)
	for i := uint32(1); i < t.slab.used; i++ {
		if l := t.slab.at(i); l.refs > 0 {
			off := len(text)
			text = append(text, t.of(l)...)
			l.off = uint32(off)
		}
	}
	t.text, t.dead = text, 0
}

// grow doubles the number of chains.
func (t *levels) grow() {
	old := t.heads
	t.heads = make([]uint32, 2*len(old))
	for _, i := range old {
		for i != 0 {
			l := t.slab.at(i)
			head := t.head(maphash.Bytes(t.seed, t.of(l)))
			i, l.next, *head = l.next, *head, i
		}
	}
}
