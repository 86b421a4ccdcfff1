package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"dunlin/testbench/load"
)

// board runs the series for the user's own machine and writes the result files.
func board(ctx context.Context, args []string, out, diag io.Writer) error {
	o := load.Find("fanout").Options()
	flags := flag.NewFlagSet("dunlin-bench board", flag.ContinueOnError)
	flags.SetOutput(diag)
	name := flags.String("out", "dunlin-board-"+time.Now().Format(time.DateOnly), "the files `NAME`.json and NAME.txt are written")
	flags.DurationVar(&o.Warmup, "warmup", o.Warmup, "time before each measured interval")
	flags.DurationVar(&o.Measure, "measure", o.Measure, "each measured interval")
	login(flags, &o)
	if err := flags.Parse(args); err != nil {
		return wrong(err)
	}
	if err := target(flags, &o); err != nil {
		return err
	}
	if terminal(diag) {
		o.Progress = diag
	}
	b, err := load.RunBoard(ctx, o)
	if err != nil {
		return err
	}
	if err := writeTo(*name+".json", out, b.JSON); err != nil {
		return err
	}
	if err := writeTo(*name+".txt", out, b.Text); err != nil {
		return err
	}
	if err := b.Text(out); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "written to %s.json and %s.txt\n", *name, *name); err != nil {
		return err
	}
	if !b.OK() {
		return errWrong
	}
	return nil
}

// login declares who the clients are and which process the broker is.
func login(flags *flag.FlagSet, o *load.Options) {
	flags.StringVar(&o.Username, "user", "", "user name")
	flags.StringVar(&o.Password, "password", os.Getenv("DUNLIN_BENCH_PASSWORD"), "password (default $DUNLIN_BENCH_PASSWORD)")
	flags.IntVar(&o.PID, "pid", 0, "the broker's process on this machine; 0 = the one that listens there, -1 = none")
}

// target takes HOST:PORT from the command line.
func target(flags *flag.FlagSet, o *load.Options) error {
	switch flags.NArg() {
	case 0:
	case 1:
		o.Address = flags.Arg(0)
	default:
		return usagef("%q is too much", flags.Arg(1))
	}
	return nil
}
