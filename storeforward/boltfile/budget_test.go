package boltfile

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
)

// frugal is a writer whose budget suffices for one commit.
func frugal(t *testing.T, perDay int64) (w *Writer[string], b *Budget, done func() int) {
	t.Helper()
	b = NewBudget(BudgetOptions{PerDay: perDay, Burst: 1, MaxDelay: 100 * time.Millisecond})
	o := testOptions
	o.Budget = b
	f, err := Open(t.TempDir()+"/x.db", o)
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	w = NewWriter(f, WriterOptions[string]{
		Apply: func(tx *bbolt.Tx, batch []string) error {
			for _, k := range batch {
				if err := put(k, "v")(tx); err != nil {
					return err
				}
			}
			return nil
		},
		Done: func(batch []string, err error) {
			if err != nil {
				t.Error(err)
			}
			n.Add(int64(len(batch)))
		},
	})
	t.Cleanup(func() {
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
		f.Close()
	})
	return w, b, func() int { return int(n.Load()) }
}

func (w *Writer[T]) handOver(t *testing.T, op T) {
	t.Helper()
	if err := w.Add(op); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	synctest.Wait()
}

func TestCommitsArePutOffWhenTheBudgetIsUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, done := frugal(t, 1)
		defer w.Close(t.Context())
		w.handOver(t, "a")
		if u := b.Usage(); done() != 1 || !u.Over || u.Written < 2*PageSize || u.Commits != 1 {
			t.Fatalf("%d done, %+v after the first", done(), u)
		}
		w.handOver(t, "b")
		time.Sleep(99 * time.Millisecond)
		w.handOver(t, "c")
		if done() != 1 {
			t.Errorf("%d done after 99 ms, want 1", done())
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if u := b.Usage(); done() != 3 || u.PutOff != 1 || u.Commits != 2 {
			t.Errorf("%d done, %+v after 100 ms, want 3 in two commits, one of them put off", done(), u)
		}
		time.Sleep(time.Second)
		w.handOver(t, "d")
		if done() != 4 {
			t.Error("one that comes long after the last one is put off")
		}
	})
}

func TestWhatIsUrgentMayOverdrawTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, done := frugal(t, 1)
		defer w.Close(t.Context())
		w.handOver(t, "a")
		if err := w.Add("b"); err != nil {
			t.Fatal(err)
		}
		w.Urgent()
		w.Flush()
		synctest.Wait()
		if u := b.Usage(); done() != 2 || u.PutOff != 0 {
			t.Errorf("%d done, %+v", done(), u)
		}
		w.handOver(t, "c")
		if done() != 2 {
			t.Error("what comes after it is not put off")
		}
	})
}

func TestABudgetFillsUpAgainAndWhatIsOwedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mb = 1_000_000
		b := NewBudget(BudgetOptions{PerDay: 86_400 * mb, Burst: 100 * mb, MaxDelay: time.Hour}) // 1 MB/s
		b.spend(99 * mb)
		if b.delay() != 0 || b.Usage().Over {
			t.Error("it is over before it is used up")
		}
		b.spend(3 * mb)
		if got := b.delay(); got != 2*time.Second || !b.Usage().Over {
			t.Errorf("put off by %v, want 2 s", got)
		}
		time.Sleep(11 * time.Second)
		if got := b.delay(); got != 0 || !b.Usage().Over {
			t.Errorf("put off by %v; over: %v, want 0 s and true until a tenth is there", got, b.Usage().Over)
		}
		time.Sleep(time.Second)
		if u := b.Usage(); u.Over || u.Left != 10*mb {
			t.Errorf("%+v, want 10 MB and no alarm", u)
		}
		b.spend(1000 * mb)
		if got := b.delay(); got != 100*time.Second {
			t.Errorf("put off by %v, want 100 s", got)
		}
		time.Sleep(24 * time.Hour)
		if u := b.Usage(); u.Left != 100*mb {
			t.Errorf("%+v after a day, want the burst", u)
		}
	})
}

func TestWithoutABudgetNothingIsPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, done := frugal(t, 0)
		defer w.Close(t.Context())
		for range 3 {
			w.handOver(t, "a")
		}
		if u := b.Usage(); done() != 3 || u.Commits != 3 || u.Over {
			t.Errorf("%d done, %+v", done(), u)
		}
	})
}
