package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Kind says what a file holds, for those who look into it without opening it.
type Kind struct {
	Format  string
	Version uint32 // the highest that is read
	Buckets []string
	// Check says whether value is what was written under key in the bucket; nil = it is. It must be
	// quick, and not keep what it is given. The first three keys of the meta bucket are not its.
	Check func(bucket string, key, value []byte) error
	// Fits says whether value has the form of that bucket, behind Check: it may be found where
	// nothing tells which bucket it is of.
	Fits func(bucket string, key, value []byte) bool
	// Unchanging are the buckets whose values are written once and never changed: any copy of one
	// is as good as another.
	Unchanging []string
	// Newer reports whether a is newer than b, two whole values under the same key, for the buckets
	// in which an old value is better than none. Others are not taken from pages that may be free.
	Newer map[string]func(key, a, b []byte) bool
	// Mend completes a file that was salvaged, in its last transaction; nil = nothing is to be done.
	// lost says that numbers may have been given of which nothing is left.
	Mend func(tx *bbolt.Tx, lost bool) error
}

// Report is what Inspect has found.
type Report struct {
	Kind     string // the format that it was held against
	Format   string // that it has itself, "" = it does not say
	Version  uint32
	Clean    bool   // the last process closed it
	TxID     uint64 // of the last transaction that is there whole
	Bytes    int64  // of the file
	Free     int    // pages that are known to be free; -1 = the list was not written
	FellBack bool   // the newer meta page is damaged: at least one transaction is lost
	Values   map[string]uint64

	Foreign bool // it is whole, and of another kind
	Newer   bool // a newer version of the program wrote it

	Faults    uint64 // of the structure: each makes a part of the file unreadable
	BadValues uint64
	Words     []string // the first faults and bad values
}

// Damaged reports whether the file is not what was written to it, and is ours to mend.
func (r *Report) Damaged() bool {
	return !r.Foreign && !r.Newer && (r.Faults > 0 || r.BadValues > 0 || r.FellBack)
}

// All is the sum of Values.
func (r *Report) All() (n uint64) {
	for _, k := range r.Values {
		n += k
	}
	return n
}

// maxWords bounds Report.Words.
const maxWords = 10

func (r *Report) say(format string, args ...any) {
	if len(r.Words) < maxWords {
		r.Words = append(r.Words, fmt.Sprintf(format, args...))
	}
}

func (r *Report) fault(format string, args ...any) {
	r.Faults++
	r.say(format, args...)
}

// Inspect reads the file at path from its begin to its end and says what is wrong with it: meta
// pages, list of free pages, tree, and each value by its checksum. It writes nothing, takes no
// lock, and neither panics nor faults whatever the file holds; nobody may write to the file
// meanwhile. read is told of the bytes that were read, nil = nobody is.
//
// An error means that the file cannot be looked at, which says nothing about damage.
func Inspect(path string, k Kind, read func(bytes int)) (*Report, error) {
	p, err := openPages(path, read)
	if err != nil {
		return nil, fmt.Errorf("boltfile: inspect: %w", err)
	}
	defer p.close()
	preread(path, read)
	r := &Report{Kind: k.Format, Bytes: p.size, Values: make(map[string]uint64)}
	newest, _, fellBack := p.metas()
	if !newest.whole {
		r.fault("both meta pages are damaged")
		return r, nil
	}
	r.TxID, r.FellBack = newest.txid, fellBack
	if fellBack {
		r.say("the meta page of transaction %d or a later one is damaged", newest.txid)
	}
	if newest.high > p.count {
		r.fault("the file ends at page %d, it should have %d", p.count, newest.high)
	}
	i := inspection{kind: k, report: r}
	w := walk{pages: p, value: i.value, hole: i.hole, found: i.found}
	if err := w.run(newest); err != nil {
		return nil, err
	}
	i.free(p, newest, w.seen)
	i.finish()
	return r, nil
}

// inspection collects what a walk finds.
type inspection struct {
	kind    Kind
	report  *Report
	buckets []string // that were found, meta left out
}

