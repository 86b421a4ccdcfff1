// Command conform tests a broker, ours or any other, against the normative statements of MQTT
// 5.0, 3.1.1 and 3.1 about servers, and prints statement, test and result.
//
//	go run ./testbench/conform [-all] [-run NAME,...] [-patience TIME] [HOST:PORT]
//
// Without an address it builds dunlin and tests that. The exit status is 1 if a check failed. NAME
// is a check, or a version and a statement that rests on it: 5.0:MQTT-3.1.2-22.
//
// The statements are data (statements50.go, statements311.go): number, what it says in our words,
// the check that tests it, or the Go test where it takes more than a connection. numbers.go knows
// which numbers there are, so that none is forgotten. A check (connect.go, publish.go, properties.go,
// limits.go, subscribe.go, wire.go) tests one behaviour, on clients and topics of its own, and several
// statements may rest on it. One whose feature the broker does not announce sees that it is refused
// as the Standard says. How closely
// a server looks at what it gets the Standard leaves to it, save for some packets (5.0 §4.13.1):
// another broker that takes the rest is lenient. What the Standard recommends, and we promise, is
// asked of our own broker only.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

func main() {
	all := flag.Bool("all", false, "print the statements that hold, too")
	patience := flag.Duration("patience", 0, "time for a check; 0: "+guard.String()+", for other brokers "+guardOfOthers.String())
	only := flag.String("run", "", "only these checks or statements, separated by commas")
	flag.Parse()
	if flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	bad, err := perform(ctx, os.Stdout, target{address: flag.Arg(0), patience: *patience}, *all, *only)
	stop()
	process.Cleanup()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conform:", err)
		os.Exit(2)
	}
	if bad > 0 {
		os.Exit(1)
	}
}

// perform tests the broker at an address, ours if that is "", and returns how many statements failed.
func perform(ctx context.Context, w io.Writer, g target, all bool, only string) (bad int, err error) {
	chosen, err := choose(only)
	if err != nil {
		return 0, err
	}
	if g.address == "" {
		g.ours = true
		dir, err := os.MkdirTemp("", "dunlin-conform-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		broker, err := process.Dunlin(ctx, dir, process.Gateway{})
		if err != nil {
			return 0, err
		}
		defer broker.Kill()
		g.address = broker.Spec.Address
	}
	results := g.runAll(ctx, chosen)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return report(w, results, all), nil
}

// job is a check in a version.
type job struct {
	version packet.Version
	check   string
}

// choose returns the jobs that a list of checks and statements means; nil, all, for "".
func choose(list string) (map[job]bool, error) {
	if list == "" {
		return nil, nil
	}
	chosen := map[job]bool{}
	for name := range strings.SplitSeq(list, ",") {
		found := false
		for _, s := range standards {
			for _, st := range s.statements {
				if st.check != nil && (name == st.check.name() || name == s.name+":"+st.id) {
					chosen[job{s.version, st.check.name()}] = true
					found = true
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no check or tested statement %q; allowed: the name of a check, or as in 5.0:MQTT-3.1.2-22", name)
		}
	}
	return chosen, nil
}

// atOnce is how many checks run at the same time: most of them wait.
const atOnce = 16

// runAll runs every check once in each version that has a statement on it, or those chosen.
func (g target) runAll(ctx context.Context, chosen map[job]bool) map[job]result {
	results := map[job]result{}
	var mu sync.Mutex // guards results
	var running sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, s := range standards {
		for _, st := range s.statements {
			if st.check == nil {
				continue
			}
			j := job{s.version, st.check.name()}
			if chosen != nil && !chosen[j] {
				continue
			}
			mu.Lock()
			_, known := results[j]
			results[j] = result{}
			mu.Unlock()
			if known {
				continue
			}
			slots <- struct{}{}
			// Owner: runAll, which waits below; a check ends by its guard.
			running.Go(func() {
				r := g.run(ctx, s.version, st.check)
				mu.Lock()
				results[j] = r
				mu.Unlock()
				<-slots
			})
		}
	}
	running.Wait()
	return results
}

// report prints what became of each statement and returns how many failed. With all it prints
// those that hold, too, and where those stand that other tests see to.
func report(w io.Writer, results map[job]result, all bool) (bad int) {
	for _, s := range standards {
		counts := map[outcome]int{}
		var without []statement
		run, tested := 0, 0
		for _, st := range s.statements {
			switch {
			case st.test != "":
				tested++
				if all {
					fmt.Fprintf(w, "%-5s %-20s %-8s %s: %s\n", s.name, st.id, "by test", st.test, st.says)
				}
				continue
			case st.check == nil:
				without = append(without, st)
				continue
			}
			r, ok := results[job{s.version, st.check.name()}]
			if !ok {
				continue
			}
			run++
			counts[r.outcome]++
			if all || r.outcome != passed {
				fmt.Fprintf(w, "%-5s %-20s %-8s %s: %s\n", s.name, st.id, r.outcome, st.check.name(), st.says)
				if r.detail != "" {
					fmt.Fprintf(w, "      %s\n", r.detail)
				}
			}
		}
		bad += counts[failed]
		if run == 0 {
			continue
		}
		fmt.Fprintf(w, "\nMQTT %s: %d statements; run %d: %d hold, %d failed, %d refused as not available, %d lenient, %d asked of our broker only; "+
			"%d by tests of the tree, %d without a test\n",
			s.name, len(s.statements), run, counts[passed], counts[failed], counts[refused], counts[tolerated], counts[elsewhere], tested, len(without))
		for _, st := range without {
			fmt.Fprintf(w, "      %-20s %s: %s\n", st.id, st.says, st.note)
		}
		fmt.Fprintln(w)
	}
	return bad
}
