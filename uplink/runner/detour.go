package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A server may send the uplink on to others (MQTT5 §4.11). These are tried in turn, and when none is
// left the configured one again. "Use another server" holds for one connection, "server moved" until
// no connection can be made there.
//
// The window on disk is about the session in one server. What another one has under our client id is
// of another time: a message that it has not released, or a PUBREL for one that it has never seen,
// would lose a message. So the first connection to another server than the last begins a new session
// there, and which server the last one was is on disk before anything is sent: in the file of
// detourPath, which is there while that is not the configured one.

// detour is where the uplink is while it is not, or not to be, at its endpoint.
type detour struct {
	servers   []string // endpoints that are still to be tried; the first is the one in use
	permanent bool
	last      string // endpoint of the server that has our session
}

// detourPath returns the file that names the server that has the session of the uplink of that name.
func detourPath(folder, name string) string {
	return filepath.Join(folder, "uplink-"+name+".server")
}

// endpoint is where the uplink connects, or is connected.
func (u *Uplink) endpoint() string {
	if len(u.detour.servers) > 0 {
		return u.detour.servers[0]
	}
	return u.o.Endpoint
}

// turn decides where to connect after a connection has ended, or could not be made.
func (u *Uplink) turn(err error, stood bool) {
	options := u.o.mqtt()
	servers, permanent := options.Redirected(err)
	d := &u.detour
	switch {
	case len(servers) > 0:
		u.o.Log.Warn("server sends the uplink on", "endpoint", u.endpoint(), "to", strings.Join(servers, " "), "permanent", permanent)
		d.servers, d.permanent = servers, permanent
	case len(d.servers) > 0 && !stood:
		d.servers = d.servers[1:]
	case !d.permanent:
		d.servers = nil
	}
}

// lastServer reads which server has the session.
func (u *Uplink) lastServer() (string, error) {
	b, err := os.ReadFile(detourPath(u.o.Folder, u.o.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return u.o.Endpoint, nil
	}
	if err != nil {
		return "", fmt.Errorf("uplink %q: %w", u.o.Name, err)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// keepServer writes down which server has the session from now on, and returns when it is on disk.
// It runs on the goroutine that dials.
func (u *Uplink) keepServer(endpoint string) error {
	path := detourPath(u.o.Folder, u.o.Name)
	if endpoint == u.o.Endpoint {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("runner: %w", err)
		}
	} else if err := replaceFile(path, endpoint+"\n"); err != nil {
		return fmt.Errorf("runner: the server that has the session cannot be written down: %w", err)
	}
	return syncFile(u.o.Folder)
}

func replaceFile(path, text string) error {
	next := path + ".new"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	if err := syncFile(next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// syncFile syncs a file, or the names in a folder.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
