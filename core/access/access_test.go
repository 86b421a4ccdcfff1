package access

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"dunlin/core/topic"
)

func newPolicy(t *testing.T, o Options) *Policy {
	t.Helper()
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRulesDecide(t *testing.T) {
	rules := Options{
		Users: map[string]Rules{
			"alice": {Publish: []string{"home/+/set"}, Subscribe: []string{"home/#"}},
			"meter": {Publish: []string{"meters/%u/%c/#"}, Subscribe: []string{"meters/%u/%c/cmd"}},
			"root":  {Publish: []string{"#"}, Subscribe: []string{"#", "$SYS/#"}},
			"mute":  {},
		},
		Anonymous: Rules{Publish: []string{"guest/%c", "guest/%u"}},
		Everyone:  Rules{Subscribe: []string{"news/#"}, Publish: []string{"100%%/x"}},
	}
	alice, anonymous := Identity{User: "alice"}, Identity{Anonymous: true}
	for _, c := range []struct {
		name      string
		options   Options
		id        Identity
		client    string
		publish   []string
		not       []string
		subscribe []string
		notSub    []string
	}{
		{
			name: "no rules", id: alice, publish: []string{"a", "$SYS/x"}, subscribe: []string{"#", "$SYS/#"},
		},
		{
			name: "no rules, anonymous", id: anonymous, publish: []string{"a"}, subscribe: []string{"#"},
		},
		{
			name: "own rules", options: rules, id: alice,
			publish: []string{"home/1/set"}, not: []string{"home/set", "home/1/set/x", "news/x", "meters/alice/c/x"},
			subscribe: []string{"home", "home/+", "home/#", "home/x/+/#"}, notSub: []string{"#", "+/x", "homes/x", "$SYS/#"},
		},
		{
			name: "rules for everyone", options: rules, id: alice,
			publish: []string{"100%/x"}, subscribe: []string{"news/#", "news"},
		},
		{
			name: "a user without rules of its own", options: rules, id: Identity{User: "bob"},
			publish: []string{"100%/x"}, not: []string{"home/1/set"}, subscribe: []string{"news/x"}, notSub: []string{"home/x"},
		},
		{
			name: "a user with an empty list", options: rules, id: Identity{User: "mute"},
			publish: []string{"100%/x"}, not: []string{"a"}, subscribe: []string{"news/x"}, notSub: []string{"a"},
		},
		{
			name: "placeholders", options: rules, id: Identity{User: "meter"}, client: "m-7",
			publish: []string{"meters/meter/m-7/kwh", "meters/meter/m-7"}, not: []string{"meters/meter/m-8/kwh", "meters/%u/%c/x"},
			subscribe: []string{"meters/meter/m-7/cmd"}, notSub: []string{"meters/meter/+/cmd", "meters/meter/m-7/#"},
		},
		{
			name: "a client identifier with a wildcard", options: rules, id: Identity{User: "meter"}, client: "+",
			not: []string{"meters/meter/+/x", "meters/meter/m-7/x"}, notSub: []string{"meters/meter/m-7/cmd", "meters/meter/+/cmd"},
		},
		{
			name: "a client identifier with a slash", options: rules, id: Identity{User: "meter"}, client: "m-7/x",
			not: []string{"meters/meter/m-7/x/y", "meters/meter/m-7/x"},
		},
		{
			name: "anonymous", options: rules, id: anonymous, client: "c",
			publish: []string{"guest/c", "100%/x"}, not: []string{"guest/", "guest/d", "home/1/set"}, subscribe: []string{"news/x"}, notSub: []string{"guest/c"},
		},
		{
			name: "everything but $", options: rules, id: Identity{User: "root"},
			publish: []string{"a/b"}, not: []string{"$SYS/x"}, subscribe: []string{"#", "$SYS/+"}, notSub: []string{"$share/x"},
		},
		{
			name: "rules for others only", options: Options{Users: map[string]Rules{"bob": {Publish: []string{"a"}}}}, id: anonymous,
			not: []string{"a"}, notSub: []string{"a"},
		},
		{
			name: "a client that names itself into $SYS", options: Options{Everyone: Rules{Subscribe: []string{"%c/#"}}}, id: anonymous, client: "$SYS",
			notSub: []string{"$SYS/#", "$SYS/x"},
		},
		{
			name: "an empty client identifier", options: Options{Everyone: Rules{Subscribe: []string{"a/%c/#"}}}, id: anonymous,
			notSub: []string{"a//x"},
		},
		{
			name: "a placeholder within a level", options: Options{Everyone: Rules{Publish: []string{"dev-%c.%u/x"}}}, id: alice, client: "7",
			publish: []string{"dev-7.alice/x"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newPolicy(t, c.options).For(c.id, c.client)
			for _, name := range c.publish {
				if !g.MayPublish(name) {
					t.Errorf("MayPublish(%q) = false", name)
				}
			}
			for _, name := range c.not {
				if g.MayPublish(name) {
					t.Errorf("MayPublish(%q) = true", name)
				}
			}
			for _, filter := range c.subscribe {
				if !g.MaySubscribe(filter) {
					t.Errorf("MaySubscribe(%q) = false", filter)
				}
				if name := strings.NewReplacer("+", "x", "/#", "").Replace(filter); filter != "#" && !g.MayReceive(name) {
					t.Errorf("MayReceive(%q) = false", name)
				}
			}
			for _, filter := range c.notSub {
				if g.MaySubscribe(filter) {
					t.Errorf("MaySubscribe(%q) = true", filter)
				}
			}
		})
	}
}

func TestBadRulesAreNamed(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
		want    []string // parts of the error
	}{
		{"filter", Options{Users: map[string]Rules{"bob": {Publish: []string{"a", "a/#/b"}}}}, []string{`user "bob": publish: "a/#/b"`, "not a topic filter"}},
		{"both lists", Options{Anonymous: Rules{Publish: []string{""}, Subscribe: []string{"a+"}}}, []string{`anonymous: publish: ""`, `anonymous: subscribe: "a+"`}},
		{"placeholder", Options{Everyone: Rules{Subscribe: []string{"a/%x"}}}, []string{`everyone: subscribe: "a/%x"`, "%c (client identifier)"}},
		{"percent at the end", Options{Everyone: Rules{Subscribe: []string{"a/%"}}}, []string{`"a/%"`, "%%"}},
		{"shared", Options{Everyone: Rules{Subscribe: []string{"$share/g/a"}}}, []string{`"$share/g/a"`, "leave out $share"}},
		{"empty user", Options{Users: map[string]Rules{"": {}}}, []string{"empty name"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.options)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q has no %q", err, part)
				}
			}
			if n := strings.Count(err.Error(), "everyone"); n > 1 {
				t.Errorf("error names everyone %d times: %v", n, err)
			}
		})
	}
}

