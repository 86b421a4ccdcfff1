package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/cmd/dunlin/config"
)

// newLogger returns the logger of the broker. The format "auto" is journal if systemd reads what
// is written, otherwise text.
func newLogger(o config.Log, f *os.File) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.Level)); err != nil {
		panic(fmt.Sprintf("dunlin: internal error: log level %q passed the checks", o.Level))
	}
	format := o.Format
	if format == "auto" {
		format = "text"
		if toJournal(f) {
			format = "journal"
		}
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(f, &slog.HandlerOptions{Level: level}))
	case "journal":
		return slog.New(newLines(f, level, journalHead))
	}
	if terminal(f) {
		return slog.New(newLines(f, level, terminalHead))
	}
	return slog.New(newLines(f, level, textHead))
}

// lines is a slog.Handler for people: a head, the message as it stands, then the attributes as
// key=value. One line for each record: values with line breaks are quoted.
type lines struct {
	*sink
	head  func(dst []byte, r *slog.Record) []byte
	attrs slog.Handler // writes the attributes into sink.attrs
}

// sink is what the handlers that derive from one share.
type sink struct {
	mu    sync.Mutex // guards what follows and keeps lines whole
	w     io.Writer
	line  []byte
	attrs bytes.Buffer
}

func newLines(w io.Writer, level slog.Leveler, head func([]byte, *slog.Record) []byte) *lines {
	s := &sink{w: w}
	return &lines{sink: s, head: head, attrs: slog.NewTextHandler(&s.attrs, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			// The head has them. The time is zero, which leaves it out.
			if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})}
}

func (l *lines) Enabled(ctx context.Context, level slog.Level) bool {
	return l.attrs.Enabled(ctx, level)
}

func (l *lines) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = l.head(l.line[:0], &r)
	l.line = append(l.line, r.Message...)
	r.Time = time.Time{}
	l.sink.attrs.Reset()
	if err := l.attrs.Handle(ctx, r); err != nil {
		return err
	}
	if attrs := l.sink.attrs.Bytes(); len(attrs) > 1 { // more than the line break
		l.line = append(l.line, ' ')
		l.line = append(l.line, attrs...)
	} else {
		l.line = append(l.line, '\n')
	}
	_, err := l.w.Write(l.line)
	return err
}

func (l *lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &lines{sink: l.sink, head: l.head, attrs: l.attrs.WithAttrs(attrs)}
}

func (l *lines) WithGroup(name string) slog.Handler {
	return &lines{sink: l.sink, head: l.head, attrs: l.attrs.WithGroup(name)}
}

// journalHead is the priority of syslog(3), which journald takes off the line.
func journalHead(dst []byte, r *slog.Record) []byte {
	switch {
	case r.Level >= slog.LevelError:
		return append(dst, "<3>"...)
	case r.Level >= slog.LevelWarn:
		return append(dst, "<4>"...)
	case r.Level >= slog.LevelInfo:
		return append(dst, "<6>"...)
	}
	return append(dst, "<7>"...)
}

func terminalHead(dst []byte, r *slog.Record) []byte {
	return fmt.Appendf(r.Time.AppendFormat(dst, "15:04:05"), " %-5s ", r.Level)
}

func textHead(dst []byte, r *slog.Record) []byte {
	return fmt.Appendf(r.Time.AppendFormat(dst, "2006-01-02T15:04:05.000Z07:00"), " %-5s ", r.Level)
}

// toJournal reports whether f is the stream that systemd gave the process for its journal.
func toJournal(f *os.File) bool {
	stream := os.Getenv("JOURNAL_STREAM")
	if stream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// terminal reports whether f is a terminal.
func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
