package route

import (
	"bytes"
	"hash/maphash"
	"unsafe"
)

// Route is what a Cache knows of a topic.
type Route struct {
	Topic string // a copy that may be kept
	Hits  []Hit  // must not be changed
	ids   [][]uint32
	// Note is the caller's: what it found out about the topic, such as the result of its checks
	// on it. It is nil when the topic is new here and again when subscriptions have changed.
	Note any
}

// IDs are the identifiers of Hits[i], as Match has them.
func (r *Route) IDs(i int) []uint32 {
	if r.ids == nil {
		return nil
	}
	return r.ids[i]
}

// cached is a Route with what tells whether it still holds.
type cached struct {
	Route
	generation uint64
	stripe     uint8
	cost       int32 // references
}

// Cache remembers routes by topic. It belongs to the goroutine of its index.
//
// It is bounded by what it refers to, not by the number of topics. When that is too much, the
// half that has not been asked for lately goes.
type Cache struct {
	index *Index
	half  int // references in one of the two generations below, at most

	// A topic that is asked for is in young. When young is full it becomes old, and what was
	// old and not asked for since is forgotten.
	young, old map[string]*cached
	used       int // references in young

	made    uint64  // routes that were matched, see Made
	large   *cached // the last route that is too large to be kept with others
	scratch []Match
}

// NewCache returns an empty cache over x of at most maxReferences references. One is a receiver
// of a topic, or 8 bytes of overhead: the memory is about 4 MiB for 524,288. A route that alone has more than half of that is kept as long as no other such route
// is asked for.
func NewCache(x *Index, maxReferences int) *Cache {
	return &Cache{
		index: x,
		half:  maxReferences / 2,
		young: make(map[string]*cached),
		old:   make(map[string]*cached),
	}
}

// Match returns the receivers of topic, as Index.Match does, without their identifiers. The result
// is valid until the next call of a method, and must not be changed.
func (c *Cache) Match(topic []byte) []Hit { return c.Lookup(topic).Hits }

// Lookup returns the route of topic, a valid Topic Name. The result is valid until the next
// call of a method; what may be changed in it is Note. A hit does not allocate, once the maps
// have grown to what is in use.
func (c *Cache) Lookup(topic []byte) *Route {
	if r := c.young[string(topic)]; r != nil {
		if r.generation != c.index.generation(int(r.stripe)) {
			c.used -= int(r.cost)
			delete(c.young, r.Topic)
			return c.refresh(r)
		}
		return &r.Route
	}
	if r := c.old[string(topic)]; r != nil {
		delete(c.old, r.Topic)
		if r.generation != c.index.generation(int(r.stripe)) {
			return c.refresh(r)
		}
		return c.keep(r)
	}
	if r := c.large; r != nil && r.Topic == string(topic) {
		if r.generation != c.index.generation(int(r.stripe)) {
			c.large = nil
			return c.refresh(r)
		}
		return &r.Route
	}
	r := &cached{stripe: uint8(c.index.stripe(topic))}
	r.Topic = string(topic)
	return c.refresh(r)
}

// refresh matches the topic of r anew and keeps r, which is in neither generation.
func (c *Cache) refresh(r *cached) *Route {
	c.made++
	r.generation = c.index.generation(int(r.stripe))
	topic := unsafe.Slice(unsafe.StringData(r.Topic), len(r.Topic)) // Match only reads it
	c.scratch = c.index.Match(topic, c.scratch[:0])
	r.take(c.scratch)
	clear(c.scratch)
	if cap(c.scratch) > c.half {
		c.scratch = nil
	}
	r.Note = nil
	r.cost = int32(r.references())
	return c.keep(r)
}

// Made is how many routes were not there, or did not hold any more, when they were asked for.
func (c *Cache) Made() uint64 { return c.made }

// take makes all the matches of the route, in no more memory than they need.
func (r *Route) take(all []Match) {
	if n := len(all); n > cap(r.Hits) || cap(r.Hits) > 2*n {
		r.Hits = make([]Hit, n)
	}
	r.Hits, r.ids = r.Hits[:len(all)], nil
	for i := range all {
		r.Hits[i] = all[i].Hit
		if all[i].IDs != nil {
			if r.ids == nil {
				r.ids = make([][]uint32, len(all))
			}
			r.ids[i] = all[i].IDs
		}
	}
}

// reference is the unit in which the memory of routes is counted, in bytes.
const reference = int(unsafe.Sizeof(Hit{}))

// overhead is the memory of a cached route without its topic and hits, in references: the record
// itself and its share of a map.
const overhead = (int(unsafe.Sizeof(cached{}))+48)/reference + 1

// references returns the memory of a route in references.
func (r *cached) references() int {
	bytes := len(r.Topic) + cap(r.ids)*int(unsafe.Sizeof([]uint32{}))
	for _, ids := range r.ids {
		bytes += 4 * len(ids)
	}
	return overhead + cap(r.Hits) + bytes/reference
}

// keep puts r, which is in neither generation, into young.
func (c *Cache) keep(r *cached) *Route {
	if int(r.cost) > c.half {
		c.large = r
		return &r.Route
	}
	if c.used+int(r.cost) > c.half {
		clear(c.old)
		c.young, c.old = c.old, c.young
		c.used = 0
	}
	c.young[r.Topic] = r
	c.used += int(r.cost)
	return &r.Route
}

// stripe returns the part of the topic tree that topic is in.
func (x *Index) stripe(topic []byte) int {
	first, _, _ := bytes.Cut(topic, slash)
	return int(maphash.Bytes(x.levels.seed, first) % stripes)
}

// generation changes with every change that may concern a stripe: both terms only grow.
func (x *Index) generation(stripe int) uint64 { return x.generations[stripe] + x.everywhere }
