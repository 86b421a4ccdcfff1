package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

var compactKind = Kind{
	Format: "dunlin.test", Version: 2, Buckets: []string{"a", "b"},
	Check: func(_ string, _, value []byte) error {
		if bytes.HasPrefix(value, []byte("bad")) {
			return errors.New("it is bad")
		}
		return nil
	},
}

// gappy makes a file most of which is free.
func gappy(t *testing.T, path string) *File {
	t.Helper()
	f := open(t, path)
	value := strings.Repeat("x", 3000)
	for i := range 20 {
		if err := f.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("a"))
			for j := range 100 {
				if err := b.Put(fmt.Appendf(nil, "%04d", i*100+j), []byte(value)); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte("b")).Put(fmt.Appendf(nil, "%04d", i), nil)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("a"))
		for i := range 1900 {
			if err := b.Delete(fmt.Appendf(nil, "%04d", i)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestACompactedFileHoldsTheSameInLessSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := gappy(t, path)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("of a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := contents(t, path)
	before, after, err := Compact(path, compactKind)
	if err != nil {
		t.Fatal(err)
	}
	if after >= before/4 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	if got := contents(t, path); !maps.Equal(got, want) {
		t.Errorf("%d values, want %d, or other ones", len(got), len(want))
	}
	r, err := Inspect(path, compactKind, nil)
	if err != nil || r.Damaged() || !r.Clean || r.Version != 2 || r.Values["a"] != 100 || r.Values["b"] != 20 {
		t.Errorf("got %+v, %v", r, err)
	}
	f = open(t, path)
	if err := f.Update(put("k", "v")); err != nil || get(t, f, "k") != "v" {
		t.Errorf("it cannot be used: %v", err)
	}
}

func TestAFileInUseIsCompactedUnderItsWriterAndItsReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := gappy(t, path)
	var work sync.WaitGroup
	stop := make(chan struct{})
	// Both end by stop, after one round at least, and are waited for below.
	rounds := 0
	work.Go(func() {
		for ; ; rounds++ {
			if err := f.Update(put(fmt.Sprint("k", rounds), "v")); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	work.Go(func() {
		for {
			if err := f.View(func(tx *bbolt.Tx) error {
				if v := tx.Bucket([]byte("a")).Get([]byte("1950")); len(v) != 3000 {
					return fmt.Errorf("%d bytes", len(v))
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 5 {
		if _, _, err := f.Compact(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	work.Wait()
	for i := range rounds {
		if get(t, f, fmt.Sprint("k", i)) != "v" {
			t.Fatalf("commit %d is lost", i)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := Inspect(path, compactKind, nil); err != nil || r.Damaged() || !r.Clean {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestAFileThatCannotBeOpenedAfterCompactingComesBackByRecover(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "x.db")
	f := gappy(t, path)
	moved := filepath.Join(t.TempDir(), "x.db")
	// A folder in the place of the new file: nothing can be renamed to it, nor opened there.
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Compact(); err == nil {
		t.Fatal("it was compacted")
	}
	if err := f.Update(put("k", "v")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(moved, path); err != nil {
		t.Fatal(err)
	}
	if committed, err := f.Recover(); committed || err != nil {
		t.Errorf("got %v, %v", committed, err)
	}
	if err := f.Update(put("k", "v")); err != nil || get(t, f, "k") != "v" {
		t.Errorf("it cannot be used: %v", err)
	}
}

func TestAFileOfAnotherKindOrANewerVersionIsNotCompacted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	older, other := compactKind, compactKind
	older.Version, other.Format = 1, "dunlin.other"
	for want, k := range map[error]Kind{ErrNewer: older, ErrForeign: other} {
		if _, _, err := Compact(path, k); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		if _, err := OpenReader(path, k); !errors.Is(err, want) {
			t.Errorf("to read: got %v, want %v", err, want)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("it was written to")
	}
}

func TestAReaderWritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	f := open(t, path)
	if err := f.Update(put("k", "v")); err != nil {
		t.Fatal(err)
	}
	path = copyFile(t, path) // as after a crash: not closed
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k := compactKind
	k.Buckets = append(k.Buckets, "c") // of a later version
	r, err := OpenReader(path, k)
	if err != nil {
		t.Fatal(err)
	}
	if get(t, r, "k") != "v" {
		t.Error("it cannot be read")
	}
	if err := r.Update(put("k", "w")); err == nil {
		t.Error("it was written to")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("it was written to")
	}
	if _, err := OpenReader(filepath.Join(t.TempDir(), "none.db"), k); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestALookCountsAndFindsBadValuesInAFileInUse(t *testing.T) {
	f := gappy(t, filepath.Join(t.TempDir(), "x.db"))
	if err := f.Update(put("0001", "bad luck")); err != nil {
		t.Fatal(err)
	}
	r, err := f.Look(t.Context(), compactKind)
	if err != nil {
		t.Fatal(err)
	}
	if r.Values["a"] != 101 || r.Values["b"] != 20 || r.BadValues != 1 || r.Faults != 0 || r.Free == 0 || r.Version != 2 {
		t.Errorf("got %+v", r)
	}
	if len(r.Words) != 1 || !strings.Contains(r.Words[0], "it is bad") {
		t.Errorf("got %q", r.Words)
	}
}

func TestACompactedFileBelongsToWhomItDid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := gappy(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 4711, 4712
	}
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Compact(path, compactKind); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); int(sys.Uid) != uid || int(sys.Gid) != gid || st.Mode().Perm() != 0o640 {
		t.Errorf("it belongs to %d:%d with mode %v, want %d:%d and 0640", sys.Uid, sys.Gid, st.Mode(), uid, gid)
	}
}
