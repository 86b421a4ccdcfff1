package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/cmd/dunlin/config"
	"dunlin/cmd/dunlin/console"
	"dunlin/core/broker"
	"dunlin/storeforward/sessionstore"
)

// runFolders are where a service has its sockets; the first that is there counts.
var runFolders = []string{"/run/dunlin", "/var/run/dunlin"}

// serviceSocket is where the admin socket of a service is, "" if there is no folder for it.
func serviceSocket() string {
	for _, folder := range runFolders {
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			return filepath.Join(folder, "admin.sock")
		}
	}
	return ""
}

// admin is the running broker as the console sees it.
type admin struct {
	store     *sessionstore.Store
	b         *broker.Broker
	ups       uplinks
	cfg       *config.Config
	log       *slog.Logger
	listening *atomic.Pointer[string]
	started   time.Time

	server *console.Server // nil = there is no socket
}

// open opens the admin socket. Without it the broker does its work all the same.
func (a *admin) open() *admin {
	a.started = time.Now()
	for _, path := range adminSockets(a.cfg) {
		s, err := console.Listen(console.Options{Path: path, Group: a.cfg.Admin.Group, Log: a.log}, a)
		if err != nil {
			level := slog.LevelWarn
			if errors.Is(err, console.ErrInUse) && a.cfg.Admin.Socket == "auto" {
				level = slog.LevelInfo // of another broker on this machine: there is a second place
			}
			a.log.Log(context.Background(), level, "no admin socket", "path", path, "err", err)
			continue
		}
		a.server = s
		if err := noteSocket(a.cfg.Data, path); err != nil {
			a.log.Warn("the admin socket is not noted in the data folder", "err", err)
		}
		a.log.Info("admin socket", "path", path)
		break
	}
	return a
}

func (a *admin) close() {
	if a.server == nil {
		return
	}
	if err := a.server.Close(); err != nil {
		a.log.Warn("the admin socket was not closed well", "err", err)
	}
}

// adminSockets are the places where the admin socket may be, the best first.
func adminSockets(cfg *config.Config) (paths []string) {
	switch cfg.Admin.Socket {
	case "none":
		return nil
	case "auto":
		if socket := serviceSocket(); socket != "" && unix.Access(filepath.Dir(socket), unix.W_OK) == nil {
			paths = append(paths, socket)
		}
		if data, err := filepath.Abs(cfg.Data); err == nil {
			paths = append(paths, filepath.Join(data, "admin.sock"))
		}
		return paths
	}
	return []string{cfg.Admin.Socket}
}

// Status is what the broker is and does.
func (a *admin) Status(ctx context.Context) (console.Status, error) {
	k, err := a.b.Snapshot(ctx)
	if err != nil {
		return console.Status{}, err
	}
	s := console.Status{
		Version:       version,
		PID:           os.Getpid(),
		UptimeSeconds: int64(time.Since(a.started) / time.Second),
		Data:          a.cfg.Data,
		Connected:     k.Connected,
		Sessions:      k.Sessions,
		Subscriptions: k.Subscriptions,
		Retained:      k.Retained,
		Delayed:       k.Delayed,
		StoreBytes:    a.store.Size(),
		Queues:        console.Account(a.store.Total()),
		Uplinks:       make([]console.Uplink, 0, len(a.ups)),
	}
	if told := a.listening.Load(); told != nil {
		s.Listening = *told
	}
	for _, u := range a.ups {
		st := u.Status()
		s.Uplinks = append(s.Uplinks, console.Uplink{
			Name: st.Name, Endpoint: st.Endpoint, Connected: st.Connected, Since: st.Since, LastError: st.LastError,
			NextDial: st.NextDial, InFlight: st.InFlight, Spool: console.Account(u.Account()),
		})
	}
	return s, nil
}

// Ledger is the account of every queue.
func (a *admin) Ledger(ctx context.Context, walk bool) (l console.Ledger, err error) {
	sessions, err := a.b.Sessions(ctx)
	if err != nil {
		return l, err
	}
	var audit *sessionstore.Audit
	if walk {
		if audit, err = a.store.Audit(ctx); err != nil {
			return l, err
		}
	}
	l = console.Ledger{Total: console.Account(a.store.Total()), Queues: []console.Queue{}, Uplinks: []console.Queue{}, Walked: walk}
	l.Mismatches = off(l.Total.Mismatch())
	for _, s := range sessions {
		account, ok := a.store.Account(s.Number)
		if !ok {
			continue // it ends with its connection, or has ended
		}
		q := console.Queue{Name: s.ClientID, Session: uint64(s.Number), Connected: s.Connected, Account: console.Account(account)}
		if s.Uplink != "" {
			q.Name = "uplink " + s.Uplink + ", QoS 2 on its way to the spool"
		}
		if w, ok := audit.Of(s.Number); ok {
			q.Walked = (*console.Walked)(&w)
		}
		l.Mismatches += q.Mismatches()
		l.Queues = append(l.Queues, q)
	}
	for _, u := range a.ups {
		q := console.Queue{Name: u.Name(), Connected: u.Status().Connected, Account: console.Account(u.Account())}
		if walk {
			w, err := u.Walk(ctx)
			if err != nil {
				return l, err
			}
			q.Walked = (*console.Walked)(&w)
		}
		l.Mismatches += q.Mismatches()
		l.Uplinks = append(l.Uplinks, q)
	}
	if l.Mismatches > 0 {
		a.log.Error("the ledger does not add up", "entries", l.Mismatches, "walked", walk)
	}
	return l, nil
}

func off(n int64) uint64 { return uint64(max(n, -n)) }

// ledgerAlarm says that messages which were accepted are nowhere, "" if all are accounted for.
func ledgerAlarm(store *sessionstore.Store) string {
	n := store.Unexplained()
	if total := store.Total(); n == 0 {
		n = off(total.Mismatch())
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d messages that were accepted are in no queue and were not counted when they left one; "+
		"keep a copy of the data folder and of the log, and see dunlin ledger --walk", n)
}
