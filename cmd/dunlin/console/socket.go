package console

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// maxPath is the longest path of a unix socket: sun_path is 108 bytes with its final NUL.
const maxPath = 107

// listen makes the socket. One that a process has left which is gone is replaced.
func listen(path, group string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("console: the path of the admin socket has %d bytes, at most %d are possible; set admin.socket to a shorter one",
			len(path), maxPath)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	gid := -1
	if group != "" {
		var err error
		if gid, err = groupID(group); err != nil {
			return nil, err
		}
	}
	// Between bind and chmod nobody else gets in: who connects is asked for anyway.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("console: %w; the folder must exist, and the broker must be allowed to write to it", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("console: %w", err), ln.Close())
	}
	if gid >= 0 {
		if err := os.Chown(path, -1, gid); err != nil {
			return nil, errors.Join(fmt.Errorf("console: %w; the user of the broker must be in the group %s", err, group), ln.Close())
		}
	}
	return ln, nil
}

func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("console: admin.group: %w", err)
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("console: admin.group: group %s: %w", name, err)
	}
	return id, nil
}

// ErrInUse says that another process listens at the path. The caller takes another path.
var ErrInUse = errors.New("another process listens there")

// removeStale removes the socket of a process that is gone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("console: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("console: %s is no socket; remove it, or set admin.socket to another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("console: %s: %w", path, ErrInUse)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("console: %s: %w: %w", path, ErrInUse, err)
	}
	return os.Remove(path)
}

// caller is who is at the other end of a connection.
type caller struct {
	uid, gid uint32
	pid      int32
	err      error // why nobody knows
}

// whoIs asks the kernel who has connected: not who writes now, which may be another process.
func whoIs(c net.Conn) (who caller) {
	u, ok := c.(syscall.Conn)
	if !ok {
		return caller{err: errors.New("no unix socket")}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return caller{err: err}
	}
	var cred *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil || err != nil {
		return caller{err: errors.Join(e, err)}
	}
	return caller{uid: cred.Uid, gid: cred.Gid, pid: cred.Pid}
}

// mayEnter says whether the console is for who has connected.
func (s *Server) mayEnter(who caller) bool {
	switch {
	case who.err != nil:
		return false
	case who.uid == 0, int64(who.uid) == int64(os.Geteuid()):
		return true
	case s.gid < 0:
		return false
	case int64(who.gid) == int64(s.gid):
		return true
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(who.uid), 10))
	if err != nil {
		return false
	}
	groups, err := u.GroupIds()
	return err == nil && slices.Contains(groups, strconv.Itoa(s.gid))
}

// bounded lets at most so many connections in at a time; others wait in the backlog of the kernel.
type bounded struct {
	*net.UnixListener
	slots chan struct{}
}

func (l *bounded) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.AcceptUnix()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &boundedConn{UnixConn: c, slots: l.slots}, nil
}

// boundedConn frees its slot when it is closed.
type boundedConn struct {
	*net.UnixConn
	slots chan struct{}
	once  sync.Once
}

func (c *boundedConn) Close() error {
	c.once.Do(func() { <-c.slots })
	return c.UnixConn.Close()
}
