package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"dunlin/core/durable"
	"dunlin/platform/clock"
	"dunlin/storeforward/sessionstore"
	"dunlin/storeforward/spool"
)

// maxLine is the longest line that is read: the largest packet that can be configured, as base64.
const maxLine = 400 << 20

// Result is what was read.
type Result struct {
	Header Header
	Files  []string
	Lines  map[string]uint64 // by kind
	// Mismatch is by how many entries the queues do not add up.
	Mismatch uint64
}

// SyntaxError says which line of an archive cannot be read, and why.
type SyntaxError struct {
	Line int
	Err  error
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("archive: line %d: %v", e.Line, e.Err) }
func (e *SyntaxError) Unwrap() error { return e.Err }

// reader reads an archive into files of a folder.
type reader struct {
	folder string
	in     *bufio.Reader
	line   int
	sum    uint32
	long   []byte // of a line that is longer than the buffer of in
	result Result

	sessions *sessionstore.Builder
	spool    *spool.Builder // of the last file, if that is a spool
	source   durable.Seq    // the highest that a spool has taken over
	audit    *sessionstore.Audit
}

// read makes files in folder of an archive. What it makes is whole and on disk if it returns no error.
func read(folder string, in io.Reader) (*Result, error) {
	r := &reader{
		folder: folder, in: bufio.NewReaderSize(in, 64<<10), audit: sessionstore.NewAudit(),
		result: Result{Lines: make(map[string]uint64)},
	}
	err := r.all()
	if err != nil {
		if r.line > 0 {
			err = &SyntaxError{r.line, err}
		}
		for _, b := range []interface{ Abandon() error }{r.sessions, r.spool} {
			if !reflect.ValueOf(b).IsNil() {
				err = errors.Join(err, b.Abandon())
			}
		}
		return nil, err
	}
	return &r.result, nil
}

func (r *reader) all() error {
	for {
		lines, sum := r.line, r.sum
		l, err := r.next()
		if err == io.EOF {
			return errors.New("the archive has no end: the rest of it is missing")
		}
		if err != nil {
			return err
		}
		kind := kindOf(l)
		r.result.Lines[kind]++
		switch {
		case r.line == 1 && l.Archive == nil:
			return errors.New("it is no archive of dunlin")
		case l.Archive != nil && r.line > 1:
			return errors.New("another archive begins")
		case l.Archive != nil && l.Archive.Version > Version:
			return fmt.Errorf("the archive is of version %d, this program reads up to %d; use the dunlin that made it (%.40q) or a newer one",
				l.Archive.Version, Version, l.Archive.By)
		case l.Archive != nil && l.Archive.Version < 1:
			return fmt.Errorf("there is no version %d of archives", l.Archive.Version)
		case l.Archive != nil:
			r.result.Header = *l.Archive
		case l.End != nil:
			if l.End.Lines != uint64(lines) || l.End.Checksum != fmt.Sprintf("%08x", sum) {
				return fmt.Errorf("the archive is damaged: %d lines with checksum %08x, want %d with %.8q", lines, sum, l.End.Lines, l.End.Checksum)
			}
			return r.finish()
		case l.File != nil:
			err = r.file(l.File)
		default:
			err = r.value(l)
		}
		if err != nil {
			return err
		}
	}
}

// next reads a line, which has exactly one kind.
func (r *reader) next() (*Line, error) {
	text, err := r.text()
	if err != nil {
		return nil, err
	}
	r.line++
	r.sum = crc32.Update(r.sum, castagnoli, text)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	l := new(Line)
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf("it is no JSON of an archive: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something behind the JSON")
	}
	kinds := 0
	for v, i := reflect.ValueOf(l).Elem(), 0; i < v.NumField(); i++ {
		if !v.Field(i).IsNil() {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, fmt.Errorf("it is of %d kinds, want 1", kinds)
	}
	return l, nil
}

// text reads a line with its end. It is valid until the next call.
func (r *reader) text() ([]byte, error) {
	r.long = r.long[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		switch {
		case err == nil && len(r.long) == 0:
			return part, nil
		case err == nil:
			r.long = append(r.long, part...)
			return r.long, nil
		case errors.Is(err, bufio.ErrBufferFull):
			if r.long = append(r.long, part...); len(r.long) > maxLine {
				return nil, fmt.Errorf("a line is longer than %d bytes", maxLine)
			}
		case err == io.EOF && len(r.long)+len(part) > 0:
			return nil, errors.New("the last line has no end: the rest of the archive is missing")
		default:
			return nil, err
		}
	}
}

