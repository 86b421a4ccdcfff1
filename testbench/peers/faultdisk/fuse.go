package faultdisk

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// imageName is the one file of the FUSE file system.
const imageName = "disk.img"

// root is the folder of the FUSE file system.
type root struct {
	fs.Inode
	disk *Disk
}

// OnAdd makes the one file.
func (r *root) OnAdd(ctx context.Context) {
	file := r.NewPersistentInode(ctx, &file{disk: r.disk}, fs.StableAttr{Mode: fuse.S_IFREG, Ino: 2})
	r.AddChild(imageName, file, true)
}

// file is the image below the loop device.
type file struct {
	fs.Inode
	disk *Disk
}

// Getattr answers stat.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, uint64(len(f.disk.base))
	return 0
}

// Setattr accepts times and modes and changes nothing.
func (f *file) Setattr(ctx context.Context, h fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return f.Getattr(ctx, h, out)
}

// Open turns the page cache off for the image: each write of the loop device must come here.
func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read reads what was written, flushed or not.
func (f *file) Read(_ context.Context, _ fs.FileHandle, dst []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	n := copy(dst, d.image[min(offset, int64(len(d.image))):])
	return fuse.ReadResultData(dst[:n]), 0
}

// Write logs a write.
func (f *file) Write(_ context.Context, _ fs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bytes+int64(len(data)) > maxLog {
		d.err = errors.New("faultdisk: the log is full; make the run shorter")
		return 0, syscall.ENOSPC
	}
	copy(d.image[offset:], data)
	d.log = append(d.log, op{offset, append([]byte{}, data...)})
	d.bytes += int64(len(data))
	return uint32(len(data)), 0
}

// Fsync logs a flush: the loop device sends one for each flush of the block layer.
func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, op{})
	d.flushes++
	return 0
}

// Allocate refuses holes: the loop device falls back to writing.
func (f *file) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.ENOTSUP
}
