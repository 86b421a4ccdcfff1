package boltfile

import (
	"log/slog"
	"os"
	"sync"
)

// Reserve is a file that only takes room. When the disk is full it is removed, so that what makes
// things fewer can still be committed; when there is room again it is made again. Several files may
// share one. A nil Reserve reserves nothing.
type Reserve struct {
	path  string
	bytes int64
	log   *slog.Logger

	mu   sync.Mutex // guards what follows
	held bool
}

// NewReserve makes a reserve of so many bytes at path, if there is room for it. One that an earlier
// process has left is taken over.
func NewReserve(path string, bytes int64, log *slog.Logger) *Reserve {
	r := &Reserve{path: path, bytes: bytes, log: log}
	st, err := os.Stat(path)
	if r.held = err == nil && st.Mode().IsRegular() && st.Size() == bytes; !r.held {
		r.Restore()
	}
	return r
}

// Drop gives the room back to the disk and reports whether it was held.
func (r *Reserve) Drop() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held {
		return false
	}
	r.held = false
	if err := os.Remove(r.path); err != nil {
		r.log.Error("the reserve on the disk cannot be removed", "path", r.path, "err", err)
		return false
	}
	r.log.Warn("the disk is full, its reserve is used", "path", r.path, "bytes", r.bytes)
	return true
}

// Restore makes the reserve again if there is room for twice as much, and reports whether it is held.
func (r *Reserve) Restore() bool {
	if r == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return true
	}
	if err := r.make(); err != nil {
		r.log.Debug("no reserve on the disk", "path", r.path, "err", err)
		return false
	}
	r.held = true
	return true
}

// make is Restore without looking whether it is held; the caller holds mu.
func (r *Reserve) make() error {
	_ = os.Remove(r.path) // one of another size; or the next call says what is in the way
	fd, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer fd.Close()
	if free, unknown := available(r.path); unknown == nil && free < 2*r.bytes {
		err = ErrDiskFull
	} else {
		err = allocate(fd, r.bytes)
	}
	if err != nil {
		os.Remove(r.path)
	}
	return err
}
