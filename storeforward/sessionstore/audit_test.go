package sessionstore

import (
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
)

func TestWalkFindsWhatIsCounted(t *testing.T) {
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), testOptions())
	b.put(1)
	b.put(2)
	b.put(3)
	for range 10 {
		b.add("m", 1, 2)
	}
	b.Done(1, 1, durable.Delivered)
	b.Done(1, 3, durable.Expired)
	b.Done(2, 2, durable.DroppedFull)
	b.commit(func(k durable.Token) { b.EndSession(3, k) })
	a, err := b.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[durable.SessionNumber]Walked{1: {10, 2, 8, 0}, 2: {10, 1, 9, 0}} {
		if got, ok := a.Of(n); !ok || got != want {
			t.Errorf("session %d: got %+v, want %+v", n, got, want)
		}
		l, _ := b.Account(n)
		if w, _ := a.Of(n); w.Pending != l.Pending || l.Mismatch() != 0 {
			t.Errorf("session %d: %d on disk, %d counted", n, w.Pending, l.Pending)
		}
	}
	if _, ok := a.Of(3); ok {
		t.Error("there is a session that has ended")
	}
	if a.Mismatch() != 0 || b.Unexplained() != 0 {
		t.Errorf("off by %d", a.Mismatch())
	}
	if total := b.Total(); total.Accepted != 20 || total.Delivered != 1 || total.Dropped["full"] != 1 || total.Pending != 17 || total.Mismatch() != 0 {
		t.Errorf("got %+v", total)
	}
}

func TestWalkMissesARecordThatIsGone(t *testing.T) {
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), testOptions())
	b.put(1)
	for range 3 {
		b.add("m", 1)
	}
	if err := b.file.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMessages).Delete(seqKey(durable.Seq(2))) }); err != nil {
		t.Fatal(err)
	}
	a, err := b.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := a.Of(1); got.Pending != 2 || got.Missing != 1 || a.Mismatch() != 1 || b.Unexplained() != 1 {
		t.Errorf("got %+v, off by %d", got, a.Mismatch())
	}
}

func TestNothingIsDeletedDuringAVisit(t *testing.T) {
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), testOptions())
	b.put(1)
	for range 2 * blockSize {
		b.add("m", 1)
	}
	awake, err := b.rest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for s := durable.Seq(1); s <= 2*blockSize; s++ {
		b.Done(1, s, durable.Delivered)
	}
	records := func() (n int) {
		b.add("later", 1) // rides with what can be deleted
		b.Done(1, b.seq, durable.Delivered)
		b.add("later", 1)
		if err := b.file.View(func(tx *bbolt.Tx) error {
			n = tx.Bucket(bucketMessages).Inspect().KeyN
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := records(); n < 2*blockSize {
		t.Errorf("%d records are left, want all %d", n, 2*blockSize)
	}
	awake()
	if n := records(); n >= 2*blockSize {
		t.Errorf("%d records are left, nothing is deleted any more", n)
	}
}

// What lingers is in memory only: a walk that left it there would miss it.
func TestWalkSeesWhatHasLingered(t *testing.T) {
	b := patient(t)
	b.put(1)
	b.put(2)
	first, _ := b.linger("p", "a", 1, 2)
	b.linger("q", "b", 1)
	b.Done(2, first, durable.Delivered)
	b.Flush()
	a, err := b.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one, _ := a.Of(1)
	two, _ := a.Of(2)
	if one != (Walked{Accepted: 2, Pending: 2}) || two.Pending != 0 || a.Mismatch() != 0 {
		t.Errorf("got %+v and %+v, off by %d", one, two, a.Mismatch())
	}
	if s, _ := b.linger("p", "c", 1); !b.Store.linger.has(s) {
		t.Error("nothing lingers any more")
	}
}
