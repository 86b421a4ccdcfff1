package clockwork

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// launchVariable names the folder of the machine to a process that is to run on it.
	launchVariable = "DUNLIN_CLOCKWORK"
	bootFile       = "boot_id"
	socketFile     = "s"
)

// Main is called first in TestMain: a process that is to run on a machine becomes its program here.
func Main() {
	dir := os.Getenv(launchVariable)
	if dir == "" {
		return
	}
	fmt.Fprintln(os.Stderr, launch(dir, os.Args[1:]))
	os.Exit(1)
}

// launch becomes a program on the machine of dir. All of it is done by one thread: what it is given
// stays with the program.
func launch(dir string, argv []string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("clockwork: new mount namespace, which only root can make: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("clockwork: %w", err)
	}
	if err := unix.Mount(filepath.Join(dir, bootFile), "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("clockwork: mount over boot_id: %w", err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, socketFile))
	if err != nil {
		return fmt.Errorf("clockwork: %w", err)
	}
	listener, err := filter()
	if err != nil {
		return fmt.Errorf("clockwork: seccomp: %w", err)
	}
	if _, _, err := c.(*net.UnixConn).WriteMsgUnix(fmt.Append(nil, os.Getpid()), unix.UnixRights(listener), nil); err != nil {
		return fmt.Errorf("clockwork: %w", err)
	}
	return unix.Exec(argv[0], argv, os.Environ())
}

// filter hands the questions for the time of this thread to a listener, which it returns.
func filter() (listener int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	const nr, argument = 0, 16 // offsets in struct seccomp_data: of the call, and of its first argument
	low := uint32(argument)
	if bigEndian {
		low += 4
	}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	result := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	code := []unix.SockFilter{
		load(nr),
		equal(unix.SYS_ADJTIMEX, 3, 0),
		equal(unix.SYS_CLOCK_GETTIME, 0, 3),
		load(low),
		equal(unix.CLOCK_BOOTTIME, 0, 1),
		result(unix.SECCOMP_RET_USER_NOTIF),
		result(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

var bigEndian = func() bool {
	one := uint16(1)
	return *(*byte)(unsafe.Pointer(&one)) == 0
}()
