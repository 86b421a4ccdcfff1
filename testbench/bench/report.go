package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dunlin/testbench/load"
)

// report is what is written.
type report struct {
	Time    time.Time       `json:"time"`
	Commit  string          `json:"commit"`
	Command string          `json:"command"`
	Machine load.Machine    `json:"machine"`
	Brokers []brokerVersion `json:"brokers"`
	Cases   []*measured     `json:"cases"`
	// Guard has the CPU time for a delivery, by case, as a ratio to the bare fan-out.
	Guard map[string]float64 `json:"guard,omitempty"`
	// Bare is the CPU time for a delivery of the bare fan-out, in microseconds.
	Bare float64 `json:"bare_cpu_us,omitempty"`

	name string // at the end of those of its files, "" = nothing
}

type brokerVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Words   string `json:"configuration"`
}

// measured is what came of a case.
type measured struct {
	Name   string               `json:"name"`
	Words  string               `json:"what"`
	Runs   map[string][]figures `json:"runs"`
	Median map[string]figures   `json:"median"`
	// Ratio is our median divided by that of each other broker.
	Ratio  map[string]figures  `json:"ratio"`
	Failed map[string]string   `json:"failed,omitempty"`
	Faults map[string][]string `json:"faults,omitempty"` // messages lost, duplicated, misordered
	Bounds []bound             `json:"bounds,omitempty"`

	key *benchCase
}

// bound is a ratio, or a figure of ours, that we want to hold, and whether it does.
type bound struct {
	Figure string  `json:"figure"`
	Of     string  `json:"of,omitempty"`
	Want   string  `json:"want"`
	Got    float64 `json:"got"`
	Holds  bool    `json:"holds"`
}

func newReport(ctx context.Context, args []string) (*report, error) {
	commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return nil, fmt.Errorf("git describe: %w", err)
	}
	return &report{
		Time: time.Now().UTC().Truncate(time.Second), Commit: strings.TrimSpace(string(commit)),
		Command: strings.Join(append([]string{"go run ./testbench/bench"}, args...), " "),
		Machine: load.ThisMachine(),
	}, nil
}

func (m *measured) note(broker, why string) {
	if m.Failed == nil {
		m.Failed = make(map[string]string)
	}
	first, _, _ := strings.Cut(why, "\n")
	m.Failed[broker] = first
}

func (m *measured) fault(broker string, faults []string) {
	if len(faults) == 0 {
		return
	}
	if m.Faults == nil {
		m.Faults = make(map[string][]string)
	}
	m.Faults[broker] = append(m.Faults[broker], faults...)
}

// faults returns an error if dunlin has failed, or lost, duplicated or misordered anything.
func (r *report) faults() error {
	var errs []error
	for _, m := range r.Cases {
		if why := m.Failed["dunlin"]; why != "" {
			errs = append(errs, fmt.Errorf("%s: %s", m.Name, why))
		}
		if f := m.Faults["dunlin"]; len(f) > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", m.Name, strings.Join(f, "; ")))
		}
	}
	return errors.Join(errs...)
}

// finish makes medians and ratios.
func (m *measured) finish() {
	m.Median, m.Ratio = make(map[string]figures), make(map[string]figures)
	for name, runs := range m.Runs {
		f := make(figures)
		for figure := range runs[0] {
			f[figure] = median(runs, figure)
		}
		m.Median[name] = f
	}
	ours := m.Median["dunlin"]
	for name, f := range m.Median {
		if name == "dunlin" {
			continue
		}
		r := make(figures)
		for figure, v := range f {
			if v != 0 {
				r[figure] = ours[figure] / v
			}
		}
		m.Ratio[name] = r
	}
	for _, must := range m.key.must {
		compared := m.Ratio[must.of]
		if must.of == "" {
			compared = ours
		}
		got, ok := compared[must.figure]
		if !ok && must.of != "" && len(m.Runs[must.of]) == 0 {
			continue // that one did not take part
		}
		b := bound{Figure: must.figure, Of: must.of, Got: got}
		if must.atLeast {
			b.Want, b.Holds = fmt.Sprintf("at least %g", must.factor), got >= must.factor
		} else {
			b.Want, b.Holds = fmt.Sprintf("at most %.3g", must.factor), ok && got <= must.factor
		}
		m.Bounds = append(m.Bounds, b)
	}
}

