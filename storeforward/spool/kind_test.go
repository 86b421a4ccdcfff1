package spool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/storeforward/boltfile"
)

// filled makes a spool of n messages, of which some are done, and leaves it open.
func filled(t *testing.T, n int) string {
	path := filepath.Join(t.TempDir(), "uplink-a.db")
	b := open(t, path, Options{})
	for i := range n {
		b.add(1, durable.Seq(i+1), msg(i))
	}
	b.next(0, 4)
	b.Done(1, Delivered)
	b.Done(2, Delivered)
	b.received(4) // writes the state
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "uplink-a.db")
	if err := os.WriteFile(copied, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}

func salvage(t *testing.T, path string) string {
	t.Helper()
	if _, err := boltfile.Salvage(path, path+".new", Kind(), nil); err != nil {
		t.Fatal(err)
	}
	return path + ".new"
}

func TestASalvagedSpoolIsAsItWas(t *testing.T) {
	path := filled(t, 20)
	if r, err := boltfile.Inspect(path, Kind(), nil); err != nil || r.Damaged() || r.Values["messages"] < 18 {
		t.Fatalf("got %+v, %v", r, err)
	}
	b := open(t, salvage(t, path), Options{})
	if l := b.Ledger(); l.Accepted != 20 || l.Delivered() != 2 || l.Pending != 18 {
		t.Errorf("ledger %+v", l)
	}
	b.adds()
	if got := b.next(b.Floor(), 100); len(got) != 18 || got[0].Seq != 3 || !got[1].Received {
		t.Errorf("%d messages", len(got))
	}
}

func TestASpoolWithoutItsStateHasAllItsMessagesPending(t *testing.T) {
	path := filled(t, 20)
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(bucketState).Put(keyCursor, []byte("?")), tx.Bucket(bucketMessages).Delete(key(10)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	b := open(t, path, Options{})
	first := 20 - int(b.Ledger().Pending)
	got := b.next(b.Floor(), 100)
	if len(got) != int(b.Ledger().Pending) || first > 3 {
		t.Errorf("%d messages, ledger %+v", len(got), b.Ledger())
	}
	for _, r := range got {
		b.Done(r.Seq, Delivered)
	}
	if l := b.Ledger(); l.Pending != 0 || l.Accepted != l.Delivered() {
		t.Errorf("ledger %+v, a number that is not there counts", l)
	}
}

// The state that is left knows less than the messages do.
func TestAnOldStateAndNewMessagesAreBroughtTogether(t *testing.T) {
	path := filled(t, 20)
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		old := state{last: 5, floor: 1, limit: 3, source: 5}
		old.ledger.Accepted, old.ledger.Pending, old.ledger.Out[Delivered] = 5, 4, 1
		return errors.Join(tx.Bucket(bucketState).Put(keyCursor, old.append(nil)), tx.Bucket(bucketMessages).Delete(key(6)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	db, err = bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return mend(tx, true) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	b := open(t, path, Options{})
	if l := b.Ledger(); l.Accepted != 19 || l.Pending != 18 {
		t.Errorf("ledger %+v", l)
	}
	for _, r := range b.next(b.Floor(), 100) {
		b.Done(r.Seq, Delivered)
		if r.Seq == 20 && !r.Dup {
			t.Error("what an earlier process may have sent is not marked")
		}
	}
	if l := b.Ledger(); l.Pending > 1 {
		t.Errorf("ledger %+v", l)
	}
	if err := b.add(1, 0, msg(21))[0]; err != nil {
		t.Error(err)
	}
}

func TestAnAbsentSpoolTakesNothingAndHasNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "uplink-a.db")
	absent := errors.New("it belongs to somebody else")
	b := open(t, path, Options{Absent: absent})
	if b.Admits(1) {
		t.Error("it admits a message")
	}
	if err := b.add(1, 0, msg(1))[0]; !errors.Is(err, boltfile.ErrUnavailable) || !errors.Is(err, absent) {
		t.Errorf("got %v", err)
	}
	if r, err := b.Next(0, 10, 1<<20); len(r) != 0 || err != nil {
		t.Errorf("got %v, %v", r, err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a file: %v", err)
	}
}
