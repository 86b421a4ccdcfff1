package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// TestOurBrokerConforms runs each check once in each version; the statements that rest on it
// stand in its log.
func TestOurBrokerConforms(t *testing.T) {
	broker, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	g := target{address: broker.Spec.Address, ours: true}
	for _, s := range standards {
		seen := map[string]bool{}
		for _, st := range s.statements {
			if st.check == nil || seen[st.check.name()] {
				continue
			}
			name := st.check.name()
			seen[name] = true
			var rest []string
			for _, other := range s.statements {
				if other.check != nil && other.check.name() == name {
					rest = append(rest, other.id)
				}
			}
			t.Run(fmt.Sprintf("MQTT %s/%s", s.name, name), func(t *testing.T) {
				t.Parallel()
				switch r := g.run(t.Context(), s.version, st.check); {
				case r.outcome != passed:
					t.Errorf("%v: %s: %s", rest, r.outcome, r.detail)
				}
			})
		}
	}
}

// TestAnotherBrokerIsJudged sees that the suite can be pointed at a broker that it knows nothing
// about, and gets an answer for each check. mosquitto keeps to nearly all of them.
func TestAnotherBrokerIsJudged(t *testing.T) {
	broker, err := process.Mosquitto(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	results := target{address: broker.Spec.Address}.runAll(t.Context(), nil)
	held := 0
	for _, r := range results {
		if r.outcome == passed {
			held++
		}
	}
	if held < len(results)*3/4 {
		report(t.Output(), results, false)
		t.Errorf("%d of %d checks hold for mosquitto", held, len(results))
	}
}

func TestEveryRowHasAStatement(t *testing.T) {
	rows := map[int]bool{}
	for _, s := range standards {
		for _, st := range s.statements {
			rows[st.row] = true
		}
	}
	for row := 1; row <= lastRow; row++ {
		if rows[row] == slices.Contains(outside, row) {
			t.Errorf("row %d: has statements %v, stands outside %v", row, rows[row], !rows[row])
		}
	}
}

func TestEveryStatementStandsOnceAndHasATestOrAReason(t *testing.T) {
	for _, s := range standards {
		seen := map[string]bool{}
		for _, st := range s.statements {
			if seen[st.id] {
				t.Errorf("%s %s stands twice", s.name, st.id)
			}
			seen[st.id] = true
			have := 0
			for _, is := range []bool{st.check != nil, st.test != "", st.note != ""} {
				if is {
					have++
				}
			}
			if have != 1 || st.says == "" {
				t.Errorf("%s %s has %d of a check, a test and a reason, want one", s.name, st.id, have)
			}
			if st.note != "" && st.note != aboutClients {
				t.Errorf("%s %s binds servers and has no test: %s", s.name, st.id, st.note)
			}
		}
	}
	report(io.Discard, nil, true)
}

// TestEveryNumberOfTheStandardsIsThere compares the list with the numbers that there are.
func TestEveryNumberOfTheStandardsIsThere(t *testing.T) {
	for _, s := range standards {
		listed := map[string]bool{}
		for _, st := range s.statements {
			if strings.HasPrefix(st.id, "MQTT-") {
				id, _, _ := strings.Cut(st.id, " ")
				listed[id] = true
			}
		}
		left := ids(notYetThere[s.name])
		for _, id := range ids(s.numbers) {
			if listed[id] == slices.Contains(left, id) {
				t.Errorf("%s %s: listed %v, left out %v", s.name, id, listed[id], !listed[id])
			}
			delete(listed, id)
		}
		for id := range listed {
			t.Errorf("%s has no statement %s", s.name, id)
		}
	}
}

// TestNamedTestsExist sees that the Go tests that statements name are there.
func TestNamedTestsExist(t *testing.T) {
	functions := map[string]map[string]bool{} // of a package
	for _, s := range standards {
		for _, st := range s.statements {
			if st.test == "" {
				continue
			}
			pkg, name, _ := strings.Cut(st.test, ".")
			if functions[pkg] == nil {
				functions[pkg] = testsIn(t, filepath.Join("..", "..", pkg))
			}
			if !functions[pkg][name] {
				t.Errorf("%s %s: there is no test %s in %s", s.name, st.id, name, pkg)
			}
		}
	}
}

// testsIn returns the names of the test functions of a folder.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

func TestChecksAreChosenByNameAndByStatement(t *testing.T) {
	got, err := choose("qos3Closes,5.0:MQTT-3.12.4-1")
	want := map[job]bool{{packet.V5, "qos3Closes"}: true, {packet.V311, "qos3Closes"}: true, {packet.V5, "pingIsAnswered"}: true}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"nothing", "5.0:MQTT-9.9.9-9", "qos3Closes,"} {
		if _, err := choose(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
