package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MemoryGroup is a control group of Linux that limits memory: that of its processes, their pages of
// files and their socket buffers (version 1 if the machine has a hierarchy for memory, else 2).
type MemoryGroup struct {
	path string
	v1   bool
}

// roots are where the hierarchies are mounted.
const (
	rootV1 = "/sys/fs/cgroup/memory"
	rootV2 = "/sys/fs/cgroup"
)

// LimitMemory makes a group with a limit in bytes. The caller calls Remove. An error says what the
// machine lacks.
func LimitMemory(limit int64) (*MemoryGroup, error) {
	g := &MemoryGroup{path: rootV1, v1: true}
	file := "memory.limit_in_bytes"
	if _, err := os.Stat(rootV1); err != nil {
		g.path, g.v1, file = rootV2, false, "memory.max"
		// Fails if it is switched on already and we may not; what matters is whether the file is there.
		_ = os.WriteFile(filepath.Join(rootV2, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	path, err := os.MkdirTemp(g.path, "dunlin-test-")
	if err != nil {
		return nil, fmt.Errorf("process: cannot limit memory: %w: run the test as root (sudo make test)", err)
	}
	g.path = path
	err = g.write(file, limit)
	if err == nil && !g.v1 {
		// Swap would make the limit none; without the file there is no swap.
		if err = g.write("memory.swap.max", 0); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return g, nil
}

func (g *MemoryGroup) write(file string, value int64) error {
	f, err := os.OpenFile(filepath.Join(g.path, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("process: cannot limit memory: %w", err)
	}
	_, err = fmt.Fprintln(f, value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("process: cannot limit memory: %w", err)
	}
	return nil
}

// Via returns what Gateway.Via wants, to have the process in the group from its first page on.
func (g *MemoryGroup) Via() []string {
	return []string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.path, "cgroup.procs")}
}

// Kills returns how often the kernel has killed because of the limit.
func (g *MemoryGroup) Kills() (int, error) {
	file := "memory.oom_control"
	if !g.v1 {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(g.path, file))
	if err != nil {
		return 0, fmt.Errorf("process: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return 0, fmt.Errorf("process: %s does not count oom_kill", file)
}

// Peak returns the most that was ever in use, in bytes, pages that could have been given back
// included.
func (g *MemoryGroup) Peak() (int64, error) {
	file := "memory.max_usage_in_bytes"
	if !g.v1 {
		file = "memory.peak"
	}
	b, err := os.ReadFile(filepath.Join(g.path, file))
	if err != nil {
		return 0, fmt.Errorf("process: %w", err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// Remove removes the group once the last process in it has ended.
func (g *MemoryGroup) Remove() error {
	deadline := time.After(startGuard)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := os.Remove(g.path)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("process: %w", err)
		}
		select {
		case <-ticker.C:
		case <-deadline:
			return fmt.Errorf("process: %w: a process lives on in it", err)
		}
	}
}
