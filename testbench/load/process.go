package load

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is the broker's process on this machine.
type Process struct{ PID int }

// Sample is what the kernel knows of a process at one moment.
type Sample struct {
	CPU     time.Duration // user and system, all threads
	RSS     int64         // bytes resident, file pages included
	PSS     int64         // bytes, shared pages counted in part
	Peak    int64         // largest RSS since it was started
	Written int64         // bytes that it has caused to be written to block devices
	Threads int
}

// Sample asks the kernel.
func (p *Process) Sample() (*Sample, error) {
	var s Sample
	// The clock of another process, as clock_getcpuclockid(3) names it: finer than the ticks of
	// /proc/PID/stat, and threads that have ended are in it.
	const scheduled = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.PID<<3|scheduled), &t); err != nil {
		return nil, fmt.Errorf("load: CPU time of process %d: %w", p.PID, err)
	}
	s.CPU = time.Duration(t.Nano())
	status, err := p.fields("status")
	if err != nil {
		return nil, err
	}
	s.Peak, s.RSS, s.Threads = status["VmHWM"]<<10, status["VmRSS"]<<10, int(status["Threads"])
	// The other two are for the user of the process, and root.
	if rollup, err := p.fields("smaps_rollup"); err == nil {
		s.RSS, s.PSS = rollup["Rss"]<<10, rollup["Pss"]<<10
	}
	if io, err := p.fields("io"); err == nil {
		s.Written = io["write_bytes"]
	}
	return &s, nil
}

// fields reads the numbers of a file of lines "name: number ...".
func (p *Process) fields(name string) (map[string]int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID, name))
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	fields := make(map[string]int64)
	for line := range strings.Lines(string(b)) {
		key, rest, ok := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if !ok || len(words) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(words[0], 10, 64); err == nil {
			fields[key] = n
		}
	}
	return fields, nil
}

// Name returns the name of the program.
func (p *Process) Name() string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
	return strings.TrimSpace(string(b))
}

// ErrNotFound says that no process of this machine that we may look at listens on the address.
var ErrNotFound = errors.New("load: no process of this machine that this user may look into listens on this port")

// FindListener returns the process that listens on the port of address, if that is one of this
// machine.
func FindListener(address netip.AddrPort) (*Process, error) {
	if !address.Addr().IsLoopback() && !ours(address.Addr()) {
		return nil, ErrNotFound
	}
	inodes := make(map[string]bool)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		port := fmt.Sprintf(":%04X", address.Port())
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			const listen = "0A"
			if len(f) > 9 && strings.HasSuffix(f[1], port) && f[3] == listen {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	found, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil || len(inodes) == 0 {
		return nil, ErrNotFound
	}
	for _, fd := range found {
		if to, err := os.Readlink(fd); err == nil && inodes[to] {
			pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
			// A supervisor may hold the socket, too: process 1 is none that serves.
			if err == nil && pid != 1 {
				return &Process{pid}, nil
			}
		}
	}
	return nil, ErrNotFound
}

// ours says whether a is an address of this machine.
func ours(a netip.Addr) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil || !a.Is4() {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4()}) == nil
}

// ownCPU returns the CPU time of this process.
func ownCPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// RaiseFileLimit makes room for n connections besides what a process needs anyway, also in the
// processes that it starts: those get the limit that this process was started with, unless it
// sets one itself.
func RaiseFileLimit(n int) error {
	need := uint64(n) + 64
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("load: limit of open files: %w", err)
	}
	raised := unix.Rlimit{Cur: max(need, limit.Cur), Max: max(need, limit.Max)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		return fmt.Errorf("load: %d connections need %d open files, and %d are allowed; run this before, as root: prlimit --nofile=%d --pid $$",
			n, need, limit.Max, need)
	}
	return nil
}

// Machine is what a result should say about where it comes from.
type Machine struct {
	Kernel    string `json:"kernel"`
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"`
	Arch      string `json:"arch"`
	MemoryKiB int64  `json:"memory_kib"`
	Board     string `json:"board,omitempty"`
}

// ThisMachine describes the machine that the process runs on.
func ThisMachine() Machine {
	var u unix.Utsname
	_ = unix.Uname(&u)
	m := Machine{Kernel: unix.ByteSliceToString(u.Release[:]), Arch: unix.ByteSliceToString(u.Machine[:])}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(cpuinfo) {
		key, value, _ := strings.Cut(string(line), ":")
		switch strings.TrimSpace(key) {
		case "processor":
			m.CPUs++
		case "model name", "Hardware", "cpu model":
			m.CPU = strings.TrimSpace(value)
		case "CPU part":
			if m.CPU == "" {
				m.CPU = "part " + strings.TrimSpace(value)
			}
		}
	}
	if self, err := (&Process{os.Getpid()}).fields("../meminfo"); err == nil {
		m.MemoryKiB = self["MemTotal"]
	}
	if b, err := fs.ReadFile(os.DirFS("/proc"), "device-tree/model"); err == nil {
		m.Board = strings.TrimRight(string(b), "\x00\n")
	}
	return m
}
