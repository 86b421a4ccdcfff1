package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

var testOptions = Options{Format: "dunlin.test", Version: 2, Buckets: []string{"a", "b"}, MaxBytes: 1 << 20}

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func put(key, value string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error { return tx.Bucket([]byte("a")).Put([]byte(key), []byte(value)) }
}

func get(t *testing.T, f *File, key string) (value string) {
	t.Helper()
	err := f.View(func(tx *bbolt.Tx) error {
		value = string(tx.Bucket([]byte("a")).Get([]byte(key)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestWhatWasCommittedIsThereAfterReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	if !f.WasClean() {
		t.Error("a new file counts as unclean")
	}
	if err := f.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path)
	if got := get(t, f, "k"); got != "v" || !f.WasClean() || f.Version() != 2 {
		t.Errorf("got %q, clean %v, version %d; want v, true, 2", got, f.WasClean(), f.Version())
	}
}

func TestAStopWithoutCloseIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	if err := f.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	dead := copyFile(t, path)
	g := open(t, dead)
	if g.WasClean() {
		t.Error("a file copied while open counts as cleanly closed")
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if g = open(t, dead); !g.WasClean() {
		t.Error("a clean stop without a write in between did not mark the file")
	}
}

func TestASecondOpenSaysInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	open(t, path)
	_, err := Open(path, testOptions)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrInUse with the path", err)
	}
}

func TestFilesThatAreNotOursAreLeftAlone(t *testing.T) {
	tests := []struct {
		name  string
		write func(tx *bbolt.Tx) error
		want  error
	}{
		{"newer version", func(tx *bbolt.Tx) error {
			return tx.Bucket(metaBucket).Put(keyVersion, binary.BigEndian.AppendUint32(nil, 3))
		}, ErrNewer},
		{"another kind", func(tx *bbolt.Tx) error {
			return tx.Bucket(metaBucket).Put(keyFormat, []byte("dunlin.other"))
		}, ErrForeign},
		{"no meta bucket", func(tx *bbolt.Tx) error { return tx.DeleteBucket(metaBucket) }, ErrForeign},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			f := open(t, path)
			f.Close()
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(test.write), db.Close()); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			if _, err := Open(path, testOptions); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			after, _ := os.ReadFile(path)
			if !bytes.Equal(before, after) {
				t.Error("the refused file was written to")
			}
		})
	}
}

func TestAFileOfSomethingElseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	text := []byte(strings.Repeat("a diary\n", 5000))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, testOptions); !errors.Is(err, ErrForeign) {
		t.Errorf("got %v, want ErrForeign", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(after, text) {
		t.Error("the refused file was written to")
	}
}

func TestAnEmptyFileIsANewOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	if err := f.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
}

func TestAStopAfterAFailedCommitIsClean(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	if err := f.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	f.fd.Close()
	if err := f.Update(put("k", "w")); err == nil {
		t.Fatal("commit succeeded")
	}
	if _, err := f.Recover(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f = open(t, path); !f.WasClean() {
		t.Error("the file counts as unclean")
	}
}

func TestOurOwnFaultsAreNotTakenForDamage(t *testing.T) {
	defer func() {
		if p := recover(); p == nil {
			t.Error("an internal error became an error of the file")
		}
	}()
	guard("x.db", func() error { panic("boltfile: internal error: test") })
}

func TestAHalfMadeFileIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	if err := f.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
}

func TestAnErrorOfTheCallerUndoesTheTransaction(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "x.db"))
	want := errors.New("no")
	err := f.Update(func(tx *bbolt.Tx) error {
		put("k", "v")(tx)
		return want
	})
	if err != want || get(t, f, "k") != "" {
		t.Errorf("got %v and %q, want the caller's error and nothing", err, get(t, f, "k"))
	}
	if err := f.Update(put("k", "w")); err != nil {
		t.Errorf("the file is unusable afterwards: %v", err)
	}
}

func TestNothingIsNotCommitted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	before, _ := os.ReadFile(path)
	if err := f.Update(func(*bbolt.Tx) error { return Nothing() }); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("an empty transaction was written")
	}
}

func TestAFailedCommitIsSettledByRecover(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "x.db"))
	if err := f.Update(put("k", "old")); err != nil {
		t.Fatal(err)
	}
	f.fd.Close() // every write and fsync of bbolt fails from here
	if err := f.Update(put("k", "new")); err == nil {
		t.Fatal("a commit to a closed descriptor succeeded")
	}
	if err := f.View(func(*bbolt.Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a read after the failure got %v, want ErrUnavailable", err)
	}
	if err := f.Update(put("k", "new")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a write after the failure got %v, want ErrUnavailable", err)
	}
	committed, err := f.Recover()
	if err != nil || committed {
		t.Fatalf("got committed %v, %v; want false, nil", committed, err)
	}
	if got := get(t, f, "k"); got != "old" {
		t.Errorf("got %q, want old", got)
	}
	if err := f.Update(put("k", "new")); err != nil || get(t, f, "k") != "new" {
		t.Errorf("got %v and %q after recovery", err, get(t, f, "k"))
	}
}

