package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"dunlin/storeforward/boltfile"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

func TestThreeStartsThatDiedMakeTheFilesSuspect(t *testing.T) {
	dir := t.TempDir()
	var got []bool
	start := func() {
		suspect, err := countStart(dir)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, suspect)
	}
	for range 9 {
		start()
	}
	if err := errors.Join(startLasted(dir), startLasted(dir)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		start()
	}
	if err := os.WriteFile(filepath.Join(dir, startsName), []byte("\x00\xff many"), 0o600); err != nil {
		t.Fatal(err)
	}
	start()
	// Each one is looked at once, then it has three tries again.
	want := []bool{false, false, false, true, false, false, true, false, false, false, false, false, false}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

// left makes a file look as if its process had died.
func left(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("state"), []byte("open")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestASuspectFileIsWrittenAnew(t *testing.T) {
	for _, open := range []bool{false, true} {
		path := sessionsIn(t, t.TempDir())
		if open {
			left(t, path)
		}
		before, err := boltfile.Inspect(path, kindOf(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		old, _ := os.ReadFile(path)
		m, log := mending(t)
		m.suspect = true
		if _, err := m.prepare(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		now, _ := os.ReadFile(path)
		if bytes.Equal(old, now) == open || strings.Contains(log.String(), "suspect") != open {
			t.Errorf("left open: %v; it was written anew: %v\n%s", open, !bytes.Equal(old, now), log)
		}
		after, err := boltfile.Inspect(path, kindOf(path), nil)
		if err != nil || after.Damaged() || after.All() != before.All() || len(boltfile.Aside(path)) > 0 || len(m.damaged) > 0 {
			t.Errorf("got %+v, %v; want what there was, and no alarm", after, err)
		}
	}
}

func TestABrokerThatDiesAndDiesKeepsWhatItHas(t *testing.T) {
	p, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	o := client.Options{ClientID: "away", SessionExpiry: 3600}
	c, _, err := connected(t, p, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(t.Context(), client.Filter{Filter: "a", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	if err := c.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range byte(2 * suspectAfter) {
		pub, _, err := connected(t, p, client.Options{ClientID: "pub", CleanStart: true})
		if err != nil {
			t.Fatal(err)
		}
		acknowledged(t, pub, client.Publish{Topic: "a", Payload: []byte{n}, QoS: 2})
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(p.Tail(1<<20), "file is suspect"); n != 2 {
		t.Errorf("files were suspect %d times, want 2", n)
	}
	c, k, err := connected(t, p, o)
	if err != nil || !k.SessionPresent {
		t.Fatalf("session present: %v, %v", k.SessionPresent, err)
	}
	for n := range byte(2 * suspectAfter) {
		if m, err := c.Receive(t.Context()); err != nil || m.Payload[0] != n {
			t.Fatalf("got %v, %v; want %d", m.Payload, err, n)
		}
	}
	if err := p.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(p.Spec.Dir, "data", startsName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a start that was ended in order counts as one that died: %v", err)
	}
}
