package faultdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Operation is what a program may have done to a file.
type Operation string

// The operations that can fail.
const (
	Write    Operation = "write"
	Sync     Operation = "sync"
	Allocate Operation = "allocate" // room in advance
)

// Fault is an operation that fails once.
type Fault struct {
	Operation Operation
	After     int           // so many of them work before
	Errno     syscall.Errno // what the program is told
	Torn      bool          // half of a write gets to the file all the same
}

func (f Fault) String() string {
	text := fmt.Sprintf("%s %d: %v", f.Operation, f.After, f.Errno)
	if f.Torn {
		text += ", torn"
	}
	return text
}

// Folder is a folder in which single operations on the files of a store fail when they are told to. What
// fails does not get to the file below, unless it is torn.
type Folder struct {
	Path string // where a program finds it

	server *fuse.Server
	broom  *broom

	mu    sync.Mutex // guards what follows
	fault Fault
	armed bool
}

// NewFolder mounts a folder below dir. The caller calls Close.
func NewFolder(dir string) (*Folder, error) {
	if err := Usable(); err != nil {
		return nil, err
	}
	below := filepath.Join(dir, "below")
	f := &Folder{Path: filepath.Join(dir, "mounted")}
	for _, sub := range []string{f.Path, below} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return nil, fmt.Errorf("faultdisk: %w", err)
		}
	}
	tree, err := fs.NewLoopbackRoot(below)
	if err != nil {
		return nil, fmt.Errorf("faultdisk: %w", err)
	}
	if f.broom, err = newBroom(); err != nil {
		return nil, err
	}
	f.server, err = fs.Mount(f.Path, &node{tree.(*fs.LoopbackNode), f}, &fs.Options{MountOptions: fuse.MountOptions{
		AllowOther: true, FsName: "faultfolder", DirectMount: true,
	}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("faultdisk: mount: %w", err), f.broom.close(true))
	}
	f.broom.add("umount --lazy " + f.Path)
	return f, nil
}

// Close unmounts the folder. Nobody uses it any more.
func (f *Folder) Close() error {
	err := f.server.Unmount()
	return errors.Join(err, f.broom.close(err == nil))
}

// Fail has an operation fail that is still to come.
func (f *Folder) Fail(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.armed = fault, true
}

// Failed reports whether the fault has happened.
func (f *Folder) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.armed
}

// happens reports whether the fault happens to this operation.
func (f *Folder) happens(o Operation) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.armed || f.fault.Operation != o {
		return Fault{}, false
	}
	if f.fault.After > 0 {
		f.fault.After--
		return Fault{}, false
	}
	f.armed = false
	return f.fault, true
}

// node is a file or a folder of a Folder.
type node struct {
	*fs.LoopbackNode
	folder *Folder
}

// WrapChild makes what is found in a folder a node, too.
func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{child.(*fs.LoopbackNode), n.folder}
}

// handle returns the handle of an open file: of a store, one that may fail.
func (n *node) handle(name string, h fs.FileHandle) fs.FileHandle {
	if file, ok := h.(*fs.LoopbackFile); ok && strings.Contains(name, ".db") {
		return &faulty{file, n.folder}
	}
	return h
}

// Open opens a file.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	return n.handle(n.Path(nil), h), fuseFlags, errno
}

// Create makes a file and opens it.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, h, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.handle(name, h), fuseFlags, errno
}

// faulty is an open file of a store.
type faulty struct {
	*fs.LoopbackFile
	folder *Folder
}

// PassthroughFd keeps the kernel from writing to the file below by itself.
func (*faulty) PassthroughFd() (int, bool) { return 0, false }

// Write writes, or fails.
func (h *faulty) Write(ctx context.Context, data []byte, offset int64) (uint32, syscall.Errno) {
	fault, happens := h.folder.happens(Write)
	switch {
	case !happens:
		return h.LoopbackFile.Write(ctx, data, offset)
	case fault.Torn:
		h.LoopbackFile.Write(ctx, data[:len(data)/2], offset)
	}
	return 0, fault.Errno
}

// Fsync syncs, or fails.
func (h *faulty) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if fault, happens := h.folder.happens(Sync); happens {
		return fault.Errno
	}
	return h.LoopbackFile.Fsync(ctx, flags)
}

// Allocate allocates, or fails.
func (h *faulty) Allocate(ctx context.Context, offset, size uint64, mode uint32) syscall.Errno {
	if fault, happens := h.folder.happens(Allocate); happens {
		return fault.Errno
	}
	return h.LoopbackFile.Allocate(ctx, offset, size, mode)
}
