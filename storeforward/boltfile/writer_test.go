package boltfile

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
)

// recorder is a Writer of numbers that remembers what it was told.
type recorder struct {
	*Writer[int]
	file *File

	mu      sync.Mutex
	batches [][]int
	errs    []error
	gate    chan struct{} // if not nil, each transaction waits for a value

	answered chan struct{} // a value for each batch
}

func record(t *testing.T, o WriterOptions[int]) *recorder {
	t.Helper()
	r := &recorder{file: open(t, filepath.Join(t.TempDir(), "x.db")), answered: make(chan struct{}, 100)}
	o.Apply = func(tx *bbolt.Tx, batch []int) error {
		if r.gate != nil {
			<-r.gate
		}
		b := Appending(tx.Bucket([]byte("a")))
		for _, n := range batch {
			if err := b.Put(binary.BigEndian.AppendUint64(nil, uint64(n)), nil); err != nil {
				return err
			}
		}
		return nil
	}
	o.Done = func(batch []int, err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.batches = append(r.batches, slices.Clone(batch))
		r.errs = append(r.errs, err)
		r.answered <- struct{}{}
	}
	r.Writer = NewWriter(r.file, o)
	return r
}

func (r *recorder) add(t *testing.T, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if err := r.Add(n); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *recorder) sizes() (sizes []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.batches {
		sizes = append(sizes, len(b))
	}
	return sizes
}

func (r *recorder) all() (numbers []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Concat(r.batches...)
}

func (r *recorder) stored(t *testing.T) (n int) {
	t.Helper()
	err := r.file.View(func(tx *bbolt.Tx) error {
		n = tx.Bucket([]byte("a")).Stats().KeyN
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func count(from, to int) (numbers []int) {
	for n := from; n < to; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

func TestWhatArrivesDuringACommitJoinsTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, WriterOptions[int]{})
		r.gate = make(chan struct{})
		r.add(t, 0)
		r.Flush()
		synctest.Wait() // in its transaction
		for n := 1; n < 6; n++ {
			r.add(t, n)
			r.Flush()
		}
		close(r.gate)
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := r.sizes(), []int{1, 5}; !slices.Equal(got, want) {
			t.Errorf("got transactions of %v operations, want %v", got, want)
		}
		if got := r.all(); !slices.Equal(got, count(0, 6)) || r.stored(t) != 6 {
			t.Errorf("got %v, %d stored", got, r.stored(t))
		}
		r.file.Close()
	})
}

func TestNothingLeavesBeforeFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, WriterOptions[int]{})
		r.add(t, 1, 2)
		time.Sleep(time.Hour)
		if got := r.all(); got != nil {
			t.Errorf("committed without a flush: %v", got)
		}
		r.Flush()
		r.Close(t.Context())
		if got := r.all(); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("got %v", got)
		}
		r.file.Close()
	})
}

func TestALazyOperationGoesWithinItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, WriterOptions[int]{})
		r.AddWithin(1, time.Minute)
		r.AddWithin(2, time.Second)
		r.Flush()
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if got := r.all(); got != nil {
			t.Errorf("committed early: %v", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		r.Close(t.Context())
		if got, want := r.sizes(), []int{2}; !slices.Equal(got, want) {
			t.Errorf("got transactions of %v operations, want %v", got, want)
		}
		r.file.Close()
	})
}

func TestALazyOperationRidesWithTheNextCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, WriterOptions[int]{})
		start := time.Now()
		r.AddWithin(1, time.Minute)
		r.Flush()
		synctest.Wait()
		r.add(t, 2)
		r.Flush()
		r.Close(t.Context())
		if got, want := r.sizes(), []int{2}; !slices.Equal(got, want) || time.Since(start) != 0 {
			t.Errorf("got transactions of %v operations after %v, want %v at once", got, time.Since(start), want)
		}
		r.file.Close()
	})
}

func TestWithinHastensWhatIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, WriterOptions[int]{})
		r.AddWithin(1, time.Hour)
		r.Flush()
		r.Within(time.Minute)
		r.Flush()
		time.Sleep(time.Minute)
		synctest.Wait()
		r.Close(t.Context())
		if got := r.sizes(); len(got) != 1 {
			t.Errorf("got %v transactions", got)
		}
		r.file.Close()
	})
}

func TestEnoughLazyOperationsGoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, WriterOptions[int]{MaxOps: 3})
		start := time.Now()
		for n := range 3 {
			r.AddWithin(n, time.Hour)
		}
		r.Flush()
		r.Close(t.Context())
		if got := r.sizes(); !slices.Equal(got, []int{3}) || time.Since(start) != 0 {
			t.Errorf("got %v after %v", got, time.Since(start))
		}
		r.file.Close()
	})
}

func TestASingleOperationWaitsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t, WriterOptions[int]{Single: true})
		start := time.Now()
		r.AddWithin(1, time.Hour)
		r.Flush()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.all(); got != nil {
			t.Errorf("committed early: %v", got)
		}
		r.AddWithin(2, time.Hour)
		r.Flush()
		<-r.answered
		r.Close(t.Context())
		if got := r.sizes(); !slices.Equal(got, []int{1, 1}) || time.Since(start) != time.Minute {
			t.Errorf("got %v after %v", got, time.Since(start))
		}
		r.file.Close()
	})
}

func TestTransactionsAreBounded(t *testing.T) {
	tests := []struct {
		name string
		o    WriterOptions[int]
		want []int
	}{
		{"operations", WriterOptions[int]{MaxOps: 4}, []int{4, 4, 2}},
		{"bytes", WriterOptions[int]{MaxBytes: 30, Size: func(int) int { return 10 }}, []int{3, 3, 3, 1}},
		{"one larger than a transaction", WriterOptions[int]{MaxBytes: 5, MaxQueued: 1000, Size: func(int) int { return 10 }}, []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := record(t, test.o)
			r.add(t, count(0, 10)...)
			r.Flush()
			if err := r.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := r.sizes(); !slices.Equal(got, test.want) || !slices.Equal(r.all(), count(0, 10)) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestAFullQueueRefuses(t *testing.T) {
	r := record(t, WriterOptions[int]{MaxQueued: 25, Size: func(n int) int { return n }})
	r.add(t, 10, 10)
	if err := r.Add(10); err != ErrFull {
		t.Errorf("got %v, want ErrFull", err)
	}
	r.add(t, 0) // acknowledgements and the like are never refused
	if ops, bytes := r.Queued(); ops != 3 || bytes != 20 {
		t.Errorf("got %d operations of %d bytes queued, want 3 of 20", ops, bytes)
	}
	r.Flush()
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(1); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v after Close, want ErrClosed", err)
	}
}

func TestAFailedBatchIsAnsweredAndTheNextWorks(t *testing.T) {
	r := record(t, WriterOptions[int]{MaxOps: 2})
	r.file.fd.Close()
	r.add(t, 1, 2, 3)
	r.Flush()
	<-r.answered
	<-r.answered // the second batch is committed after the file was opened anew
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.errs[0] == nil || r.errs[1] != nil || r.stored(t) != 1 {
		t.Errorf("got answers %v and %d stored, want an error, nil and 1", r.errs, r.stored(t))
	}
}

func TestCloseOnAFailingDiskAnswersEverything(t *testing.T) {
	r := record(t, WriterOptions[int]{MaxOps: 1})
	r.file.path = filepath.Join(t.TempDir(), "gone.db") // cannot be opened anew
	r.file.fd.Close()
	r.add(t, 1, 2, 3)
	r.Flush()
	if err := r.Close(t.Context()); err == nil {
		t.Error("Close reports no error")
	}
	if len(r.errs) != 3 || slices.Contains(r.errs, nil) {
		t.Errorf("got answers %v, want three errors", r.errs)
	}
}

func BenchmarkLoneOperation(b *testing.B) {
	f, err := Open(filepath.Join(b.TempDir(), "x.db"), testOptions)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	done := make(chan error, 1)
	w := NewWriter(f, WriterOptions[int]{
		Apply: func(tx *bbolt.Tx, batch []int) error {
			for _, n := range batch {
				if err := Appending(tx.Bucket([]byte("a"))).Put(binary.BigEndian.AppendUint64(nil, uint64(n)), make([]byte, 128)); err != nil {
					return err
				}
			}
			return nil
		},
		Done: func(_ []int, err error) { done <- err },
	})
	defer w.Close(b.Context())
	n := 0
	for b.Loop() {
		n++
		w.Add(n)
		w.Flush()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}
