package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// PageSize is the page size of every file, whatever the kernel's: with the 16 KB pages of
	// some arm64 kernels each commit would write 63 KB.
	PageSize = 4096
	// FillPercent is for buckets that only grow at their end; see Appending. Their pages are never
	// written to again but for the last one, so nothing needs to be left free in them.
	FillPercent = 1.0
	// DefaultMaxBytes is the size that a file is expected to stay below.
	DefaultMaxBytes = 1 << 30

	// freelistLimit is the number of free pages up to which the free list goes into each commit:
	// one page then, and an open after a crash does not need to walk the file. A long list would
	// cost hundreds of KB per commit, so it is left out and rebuilt by such a walk.
	freelistLimit = 400
	// growStep is by how much a file grows, in bytes; each step costs an fsync of its own.
	growStep = 4 << 20
	// lockTimeout bounds the wait for another process that has the file; bbolt would wait for ever.
	lockTimeout = time.Second
)

// The keys of the meta bucket. Their values are in FORMAT.md.
var (
	metaBucket = []byte("meta")
	keyFormat  = []byte("format")
	keyVersion = []byte("version")
	keyState   = []byte("state")

	stateOpen  = []byte("open")
	stateClean = []byte("clean")
)

// Errors that callers branch on.
var (
	// ErrInUse says that another process has the file. The caller reports it and does not start.
	ErrInUse = errors.New("in use by another process")
	// ErrForeign says that the file is not one of ours or not of this kind. The caller reports it
	// and leaves the file alone.
	ErrForeign = errors.New("not a file of this kind")
	// ErrNewer says that a newer version of the program wrote the file. The caller reports it and
	// leaves the file alone.
	ErrNewer = errors.New("written by a newer version")
	// ErrUnavailable says that a commit failed and Recover has not succeeded yet, or that the file
	// is Absent. The caller tries again later.
	ErrUnavailable = errors.New("unavailable")
	// ErrClosed says that the file was closed.
	ErrClosed = errors.New("closed")
)

// Options says what a file is.
type Options struct {
	// Format names what the file holds, such as "dunlin.sessions". Required.
	Format string
	// Version is the highest version of the format that the caller reads, and the one a new file
	// gets. Required, from 1 on.
	Version uint32
	// Buckets are the top-level buckets that exist after Open.
	Buckets []string
	// MaxBytes is what the file is expected to stay below; 0 = DefaultMaxBytes. On 64-bit machines
	// so much address space is mapped at once: growing a mapping takes a lock that every open read
	// holds, and a slow reader would stall the writer. It is not a limit.
	MaxBytes int64
	// Absent, if not nil, is why the file cannot be used: nothing is opened, and every transaction
	// fails with ErrUnavailable and it. For those who serve without the file.
	Absent error
	// Damaged is told of damage that a transaction has met; nil = nobody is. It must not block. The
	// file is then not opened again after a commit that has failed with damage: bbolt may have to walk
	// it for that, on a goroutine of its own, where a damaged page ends the process.
	Damaged func(err error)
	// Warm says that the file was read just now, and is in the memory of the kernel.
	Warm bool
	// NoSync leaves out every fsync. It exists for one purpose: to show that the crash tests fail
	// without fsync, that is, that they test something. Acknowledged messages are lost by a power
	// cut with it.
	NoSync bool
	// Budget is charged with what commits write; nil = none.
	Budget *Budget
	// Reserve is used up when there is no room for what makes things fewer; nil = there is none.
	Reserve *Reserve
	// Available tells how many bytes the file system of a path has left; nil = asks it.
	Available func(path string) (int64, error)
	// Log takes failures and recoveries; nil = none.
	Log *slog.Logger

	readOnly bool // see OpenReader
}

