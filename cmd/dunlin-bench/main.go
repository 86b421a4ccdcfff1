// Command dunlin-bench loads an MQTT broker, ours or any other, and says what came of it.
//
//	dunlin-bench fanout --qos 1 127.0.0.1:1883
//	dunlin-bench help
//
// The exit status is 1 if a message was lost, duplicated or misordered or the run failed, 2 if it
// was called wrongly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/load"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errWrong is a run whose result is not as it must be; the table says why.
var errWrong = errors.New("the result is not as it must be")

func run(ctx context.Context, args []string, out, diag io.Writer) int {
	err := command(ctx, args, out, diag)
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(diag, "dunlin-bench:", err)
		return 2
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(diag, "\ndunlin-bench: interrupted")
	case !errors.Is(err, errWrong):
		fmt.Fprintln(diag, "\ndunlin-bench:", strings.TrimPrefix(err.Error(), "load: "))
	}
	return 1
}

// usageError is a fault in the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text + `; "dunlin-bench help" has the commands` }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// wrong makes an error of package flag one of the command line.
func wrong(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	return usagef("%v", err)
}

func command(ctx context.Context, args []string, out, diag io.Writer) error {
	if len(args) == 0 {
		help(diag)
		return usagef("no scenario")
	}
	switch name := args[0]; name {
	case "help", "-h", "--help":
		help(out)
		return nil
	case "version", "--version":
		_, err := fmt.Fprintln(out, "dunlin-bench", version)
		return err
	case "board":
		return board(ctx, args[1:], out, diag)
	case "bare":
		return bare(ctx, args[1:], out, diag)
	default:
		s := load.Find(name)
		if s == nil {
			return usagef("%q is no scenario", name)
		}
		return scenario(ctx, s, args[1:], out, diag)
	}
}

func help(w io.Writer) {
	fmt.Fprint(w, `Usage: dunlin-bench SCENARIO [OPTION]... [HOST:PORT]

Loads an MQTT broker, 127.0.0.1:1883 if none is given, and prints throughput,
latency, what the broker's process used if it runs on this machine, and what was
lost, duplicated or misordered. The exit status is 1 if anything was.

Scenarios:
`)
	for _, s := range load.Scenarios {
		fmt.Fprintf(w, "  %-8s %s\n", s.Name, s.Summary)
	}
	fmt.Fprint(w, `
Besides:
  board    a short series of all of them, into a file to send or to keep
  bare     serve a fan-out without a broker, which others are compared with
  version  print the version

"dunlin-bench SCENARIO --help" lists its options.
`)
}

// scenario runs s as args want it.
func scenario(ctx context.Context, s *load.Scenario, args []string, out, diag io.Writer) error {
	o := s.Options()
	flags := flag.NewFlagSet("dunlin-bench "+s.Name, flag.ContinueOnError)
	flags.SetOutput(diag)
	file := define(flags, s, &o)
	if err := flags.Parse(args); err != nil {
		return wrong(err)
	}
	if err := target(flags, &o); err != nil {
		return err
	}
	if terminal(diag) {
		o.Progress = diag
	}
	r, err := s.Run(ctx, o)
	if err != nil {
		return err
	}
	r.Command = strings.Join(append([]string{"dunlin-bench", s.Name}, args...), " ")
	if err := r.Table(out); err != nil {
		return err
	}
	if *file != "" {
		if err := writeTo(*file, out, r.JSON); err != nil {
			return err
		}
	}
	if !r.OK() {
		return errWrong
	}
	return nil
}

// define declares the flags of s, which set o.
func define(flags *flag.FlagSet, s *load.Scenario, o *load.Options) (file *string) {
	number := func(name string, to *int, usage string) {
		if slices.Contains(s.Flags, name) {
			flags.IntVar(to, name, *to, usage)
		}
	}
	duration := func(name string, to *time.Duration, usage string) {
		if slices.Contains(s.Flags, name) {
			flags.DurationVar(to, name, *to, usage)
		}
	}
	number("publishers", &o.Publishers, "clients that publish")
	number("pairs", &o.Pairs, "publishers, each with a subscriber of its own")
	number("subscribers", &o.Subscribers, "clients that subscribe")
	number("topics", &o.Topics, "topics that the publishers go round")
	if slices.Contains(s.Flags, "wildcard") {
		flags.BoolVar(&o.Wildcard, "wildcard", o.Wildcard, "subscribe to all topics by one wildcard instead of one by one")
	}
	if slices.Contains(s.Flags, "persistent") {
		flags.BoolVar(&o.Persistent, "persistent", o.Persistent, "sessions of subscribers outlive their connections")
	}
	number("window", &o.Window, "messages in flight, of all publishers together (closed loop)")
	duration("every", &o.Every, "open loop: each publisher sends --burst messages in this time; 0 = closed loop")
	number("burst", &o.Burst, "messages that a publisher sends together: in each interval of an open loop, or when all before them are through")
	number("rate", &o.Rate, "messages per second of all publishers together; 0 = closed loop")
	number("connections", &o.Connections, "clients")
	number("messages", &o.Messages, "messages: to queue (offline), to each connection (idle)")
	number("rounds", &o.Rounds, "how often the clients are cut off")
	duration("rest", &o.Rest, "how long the broker's memory must not have changed to be settled")
	if slices.Contains(s.Flags, "every") {
		flags.BoolFunc("paced", "the same as --every 1ms", func(string) error {
			o.Every = time.Millisecond
			return nil
		})
	}
	flags.IntVar(&o.Size, "size", o.Size, "bytes of a payload")
	qos := func(to ...*byte) func(string) error {
		return func(s string) error {
			if len(s) != 1 || s[0] < '0' || s[0] > '2' {
				return errors.New("a QoS is 0, 1 or 2")
			}
			for _, q := range to {
				*q = s[0] - '0'
			}
			return nil
		}
	}
	flags.Func("qos", "QoS of publishers and subscribers (default 0)", qos(&o.PubQoS, &o.SubQoS))
	flags.Func("pub-qos", "QoS of the publishers, after --qos", qos(&o.PubQoS))
	flags.Func("sub-qos", "QoS of the subscribers, after --qos", qos(&o.SubQoS))
	flags.Func("version", "MQTT version, 3.1.1 or 5 (default 3.1.1)", func(s string) error {
		switch s {
		case "3.1.1", "4":
			o.Version = packet.V311
		case "5", "5.0":
			o.Version = packet.V5
		default:
			return errors.New("a version is 3.1.1 or 5")
		}
		return nil
	})
	login(flags, o)
	flags.IntVar(&o.Loops, "loops", o.Loops, "event loops of the generator")
	flags.IntVar(&o.AtOnce, "at-once", o.AtOnce, "connections that each loop opens at the same time")
	flags.BoolVar(&o.MayLose, "may-lose", o.MayLose, "lost messages are no failure")
	flags.DurationVar(&o.Warmup, "warmup", o.Warmup, "time before the measured interval")
	flags.DurationVar(&o.Measure, "measure", o.Measure, "the measured interval")
	flags.DurationVar(&o.Settle, "settle", o.Settle, "time without any message until the rest counts as lost")
	flags.DurationVar(&o.Timeout, "timeout", o.Timeout, "time for connecting")
	return flags.String("json", "", "`file` for the result as JSON, - for standard output")
}

func writeTo(name string, out io.Writer, write func(io.Writer) error) error {
	if name == "-" {
		return write(out)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// terminal says whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