func TestClientsWithoutPlaceholdersShareAGrant(t *testing.T) {
	p := newPolicy(t, Options{Everyone: Rules{Publish: []string{"a"}}, Users: map[string]Rules{"bob": {Publish: []string{"%c"}}}})
	if p.For(Identity{User: "x"}, "1") != p.For(Identity{User: "y"}, "2") {
		t.Error("two users without rules of their own have two grants")
	}
	if p.For(Identity{User: "bob"}, "1") == p.For(Identity{User: "bob"}, "2") {
		t.Error("two client identifiers share a grant although a rule names them")
	}
}

func TestChecksDoNotAllocate(t *testing.T) {
	p := newPolicy(t, Options{Everyone: Rules{Publish: []string{"a/+/c", "b/#"}, Subscribe: []string{"a/%c/+", "b/#"}}})
	for _, g := range []*Grant{p.For(Identity{User: "x"}, "1"), newPolicy(t, Options{}).For(Identity{}, "1")} {
		if n := testing.AllocsPerRun(100, func() {
			g.MayPublish("b/c/d")
			g.MaySubscribe("a/1/+")
			g.MayReceive("nothing/of/this")
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// TestCoversIsExact compares Covers with the sets of topics that filters match, for all filters
// of up to four levels over an alphabet in which every case occurs. A topic of five levels, with
// a level that no filter has, tells any two filters apart that differ at all.
func TestCoversIsExact(t *testing.T) {
	names := combinations([]string{"", "a", "b", "$x"}, 5)
	names = slices.DeleteFunc(names, func(s string) bool { return s == "" })
	var filters []string
	for _, f := range combinations([]string{"", "a", "$x", "+"}, 3) {
		filters = append(filters, f, f+"/#")
	}
	filters = slices.DeleteFunc(append(filters, "#"), func(s string) bool { return s == "" })
	sets := make([][]uint64, len(filters))
	for i, f := range filters {
		sets[i] = make([]uint64, len(names)/64+1)
		for j, n := range names {
			if topic.Matches(f, n) {
				sets[i][j/64] |= 1 << (j % 64)
			}
		}
	}
	for i, allowed := range filters {
		for j, asked := range filters {
			want := true
			for w, set := range sets[j] {
				want = want && set&^sets[i][w] == 0
			}
			if got := Covers(allowed, asked); got != want {
				t.Errorf("Covers(%q, %q) = %v, want %v", allowed, asked, got, want)
			}
		}
	}
}

// combinations returns all topics of 1 to max levels.
func combinations(levels []string, max int) []string {
	all := slices.Clone(levels)
	for begin, n := 0, 1; n < max; n++ {
		end := len(all)
		for _, t := range all[begin:end] {
			for _, l := range levels {
				all = append(all, t+"/"+l)
			}
		}
		begin = end
	}
	return all
}

func TestWhatIsCoveredMayBeReceived(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	levels := []string{"", "a", "b", "ä", "$x", "+", "+"}
	random := func(from []string, multi bool) string {
		all := make([]string, 1+g.IntN(6))
		for i := range all {
			all[i] = from[g.IntN(len(from))]
		}
		if multi && g.IntN(3) == 0 {
			all[len(all)-1] = "#"
		}
		return strings.Join(all, "/")
	}
	covered := 0
	for range 200_000 {
		allowed, asked := random(levels, true), random(levels, true)
		if allowed == "" || asked == "" || !Covers(allowed, asked) {
			continue
		}
		covered++
		name := []string{}
		for l := range topic.Levels(asked) {
			switch l {
			case "+":
				l = random(levels[:5], false)
				l, _, _ = strings.Cut(l, "/")
			case "#":
				l = random(levels[:5], false)
			}
			name = append(name, l)
		}
		if n := strings.Join(name, "/"); topic.Matches(asked, n) && !topic.Matches(allowed, n) {
			t.Fatalf("%q is said to cover %q, but does not match %q", allowed, asked, n)
		}
	}
	if covered < 1000 {
		t.Errorf("only %d pairs were covered", covered)
	}
}

func BenchmarkMayPublish(b *testing.B) {
	for _, n := range []int{0, 1, 20} {
		b.Run(fmt.Sprintf("%d_rules", n), func(b *testing.B) {
			var o Options
			for i := range n {
				o.Everyone.Publish = append(o.Everyone.Publish, fmt.Sprintf("factory/line-%d/+/value", i))
			}
			p, err := New(o)
			if err != nil {
				b.Fatal(err)
			}
			g := p.For(Identity{Anonymous: true}, "c")
			name := fmt.Sprintf("factory/line-%d/machine/value", max(0, n-1)) // the last rule's
			b.ReportAllocs()
			for b.Loop() {
				if !g.MayPublish(name) {
					b.Fatal("refused")
				}
			}
		})
	}
}
