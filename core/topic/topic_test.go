package topic

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// bothChecks are faults and non-faults that a name and a filter share.
var bothChecks = []struct {
	name  string
	topic string
	want  error
}{
	{"one character", "a", nil},
	{"levels", "site/7/temperature", nil},
	{"a separator alone is two empty levels", "/", nil},
	{"leading, trailing and doubled separators", "/a//b/", nil},
	{"space and case", "Accounts payable/Ä", nil},
	{"dollar", "$SYS/broker", nil},
	{"exactly eight bytes", "abcdefgh", nil},
	{"control characters pass", "a\x01\x1F\x7F", nil},
	{"byte order mark is kept [MQTT-1.5.4-3]", "\uFEFFa", nil},
	{"non-characters pass", "a\uFFFE\uFFFF", nil},
	{"four-byte characters", "𪛔/" + "\U0010FFFF", nil},
	{"longest", strings.Repeat("a", MaxLength), nil},
	{"longest of separators", strings.Repeat("/", MaxLength), nil},

	{"empty [MQTT-4.7.3-1]", "", ErrEmpty},
	{"too long [MQTT-4.7.3-3]", strings.Repeat("a", MaxLength+1), ErrTooLong},
	{"null alone [MQTT-4.7.3-2]", "\x00", ErrNull},
	{"null in a short topic [MQTT-1.5.4-2]", "a\x00b", ErrNull},
	{"null in a long topic [MQTT-1.5.4-2]", "site/7/temperature\x00", ErrNull},
	{"first surrogate [MQTT-1.5.4-1]", "a\xED\xA0\x80", ErrNotUTF8},
	{"last surrogate [MQTT-1.5.4-1]", "a\xED\xBF\xBF", ErrNotUTF8},
	{"surrogate pair [MQTT-1.5.4-1]", "\xED\xA0\x81\xED\xB0\x80", ErrNotUTF8},
	{"overlong separator [MQTT-1.5.4-1]", "a\xC0\xAFb", ErrNotUTF8},
	{"overlong null [MQTT-1.5.4-1]", "a\xC0\x80b", ErrNotUTF8},
	{"overlong in three bytes [MQTT-1.5.4-1]", "a\xE0\x80\xAF", ErrNotUTF8},
	{"beyond U+10FFFF [MQTT-1.5.4-1]", "\xF4\x90\x80\x80", ErrNotUTF8},
	{"five-byte form [MQTT-1.5.4-1]", "\xF8\x88\x80\x80\x80", ErrNotUTF8},
	{"stray continuation [MQTT-1.5.4-1]", "abcdefgh\x80", ErrNotUTF8},
	{"cut character [MQTT-1.5.4-1]", "abcdefgh\xE2\x82", ErrNotUTF8},
}

func TestNameAndFilterShareTheirStringRules(t *testing.T) {
	for _, tt := range bothChecks {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckName([]byte(tt.topic)); got != tt.want {
				t.Errorf("CheckName = %v, want %v", got, tt.want)
			}
			if got := CheckFilter([]byte(tt.topic)); got != tt.want {
				t.Errorf("CheckFilter = %v, want %v", got, tt.want)
			}
			if got, want := ValidString([]byte(tt.topic)), tt.want != ErrNull && tt.want != ErrNotUTF8; got != want {
				t.Errorf("ValidString = %v, want %v", got, want)
			}
		})
	}
}

func TestNameHasNoWildcard(t *testing.T) {
	for _, tt := range []struct{ name, topic string }{
		{"single level [MQTT-3.3.2-2]", "+"},
		{"multi level [MQTT-4.7.0-1]", "#"},
		{"inside a level", "a+b"},
		{"at the end of a long topic", "site/7/temperature/#"},
		{"in the middle of a long topic", "site/7/+/temperature"},
		{"behind other characters than ASCII", "größe/+"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckName([]byte(tt.topic)); got != ErrWildcard {
				t.Errorf("CheckName(%q) = %v, want %v", tt.topic, got, ErrWildcard)
			}
		})
	}
}

