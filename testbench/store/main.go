// Command store measures what a durable message costs: the time until it is acknowledged, the flash
// that it wears out, the memory of a long queue, and how long the broker takes to start with one.
//
//	go run ./testbench/store [--dir FOLDER] [--only PART] [--quick]
//
// Times depend on the disk that FOLDER is on, so a bare 4 KiB write with fdatasync on it is measured
// beside each of them. Bytes are those that the broker hands to the block layer, what the file system
// adds while the file grows among them, but not its journal. The report goes to testbench/results, as JSON and as text; with
// --quick everything is smaller, and nothing is written.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
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
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}

// scale is how much is measured.
type scale struct {
	queued  int           // messages of the long queue
	many    int           // messages of a point of the curve with many in flight
	few     int           // and with one
	measure time.Duration // of traffic whose receivers are online
}

var (
	whole = scale{queued: 1_000_000, many: 300_000, few: 3000, measure: 5 * time.Second}
	quick = scale{queued: 50_000, many: 20_000, few: 300, measure: time.Second}
)

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("store", flag.ContinueOnError)
	dir := flags.String("dir", "bin", "`folder` on the disk that is to be measured")
	small := flags.Bool("quick", false, "a tenth of everything, and no report")
	only := flags.String("only", "", "speed, online or queue")
	results := flags.String("results", "testbench/results", "`folder` of the reports")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		flags.Usage()
		return flag.ErrHelp
	}
	s := whole
	if *small {
		s = quick
	}
	work, err := os.MkdirTemp(*dir, "store-")
	if err != nil {
		return fmt.Errorf("a folder to measure in: %w", err)
	}
	defer os.RemoveAll(work)
	commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return fmt.Errorf("git describe: %w", err)
	}
	r := &report{
		Time: time.Now().UTC().Truncate(time.Second), Commit: strings.TrimSpace(string(commit)),
		Command: strings.Join(append([]string{"go run ./testbench/store"}, args...), " "),
		Machine: load.ThisMachine(), FileSystem: fileSystem(work),
	}
	for _, part := range []struct {
		name string
		run  func(ctx context.Context, dir string, s scale, r *report) error
	}{{"speed", speed}, {"online", online}, {"queue", queues}} {
		if *only != "" && *only != part.name {
			continue
		}
		if err := part.run(ctx, work, s, r); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	r.judge()
	if err := r.text(os.Stdout); err != nil {
		return err
	}
	if *small {
		return nil
	}
	if err := r.write(*results, *only); err != nil {
		return err
	}
	return r.missed()
}
