package spool

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dunlin/core/message"
)

var update = flag.Bool("update", false, "rewrite testdata/v1.db.gz")

const golden = "testdata/v1.db.gz"

// goldenMessages are what the golden file was filled with.
func goldenMessages() []*message.Message {
	all := make([]*message.Message, 6)
	for i := range all {
		all[i] = msg(i)
	}
	all[3] = &message.Message{
		Topic: "plant/a/temp", Payload: []byte("21.5"), Properties: []byte{0x26, 0, 1, 'k', 0, 1, 'v'}, QoS: 2, Retain: true,
		HasExpiry: true, Expiry: 3600, Publisher: "sensor-7", Received: message.Stamp{Boot: 2, Millis: 123456, Wall: 1700000000000},
	}
	return all
}

// TestVersion1IsRead reads a file of format version 1. It stays for ever: with a later version
// there will be a second one.
func TestVersion1IsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "uplink-a.db")
	if *update {
		writeGolden(t, path)
	}
	packed, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, path, Options{})
	b.adds()
	l := b.Ledger()
	if l.Accepted != 6 || l.Delivered() != 1 || l.Out[Refused] != 1 || l.Pending != 4 {
		t.Errorf("ledger %+v", l)
	}
	want := goldenMessages()
	got := b.next(b.Floor(), 10)
	if len(got) != 4 {
		t.Fatalf("read %d messages, want 4", len(got))
	}
	for i, n := range []int{1, 3, 4, 5} {
		r := got[i]
		if r.Seq != Seq(n+1) || r.QoS != 2 || r.Received != (n == 1) || r.Dup != (n < 4) {
			t.Errorf("record %+v, want message %d", r, n)
		}
		if d := cmp.Diff(want[n], r.Message); d != "" {
			t.Error(d)
		}
	}
	if err := b.add(2, 100, msg(0))[0]; err != nil || b.Ledger().Accepted != 6 {
		t.Errorf("source 100 was taken over before: %v, %+v", err, b.Ledger())
	}
}

func writeGolden(t *testing.T, path string) {
	b := open(t, path, Options{})
	b.add(2, 95, goldenMessages()...)
	b.next(0, 4)
	b.Done(1, Delivered)
	b.Done(3, Refused)
	b.received(2)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	z.Write(data)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(golden, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
