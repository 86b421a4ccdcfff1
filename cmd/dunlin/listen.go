package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/broker"
	"dunlin/platform/service"
)

// What cannot be listened on is tried again after retryFirst, then after twice that, up to retryMax:
// a gateway whose interface comes up is reachable soon, and the log of one that waits stays short.
const (
	retryFirst = 250 * time.Millisecond
	retryMax   = 10 * time.Second
)

// remindEvery is how often a listener that still waits is in the log.
const remindEvery = 10 * time.Minute

// listeners are the addresses of the configuration: open ones, and those that have to wait for an
// interface, a folder or the end of another process. It belongs to one goroutine at a time: that of
// run, and between open and the end of retry that of retry.
type listeners struct {
	b      *broker.Broker
	log    *slog.Logger
	all    []*listener
	passed map[string][]net.Listener // by systemd, and not used yet
	told   atomic.Pointer[string]    // status, as others may read it
}

// listener is one address of the configuration.
type listener struct {
	config.Listener
	settings *broker.Listener
	bound    []string // addresses, in the words of the log; nil while it waits
	file     string   // the unix socket that we have made, "" = none

	hopeless bool      // no attempt will do better
	attempts int       // that failed
	failure  string    // of the last attempt
	logged   time.Time // when failure was
}

// fromSystemd are the sockets that systemd has passed. It does so once, and the broker may begin anew:
// they stay open.
var fromSystemd = sync.OnceValue(service.Sockets)

func newListeners(b *broker.Broker, cfg *config.Config, logger *slog.Logger) *listeners {
	ls := &listeners{b: b, log: logger, passed: maps.Clone(fromSystemd())}
	for _, l := range cfg.Listeners {
		ls.all = append(ls.all, &listener{Listener: l, settings: &broker.Listener{
			Name:           l.Address,
			AllowAnonymous: cfg.AllowsAnonymous(l),
			Versions:       l.Versions,
			MaxConnections: l.MaxConnections,
			MaxPacket:      int(l.MaxPacket),
			ReceiveMaximum: l.ReceiveMaximum,
			MaxInFlight:    l.MaxInFlight,
			MaxConnectRate: l.MaxConnectRate,
			Redirect:       broker.Redirect(l.Redirect),
		}})
	}
	return ls
}

// open tries every listener once. It fails only if none can be opened and that is the fault of the
// configuration: time would not help.
func (ls *listeners) open(ctx context.Context) error {
	var faults []error
	for _, l := range ls.all {
		if err := ls.try(ctx, l); errors.As(err, new(*faultError)) {
			faults = append(faults, err)
		}
	}
	for name, lns := range ls.passed {
		ls.log.Warn("systemd passes a socket that no listener names", "listener", "systemd:"+name)
		for _, ln := range lns {
			ln.Close() // again, if the broker has begun anew, which does no harm
		}
	}
	ls.told.Store(new(ls.status()))
	if len(faults) == len(ls.all) {
		return errors.Join(faults...)
	}
	return nil
}

// retry tries the listeners that wait until all are open or ctx ends.
func (ls *listeners) retry(ctx context.Context) {
	wait := retryFirst
	for slices.ContainsFunc(ls.all, (*listener).waits) {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, retryMax)
		for _, l := range ls.all {
			if !l.waits() || ls.try(ctx, l) != nil {
				continue
			}
			wait = retryFirst // what another one waits for may be there, too
			ls.told.Store(new(ls.status()))
			if err := service.Status(ls.status()); err != nil {
				ls.log.Warn("systemd was not told", "err", err)
			}
		}
	}
}

// try opens a listener and says how it went.
func (ls *listeners) try(ctx context.Context, l *listener) error {
	err := ls.listen(ctx, l)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil && l.attempts > 0:
		ls.log.Info("listening at last", "listener", l.Address, "attempts", l.attempts+1)
	case err != nil:
		l.attempts++
		if now := time.Now(); err.Error() != l.failure || now.Sub(l.logged) >= remindEvery {
			l.failure, l.logged = err.Error(), now
			what := "cannot listen, will try again"
			if l.hopeless {
				what = "cannot listen"
			}
			ls.log.Error(what, "listener", l.Address, "attempts", l.attempts, "err", err)
		}
	}
	return err
}

// listen opens a listener and gives it to the broker.
func (ls *listeners) listen(ctx context.Context, l *listener) error {
	if network, name := l.Endpoint(); network == "systemd" {
		return ls.adopt(ctx, l, name)
	}
	ln, err := l.open(ctx)
	if err != nil {
		return err
	}
	name := ln.Addr().String()
	if port, all := strings.CutPrefix(name, "[::]:"); all && strings.HasPrefix(l.Address, ":") {
		name = ":" + port // in the words of the configuration, where [::] is IPv6 only
	}
	if u, ok := ln.(*net.UnixListener); ok {
		name, l.file = "unix:"+name, name
		u.SetUnlinkOnClose(false) // the loop goes on listening on its duplicate
	} else if l.absent(ln.Addr()) {
		ls.log.Warn("listening on an address that this machine does not have yet", "listener", name)
	}
	l.settings.Name = name
	if err := errors.Join(ls.b.Listen(ctx, ln, l.settings), ln.Close()); err != nil {
		return err
	}
	l.bound = []string{name}
	return nil
}

