package boltfile

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"go.etcd.io/bbolt"
)

const (
	// compactBatch is how much one transaction of a copy takes.
	compactBatch = 1 << 20
	// MaxCompactLive is how many bytes File.Compact copies at most: commits wait meanwhile.
	MaxCompactLive = 256 << 20
)

// ErrTooLarge says that a file in use has too much in it to be compacted: acknowledgements would wait
// too long. The caller says so.
var ErrTooLarge = errors.New("too much is in it to be compacted while it is in use")

// Compact copies what the file at path holds into a new one, without its free pages, and puts that in
// its place when it is on disk. A crash leaves the one or the other. Nobody may have the file open. It
// returns the sizes before and after.
//
// Values are copied as they are. A file with damaged pages is left alone, with an error.
func Compact(path string, k Kind) (before, after int64, err error) {
	f, err := OpenReader(path, k)
	if err != nil {
		return 0, 0, err
	}
	before = f.Size()
	tmp := path + ".new"
	err = f.copyTo(tmp)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(tmp)
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w", path, err)
	}
	if err := replace(tmp, path); err != nil {
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w", path, err)
	}
	return before, f.Size(), nil
}

func replace(tmp, path string) error {
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return SyncFolder(filepath.Dir(path), false)
}

// Compact does the same for a file in use. Commits wait for it; reads do not. Of more than
// MaxCompactLive bytes in use it returns ErrTooLarge.
//
// If the new file cannot be opened, the file is as after a failed commit: Recover brings it back.
func (f *File) Compact() (before, after int64, err error) {
	f.write.Lock()
	defer f.write.Unlock()
	f.mu.RLock()
	err = f.usable()
	var s bbolt.Stats
	if err == nil {
		s = f.db.Stats()
	}
	f.mu.RUnlock()
	if err != nil {
		return 0, 0, err
	}
	before = f.Size()
	live := before - int64(s.FreePageN+s.PendingPageN)*PageSize
	if live > MaxCompactLive {
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w: %d MB, at most %d MB", f.path, ErrTooLarge, live>>20, MaxCompactLive>>20)
	}
	if free, err := f.opts.Available(f.path); err == nil && free < live+live/4 {
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w: the copy needs %d bytes, and there are %d", f.path, ErrDiskFull, live+live/4, free)
	}
	tmp := f.path + ".new"
	if err := f.copyTo(tmp); err != nil {
		os.Remove(tmp)
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w", f.path, err)
	}
	if st, err := os.Stat(tmp); err == nil {
		f.opts.Budget.spend(st.Size())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// From here on no commit is under way and no read is open. Until the file is open again it is as
	// after a failed commit, of which nothing is on disk.
	f.failed, f.failedID = true, math.MaxInt
	if err := guard(f.path, f.db.Close); err != nil {
		f.stuck = true
		os.Remove(tmp)
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w", f.path, err)
	}
	f.db = nil
	err = replace(tmp, f.path)
	if e := f.open(); e != nil {
		f.failed = true
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w", f.path, errors.Join(err, e))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("boltfile: compact %s: %w", f.path, err)
	}
	return before, f.Size(), nil
}

// copyTo makes a file at path that holds the same and belongs to the same user, and syncs it.
func (f *File) copyTo(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to := &File{path: path, opts: Options{Format: f.opts.Format, Version: f.opts.Version, NoSync: true}}
	if err := to.open(); err != nil {
		return err
	}
	to.db.AllocSize = 1 << 20
	c := copying{to: to.db}
	err := f.View(func(tx *bbolt.Tx) error {
		return guard(path, func() error {
			if err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error { return c.bucket(name, b) }); err != nil {
				return err
			}
			to.db.NoFreelistSync = false
			return c.commit() // while what it was given can be read
		})
	})
	c.abandon()
	if err == nil {
		err = to.db.Sync()
	}
	if err == nil {
		err = likeness(path, f.path)
	}
	return errors.Join(err, to.db.Close())
}

// likeness gives the file at path the owner and the mode of another one: whoever makes it, root perhaps, the
// broker must be able to use it.
func likeness(path, of string) error {
	st, err := os.Stat(of)
	if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(path, int(sys.Uid), int(sys.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, st.Mode().Perm())
}

// copying is a copy under way.
type copying struct {
	to    *bbolt.DB
	tx    *bbolt.Tx // nil = none is open
	bytes int
}

func (c *copying) bucket(name []byte, from *bbolt.Bucket) error {
	to, err := c.open(name, 0)
	if err != nil {
		return err
	}
	return from.ForEach(func(k, v []byte) error {
		if v == nil {
			return fmt.Errorf("bucket %s holds a bucket, which none of ours does", name)
		}
		if to, err = c.open(name, len(k)+len(v)); err != nil {
			return err
		}
		return to.Put(k, v)
	})
}

// open returns the bucket in the transaction that so many bytes more are to be part of.
func (c *copying) open(name []byte, bytes int) (*bbolt.Bucket, error) {
	if c.bytes += bytes; c.bytes > compactBatch {
		c.bytes = bytes
		if err := c.commit(); err != nil {
			return nil, err
		}
	}
	if c.tx == nil {
		var err error
		if c.tx, err = c.to.Begin(true); err != nil {
			return nil, err
		}
	}
	b, err := c.tx.CreateBucketIfNotExists(name)
	if err != nil {
		return nil, err
	}
	return Appending(b), nil
}

func (c *copying) commit() error {
	tx := c.tx
	c.tx = nil
	if tx == nil {
		return nil
	}
	return tx.Commit()
}

// abandon ends a transaction that was not committed.
func (c *copying) abandon() {
	if c.tx != nil {
		rollback(c.to.Path(), c.tx)
		c.tx = nil
	}
}
