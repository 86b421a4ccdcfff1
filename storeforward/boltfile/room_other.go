//go:build !linux

package boltfile

import (
	"errors"
	"os"
)

// available is not known.
func available(string) (int64, error) { return 0, errors.ErrUnsupported }

// allocate is not tried where it is not known what is available.
func allocate(*os.File, int64) error { return errors.ErrUnsupported }

func allocated(*os.File) int64 { return 0 }
