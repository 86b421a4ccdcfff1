// Command conform tests a broker, ours or any other, against the normative statements of MQTT
// 5.0, 3.1.1 and 3.1 about servers, and prints statement, test and result.
//
//	go run ./testbench/conform [-all] [HOST:PORT]
//
// Without an address it builds dunlin and tests that. The exit status is 1 if a check failed.
//
// The statements are data (statements50.go, statements311.go): number, what it says in our words,
// the check that tests it. A check (connect.go, publish.go, subscribe.go, wire.go) tests one
// behaviour, on clients and topics of its own, and several statements may rest on it. One whose
// feature the broker does not announce sees that it is refused as the Standard says. What the
// Standard recommends, and we promise, is asked of our own broker only.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

func main() {
	all := flag.Bool("all", false, "print the statements that hold, too")
	flag.Parse()
	if flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	bad, err := perform(ctx, os.Stdout, flag.Arg(0), *all)
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

// perform tests the broker at address, ours if "", and returns how many statements failed.
func perform(ctx context.Context, w io.Writer, address string, all bool) (bad int, err error) {
	g := target{address: address, ours: address == ""}
	if g.ours {
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
	results := g.runAll(ctx)
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

// atOnce is how many checks run at the same time: most of them wait.
const atOnce = 16

// runAll runs every check once in each version that has a statement on it.
func (g target) runAll(ctx context.Context) map[job]result {
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

// report prints what became of each statement and returns how many failed.
func report(w io.Writer, results map[job]result, all bool) (bad int) {
	for _, s := range standards {
		counts := map[outcome]int{}
		var without []statement
		for _, st := range s.statements {
			if st.check == nil {
				without = append(without, st)
				continue
			}
			r := results[job{s.version, st.check.name()}]
			counts[r.outcome]++
			if all || r.outcome != passed {
				fmt.Fprintf(w, "%-5s %-20s %-8s %s: %s\n", s.name, st.id, r.outcome, st.check.name(), st.says)
				if r.detail != "" {
					fmt.Fprintf(w, "      %s\n", r.detail)
				}
			}
		}
		fmt.Fprintf(w, "\nMQTT %s: %d statements, %d hold, %d failed, %d refused as not available, %d not run, %d without a test\n",
			s.name, len(s.statements), counts[passed], counts[failed], counts[refused], counts[elsewhere], len(without))
		for _, st := range without {
			fmt.Fprintf(w, "      %-20s %s\n      %20s %s\n", st.id, st.says, "", st.note)
		}
		fmt.Fprintln(w)
		bad += counts[failed]
	}
	return bad
}
