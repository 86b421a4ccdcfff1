package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
)

// mending is a mender whose check is in this process, and what it logs.
func mending(t *testing.T) (*mender, *bytes.Buffer) {
	var log bytes.Buffer
	m := newMender(slog.New(slog.NewTextHandler(&log, nil)))
	m.check = func(_ context.Context, path string) (*boltfile.Report, error) { return inspect(path, nil) }
	return m, &log
}

// opens makes the file at path fit, opens it as the broker does, and closes it.
func (m *mender) opens(t *testing.T, path string) error {
	t.Helper()
	return m.open(t.Context(), path, func(warm bool) error {
		s, err := sessionstore.Open(path, sessionstore.Options{Warm: warm})
		if err != nil {
			return err
		}
		return s.Close(context.Background())
	})
}

func sessionsIn(t *testing.T, folder string) string {
	t.Helper()
	path := filepath.Join(folder, sessionsFile)
	m, log := mending(t)
	if err := m.opens(t, path); err != nil || log.Len() > 0 {
		t.Fatalf("%v\n%s", err, log)
	}
	return path
}

func TestAFileThatIsOfNoUseIsPutAsideAndOneIsBegunAnew(t *testing.T) {
	for _, test := range []struct {
		name   string
		spoil  func(path string) error
		logged string
	}{
		{"a folder in its place", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, "it is no file"},
		{"zeroes", func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) }, "nothing in it could be read"},
		{"a text", func(path string) error { return os.WriteFile(path, []byte("hello"), 0o600) }, "nothing in it could be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := sessionsIn(t, dir)
			if err := test.spoil(path); err != nil {
				t.Fatal(err)
			}
			m, log := mending(t)
			if err := m.opens(t, path); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path + ".damaged-1"); err != nil || !strings.Contains(log.String(), test.logged) {
				t.Errorf("%v\n%s", err, log)
			}
			if a := m.alarm(dir); !strings.Contains(a, "sessions.db.damaged-1") || !strings.Contains(a, test.logged) {
				t.Errorf("alarm %q", a)
			}
			m, log = mending(t)
			if err := m.opens(t, path); err != nil || log.Len() > 0 {
				t.Errorf("the new one: %v\n%s", err, log)
			}
			if a := m.alarm(dir); a != "kept until they are removed: sessions.db.damaged-1" {
				t.Errorf("alarm %q", a)
			}
		})
	}
}

func TestAnEmptyFileIsBegunAnewAndReported(t *testing.T) {
	path := sessionsIn(t, t.TempDir())
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	m, log := mending(t)
	if err := m.opens(t, path); err != nil || !strings.Contains(log.String(), "file is empty") || len(m.damaged) != 1 {
		t.Errorf("%v\n%s", err, log)
	}
}

func TestAFileThatIsNotOursToMendIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	path := sessionsIn(t, dir)
	k := sessionstore.Kind()
	other := filepath.Join(dir, "newer.db")
	k.Version++
	if _, err := boltfile.Salvage(path, other, k, nil); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(other)
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	m, log := mending(t)
	if err := m.opens(t, path); !errors.Is(err, boltfile.ErrNewer) || log.Len() > 0 {
		t.Errorf("got %v, want that it is newer\n%s", err, log)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("it was written to")
	}
}

func TestACheckThatEndsWithoutAnAnswerIsDamage(t *testing.T) {
	r, err := readFinding("sessions.db", []byte("....."), errors.New("exit status 2"), "fatal error: fault\n\ngoroutine 1")
	if err != nil || !r.Damaged() || r.Words[0] != "its check has ended without an answer: exit status 2: fatal error: fault" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A stop of the service goes to all of its processes.
func TestACheckThatIsStoppedIsNoDamage(t *testing.T) {
	for _, signal := range []string{"TERM", "INT", "HUP"} {
		end := exec.Command("sh", "-c", "kill -"+signal+" $$").Run()
		if r, err := readFinding("sessions.db", []byte("..."), end, ""); !errors.Is(err, errCheckStopped) || r != nil {
			t.Errorf("%s: got %+v, %v", signal, r, err)
		}
	}
}

func TestACheckThatCannotLookIsNoDamage(t *testing.T) {
	r, err := readFinding("sessions.db", []byte("\n{\"Error\":\"permission denied\"}\n"), nil, "")
	if err == nil || r != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	m, log := mending(t)
	m.check = func(context.Context, string) (*boltfile.Report, error) { return nil, errCheckHangs }
	path := sessionsIn(t, t.TempDir())
	if err := m.opens(t, path); err != nil || !strings.Contains(log.String(), "could not be checked") || boltfile.Aside(path) != nil {
		t.Errorf("%v\n%s", err, log)
	}
}

func TestTheCheckIsGivenUpOnlyWhenItReadsNothingMore(t *testing.T) {
	out := make(chan struct{})
	p := &patience{limit: time.Hour, out: func() { close(out) }}
	p.begin()
	for range 3 {
		p.Write([]byte("...")) // starts the hour anew
	}
	p.Write([]byte("\n{}"))
	if p.said.String() != "\n{}" {
		t.Errorf("kept %q", p.said.String())
	}
	p.timer.Reset(0)
	<-out
	p.stop()
}

func TestDbcheckTellsWhatItHasFound(t *testing.T) {
	dir := t.TempDir()
	path := sessionsIn(t, dir)
	dunlin(t, "", "dbcheck", path).check(t, 0, "…\n{\"Kind\":\"dunlin.sessions\",\"Format\":\"dunlin.sessions\",\"Version\":1,\"Clean\":true…\"Faults\":0,\"BadValues\":0,\"Words\":null}\n", "")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dunlin(t, "", "dbcheck", path).check(t, 0, "...…\n{…\"Faults\":1…both meta pages are damaged…}\n", "")
	dunlin(t, "", "dbcheck", dir).check(t, 0, "\n{\"Error\":\"…is no regular file\"}\n", "")
	dunlin(t, "", "dbcheck").check(t, 2, "", "dunlin dbcheck: it wants one file\n\"dunlin dbcheck --help\" tells how it is used\n")
}