func median(runs []figures, figure string) float64 {
	v := make([]float64, len(runs))
	for i, r := range runs {
		v[i] = r[figure]
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// guard measures dunlin beside the bare fan-out.
func (s *settings) guard(ctx context.Context, report *report) error {
	fan := broadcast(0, 100)
	fan.name = "bare"
	var base, dunlin []*measured
	bareRuns := &measured{Name: "bare", Runs: make(map[string][]figures), key: fan}
	base = append(base, bareRuns)
	for _, name := range guarded {
		i := slices.IndexFunc(cases, func(c *benchCase) bool { return c.name == name })
		dunlin = append(dunlin, &measured{Name: name, Runs: make(map[string][]figures), key: cases[i]})
	}
	ours := all(s.bin)[0]
	without := bare(s.bin)
	for round := range s.rounds {
		fmt.Fprintf(os.Stderr, "regression guard, round %d of %d\n", round+1, s.rounds)
		f, _, err := s.one(ctx, fan, without)
		if err != nil {
			return err
		}
		bareRuns.Runs["bare"] = append(bareRuns.Runs["bare"], f)
		for _, m := range dunlin {
			f, faults, err := s.one(ctx, m.key, ours)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			if len(faults) > 0 {
				return fmt.Errorf("%s: %s", m.Name, strings.Join(faults, "; "))
			}
			m.Runs["dunlin"] = append(m.Runs["dunlin"], f)
		}
	}
	report.Bare = median(base[0].Runs["bare"], "cpu_us")
	if report.Bare == 0 {
		return errors.New("the bare fan-out has used no CPU time")
	}
	report.Guard = make(map[string]float64)
	for _, m := range dunlin {
		report.Guard[m.Name] = median(m.Runs["dunlin"], "cpu_us") / report.Bare
	}
	return nil
}

// compare prints the ratios of the regression guard beside those of the newest report in folder,
// and returns an error if one has grown by more than tolerance.
func (r *report) compare(folder string, tolerance float64, w io.Writer) error {
	old, file, err := newest(folder)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "CPU for a delivery, as a multiple of the bare fan-out, which takes %.3f µs\n", r.Bare)
	if old == nil {
		old = new(report)
	}
	var worse []string
	for _, name := range slices.Sorted(maps.Keys(r.Guard)) {
		before, ok := old.Guard[name]
		if !ok {
			fmt.Fprintf(w, "%-18s %7.2f  new\n", name, r.Guard[name])
			continue
		}
		change := r.Guard[name] / before
		fmt.Fprintf(w, "%-18s %7.2f  was %.2f  (%+.0f%%)\n", name, r.Guard[name], before, (change-1)*100)
		if change > tolerance {
			worse = append(worse, name)
		}
	}
	if old.Guard == nil {
		return fmt.Errorf("no report in %s to compare with: make bench writes one", folder)
	}
	if len(worse) > 0 {
		return fmt.Errorf("more than %.0f%% slower than in %s: %s", (tolerance-1)*100, file, strings.Join(worse, ", "))
	}
	return nil
}

// newest returns the newest report with a regression guard, nil if there is none.
func newest(folder string) (*report, string, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, "", err
	}
	var last *report
	var from string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, "", err
		}
		var r report
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, "", fmt.Errorf("%s: %w", file, err)
		}
		if r.Guard != nil && (last == nil || r.Time.After(last.Time)) {
			last, from = &r, file
		}
	}
	return last, from, nil
}

// write writes r to folder, as JSON and as text.
func (r *report) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := r.text(&text); err != nil {
		return err
	}
	base := filepath.Join(folder, r.Time.Format(time.DateOnly)+"-"+r.Commit)
	if r.name != "" {
		base += "-" + r.name
	}
	fmt.Fprintln(os.Stderr, "written to", base+".{json,md}")
	return errors.Join(os.WriteFile(base+".json", append(b, '\n'), 0o644), os.WriteFile(base+".md", text.Bytes(), 0o644))
}

