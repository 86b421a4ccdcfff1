package service

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RaiseNoFile sets the soft limit of open file descriptors to the hard one and returns the limit
// in force, also together with an error. Each connection takes a descriptor, and the soft limit is often 1024.
func RaiseNoFile() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("service: read the limit of open files: %w", err)
	}
	if l.Cur == l.Max {
		return l.Cur, nil
	}
	raised := unix.Rlimit{Cur: l.Max, Max: l.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		return l.Cur, fmt.Errorf("service: raise the limit of open files from %d to %d: %w", l.Cur, l.Max, err)
	}
	return raised.Cur, nil
}

// LimitHeap lets the garbage collector know the memory limit of the process's control group, so
// that it works harder before the kernel kills: nine tenths of the limit, the rest is for what
// the collector does not see (memory maps of the store, the kernel's socket buffers).
//
// It returns the limit set in bytes, or 0 if there is none or GOMEMLIMIT has set one already.
func LimitHeap() int64 {
	limit, ok := CgroupMemoryLimit()
	if !ok || os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit -= limit / 10
	debug.SetMemoryLimit(limit)
	return limit
}

// CgroupMemoryLimit returns how many bytes of memory the control group of the process and the
// groups above it leave to it, and whether there is such a limit. It reads version 2 and version 1 of control
// groups. In version 2 memory.high counts like memory.max: beyond it the kernel slows
// the process down to a stand-still.
func CgroupMemoryLimit() (limit int64, ok bool) {
	return cgroupMemoryLimit(os.DirFS("/"))
}

// cgroupMemoryLimit reads the files below root, the root directory of the machine or of a test.
//
// /proc/self/cgroup has a line per hierarchy, "ID:CONTROLLERS:PATH". Version 2 has the line
// "0::PATH"; on a machine with both, memory belongs to version 1 if a line names it.
func cgroupMemoryLimit(root fs.FS) (int64, bool) {
	lines, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	var v1, v2 string
	var isV1 bool
	for line := range strings.Lines(string(lines)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if fields[0] == "0" && fields[1] == "" {
			v2 = fields[2]
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			if controller == "memory" {
				v1, isV1 = fields[2], true
			}
		}
	}
	least := int64(math.MaxInt64)
	if isV1 {
		least = leastUpwards(root, "sys/fs/cgroup/memory", v1, "memory.limit_in_bytes")
	} else {
		least = leastUpwards(root, "sys/fs/cgroup", v2, "memory.max", "memory.high")
	}
	// Version 1 writes "no limit" as the largest number of whole pages, so of an unknown page size.
	if least >= math.MaxInt64-1<<16 {
		return 0, false
	}
	return least, true
}

// leastUpwards returns the least number in the named files of group and each group above it up
// to mount, math.MaxInt64 if there is none. Within a container the path can name a group outside
// of what is mounted; the files at mount are then the container's own.
func leastUpwards(root fs.FS, mount, group string, names ...string) int64 {
	least := int64(math.MaxInt64)
	group = path.Clean("/" + group) // "/../x" of another name space becomes "/x"
	for {
		for _, name := range names {
			b, err := fs.ReadFile(root, path.Join(mount, group, name))
			if err != nil {
				continue // not this group: the root of a hierarchy has no such file
			}
			// "max" is no number and no limit.
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
				least = min(least, n)
			}
		}
		if group == "/" {
			return least
		}
		group = path.Dir(group)
	}
}
