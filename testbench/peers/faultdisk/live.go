package faultdisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Live is a disk that is in use and can be copied at any moment, at once: what the copy holds is
// what the disk had got when the power failed (Linux, root). Other than a Disk it runs at full
// speed and keeps no log; a write that reached it is on it, flushed or not.
//
//	broker ▶ file system ▶ loop device ▶ image file ▶ XFS, which copies by reference ▶ loop device
type Live struct {
	Path string // where the file system is mounted

	dir    string
	system FileSystem
	pool   *Mounted // the XFS that has the image and its copies
	disk   *Mounted
	copies int
}

// poolSize is that of the XFS, bytes. It has one disk and what its copies do not share.
const poolSize = 2 << 30

// CreateLive makes a disk with an empty file system and mounts it below dir. The caller calls
// Close.
//
// An error says what the machine lacks and how to get it.
func CreateLive(dir string, system FileSystem) (*Live, error) {
	if err := Usable(); err != nil {
		return nil, err
	}
	l := &Live{dir: dir, system: system}
	pool := filepath.Join(dir, "pool.img")
	if err := errors.Join(os.WriteFile(pool, nil, 0o600), os.Truncate(pool, poolSize)); err != nil {
		return nil, fmt.Errorf("faultdisk: %w", err)
	}
	if _, err := run("mkfs.xfs", "-q", "-f", "-m", "reflink=1", pool); err != nil {
		return nil, fmt.Errorf("%w: apt-get install xfsprogs", err)
	}
	var err error
	if l.pool, err = mountFile(filepath.Join(dir, "pool"), XFS, pool); err != nil {
		return nil, err
	}
	image, err := system.format(dir)
	if err == nil {
		if err = writeSparse(l.image(), image); err == nil {
			l.disk, err = mountFile(filepath.Join(dir, "disk"), system, l.image())
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.pool.Close())
	}
	l.Path = l.disk.Path
	return l, nil
}

func (l *Live) image() string { return filepath.Join(l.pool.Path, "disk.img") }

// Copy copies the disk as it is and returns the number of the copy, from 0 on.
func (l *Live) Copy() (int, error) {
	from, err := os.Open(l.image())
	if err != nil {
		return 0, fmt.Errorf("faultdisk: %w", err)
	}
	defer from.Close()
	to, err := os.Create(l.copied(l.copies))
	if err != nil {
		return 0, fmt.Errorf("faultdisk: %w", err)
	}
	if err := errors.Join(unix.IoctlFileClone(int(to.Fd()), int(from.Fd())), to.Close()); err != nil {
		return 0, fmt.Errorf("faultdisk: copy: %w", err)
	}
	l.copies++
	return l.copies - 1, nil
}

func (l *Live) copied(n int) string { return filepath.Join(l.pool.Path, fmt.Sprintf("copy-%d.img", n)) }

// End unmounts the disk; its copies stay.
func (l *Live) End() error {
	if l.disk == nil {
		return nil
	}
	disk := l.disk
	l.disk = nil
	return disk.Close()
}

// Mount mounts a copy, once, which lets its file system recover. The disk has ended, and no other
// copy is mounted. The caller calls Close on what it returns.
func (l *Live) Mount(n int) (*Mounted, error) {
	return mountFile(filepath.Join(l.dir, "copy"), l.system, l.copied(n))
}

// Close unmounts everything and removes the images.
func (l *Live) Close() error { return errors.Join(l.End(), l.pool.Close()) }
