package retain

import (
	"strings"

	"dunlin/core/message"
)

// Match calls fn for each retained message whose topic matches filter, in no order, until fn
// returns false. filter is a valid Topic Filter; + and # at its start do not match topics that
// begin with $ [MQTT-4.7.2-1]. fn must not change the store.
//
// Only the part of the tree is walked that the filter can match: a filter without wildcards
// costs one search per level.
func (s *Store) Match(filter string, fn func(*message.Message) bool) {
	levels := strings.Split(filter, "/")
	// n is reached by the first depth levels of the filter.
	n, depth := &s.tree.root, 0
	for {
		var next *node
		switch {
		case depth == len(levels):
			if n.message != nil && !fn(n.message) {
				return
			}
		case levels[depth] == "#":
			if !below(n, fn) {
				return
			}
		case levels[depth] == "+":
			next = visible(n.first)
		default:
			next = s.tree.child(n, levels[depth])
		}
		// Go back until some level of the filter has another node to offer.
		for next == nil {
			if depth == 0 {
				return
			}
			depth--
			if levels[depth] == "+" {
				next = visible(n.right)
			}
			n = n.parent
		}
		n = next
		depth++
	}
}

// below calls fn for the message of top and those of all nodes below it.
func below(top *node, fn func(*message.Message) bool) bool {
	n := top
	for {
		if n.message != nil && !fn(n.message) {
			return false
		}
		next := visible(n.first)
		for next == nil {
			if n == top {
				return true
			}
			next = visible(n.right)
			n = n.parent
		}
		n = next
	}
}

// visible returns n or the first of its right siblings that a wildcard may match: on the first
// level, one that does not begin with $.
func visible(n *node) *node {
	for n != nil && n.parent.parent == nil && strings.HasPrefix(n.level, "$") {
		n = n.right
	}
	return n
}
