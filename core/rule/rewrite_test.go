package rule

import (
	"strings"
	"testing"

	"dunlin/core/topic"
)

func rewrite(from, to string) Rewrite {
	return Rewrite{From: from, To: to, Publish: true, Subscribe: true}
}

func TestRewriteCapturesLevels(t *testing.T) {
	tests := []struct {
		name     string
		from, to string
		topic    string
		want     string // "" = not taken
	}{
		{"one level", "old/+/temp", "new/$1/temp", "old/7/temp", "new/7/temp"},
		{"levels change places", "+/dev/+/#", "dev/$2/$1/#", "a/dev/b/c/d", "dev/b/a/c/d"},
		{"the same one twice", "a/+", "b/$1/$1", "a/x", "b/x/x"},
		{"a level is left out", "a/+/#", "b/#", "a/x/y", "b/y"},
		{"the rest is left out", "a/+/#", "b/$1", "a/x/y/z", "b/x"},
		{"an empty level is a level", "a/+/b", "c/$1/d", "a//b", "c//d"},
		{"the parent level of a hash", "a/#", "b/#", "a", "b"},
		{"fixed topic", "a/b", "c", "a/b", "c"},
		{"a dollar sign that is no capture", "a/+", "$x/$1", "a/b", "$x/b"},
		{"no match", "old/+/temp", "new/$1/temp", "old/7/temp/x", ""},
		{"shorter than the rule", "old/+/temp", "new/$1/temp", "old/7", ""},
		{"nothing would remain", "a/#", "#", "a", ""},
		{"nothing would remain of an empty level", "+/b", "$1", "/b", ""},
		{"dollar topics are not everything", "#", "all/#", "$SYS/uptime", ""},
		{"dollar topics have no first plus", "+/a", "b/$1", "$x/a", ""},
		{"a topic of the broker cannot be made of the rest", "a/#", "#", "a/$SYS/x", ""},
		{"a topic of the broker cannot be made of a capture", "a/+/+", "$1/$2", "a/$delayed/5", ""},
		{"too long afterwards", "a/#", "bbb/#", "a/" + strings.Repeat("x", topic.MaxLength-3), ""},

		// Topic Filters.
		{"filter with a plus where the rule has one", "old/+/temp", "new/$1/temp", "old/+/temp", "new/+/temp"},
		{"filter with a hash where the rule has one", "old/+/#", "new/$1/#", "old/7/#", "new/7/#"},
		{"filter with a plus in the rest", "old/#", "new/#", "old/+/x", "new/+/x"},
		{"filter that is wider at a level", "old/7/temp", "new/7/temp", "old/+/temp", ""},
		{"filter that is wider in depth", "old/+/temp", "new/$1/temp", "old/#", ""},
		{"filter of everything", "old/#", "new/#", "#", ""},
		{"shared filter cannot be made of the rest", "a/#", "#", "a/$share/g/x", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := rewrite(tt.from, tt.to)
			if err := r.Validate(); err != nil {
				t.Fatal(err)
			}
			got, ok := r.Apply(tt.topic)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("Apply(%q) = %q, %v; want %q", tt.topic, got, ok, tt.want)
			}
		})
	}
}

func TestRewriteRulesThatCannotWorkAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to string
		want     string
	}{
		{"no to", "a/#", "", "to is missing"},
		{"no from", "", "a", "from is missing"},
		{"from that is no filter", "a/b+", "c", "no topic filter"},
		{"capture that is not there", "a/+", "b/$2", `has $2, but from "a/+" has 1 "+"`},
		{"capture with something before it", "a/+", "b/x$1", "stand for whole levels"},
		{"capture with something behind it", "a/+", "b/$1x", "stand for whole levels"},
		{"capture number 0", "a/+", "b/$0", "from $1 on"},
		{"plus in to", "a/+", "b/+", "write $1"},
		{"hash in to only", "a/+", "b/#", "end both"},
		{"hash inside of to", "a/#", "#/b", "wildcard inside"},
		{"from $SYS", "$SYS/#", "sys/#", "not rewritten"},
		{"from a shared subscription", "$share/g/a", "b", "not rewritten"},
		{"from $delayed", "$delayed/+/a", "b", "not rewritten"},
		{"to $SYS", "a/#", "$SYS/#", "nothing can be rewritten to"},
		{"to $delayed", "a/#", "$delayed/5/#", "nothing can be rewritten to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := rewrite(tt.from, tt.to).Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if err := (Rewrite{From: "a", To: "b"}).Validate(); err == nil || !strings.Contains(err.Error(), "for nothing") {
		t.Errorf("a rule for neither publish nor subscribe: %v", err)
	}
	if err := (Rewrites{rewrite("a", "b"), rewrite("", "b")}).Validate(); err == nil || !strings.Contains(err.Error(), "rule 2") {
		t.Errorf("a list with a bad rule: %v", err)
	}
}

func TestTheFirstRewriteDecidesOnce(t *testing.T) {
	rules := Rewrites{
		{From: "a/#", To: "b/#", Publish: true},
		{From: "a/#", To: "c/#", Subscribe: true},
		rewrite("a/x", "d"),
		rewrite("b/#", "a/#"),
	}
	if got, ok := rules.Publish("a/x"); got != "b/x" || !ok {
		t.Errorf("publish: got %q, %v", got, ok)
	}
	if got, ok := rules.Subscribe("a/x"); got != "c/x" || !ok {
		t.Errorf("subscribe: got %q, %v", got, ok)
	}
	if got, ok := rules.Publish("e"); ok {
		t.Errorf("no rule takes e, got %q", got)
	}
}

// What a rule makes of a filter is a filter, and of a name a name, and for every name that the
// filter matches the same holds afterwards: no subscription misses what the same rule renames.
func FuzzRewriteKeepsNamesAndFilters(f *testing.F) {
	f.Add("a/+/#", "b/$1/#", "a/+/x/#", "a/y/x/z")
	f.Add("+/+", "$2/$1", "a/+", "a/b")
	f.Add("#", "x/#", "+/#", "/")
	f.Add("a/#", "#", "a/+", "a/$SYS")
	f.Add("+", "$1", "", "")
	f.Fuzz(func(t *testing.T, from, to, filter, name string) {
		r := rewrite(from, to)
		if r.Validate() != nil || topic.CheckFilter([]byte(filter)) != nil || topic.CheckName([]byte(name)) != nil {
			return // nothing that the configuration or the broker lets in
		}
		newFilter, filterTaken := r.Apply(filter)
		if filterTaken && topic.CheckFilter([]byte(newFilter)) != nil {
			t.Errorf("%q became %q, which is no filter", filter, newFilter)
		}
		newName, nameTaken := r.Apply(name)
		if nameTaken && topic.CheckName([]byte(newName)) != nil {
			t.Errorf("%q became %q, which is no name", name, newName)
		}
		if Reserved(newFilter) || Reserved(newName) {
			t.Errorf("%q and %q became %q and %q", filter, name, newFilter, newName)
		}
		if topic.Matches(filter, name) && filterTaken && nameTaken && !topic.Matches(newFilter, newName) {
			t.Errorf("%q matches %q, but %q not %q", filter, name, newFilter, newName)
		}
	})
}
