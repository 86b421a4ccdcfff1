package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

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
			notYet := false
			for _, other := range s.statements {
				if other.check != nil && other.check.name() == name {
					rest = append(rest, other.id)
					notYet = notYet || other.notYet
				}
			}
			t.Run(fmt.Sprintf("MQTT %s/%s", s.name, name), func(t *testing.T) {
				t.Parallel()
				switch r := g.run(t.Context(), s.version, st.check); {
				case r.outcome == refused && !notYet:
					t.Errorf("%v: the broker does not have it any more: %s", rest, r.detail)
				case r.outcome == failed, r.outcome == elsewhere:
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
	results := target{address: broker.Spec.Address}.runAll(t.Context())
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

func TestEveryStatementStandsOnceAndHasACheckOrAReason(t *testing.T) {
	for _, s := range standards {
		seen := map[string]bool{}
		for _, st := range s.statements {
			if seen[st.id] {
				t.Errorf("%s %s stands twice", s.name, st.id)
			}
			seen[st.id] = true
			if (st.check == nil) == (st.note == "") || st.says == "" {
				t.Errorf("%s %s has neither or both of a check and a reason", s.name, st.id)
			}
		}
	}
	report(io.Discard, nil, true)
}
