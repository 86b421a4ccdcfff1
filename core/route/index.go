package route

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
)

// node is a level of at least one filter below its parent.
type node struct {
	parent   uint32
	level    uint32
	next     uint32 // in the chain of its (parent, level)
	children uint32 // how many nodes have it as parent, and the two flags below
	// subs are the subscriptions whose filter ends here: 0 = none; one as it is; more as
	// the number of a list, shifted by 32.
	subs subscription
}

// The flags in node.children spare the search for a wildcard where there is none.
const (
	hasPlus   uint32 = 1 << 31
	hasMulti  uint32 = 1 << 30
	childMask uint32 = hasMulti - 1
)

// root is the number of the node above all first levels.
const root uint32 = 1

// stripes is how many parts of the topic tree have their own generation.
const stripes = 64

// Index holds subscriptions and finds those that match a topic. It belongs to one goroutine.
type Index struct {
	nodes  slab[node]
	heads  []uint32 // chains by (parent, level); a power of two, at least as many as nodes
	levels levels
	lists  slab[list]
	mix    uint64 // random, see head
	len    int

	observe func(filter string, added bool)

	// A change of a subscription bumps the generation of its first level's stripe, or that of
	// all stripes if the first level is a wildcard.
	generations [stripes]uint64
	everywhere  uint64

	matcher matcher
}

// New returns an empty index.
func New() *Index {
	x := &Index{heads: make([]uint32, minHeads)}
	x.levels.init()
	var zero [8]byte
	x.mix = maphash.Bytes(x.levels.seed, binary.LittleEndian.AppendUint64(zero[:0], 1))
	x.nodes.take() // the root
	return x
}

// Len returns the number of subscriptions.
func (x *Index) Len() int { return x.len }

// Observe has fn called when the first subscription of a filter was added and when its last was
// removed, from within Subscribe and Unsubscribe. fn must not change the index. There is one
// observer; nil is none.
func (x *Index) Observe(fn func(filter string, added bool)) { x.observe = fn }

// Subscribe adds a subscription of r, or replaces the one that it has with the same filter.
// filter is a valid Topic Filter (topic.CheckFilter), of a shared subscription only the part
// behind the share name. The cost is that of finding each level once, however many receivers
// the filter has.
func (x *Index) Subscribe(filter string, r Receiver, o Options) (replaced bool) {
	s := newSubscription(r, o)
	n := root
	for rest, more := filter, true; more; {
		var text string
		text, rest, more = strings.Cut(rest, "/")
		n = x.descend(n, x.levels.intern(text))
	}
	x.bump(filter)
	nd := x.nodes.at(n)
	first := nd.subs == 0
	if replaced = x.add(nd, s); replaced {
		return true
	}
	x.len++
	if first && x.observe != nil {
		x.observe(filter, true)
	}
	return false
}

// Unsubscribe removes the subscription of r with exactly this filter.
func (x *Index) Unsubscribe(filter string, r Receiver) (existed bool) {
	n := x.find(filter)
	if n == 0 || !x.remove(x.nodes.at(n), r) {
		return false
	}
	x.bump(filter)
	x.len--
	if x.nodes.at(n).subs != 0 {
		return true
	}
	x.prune(n)
	if x.observe != nil {
		x.observe(filter, false)
	}
	return true
}

// Filter is the number of a Topic Filter that somebody has subscribed to. It stays as it is until the
// last subscription of the filter is removed. 0 is none.
type Filter uint32

// Filter returns the number of a filter, for a filter that nobody has subscribed to 0 or a number that
// no other has.
func (x *Index) Filter(filter string) Filter { return Filter(x.find(filter)) }

// AppendText appends the text of a filter to dst.
func (x *Index) AppendText(dst []byte, f Filter) []byte {
	begin := len(dst)
	for n := uint32(f); n != root; n = x.nodes.at(n).parent { // from the last level to the first
		level := x.levels.of(x.levels.slab.at(x.nodes.at(n).level))
		if n != uint32(f) {
			dst = append(dst, '/')
		}
		dst = append(dst, level...)
		slices.Reverse(dst[len(dst)-len(level):])
	}
	slices.Reverse(dst[begin:])
	return dst
}

