package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"dunlin/cmd/dunlin/config"
	"dunlin/testbench/process"
)

// spell logs one record of each kind.
func spell(l *slog.Logger) {
	l.Debug("debugging")
	l.Info("listening", "address", "127.0.0.1:1883", "open", false)
	l.With("client_id", "a b").Warn("slow", slog.Group("queue", "len", 3))
	l.WithGroup("uplink").Error("lost", "err", errors.New("no\nroute"))
}

func TestLinesAreForPeopleAndForTheJournal(t *testing.T) {
	const at = "07:08:09"
	for _, tt := range []struct {
		name string
		head func([]byte, *slog.Record) []byte
		want string
	}{
		{"journal", journalHead, `<7>debugging
<6>listening address=127.0.0.1:1883 open=false
<4>slow client_id="a b" queue.len=3
<3>lost uplink.err="no\nroute"
`},
		{"terminal", terminalHead, at + ` DEBUG debugging
` + at + ` INFO  listening address=127.0.0.1:1883 open=false
` + at + ` WARN  slow client_id="a b" queue.len=3
` + at + ` ERROR lost uplink.err="no\nroute"
`},
		{"text", textHead, "2024-05-06T07:08:09.000Z DEBUG debugging\n2024-05-06T07:08:09.000Z INFO  listening …"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			h := newLines(&b, slog.LevelDebug, func(dst []byte, r *slog.Record) []byte {
				r.Time = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
				return tt.head(dst, r)
			})
			spell(slog.New(h))
			if !matches(tt.want, b.String()) {
				t.Errorf("got\n%swant\n%s", b.String(), tt.want)
			}
		})
	}
}

func TestLogGoesWhereItIsAskedFor(t *testing.T) {
	for _, tt := range []struct {
		name    string
		o       config.Log
		journal bool
		want    string
	}{
		{"text", config.Log{Level: "info", Format: "auto"}, false, "20… INFO  listening …\n… WARN  slow …\n… ERROR …\n"},
		{"journal", config.Log{Level: "info", Format: "auto"}, true, "<6>listening …\n<4>slow …\n<3>lost …\n"},
		{"text in the journal", config.Log{Level: "error", Format: "text"}, true, "20… ERROR lost …\n"},
		{"json", config.Log{Level: "warn", Format: "json"}, false, `{"time":"…","level":"WARN","msg":"slow",…}` + "\n{…}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			t.Setenv("JOURNAL_STREAM", "1:1")
			if tt.journal {
				t.Setenv("JOURNAL_STREAM", stream(t, f))
			}
			spell(newLogger(tt.o, f))
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !matches(tt.want, string(got)) {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

func TestFaultsReachTheJournalAsErrors(t *testing.T) {
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), binary, "serve", "--set", "log.level=loud", "--set", "data=")
	cmd.Stderr = f
	cmd.Env = append(os.Environ(), "JOURNAL_STREAM="+stream(t, f))
	cmd.Run()
	got, err := os.ReadFile(f.Name())
	if err != nil || !matches("<3>--set data=: data: is empty…\n<3>--set log.level=loud: …\n", string(got)) {
		t.Errorf("got %q, %v", got, err)
	}
}

// stream names f as systemd does in JOURNAL_STREAM.
func stream(t *testing.T, f *os.File) string {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
