// Command mutants breaks behaviours of the broker on purpose, one at a time, and sees that the
// conformance suite goes red: on the statements that are broken.
//
//	go run ./testbench/conform/mutants [NAME...]
//
// It works in a copy of the tree. Each mutant (mutants.go) is a text of a file and another instead;
// the copy is built with that, and conform is run with the statements that it must break. The exit
// status is 1 if one survived: then a test is missing. NAME is a part of a mutant's name.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"dunlin/testbench/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	survivors, err := perform(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if survivors > 0 {
		os.Exit(1)
	}
}

// perform tries the mutants whose names contain one of parts, all if there is none, and returns
// how many survived.
func perform(ctx context.Context, parts []string) (survivors int, err error) {
	w, err := newWorkshop(ctx)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(w.dir)
	chosen := mutants
	if len(parts) > 0 {
		chosen = slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(m.name, part) })
		})
	}
	if len(chosen) == 0 {
		return 0, fmt.Errorf("no mutant has a name with %q", parts)
	}
	// What is not broken holds: a test that fails anyway proves nothing.
	var all []string
	for _, m := range chosen {
		all = append(all, m.statements...)
	}
	if err := w.build(ctx); err != nil {
		return 0, err
	}
	if out, failed, err := w.conform(ctx, all); err != nil || failed {
		return 0, fmt.Errorf("the broker fails before anything is broken: %w\n%s", err, out)
	}
	for _, m := range chosen {
		alive, err := w.try(ctx, m)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", m.name, err)
		}
		verdict := "killed  "
		if len(alive) > 0 {
			verdict = "SURVIVED"
			survivors++
		}
		fmt.Println(verdict, m.name, m.statements)
		for _, s := range alive {
			fmt.Println("         holds all the same:", s)
		}
	}
	fmt.Printf("\n%d mutants, %d killed, %d survived\n", len(chosen), len(chosen)-survivors, survivors)
	return survivors, nil
}

// workshop is a copy of the tree with the suite built from the tree itself.
type workshop struct {
	dir   string // of all
	tree  string
	suite string // the conform binary
}

// patience is the time for a check: many mutants show in what never comes.
const patience = 20 * time.Second

// copied is what the broker is built from.
var copied = []string{"go.mod", "go.sum", "cmd", "core", "packaging", "platform", "storeforward", "uplink"}

func newWorkshop(ctx context.Context) (w *workshop, err error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return nil, errors.New("internal error: no path of the source")
	}
	root := filepath.Join(filepath.Dir(file), "..", "..", "..")
	w = new(workshop)
	if w.dir, err = os.MkdirTemp("", "dunlin-mutants-"); err != nil {
		return nil, err
	}
	w.tree, w.suite = filepath.Join(w.dir, "tree"), filepath.Join(w.dir, "conform")
	defer func() {
		if err != nil {
			os.RemoveAll(w.dir)
		}
	}()
	for _, name := range copied {
		from, to := filepath.Join(root, name), filepath.Join(w.tree, name)
		info, err := os.Stat(from)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			err = os.CopyFS(to, os.DirFS(from))
		} else {
			var text []byte
			if text, err = os.ReadFile(from); err == nil {
				err = errors.Join(os.MkdirAll(w.tree, 0o700), os.WriteFile(to, text, 0o600))
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return w, run(ctx, root, "go", "build", "-o", w.suite, "./testbench/conform")
}

// binary is the broker that build makes.
func (w *workshop) binary() string { return filepath.Join(w.dir, "dunlin") }

func (w *workshop) build(ctx context.Context) error {
	return run(ctx, w.tree, "go", "build", "-trimpath", "-buildvcs=false", "-o", w.binary(), "./cmd/dunlin")
}

// conform runs the suite with statements and returns what it prints and whether one failed.
func (w *workshop) conform(ctx context.Context, statements []string) (out string, failed bool, err error) {
	cmd := exec.CommandContext(ctx, w.suite, "-patience", patience.String(), "-run", strings.Join(statements, ","))
	cmd.Env = append(os.Environ(), process.BinaryVariable+"="+w.binary())
	b, err := cmd.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() == 1 {
		return string(b), true, nil
	}
	if err != nil {
		err = fmt.Errorf("conform: %w\n%s", err, b)
	}
	return string(b), false, err
}

// try builds the broker with a mutant and returns the statements that hold all the same.
func (w *workshop) try(ctx context.Context, m mutant) (alive []string, err error) {
	file := filepath.Join(w.tree, m.file)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, m.apply(text), 0o600); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.WriteFile(file, text, 0o600)) }()
	if err := w.build(ctx); err != nil {
		return nil, err
	}
	out, _, err := w.conform(ctx, m.statements)
	if err != nil {
		return nil, err
	}
	for _, s := range m.statements {
		version, id, _ := strings.Cut(s, ":")
		if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
			rest, ok := strings.CutPrefix(line, version)
			rest, here := strings.CutPrefix(strings.TrimSpace(rest), id+" ")
			return ok && here && strings.HasPrefix(strings.TrimSpace(rest), "FAILED")
		}) {
			alive = append(alive, s)
		}
	}
	return alive, nil
}

func (m *mutant) apply(text []byte) []byte {
	return bytes.Replace(text, []byte(m.text), []byte(m.broken), 1)
}

func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
