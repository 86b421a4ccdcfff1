package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"dunlin/testbench/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// TestDemoEndsWithNothingLost tells the story eight times as fast.
func TestDemoEndsWithNothingLost(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := &scene{devices: 4, rate: 500, speed: 8}
	err = s.play(t.Context(), t.TempDir(), newScreen(out))
	text, readErr := os.ReadFile(out.Name())
	if err != nil || readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, text)
	}
	last := regexp.MustCompile(`accepted ([\d,]+)   delivered ([\d,]+)   lost 0\n`).FindStringSubmatch(string(text))
	if last == nil || last[1] != last[2] || last[1] == "0" {
		t.Errorf("the demo ends with %q, want as many delivered as accepted and lost 0:\n%s", last, text)
	}
	if strings.Contains(string(text), "\x1b") {
		t.Errorf("what is no terminal got escape sequences:\n%q", text)
	}
}

func TestLineFitsTheTerminal(t *testing.T) {
	line := "\x1b[1mabc\x1b[0mdef"
	for _, test := range []struct {
		name    string
		columns int
		want    string
	}{
		{"fits", 6, line},
		{"is cut in the middle", 4, "\x1b[1mabc\x1b[0md\x1b[0m"},
		{"is cut within a style", 2, "\x1b[1mab\x1b[0m"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := cut(line, test.columns); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestNumbersAreGrouped(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := number(n); got != want {
			t.Errorf("%d is written %q, want %q", n, got, want)
		}
	}
}

func TestCurveFollowsTheValues(t *testing.T) {
	values := []uint64{0, 7, 14, 7, 0}
	if got, want := curve(values, 1), "▁▄█▄▁"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := curve(values, 1000), "▁▁▁▁▁"; got != want {
		t.Errorf("next to nothing looks like %s, want %s", got, want)
	}
}
