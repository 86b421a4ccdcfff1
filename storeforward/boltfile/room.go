package boltfile

import (
	"errors"
	"fmt"
	"syscall"

	"go.etcd.io/bbolt"
)

const (
	// commitPages is what a transaction writes beside its values: the path to the root of each bucket,
	// the free list, and pages that are split or merged.
	commitPages = 64
	// plenty is the free room of a disk, in bytes, from which on a file grows by whole steps.
	plenty = 16 * growStep
)

// ErrDiskFull says that there is no room on the disk for a transaction, which was not begun: nothing
// was written and the file stays usable. The caller keeps what it has, writes what makes things fewer,
// and tries again later.
var ErrDiskFull = errors.New("boltfile: no room left on the disk")

// IsDiskFull reports whether err is about a lack of room: ErrDiskFull, or what the system says of a
// write that had begun.
func IsDiskFull(err error) bool {
	return errors.Is(err, ErrDiskFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Ensure makes sure that tx, the write transaction under way, finds room for so many bytes of values
// and for what a commit writes besides: in what is allocated behind the end of the file, or in free
// pages. So a disk that is full is met before a commit and not within it, where the file would have to
// be opened anew. It returns ErrDiskFull; the function of Update then does, too.
//
// A file system that cannot allocate in advance is asked how much room it has, which may be wrong a
// moment later, as it may be on one that copies what is overwritten: then the commit fails.
func (f *File) Ensure(tx *bbolt.Tx, bytes int) error {
	need := 2*int64(bytes) + commitPages*PageSize // values of half a page leave the other half empty
	size := tx.Size() + need
	if size <= f.backed {
		return nil
	}
	free, err := f.opts.Available(f.path)
	if err != nil {
		return nil // nothing is known: the commit will tell
	}
	lacks := size - max(f.backed, allocated(f.fd))
	if free < lacks {
		if int64(tx.DB().Stats().FreePageN)*PageSize >= 2*need { // they may lie apart
			return nil
		}
		return fmt.Errorf("%w: %s needs %d bytes more, and there are %d", ErrDiskFull, f.path, lacks, free)
	}
	if free >= plenty {
		size = (size + growStep - 1) / growStep * growStep
	}
	switch err := allocate(f.fd, size); {
	case err == nil:
		f.backed = size
	case IsDiskFull(err):
		return fmt.Errorf("%w: %s: %w", ErrDiskFull, f.path, err)
	}
	return nil // where nothing can be allocated, there was enough a moment ago
}

// Squeeze is Ensure for a transaction that makes things fewer, or changes what is there: it may use up
// the reserve, and where that is gone, too, the room that such a transaction seldom needs.
func (f *File) Squeeze(tx *bbolt.Tx, bytes int) error {
	err := f.Ensure(tx, bytes)
	if IsDiskFull(err) && f.opts.Reserve.Drop() {
		err = f.Ensure(tx, bytes)
	}
	if IsDiskFull(err) {
		err = f.Ensure(tx, 0)
	}
	return err
}

// Relax makes the reserve again, if there is room for it.
func (f *File) Relax() { f.opts.Reserve.Restore() }

// Used returns how much of the file is in use, in bytes: without free pages, and without the room
// behind the last one. It is as of the last commit.
func (f *File) Used() int64 { return f.used.Load() }

// measure finds out what is in use. There is no write transaction.
func (f *File) measure(db *bbolt.DB) {
	_ = guard(f.path, func() error {
		return db.View(func(tx *bbolt.Tx) error {
			s := db.Stats()
			f.used.Store(tx.Size() - int64(s.FreePageN+s.PendingPageN)*PageSize)
			return nil
		})
	})
}