func (i *inspection) found(bucket string) {
	if bucket != string(metaBucket) {
		i.buckets = append(i.buckets, bucket)
	}
}

func (i *inspection) value(bucket string, key, value []byte) error {
	r := i.report
	if bucket == string(metaBucket) && i.meta(key, value) {
		return nil
	}
	r.Values[bucket]++
	if err := i.kind.Check(bucket, key, value); err != nil {
		r.BadValues++
		r.say("bucket %s, key %x: %v", bucket, key, err)
	}
	return nil
}

// meta reads one of the keys that say what the file is, and reports whether it is one.
func (i *inspection) meta(key, value []byte) bool {
	switch string(key) {
	case string(keyFormat):
		i.report.Format = strings.Clone(string(value))
	case string(keyVersion):
		if len(value) == 4 {
			i.report.Version = binary.BigEndian.Uint32(value)
		}
	case string(keyState):
		i.report.Clean = string(value) == string(stateClean)
	default:
		return false
	}
	return true
}

func (i *inspection) hole(bucket string, _ span, page uint64, why error) {
	if bucket == "" {
		bucket = "the buckets"
	}
	i.report.fault("page %d of %s: %v", page, bucket, why)
}

// free checks that what counts as free is not in use: it would be written over.
func (i *inspection) free(p *pages, m metaPage, seen pageSet) {
	ids, own, err := p.freelist(m)
	if err != nil {
		i.report.fault("the list of free pages, page %d: %v", m.freelist, err)
		return
	}
	i.report.Free = len(ids)
	if m.freelist == noFreelist {
		i.report.Free = -1
		return
	}
	for id := range own {
		if seen.has(m.freelist + id) {
			i.report.fault("page %d is in use, and in the list of free pages", m.freelist+id)
		}
	}
	for _, id := range ids {
		if seen.has(id) {
			i.report.fault("page %d is in use and counts as free", id)
			return
		}
	}
}

// finish judges the file as a whole. A text that differs in a few bytes is a damaged one.
func (i *inspection) finish() {
	r := i.report
	ours := len(r.Format) == len(i.kind.Format)
	if r.Format == "" {
		for _, b := range i.kind.Buckets {
			ours = ours || r.Values[b] > 0
		}
	}
	switch {
	case !ours:
		r.Foreign = r.Faults == 0
	case r.Format != i.kind.Format:
		r.fault("it says that it holds %q, want %q", r.Format, i.kind.Format)
	case r.Version == 0 || r.Version > maxVersion:
		r.fault("it says that it is of version %d", r.Version)
	default:
		if r.Newer = r.Version > i.kind.Version; !r.Newer {
			i.names()
		}
	}
}

// names looks for a damaged name of a bucket: one is missing, and another one is there that nobody
// knows. A bucket that is missing otherwise is of a later program, and is made by Open.
func (i *inspection) names() {
	missing, unknown := without(i.kind.Buckets, i.buckets), without(i.buckets, i.kind.Buckets)
	if len(missing) > 0 && len(unknown) > 0 {
		i.report.fault("there is no bucket %q, but one %q", missing[0], unknown[0])
	}
}

// without returns what of a is not in b.
func without(a, b []string) (rest []string) {
	for _, s := range a {
		if !slices.Contains(b, s) {
			rest = append(rest, s)
		}
	}
	return rest
}

// maxVersion is more than there will be.
const maxVersion = 1000

// Openable opens a file that Inspect has found whole as a broker would, but for reading, and with
// the list of free pages: bbolt walks the tree for that on a goroutine of its own, where a panic
// ends the process. So this is for a process that may end. What says nothing about the file, such as that
// another process has it, or that there is no room to map it, is no error.
func Openable(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	if errno, system := errors.AsType[syscall.Errno](err); system && errno != syscall.EIO || errors.Is(err, bolterrors.ErrTimeout) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("boltfile: %w", err)
	}
	return db.Close()
}
