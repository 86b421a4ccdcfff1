package sessionstore

import (
	"context"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
)

// spoil changes one byte of a value in a closed file.
func spoil(t *testing.T, path string, bucket, key []byte) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		v := slices.Clone(tx.Bucket(bucket).Get(key))
		v[len(v)/2] ^= 0x20
		return tx.Bucket(bucket).Put(key, v)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADamagedValueTakesNothingElseWithIt(t *testing.T) {
	tests := []struct {
		name        string
		bucket, key []byte
		sessions    []durable.SessionNumber
		queue       []string // of session 2
		damaged     uint64
	}{
		{"nothing", nil, nil, []durable.SessionNumber{1, 2}, []string{"b", "c"}, 0},
		{"a message", bucketMessages, seqKey(durable.Seq(2)), []durable.SessionNumber{1, 2}, []string{"c"}, 1},
		{"a session", bucketSessions, seqKey(durable.SessionNumber(1)), []durable.SessionNumber{2}, []string{"b", "c"}, 1},
		{"a cursor", bucketCursors, seqKey(durable.SessionNumber(2)), []durable.SessionNumber{1, 2}, []string{"a", "b", "c"}, 0},
		{"the counters", bucketMeta, keyCounters, []durable.SessionNumber{1, 2}, []string{"b", "c"}, 0},
		{"the total", bucketLedgers, keyTotal, []durable.SessionNumber{1, 2}, []string{"b", "c"}, 0},
		{"a boot", bucketBoots, bootKey(1), []durable.SessionNumber{1, 2}, []string{"b", "c"}, 0},
		{"a retained message", bucketRetained, []byte("plant/1/temperature"), []durable.SessionNumber{1, 2}, []string{"b", "c"}, 0},
		{"a delayed message", bucketDue, seqKey(durable.Seq(5)), []durable.SessionNumber{1, 2}, []string{"b", "c"}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newStore(t)
			b.put(1)
			b.put(2)
			b.put(3)
			a := b.add("a", 1, 2)
			b.add("b", 2)
			b.add("c", 2)
			b.commit(func(k durable.Token) { b.Append(durable.Append{Message: note("r"), Retained: true}, k) })
			b.delay("d", 60, 0, 0)
			b.delay("e", 60, 0, 0)
			b.Done(2, a, durable.Delivered)
			b.commit(func(k durable.Token) { b.EndSession(3, k) })
			if err := b.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if test.bucket != nil {
				spoil(t, b.path, test.bucket, test.key)
			}
			for range 2 { // what is left out once stays out
				b = start(t, b.path, testOptions())
				var got []durable.SessionNumber
				for _, r := range b.Sessions() {
					got = append(got, r.Session.Number)
				}
				equal(t, "sessions", got, test.sessions)
				equal(t, "queue", texts(b.read(2, 0, 10, 1<<20).Entries), test.queue)
				for range b.Retained() {
				}
				wantDelayed := 2
				if string(test.bucket) == string(bucketDue) {
					wantDelayed = 1
				}
				if d := b.Delayed(); len(d) != wantDelayed {
					t.Errorf("%d delayed messages, want %d", len(d), wantDelayed)
				}
				l := b.Ledger()
				if l.Left[durable.DroppedDamaged] != test.damaged || l.Accepted != l.Gone()+l.Pending {
					t.Errorf("got ledger %+v, want %d damaged", l, test.damaged)
				}
				n := b.NextSession()
				if n <= 2 {
					t.Errorf("session number %d again", n)
				}
				if err := b.Close(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestTheNumberOfADamagedBootIsNotReused(t *testing.T) {
	b := newStore(t)
	b.put(1)
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	spoil(t, b.path, bucketBoots, bootKey(1))
	b = start(t, b.path, testOptions())
	if got := b.History().Current().Number; got != 2 {
		t.Errorf("the boot got number %d, want 2", got)
	}
}

func TestAMessageThatIsDamagedMeanwhileIsCountedAndSkipped(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.add("a", 1)
	s := b.add("b", 1)
	b.add("c", 1)
	// Through the store's own file: another process cannot have it.
	err := b.file.Update(func(tx *boltTx) error {
		m := tx.Bucket(bucketMessages)
		v := slices.Clone(m.Get(seqKey(s)))
		v[5] ^= 1
		return m.Put(seqKey(s), v)
	})
	if err != nil {
		t.Fatal(err)
	}
	r := b.read(1, 0, 2, 1<<20)
	equal(t, "first two", texts(r.Entries), []string{"a"})
	if r.Last != s || !r.More || r.Err != nil {
		t.Errorf("got %+v, want to continue behind %d", r, s)
	}
	equal(t, "the rest", texts(b.read(1, r.Last, 2, 1<<20).Entries), []string{"c"})
	if l, _ := b.LedgerOf(1); l.Left[durable.DroppedDamaged] != 1 || l.Pending != 2 || l.Accepted != 3 {
		t.Errorf("got ledger %+v", l)
	}
}