// The last fsync of a commit can fail although the kernel has the new meta page.
func TestACommitWhoseMetaPageCanBeReadCounts(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "x.db"))
	var id int
	err := f.Update(func(tx *bbolt.Tx) error {
		id = tx.ID()
		return put("k", "v")(tx)
	})
	if err != nil {
		t.Fatal(err)
	}
	f.failed, f.failedID = true, id
	if committed, err := f.Recover(); err != nil || !committed {
		t.Fatalf("got committed %v, %v; want true, nil", committed, err)
	}
	if got := get(t, f, "k"); got != "v" {
		t.Errorf("got %q, want v", got)
	}
}

func TestRecoverOfAVanishedFileIsAnErrorUntilItIsBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	if err := f.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	f.fd.Close()
	if err := f.Update(put("k", "w")); err == nil {
		t.Fatal("commit succeeded")
	}
	for range 3 {
		if _, err := f.Recover(); err == nil {
			t.Fatal("recovered without a file")
		}
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if committed, err := f.Recover(); err != nil || committed || get(t, f, "k") != "v" {
		t.Errorf("got %v, %v, %q", committed, err, get(t, f, "k"))
	}
}

func TestTheFreelistIsOnDiskAfterAnOrderlyClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	value := strings.Repeat("x", 3000)
	fill := func(tx *bbolt.Tx) error {
		for i := range 1000 {
			if err := put(fmt.Sprint(i), value)(tx); err != nil {
				return err
			}
		}
		return nil
	}
	empty := func(tx *bbolt.Tx) error {
		for i := range 1000 {
			if err := tx.Bucket([]byte("a")).Delete(fmt.Append(nil, i)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, fn := range []func(*bbolt.Tx) error{fill, empty, put("x", "1"), put("x", "2")} {
		if err := f.Update(fn); err != nil {
			t.Fatal(err)
		}
	}
	if !f.db.NoFreelistSync {
		t.Errorf("a long free list is written with each commit: %+v", f.db.Stats())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	raw, _ := os.ReadFile(path)
	for i := range 2 { // the newer of both meta pages must name a free list page
		txid, list := binary.NativeEndian.Uint64(raw[i*PageSize+64:]), binary.NativeEndian.Uint64(raw[i*PageSize+48:])
		t.Logf("meta %d: transaction %d, free list %x", i, txid, list)
		if other := binary.NativeEndian.Uint64(raw[(1-i)*PageSize+64:]); txid > other && list == ^uint64(0) {
			t.Error("the last commit left the free list out")
		}
	}
}

func TestDamagedPagesAreErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	err := f.Update(func(tx *bbolt.Tx) error {
		for i := range 2000 {
			if err := put(fmt.Sprintf("%06d", i), strings.Repeat("x", 50))(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	whole, _ := os.ReadFile(path)
	whole = whole[:min(len(whole), 256*PageSize)]
	r := rand.New(rand.NewPCG(1, 2))
	damaged := 0
	for range 200 {
		raw := bytes.Clone(whole)
		// Pages of the tree: 0 and 1 are the meta pages, which carry a checksum.
		page := 2 + r.IntN(len(raw)/PageSize-2)
		for range 40 {
			raw[page*PageSize+16+r.IntN(200)] = byte(r.Uint32())
		}
		p := filepath.Join(t.TempDir(), "d.db")
		if err := os.WriteFile(p, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		// The free list is synced, so opening walks no pages.
		g, err := Open(p, testOptions)
		if err != nil {
			damaged++
			continue
		}
		err = g.View(func(tx *bbolt.Tx) error {
			n := 0
			return tx.Bucket([]byte("a")).ForEach(func(k, v []byte) error {
				for _, c := range v {
					n += int(c)
				}
				return nil
			})
		})
		if _, ok := errors.AsType[*DamageError](err); ok {
			damaged++
		}
		g.db.Close()
	}
	if damaged == 0 {
		t.Error("no damage was met: the test tests nothing")
	}
	t.Logf("%d of 200 damaged files gave errors", damaged)
}

// A file that shrank below its mapping faults on access.
func TestATruncatedFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	err := f.Update(func(tx *bbolt.Tx) error {
		for i := range 2000 {
			if err := put(fmt.Sprintf("%06d", i), strings.Repeat("x", 50))(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2*PageSize); err != nil {
		t.Fatal(err)
	}
	err = f.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("a")).ForEach(func(k, v []byte) error { return nil })
	})
	if _, ok := errors.AsType[*DamageError](err); !ok {
		t.Errorf("got %v, want a DamageError", err)
	}
	err = f.Update(put("k", "v"))
	if _, ok := errors.AsType[*DamageError](err); !ok {
		t.Errorf("got %v, want a DamageError", err)
	}
}

func copyFile(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(to, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
