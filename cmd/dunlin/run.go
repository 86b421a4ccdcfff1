package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/broker"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/platform/clock"
	"dunlin/platform/service"
	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
)

// stopTime is how long a stop may take: clients are told, queues are committed.
const stopTime = 10 * time.Second

// run is the broker: it serves until ctx ends, and returns when everything it started has ended.
//
// Start: data folder, session store, uplinks' spools, broker, listeners, READY. Stop, in the
// other direction: clients are told, the loop ends, uplinks and their spools and the store are
// closed.
func run(ctx context.Context, cfg *config.Config, logger *slog.Logger) (err error) {
	service.LimitHeap()
	files, err := service.RaiseNoFile()
	if err != nil {
		logger.Warn("limit of open files stays low", "err", err)
	}
	unlock, err := lockData(cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()

	clk := clock.New()
	store, err := sessionstore.Open(filepath.Join(cfg.Data, "sessions.db"), sessionstore.Options{
		Clock:  clk,
		NoSync: cfg.Store.UnsafeNoSync,
		Log:    logger,
	})
	if err != nil {
		return openRemedy(err)
	}
	// Whatever happens from here on, what was handed over is committed.
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		err = errors.Join(err, store.Close(ctx))
	}()

	authenticator, policy, err := doors(cfg)
	if err != nil {
		return err
	}
	defer authenticator.Close()

	times := moments{history: store.History(), clock: clk}
	ups, err := openUplinks(cfg, store.History(), logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ups.close()) }()

	b, err := broker.New(broker.Options{
		Store:    store,
		Outboxes: ups.outboxes(),
		Restored: store.Sessions(),
		Retained: store.Retained(),
		Auth:     authenticator,
		Policy:   policy,
		Clock:    times,
		Limits:   limits(cfg, files),
		Log:      logger,
	})
	if err != nil {
		return err
	}
	store.Start(b.Completer())
	addresses, err := listen(b, cfg)
	if err != nil {
		return err
	}
	return serveUntil(ctx, b, ups, cfg, addresses, logger)
}

// openRemedy says what to do about a session store that does not open.
func openRemedy(err error) error {
	switch {
	case errors.Is(err, boltfile.ErrInUse):
		return err
	case errors.Is(err, boltfile.ErrNewer):
		return fmt.Errorf("%w; install that version again, or move the file aside to start without its sessions and queues", err)
	}
	return fmt.Errorf("%w; put back a copy of the file, or move it aside to start without its sessions and queues", err)
}

