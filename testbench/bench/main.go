// Command bench measures dunlin beside other brokers, on this machine, in one run:
//
//	go run ./testbench/bench [--rounds 3] [--only fanout] [--brokers dunlin,mosquitto]
//	go run ./testbench/bench --quick
//	go run ./testbench/bench --threads
//
// For each case the brokers take turns, round by round, each time as a new process; what counts
// is the median of the rounds, and of that the ratio between brokers. The report goes to
// testbench/results, as JSON and as text.
//
// Two more take part if the environment says where they were built from source: FLASHMQ names the
// program, SMART_MQTT a folder with smart-mqtt-broker-VERSION.jar and what it depends on.
//
// With --quick it measures only dunlin beside a bare fan-out, and compares the ratios with those
// of the newest report that is committed: a regression ends it with status 1.
//
// With --threads it measures dunlin with one, two and four io_threads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"dunlin/testbench/load"
	"dunlin/testbench/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	process.Cleanup()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	quick     bool
	threads   bool
	rounds    int
	only      string
	names     string
	measure   time.Duration
	bin       string
	results   string
	tolerance float64
}

func run(ctx context.Context, args []string) error {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&s.quick, "quick", false, "only the regression guard")
	flags.BoolVar(&s.threads, "threads", false, "only dunlin, with one, two and four io_threads")
	flags.IntVar(&s.rounds, "rounds", 3, "how often each broker has its turn in each case")
	flags.StringVar(&s.only, "only", "", "only cases whose name begins with one of these, separated by commas; nothing is written")
	flags.StringVar(&s.names, "brokers", "", "only these, separated by commas; nothing is written")
	flags.DurationVar(&s.measure, "measure", 3*time.Second, "the measured interval")
	flags.StringVar(&s.bin, "bin", "bin", "`folder` with dunlin-bench and peers")
	flags.StringVar(&s.results, "results", "testbench/results", "`folder` of the reports")
	flags.Float64Var(&s.tolerance, "tolerance", 1.3, "how much a ratio of the regression guard may grow")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || s.rounds < 1 {
		flags.Usage()
		return flag.ErrHelp
	}
	// The generator and the brokers have the connections of the largest case, each on its own.
	if err := load.RaiseFileLimit(16_000); err != nil {
		return err
	}
	report, err := newReport(ctx, args)
	if err != nil {
		return err
	}
	if s.quick {
		if err := s.guard(ctx, report); err != nil {
			return err
		}
		return report.compare(s.results, s.tolerance, os.Stdout)
	}
	brokers, compared := all(s.bin), cases
	if s.threads {
		brokers, compared = threads(), threaded()
		report.name = "threads"
	}
	if s.names != "" {
		brokers = slices.DeleteFunc(brokers, func(b *broker) bool {
			return !slices.Contains(strings.Split(s.names, ","), b.name)
		})
	}
	for _, b := range brokers {
		version, err := b.version(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		report.Brokers = append(report.Brokers, brokerVersion{b.name, version, b.words})
	}
	for _, c := range compared {
		if !wanted(s.only, c.name) {
			continue
		}
		if err := s.measureCase(ctx, report, c, brokers); err != nil {
			return err
		}
	}
	whole := s.only == "" && s.names == ""
	if whole && !s.threads {
		if err := s.guard(ctx, report); err != nil {
			return err
		}
	}
	if err := report.text(os.Stdout); err != nil {
		return err
	}
	if whole {
		if err := report.write(s.results); err != nil {
			return err
		}
	}
	return report.faults()
}

// wanted says whether a case of that name is among prefixes, separated by commas.
func wanted(prefixes, name string) bool {
	return prefixes == "" || slices.ContainsFunc(strings.Split(prefixes, ","), func(p string) bool {
		return strings.HasPrefix(name, p)
	})
}

// measureCase lets the brokers take turns in c.
func (s *settings) measureCase(ctx context.Context, report *report, c *benchCase, brokers []*broker) error {
	m := &measured{Name: c.name, Words: c.words, key: c, Runs: make(map[string][]figures)}
	for round := range s.rounds {
		for _, b := range brokers {
			if why := c.without[b.name]; why != "" {
				m.note(b.name, why)
				continue
			}
			if len(m.Failed[b.name]) > 0 {
				continue // it will not do better
			}
			fmt.Fprintf(os.Stderr, "%s: %s, round %d of %d\n", c.name, b.name, round+1, s.rounds)
			f, faults, err := s.one(ctx, c, b)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				m.note(b.name, err.Error())
				continue
			}
			m.Runs[b.name] = append(m.Runs[b.name], f)
			m.fault(b.name, faults)
		}
	}
	m.finish()
	report.Cases = append(report.Cases, m)
	return nil
}

// one runs c once against a new process of b. faults are what was wrong, in words.
func (s *settings) one(ctx context.Context, c *benchCase, b *broker) (f figures, faults []string, err error) {
	dir, err := os.MkdirTemp("", "dunlin-bench-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	if c.start {
		f, err := startTime(ctx, b, dir)
		return f, nil, err
	}
	p, err := b.run(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	defer p.Kill()
	scenario := load.Find(c.scenario)
	o := scenario.Options()
	o.Address, o.PID = p.Spec.Address, p.PID()
	o.Warmup, o.Measure = s.measure/3, s.measure
	c.set(&o)
	r, err := scenario.Run(ctx, o)
	if err != nil {
		return nil, nil, fmt.Errorf("%w\n%s", err, p.Tail(500))
	}
	return figuresOf(r), r.Faults, nil
}
