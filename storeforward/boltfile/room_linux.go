package boltfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// available returns how many bytes the file system of path has left for its user.
func available(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	// In this order nothing overflows, whatever a file system says of itself.
	block := uint64(max(st.Bsize, 1))
	return int64(min(uint64(st.Bavail), (1<<62)/block) * block), nil
}

// allocate gives fd room up to a size, which becomes its length if it was shorter. It fills holes, too.
func allocate(fd *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(fd.Fd()), 0, 0, size)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// allocated returns how many bytes of fd have room on the disk.
func allocated(fd *os.File) int64 {
	var st unix.Stat_t
	if unix.Fstat(int(fd.Fd()), &st) != nil {
		return 0
	}
	return min(st.Blocks*512, st.Size)
}
