package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
	"dunlin/storeforward/spool"
)

// SessionsFile is the name of the file of the sessions in a data folder.
const SessionsFile = "sessions.db"

// IsSpool says whether a file of a data folder is the spool of an uplink, by its name.
func IsSpool(name string) bool {
	uplink, ok := strings.CutPrefix(name, "uplink-")
	uplink, db := strings.CutSuffix(uplink, ".db")
	return ok && db && uplink != "" && !strings.ContainsAny(uplink, "/\x00")
}

// Sources are what an archive is made of, in this order: what has left sessions.db for a spool is in
// the one or the other.
type Sources struct {
	Sessions Visitor[sessionstore.Value] // nil = none
	Spools   []SpoolSource
}

// SpoolSource is the spool of an uplink.
type SpoolSource struct {
	File  string // name of its file
	Visit Visitor[spool.Value]
}

// Visitor calls fn with each value of a file, and between after each read transaction.
type Visitor[V any] func(ctx context.Context, fn func(*V) error, between func() error) error

// Writer writes an archive.
type Writer struct {
	w     io.Writer
	buf   bytes.Buffer // what was not given to w yet
	lines uint64
	sum   uint32
	only  []string // kinds of lines that are wanted, nil = all
}

// maxKept is how much of the buffer is kept from one step to the next.
const maxKept = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Write writes an archive of the sources to w. by is the version of the program, at the time, "" = it is
// not known.
func Write(ctx context.Context, w io.Writer, from Sources, by, at string) error {
	a := &Writer{w: w}
	if err := a.line(&Line{Archive: &Header{Version, by, at}}); err != nil {
		return err
	}
	if err := a.sources(ctx, from); err != nil {
		return err
	}
	if err := a.line(&Line{End: &End{a.lines, fmt.Sprintf("%08x", a.sum)}}); err != nil {
		return err
	}
	return a.flush()
}

// Dump writes the lines of the sources of these kinds, nil = all, without the first line and the last.
func Dump(ctx context.Context, w io.Writer, from Sources, only []string) error {
	a := &Writer{w: w, only: only}
	if err := a.sources(ctx, from); err != nil {
		return err
	}
	return a.flush()
}

// Kinds are the kinds of lines that Dump can be asked for.
var Kinds = []string{"boot", "delayed", "session", "cursor", "retained", "total", "counters", "message", "spooled", "spool", "damaged"}

func (a *Writer) sources(ctx context.Context, from Sources) error {
	if from.Sessions != nil {
		k := sessionstore.Kind()
		if err := a.line(&Line{File: &File{SessionsFile, k.Format, k.Version}}); err != nil {
			return err
		}
		if err := from.Sessions(ctx, func(v *sessionstore.Value) error { return a.line(new(ofSessions(v))) }, a.flush); err != nil {
			return fmt.Errorf("archive: %s: %w", SessionsFile, err)
		}
	}
	for _, s := range from.Spools {
		k := spool.Kind()
		if err := a.line(&Line{File: &File{s.File, k.Format, k.Version}}); err != nil {
			return err
		}
		if err := s.Visit(ctx, func(v *spool.Value) error { return a.line(new(ofSpool(v))) }, a.flush); err != nil {
			return fmt.Errorf("archive: %s: %w", s.File, err)
		}
	}
	return nil
}

func (a *Writer) line(l *Line) error {
	if a.only != nil && !slices.Contains(a.only, kindOf(l)) {
		return nil
	}
	from := a.buf.Len()
	if err := marshal(&a.buf, l); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	a.lines++
	a.sum = crc32.Update(a.sum, castagnoli, a.buf.Bytes()[from:])
	return nil
}

func (a *Writer) flush() error {
	_, err := a.w.Write(a.buf.Bytes())
	if a.buf.Cap() > maxKept {
		a.buf = bytes.Buffer{}
	}
	a.buf.Reset()
	return err
}

// kindOf is the key of a line.
func kindOf(l *Line) string {
	switch {
	case l.Boot != nil:
		return "boot"
	case l.Delayed != nil:
		return "delayed"
	case l.Session != nil:
		return "session"
	case l.Cursor != nil:
		return "cursor"
	case l.Retained != nil:
		return "retained"
	case l.Gone != nil:
		return "gone"
	case l.Total != nil:
		return "total"
	case l.Counters != nil:
		return "counters"
	case l.Message != nil:
		return "message"
	case l.Spooled != nil:
		return "spooled"
	case l.Spool != nil:
		return "spool"
	case l.Damaged != nil:
		return "damaged"
	case l.File != nil:
		return "file"
	case l.End != nil:
		return "end"
	case l.Archive != nil:
		return "archive"
	}
	return ""
}

// Folder opens the files of a data folder that nobody uses, for reading only. close closes them.
func Folder(folder string) (from Sources, close func() error, err error) {
	var open []*boltfile.File
	close = func() error {
		var errs []error
		for _, f := range open {
			errs = append(errs, f.Close())
		}
		return errors.Join(errs...)
	}
	names, err := Files(folder)
	if err != nil {
		return from, nil, err
	}
	for _, name := range names {
		kind := spool.Kind()
		if name == SessionsFile {
			kind = sessionstore.Kind()
		}
		f, err := boltfile.OpenReader(filepath.Join(folder, name), kind)
		if err != nil {
			return from, nil, errors.Join(err, close())
		}
		open = append(open, f)
		if name == SessionsFile {
			from.Sessions = func(ctx context.Context, fn func(*sessionstore.Value) error, between func() error) error {
				return sessionstore.VisitFile(ctx, f, fn, between)
			}
			continue
		}
		from.Spools = append(from.Spools, SpoolSource{name, func(ctx context.Context, fn func(*spool.Value) error, between func() error) error {
			return spool.VisitFile(ctx, f, fn, between)
		}})
	}
	return from, close, nil
}

// Files are the names of the files of a data folder that hold something, sessions.db first.
func Files(folder string) (names []string, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Type() != 0 && info.Mode().Type() != fs.ModeSymlink || info.Size() == 0 {
			continue
		}
		switch {
		case e.Name() == SessionsFile:
			names = slices.Insert(names, 0, e.Name())
		case IsSpool(e.Name()):
			names = append(names, e.Name())
		}
	}
	return names, nil
}