func TestFilterWildcardsAreWholeLevels(t *testing.T) {
	for _, tt := range []struct {
		filter string
		want   error
	}{
		{"#", nil},
		{"+", nil},
		{"+/+", nil},
		{"/+", nil},
		{"+/", nil},
		{"sport/tennis/+", nil},
		{"sport/tennis/#", nil},
		{"+/tennis/#", nil},
		{"größe/+/#", nil},
		{"$SYS/#", nil},
		{"sport/tennis#", ErrMulti},
		{"sport/tennis/#/ranking", ErrMulti},
		{"##", ErrMulti},
		{"#/", ErrMulti},
		{"a/#b", ErrMulti},
		{"+#", ErrSingle},
		{"sport+", ErrSingle},
		{"sport/+tennis", ErrSingle},
		{"sport/tennis+/a", ErrSingle},
		{"++", ErrSingle},
		{"größe+", ErrSingle},
	} {
		t.Run(tt.filter, func(t *testing.T) {
			if got := CheckFilter([]byte(tt.filter)); got != tt.want {
				t.Errorf("CheckFilter(%q) = %v, want %v", tt.filter, got, tt.want)
			}
		})
	}
}

// The fast path must find every byte that is not plain, wherever it stands.
func TestPlainAgreesWithTheSlowPathOnEveryByte(t *testing.T) {
	for size := 1; size <= 24; size++ {
		for at := range size {
			for c := range 256 {
				b := bytes.Repeat([]byte{'a'}, size)
				b[at] = byte(c)
				want := c != 0 && c < 0x80 && c != '+' && c != '#'
				if got := plain(b); got != want {
					t.Fatalf("plain with 0x%02X at %d of %d = %v, want %v", c, at, size, got, want)
				}
			}
		}
	}
}

func TestSharedTakesTheFilterApart(t *testing.T) {
	long := strings.Repeat("a", MaxLength)
	for _, tt := range []struct {
		name        string
		filter      string
		group, rest string
		ok          bool
		err         error
	}{
		{"group and filter", "$share/consumer1/sport/tennis/+", "consumer1", "sport/tennis/+", true, nil},
		{"filter that begins with a separator", "$share/consumer1//finance", "consumer1", "/finance", true, nil},
		{"everything", "$share/g/#", "g", "#", true, nil},
		{"filter is itself in the shared form", "$share/g/$share/h/a", "g", "$share/h/a", true, nil},
		{"ordinary filter", "sport/tennis/+", "", "", false, nil},
		{"$share alone is an ordinary filter", "$share", "", "", false, nil},
		{"another $ name", "$shared/g/a", "", "", false, nil},
		{"queue is a group", "$queue/a/#", "$queue", "a/#", true, nil},
		{"$queue alone is an ordinary filter", "$queue", "", "", false, nil},
		{"queue of nothing", "$queue/", "", "", true, ErrShared},
		{"queue of a bad filter", "$queue/a+", "", "", true, ErrSingle},
		{"other case", "$SHARE/g/a", "", "", false, nil},
		{"empty group [MQTT-4.8.2-1]", "$share//a", "", "", true, ErrGroup},
		{"nothing behind the prefix [MQTT-4.8.2-1]", "$share/", "", "", true, ErrGroup},
		{"wildcard + in the group [MQTT-4.8.2-2]", "$share/g+/a", "", "", true, ErrGroup},
		{"wildcard # in the group [MQTT-4.8.2-2]", "$share/#", "", "", true, ErrGroup},
		{"no filter [MQTT-4.8.2-2]", "$share/g", "", "", true, ErrShared},
		{"empty filter [MQTT-4.8.2-2]", "$share/g/", "", "", true, ErrShared},
		{"bad filter", "$share/g/a/#/b", "", "", true, ErrMulti},
		{"null in the group", "$share/g\x00/a", "", "", true, ErrNull},
		{"group is not UTF-8", "$share/g\xFF/a", "", "", true, ErrNotUTF8},
		{"filter is not UTF-8", "$share/g/a\xFF", "", "", true, ErrNotUTF8},
		{"too long as a whole", "$share/g/" + long, "", "", true, ErrTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			group, rest, ok, err := Shared(tt.filter)
			if group != tt.group || rest != tt.rest || ok != tt.ok || err != tt.err {
				t.Errorf("Shared = %q, %q, %v, %v, want %q, %q, %v, %v",
					group, rest, ok, err, tt.group, tt.rest, tt.ok, tt.err)
			}
		})
	}
}

