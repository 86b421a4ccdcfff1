package clockwork

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// server answers what the programs on a machine ask.
type server struct {
	m       *Machine
	ln      *net.UnixListener
	running sync.WaitGroup

	mu  sync.Mutex // guards what follows
	pid int        // of the program that came last
}

// listen waits for programs.
func listen(m *Machine) (*server, error) {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(m.dir, socketFile), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("clockwork: %w", err)
	}
	s := &server{m: m, ln: ln}
	s.running.Go(s.accept) // ends when ln is closed; close waits
	return s, nil
}

// close ends the server. The programs must have ended, or what they ask fails.
func (s *server) close() {
	s.ln.Close()
	s.running.Wait()
}

func (s *server) accept() {
	for {
		c, err := s.ln.AcceptUnix()
		if err != nil {
			return
		}
		listener, pid, err := receive(c)
		c.Close()
		if err != nil {
			s.m.t.Errorf("clockwork: %v", err)
			continue
		}
		s.mu.Lock()
		s.pid = pid
		s.mu.Unlock()
		s.running.Go(func() { s.serve(listener) }) // ends with the program; close waits
	}
}

// receive takes the listener of a program, and its process.
func receive(c *net.UnixConn) (listener, pid int, err error) {
	data, rights := make([]byte, 32), make([]byte, unix.CmsgSpace(4))
	n, r, _, _, err := c.ReadMsgUnix(data, rights)
	if err != nil {
		return -1, 0, err
	}
	if pid, err = strconv.Atoi(string(data[:n])); err != nil {
		return -1, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:r])
	if err != nil {
		return -1, 0, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, 0, err
	}
	return fds[0], pid, nil
}

// question and answer are struct seccomp_notif and struct seccomp_notif_resp.
type question struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// serve answers until the program has ended.
func (s *server) serve(listener int) {
	defer unix.Close(listener)
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var q question
		if errno := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&q)); errno != 0 {
			continue // it is asked again, or whoever asked is gone
		}
		a := answer{id: q.id}
		if err := s.reply(&q, &a); err != nil {
			a.errno = -int32(unix.EFAULT)
		}
		ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a))
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return errno
}

// reply writes what the machine's clocks say to where it was asked for.
func (s *server) reply(q *question, a *answer) error {
	if q.nr != unix.SYS_ADJTIMEX {
		ts := unix.NsecToTimespec(int64(s.m.bootTime()))
		return poke(q.pid, q.args[1], unsafe.Slice((*byte)(unsafe.Pointer(&ts)), unsafe.Sizeof(ts)))
	}
	wall, synced := s.m.wall()
	x := unix.Timex{Time: unix.NsecToTimeval(wall.UnixNano())}
	if !synced {
		x.Status = unix.STA_UNSYNC
		a.value = unix.TIME_ERROR
	}
	return poke(q.pid, q.args[0], unsafe.Slice((*byte)(unsafe.Pointer(&x)), unsafe.Sizeof(x)))
}

// poke writes into the memory of a process.
func poke(pid uint32, at uint64, b []byte) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(b, int64(at))
	return err
}

// cancelTimers does to the timers of the program that wait for the clock to be set what that would do:
// they become readable. To set the clock itself would set it for everybody here.
func (s *server) cancelTimers() error {
	s.mu.Lock()
	pid := s.pid
	s.mu.Unlock()
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	infos, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clockwork: %w", err)
	}
	found := false
	for _, e := range infos {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || !cancelled(string(b)) {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return fmt.Errorf("clockwork: %w", err)
		}
		if err := fire(pid, fd); err != nil {
			return fmt.Errorf("clockwork: timer of the broker: %w", err)
		}
		found = true
	}
	if !found {
		return errors.New("clockwork: the broker has no timer that is cancelled when the clock is set")
	}
	return nil
}

// cancelled says whether a descriptor, by its fdinfo, is a timer that is cancelled when the clock is set.
func cancelled(info string) bool {
	realtime, cancel := false, false
	for line := range strings.Lines(info) {
		key, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseInt(strings.TrimSpace(value), 0, 64)
		if err != nil {
			continue
		}
		switch key {
		case "clockid":
			realtime = n == unix.CLOCK_REALTIME
		case "settime flags":
			cancel = n&unix.TFD_TIMER_CANCEL_ON_SET != 0
		}
	}
	return realtime && cancel
}

// fire lets a timer of another process fire now.
func fire(pid, fd int) error {
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(p)
	timer, err := unix.PidfdGetfd(p, fd, 0)
	if err != nil {
		return err
	}
	defer unix.Close(timer)
	now := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(time.Second))}
	return unix.TimerfdSettime(timer, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &now, nil)
}
