package route

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOverlappingSubscriptionsAreMerged(t *testing.T) {
	for _, c := range []struct {
		name string
		subs map[string]Options
		want Match
		own  Match
		ok   bool // of Own
	}{
		{
			name: "highest QoS",
			subs: map[string]Options{"a/+": {QoS: 1}, "a/#": {QoS: 2}, "a/b": {}},
			want: Match{Hit: Hit{QoS: 2}}, own: Match{Hit: Hit{QoS: 2}}, ok: true,
		},
		{
			name: "retain as published of the highest QoS",
			subs: map[string]Options{"a/+": {QoS: 1}, "a/b": {RetainAsPublished: true}},
			want: Match{Hit: Hit{QoS: 1}}, own: Match{Hit: Hit{QoS: 1}}, ok: true,
		},
		{
			name: "retain as published of one among equals",
			subs: map[string]Options{"a/+": {QoS: 1}, "a/b": {QoS: 1, RetainAsPublished: true}},
			want: Match{Hit: Hit{QoS: 1, RetainAsPublished: true}},
			own:  Match{Hit: Hit{QoS: 1, RetainAsPublished: true}}, ok: true,
		},
		{
			name: "all no local",
			subs: map[string]Options{"a/+": {NoLocal: true}, "a/b": {NoLocal: true}},
			want: Match{Hit: Hit{NoLocal: true}},
		},
		{
			name: "one no local",
			subs: map[string]Options{"a/+": {NoLocal: true, QoS: 2, ID: 1}, "a/b": {ID: 2}},
			want: Match{Hit: Hit{QoS: 2, OwnDiffers: true}, IDs: []uint32{1, 2}},
			own:  Match{IDs: []uint32{2}}, ok: true,
		},
		{
			name: "one identifier twice",
			subs: map[string]Options{"a/+": {ID: maxID}, "a/b": {ID: maxID}, "#": {}},
			want: Match{IDs: []uint32{maxID, maxID}},
			own:  Match{IDs: []uint32{maxID, maxID}}, ok: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := New()
			x.Subscribe("a/b", 1, Options{}) // another receiver
			for filter, o := range c.subs {
				x.Subscribe(filter, 9, o)
			}
			c.want.Receiver = 9
			got := sorted(x.Match([]byte("a/b"), nil))
			if len(got) != 2 || !same(got[1], c.want) {
				t.Errorf("Match = %+v, want %+v as the second", got, c.want)
			}
			if c.ok {
				c.own.Receiver = 9
			}
			if own, ok := x.Own([]byte("a/b"), 9); ok != c.ok || !same(own, c.own) {
				t.Errorf("Own = %+v %v, want %+v %v", own, ok, c.own, c.ok)
			}
		})
	}
}

func same(a, b Match) bool {
	slices.Sort(a.IDs)
	ids := slices.Equal(a.IDs, b.IDs)
	a.IDs, b.IDs = nil, nil
	return ids && fmt.Sprint(a) == fmt.Sprint(b)
}

func TestWildcardsInATopicMatchNothing(t *testing.T) {
	x := New()
	x.Subscribe("a/+", 1, Options{ID: 1})
	x.Subscribe("a/#", 1, Options{ID: 2})
	for _, name := range []string{"a/+", "a/#"} {
		// The caller should have refused these; what must not happen is a double hit.
		if got := x.Match([]byte(name), nil); len(got) != 1 || len(got[0].IDs) != 2 {
			t.Errorf("Match(%q) = %+v", name, got)
		}
	}
}

func TestReceiversAndIdentifiersKeepAllTheirBits(t *testing.T) {
	x := New()
	x.Subscribe("a", 1<<32-1, Options{QoS: 2, NoLocal: true, RetainAsPublished: true, ID: maxID})
	want := Match{Hit: Hit{Receiver: 1<<32 - 1, QoS: 2, NoLocal: true, RetainAsPublished: true}, IDs: []uint32{maxID}}
	if got := x.Match([]byte("a"), nil); len(got) != 1 || !same(got[0], want) {
		t.Errorf("Match = %+v, want %+v", got, want)
	}
}

func TestDeepTopicsAreCheap(t *testing.T) {
	slashes := strings.Repeat("/", 65535)
	for _, c := range []struct {
		name, filter string
		matches      bool
	}{
		{"no deep filter", "a/b", false},
		{"shallow wildcard", "#", true},
		{"pluses all the way", strings.Repeat("+/", 32767) + "+", false},
		{"as deep as the topic", slashes, true},
		{"multi at the end", slashes[:65533] + "/#", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := New()
			x.Subscribe(c.filter, 1, Options{})
			start := time.Now()
			if got := len(x.Match([]byte(slashes), nil)); got == 1 != c.matches {
				t.Fatalf("%d matches", got)
			}
			// Linear is some milliseconds, more on an emulated machine; quadratic is many seconds.
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("the match took %v", took)
			}
			x.Unsubscribe(c.filter, 1)
			checkEmpty(t, x)
		})
	}
}

func TestAMatchVisitsEachNodeOnce(t *testing.T) {
	// Every combination of "a" and "+" on twelve levels, the most nodes that one topic can reach.
	x := New()
	const depth = 12
	for bits := range 1 << depth {
		levels := make([]string, depth)
		for i := range levels {
			levels[i] = "a"
			if bits>>i&1 == 1 {
				levels[i] = "+"
			}
		}
		x.Subscribe(strings.Join(levels, "/"), Receiver(bits), Options{})
	}
	name := []byte(strings.Repeat("a/", depth-1) + "a")
	if got := len(x.Match(name, nil)); got != 1<<depth {
		t.Errorf("%d matches, want %d", got, 1<<depth)
	}
	if got := len(x.matcher.from); got != 1<<depth {
		t.Errorf("%d nodes at the end, want %d", got, 1<<depth)
	}
}

