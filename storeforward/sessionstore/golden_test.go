package sessionstore

import (
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

var update = flag.Bool("update", false, "write the golden file of the current format version")

// golden is what testdata/v1.db.gz holds, see writeGolden.
func golden() (restored []durable.Restored, queue []durable.Entry, retained []*message.Message) {
	m := note("21.5")
	m.Properties = []byte{0x01, 1}
	m.HasExpiry, m.Expiry, m.Source = true, 86400, "cloud"
	big := note(string(bytes.Repeat([]byte("x"), 9000)))
	restored = []durable.Restored{{
		Session: durable.Session{
			Number: 1, ClientID: "device-17", Identity: "plant", Version: 5, Expiry: 3600, Connected: true,
			Left: message.Stamp{Boot: 1, Millis: 900, Wall: 1_780_000_000_000},
			Will: &durable.Will{Delay: 30, Message: note("gone")},
			Subscriptions: []durable.Subscription{
				{Filter: "plant/#", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 1, ID: 300},
				{Filter: "+/x", QoS: 1},
			},
		},
		Incoming: []packet.ID{77},
		Floor:    6,
	}, {
		Session:  durable.Session{Number: 2, ClientID: "c2", Version: 4},
		Pending:  3,
		Bytes:    int64(len(m.Topic)*3 + 4 + 2 + 9000 + 1),
		Shared:   1,
		Floor:    1,
		Last:     5,
		Outgoing: []durable.Outgoing{{ID: 5, Received: true}, {ID: 6, Seq: 5}},
	}}
	queue = []durable.Entry{
		{Seq: 2, Message: m, QoS: 1, Retain: true, SubscriptionIDs: []uint32{1, 300}},
		{Seq: 3, Message: big, QoS: 1},
		{Seq: 5, Message: note("q"), QoS: 2, PacketID: 6, Share: "$share/g/plant/#"},
	}
	retained = []*message.Message{m}
	return restored, queue, retained
}

// writeGolden makes a file in which every kind of value and every optional field occurs.
func writeGolden(t *testing.T, path string) {
	b := start(t, path, testOptions())
	restored, queue, retained := golden()
	one, two := restored[0].Session, restored[1].Session
	b.commit(func(k durable.Token) { b.PutSession(&one, k) })
	b.commit(func(k durable.Token) { b.PutSession(&two, k) })
	b.put(3)
	first := b.add("delivered", 1, 2, 3)
	b.Done(2, first, durable.Delivered)
	b.Done(1, first, durable.Expired)
	b.commit(func(k durable.Token) { b.EndSession(3, k) })
	b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: queue[0].Message, Retained: true, Publisher: 1, PublisherID: 77, Receivers: []durable.Receiver{
			{Session: 2, QoS: 1, Retain: true, SubscriptionIDs: []uint32{1, 300}},
		}}, k)
	})
	b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: queue[1].Message, Receivers: receivers(1, 2)}, k)
	})
	b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: note("p"), Receivers: receivers(2, 1, 2)}, k)
	})
	b.commit(func(k durable.Token) { b.Sent(2, 4, 5, k) })
	b.commit(func(k durable.Token) { b.Received(2, 4, 5, k) })
	b.Done(1, 4, durable.DroppedFull)
	b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: queue[2].Message, Receivers: []durable.Receiver{{Session: 2, QoS: 2, PacketID: 6, Share: "$share/g/plant/#"}}}, k)
	})
	s := b.add("delivered", 1)
	b.Done(1, s, durable.Delivered)
	_ = retained
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestFormatVersion1CanBeRead(t *testing.T) {
	const name = "testdata/v1.db.gz"
	if *update {
		path := filepath.Join(t.TempDir(), "sessions.db")
		writeGolden(t, path)
		packGolden(t, path, name)
	}
	raw, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	z, err := gzip.NewReader(raw)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sessions.db")
	file, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, path, testOptions())
	restored, queue, retained := golden()
	equal(t, "sessions", b.Sessions(), restored)
	r := b.read(2, 0, 10, 1<<20)
	equal(t, "queue", r.Entries, queue)
	var got []*message.Message
	for m := range b.Retained() {
		got = append(got, m)
	}
	equal(t, "retained", got, retained)
	equal(t, "ledger", b.Ledger(), Ledger{Counts: Counts{Accepted: 9, Left: [outcomes]uint64{
		durable.Delivered: 3, durable.Expired: 1, durable.DroppedFull: 1, durable.DroppedEnded: 1,
	}}, Pending: 3})
	boots := b.History().Boots()
	if len(boots) != 1 || boots[0].ID != "boot-a" || boots[0].LastMillis != 1000 || !boots[0].Synced || boots[0].WallOffset != 1_780_000_000_000-1000 {
		t.Errorf("got boots %+v", boots)
	}
	if !b.WasClean() || b.NextSession() != 4 {
		t.Error("not clean, or a session number would be reused")
	}
}

// packGolden writes the file without its unused end.
func packGolden(t *testing.T, path, name string) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err := db.View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(z); return err }); err != nil {
		t.Fatal(err)
	}
	z.Close()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
