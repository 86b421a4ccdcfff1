package forward

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt")

// TestScripts plays testdata/*.txt: a line is an input, what follows it indented is what the
// forwarder asks for then. Lines starting with # are comments.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(script))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(script) {
				t.Errorf("%s: got\n%s", file, got)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	var out bytes.Buffer
	f := New(0, Options{Random: func() float64 { return 0.5 }})
	now := time.Duration(0)
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, " ") {
			continue
		}
		out.WriteString(line)
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		words := strings.Fields(line)
		num := func(i int) int {
			n, err := strconv.Atoi(words[i])
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return n
		}
		switch words[0] {
		case "new": // new AFTER MAX_IN_FLIGHT MAX_BYTES MAX_SPAN
			f = New(Seq(num(1)), Options{MaxInFlight: num(2), MaxBytes: num(3), MaxSpan: Seq(num(4)), MaxTries: 3, Random: func() float64 { return 0.5 }})
			continue
		case "offer": // offer FIRST-LAST QOS [dup] [received]
			var first, last Seq
			if _, err := fmt.Sscanf(words[1], "%d-%d", &first, &last); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			flags := strings.Join(words[3:], " ")
			for s := first; s <= last; s++ {
				f.Offer(Message{Seq: s, QoS: byte(num(2)), Size: 10, Dup: strings.Contains(flags, "dup"), Received: strings.Contains(flags, "received")})
			}
		case "connect": // connect present|lost WINDOW
			f.Connected(Link{SessionPresent: words[1] == "present", Window: num(2)})
		case "disconnect":
			fmt.Fprintf(&out, "  nothing behind %d\n", f.Disconnected())
		case "accept", "receive", "refuse", "later", "fail": // accept SEQ [CODE]
			v := map[string]Verdict{"accept": Accepted, "receive": Received, "refuse": Refused, "later": Later, "fail": Failed}[words[0]]
			o := Outcome{Seq: Seq(num(1)), Verdict: v}
			if len(words) > 2 {
				o.Code = byte(num(2))
			}
			f.Report(o, now)
		case "saved":
			f.Saved(Seq(num(1)))
		case "forgotten":
			f.Forgotten()
		case "expire":
			f.Expire(Seq(num(1)))
		case "advance":
			d, err := time.ParseDuration(words[1])
			if err != nil {
				t.Fatal(err)
			}
			now += d
		default:
			t.Fatalf("unknown input %q", line)
		}
		for {
			a, ok, wake := f.Next(now)
			if !ok {
				if wake != 0 {
					fmt.Fprintf(&out, "  wait %v\n", wake-now)
				}
				break
			}
			out.WriteString("  " + describe(a) + "\n")
		}
		after, n, size := f.Want(now)
		fmt.Fprintf(&out, "  in flight %d, want %d (%d bytes) behind %d\n", f.InFlight(), n, size, after)
		check(t, f)
	}
	return out.String()
}

func describe(a Action) string {
	switch a.Kind {
	case Send:
		s := fmt.Sprintf("send %d qos %d", a.Seq, a.Message.QoS)
		if a.Message.Dup {
			s += " dup"
		}
		if a.First {
			s += " first"
		}
		return s
	case Done:
		s := fmt.Sprintf("done %d %s", a.Seq, [...]string{"", "delivered", "expired", "refused"}[a.Result])
		if a.Code != 0 {
			s += fmt.Sprintf(" 0x%02x", a.Code)
		}
		return s
	}
	if a.Kind == Forget {
		return "forget"
	}
	return fmt.Sprintf("%s %d", [...]string{"", "send", "release", "save"}[a.Kind], a.Seq)
}

// check compares the sums that the forwarder keeps with the window.
func check(t *testing.T, f *Forwarder) {
	t.Helper()
	open, size := 0, 0
	for i, it := range f.window {
		size += it.Size
		if it.phase != waiting {
			open++
		}
		if i > 0 && f.window[i-1].Seq >= it.Seq {
			t.Fatalf("window not in order at %d", it.Seq)
		}
		if i < f.next && (it.phase == waiting || it.phase == releasing) {
			t.Fatalf("message %d waits before next", it.Seq)
		}
	}
	if open != f.open || size != f.bytes {
		t.Fatalf("open %d, bytes %d; the window has %d, %d", f.open, f.bytes, open, size)
	}
}

func TestBackoffGrowsWithJitterAndIsBounded(t *testing.T) {
	b := Backoff{Min: time.Second, Max: 60 * time.Second}
	tests := []struct {
		name   string
		prev   time.Duration
		random float64
		want   time.Duration
	}{
		{"first, low", 0, 0, time.Second},
		{"first, high", 0, 0.999999999, 3 * time.Second},
		{"later, middle", 9 * time.Second, 0.5, 14 * time.Second},
		{"later, low is the minimum", 50 * time.Second, 0, time.Second},
		{"never above the maximum", 50 * time.Second, 0.9, 60 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := b.Next(tt.prev, tt.random).Round(time.Millisecond); got != tt.want {
				t.Errorf("Next(%v, %v) = %v; want %v", tt.prev, tt.random, got, tt.want)
			}
		})
	}
}

func TestBackoffValidateNamesTheField(t *testing.T) {
	tests := []struct {
		name string
		b    Backoff
		want string // "" = valid
	}{
		{"default", DefaultBackoff, ""},
		{"no min", Backoff{Max: time.Second}, "min is 0s"},
		{"max below min", Backoff{Min: 2 * time.Second, Max: time.Second}, "max 1s is less than min 2s"},
		{"negative stable", Backoff{Min: 1, Max: 1, Stable: -1}, "stable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.b.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate() = %v; want %q", err, tt.want)
			}
		})
	}
}
