package route

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"dunlin/core/topic"
)

// key names a subscription.
type key struct {
	filter   string
	receiver Receiver
}

// model is the index as the specification would have it: a list that is searched whole.
type model map[key]Options

// match returns the merged receivers of name, sorted. own leaves out NoLocal subscriptions.
func (m model) match(name string, own bool) []Match {
	hits := map[Receiver][]Options{}
	for k, o := range m {
		if topic.Matches(k.filter, name) && !(own && o.NoLocal) {
			hits[k.receiver] = append(hits[k.receiver], o)
		}
	}
	var all []Match
	for r, options := range hits {
		one := Match{Hit: Hit{Receiver: r, NoLocal: true}}
		local := false
		for _, o := range options {
			one.QoS = max(one.QoS, o.QoS)
			one.NoLocal = one.NoLocal && o.NoLocal
			local = local || o.NoLocal
			if o.ID != 0 {
				one.IDs = append(one.IDs, o.ID)
			}
		}
		one.OwnDiffers = local && !one.NoLocal
		for _, o := range options {
			one.RetainAsPublished = one.RetainAsPublished || o.QoS == one.QoS && o.RetainAsPublished
		}
		all = append(all, one)
	}
	return sorted(all)
}

func sorted(all []Match) []Match {
	for _, m := range all {
		slices.Sort(m.IDs)
	}
	slices.SortFunc(all, func(a, b Match) int { return cmp.Compare(a.Receiver, b.Receiver) })
	return all
}

// generator makes filters and names that meet often.
type generator struct{ *rand.Rand }

func (g generator) level() string {
	return []string{"", "a", "b", "c", "longer level", "ä", "$x", "$SYS"}[g.IntN(8)]
}

func (g generator) name() string {
	levels := make([]string, 1+g.IntN(5))
	for i := range levels {
		levels[i] = g.level()
	}
	if name := strings.Join(levels, "/"); name != "" {
		return name
	}
	return "/"
}

func (g generator) filter() string {
	levels := strings.Split(g.name(), "/")
	for i := range levels {
		if g.IntN(4) == 0 {
			levels[i] = "+"
		}
	}
	if g.IntN(4) == 0 {
		levels[len(levels)-1] = "#"
	}
	if filter := strings.Join(levels, "/"); filter != "" {
		return filter
	}
	return "/"
}

func (g generator) options() Options {
	o := Options{QoS: byte(g.IntN(3)), NoLocal: g.IntN(3) == 0, RetainAsPublished: g.IntN(2) == 0}
	if g.IntN(3) == 0 {
		o.ID = 1 + g.Uint32N(maxID)
	}
	return o
}

func TestIndexAgreesWithANaiveScan(t *testing.T) {
	seeds := uint64(2000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		g := generator{rand.New(rand.NewPCG(seed, 1))}
		x, m := New(), model{}
		cache := NewCache(x, 8+g.IntN(1600)) // small enough to evict
		receivers := 1 + g.Uint32N(40)
		interest := map[string]bool{}
		x.Observe(func(filter string, added bool) {
			if interest[filter] == added {
				t.Errorf("seed %d: %q observed twice as %v", seed, filter, added)
			}
			interest[filter] = added
		})
		for range 120 {
			k := key{g.filter(), Receiver(g.Uint32N(receivers))}
			switch g.IntN(5) {
			case 0, 1:
				o := g.options()
				_, was := m[k]
				if replaced := x.Subscribe(k.filter, k.receiver, o); replaced != was {
					t.Fatalf("seed %d: Subscribe(%q, %d) = %v, want %v", seed, k.filter, k.receiver, replaced, was)
				}
				m[k] = o
			case 2:
				if g.IntN(3) > 0 { // one that is there
					for k = range m {
						break
					}
				}
				_, was := m[k]
				if existed := x.Unsubscribe(k.filter, k.receiver); existed != was {
					t.Fatalf("seed %d: Unsubscribe(%q, %d) = %v, want %v", seed, k.filter, k.receiver, existed, was)
				}
				delete(m, k)
			default:
				checkMatch(t, seed, x, cache, m, g.name())
			}
			if x.Len() != len(m) {
				t.Fatalf("seed %d: Len() = %d, want %d", seed, x.Len(), len(m))
			}
		}
		for k := range m {
			if !interest[k.filter] {
				t.Errorf("seed %d: %q is subscribed, but the observer does not know", seed, k.filter)
			}
		}
		for k := range m {
			x.Unsubscribe(k.filter, k.receiver)
		}
		for filter, there := range interest {
			if there {
				t.Errorf("seed %d: %q is gone, but the observer does not know", seed, filter)
			}
		}
		checkEmpty(t, x)
	}
}

