package retain

import (
	"hash/maphash"
	"strings"

	"dunlin/core/message"
)

// node is a level of at least one topic below its parent.
type node struct {
	parent      *node
	first       *node // child
	left, right *node // siblings
	chain       *node // the next with the same hash
	message     *message.Message
	level       string // a copy of its own: a slice of the topic would keep all of that
	number      uint32 // for the hash of its children; need not be unique
	expiring    int    // 1 + the index in Store.expiring, 0 = not there
}

// tree finds nodes by topic.
type tree struct {
	root  node
	heads []*node // chains by (parent, level); a power of two, at least as many as nodes
	n     int
	made  uint32 // nodes ever made
	bytes int64  // of nodes
	seed  maphash.Seed
}

const minHeads = 64

func (t *tree) init() {
	t.heads = make([]*node, minHeads)
	t.seed = maphash.MakeSeed()
}

// head returns the chain of (parent, level). The seed is random: no peer can choose topics that
// collide.
func (t *tree) head(parent *node, level string) **node {
	h := maphash.String(t.seed, level)
	h ^= uint64(parent.number)
	h *= 0x9E3779B97F4A7C15
	return &t.heads[uint32(h>>32)&uint32(len(t.heads)-1)]
}

// child returns the node of level below parent, nil if there is none.
func (t *tree) child(parent *node, level string) *node {
	n := *t.head(parent, level)
	for n != nil && (n.parent != parent || n.level != level) {
		n = n.chain
	}
	return n
}

// find returns the node of topic, nil if there is none.
func (t *tree) find(topic string) *node {
	n := &t.root
	for rest, more := topic, true; more && n != nil; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = t.child(n, level)
	}
	return n
}

// missing returns the bytes of the nodes that make would make.
func (t *tree) missing(topic string) (bytes int64) {
	n := &t.root
	for rest, more := topic, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if n != nil {
			n = t.child(n, level)
		}
		if n == nil {
			bytes += nodeBytes(level)
		}
	}
	return bytes
}

// make returns the node of topic with all that is missing above it.
func (t *tree) make(topic string) *node {
	n := &t.root
	for rest, more := topic, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		c := t.child(n, level)
		if c == nil {
			c = t.add(n, level)
		}
		n = c
	}
	return n
}

func (t *tree) add(parent *node, level string) *node {
	if t.n >= len(t.heads) {
		t.resize(2 * len(t.heads))
	}
	t.made++
	n := &node{parent: parent, level: strings.Clone(level), right: parent.first, number: t.made}
	if n.right != nil {
		n.right.left = n
	}
	parent.first = n
	head := t.head(parent, level)
	n.chain, *head = *head, n
	t.n++
	t.bytes += nodeBytes(level)
	return n
}

// prune removes n and what is above it as far as nothing needs it.
func (t *tree) prune(n *node) {
	for n != &t.root && n.message == nil && n.first == nil {
		if n.left != nil {
			n.left.right = n.right
		} else {
			n.parent.first = n.right
		}
		if n.right != nil {
			n.right.left = n.left
		}
		link := t.head(n.parent, n.level)
		for *link != n {
			link = &(*link).chain
		}
		*link = n.chain
		t.n--
		t.bytes -= nodeBytes(n.level)
		n = n.parent
	}
	if len(t.heads) > minHeads && t.n*8 < len(t.heads) {
		t.resize(len(t.heads) / 2)
	}
}

func (t *tree) resize(heads int) {
	old := t.heads
	t.heads = make([]*node, heads)
	for _, n := range old {
		for n != nil {
			head := t.head(n.parent, n.level)
			n, n.chain, *head = n.chain, *head, n
		}
	}
}

func nodeBytes(level string) int64 { return nodeOverhead + int64(len(level)) }
