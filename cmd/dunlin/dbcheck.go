package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
	"dunlin/storeforward/spool"
)

const dbcheckHelp = `Usage: dunlin dbcheck FILE

The broker runs this for a file of its data folder before it opens it: damage
may end this process, and then not the broker. It writes nothing and prints
what it has found as JSON, behind a dot for each MiB that was read.
`

// sessionsFile is the file of the sessions in the data folder.
const sessionsFile = "sessions.db"

// kindOf says what a file of the data folder holds, by its name: the file itself may be damaged.
func kindOf(path string) boltfile.Kind {
	if strings.HasPrefix(filepath.Base(path), "uplink-") {
		return spool.Kind()
	}
	return sessionstore.Kind()
}

// finding is what dbcheck prints.
type finding struct {
	*boltfile.Report
	Error string `json:",omitempty"` // it could not look
}

func dbcheck(c *call) error {
	files, err := c.parse(c.options())
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return usagef("it wants one file")
	}
	report, err := inspect(files[0], dots(c.out))
	f := finding{Report: report}
	if err != nil {
		f.Error = err.Error()
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "\n%s\n", b)
	return err
}

// inspect looks into a file, and lets bbolt have it if it seems whole.
func inspect(path string, read func(bytes int)) (*boltfile.Report, error) {
	report, err := boltfile.Inspect(path, kindOf(path), read)
	if err != nil || report.Damaged() || report.Foreign || report.Newer || report.Free < 0 {
		// Without its list of free pages bbolt would walk the tree as Inspect just did.
		return report, err
	}
	if err := boltfile.Openable(path); err != nil {
		report.Faults++
		report.Words = append(report.Words, err.Error())
	}
	return report, nil
}

// dots writes one for each MiB that was read.
func dots(w io.Writer) func(bytes int) {
	sum := 0
	return func(bytes int) {
		for sum += bytes; sum >= 1<<20; sum -= 1 << 20 {
			io.WriteString(w, ".")
		}
	}
}

// checkPatience is how long the check may go without having read a MiB. A large file takes as long
// as it takes.
const checkPatience = 30 * time.Second

// errCheckHangs says that the medium does not answer, which is no damage.
var errCheckHangs = errors.New("the check reads nothing more")

// checkApart looks into a file in a process of its own. If that cannot be run, it looks itself: what
// it does itself does not fail on damage, as far as is known.
func checkApart(ctx context.Context, path string) (*boltfile.Report, error) {
	self, err := os.Executable()
	if err != nil {
		return boltfile.Inspect(path, kindOf(path), nil)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, self, "dbcheck", path)
	cmd.WaitDelay = time.Second // a process that waits for a dead disk does not even end when it is killed
	cmd.Env = append(os.Environ(), "GOMEMLIMIT=8MiB")
	watch := &patience{limit: checkPatience, out: func() { cancel(errCheckHangs) }}
	defer watch.stop()
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = watch, &limited{w: &errs, n: 4096}
	watch.begin()
	if err := cmd.Start(); err != nil {
		return boltfile.Inspect(path, kindOf(path), nil)
	}
	err = cmd.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return readFinding(path, watch.said.Bytes(), err, errs.String())
}

// errCheckStopped says that somebody has stopped the check, as with the whole service. That is no damage.
var errCheckStopped = errors.New("the check was stopped")

// stopped reports whether a process has ended by a signal that stops services, or programs of a terminal.
func stopped(end error) bool {
	exit, ok := errors.AsType[*exec.ExitError](end)
	if !ok {
		return false
	}
	st, ok := exit.Sys().(syscall.WaitStatus)
	return ok && st.Signaled() && (st.Signal() == syscall.SIGTERM || st.Signal() == syscall.SIGINT || st.Signal() == syscall.SIGHUP)
}

// readFinding takes the answer of a check that has ended.
func readFinding(path string, said []byte, end error, errs string) (*boltfile.Report, error) {
	if stopped(end) {
		return nil, errCheckStopped
	}
	var f finding
	if i := bytes.IndexByte(said, '{'); i < 0 || json.Unmarshal(said[i:], &f) != nil {
		why := fmt.Sprintf("its check has ended without an answer: %v", end)
		if line, _, _ := strings.Cut(strings.TrimSpace(errs), "\n"); line != "" {
			why += ": " + line
		}
		return &boltfile.Report{Kind: kindOf(path).Format, Faults: 1, Words: []string{why}}, nil
	}
	if f.Error != "" {
		return nil, errors.New(f.Error)
	}
	return f.Report, nil
}

// patience calls out when nothing was written to it for so long.
type patience struct {
	limit time.Duration
	out   func()
	timer *time.Timer
	said  bytes.Buffer // bounded by what dbcheck prints
}

func (p *patience) begin() { p.timer = time.AfterFunc(p.limit, p.out) }

func (p *patience) stop() { p.timer.Stop() }

func (p *patience) Write(b []byte) (int, error) {
	p.timer.Reset(p.limit)
	p.said.Write(bytes.TrimLeft(b, "."))
	return len(b), nil
}

// limited passes on the first n bytes.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(b []byte) (int, error) {
	k := min(l.n, len(b))
	l.n -= k
	if _, err := l.w.Write(b[:k]); err != nil {
		return 0, err
	}
	return len(b), nil
}