func TestMatchesFollowsTheLevels(t *testing.T) {
	for _, tt := range []struct {
		filter, name string
		want         bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "A", false},
		{"a", "a/", false},
		{"a/", "a", false},
		{"a/", "a/", true},
		{"/a", "a", false},
		{"a/b", "a/b/c", false},
		{"a/b/c", "a/b", false},
		{"sport/tennis/player1/#", "sport/tennis/player1", true}, // the parent level, too
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player2", false},
		{"sport/#", "sport", true},
		{"sport/#", "sport/", true},
		{"sport/#", "sports", false},
		{"#", "a", true},
		{"#", "/", true},
		{"#", "a/b/c", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+/tennis/#", "sport/tennis", true},
		{"+/#", "a", true},
		{"+/#", "/a/b", true},
		{"a/+/c", "a//c", true},
		{"a/+/c", "a/b/d", false},
		{"#", "$SYS/monitor", false}, // [MQTT-4.7.2-1]
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"+", "$SYS", false},
		{"$SYS/#", "$SYS/monitor", true},
		{"$SYS/#", "$SYS", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"a/#", "a/$SYS", true}, // only the first level is special
		{"a/+", "a/$SYS", true},
		{"", "a", false},
		{"a", "", false},
		{"", "", false},
	} {
		t.Run(tt.filter+" on "+tt.name, func(t *testing.T) {
			if got := Matches(tt.filter, tt.name); got != tt.want {
				t.Errorf("Matches(%q, %q) = %v, want %v", tt.filter, tt.name, got, tt.want)
			}
		})
	}
}

func TestLevelsYieldsEmptyOnes(t *testing.T) {
	for _, tt := range []struct {
		name string
		want []string
	}{
		{"a", []string{"a"}},
		{"a/b/c", []string{"a", "b", "c"}},
		{"/", []string{"", ""}},
		{"/a//b/", []string{"", "a", "", "b", ""}},
		{"", []string{""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := slices.Collect(Levels(tt.name)); !slices.Equal(got, tt.want) {
				t.Errorf("Levels(%q) = %q, want %q", tt.name, got, tt.want)
			}
		})
	}
	for level := range Levels("a/b/c") {
		if level != "a" {
			t.Errorf("Levels went on to %q after the caller had stopped", level)
		}
		break
	}
}

