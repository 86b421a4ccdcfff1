package rule

import (
	"strings"
	"testing"
)

func TestApplyRemapsThePrefix(t *testing.T) {
	tests := []struct {
		name     string
		from, to string
		topic    string
		want     string // "" = not taken
	}{
		{"no to keeps the topic", "plant/#", "", "plant/a/temp", "plant/a/temp"},
		{"prefix in front", "plant/#", "sites/a/plant/#", "plant/b/temp", "sites/a/plant/b/temp"},
		{"prefix exchanged", "plant/#", "p/#", "plant/b", "p/b"},
		{"prefix taken away", "plant/#", "#", "plant/b/c", "b/c"},
		{"the parent level of a hash", "plant/#", "sites/a/#", "plant", "sites/a"},
		{"an empty last level is a level", "plant/#", "sites/a/#", "plant/", "sites/a/"},
		{"nothing would remain", "plant/#", "#", "plant", ""},
		{"nothing would remain of an empty level", "plant/#", "#", "plant/", ""},
		{"everything", "#", "sites/a/#", "x/y", "sites/a/x/y"},
		{"everything starting with an empty level", "#", "sites/a/#", "/x", "sites/a//x"},
		{"plus before the hash", "line/+/raw/#", "all/#", "line/7/raw/a/b", "all/a/b"},
		{"fixed topic", "line/+/alarm", "alarms", "line/7/alarm", "alarms"},
		{"fixed topic from a hash", "line/#", "lines", "line/7/alarm", "lines"},
		{"no match", "plant/#", "p/#", "plants/b", ""},
		{"dollar topics are not everything", "#", "sites/a/#", "$SYS/uptime", ""},
		{"dollar topics by name", "$SYS/#", "sites/a/sys/#", "$SYS/uptime", "sites/a/sys/uptime"},
		{"too long afterwards", "#", "sites/a/#", strings.Repeat("x", 65530), ""},
		{"leading slash in to", "a/#", "/b/#", "a/c", "/b/c"},
		{"empty first level in to", "a/#", "/#", "a/c", "/c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Rule{From: tt.from, To: tt.to}
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

func TestValidateSaysWhatToDo(t *testing.T) {
	tests := []struct {
		name string
		rule Rule
		want string
	}{
		{"nothing", Rule{}, "from is missing"},
		{"hash in the middle", Rule{From: "a/#/b"}, "no topic filter"},
		{"plus inside a level", Rule{From: "a/b+"}, "no topic filter"},
		{"shared", Rule{From: "$share/g/a"}, "leave out $share"},
		{"qos", Rule{From: "a", QoS: 3}, "must be 0, 1 or 2"},
		{"plus in to", Rule{From: "a/#", To: "b/+/#"}, "wildcard inside"},
		{"hash in to only", Rule{From: "a/+", To: "b/#"}, "end both"},
		{"hash inside to", Rule{From: "a/#", To: "b/#/c"}, "wildcard inside"},
		{"hash glued to a level", Rule{From: "a/#", To: "b#"}, "wildcard inside"},
		{"NUL in to", Rule{From: "a", To: "b\x00"}, "cannot become a topic name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.rule.Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate() = %v; want something with %q", err, tt.want)
			}
		})
	}
}

func TestTheFirstRuleOfASetDecides(t *testing.T) {
	s := Set{
		{From: "plant/alarm/#", To: "alarms/#", QoS: 2},
		{From: "plant/#", QoS: 1},
		{From: "plant/#", To: "never/#", QoS: 0},
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if got, qos, ok := s.Apply("plant/alarm/7"); got != "alarms/7" || qos != 2 || !ok {
		t.Errorf("alarm: %q, %d, %v", got, qos, ok)
	}
	if got, qos, ok := s.Apply("plant/temp"); got != "plant/temp" || qos != 1 || !ok {
		t.Errorf("temp: %q, %d, %v", got, qos, ok)
	}
	if _, _, ok := s.Apply("office/temp"); ok {
		t.Error("office/temp was taken")
	}
	if got := s.Filters(); len(got) != 2 || got[0] != "plant/alarm/#" || got[1] != "plant/#" {
		t.Errorf("Filters() = %q", got)
	}
	if err := append(s, Rule{From: "a#"}).Validate(); err == nil || !strings.HasPrefix(err.Error(), "rule 4: ") {
		t.Errorf("Validate() = %v; want the number of the rule", err)
	}
}

func TestApplyWithoutRemapDoesNotAllocate(t *testing.T) {
	s := Set{{From: "a/#"}, {From: "plant/#"}}
	if n := testing.AllocsPerRun(100, func() { s.Apply("plant/a/temp") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
