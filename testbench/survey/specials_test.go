package survey

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// special is something that was done to a data folder, and not to the bytes of a file.
type special struct {
	name string
	do   func(t *testing.T, data string) // nil = nothing
	// wrap are the words in front of the broker's command line; "" in it is the data folder.
	wrap []string
	// durable: the broker takes new work. Otherwise it serves without what it cannot use, and leaves
	// that alone.
	durable bool
	log     string // what it says
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// readOnly makes the data folder a read-only mount that only the broker sees.
var readOnly = []string{"unshare", "-m", "sh", "-c", `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"`, "sh", ""}

// nobody runs the broker as somebody to whom nothing belongs.
var nobody = []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}

var specials = []special{
	{"nothing is wrong", nil, nil, true, ""},
	{"the sessions are missing", func(t *testing.T, data string) { must(t, os.Remove(filepath.Join(data, "sessions.db"))) }, nil, true, ""},
	{"the spool is missing", func(t *testing.T, data string) { must(t, os.Remove(filepath.Join(data, spoolName))) }, nil, true, ""},
	{"the folder is missing", func(t *testing.T, data string) { must(t, os.RemoveAll(data)) }, nil, true, ""},
	{"a folder in the place of the sessions", func(t *testing.T, data string) {
		path := filepath.Join(data, "sessions.db")
		must(t, os.Remove(path), os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
	}, nil, true, "it is no file"},
	{"a folder in the place of the spool", func(t *testing.T, data string) {
		path := filepath.Join(data, spoolName)
		must(t, os.Remove(path), os.Mkdir(path, 0o755))
	}, nil, true, "it is no file"},
	{"a device in the place of the sessions", func(t *testing.T, data string) {
		path := filepath.Join(data, "sessions.db")
		must(t, os.Remove(path), os.Symlink("/dev/null", path))
	}, nil, true, "it is no file"},
	{"a creation that did not end", func(t *testing.T, data string) {
		must(t, os.WriteFile(filepath.Join(data, "sessions.db.new"), []byte("x"), 0o600))
	}, nil, true, ""},
	{"the files belong to somebody else", nil, nobody, false, "permission denied"},
	{"the folder belongs to somebody else", func(t *testing.T, data string) {
		for _, name := range []string{"sessions.db", spoolName} {
			must(t, os.Chown(filepath.Join(data, name), 65534, 65534))
		}
	}, nobody, false, "permission denied"},
	{"a read-only mount", nil, readOnly, false, "read-only file system"},
}

func TestTheBrokerStartsOnWhatItMayNotUse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	crashed, _ := makeFolders(ctx, t)
	for _, s := range specials {
		t.Run(s.name, func(t *testing.T) { s.run(ctx, t, crashed) })
	}
}

func (s *special) run(ctx context.Context, t *testing.T, folder string) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	copyFolder(t, folder, data)
	if s.do != nil {
		s.do(t, data)
	}
	before := files(t, data)
	p := s.start(ctx, t, dir, data)
	if s.durable {
		takesWork(ctx, t, p, s.name)
	} else {
		servesWithout(ctx, t, p, s.name)
	}
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
	if log := p.Tail(1 << 20); !strings.Contains(log, s.log) {
		t.Errorf("it does not say %q:\n%s", s.log, log)
	}
	if !s.durable {
		after := files(t, data)
		for name, b := range before {
			if !bytes.Equal(after[name], b) {
				t.Errorf("%s was changed", name)
			}
		}
		return
	}
	for _, name := range []string{"sessions.db", spoolName} {
		if before[name] != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(data, name)); err != nil {
			t.Errorf("it was not begun anew: %v", err)
		}
	}
}

// start runs the broker, in other circumstances if need be.
func (s *special) start(ctx context.Context, t *testing.T, dir, data string) *process.Process {
	t.Helper()
	if s.wrap == nil {
		return serve(ctx, t, dir, data)
	}
	binary, err := process.Binary()
	must(t, err)
	b, err := os.ReadFile(binary)
	must(t, err)
	own := filepath.Join(dir, "dunlin") // that everybody may run
	must(t, os.WriteFile(own, b, 0o755), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755))
	address, err := process.FreeAddress()
	must(t, err)
	var words []string
	for _, w := range s.wrap {
		if w == "" {
			w = data
		}
		words = append(words, w)
	}
	words = append(words, own, "serve", "--data", data, "--listen", address)
	p, err := process.Start(ctx, process.Spec{
		Path: "/usr/bin/env", Args: words, Dir: dir, Log: filepath.Join(dir, "dunlin.log"), Network: "tcp", Address: address,
	})
	must(t, err)
	t.Cleanup(func() { p.Kill() })
	return p
}

// files reads what is in a folder.
func files(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	for _, name := range []string{"sessions.db", spoolName} {
		if b, err := os.ReadFile(filepath.Join(folder, name)); err == nil {
			all[name] = b
		}
	}
	return all
}

// servesWithout checks that what needs no disk works, and that the rest is refused.
func servesWithout(ctx context.Context, t *testing.T, p *process.Process, what string) {
	t.Helper()
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		c := client.New(client.Options{Address: p.Spec.Address, ClientID: "new", Version: v, SessionExpiry: 3600})
		_, err := c.Connect(ctx)
		c.Close()
		if _, refused := errors.AsType[*client.RefusedError](err); !refused {
			t.Errorf("%s: a new persistent session of version %d got %v", what, v, err)
		}
	}
	sub, _ := connect(ctx, t, p, client.Options{ClientID: "sub", CleanStart: true})
	if _, err := sub.Subscribe(ctx, client.Filter{Filter: "a", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	pub, _ := connect(ctx, t, p, client.Options{ClientID: "pub", CleanStart: true})
	for qos := range packet.QoS(2) {
		if err := pub.Publish(ctx, client.Publish{Topic: "a", Payload: []byte{byte(qos)}, QoS: qos}); err != nil {
			t.Fatal(err)
		}
		if m, err := sub.Receive(ctx); err != nil || m.Payload[0] != byte(qos) {
			t.Errorf("%s: got %v, %v", what, m.Payload, err)
		}
	}
	if err := pub.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}
