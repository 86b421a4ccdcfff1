package boltfile

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
)

// disk says how much room there is.
type disk struct{ free int64 }

func (d *disk) available(string) (int64, error) { return d.free, nil }

func openOn(t *testing.T, d *disk, r *Reserve) *File {
	t.Helper()
	f, err := Open(filepath.Join(t.TempDir(), "x.db"), Options{Format: "test", Version: 1, Buckets: []string{"a"}, Available: d.available, Reserve: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func putLarge(f *File, bytes int, ensure func(*bbolt.Tx, int) error) error {
	return f.Update(func(tx *bbolt.Tx) error {
		if err := ensure(tx, bytes); err != nil {
			return err
		}
		b := tx.Bucket([]byte("a"))
		n, _ := b.NextSequence()
		return b.Put([]byte{byte(n >> 8), byte(n)}, make([]byte, bytes))
	})
}

func TestAFullDiskIsMetBeforeTheCommit(t *testing.T) {
	d := &disk{free: 1 << 30}
	f := openOn(t, d, nil)
	if err := putLarge(f, 1000, f.Ensure); err != nil {
		t.Fatal(err)
	}
	backed := allocated(f.fd)
	d.free = 0
	n := 0
	for ; n < 10_000; n++ { // what is allocated can be used
		if err := putLarge(f, 4000, f.Ensure); err != nil {
			if !errors.Is(err, ErrDiskFull) || !IsDiskFull(err) {
				t.Fatalf("got %v", err)
			}
			break
		}
	}
	if backed >= growStep && n < 100 || n == 10_000 {
		t.Errorf("%d records were taken, %d bytes were allocated", n, backed)
	}
	if err := f.View(func(*bbolt.Tx) error { return nil }); err != nil {
		t.Errorf("the file cannot be used any more: %v", err)
	}
	// What is deleted makes room, which is found without asking the disk.
	if err := f.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte("a")); err != nil {
			return err
		}
		_, err := tx.CreateBucket([]byte("a"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before := f.Used()
	if err := f.Update(func(*bbolt.Tx) error { return nil }); err != nil { // after which the pages are free
		t.Fatal(err)
	}
	if err := putLarge(f, 4000, f.Ensure); err != nil && n > 2*commitPages {
		t.Errorf("there are free pages: %v", err)
	}
	if f.Used() > before+100*PageSize || f.Used() >= f.Size() && n > 100 {
		t.Errorf("%d bytes are in use of %d", f.Used(), f.Size())
	}
}

func TestTheReserveLetsThingsBecomeFewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	r := NewReserve(path, 1<<20, slog.New(slog.DiscardHandler))
	st, err := os.Stat(path)
	if err != nil {
		t.Fatalf("%v; this test wants a file system that can allocate room", err)
	}
	if st.Size() != 1<<20 {
		t.Errorf("it has %d bytes", st.Size())
	}
	d := &disk{}
	f := openOn(t, d, r)
	free := []int64{0, 1 << 20} // as asked for, one after the other
	f.opts.Available = func(string) (int64, error) {
		n := free[0]
		free = slices.Delete(free, 0, min(1, len(free)-1))
		return n, nil
	}
	if err := putLarge(f, 1000, f.Squeeze); err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the reserve is still there: %v", err)
	}
	if f.Relax(); !r.Restore() {
		t.Error("there is room, and no reserve")
	}
	if again := NewReserve(path, 1<<20, slog.New(slog.DiscardHandler)); !again.Drop() || again.Drop() {
		t.Error("what an earlier process left is not taken over, or was dropped twice")
	}
	var none *Reserve
	if none.Drop() || !none.Restore() {
		t.Error("no reserve was dropped")
	}
}
