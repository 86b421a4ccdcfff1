package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"dunlin/testbench/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// hang is a guard: no test takes nearly that long.
const hang = time.Minute

// result is what a run of the binary left.
type result struct {
	code        int
	out, errors string
}

// dunlin runs the binary with its standard input.
func dunlin(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return execute(t, strings.NewReader(stdin), nil, args...)
}

// execute runs the binary with further variables.
func execute(t *testing.T, stdin io.Reader, env []string, args ...string) result {
	t.Helper()
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdin = stdin
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !exit.Exited()) {
		t.Fatalf("dunlin %q: %v\n%s", args, err, errs.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// check compares with what is expected. A pattern is a literal text with "…" for anything.
func (r result) check(t *testing.T, code int, out, errs string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if !matches(out, r.out) {
		t.Errorf("standard output\n got %q\nwant %q", r.out, out)
	}
	if !matches(errs, r.errors) {
		t.Errorf("standard error\n got %q\nwant %q", r.errors, errs)
	}
}

func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)\A` + strings.Join(parts, ".*") + `\z`).MatchString(text)
}

func TestHelpIsThereForEverySubcommand(t *testing.T) {
	for _, cmd := range commands() {
		t.Run(cmd.name, func(t *testing.T) {
			dunlin(t, "", cmd.name, "--help").check(t, 0, cmd.help, "")
			dunlin(t, "", "help", cmd.name).check(t, 0, cmd.help, "")
			if !strings.HasPrefix(cmd.help, "Usage: dunlin "+cmd.name) {
				t.Errorf("the help begins with %.40q", cmd.help)
			}
			for line := range strings.Lines(cmd.help) {
				if len(line) > 81 || strings.HasSuffix(line, " \n") || strings.Contains(line, "\t") {
					t.Errorf("does not suit a terminal of 80 columns: %q", line)
				}
			}
		})
	}
}

func TestHelpNamesEveryOption(t *testing.T) {
	for _, cmd := range commands() {
		options := regexp.MustCompile(`(?m)^  (-\w), (--[\w-]+)|^  (--[\w-]+)`)
		for _, m := range options.FindAllStringSubmatch(cmd.help, -1) {
			for _, name := range m[1:] {
				if name == "" {
					continue
				}
				r := dunlin(t, "", cmd.name, name)
				if strings.Contains(r.errors, "not defined") {
					t.Errorf("dunlin %s does not know its %s", cmd.name, name)
				}
			}
		}
	}
}

func TestCommandLineThatMakesNoSenseIsRefused(t *testing.T) {
	usage := func(name, text string) string {
		return fmt.Sprintf("dunlin %s: %s\n\"dunlin %[1]s --help\" tells how it is used\n", name, text)
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "Dunlin is an MQTT broker for edge gateways.…  serve     run the broker\n…"},
		{"unknown subcommand", []string{"publish"}, "dunlin: there is no subcommand \"publish\"\n\nDunlin is…"},
		{"unknown option", []string{"serve", "--port", "1"}, usage("serve", "flag provided but not defined: -port")},
		{"option without its value", []string{"serve", "--config"}, usage("serve", "flag needs an argument: -config")},
		{"file without its option", []string{"serve", "dunlin.yaml"}, usage("serve", `"dunlin.yaml" is not an option; a file goes behind --config`)},
		{"check without a file", []string{"check"}, usage("check", "wants one file, got 0")},
		{"check with two files", []string{"check", "a", "b"}, usage("check", "wants one file, got 2")},
		{"sample with a file", []string{"check", "a", "--sample"}, usage("check", "--sample takes no file")},
		{"version of what", []string{"version", "x"}, usage("version", `"x" is too much`)},
		{"passwd without a user", []string{"passwd", "f"}, usage("passwd", "wants a file and a user, got 1 arguments")},
		{"pub without a topic", []string{"pub", "-m", "x"}, usage("pub", "the topic (-t) is missing")},
		{"pub to a filter", []string{"pub", "-t", "a/#", "-m", "x"}, usage("pub", `"a/#" cannot be published to: wildcard in a topic name`)},
		{"pub without a message", []string{"pub", "-t", "a"}, usage("pub", "wants exactly one of -m, -f, -s, -l and -n, got 0")},
		{"pub of two messages", []string{"pub", "-t", "a", "-m", "", "-n"}, usage("pub", "wants exactly one of -m, -f, -s, -l and -n, got 2")},
		{"pub with words left", []string{"pub", "-t", "a", "-m", "hello", "world"}, usage("pub", `"world" is not an option; a message goes behind -m`)},
		{"QoS 3", []string{"pub", "-t", "a", "-m", "x", "-q", "3"}, usage("pub", "there is no QoS 3; allowed: 0, 1, 2")},
		{"QoS in words", []string{"pub", "-t", "a", "-m", "x", "-q", "high"}, usage("pub", `invalid value "high" for flag -q: parse error`)},
		{"version 4", []string{"pub", "-t", "a", "-m", "x", "-V", "4"}, usage("pub", `"4" is no version that it speaks; allowed: 5, 311`)},
		{"port out of range", []string{"pub", "-t", "a", "-m", "x", "-p", "70000"}, usage("pub", "the port 70000 is out of range; allowed: 1 to 65535")},
		{"negative timeout", []string{"pub", "-t", "a", "-m", "x", "-W", "-1"}, usage("pub", "a timeout of -1 is out of range; allowed: 0 or more seconds")},
		{"keep alive out of range", []string{"pub", "-t", "a", "-m", "x", "-k", "65536"}, usage("pub", "a keep alive of 65536 is out of range; allowed: 0 to 65535")},
		{"will without a topic", []string{"pub", "-t", "a", "-m", "x", "--will-qos", "1"}, usage("pub", "a will needs --will-topic")},
		{"will to a filter", []string{"pub", "-t", "a", "-m", "x", "--will-topic", "+"}, usage("pub", `--will-topic "+" cannot be published to: wildcard in a topic name`)},
		{"password alone in 3.1.1", []string{"pub", "-t", "a", "-m", "x", "-V", "311", "-P", "x"}, usage("pub", "a password needs a user name (-u) in MQTT 3.1.1")},
		{"sub without a filter", []string{"sub"}, usage("sub", "a filter (-t) is missing")},
		{"sub to no filter", []string{"sub", "-t", "a", "-t", "b+"}, usage("sub", `"b+" is not a topic filter: + is not a level on its own`)},
		{"sub to no shared filter", []string{"sub", "-t", "$share/a"}, usage("sub", `"$share/a" is not a topic filter: …`)},
		{"session without an id", []string{"sub", "-t", "a", "-c"}, usage("sub", "a session that lasts needs a client identifier (-i)")},
		{"expiry in 3.1.1", []string{"sub", "-t", "a", "-c", "-i", "x", "-x", "1", "-V", "311"}, usage("sub", "-x needs MQTT 5.0; in 3.1.1 a session with -c has no end")},
		{"expiry out of range", []string{"sub", "-t", "a", "-i", "x", "-x", "4294967296"}, usage("sub", "a session expiry of 4294967296 is out of range; allowed: 0 to 4294967295")},
		{"negative count", []string{"sub", "-t", "a", "-C", "-1"}, usage("sub", "a count of -1 is out of range; allowed: 1 or more")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dunlin(t, "", tt.args...).check(t, 2, "", tt.want)
		})
	}
}

func TestVersionIsPrinted(t *testing.T) {
	for _, arg := range []string{"version", "--version"} {
		dunlin(t, "", arg).check(t, 0, "dunlin … go1.… linux/…\n", "")
	}
	dunlin(t, "", "--help").check(t, 0, overview(), "")
	dunlin(t, "", "help").check(t, 0, overview(), "")
}
