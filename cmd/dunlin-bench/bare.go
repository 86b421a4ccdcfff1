package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"dunlin/testbench/load"
)

// bare serves the bare fan-out that brokers are compared with.
func bare(ctx context.Context, args []string, out, diag io.Writer) error {
	flags := flag.NewFlagSet("dunlin-bench bare", flag.ContinueOnError)
	flags.SetOutput(diag)
	connections := flags.Int("connections", 10_000, "how many it makes room for")
	if err := flags.Parse(args); err != nil {
		return wrong(err)
	}
	address := "127.0.0.1:1883"
	if flags.NArg() > 0 {
		address = flags.Arg(0)
	}
	if err := load.RaiseFileLimit(*connections); err != nil {
		return err
	}
	b, err := load.NewBare(address)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "bare fan-out on", b.Address())
	return b.Serve(ctx)
}
