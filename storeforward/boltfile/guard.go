package boltfile

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// DamageError says that a transaction met something in the file that cannot be: a page outside
// of the file, a page of the wrong kind, a medium that did not give a page back. What the
// transaction wanted did not happen. The caller counts it and goes on without that data; the
// file wants a check.
type DamageError struct {
	Path  string
	Cause any // what bbolt or the runtime panicked with
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("boltfile: %s is damaged: %v", e.Path, e.Cause)
}

// Unwrap gives the runtime error below, if there is one.
func (e *DamageError) Unwrap() error {
	err, _ := e.Cause.(error)
	return err
}

// guard runs fn and turns a panic out of a damaged page into a *DamageError. bbolt reads pages
// through a mapping and trusts them: an offset out of a broken page is a slice error or a fault,
// and a medium that fails is SIGBUS. Go ends the process on a fault at an unexpected address
// unless the goroutine asked for a panic.
func guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if text, ok := p.(string); ok && strings.Contains(text, ": internal error: ") {
				panic(p) // a fault of ours, not of the file
			}
			err = &DamageError{Path: path, Cause: p}
		}
	}()
	return fn()
}

// rollback ends tx and reports whether it could. It uses the rollback that does not read the
// free list back from the file: that one walks all pages in a goroutine of bbolt's own, where a
// damaged page ends the process.
func rollback(path string, tx *bbolt.Tx) bool {
	err := guard(path, func() error {
		if err := tx.Rollback(); err != nil && !errors.Is(err, bolterrors.ErrTxClosed) {
			return err
		}
		return nil
	})
	return err == nil
}
