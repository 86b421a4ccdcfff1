package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin/testbench/load"
)

// sample is a case in which dunlin takes a tenth of what mosquitto does, and mochi fails.
func sample() *measured {
	m := &measured{
		Name: "sample", Words: "a sample",
		Runs: map[string][]figures{
			"dunlin":    {{"cpu_us": 9, "lost": 0}, {"cpu_us": 1, "lost": 0}, {"cpu_us": 1.1, "lost": 0}},
			"mosquitto": {{"cpu_us": 10}, {"cpu_us": 12}, {"cpu_us": 11}},
		},
		key: &benchCase{name: "sample", columns: []string{"cpu_us", "lost"}, must: []must{
			cpu(0.2), cpu(0.05),
			{figure: "cpu_us", of: "mosquitto", factor: 0.05, atLeast: true},
			{figure: "no_such", of: "mosquitto", factor: 1},
			{figure: "cpu_us", of: "nats-server", factor: 1},
			{figure: "cpu_us", factor: 1.2},
			{figure: "cpu_us", factor: 1},
		}},
	}
	m.note("mochi", "does not start\nand more")
	m.finish()
	return m
}

func TestMediansDecide(t *testing.T) {
	m := sample()
	if got := m.Median["dunlin"]["cpu_us"]; got != 1.1 {
		t.Errorf("the median is %v, want 1.1", got)
	}
	if got := m.Ratio["mosquitto"]["cpu_us"]; got < 0.0999 || got > 0.1001 {
		t.Errorf("the ratio is %v, want 0.1", got)
	}
	want := []bool{true, false, true, false, true, false} // what was not measured does not hold; who did not take part does not count
	if len(m.Bounds) != len(want) {
		t.Fatalf("%d bounds, want %d: %+v", len(m.Bounds), len(want), m.Bounds)
	}
	for i, b := range m.Bounds {
		if b.Holds != want[i] {
			t.Errorf("bound %d, %+v: holds %v, want %v", i, b, b.Holds, want[i])
		}
	}
}

func TestTheMedianOfAnEvenNumberIsBetweenTheTwoInTheMiddle(t *testing.T) {
	if got := median([]figures{{"x": 1}, {"x": 8}, {"x": 4}, {"x": 2}}, "x"); got != 3 {
		t.Errorf("got %v, want 3", got)
	}
}

func TestTheReportSaysWhatHoldsAndWhatFailed(t *testing.T) {
	m := sample()
	m.fault("dunlin", []string{"3 deliveries are lost"})
	r := &report{
		Commit: "abc", Machine: load.Machine{Kernel: "6.1"}, Cases: []*measured{m},
		Brokers: []brokerVersion{{"dunlin", "1", ""}, {"mosquitto", "2", ""}, {"mochi", "3", ""}},
	}
	var b bytes.Buffer
	if err := r.text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| dunlin | 1.1 | 0 |", "| ratio to mosquitto | 0.1 |", "at most 0.2, is 0.1: holds", "at most 0.05, is 0.1: **does not hold**",
		"mochi: does not start.\n", "dunlin, wrong: 3 deliveries are lost", "Linux 6.1",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not have %q:\n%s", want, b.String())
		}
	}
	if err := r.faults(); err == nil || !strings.Contains(err.Error(), "sample: 3 deliveries are lost") {
		t.Errorf("error %v, want one for the loss", err)
	}
}

func TestTheGuardComparesWithTheNewestReport(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, old := range []*report{
		{Commit: "second", Time: at.Add(time.Hour), Guard: map[string]float64{"fanin": 2, "pairs": 10}, Bare: 0.1},
		{Commit: "first", Time: at, Guard: map[string]float64{"fanin": 9}, Bare: 0.1},
		{Commit: "third", Time: at.Add(2 * time.Hour)}, // has no guard
	} {
		if err := old.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	same := &report{Guard: map[string]float64{"fanin": 2.5, "pairs": 10, "storm": 1}}
	if err := same.compare(dir, 1.3, &b); err != nil {
		t.Errorf("25%% more is an error: %v", err)
	}
	if !strings.Contains(b.String(), "+25%") || !strings.Contains(b.String(), "new") {
		t.Errorf("it prints:\n%s", b.String())
	}
	worse := &report{Guard: map[string]float64{"fanin": 2.7, "pairs": 5}}
	if err := worse.compare(dir, 1.3, &b); err == nil || !strings.Contains(err.Error(), "fanin") || strings.Contains(err.Error(), "pairs") ||
		!strings.Contains(err.Error(), "second") {
		t.Errorf("error %v, want one that names fanin and the second report", err)
	}
}

func TestTheGuardWithoutAReportSaysSo(t *testing.T) {
	var b bytes.Buffer
	r := &report{Guard: map[string]float64{"fanin": 2}}
	if err := r.compare(t.TempDir(), 1.3, &b); err == nil || !strings.Contains(err.Error(), "make bench") {
		t.Errorf("error %v, want one that says how to get a report", err)
	}
	if !strings.Contains(b.String(), "fanin") {
		t.Errorf("the ratios are not printed: %q", b.String())
	}
}

func TestCasesAreWhole(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range cases {
		if seen[c.name] {
			t.Errorf("two cases are called %s", c.name)
		}
		seen[c.name] = true
		if c.words == "" || len(c.columns) == 0 {
			t.Errorf("%s has no words or no columns", c.name)
		}
		if c.start {
			continue
		}
		if load.Find(c.scenario) == nil || c.set == nil {
			t.Errorf("%s has no scenario %q", c.name, c.scenario)
		}
	}
	for _, name := range guarded {
		if !seen[name] {
			t.Errorf("%s is guarded and is no case", name)
		}
	}
}

func TestThreadsAreComparedInCasesThatExist(t *testing.T) {
	if got := len(threaded()); got != 4 {
		t.Errorf("%d cases, want 4", got)
	}
	if all := threads(); len(all) != 3 || all[0].name != "dunlin" {
		t.Errorf("%d brokers, the first is %s", len(all), all[0].name)
	}
	r := &report{Commit: "abc", Time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), name: "threads"}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "2026-11-01-abc-threads.md")); err != nil {
		t.Error(err)
	}
}

func TestBrokersAreConfiguredAsTheReportSays(t *testing.T) {
	// The text of the report speaks of the file, which has to be there.
	for _, b := range all("bin") {
		if strings.Contains(b.words, "/") {
			if _, err := os.Stat(filepath.Join("../..", b.words)); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
	}
}