func (o *Options) validate() error {
	if o.Format == "" || o.Version == 0 {
		return errors.New("boltfile: options need a format and a version from 1 on")
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Available == nil {
		o.Available = available
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// File is one open bbolt file. Its methods may be called from any goroutine; write transactions
// wait for each other.
type File struct {
	path string
	opts Options

	clean   bool   // found as a clean stop had left it
	version uint32 // as found

	used atomic.Int64 // bytes, as of the last commit

	// write is held by one write transaction, Recover or Close at a time.
	write   sync.Mutex
	reached int64 // bytes of the file that have been written to, 0 = not known; guarded by write
	// backed is up to where the file certainly has room on the disk; guarded by write.
	backed int64
	// mu guards what follows. Readers hold it during their transaction, since bbolt must not be
	// closed under one; a write transaction is protected by write instead.
	mu       sync.RWMutex
	db       *bbolt.DB // nil after Close
	fd       *os.File  // of db, to let go of the lock if db cannot be closed
	failed   bool      // a commit failed: no transaction until Recover
	stuck    bool      // its transaction could not be ended: db must not be closed
	failedID int       // the transaction id of the failed commit
	broken   error     // it failed with damage that is somebody's to mend
	marked   bool      // "open" is in the meta bucket
}

// Open opens the file at path, or makes it. The error wraps ErrInUse after a second of waiting
// for another process, ErrForeign or ErrNewer; in these cases the file was not written to.
func Open(path string, o Options) (*File, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Absent != nil {
		return &File{path: path, opts: o}, nil
	}
	// An empty file holds nothing to lose; somebody touched it.
	if st, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && st.Size() == 0 {
		if err := create(path, o); err != nil {
			return nil, fmt.Errorf("boltfile: make %s: %w", path, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("boltfile: %w", err)
	}
	f := &File{path: path, opts: o}
	if !o.Warm {
		preread(path, nil)
	}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("boltfile: open %s: %w", path, err)
	}
	if err := f.check(); err != nil {
		f.db.Close()
		return nil, fmt.Errorf("boltfile: open %s: %w", path, err)
	}
	return f, nil
}

// create makes a file with its meta bucket under a name of its own and renames it, so that a
// crash on the way leaves no half file at path.
func create(path string, o Options) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f := &File{path: tmp, opts: o}
	if err := f.open(); err != nil {
		return err
	}
	err := f.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		return errors.Join(
			meta.Put(keyFormat, []byte(o.Format)),
			meta.Put(keyVersion, binary.BigEndian.AppendUint32(nil, o.Version)),
			meta.Put(keyState, stateClean),
			createBuckets(tx, o.Buckets),
		)
	})
	if err := errors.Join(err, f.db.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(path), o.NoSync)
}

func createBuckets(tx *bbolt.Tx, names []string) error {
	for _, name := range names {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	return nil
}

// SyncFolder makes the names in a folder durable; noSync as in Options.
func SyncFolder(dir string, noSync bool) error {
	if noSync {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SyncFile makes the contents of a file durable.
func SyncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// open sets f.db. Opening writes nothing to a file that exists: the free list is left as it is
// until the first commit.
func (f *File) open() error {
	o := &bbolt.Options{
		Timeout:        lockTimeout,
		PageSize:       PageSize,
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true,
		ReadOnly:       f.opts.readOnly,
		NoSync:         f.opts.NoSync,
		NoGrowSync:     f.opts.NoSync,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			fd, err := os.OpenFile(name, flag, mode)
			f.fd = fd
			return fd, err
		},
	}
	if bits.UintSize == 64 {
		o.InitialMmapSize = int(f.opts.MaxBytes)
	}
	f.fd = nil
	err := guard(f.path, func() (err error) {
		f.db, err = bbolt.Open(f.path, 0o600, o)
		if errors.Is(err, syscall.ENOMEM) { // an address space limit
			o.InitialMmapSize = 0
			f.db, err = bbolt.Open(f.path, 0o600, o)
		}
		return err
	})
	if err != nil {
		if f.fd != nil {
			f.fd.Close() // bbolt did it already, unless it panicked
		}
		f.db = nil
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			err = fmt.Errorf("%w (stop it first, or use another data folder)", ErrInUse)
		case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch):
			err = fmt.Errorf("%w: it is no bbolt file, or both of its meta pages are damaged (%w)", ErrForeign, err)
		case errors.Is(err, bolterrors.ErrChecksum):
			err = &DamageError{Path: f.path, Cause: err}
		}
		return err
	}
	f.db.AllocSize = growStep
	f.failed, f.stuck = false, false
	f.backed = 0
	f.measure(f.db)
	return nil
}

// check reads the meta bucket and makes missing buckets.
func (f *File) check() error {
	missing := false
	err := f.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			return fmt.Errorf("%w: it has no meta bucket, want format %q", ErrForeign, f.opts.Format)
		}
		if got := string(meta.Get(keyFormat)); got != f.opts.Format {
			return fmt.Errorf("%w: it holds %q, want %q", ErrForeign, got, f.opts.Format)
		}
		v := meta.Get(keyVersion)
		if len(v) != 4 {
			return &DamageError{Path: f.path, Cause: fmt.Sprintf("version has %d bytes, want 4", len(v))}
		}
		f.version = binary.BigEndian.Uint32(v)
		if f.version > f.opts.Version {
			return fmt.Errorf("%w: it has format version %d, this program reads up to %d; install the newer program again, or move the file away",
				ErrNewer, f.version, f.opts.Version)
		}
		f.clean = string(meta.Get(keyState)) == string(stateClean)
		for _, name := range f.opts.Buckets {
			missing = missing || tx.Bucket([]byte(name)) == nil
		}
		return nil
	})
	if err != nil || !missing || f.opts.readOnly {
		return err
	}
	return f.Update(func(tx *bbolt.Tx) error { return createBuckets(tx, f.opts.Buckets) })
}

