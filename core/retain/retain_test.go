package retain

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"dunlin/core/message"
	"dunlin/core/topic"
)

func retained(topic, payload string) *message.Message {
	return &message.Message{Topic: topic, Payload: []byte(payload)}
}

// topics returns the sorted topics that match filter.
func topics(s *Store, filter string) []string {
	var all []string
	s.Match(filter, func(m *message.Message) bool {
		all = append(all, m.Topic)
		return true
	})
	slices.Sort(all)
	return all
}

func TestFiltersSelectRetainedMessages(t *testing.T) {
	s := New(Options{})
	for _, name := range []string{"a", "a/b", "a/b/c", "a//c", "/", "/a", "a/", "$SYS/x", "$SYS", "b/$SYS", "b"} {
		if !s.Set(retained(name, "x")) {
			t.Fatalf("Set(%q) was refused", name)
		}
	}
	for _, c := range []struct {
		name, filter string
		want         []string
	}{
		{"one topic", "a/b", []string{"a/b"}},
		{"no topic", "a/c", nil},
		{"a level that has no message", "a/b/c/d", nil},
		{"everything but $", "#", []string{"/", "/a", "a", "a/", "a//c", "a/b", "a/b/c", "b", "b/$SYS"}},
		{"a parent with its children", "a/#", []string{"a", "a/", "a//c", "a/b", "a/b/c"}},
		{"one level", "+", []string{"a", "b"}},
		{"two levels", "+/+", []string{"/", "/a", "a/", "a/b", "b/$SYS"}},
		{"empty first level", "/+", []string{"/", "/a"}},
		{"empty middle level", "a//+", []string{"a//c"}},
		{"plus in the middle", "a/+/c", []string{"a//c", "a/b/c"}},
		{"plus, then #", "+/b/#", []string{"a/b", "a/b/c"}},
		{"plus does not see $", "+/x", nil},
		{"$ by name", "$SYS/#", []string{"$SYS", "$SYS/x"}},
		{"$ below the first level", "b/+", []string{"b/$SYS"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := topics(s, c.filter); !slices.Equal(got, c.want) {
				t.Errorf("Match(%q) = %q, want %q", c.filter, got, c.want)
			}
		})
	}
}

func TestMatchStopsWhenToldTo(t *testing.T) {
	s := New(Options{})
	for i := range 10 {
		s.Set(retained(fmt.Sprintf("a/%d", i), "x"))
		s.Set(retained(fmt.Sprintf("a/%d/b", i), "x"))
	}
	for _, filter := range []string{"#", "a/+", "a/#", "+/+/b", "a/1"} {
		calls := 0
		s.Match(filter, func(*message.Message) bool { calls++; return false })
		if calls != 1 {
			t.Errorf("Match(%q) called %d times", filter, calls)
		}
	}
}

func TestAnEmptyPayloadRemoves(t *testing.T) {
	s := New(Options{})
	s.Set(retained("a/b", "x"))
	if !s.Set(retained("a/b", "")) || s.Get("a/b") != nil {
		t.Error("the message is still there")
	}
	if !s.Set(retained("a/c", "")) {
		t.Error("removing nothing was refused")
	}
	checkEmpty(t, s)
}

func checkEmpty(t *testing.T, s *Store) {
	t.Helper()
	if s.Len() != 0 || s.Bytes() != 0 || s.Expiring() != 0 || s.tree.n != 0 || s.tree.root.first != nil {
		t.Errorf("empty store: %d messages, %d bytes, %d expiring, %d nodes", s.Len(), s.Bytes(), s.Expiring(), s.tree.n)
	}
	for i, n := range s.tree.heads {
		if n != nil {
			t.Errorf("empty store: chain %d begins with %q", i, n.level)
		}
	}
}