func TestChurnDoesNotGrowTheIndex(t *testing.T) {
	x := New()
	filter := func(i int) string { return fmt.Sprintf("site/%d/device-%d/+/value", i%100, i) }
	const there = 2000
	for i := range there {
		x.Subscribe(filter(i), Receiver(i), Options{})
		x.Subscribe("common/filter", Receiver(i), Options{})
	}
	// size covers every table that could grow.
	size := func() [6]int {
		return [6]int{
			len(x.nodes.chunks), len(x.levels.slab.chunks), len(x.lists.chunks),
			len(x.heads), len(x.levels.heads), len(x.levels.text) / (64 << 10),
		}
	}
	churn := func(from, rounds int) {
		for i := from; i < from+rounds; i++ {
			x.Unsubscribe(filter(i), Receiver(i))
			x.Unsubscribe("common/filter", Receiver(i))
			x.Subscribe(filter(i+there), Receiver(i+there), Options{})
			x.Subscribe("common/filter", Receiver(i+there), Options{})
		}
	}
	churn(0, 1000)
	before := size()
	churn(1000, 200_000)
	if after := size(); after != before {
		t.Errorf("tables grew from %v to %v", before, after)
	}
	room := 0
	for i := range x.lists.used {
		for _, b := range x.lists.at(i).blocks {
			room += cap(b)
		}
	}
	if room > there+2*blockSize {
		t.Errorf("%d subscriptions of one filter take the place of %d", there, room)
	}
	if x.Len() != 2*there {
		t.Errorf("Len() = %d, want %d", x.Len(), 2*there)
	}
	if got := len(x.Match([]byte(strings.Replace(filter(201_500), "+", "x", 1)), nil)); got != 1 {
		t.Errorf("%d matches, want 1", got)
	}
}

func TestAFilterIsKnownByItsNumber(t *testing.T) {
	x := New()
	filters := []string{"a", "a/b", "a/bb/ccc", "/", "//", "a/", "/a", "#", "+/b/#", "$SYS/é/x", "long level/" + strings.Repeat("x", 300)}
	numbers := make(map[Filter]string)
	for i, filter := range filters {
		if n := x.Filter(filter); numbers[n] != "" {
			t.Errorf("%q has the number of %q before anybody subscribes to it", filter, numbers[n])
		}
		x.Subscribe(filter, Receiver(i), Options{})
		x.Subscribe(filter, Receiver(i+1), Options{})
		numbers[x.Filter(filter)] = filter
	}
	if numbers[0] != "" || len(numbers) != len(filters) {
		t.Fatalf("%d numbers for %d filters: %v", len(numbers), len(filters), numbers)
	}
	for n, filter := range numbers {
		if got := string(x.AppendText([]byte("before "), n)); got != "before "+filter {
			t.Errorf("number %d is %q, want %q", n, got, filter)
		}
	}
	x.Unsubscribe("a/bb/ccc", 2)
	if n := x.Filter("a/bb/ccc"); numbers[n] != "a/bb/ccc" {
		t.Errorf("the number is %d after one of two subscriptions was removed", n)
	}
	x.Unsubscribe("a/bb/ccc", 3)
	if n := x.Filter("a/bb/ccc"); n != 0 {
		t.Errorf("the number is %d after the last subscription was removed", n)
	}
}

// shapes are sets of filters as they are found in the field.
var shapes = []struct {
	name   string
	filter func(i int) string
	topic  func(i int) string
}{
	{"tree", // sites of lines of machines
		func(i int) string {
			return fmt.Sprintf("factory/line-%d/machine-%d/sensor-%d/value", i%50, i/50%100, i/5000)
		}, nil},
	{"devices", // a few filters for each device
		func(i int) string {
			return fmt.Sprintf("devices/%08x/%s", i/4, []string{"cmd", "config/#", "ota/+", "time"}[i%4])
		}, nil},
	{"device", // one filter for each device
		func(i int) string { return fmt.Sprintf("devices/%08x/cmd", i) }, nil},
	{
		"wild",
		func(i int) string { return fmt.Sprintf("gw/+/line-%d/m-%d/#", i%50, i/50) },
		func(i int) string { return fmt.Sprintf("gw/g17/line-%d/m-%d/temperature", i%50, i/50) },
	},
}

func TestASubscriptionCostsAtMost130Bytes(t *testing.T) {
	const n = 100_000
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			filters := make([]string, n)
			for i := range filters {
				filters[i] = s.filter(i)
			}
			before := heap()
			x := New()
			for i, filter := range filters {
				x.Subscribe(filter, Receiver(i), Options{QoS: 1})
			}
			each := float64(heap()-before) / n
			t.Logf("%.1f bytes per subscription, %d nodes, %d levels", each, x.nodes.len(), x.levels.slab.len())
			if each > 130 {
				t.Errorf("%.1f bytes per subscription", each)
			}
			if x.Len() != n {
				t.Errorf("Len() = %d", x.Len())
			}
			runtime.KeepAlive(filters)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestMatchDoesNotAllocate(t *testing.T) {
	x := New()
	for i := range 100 {
		x.Subscribe("a/b", Receiver(i), Options{})
		x.Subscribe("a/+", Receiver(i/2), Options{})
	}
	c := NewCache(x, 4000)
	dst := make([]Match, 0, 200)
	name := []byte("a/b")
	for _, f := range []struct {
		name string
		run  func()
	}{
		{"index", func() { dst = x.Match(name, dst[:0]) }},
		{"cache hit", func() { c.Match(name) }},
	} {
		f.run()
		if n := testing.AllocsPerRun(100, f.run); n != 0 {
			t.Errorf("%s: %v allocations", f.name, n)
		}
	}
}
