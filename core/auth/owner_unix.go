//go:build unix

package auth

import (
	"os"
	"syscall"
)

// chownAs gives f the owner and group of the file that info describes.
func chownAs(f *os.File, info os.FileInfo) error {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return f.Chown(int(s.Uid), int(s.Gid))
}