func checkMatch(t *testing.T, seed uint64, x *Index, c *Cache, m model, name string) {
	t.Helper()
	want := m.match(name, false)
	prefix := []Match{{Hit: Hit{Receiver: 12345}}}
	got := x.Match([]byte(name), prefix)
	if got[0].Receiver != 12345 {
		t.Fatalf("seed %d: Match overwrote dst", seed)
	}
	if !equal(want, sorted(got[1:])) {
		t.Fatalf("seed %d: Match(%q), want - got +\n%s", seed, name, gocmp.Diff(want, got[1:]))
	}
	for range 2 {
		r := c.Lookup([]byte(name))
		if got := sorted(matches(r)); !equal(want, got) {
			t.Fatalf("seed %d: cached Match(%q), want - got +\n%s", seed, name, gocmp.Diff(want, got))
		}
		if r.Topic != name {
			t.Fatalf("seed %d: Lookup(%q).Topic = %q", seed, name, r.Topic)
		}
	}
	own := m.match(name, true)
	for _, match := range want {
		got, ok := x.Own([]byte(name), match.Receiver)
		i := slices.IndexFunc(own, func(o Match) bool { return o.Receiver == match.Receiver })
		if ok != (i >= 0) {
			t.Fatalf("seed %d: Own(%q, %d) ok = %v", seed, name, match.Receiver, ok)
		}
		if !ok {
			continue
		}
		slices.Sort(got.IDs)
		if !equal(own[i:i+1], []Match{got}) {
			t.Fatalf("seed %d: Own(%q, %d), want - got +\n%s", seed, name, match.Receiver, gocmp.Diff(own[i], got))
		}
	}
}

// matches are those of a route, which are not changed.
func matches(r *Route) (all []Match) {
	for i, h := range r.Hits {
		all = append(all, Match{h, slices.Clone(r.IDs(i))})
	}
	return all
}

// equal compares sorted matches. IDs must be nil if there are none: that is what makes them free.
func equal(a, b []Match) bool {
	return slices.EqualFunc(a, b, func(a, b Match) bool {
		ids := (a.IDs == nil) == (b.IDs == nil) && slices.Equal(a.IDs, b.IDs)
		return ids && a.Receiver == b.Receiver && a.QoS == b.QoS && a.NoLocal == b.NoLocal &&
			a.RetainAsPublished == b.RetainAsPublished && a.OwnDiffers == b.OwnDiffers
	})
}

// checkEmpty sees that an index without subscriptions holds nothing.
func checkEmpty(t *testing.T, x *Index) {
	t.Helper()
	if x.Len() != 0 || x.nodes.len() != 1 || x.levels.slab.len() != 2 || x.lists.len() != 0 {
		t.Fatalf("empty index has %d subscriptions, %d nodes, %d levels, %d lists",
			x.Len(), x.nodes.len(), x.levels.slab.len(), x.lists.len())
	}
	if x.nodes.at(root).children != 0 {
		t.Fatalf("empty index: root has children %x", x.nodes.at(root).children)
	}
	for i, head := range x.heads {
		if head != 0 {
			t.Fatalf("empty index: chain %d begins with node %d", i, head)
		}
	}
}

func TestManyReceiversOfOneFilter(t *testing.T) {
	for _, stride := range []uint32{1, 64, 1 << 20} {
		t.Run(fmt.Sprintf("stride_%d", stride), func(t *testing.T) {
			x := New()
			const n = 3000
			for i := range uint32(n) {
				x.Subscribe("a/b", Receiver(i*stride), Options{QoS: byte(i % 3), ID: i})
			}
			if !x.Subscribe("a/b", Receiver(7*stride), Options{QoS: 1, ID: 7}) {
				t.Error("second subscription of a receiver was not a replacement")
			}
			got := sorted(x.Match([]byte("a/b"), nil))
			if len(got) != n {
				t.Fatalf("%d matches, want %d", len(got), n)
			}
			// Take them out in an order that leaves gaps everywhere.
			g := rand.New(rand.NewPCG(1, uint64(stride)))
			for left := n; left > 0; left-- {
				i := g.IntN(len(got))
				if !x.Unsubscribe("a/b", got[i].Receiver) {
					t.Fatalf("receiver %d was lost", got[i].Receiver)
				}
				if x.Unsubscribe("a/b", got[i].Receiver) {
					t.Fatalf("receiver %d was there twice", got[i].Receiver)
				}
				got[i] = got[len(got)-1]
				got = got[:len(got)-1]
				if left%500 == 0 && len(x.Match([]byte("a/b"), nil)) != len(got) {
					t.Fatalf("%d matches, want %d", len(x.Match([]byte("a/b"), nil)), len(got))
				}
			}
			checkEmpty(t, x)
		})
	}
}
