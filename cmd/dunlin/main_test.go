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
			dunlin(t, "", cmd.name, "-h").check(t, 0, cmd.help, "")
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

func TestHelpFitsOnAScreen(t *testing.T) {
	const screen = 50 // lines
	dunlin(t, "", "help", "connection").check(t, 0, connectionHelp, "")
	texts := map[string]string{"connection": connectionHelp}
	for _, cmd := range commands() {
		texts[cmd.name] = cmd.help
	}
	for name, text := range texts {
		if n := strings.Count(text, "\n"); n > screen {
			t.Errorf("the help of %s has %d lines, a screen has %d", name, n, screen)
		}
		for line := range strings.Lines(text) {
			if len(line) > 81 {
				t.Errorf("%s: does not suit a terminal of 80 columns: %q", name, line)
			}
		}
	}
}

func TestHelpNamesEveryOption(t *testing.T) {
	for _, cmd := range commands() {
		options := regexp.MustCompile(`(?m)^  (-\w), (--[\w-]+)|^  (--[\w-]+)`)
		help := cmd.help
		if cmd.name == "pub" || cmd.name == "sub" {
			help += connectionHelp
		}
		for _, m := range options.FindAllStringSubmatch(help, -1) {
			for _, name := range m[1:] {
				if name == "" {
					continue
				}
				r := dunlin(t, "", cmd.name, name)
				if strings.Contains(r.errors, "there is no option") {
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
		{"unknown option", []string{"serve", "--port", "1"}, usage("serve", "there is no option --port")},
		{"option without its value", []string{"serve", "--config"}, usage("serve", "--config wants a value")},
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
		{"QoS in words", []string{"pub", "-t", "a", "-m", "x", "-q", "high"}, usage("pub", `"high" is no value of -q; allowed: a whole number`)},
		{"expiry below 0", []string{"pub", "-t", "a", "-m", "x", "--expiry", "-1"}, usage("pub", `"-1" is no value of --expiry; allowed: a whole number, 0 or more`)},
		{"interval without a unit", []string{"pub", "-t", "a", "-m", "x", "--interval", "5"}, usage("pub", `"5" is no value of --interval; allowed: a duration such as 500ms or 2s`)},
		{"retain with a word", []string{"pub", "-t", "a", "-m", "x", "--retain=maybe"}, usage("pub", `"maybe" is no value of --retain; allowed: true, false`)},
		{"host without its value", []string{"sub", "-t", "a", "-h"}, usage("sub", "-h wants a value")},
		{"version 4", []string{"pub", "-t", "a", "-m", "x", "-V", "4"}, usage("pub", `"4" is no version that it speaks; allowed: 5, 311, 31`)},
		{"port out of range", []string{"pub", "-t", "a", "-m", "x", "-p", "70000"}, usage("pub", "the port 70000 is out of range; allowed: 1 to 65535")},
		{"negative timeout", []string{"pub", "-t", "a", "-m", "x", "-W", "-1"}, usage("pub", "a timeout of -1 is out of range; allowed: 0 or more seconds")},
		{"keep alive out of range", []string{"pub", "-t", "a", "-m", "x", "-k", "65536"}, usage("pub", "a keep alive of 65536 is out of range; allowed: 0 to 65535")},
		{"will without a topic", []string{"pub", "-t", "a", "-m", "x", "--will-qos", "1"}, usage("pub", "a will needs --will-topic")},
		{"will to a filter", []string{"pub", "-t", "a", "-m", "x", "--will-topic", "+"}, usage("pub", `--will-topic "+" cannot be published to: wildcard in a topic name`)},
		{"password alone in 3.1.1", []string{"pub", "-t", "a", "-m", "x", "-V", "311", "-P", "x"}, usage("pub", "a password needs a user name (-u) before MQTT 5.0")},
		{"sub without a filter", []string{"sub"}, usage("sub", "a filter (-t) is missing")},
		{"sub to no filter", []string{"sub", "-t", "a", "-t", "b+"}, usage("sub", `"b+" is not a topic filter: + is not a level on its own`)},
		{"sub to no shared filter", []string{"sub", "-t", "$share/a"}, usage("sub", `"$share/a" is not a topic filter: …`)},
		{"session without an id", []string{"sub", "-t", "a", "-c"}, usage("sub", "a session that lasts needs a client identifier (-i)")},
		{"expiry in 3.1.1", []string{"sub", "-t", "a", "-c", "-i", "x", "-x", "1", "-V", "311"}, usage("sub", "-x needs MQTT 5.0; before that a session with -c has no end")},
		{"expiry out of range", []string{"sub", "-t", "a", "-i", "x", "-x", "4294967296"}, usage("sub", "a session expiry of 4294967296 is out of range; allowed: 0 to 4294967295")},
		{"URL of something else", []string{"sub", "-t", "a", "-L", "http://h"}, usage("sub", `the URL begins with "http"; allowed: mqtt://, mqtts://, unix:`)},
		{"URL without a scheme", []string{"sub", "-t", "a", "-L", "localhost"}, usage("sub", `the URL has nothing before its host; allowed: mqtt://, mqtts://, unix:`)},
		{"URL with a secret and a fault", []string{"sub", "-t", "a", "-L", "mqtt://u:secret@h:x"}, usage("sub", `the URL is none: invalid port ":x" after host`)},
		{"URL and host", []string{"sub", "-t", "a", "-L", "mqtt://h", "-h", "h"}, usage("sub", "-L says where the broker is; -h and -p do not go with it")},
		{"URL and topic", []string{"pub", "-t", "a", "-L", "mqtt://h/b", "-m", "x"}, usage("pub", "the topic is in the URL and behind -t")},
		{"URL without TLS, options with", []string{"pub", "-L", "mqtt://h/b", "-m", "x", "--tls"}, usage("pub", "mqtt:// is a connection without TLS, the other options want TLS; use mqtts://")},
		{"TLS on a unix socket", []string{"pub", "-t", "a", "-L", "unix:/s", "-m", "x", "--tls"}, usage("pub", "there is no TLS on a unix socket")},
		{"certificate without its key", []string{"pub", "-t", "a", "-m", "x", "--cert", "c"}, usage("pub", "--cert and --key go together")},
		{"trust in some and in everybody", []string{"pub", "-t", "a", "-m", "x", "--ca", "c", "--insecure"}, usage("pub", "--ca says whom to trust, --insecure trusts everybody")},
		{"property without a value", []string{"pub", "-t", "a", "-m", "x", "--property", "k"}, usage("pub", `"k" is no value of --property; it must be NAME=VALUE`)},
		{"property in 3.1.1", []string{"pub", "-t", "a", "-m", "x", "-V", "311", "--property", "k=v"}, usage("pub", "--property needs MQTT 5.0")},
		{"property of the will in 3.1.1", []string{"pub", "-t", "a", "-m", "x", "-V", "311", "--will-topic", "w", "--will-expiry", "1"}, usage("pub", "--will-expiry needs MQTT 5.0")},
		{"property without a will", []string{"pub", "-t", "a", "-m", "x", "--will-expiry", "1"}, usage("pub", "a will needs --will-topic")},
		{"response topic with a wildcard", []string{"pub", "-t", "a", "-m", "x", "--response-topic", "a/+"}, usage("pub", `--response-topic "a/+" cannot be published to: wildcard in a topic name`)},
		{"payload format 2", []string{"pub", "-t", "a", "-m", "x", "--payload-format", "2"}, usage("pub", `--payload-format "2" is none; allowed: 0 or bytes, 1 or utf-8`)},
		{"no text said to be text", []string{"pub", "-t", "a", "-m", "\xff", "--payload-format", "1"}, usage("pub", "the message to a is no UTF-8, which its payload format says it is")},
		{"topic alias 0", []string{"pub", "-t", "a", "-m", "x", "--topic-alias", "0"}, usage("pub", "--topic-alias 0 is out of range; allowed: 1 to 65535")},
		{"lines repeated", []string{"pub", "-t", "a", "-l", "--repeat", "2"}, usage("pub", "--repeat does not go with -l")},
		{"repeated never", []string{"pub", "-t", "a", "-m", "x", "--repeat", "0"}, usage("pub", "--repeat 0 is out of range; allowed: 1 or more")},
		{"receive maximum 0", []string{"sub", "-t", "a", "--receive-maximum", "0"}, usage("sub", "--receive-maximum 0 is out of range; allowed: 1 to 65535")},
		{"two forms", []string{"sub", "-t", "a", "-v", "--json"}, usage("sub", "the messages can have one form: -v and --hex, --pretty, --json or -F")},
		{"format with nothing behind %", []string{"sub", "-t", "a", "-F", "%t %"}, usage("sub", "the format ends with a single %")},
		{"format that knows no such field", []string{"sub", "-t", "a", "-F", "%z"}, usage("sub", `the format has "%z", which stands for nothing`)},
		{"subscription identifier 0", []string{"sub", "-t", "a", "--subscription-id", "0"}, usage("sub", "--subscription-id 0 is out of range; allowed: 1 to 268435455")},
		{"subscription identifier in 3.1.1", []string{"sub", "-t", "a", "--subscription-id", "1", "-V", "311"}, usage("sub", "--subscription-id needs MQTT 5.0")},
		{"retain handling 3", []string{"sub", "-t", "a", "--retain-handling", "3"}, usage("sub", "--retain-handling 3 is none; allowed: 0, 1, 2")},
		{"retain handling twice", []string{"sub", "-t", "a", "--retain-handling", "1", "-R"}, usage("sub", "-R is --retain-handling 2; give one of them")},
		{"count of nothing", []string{"sub", "-t", "a", "-E", "-C", "1"}, usage("sub", "-E exits before the first message, -C counts them")},
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