func TestNothingAllocates(t *testing.T) {
	name, bad := []byte("site/7/größe/temperature"), []byte("site/\xFF")
	filter := []byte("site/+/größe/#")
	shared, text := "$share/consumers/site/+/temperature", string(name)
	levels := 0
	allocs := testing.AllocsPerRun(100, func() {
		if CheckName(name) != nil || CheckFilter(filter) != nil || CheckName(bad) == nil {
			t.Fatal("a check gave the wrong answer")
		}
		if _, _, ok, err := Shared(shared); !ok || err != nil {
			t.Fatal("Shared gave the wrong answer")
		}
		if !Matches("site/+/größe/#", text) {
			t.Fatal("Matches gave the wrong answer")
		}
		for level := range Levels(text) {
			levels += len(level)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

// matchesByParts is Matches as one would write it with no thought of cost.
func matchesByParts(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	if strings.HasPrefix(name, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i == len(n) || level != "+" && level != n[i] {
			return false
		}
	}
	return len(f) == len(n)
}

func FuzzCheckName(f *testing.F) {
	for _, tt := range bothChecks {
		if len(tt.topic) < 100 {
			f.Add([]byte(tt.topic))
		}
	}
	f.Add([]byte("a/+/#"))
	f.Fuzz(func(t *testing.T, b []byte) {
		want := len(b) > 0 && len(b) <= MaxLength && utf8.Valid(b) && !bytes.ContainsAny(b, "\x00+#")
		if got := CheckName(b) == nil; got != want {
			t.Fatalf("CheckName(%q) passed: %v, want %v", b, got, want)
		}
		if want && CheckFilter(b) != nil {
			t.Fatalf("CheckFilter(%q) = %v on a valid name", b, CheckFilter(b))
		}
	})
}

func FuzzValidString(f *testing.F) {
	for _, s := range []string{"", "a", "plain text", "a+b/#", "größe", "\x00", "abcdefgh\x00", "\xED\xA0\x80", "\uFEFF"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := ValidString(b), utf8.Valid(b) && bytes.IndexByte(b, 0) < 0; got != want {
			t.Fatalf("ValidString(%q) = %v, want %v", b, got, want)
		}
	})
}

func FuzzCheckFilter(f *testing.F) {
	for _, s := range []string{"#", "+", "a/+/b/#", "a#", "+a", "//", "a/\x00", "\xED\xA0\x80"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := len(b) > 0 && len(b) <= MaxLength && utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
		parts := strings.Split(string(b), "/")
		for i, level := range parts {
			if level == "+" || level == "#" && i == len(parts)-1 {
				continue
			}
			want = want && !strings.ContainsAny(level, "+#")
		}
		if got := CheckFilter(b) == nil; got != want {
			t.Fatalf("CheckFilter(%q) passed: %v, want %v", b, got, want)
		}
	})
}

func FuzzShared(f *testing.F) {
	for _, s := range []string{"$share/g/a", "$share/g/", "$share//a", "$share/+/#", "$share", "$queue/a", "$queue/", "a/b", "$share/g/\xFF"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, filter string) {
		group, rest, ok, err := Shared(filter)
		queue := strings.HasPrefix(filter, "$queue/")
		if ok != (strings.HasPrefix(filter, "$share/") || queue) {
			t.Fatalf("Shared(%q) says shared: %v", filter, ok)
		}
		if !ok || err != nil {
			if group != "" || rest != "" || !ok && err != nil {
				t.Fatalf("Shared(%q) = %q, %q, %v, %v", filter, group, rest, ok, err)
			}
			return
		}
		if got := "$share/" + group + "/" + rest; got != filter && (!queue || got != "$share/"+filter) {
			t.Fatalf("Shared(%q) joins to %q", filter, got)
		}
		if CheckName([]byte(group)) != nil || CheckFilter([]byte(rest)) != nil {
			t.Fatalf("Shared(%q) passed group %q and filter %q", filter, group, rest)
		}
	})
}

func FuzzMatches(f *testing.F) {
	for _, s := range [][2]string{{"a/+/#", "a/b"}, {"#", "$SYS"}, {"+/+", "/"}, {"a/#", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, filter, name string) {
		got := Matches(filter, name)
		if CheckFilter([]byte(filter)) != nil || CheckName([]byte(name)) != nil {
			return // only that it came back
		}
		if want := matchesByParts(filter, name); got != want {
			t.Fatalf("Matches(%q, %q) = %v, want %v", filter, name, got, want)
		}
	})
}

func BenchmarkCheckName(b *testing.B) {
	for _, name := range []string{"a/b", "site/7/line/3/temperature", "site/7/größe/3/temperature", strings.Repeat("/", MaxLength)} {
		b.Run(fmt.Sprintf("%.10s_%d_bytes", name, len(name)), func(b *testing.B) {
			topic := []byte(name)
			b.ReportAllocs()
			b.SetBytes(int64(len(topic)))
			for b.Loop() {
				if CheckName(topic) != nil {
					b.Fatal("refused")
				}
			}
		})
	}
}

func BenchmarkMatches(b *testing.B) {
	slashes := strings.Repeat("/", MaxLength)
	for _, tt := range []struct{ name, filter, topic string }{
		{"plain", "site/7/line/3/temperature", "site/7/line/3/temperature"},
		{"wildcards", "site/+/line/#", "site/7/line/3/temperature"},
		{"65535_separators", slashes, slashes},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !Matches(tt.filter, tt.topic) {
					b.Fatal("no match")
				}
			}
		})
	}
}
