package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"dunlin/testbench/load"
)

// serve serves the fan-out without a broker.
func serve(t *testing.T) string {
	t.Helper()
	b, err := load.NewBare("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { // ends with ctx
		if err := b.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wait.Wait() })
	return b.Address().String()
}

// few are options for a run of a moment.
var few = []string{"--publishers", "2", "--subscribers", "5", "--topics", "3", "--window", "10", "--warmup", "10ms", "--measure", "50ms"}

func TestARunWritesATableAndJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result.json")
	var out, diag bytes.Buffer
	args := append(append([]string{"fanout", "--json", file}, few...), serve(t))
	if code := run(t.Context(), args, &out, &diag); code != 0 {
		t.Fatalf("status %d: %s%s", code, out.String(), diag.String())
	}
	for _, want := range []string{"10 in flight", "verdict", "ok"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, out.String())
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r load.Result
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if r.Scenario != "fanout" || r.Options.Subscribers != 5 || r.Total == 0 || r.Command != "dunlin-bench "+strings.Join(args, " ") {
		t.Errorf("the file has scenario %q, %d subscribers, %d deliveries, command %q", r.Scenario, r.Options.Subscribers, r.Total, r.Command)
	}
}

func TestALossIsStatusOne(t *testing.T) {
	// What makes no deliveries of the messages of QoS 1 does not acknowledge them, either.
	var out, diag bytes.Buffer
	args := append(append([]string{"fanout", "--settle", "100ms", "--pub-qos", "1"}, few...), serve(t))
	if code := run(t.Context(), args, &out, &diag); code != 1 || !strings.Contains(out.String(), "WRONG: ") ||
		!strings.Contains(out.String(), "were not acknowledged") {
		t.Errorf("status %d, want 1 and a verdict: %s%s", code, out.String(), diag.String())
	}
}

func TestWrongUseIsStatusTwo(t *testing.T) {
	for _, args := range [][]string{
		nil,
		{"fanuot"},
		{"fanout", "--pairs", "3"},
		{"fanout", "--qos", "3"},
		{"fanout", "--version", "6"},
		{"fanout", "a:1", "b:2"},
		{"board", "a:1", "b:2"},
		{"bare", "--loops", "2"},
	} {
		var out, diag bytes.Buffer
		if code := run(t.Context(), args, &out, &diag); code != 2 || !strings.Contains(diag.String(), "dunlin-bench: ") {
			t.Errorf("%q: status %d, want 2 and what is wrong: %s", args, code, diag.String())
		}
	}
}

func TestHelpIsStatusZero(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"--help"}, {"version"}, {"fanin", "--help"}, {"board", "-h"}} {
		var out, diag bytes.Buffer
		if code := run(t.Context(), args, &out, &diag); code != 0 || out.Len()+diag.Len() == 0 {
			t.Errorf("%q: status %d, want 0 and a text", args, code)
		}
	}
}

func TestEveryScenarioHasTheFlagsItNames(t *testing.T) {
	for _, s := range load.Scenarios {
		var out, diag bytes.Buffer
		run(t.Context(), []string{s.Name, "--help"}, &out, &diag)
		for _, name := range s.Flags {
			if !strings.Contains(diag.String(), "-"+name) {
				t.Errorf("%s --help does not have --%s", s.Name, name)
			}
		}
	}
}