// adopt gives the sockets of one name that systemd has passed to the broker.
func (ls *listeners) adopt(ctx context.Context, l *listener, name string) error {
	lns := ls.passed[name]
	if len(lns) == 0 {
		l.hopeless = true
		return &faultError{fmt.Errorf("listener %s: systemd has passed no socket of that name; it takes a socket unit "+
			"with FileDescriptorName=%s that is started before the broker", l.Address, name)}
	}
	delete(ls.passed, name)
	var failed error
	for _, ln := range lns {
		if err := ls.b.Listen(ctx, ln, l.settings); err != nil {
			failed = errors.Join(failed, fmt.Errorf("listener %s: %w", l.Address, err))
		} else {
			l.bound = append(l.bound, fmt.Sprintf("%s (%s)", l.Address, ln.Addr()))
		}
	}
	l.hopeless = failed != nil // another attempt would be the same
	return failed
}

// waits says whether there is something to try again.
func (l *listener) waits() bool { return l.bound == nil && !l.hopeless }

// addresses are those that clients can connect to, "none" if there are none yet.
func (ls *listeners) addresses() string {
	var all []string
	for _, l := range ls.all {
		all = append(all, l.bound...)
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// waiting are the addresses that cannot be listened on yet.
func (ls *listeners) waiting() string {
	var all []string
	for _, l := range ls.all {
		if l.bound == nil {
			all = append(all, l.Address)
		}
	}
	return strings.Join(all, ", ")
}

// status is the line for systemctl.
func (ls *listeners) status() string {
	open, waiting := ls.addresses(), ls.waiting()
	switch {
	case waiting == "":
		return "listening on " + open
	case open == "none":
		return "cannot listen yet on " + waiting
	}
	return "listening on " + open + "; not yet on " + waiting
}

// removeSockets removes the unix sockets of listeners that have ended.
func (ls *listeners) removeSockets() {
	for _, l := range ls.all {
		if l.file != "" {
			_ = os.Remove(l.file) // the next start would
		}
	}
}

// faultError is what only somebody who changes the configuration can help with.
type faultError struct{ err error }

func (e *faultError) Error() string { return e.err.Error() }
func (e *faultError) Unwrap() error { return e.err }

func (l *listener) open(ctx context.Context) (net.Listener, error) {
	network, address := l.Endpoint()
	if network == "unix" {
		if err := removeStale(address); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false) // which knows IP_FREEBIND on new kernels only
	if network != "unix" && l.FreeBind {
		lc.Control = freeBind
	}
	ln, err := lc.Listen(ctx, network, address)
	if err != nil {
		err = fmt.Errorf("listener %s: %w; %s", l.Address, err, listenRemedy(network, err))
		if network != "unix" && errors.Is(err, unix.EACCES) {
			err = &faultError{err}
		}
		return nil, err
	}
	if network == "unix" {
		if err := l.share(address); err != nil {
			return nil, errors.Join(fmt.Errorf("listener %s: %w", l.Address, err), ln.Close())
		}
	}
	return ln, nil
}

// freeBind lets a socket be bound to an address that the machine does not have yet. Where the
// kernel cannot, the bind fails and is tried again.
func freeBind(network, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		if network == "tcp6" {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			return
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	})
}

// absent says whether the address of a listener is none of this machine, as far as it can be told.
func (l *listener) absent(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok || t.IP.IsUnspecified() || t.IP.IsLoopback() {
		return false
	}
	here, err := net.InterfaceAddrs()
	return err == nil && !slices.ContainsFunc(here, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(t.IP)
	})
}

// share lets those use a unix socket who are meant to.
func (l *listener) share(path string) error {
	if l.Group != "" {
		g, err := user.LookupGroup(l.Group)
		if err != nil {
			return &faultError{err}
		}
		id, err := strconv.Atoi(g.Gid)
		if err != nil {
			return &faultError{fmt.Errorf("group %s: %w", l.Group, err)}
		}
		if err := os.Chown(path, -1, id); err != nil {
			return &faultError{fmt.Errorf("%w; the user of the broker must be in the group %s", err, l.Group)}
		}
	}
	return os.Chmod(path, l.Mode)
}

// listenRemedy says what to do about an address that cannot be listened on.
func listenRemedy(network string, err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return "is another broker running there?"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "this machine does not have that address (now)"
	case network == "unix":
		return "the folder of the socket must exist, and the broker must be allowed to write to it"
	case errors.Is(err, unix.EACCES):
		return "ports below 1024 need CAP_NET_BIND_SERVICE; choose another"
	}
	return "choose another address"
}

// removeStale removes the socket of a process that is gone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listener unix:%s: %w", path, err)
	case info.Mode().Type() != os.ModeSocket:
		return &faultError{fmt.Errorf("listener unix:%s: there is a file of that name that is no socket; remove it or choose another path", path)}
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("listener unix:%s: another process listens there", path)
	}
	return os.Remove(path)
}