// Path returns the path that Open was given.
func (f *File) Path() string { return f.path }

// WasClean reports whether the file was found as a clean stop leaves it, or new.
func (f *File) WasClean() bool { return f.clean }

// Version returns the format version that the file was found with.
func (f *File) Version() uint32 { return f.version }

// View runs fn in a read transaction. Keep it short, 50 ms or 1 MB: pages that it sees cannot be
// reused. fn must copy what it keeps. The error is fn's own, a *DamageError, ErrUnavailable or
// ErrClosed.
func (f *File) View(fn func(tx *bbolt.Tx) error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if err := f.usable(); err != nil {
		return err
	}
	return f.told(guard(f.path, func() error { return f.db.View(fn) }))
}

func (f *File) usable() error {
	switch {
	case f.opts.Absent != nil:
		return fmt.Errorf("boltfile: %w since the start: %w", ErrUnavailable, f.opts.Absent)
	case f.failed: // also while Recover cannot open it
		return fmt.Errorf("boltfile: %s: %w", f.path, ErrUnavailable)
	case f.db == nil:
		return fmt.Errorf("boltfile: %s: %w", f.path, ErrClosed)
	}
	return nil
}

// errNothing is returned by the function of Update that has nothing to write.
var errNothing = errors.New("nothing to commit")

// Nothing is what the function given to Update returns if it changed nothing: no transaction is
// committed, nothing is written to disk, and Update returns nil.
func Nothing() error { return errNothing }

// Update runs fn in a write transaction and commits it. When it returns nil, what fn wrote is on
// disk, after fsync. If fn returns an error, nothing of it is, and the file stays usable. After
// any other error the file is unavailable until Recover, which also tells whether the transaction
// made it.
func (f *File) Update(fn func(tx *bbolt.Tx) error) error {
	f.write.Lock()
	defer f.write.Unlock()
	return f.update(fn, stateOpen)
}

// update is Update with the state to leave in the meta bucket; the caller holds write.
func (f *File) update(fn func(tx *bbolt.Tx) error, state []byte) error {
	f.mu.RLock()
	db, err := f.db, f.usable()
	f.mu.RUnlock()
	if err != nil {
		return err
	}
	var tx *bbolt.Tx
	id, own := math.MaxInt, false
	err = guard(f.path, func() (err error) {
		if tx, err = db.Begin(true); err != nil {
			return err
		}
		id = tx.ID()
		if err = fn(tx); err != nil {
			own = true
			return err
		}
		if err = f.mark(tx, state); err != nil {
			return err
		}
		// The lists as the last transaction left them: what this one frees comes on top.
		s := db.Stats()
		db.NoFreelistSync = s.FreePageN+s.PendingPageN > freelistLimit && string(state) == string(stateOpen)
		return tx.Commit()
	})
	if err == nil {
		f.opts.Budget.spend(f.written(tx, db))
		f.mu.Lock()
		f.marked = string(state) == string(stateOpen)
		f.mu.Unlock()
		f.measure(db)
		return nil
	}
	rolledBack := tx == nil || rollback(f.path, tx)
	if own && rolledBack {
		if errors.Is(err, errNothing) {
			return nil
		}
		return err
	}
	f.mu.Lock()
	f.failed, f.stuck, f.failedID = true, !rolledBack, id
	if f.told(err); f.opts.Damaged != nil && isDamage(err) {
		f.broken = err
	}
	f.mu.Unlock()
	return fmt.Errorf("boltfile: commit to %s: %w", f.path, err)
}

func isDamage(err error) bool {
	_, is := errors.AsType[*DamageError](err)
	return is
}

// told tells of err if it is damage, and returns it.
func (f *File) told(err error) error {
	if f.opts.Damaged != nil && isDamage(err) {
		f.opts.Damaged(err)
	}
	return err
}

// journal is what a file system writes besides, in bytes, when a commit reaches pages that were never
// written before: measured with ext4, whose journal gets five or six blocks then.
const journal = 22 << 10