// find returns the node where filter ends, 0 if there is none.
func (x *Index) find(filter string) uint32 {
	n := root
	for rest, more := filter, true; more && n != 0; {
		var text string
		text, rest, more = strings.Cut(rest, "/")
		level := x.levels.findString(text)
		if level == 0 {
			return 0
		}
		n = x.child(n, level)
	}
	return n
}

// head returns the chain of (parent, level). mix is random: no peer can make numbers collide.
func (x *Index) head(parent, level uint32) *uint32 {
	h := (uint64(parent)<<32 | uint64(level)) ^ x.mix
	h *= 0x9E3779B97F4A7C15
	h ^= h >> 32
	h *= 0xBF58476D1CE4E5B9
	return &x.heads[uint32(h>>32)&uint32(len(x.heads)-1)]
}

// child returns the node of level below parent, 0 if there is none.
func (x *Index) child(parent, level uint32) uint32 {
	for i := *x.head(parent, level); i != 0; {
		nd := x.nodes.at(i)
		if nd.parent == parent && nd.level == level {
			return i
		}
		i = nd.next
	}
	return 0
}

// descend returns the node of level below parent and makes it if there is none.
func (x *Index) descend(parent, level uint32) uint32 {
	if i := x.child(parent, level); i != 0 {
		return i
	}
	if x.nodes.len() >= len(x.heads) {
		x.grow()
	}
	x.levels.hold(level)
	i := x.nodes.take()
	head := x.head(parent, level)
	*x.nodes.at(i) = node{parent: parent, level: level, next: *head}
	*head = i
	p := x.nodes.at(parent)
	p.children++
	p.children |= wildcard(level)
	return i
}

// wildcard returns the flag of a level that is a wildcard, else 0.
func wildcard(level uint32) uint32 {
	switch level {
	case levelPlus:
		return hasPlus
	case levelMulti:
		return hasMulti
	}
	return 0
}

// prune frees node n and what is above it as far as nothing needs it.
func (x *Index) prune(n uint32) {
	for n != root {
		nd := x.nodes.at(n)
		if nd.subs != 0 || nd.children != 0 {
			return
		}
		link := x.head(nd.parent, nd.level)
		for *link != n {
			link = &x.nodes.at(*link).next
		}
		*link = nd.next
		parent, level := nd.parent, nd.level
		x.nodes.give(n)
		x.levels.release(level)
		p := x.nodes.at(parent)
		p.children--
		p.children &^= wildcard(level)
		n = parent
	}
}

// grow doubles the number of chains.
func (x *Index) grow() {
	old := x.heads
	x.heads = make([]uint32, 2*len(old))
	for _, i := range old {
		for i != 0 {
			nd := x.nodes.at(i)
			head := x.head(nd.parent, nd.level)
			i, nd.next, *head = nd.next, *head, i
		}
	}
}

// add puts s among the subscriptions of nd.
func (x *Index) add(nd *node, s subscription) (replaced bool) {
	switch {
	case nd.subs == 0:
		nd.subs = s
		return false
	case nd.subs&3 == 0:
		return x.lists.at(uint32(nd.subs >> 32)).put(s)
	case nd.subs.receiver() == s.receiver():
		nd.subs = s
		return true
	}
	i := x.lists.take()
	l := x.lists.at(i)
	l.put(nd.subs)
	l.put(s)
	nd.subs = subscription(i) << 32
	return false
}

// remove takes the subscription of r from nd.
func (x *Index) remove(nd *node, r Receiver) (existed bool) {
	switch {
	case nd.subs == 0:
		return false
	case nd.subs&3 != 0:
		if nd.subs.receiver() != r {
			return false
		}
		nd.subs = 0
		return true
	}
	i := uint32(nd.subs >> 32)
	l := x.lists.at(i)
	if !l.remove(r) {
		return false
	}
	if l.n == 1 {
		nd.subs = l.first() // the only one that is left
		x.lists.give(i)
	}
	return true
}

// bump makes caches forget what a change of filter may have changed.
func (x *Index) bump(filter string) {
	first, _, _ := strings.Cut(filter, "/")
	if first == "+" || first == "#" {
		x.everywhere++
		return
	}
	x.generations[maphash.String(x.levels.seed, first)%stripes]++
}