// file begins a file.
func (r *reader) file(f *File) error {
	if err := r.endSpool(); err != nil {
		return err
	}
	path := filepath.Join(r.folder, f.Name)
	format, version := spool.Kind().Format, spool.Kind().Version
	if f.Name == SessionsFile {
		format, version = sessionstore.Kind().Format, sessionstore.Kind().Version
	}
	_, statErr := os.Lstat(path)
	var err error
	switch {
	case f.Name != SessionsFile && !IsSpool(f.Name):
		return fmt.Errorf("%.80q is no file of a data folder", f.Name)
	case statErr == nil:
		return fmt.Errorf("%s is there twice", f.Name)
	case f.Format != format:
		return fmt.Errorf("%s holds %.40q, want %q", f.Name, f.Format, format)
	case f.Version > version:
		return fmt.Errorf("%s has format version %d, this program knows up to %d; use the dunlin that made the archive or a newer one", f.Name, f.Version, version)
	case f.Name == SessionsFile:
		r.sessions, err = sessionstore.NewBuilder(path)
	default:
		r.spool, err = spool.NewBuilder(path)
	}
	r.result.Files = append(r.result.Files, f.Name)
	return err
}

// value puts a line into the file that it is of.
func (r *reader) value(l *Line) error {
	if l.Damaged != nil {
		return nil // counted
	}
	if l.Spooled != nil || l.Spool != nil {
		if r.spool == nil {
			return errors.New("it belongs into the spool of an uplink, and no such file has begun")
		}
		v, err := l.spooled()
		if err != nil {
			return err
		}
		if v.State != nil {
			r.source = max(r.source, v.State.Source)
		}
		return r.spool.Put(v)
	}
	if r.sessions == nil || r.spool != nil {
		return fmt.Errorf("it belongs into %s, and that file has not begun or has ended", SessionsFile)
	}
	v, err := l.session()
	if err != nil {
		return err
	}
	r.audit.Take(v)
	return r.sessions.Put(v)
}

func (r *reader) endSpool() error {
	b := r.spool
	r.spool = nil
	if b == nil {
		return nil
	}
	return b.Finish()
}

func (r *reader) finish() error {
	if err := r.endSpool(); err != nil {
		return err
	}
	if len(r.result.Files) == 0 {
		return errors.New("the archive holds no file")
	}
	r.result.Mismatch = r.audit.Mismatch()
	b := r.sessions
	r.sessions = nil
	if b == nil {
		return nil
	}
	// A spool takes nothing over that has a number which it knows already.
	b.Raise(r.source)
	return b.Finish()
}

// session makes a value of sessions.db of a line.
func (l *Line) session() (v *sessionstore.Value, err error) {
	v = new(sessionstore.Value)
	switch {
	case l.Boot != nil:
		v.Boot = (*clock.Boot)(l.Boot)
	case l.Delayed != nil:
		v.Delayed = &durable.Delayed{Seq: durable.Seq(l.Delayed.Seq), Delay: l.Delayed.Delay}
		v.Delayed.Message, err = l.Delayed.Message.message()
	case l.Session != nil:
		v.Session, err = l.Session.session()
	case l.Cursor != nil:
		v.Cursor, err = l.Cursor.cursor()
	case l.Retained != nil:
		v.Retained, err = l.Retained.message()
	case l.Gone != nil:
		v.Gone, v.Bucket, v.Key = true, "sessions", binary.BigEndian.AppendUint64(nil, l.Gone.Session)
		if l.Gone.Session == 0 {
			v.Bucket, v.Key = "due", binary.BigEndian.AppendUint64(nil, l.Gone.Delayed)
		}
	case l.Total != nil:
		var c sessionstore.Counts
		c, err = l.Total.counts()
		v.Total = &c
	case l.Counters != nil:
		v.Counters = &sessionstore.Counters{Seq: durable.Seq(l.Counters.Seq), Session: durable.SessionNumber(l.Counters.Session)}
	case l.Message != nil:
		v.Message, err = l.Message.record()
	}
	return v, err
}

// spooled makes a value of a spool of a line.
func (l *Line) spooled() (v *spool.Value, err error) {
	v = new(spool.Value)
	if l.Spool != nil {
		v.State, err = l.Spool.state()
		return v, err
	}
	m, err := l.Spooled.Message.message()
	v.Message = &spool.Stored{Seq: spool.Seq(l.Spooled.Seq), QoS: l.Spooled.QoS, Message: m}
	return v, err
}

// Checker takes an archive as it is written and finds out whether it is whole.
type Checker struct {
	lines    uint64
	sum      uint32 // up to the end of the last line
	now      uint32 // up to the last byte
	head     []byte // begin of the line under way
	complete bool
}

// maxEnd is longer than the last line of an archive.
const maxEnd = 256

// Write never fails.
func (c *Checker) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		if ended {
			line = b[:len(line)+1]
		}
		b = rest
		c.now = crc32.Update(c.now, castagnoli, line)
		if room := maxEnd - len(c.head); room > 0 {
			c.head = append(c.head, line[:min(room, len(line))]...)
		}
		c.complete = false
		if !ended {
			break
		}
		if strings.HasPrefix(string(c.head), `{"end":`) {
			var l Line
			c.complete = json.Unmarshal(c.head, &l) == nil && l.End != nil && l.End.Lines == c.lines && l.End.Checksum == fmt.Sprintf("%08x", c.sum)
		}
		c.lines++
		c.sum, c.head = c.now, c.head[:0]
	}
	return n, nil
}

// Complete says whether everything up to now was a whole archive.
func (c *Checker) Complete() bool { return c.complete }