// text writes r for people, in Markdown.
func (r *report) text(w io.Writer) error {
	var b bytes.Buffer
	m := r.Machine
	fmt.Fprintf(&b, "# %s, commit %s\n\n", r.Time.Format(time.DateOnly), r.Commit)
	fmt.Fprintf(&b, "`%s`\n\nLinux %s %s, %d × %s, %.1f GiB", r.Command, m.Kernel, m.Arch, m.CPUs, m.CPU, float64(m.MemoryKiB)/(1<<20))
	if m.Board != "" {
		fmt.Fprintf(&b, ", %s", m.Board)
	}
	fmt.Fprint(&b, ". Brokers and generator share the machine; medians of rounds in which the brokers take turns. Ratios decide: a ratio is our figure divided by theirs.\n\n")
	for _, v := range r.Brokers {
		fmt.Fprintf(&b, "- %s: %s; %s\n", v.Name, v.Version, v.Words)
	}
	for _, c := range r.Cases {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n| broker |", c.Name, c.Words)
		for _, column := range c.key.columns {
			fmt.Fprintf(&b, " %s |", title(column))
		}
		fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---:|", len(c.key.columns)))
		for _, v := range r.Brokers {
			f, ok := c.Median[v.Name]
			if !ok {
				continue
			}
			fmt.Fprintf(&b, "| %s |", v.Name)
			for _, column := range c.key.columns {
				fmt.Fprintf(&b, " %s |", number(f, column))
			}
			fmt.Fprintln(&b)
			if ratio := c.Ratio[v.Name]; ratio != nil {
				fmt.Fprintf(&b, "| ratio to %s |", v.Name)
				for _, column := range c.key.columns {
					fmt.Fprintf(&b, " %s |", number(ratio, column))
				}
				fmt.Fprintln(&b)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(c.Failed)) {
			fmt.Fprintf(&b, "\n%s: %s.\n", name, c.Failed[name])
		}
		for _, name := range slices.Sorted(maps.Keys(c.Faults)) {
			fmt.Fprintf(&b, "\n%s, wrong: %s.\n", name, strings.Join(c.Faults[name], "; "))
		}
		for _, x := range c.Bounds {
			word := "holds"
			if !x.Holds {
				word = "**does not hold**"
			}
			what := title(x.Figure)
			if x.Of != "" {
				what += ", ratio to " + x.Of
			}
			fmt.Fprintf(&b, "\n%s: want %s, is %.3g: %s\n", what, x.Want, x.Got, word)
		}
	}
	if r.Guard != nil {
		fmt.Fprintf(&b, "\n## Regression guard\n\nCPU for a delivery as a multiple of the bare fan-out, which takes %.3f µs.\n\n", r.Bare)
		for _, name := range slices.Sorted(maps.Keys(r.Guard)) {
			fmt.Fprintf(&b, "- %s: %.2f\n", name, r.Guard[name])
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// titles are the heads of columns.
var titles = map[string]string{
	"deliveries_per_s": "deliveries/s", "cpu_us": "CPU µs/delivery", "p50_us": "p50 µs", "p99_us": "p99 µs",
	"rss_peak_mib": "peak RSS MiB", "each_settled": "B each", "each_traffic": "B each after traffic",
	"first_s": "first s", "again_s": "again s", "storm_cpu_s": "CPU s", "queue_per_s": "queued/s", "drain_per_s": "drained/s",
	"queue_cpu_us": "CPU µs/queued", "memory_each": "memory B/message", "written_each": "written B/message",
	"start_ms": "start ms", "idle_rss_mib": "RSS MiB",
}

func title(figure string) string { return cmp.Or(titles[figure], figure) }

// number prints a figure with three digits that count.
func number(f figures, name string) string {
	v, ok := f[name]
	switch {
	case !ok:
		return ""
	case v == 0:
		return "0"
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return fmt.Sprintf("%.3g", v)
}
