package sessionstore

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/boltfile"
)

// unpackGolden returns a copy of the golden file.
func unpackGolden(t *testing.T) string {
	t.Helper()
	raw, err := os.Open("testdata/v1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	z, err := gzip.NewReader(raw)
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sessions.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryValueFitsItsBucketAndNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	writeGolden(t, path)
	b := start(t, path, testOptions())
	b.delay("later", 60, 0, 0)
	n := 0
	err := b.file.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(k, v []byte) error {
				if string(name) == string(bucketMeta) && string(k) != string(keyCounters) {
					return nil
				}
				n++
				if err := checkValue(string(name), k, v); err != nil {
					t.Errorf("%s %x: %v", name, k, err)
				}
				for _, other := range append(buckets(), string(bucketMeta)) {
					if got := fits(other, k, v); got != (other == string(name)) {
						t.Errorf("value of %s under %x fits %s: %v", name, k, other, got)
					}
				}
				return nil
			})
		})
	})
	if err != nil || n < 10 {
		t.Errorf("%d values, %v", n, err)
	}
}

func TestWhatIsSalvagedIsRestored(t *testing.T) {
	path := unpackGolden(t)
	k := Kind()
	r, err := boltfile.Inspect(path, k, nil)
	if err != nil || r.Damaged() || r.Foreign || r.Newer || !r.Clean {
		t.Fatalf("got %+v, %v", r, err)
	}
	to := path + ".new"
	s, err := boltfile.Salvage(path, to, k, nil)
	if err != nil || s.Older != 0 || s.Holes != 0 {
		t.Fatalf("got %+v, %v", s, err)
	}
	b := start(t, to, testOptions())
	restored, queue, retained := golden()
	equal(t, "sessions", b.Sessions(), restored)
	equal(t, "queue", b.read(2, 0, 10, 1<<20).Entries, queue)
	var got []*message.Message
	for m := range b.Retained() {
		got = append(got, m)
	}
	equal(t, "retained", got, retained)
	if l := b.Ledger(); l.Accepted != 9 || l.Pending != 3 {
		t.Errorf("got ledger %+v", l)
	}
	if b.WasClean() || b.NextSession() != 4 {
		t.Error("clean, or a session number would be reused")
	}
}

func TestNumbersGoOnBehindAllThatMayHaveBeenGiven(t *testing.T) {
	path := unpackGolden(t)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(file[:2*boltfile.PageSize]) // both meta pages
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	to := path + ".new"
	if _, err := boltfile.Salvage(path, to, Kind(), nil); err != nil {
		t.Fatal(err)
	}
	b := start(t, to, testOptions())
	if n := len(b.Sessions()); n < 2 {
		t.Errorf("%d sessions", n)
	}
	if s := b.add("new", 2); s < skipped {
		t.Errorf("message got number %d", s)
	}
	if n := b.NextSession(); n < skippedSessions {
		t.Errorf("session got number %d", n)
	}
	r := b.read(2, 0, 10, 1<<20)
	if n := len(r.Entries); n < 2 || r.Entries[n-1].Seq < durable.Seq(skipped) {
		t.Errorf("got %+v", r)
	}
}