// serveUntil runs the loop and the watchdog, and starts the uplinks, until ctx ends or one of them fails.
func serveUntil(ctx context.Context, b *broker.Broker, ups uplinks, cfg *config.Config, addresses []string, logger *slog.Logger) error {
	loopCtx, endLoop := context.WithCancel(context.Background())
	defer endLoop()
	defer removeSockets(cfg)
	parts, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	var loop, others sync.WaitGroup
	// The loop ends by endLoop, after the clients were told; the others by parts. All are waited
	// for below.
	loop.Go(func() { failed(b.Run(loopCtx)) })
	ups.start(b)
	others.Go(func() {
		if err := service.Watchdog(parts, logger, b.Alive); err != nil {
			failed(err)
		}
	})

	status := "listening on " + strings.Join(addresses, ", ")
	logger.Info("dunlin is ready", "version", version, "listening", strings.Join(addresses, ", "),
		"data", cfg.Data, "authentication", cfg.Auth.Enabled(), "uplinks", ups.names())
	if err := service.Ready(status); err != nil {
		logger.Warn("systemd was not told", "err", err)
	}

	<-parts.Done()
	logger.Info("stopping")
	if err := service.Stopping("telling the clients"); err != nil {
		logger.Warn("systemd was not told", "err", err)
	}
	stopCtx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	b.Shutdown(stopCtx)
	others.Wait()
	endLoop()
	loop.Wait()
	if cause := context.Cause(parts); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// doors makes what decides who comes in and what they may do.
func doors(cfg *config.Config) (*auth.Authenticator, *access.Policy, error) {
	var passwords *auth.PasswordFile
	if cfg.Auth.Enabled() {
		var err error
		if passwords, err = auth.ReadPasswordFile(cfg.Auth.Passwords); err != nil {
			return nil, nil, err
		}
	}
	policy, err := access.New(cfg.Access)
	if err != nil {
		return nil, nil, err
	}
	return auth.New(auth.Options{Passwords: passwords}), policy, nil
}

// reservedFiles is how many descriptors connections leave to the store, which opens its file anew
// after a failed commit, to the spools and to the links of uplinks.
const reservedFiles = 64

func limits(cfg *config.Config, files uint64) broker.Limits {
	aliases := cfg.Limits.TopicAliases
	if aliases == 0 {
		aliases = -1
	}
	return broker.Limits{
		MaxConnections:   int(min(files-min(files/2, reservedFiles), math.MaxInt32)),
		MaxPacket:        int(cfg.Limits.MaxPacket),
		MaxTopicLevels:   cfg.Limits.MaxTopicLevels,
		MaxSubscriptions: cfg.Limits.MaxSubscriptions,
		MaxInFlight:      cfg.Limits.MaxInFlight,
		ReceiveMaximum:   cfg.Limits.ReceiveMaximum,
		MaxOutput:        int(cfg.Limits.MaxOutput),
		ConnectTimeout:   cfg.Limits.ConnectTimeout,
		MaxQueued:        cfg.Sessions.MaxQueuedMessages,
		MaxSessionExpiry: cfg.Sessions.MaxExpiry,
		MaxRetained:      cfg.Retained.MaxMessages,
		MaxRetainedBytes: cfg.Retained.MaxBytes,

		TopicAliases:      aliases,
		HasMaxQoS:         cfg.Limits.MaxQoS < 2,
		MaxQoS:            packet.QoS(cfg.Limits.MaxQoS),
		NoRetain:          !cfg.Limits.Retain,
		NoWildcards:       !cfg.Limits.Wildcards,
		NoSubscriptionIDs: !cfg.Limits.SubscriptionIDs,
	}
}

// moments dates messages by the boot of the machine; it is the broker's Clock.
type moments struct {
	history *clock.History
	clock   *clock.Clock
}

// Stamp is now.
func (m moments) Stamp() message.Stamp {
	s := message.Stamp{Boot: m.history.Current().Number, Millis: m.clock.Millis()}
	if wall, quality := m.clock.Wall(); quality == clock.Synced {
		s.Wall = wall.UnixMilli()
	}
	return s
}

// Elapsed is the time since s.
func (m moments) Elapsed(s message.Stamp) time.Duration { return m.history.Elapsed(s.Boot, s.Millis) }

// listen opens the listeners and returns their addresses as bound.
func listen(b *broker.Broker, cfg *config.Config) (addresses []string, err error) {
	for _, l := range cfg.Listeners {
		ln, err := open(l)
		if err != nil {
			return nil, err
		}
		name := ln.Addr().String()
		if ln.Addr().Network() == "unix" {
			name = "unix:" + name
		}
		err = b.Listen(ln, &broker.Listener{
			Name:           name,
			AllowAnonymous: cfg.AllowsAnonymous(l),
			MaxConnections: l.MaxConnections,
		})
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the loop goes on listening on its duplicate
		}
		if err := errors.Join(err, ln.Close()); err != nil {
			return nil, err
		}
		addresses = append(addresses, name)
	}
	return addresses, nil
}

// socketMode lets the group of the broker use its sockets.
const socketMode = 0o660

func open(l config.Listener) (net.Listener, error) {
	network, address := l.Endpoint()
	if network == "unix" {
		if err := removeStale(address); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w; %s", l.Address, err, listenRemedy(network, err))
	}
	if network == "unix" {
		if err := os.Chmod(address, socketMode); err != nil {
			return nil, errors.Join(fmt.Errorf("listener %s: %w", l.Address, err), ln.Close())
		}
	}
	return ln, nil
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

// removeSockets removes the sockets of listeners that have ended.
func removeSockets(cfg *config.Config) {
	for _, l := range cfg.Listeners {
		if network, path := l.Endpoint(); network == "unix" {
			_ = os.Remove(path) // the next start would
		}
	}
}

// removeStale removes the socket of a process that is gone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listener unix:%s: %w", path, err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("listener unix:%s: there is a file of that name that is no socket; remove it or choose another path", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("listener unix:%s: another process listens there", path)
	}
	return os.Remove(path)
}
