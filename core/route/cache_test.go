package route

import (
	"fmt"
	"testing"
)

func TestCacheSeesEveryChange(t *testing.T) {
	for _, filter := range []string{"a/b", "a/+", "a/#", "+/b", "#"} {
		t.Run(filter, func(t *testing.T) {
			x := New()
			c := NewCache(x, 4000)
			name := []byte("a/b")
			expect := func(when string, n int) {
				t.Helper()
				for range 2 { // computed, then remembered
					if got := len(c.Match(name)); got != n {
						t.Fatalf("%s: %d matches, want %d", when, got, n)
					}
				}
			}
			expect("at first", 0)
			x.Subscribe(filter, 1, Options{})
			expect("subscribed", 1)
			x.Subscribe(filter, 1, Options{QoS: 2})
			expect("changed", 1)
			if c.Match(name)[0].QoS != 2 {
				t.Error("the cache kept the old options")
			}
			x.Unsubscribe(filter, 1)
			expect("unsubscribed", 0)
		})
	}
}

func TestNoteLivesAsLongAsTheMatches(t *testing.T) {
	x := New()
	c := NewCache(x, 4000)
	name := []byte("a/b")
	r := c.Lookup(name)
	if r.Note != nil || r.Topic != "a/b" {
		t.Fatalf("new route is %+v", r)
	}
	r.Note = "checked"
	if c.Lookup(name).Note != "checked" {
		t.Error("the note was lost on a hit")
	}
	x.Unsubscribe("a/c", 1) // changes nothing
	if c.Lookup(name).Note != "checked" {
		t.Error("the note was lost without a change")
	}
	x.Subscribe("a/c", 1, Options{})
	if c.Lookup(name).Note != nil {
		t.Error("the note outlived a change of subscriptions")
	}
}

func TestAChangeElsewhereKeepsTheCache(t *testing.T) {
	x := New()
	c := NewCache(x, 4000)
	// Of 64 first levels at least one is in another stripe.
	kept := 0
	for i := range 64 {
		c.Lookup([]byte("a/b")).Note = "kept"
		x.Subscribe(fmt.Sprintf("other-%d/x", i), 1, Options{})
		if c.Lookup([]byte("a/b")).Note == "kept" {
			kept++
		}
	}
	if kept < 32 {
		t.Errorf("the cache was kept %d times of 64", kept)
	}
}

func TestCacheIsBounded(t *testing.T) {
	x := New()
	for i := range 500 {
		x.Subscribe("many/+", Receiver(i), Options{})
	}
	x.Subscribe("few/+", 1, Options{})
	c := NewCache(x, 4000)
	total := func() int {
		n := 0
		for _, half := range []map[string]*cached{c.young, c.old} {
			for _, r := range half {
				n += int(r.cost)
			}
		}
		return n
	}
	for i := range 20_000 {
		kind := "few"
		if i%7 == 0 {
			kind = "many"
		}
		want := map[string]int{"few": 1, "many": 500}[kind]
		if got := len(c.Match(fmt.Appendf(nil, "%s/%d", kind, i))); got != want {
			t.Fatalf("%d matches, want %d", got, want)
		}
		if n := total(); n > 4000 {
			t.Fatalf("%d references after %d topics, the bound is 4000", n, i)
		}
	}
}

func TestWhatIsAskedForOftenStays(t *testing.T) {
	x := New()
	x.Subscribe("#", 1, Options{})
	c := NewCache(x, 8000)
	c.Lookup([]byte("hot")).Note = "seen"
	for i := range 10_000 {
		c.Lookup(fmt.Appendf(nil, "cold/%d", i))
		if i%50 == 0 && c.Lookup([]byte("hot")).Note != "seen" {
			t.Fatalf("the hot topic was evicted after %d others", i)
		}
	}
}

func TestARouteOverTheBoundIsKeptAlone(t *testing.T) {
	x := New()
	for i := range 1000 {
		x.Subscribe("all/#", Receiver(i), Options{})
	}
	c := NewCache(x, 100)
	one, two := []byte("all/1"), []byte("all/2")
	c.Lookup(one).Note = "kept"
	c.Lookup([]byte("small"))
	if r := c.Lookup(one); r.Note != "kept" || len(r.Hits) != 1000 {
		t.Errorf("route has note %v and %d matches", r.Note, len(r.Hits))
	}
	c.Lookup(two)
	if r := c.Lookup(one); r.Note != nil || len(r.Hits) != 1000 {
		t.Errorf("two large routes were kept: note %v, %d matches", r.Note, len(r.Hits))
	}
	for i := range 999 {
		x.Unsubscribe("all/#", Receiver(i))
	}
	if got := len(c.Match(one)); got != 1 || c.large != nil {
		t.Errorf("%d matches, large %v after the receivers went", got, c.large)
	}
}
