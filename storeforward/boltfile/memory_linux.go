package boltfile

import (
	"io"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// minPreread is the size from which a file is read ahead of its open.
const minPreread = 1 << 20

// preread reads the file from its begin to its end into the page cache. bbolt tells the kernel not to
// read ahead of page faults, so a cold file would come in page by page: 3.8 s instead of 0.8 s for
// a million messages. More than half of the memory is not read: it would push itself out. Errors
// are for the open to meet. read is told of the bytes, nil = nobody is.
func preread(path string, read func(bytes int)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < minPreread {
		return
	}
	n := st.Size()
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n = min(n, int64(uint64(info.Totalram)*uint64(info.Unit)/2))
	}
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	buf := make([]byte, 256<<10)
	for r := io.LimitReader(f, n); err == nil; {
		n := 0
		n, err = r.Read(buf)
		if read != nil {
			read(n)
		}
	}
}

// forget unmaps the pages that tx's file has in memory; they stay in the page cache. The read
// transaction keeps the mapping where it is.
func forget(tx *bbolt.Tx) {
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, tx.DB().Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED)
}
