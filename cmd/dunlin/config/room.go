package config

import (
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// minStore and minSpool are the smallest files: the pages of an empty one and some room.
	minStore = 4 * MiB
	minSpool = MiB
	// reserveBytes is the room that is kept for when the disk is full, at most a part of the disk.
	reserveBytes, reserveShare = 2 * MiB, 32
)

// allFiles is what all files together take where nothing else is said and addresses are short: they are
// mapped into memory.
func allFiles() int64 {
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		return 256 * MiB
	}
	return 512 * MiB
}

// Bounds are how much of the disk the files may use, in bytes.
type Bounds struct {
	Store   int64
	Spools  []int64 // in the order of the uplinks
	Reserve int64
}

// Bounds returns what the configuration says of the files, and for auto a share of the disk that the
// data folder is on, which must exist: a quarter for the store, at most 1 GiB; for each uplink a quarter
// or, if there are several, its part of a half, at most 2 GiB. Where addresses have 32 bits, all of them
// together get 512 MiB (MIPS: 256 MiB), of which a quarter is for the store.
func (c *Config) Bounds() (b Bounds, err error) {
	disk, err := diskSize(c.Data)
	if err != nil {
		return b, err
	}
	store, spool := int64(GiB), int64(2*GiB)
	n := int64(max(len(c.Uplinks), 1))
	if bits.UintSize == 32 {
		store, spool = allFiles()/4, allFiles()*3/4/n
	}
	b.Store = c.Store.MaxBytes
	if b.Store == 0 {
		b.Store = max(min(store, disk/4), minStore)
	}
	for i := range c.Uplinks {
		bound := c.Uplinks[i].Spool.MaxBytes
		if bound == 0 {
			bound = max(min(spool, disk/4, disk/2/n), minSpool)
		}
		b.Spools = append(b.Spools, bound)
	}
	b.Reserve = min(reserveBytes, disk/reserveShare)
	return b, nil
}

// diskSize returns the bytes of the file system that a folder is on.
func diskSize(folder string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return 0, fmt.Errorf("how large the disk is cannot be found out: %w", &os.PathError{Op: "statfs", Path: folder, Err: err})
	}
	// In this order nothing overflows, whatever a file system says of itself.
	block := uint64(max(st.Bsize, 1))
	return int64(min(uint64(st.Blocks), (1<<62)/block) * block), nil
}
