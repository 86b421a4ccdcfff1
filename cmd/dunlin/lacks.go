package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/storeforward/boltfile"
)

// What could not be used at the start is tried again after lackFirst, then after twice that, up to
// lackMost.
const (
	lackFirst = 5 * time.Second
	lackMost  = 10 * time.Minute
)

// damageApart is how often the broker begins anew, at most, because it has met damage: what is still
// met then, the check does not find.
const damageApart = 10 * time.Minute

// errAnew says that the broker is to begin anew: something can be used now that could not at the start,
// or a file is damaged and is to be mended.
var errAnew = errors.New("the broker begins anew")

// lack is the data folder, or a file of it, without which the broker serves. Nothing that needs it is
// promised to anybody meanwhile.
type lack struct {
	path  string
	why   error
	found identity                        // of what is at path, when it failed
	try   func(ctx context.Context) error // uses it and lets go of it again
}

// lacks are those of a start, in the order in which they were met. They belong to the goroutine of
// run, and then to that of watch.
type lacks struct {
	log    *slog.Logger
	all    []*lack
	folder error         // why the data folder cannot be used, nil = it can
	wait   time.Duration // before the next attempt

	damage chan error // that was met while the broker served; has room for one
	met    time.Time  // when the broker began anew because of some, zero = never
}

func newLacks(logger *slog.Logger) *lacks {
	return &lacks{log: logger, damage: make(chan error, 1)}
}

// damaged notes damage that a transaction has met. It may be called from anywhere.
func (l *lacks) damaged(err error) {
	select {
	case l.damage <- err:
	default: // one is enough
	}
}

// begin forgets what an earlier start has lacked, but for how long it has waited: what can be used now
// and then would have the broker begin anew all the time.
func (l *lacks) begin() {
	if len(l.all) == 0 {
		l.wait = lackFirst
	}
	l.all, l.folder = nil, nil
}

// lock locks the data folder, or notes that it cannot be used. The error says that another broker
// has it.
func (l *lacks) lock(folder string) (unlock func(), err error) {
	unlock, err = lockData(folder)
	if err == nil || errors.Is(err, errOtherBroker) {
		return unlock, err
	}
	l.add(folder, err, func(context.Context) error {
		unlock, err := lockData(folder)
		if err == nil {
			unlock()
		}
		return err
	})
	l.folder = err
	return func() {}, nil
}

// closer is what is opened on a file of the data folder.
type closer interface {
	Close(ctx context.Context) error
}

// openKept opens a file of the data folder, mended if need be. If it cannot be used, that is noted, and it
// is opened as absent. The error says that another process has it, or that ctx has ended.
func openKept[T closer](ctx context.Context, m *mender, l *lacks, path string, open func(warm bool, absent error) (T, error)) (opened T, err error) {
	whole := func(ctx context.Context) (t T, err error) {
		err = m.open(ctx, path, func(warm bool) (err error) {
			t, err = open(warm, nil)
			return err
		})
		return t, err
	}
	if err = l.folder; err == nil {
		opened, err = whole(ctx)
	}
	if err == nil || errors.Is(err, boltfile.ErrInUse) || ctx.Err() != nil {
		return opened, err
	}
	if l.folder == nil {
		err = remedy(err)
		l.add(path, err, func(ctx context.Context) error {
			t, err := whole(ctx)
			if err != nil {
				return err
			}
			return t.Close(ctx)
		})
	}
	return open(false, err)
}

// remedy says what to do about a file that cannot be used.
func remedy(err error) error {
	switch {
	case errors.Is(err, boltfile.ErrNewer):
		return fmt.Errorf("%w, to begin without what is in it", err)
	case errors.Is(err, boltfile.ErrForeign):
		return fmt.Errorf("%w; move it away, or choose another data folder", err)
	}
	return fmt.Errorf("%w; see that user %d may read and write it and its folder, and that there is room", err, os.Geteuid())
}

// add notes that path cannot be used.
func (l *lacks) add(path string, why error, try func(ctx context.Context) error) {
	l.log.Error("serving without it, and without what it would keep", "path", path, "err", why)
	l.all = append(l.all, &lack{path: path, why: why, found: identify(path), try: try})
}

// alarm says what is missing, "" = nothing is.
func (l *lacks) alarm() string {
	var lines []string
	for _, one := range l.all {
		lines = append(lines, fmt.Sprintf("serving without %s: %v", filepath.Base(one.path), one.why))
	}
	return strings.Join(lines, "\n")
}

// watch returns errAnew when the broker is to begin anew, or nil when ctx ends.
func (l *lacks) watch(ctx context.Context) error {
	select {
	case <-l.damage: // at the start, and mended
	default:
	}
	timer := time.NewTimer(l.wait)
	defer timer.Stop()
	if len(l.all) == 0 {
		timer.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-l.damage:
			if now := time.Now(); l.met.IsZero() || now.Sub(l.met) >= damageApart {
				l.met = now
				l.log.Error("a file is damaged, beginning anew to mend it", "err", err)
				return errAnew
			}
		case <-timer.C:
			l.wait = min(2*l.wait, lackMost)
			if one := l.attempt(ctx); one != nil {
				l.log.Info("can be used now, beginning anew with it", "path", one.path)
				return errAnew
			}
			timer.Reset(l.wait)
		}
	}
}

// attempt returns what can be used now, nil if nothing can.
func (l *lacks) attempt(ctx context.Context) *lack {
	for _, one := range l.all {
		if !one.worthTrying() {
			continue
		}
		err := one.try(ctx)
		if err == nil {
			return one
		}
		l.log.Debug("still cannot be used", "path", one.path, "err", err)
	}
	return nil
}

// worthTrying reports whether an attempt can do better than the last one. It reads nothing of the
// file: one of a newer version may be large, and stays what it is until somebody moves it.
func (l *lack) worthTrying() bool {
	if errors.Is(l.why, boltfile.ErrNewer) || errors.Is(l.why, boltfile.ErrForeign) {
		return identify(l.path) != l.found
	}
	err := unix.Access(l.path, unix.R_OK|unix.W_OK)
	return err == nil || errors.Is(err, unix.ENOENT)
}

// identity is what tells whether a file is still the same.
type identity struct {
	inode    uint64
	size     int64
	modified time.Time
}

func identify(path string) (id identity) {
	st, err := os.Stat(path)
	if err != nil {
		return id
	}
	id = identity{size: st.Size(), modified: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		id.inode = sys.Ino
	}
	return id
}