// written is how many bytes a commit has written: each page that it has changed, once, a meta page, and
// what the file system writes because the file was not as long before; the caller holds write.
func (f *File) written(tx *bbolt.Tx, db *bbolt.DB) int64 {
	s := tx.Stats()
	n := s.GetPageAlloc() + PageSize
	_ = guard(f.path, func() error {
		return db.View(func(tx *bbolt.Tx) error {
			if tx.Size() > f.reached && f.reached > 0 {
				n += journal
			}
			f.reached = max(f.reached, tx.Size())
			return nil
		})
	})
	return n
}

// mark writes the state of the file unless it stands there already.
func (f *File) mark(tx *bbolt.Tx, state []byte) error {
	if f.marked && string(state) == string(stateOpen) {
		return nil
	}
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return &DamageError{Path: f.path, Cause: "its meta bucket is gone"}
	}
	return meta.Put(keyState, state)
}

// Recover opens the file anew after a failed commit and reports whether that transaction is on
// disk after all. Nothing may be told about its operations before. On an error it is to be tried
// again later.
//
// bbolt writes and syncs the pages of a transaction first, then one meta page that points to
// them. So there are two cases. The old meta page is the newest one: the transaction did not
// happen, and its pages are free space. Or the new one can be read: then its pages were synced,
// only the page itself may have missed the disk. Writing both meta pages again as they are read,
// with an fsync that succeeds, settles that.
func (f *File) Recover() (committed bool, err error) {
	f.write.Lock()
	defer f.write.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opts.Absent != nil {
		return false, nil // nothing of it was ever begun
	}
	if f.db == nil && !f.failed {
		return false, fmt.Errorf("boltfile: %s: %w", f.path, ErrClosed)
	}
	if !f.failed {
		return false, nil
	}
	if f.broken != nil {
		return false, fmt.Errorf("boltfile: recover %s: %w", f.path, f.told(f.broken))
	}
	if f.db != nil {
		if !f.stuck {
			err = guard(f.path, f.db.Close)
		}
		if f.stuck || err != nil {
			f.fd.Close() // lets go of the lock; the mapping stays, a little address space
		}
		f.db = nil
	}
	failedID := f.failedID
	if err := f.settle(); err != nil {
		return false, fmt.Errorf("boltfile: recover %s: %w", f.path, err)
	}
	if err := f.open(); err != nil {
		f.failed = true
		return false, fmt.Errorf("boltfile: recover %s: %w", f.path, err)
	}
	err = guard(f.path, func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			committed = tx.ID() >= failedID
			f.marked = f.marked || committed
			return nil
		})
	})
	if err != nil {
		f.failed = true
		return false, fmt.Errorf("boltfile: recover %s: %w", f.path, err)
	}
	return committed, nil
}

// settle writes both meta pages again as they are read and syncs them.
func (f *File) settle() error {
	fd, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer fd.Close()
	var pages [2 * PageSize]byte
	if _, err := fd.ReadAt(pages[:], 0); err != nil {
		return err
	}
	if _, err := fd.WriteAt(pages[:], 0); err != nil {
		return err
	}
	if f.opts.NoSync {
		return nil
	}
	return fd.Sync()
}

// Forget gives the memory that reading took back to the kernel. Pages of the mapping count as the
// process's memory once they were touched; after a walk over the file that is all of it.
func (f *File) Forget() {
	// An error only means that there is nothing to give back.
	_ = f.View(func(tx *bbolt.Tx) error {
		forget(tx)
		return nil
	})
}

// Size returns the size of the file in bytes, free pages included.
func (f *File) Size() int64 {
	st, err := os.Stat(f.path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// Close marks the file as cleanly stopped, writes the free list so that the next open needs no
// walk, and closes it. Transactions must have ended. Only the first call does something.
func (f *File) Close() error {
	f.write.Lock()
	defer f.write.Unlock()
	f.mu.RLock()
	open, failed, marked := f.db != nil, f.failed, f.marked
	f.mu.RUnlock()
	if !open && !failed {
		return nil
	}
	var err error
	if !failed && !f.opts.readOnly && (marked || !f.clean) {
		err = f.update(func(*bbolt.Tx) error { return nil }, stateClean)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db != nil {
		if f.stuck {
			err = errors.Join(err, f.fd.Close())
		} else {
			err = errors.Join(err, guard(f.path, f.db.Close))
		}
	}
	f.db, f.failed = nil, false
	return err
}

// Appending prepares a bucket for a transaction that adds behind its last key only: its pages are
// filled instead of split in halves. It must be called in each transaction.
func Appending(b *bbolt.Bucket) *bbolt.Bucket {
	b.FillPercent = FillPercent
	return b
}
