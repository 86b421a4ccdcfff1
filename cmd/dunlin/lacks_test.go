package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// connected connects a client that the test closes.
func connected(t *testing.T, p *process.Process, o client.Options) (*client.Client, packet.Connack, error) {
	t.Helper()
	o.Address = p.Spec.Address
	c := client.New(o)
	t.Cleanup(c.Close)
	k, err := c.Connect(t.Context())
	return c, k, err
}

// acknowledged publishes a message and returns the code of its acknowledgement.
func acknowledged(t *testing.T, c *client.Client, p client.Publish) packet.ReasonCode {
	t.Helper()
	code := make(chan packet.ReasonCode, 1)
	p.Acked = func(k packet.ReasonCode) { code <- k }
	if err := c.Publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	return <-code
}

// servesWithoutDisk checks what a broker does without its store: what needs no disk.
func servesWithoutDisk(t *testing.T, p *process.Process) {
	t.Helper()
	for _, o := range []client.Options{
		{ClientID: "lasting", SessionExpiry: 3600},
		{ClientID: "lasting", Version: packet.V311},
	} {
		_, _, err := connected(t, p, o)
		refused, ok := errors.AsType[*client.RefusedError](err)
		want := packet.QuotaExceeded
		if o.Version == packet.V311 {
			want = packet.ServerUnavailable // return code 3
		}
		if !ok || refused.Code != want {
			t.Errorf("a new persistent session got %v, want %v", err, want)
		}
	}
	sub, _, err := connected(t, p, client.Options{ClientID: "passing", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	if codes, err := sub.Subscribe(t.Context(), client.Filter{Filter: "a/#", QoS: 1}); err != nil || codes[0] != 1 {
		t.Fatalf("got %v, %v", codes, err)
	}
	pub, _, err := connected(t, p, client.Options{ClientID: "publisher", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(t.Context(), client.Publish{Topic: "a/0", Payload: []byte("0")}); err != nil {
		t.Fatal(err)
	}
	if code := acknowledged(t, pub, client.Publish{Topic: "a/1", Payload: []byte("1"), QoS: 1}); code != packet.Success {
		t.Errorf("QoS 1 to who is there got %v", code)
	}
	for _, want := range []string{"0", "1"} {
		if m, err := sub.Receive(t.Context()); err != nil || string(m.Payload) != want {
			t.Errorf("got %q, %v; want %q", m.Payload, err, want)
		}
	}
	if code := acknowledged(t, pub, client.Publish{Topic: "r", Payload: []byte("r"), QoS: 1, Retain: true}); code != packet.QuotaExceeded {
		t.Errorf("a retained message got %v, want 0x97", code)
	}
}

func TestTheBrokerServesWithoutAFileOfANewerVersionAndBeginsAnewWithoutIt(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	path := sessionsIn(t, data)
	k := sessionstore.Kind()
	k.Version++
	if _, err := boltfile.Salvage(path, path+".new", k, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	p, err := process.Dunlin(t.Context(), dir, process.Gateway{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	servesWithoutDisk(t, p)
	log := p.Tail(1 << 20)
	if !strings.Contains(log, "serving without it") || !strings.Contains(log, "install the newer program again") {
		t.Errorf("it does not say what is wrong:\n%s", log)
	}
	w, _, err := connected(t, p, client.Options{ClientID: "w"})
	if err != nil {
		t.Fatal(err)
	}
	w.Subscribe(t.Context(), client.Filter{Filter: "$SYS/broker/alarm/missing"})
	if m, err := w.Receive(t.Context()); err != nil || !m.Retain || !strings.Contains(string(m.Payload), "serving without sessions.db: ") {
		t.Errorf("alarm %q, %v", m.Payload, err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was written to")
	}

	if err := os.Rename(path, filepath.Join(dir, "away.db")); err != nil {
		t.Fatal(err)
	}
	ready := func() int { return strings.Count(p.Tail(1<<20), "dunlin is ready") }
	until(t, "it begins anew", func() bool { return ready() == 2 })
	c, _, err := connected(t, p, client.Options{ClientID: "lasting", SessionExpiry: 3600})
	if err != nil {
		t.Fatal(err)
	}
	if code := acknowledged(t, c, client.Publish{Topic: "r", Payload: []byte("r"), QoS: 1, Retain: true}); code != packet.Success {
		t.Errorf("a retained message got %v", code)
	}
	if err := p.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestTheBrokerServesWithoutADataFolder(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, "file", "")
	p, err := process.Dunlin(t.Context(), dir, process.Gateway{
		Data:    filepath.Join(file, "data"),
		Uplinks: []process.Uplink{{Name: "up", Endpoint: "mqtt://127.0.0.1:1", ClientID: "g", Rules: []process.Rule{{From: "up/#", QoS: 2}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	servesWithoutDisk(t, p)
	pub, _, err := connected(t, p, client.Options{ClientID: "publisher", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	for qos := range packet.QoS(3) {
		if qos == 0 {
			continue
		}
		if code := acknowledged(t, pub, client.Publish{Topic: "up/1", QoS: qos}); code != packet.QuotaExceeded {
			t.Errorf("QoS %d to an uplink without a spool got %v, want 0x97", qos, code)
		}
	}
	if err := p.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestWhatNobodyHasChangedIsNotTriedAgain(t *testing.T) {
	path := writeFile(t, "x.db", "newer")
	l := &lack{path: path, why: boltfile.ErrNewer, found: identify(path)}
	if l.worthTrying() {
		t.Error("a newer file that is the same is tried")
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if !l.worthTrying() {
		t.Error("a file that has changed is not tried")
	}
	l = &lack{path: filepath.Join(path, "below"), why: errors.New("no folder")}
	if l.worthTrying() {
		t.Error("what cannot be reached is tried")
	}
}

func TestAFileThatIsDamagedWhileTheBrokerServesIsMended(t *testing.T) {
	dir := t.TempDir()
	p, err := process.Dunlin(t.Context(), dir, process.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	away := client.Options{ClientID: "away", SessionExpiry: 3600}
	c, _, err := connected(t, p, away)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(t.Context(), client.Filter{Filter: "a", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Everything but the meta pages.
	path := filepath.Join(dir, "data", sessionsFile)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{0xA5}, int(st.Size())-2*boltfile.PageSize), 2*boltfile.PageSize)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	until(t, "what is sent to the session is taken again", func() bool {
		pub := client.New(client.Options{Address: p.Spec.Address, ClientID: "pub", SessionExpiry: 3600})
		defer pub.Close()
		if _, err := pub.Connect(t.Context()); err != nil {
			return false // refused, or between two starts
		}
		ok := make(chan bool, 1)
		err := pub.Publish(t.Context(), client.Publish{Topic: "r", Payload: []byte("r"), QoS: 1, Retain: true, Acked: func(k packet.ReasonCode) { ok <- k < packet.UnspecifiedError }})
		if err != nil {
			return false
		}
		select {
		case taken := <-ok:
			return taken
		case <-pub.Done():
			return false
		}
	})
	log := p.Tail(1 << 20)
	if strings.Count(log, "beginning anew to mend it") != 1 || len(boltfile.Aside(path)) != 1 {
		t.Errorf("kept %q\n%s", boltfile.Aside(path), log)
	}
	if err := p.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}
