// Command dunlin is an MQTT broker for edge gateways, and the tools that go with it.
//
// Each subcommand has a file of its own. They exit with 0 if they did what was asked, 1 if they
// could not, 2 if they did not understand, and "db check" with 3 if it has found damage.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"dunlin/cmd/dunlin/config"
)

// version is what is built; the linker sets it.
var version = "dev"

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitDamaged = 3 // it looked, and found damage
)

// command is a subcommand.
type command struct {
	name    string
	summary string // one line for the list of subcommands
	help    string // the whole of --help
	run     func(c *call) error
}

// call is one run of a subcommand: what it was given, and where it reads and writes.
type call struct {
	*command
	args     []string // behind the name of the subcommand
	in       *os.File
	out, err *os.File
}

func commands() []*command {
	return []*command{
		{"serve", "run the broker", serveHelp, serve},
		{"check", "check a configuration file", checkHelp, check},
		{"status", "say what a running broker is and does", statusHelp, status},
		{"ledger", "print the account of every queue", ledgerHelp, ledger},
		{"db", "look into the files of a data folder", dbHelp, db},
		{"backup", "write everything that is kept into a file", backupHelp, backup},
		{"restore", "make a data folder of a backup", restoreHelp, restore},
		{"pub", "publish messages", pubHelp, pub},
		{"sub", "subscribe and print messages", subHelp, sub},
		{"passwd", "set or delete the password of a user", passwdHelp, passwd},
		{"version", "print the version", versionHelp, printVersion},
	}
}

// hidden are the subcommands that the broker runs itself.
func hidden() []*command {
	return []*command{{"dbcheck", "check a file of the data folder", dbcheckHelp, dbcheck}}
}

func main() {
	os.Exit(dispatch(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func dispatch(args []string, in, out, errs *os.File) int {
	if len(args) == 0 {
		io.WriteString(errs, overview())
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "--help", "-help", "-h":
		if len(args) == 1 || name != "help" {
			io.WriteString(out, overview())
			return exitOK
		}
		if args[1] == "connection" {
			io.WriteString(out, connectionHelp)
			return exitOK
		}
		name, args = args[1], []string{args[1], "--help"}
	case "--version", "-version", "-v":
		name = "version"
	}
	for _, cmd := range append(commands(), hidden()...) {
		if cmd.name == name {
			c := &call{command: cmd, args: args[1:], in: in, out: out, err: errs}
			return c.report(cmd.run(c))
		}
	}
	fmt.Fprintf(errs, "dunlin: there is no subcommand %q\n\n%s", name, overview())
	return exitUsage
}

func overview() string {
	var b strings.Builder
	b.WriteString("Dunlin is an MQTT broker for edge gateways.\n\nUsage: dunlin SUBCOMMAND ...\n\n")
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-9s %s\n", cmd.name, cmd.summary)
	}
	b.WriteString("\n\"dunlin SUBCOMMAND --help\" tells more, and \"dunlin help connection\" how\npub and sub connect.\n")
	return b.String()
}

// usageError says that a command line makes no sense.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// report tells the outcome of a subcommand and returns the exit code.
func (c *call) report(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, flag.ErrHelp) {
		io.WriteString(c.out, c.help)
		return exitOK
	}
	if usage, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(c.err, "dunlin %s: %s\n\"dunlin %[1]s --help\" tells how it is used\n", c.name, usage.text)
		return exitUsage
	}
	if errors.Is(err, errDamaged) {
		return exitDamaged
	}
	prefix := ""
	if toJournal(c.err) {
		prefix = "<3>" // priority "error" of syslog
	}
	if faults, ok := errors.AsType[config.Errors](err); ok {
		for _, f := range faults { // each begins with its place, as editors want it
			fmt.Fprintf(c.err, "%s%v\n", prefix, f)
		}
		return exitFailure
	}
	fmt.Fprintf(c.err, "%sdunlin %s: %v\n", prefix, c.name, err)
	return exitFailure
}

// options returns an empty set of options for the subcommand.
func (c *call) options() *flag.FlagSet {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // report prints errors and help
	return fs
}

// parse reads the options, which may stand before, between and behind the other arguments, and
// returns those others. Behind "--" there are no options.
func (c *call) parse(fs *flag.FlagSet) (others []string, err error) {
	args := c.args
	if len(args) == 1 && args[0] == "-h" { // alone it cannot be the host of pub and sub
		return nil, flag.ErrHelp
	}
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, optionFault(fs, err)
		}
		rest := fs.Args()
		if n := len(args) - len(rest); len(rest) == 0 || n > 0 && args[n-1] == "--" {
			return append(others, rest...), nil
		}
		others = append(others, rest[0])
		args = rest[1:]
	}
}

// What the flag package says of an option, with its name and value.
var (
	optionUnknown  = regexp.MustCompile(`^flag provided but not defined: -(.*)$`)
	optionNoValue  = regexp.MustCompile(`^flag needs an argument: -(.*)$`)
	optionBadValue = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?-(.*?): (.*)$`)
)

// optionFault says what the flag package has found wrong, with the option as our help writes it and
// with what is allowed.
func optionFault(fs *flag.FlagSet, err error) error {
	text := err.Error()
	if m := optionUnknown.FindStringSubmatch(text); m != nil {
		return usagef("there is no option %s", dashed(m[1]))
	}
	if m := optionNoValue.FindStringSubmatch(text); m != nil {
		return usagef("%s wants a value", dashed(m[1]))
	}
	if m := optionBadValue.FindStringSubmatch(text); m != nil {
		value, name, reason := m[1], m[2], m[3]
		if allowed := allowedValue(fs.Lookup(name)); allowed != "" {
			reason = "allowed: " + allowed
		}
		return usagef("%s is no value of %s; %s", value, dashed(name), reason)
	}
	return &usageError{text}
}

// dashed is the name of an option as it is written on a command line.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// allowedValue says what an option takes, "" if its own error says that.
func allowedValue(f *flag.Flag) string {
	if f == nil {
		return ""
	}
	g, ok := f.Value.(flag.Getter)
	if !ok {
		return ""
	}
	switch g.Get().(type) {
	case int:
		return "a whole number"
	case uint, uint64:
		return "a whole number, 0 or more"
	case time.Duration:
		return "a duration such as 500ms or 2s"
	case bool:
		return "true, false"
	}
	return ""
}

// both defines an option under a short and a long name.
func both[T any](define func(p *T, name string, value T, usage string), p *T, short, long string) {
	define(p, short, *p, "")
	define(p, long, *p, "")
}
