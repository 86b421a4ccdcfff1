package route

import (
	"bytes"
	"slices"
)

var slash = []byte{'/'}

// matcher is the scratch space of a match, kept between calls.
type matcher struct {
	from, to []uint32       // the nodes reached by the levels so far, and by one more
	hits     []subscription // of all matching filters
	sources  int            // how many filters had hits
	found    []place        // open-addressed: receivers seen in this match
	round    uint32
	counts   []uint32 // identifiers of each match
}

// place says where in the result a receiver is.
type place struct {
	round uint32 // of which match this is; others count as unused
	match uint32
}

// Match appends the receivers of topic to dst, each once, in no order. topic is a valid Topic
// Name. The wildcards + and # do not match a first level that begins with $ [MQTT-4.7.2-1].
//
// It allocates only if dst is too small or a matching subscription has an identifier.
func (x *Index) Match(topic []byte, dst []Match) []Match {
	m := x.collect(topic)
	if m.sources <= 1 {
		return m.appendEach(dst)
	}
	return m.appendMerged(dst)
}

// Own returns what holds for a message that r published itself: of the matching subscriptions
// of r only those count that are not NoLocal [MQTT-3.8.3-3]. ok is false if there is none. It
// costs as much as Match: ask only when Match.OwnDiffers.
func (x *Index) Own(topic []byte, r Receiver) (own Match, ok bool) {
	for _, s := range x.collect(topic).hits {
		if s.receiver() != r || s.noLocal() {
			continue
		}
		if ok {
			own.fold(s)
		} else {
			own, ok = s.match(), true
		}
		if id := s.id(); id != 0 {
			own.IDs = append(own.IDs, id)
		}
	}
	return own, ok
}

// collect fills the matcher with all matching subscriptions.
//
// It keeps the set of nodes that the levels so far have led to. Each level is looked up once,
// whatever the size of the set, and each node of the tree is in the set at most once.
func (x *Index) collect(topic []byte) *matcher {
	m := &x.matcher
	m.hits, m.sources = m.hits[:0], 0
	m.from = append(m.from[:0], root)
	wild := len(topic) == 0 || topic[0] != '$'
	for rest, more := topic, true; more && len(m.from) > 0; {
		var text []byte
		text, rest, more = bytes.Cut(rest, slash)
		level := x.levels.find(text)
		if wildcard(level) != 0 {
			level = 0 // not in a Topic Name
		}
		m.to = m.to[:0]
		for _, n := range m.from {
			children := x.nodes.at(n).children
			if children == 0 {
				continue
			}
			if wild && children&hasMulti != 0 {
				x.hit(x.child(n, levelMulti))
			}
			if wild && children&hasPlus != 0 {
				m.to = append(m.to, x.child(n, levelPlus))
			}
			if level != 0 {
				if c := x.child(n, level); c != 0 {
					m.to = append(m.to, c)
				}
			}
		}
		m.from, m.to = m.to, m.from
		wild = true
	}
	for _, n := range m.from {
		x.hit(n)
		if x.nodes.at(n).children&hasMulti != 0 { // "a/#" matches "a"
			x.hit(x.child(n, levelMulti))
		}
	}
	return m
}

// hit notes the subscriptions of node n.
func (x *Index) hit(n uint32) {
	m := &x.matcher
	switch s := x.nodes.at(n).subs; {
	case s == 0:
		return
	case s&3 != 0:
		m.hits = append(m.hits, s)
	default:
		l := x.lists.at(uint32(s >> 32))
		m.hits = slices.Grow(m.hits, l.n)
		for _, b := range l.blocks {
			m.hits = append(m.hits, b...)
		}
	}
	m.sources++
}

// appendEach is for hits of one filter: no receiver is there twice.
func (m *matcher) appendEach(dst []Match) []Match {
	first, ids := len(dst), 0
	dst = slices.Grow(dst, len(m.hits))
	for _, s := range m.hits {
		dst = append(dst, s.match())
		if s.id() != 0 {
			ids++
		}
	}
	if ids == 0 {
		return dst
	}
	all := make([]uint32, 0, ids) // one allocation for all matches
	for i, s := range m.hits {
		if id := s.id(); id != 0 {
			n := len(all)
			all = append(all, id)
			dst[first+i].IDs = all[n : n+1 : n+1]
		}
	}
	return dst
}

// appendMerged is for hits of several filters.
func (m *matcher) appendMerged(dst []Match) []Match {
	first, ids := len(dst), 0
	m.forget()
	for _, s := range m.hits {
		p := m.locate(dst[first:], s.receiver())
		if p.round == m.round {
			dst[first+int(p.match)].fold(s)
		} else {
			*p = place{m.round, uint32(len(dst) - first)}
			dst = append(dst, s.match())
		}
		if s.id() != 0 {
			ids++
		}
	}
	if ids > 0 {
		m.identify(dst[first:], ids)
	}
	return dst
}

// identify fills in the identifiers of merged matches, all in one allocation.
func (m *matcher) identify(matches []Match, ids int) {
	m.counts = slices.Grow(m.counts[:0], len(matches))[:len(matches)]
	clear(m.counts)
	for _, s := range m.hits {
		if s.id() != 0 {
			m.counts[m.locate(matches, s.receiver()).match]++
		}
	}
	all := make([]uint32, ids)
	for i, n := range m.counts {
		if n > 0 {
			matches[i].IDs, all = all[:0:n], all[n:]
		}
	}
	for _, s := range m.hits {
		if id := s.id(); id != 0 {
			to := &matches[m.locate(matches, s.receiver()).match]
			to.IDs = append(to.IDs, id)
		}
	}
}

// forget begins a new round of locate with room for all hits.
func (m *matcher) forget() {
	m.round++
	if want := 2 * len(m.hits); len(m.found) < want || m.round == 0 {
		size := max(16, len(m.found))
		for size < want {
			size *= 2
		}
		m.found, m.round = make([]place, size), 1
	}
}

// locate returns the place of r, or the unused one where it belongs.
func (m *matcher) locate(matches []Match, r Receiver) *place {
	mask := uint32(len(m.found) - 1)
	for i := uint32(r) * 0x9E3779B1 >> 7 & mask; ; i = (i + 1) & mask {
		p := &m.found[i]
		if p.round != m.round || matches[p.match].Receiver == r {
			return p
		}
	}
}