func TestBoundsRefuseWhatGrows(t *testing.T) {
	t.Run("messages", func(t *testing.T) {
		s := New(Options{MaxMessages: 2})
		s.Set(retained("a", "x"))
		s.Set(retained("b", "x"))
		if s.Set(retained("c", "x")) || s.Refused() != 1 {
			t.Error("a third message was taken")
		}
		if !s.Set(retained("a", "longer than before")) {
			t.Error("a replacement was refused")
		}
		if !s.Set(retained("b", "")) || !s.Set(retained("c", "x")) {
			t.Error("room was not used again")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		s := New(Options{MaxBytes: 10_000})
		for i := 0; s.Set(retained(fmt.Sprint("topic/", i), strings.Repeat("x", 100))); i++ {
		}
		if s.Bytes() > 10_000 || s.Bytes() < 9000 || s.Refused() != 1 {
			t.Fatalf("%d bytes, %d refused", s.Bytes(), s.Refused())
		}
		before := s.Get("topic/0")
		if s.Set(retained("topic/0", strings.Repeat("y", 2000))) || s.Get("topic/0") != before {
			t.Error("a larger replacement went over the bound")
		}
		if !s.Set(retained("topic/0", strings.Repeat("y", 100))) {
			t.Error("a replacement of the same size was refused")
		}
		if s.Set(retained("deep"+strings.Repeat("/", 60), "x")) {
			t.Error("levels were not charged")
		}
		if nodes := s.tree.n; nodes != s.Len()+1 {
			t.Errorf("%d nodes after a refusal, want %d", nodes, s.Len()+1)
		}
	})
}

func TestDeepTopicsAreWalkedWithoutRecursion(t *testing.T) {
	slashes := strings.Repeat("/", 65535)
	s := New(Options{MaxBytes: 1 << 30})
	s.Set(retained(slashes, "x"))
	start := time.Now()
	for _, filter := range []string{"#", slashes, strings.Repeat("+/", 32767) + "#", slashes[:65533] + "/#"} {
		if got := topics(s, filter); len(got) != 1 {
			t.Errorf("%d matches of a filter of %d bytes", len(got), len(filter))
		}
	}
	if got := topics(s, strings.Repeat("+/", 32767)+"+"); len(got) != 0 {
		t.Errorf("%d matches of a filter that ends above the message", len(got))
	}
	s.Delete(slashes)
	// Linear is some milliseconds, more on an emulated machine; quadratic is many seconds.
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	checkEmpty(t, s)
}

func TestStoreAgreesWithAMap(t *testing.T) {
	levels := []string{"", "a", "b", "c", "$x", "long level"}
	seeds := uint64(1500)
	if testing.Short() {
		seeds = 100
	}
	for seed := range seeds {
		g := rand.New(rand.NewPCG(seed, 2))
		s, model := New(Options{}), map[string]*message.Message{}
		name := func() string {
			all := make([]string, 1+g.IntN(4))
			for i := range all {
				all[i] = levels[g.IntN(len(levels))]
			}
			if len(all) == 1 && all[0] == "" {
				return "/" // an empty topic is none
			}
			return strings.Join(all, "/")
		}
		filter := func() string {
			all := strings.Split(name(), "/")
			for i := range all {
				if g.IntN(3) == 0 {
					all[i] = "+"
				}
			}
			if g.IntN(3) == 0 {
				all[len(all)-1] = "#"
			}
			return strings.Join(all, "/")
		}
		for range 100 {
			switch g.IntN(6) {
			case 0, 1, 2:
				m := retained(name(), strings.Repeat("x", g.IntN(4)))
				m.HasExpiry = g.IntN(2) == 0
				if !s.Set(m) {
					t.Fatalf("seed %d: refused", seed)
				}
				model[m.Topic] = m
				if len(m.Payload) == 0 {
					delete(model, m.Topic)
				}
			case 3:
				n := name()
				if got, want := s.Delete(n), model[n] != nil; got != want {
					t.Fatalf("seed %d: Delete(%q) = %v, want %v", seed, n, got, want)
				}
				delete(model, n)
			case 4:
				for _, m := range s.Sweep(func(*message.Message) bool { return g.IntN(4) == 0 }, g.IntN(5)) {
					if model[m.Topic] != m || !m.HasExpiry {
						t.Fatalf("seed %d: swept %q, which was not there to be swept", seed, m.Topic)
					}
					delete(model, m.Topic)
				}
			default:
				f := filter()
				var want []string
				for n := range model {
					if topic.Matches(f, n) {
						want = append(want, n)
					}
				}
				slices.Sort(want)
				if got := topics(s, f); !slices.Equal(got, want) {
					t.Fatalf("seed %d: Match(%q) = %q, want %q", seed, f, got, want)
				}
			}
			check(t, seed, s, model)
		}
		for n := range model {
			s.Delete(n)
		}
		checkEmpty(t, s)
	}
}

// check compares the counts of s with a recount.
func check(t *testing.T, seed uint64, s *Store, model map[string]*message.Message) {
	t.Helper()
	bytes, expiring := int64(0), 0
	nodes := map[string]int64{}
	for n, m := range model {
		if s.Get(n) != m {
			t.Fatalf("seed %d: Get(%q) = %v, want %v", seed, n, s.Get(n), m)
		}
		bytes += cost(m)
		if m.HasExpiry {
			expiring++
		}
		levels := strings.Split(n, "/")
		for i, level := range levels {
			nodes["/"+strings.Join(levels[:i+1], "/")] = nodeBytes(level)
		}
	}
	for b := range maps.Values(nodes) {
		bytes += b
	}
	if s.Len() != len(model) || s.Bytes() != bytes || s.Expiring() != expiring || s.tree.n != len(nodes) {
		t.Fatalf("seed %d: %d messages, %d bytes, %d expiring, %d nodes; want %d, %d, %d, %d", seed,
			s.Len(), s.Bytes(), s.Expiring(), s.tree.n, len(model), bytes, expiring, len(nodes))
	}
}

func TestSweepAsksAboutEachMessageOnceARound(t *testing.T) {
	s := New(Options{})
	for i := range 100 {
		m := retained(fmt.Sprint("expires/", i), "x")
		m.HasExpiry = true
		s.Set(m)
		s.Set(retained(fmt.Sprint("stays/", i), "x"))
	}
	g := rand.New(rand.NewPCG(3, 3))
	for range 50 {
		asked := map[string]int{}
		deleted := map[string]bool{}
		s.sweep = 0 // a round begins
		for there := s.Expiring(); there > 0; {
			n := min(there, 1+g.IntN(7))
			s.Sweep(func(m *message.Message) bool { asked[m.Topic]++; return false }, n)
			there -= n
			// Others come and go between the calls.
			gone := fmt.Sprint("expires/", g.IntN(100))
			if s.Delete(gone) {
				deleted[gone] = true
			}
		}
		s.Match("expires/#", func(m *message.Message) bool {
			if asked[m.Topic] == 0 {
				t.Errorf("%s was not asked about", m.Topic)
			}
			return true
		})
		for name := range deleted {
			m := retained(name, "x")
			m.HasExpiry = true
			s.Set(m)
		}
	}
}

func TestSweepIsBoundedByMax(t *testing.T) {
	s := New(Options{})
	for i := range 10 {
		m := retained(fmt.Sprint("a/", i), "x")
		m.HasExpiry = true
		s.Set(m)
	}
	calls := 0
	count := func(*message.Message) bool { calls++; return true }
	for _, c := range []struct{ max, want int }{{0, 0}, {3, 3}, {4, 4}, {100, 3}, {5, 0}} {
		calls = 0
		if got := len(s.Sweep(count, c.max)); got != c.want || calls != c.want {
			t.Errorf("Sweep of %d removed %d in %d calls, want %d", c.max, got, calls, c.want)
		}
	}
	checkEmpty(t, s)
}

func TestBytesAreWhatTheHeapSays(t *testing.T) {
	const n = 20_000
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	s := New(Options{})
	for i := range n {
		s.Set(retained(fmt.Sprintf("devices/%05d/state/%d", i/4, i%4), "21.5"))
	}
	took := heap() - before
	t.Logf("%d bytes a message charged, %d in the heap", s.Bytes()/n, took/n)
	if ratio := float64(s.Bytes()) / float64(took); ratio < 0.8 || ratio > 1.5 {
		t.Errorf("%d bytes are charged, the heap has grown by %d", s.Bytes(), took)
	}
	runtime.KeepAlive(s)
}

func BenchmarkMatch(b *testing.B) {
	s := New(Options{})
	for i := range 40_000 {
		s.Set(retained(fmt.Sprintf("devices/%05d/%d", i/4, i%4), "x"))
	}
	for _, c := range []struct{ name, filter string }{
		{"one_topic", "devices/00017/2"},
		{"one_device", "devices/00017/+"},
		{"one_value_of_10k_devices", "devices/+/2"},
		{"all_40k", "#"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				s.Match(c.filter, func(*message.Message) bool { n++; return true })
			}
			b.ReportMetric(float64(n)/float64(b.N), "messages/op")
		})
	}
}

func BenchmarkSet(b *testing.B) {
	s := New(Options{})
	all := make([]*message.Message, 10_000)
	for i := range all {
		all[i] = retained(fmt.Sprintf("devices/%05d/state", i), "x")
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Set(all[i%len(all)])
		i++
	}
}
