package boltfile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// DefaultMaxOps and DefaultMaxBytes bound one transaction: it stays short enough for a lone
	// operation to wait for, and its dirty pages stay small.
	DefaultMaxOps     = 4096
	DefaultMaxTxBytes = 1 << 20
	// DefaultMaxQueued is how many bytes may wait for the disk: about a second of commits.
	DefaultMaxQueued = 8 << 20

	// After a failed commit the writer waits, twice as long each time.
	minRetry = 50 * time.Millisecond
	maxRetry = 5 * time.Second
	// closeGrace is how long Close waits for an answer of the disk beyond its context.
	closeGrace = time.Second
	// logInterval spaces the reports of a failure that lasts.
	logInterval = time.Minute
)

// ErrFull says that MaxQueued bytes wait for the disk already. The caller refuses the operation.
var ErrFull = errors.New("boltfile: too much waits for the disk")

// WriterOptions says how a Writer commits.
type WriterOptions[T any] struct {
	// Apply writes batch in tx, in order. It runs on the writer's goroutine and must not change
	// anything outside of tx that would be wrong if the commit failed. If it returns Nothing(), no
	// transaction is committed and the batch counts as done. Another error undoes the transaction,
	// and the batch is answered with it.
	Apply func(tx *bbolt.Tx, batch []T) error
	// Done answers the operations of a batch: with nil they are on disk, after fsync; with an error
	// none of them is. It runs on the writer's goroutine, in the order of the commits. batch is
	// reused afterwards.
	Done func(batch []T, err error)
	// Failed, if it is set, is told at once when a transaction could not be committed, and when it could
	// not be found out what became of it: its batch is answered only then. It runs on the writer's
	// goroutine.
	Failed func(err error)
	// Size is what an operation counts against MaxBytes and MaxQueued; nil = nothing counts. It is
	// called by Add and again later, and must give the same answer.
	Size func(T) int

	// Single gives each operation a transaction of its own: for callers whose operations are groups
	// already, which may still grow until Apply gets them. MaxOps and MaxBytes then mean nothing;
	// an operation goes at once when another is queued behind it.
	Single bool

	MaxOps    int   // operations in one transaction; 0 = DefaultMaxOps
	MaxBytes  int   // bytes in one transaction, but at least one operation; 0 = DefaultMaxTxBytes
	MaxQueued int64 // bytes that may wait; 0 = DefaultMaxQueued
}

// Writer commits operations to a File in groups. Add and AddWithin collect; Flush hands what was
// collected to the one goroutine that writes. A lone operation is committed at once when that
// goroutine is free; what arrives during a commit joins the next one.
//
// When a commit fails, the file is opened anew, with back-off, until it is known whether the
// transaction made it to disk; then its batch is answered, and later ones are tried. Meanwhile
// operations wait, up to MaxQueued bytes; beyond, Add returns ErrFull.
type Writer[T any] struct {
	file *File
	o    WriterOptions[T]
	log  *slog.Logger

	enough int // operations that need not wait for more

	failures int       // commits that failed since the last one that worked; of run
	logged   time.Time // when a failure was reported last; of run
	told     bool      // one of these failures was reported; of run

	wake  chan struct{} // capacity 1: a wake-up that nobody has taken yet says it all
	ended chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex // guards what follows
	queue    []T
	bytes    int64     // in queue
	fresh    demand    // of what was added since the last Flush
	flushed  demand    // of queue[:visible]
	visible  int       // operations that the last Flush has handed over
	closing  bool      //
	giveUp   bool      // do not wait for a failing disk any more
	closeErr error     // why the last batches were not written
	spare    []T       // backing array of the batch before
	last     time.Time // when a commit ended last
	putOff   bool      // the next one waits because of the budget
	retryAt  time.Time // no transaction before; zero = none
	retryGap time.Duration
}

// demand says when operations want to be committed.
type demand struct {
	now    bool
	urgent bool      // now, whatever the budget says
	by     time.Time // zero = no wish
}

func (d *demand) join(e demand) {
	d.now = d.now || e.now
	d.urgent = d.urgent || e.urgent
	if d.by.IsZero() || !e.by.IsZero() && e.by.Before(d.by) {
		d.by = e.by
	}
}

// NewWriter starts a Writer on f. Close ends it; it does not close f.
func NewWriter[T any](f *File, o WriterOptions[T]) *Writer[T] {
	if o.Size == nil {
		o.Size = func(T) int { return 0 }
	}
	if o.MaxOps == 0 {
		o.MaxOps = DefaultMaxOps
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxTxBytes
	}
	enough := o.MaxOps
	if o.Single {
		o.MaxOps, o.MaxBytes, enough = 1, math.MaxInt, 2
	}
	if o.MaxQueued == 0 {
		o.MaxQueued = DefaultMaxQueued
	}
	w := &Writer[T]{
		file:   f,
		o:      o,
		log:    f.opts.Log,
		enough: enough,
		wake:   make(chan struct{}, 1),
		ended:  make(chan struct{}),
	}
	go w.run() // owned by w; ends after Close has been called and the queue is done; Close waits
	return w
}

// Add queues an operation that is to be committed as soon as the writer is free after the next
// Flush. It returns ErrFull if too much waits already; an operation of size 0 is always taken.
func (w *Writer[T]) Add(op T) error { return w.add(op, demand{now: true}) }

// AddWithin queues an operation nobody waits for: after the next Flush it rides with the next
// commit, and goes by itself within d, or once there are enough for a whole transaction.
func (w *Writer[T]) AddWithin(op T, d time.Duration) error {
	return w.add(op, demand{by: time.Now().Add(d)})
}

func (w *Writer[T]) add(op T, d demand) error {
	size := int64(w.o.Size(op))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return fmt.Errorf("boltfile: %s: %w", w.file.path, ErrClosed)
	}
	if size > 0 && w.bytes > 0 && w.bytes+size > w.o.MaxQueued {
		return ErrFull
	}
	w.queue = append(w.queue, op)
	w.bytes += size
	w.fresh.join(d)
	return nil
}

// Within asks for what is queued to be committed within d of now, from the next Flush on; 0 = as
// soon as the writer is free. For callers whose queued operations grow after Add.
func (w *Writer[T]) Within(d time.Duration) {
	e := demand{now: d <= 0}
	if !e.now {
		e.by = time.Now().Add(d)
	}
	w.mu.Lock()
	w.fresh.join(e)
	w.mu.Unlock()
}

// Urgent asks for what is queued to be committed as soon as the writer is free, from the next Flush on,
// whatever the budget says.
func (w *Writer[T]) Urgent() {
	w.mu.Lock()
	w.fresh.join(demand{now: true, urgent: true})
	w.mu.Unlock()
}

// Flush hands what was added to the writing goroutine and returns at once. It costs next to nothing
// if nothing was: a loop calls it in every turn.
func (w *Writer[T]) Flush() {
	w.mu.Lock()
	if w.visible < len(w.queue) || w.fresh != (demand{}) {
		w.flush()
	}
	w.mu.Unlock()
}

func (w *Writer[T]) flush() {
	w.visible = len(w.queue)
	w.flushed.join(w.fresh)
	w.fresh = demand{}
	if w.visible == 0 {
		w.flushed = demand{}
	}
	if w.visible >= w.enough || w.bytes >= int64(w.o.MaxBytes) {
		w.flushed.now = true
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Queued returns how much waits for its transaction to begin.
func (w *Writer[T]) Queued() (ops int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue), w.bytes
}

// Close commits everything that was added and ends the writer. If the disk fails, or ctx ends
// first, what could not be written is answered with an error, and Close returns it. It returns
// before the goroutine has ended only if ctx ends while the disk does not answer.
func (w *Writer[T]) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
	w.fresh.now = true
	w.flush()
	w.mu.Unlock()
	select {
	case <-w.ended:
	case <-ctx.Done():
		w.mu.Lock()
		w.giveUp = true
		w.flush()
		w.mu.Unlock()
		// The goroutine may be inside of a system call that a dead disk never answers.
		select {
		case <-w.ended:
		case <-time.After(closeGrace):
			return fmt.Errorf("boltfile: close %s: the disk does not answer: %w", w.file.path, ctx.Err())
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closeErr
}

// run takes and commits until the queue of a closed writer is empty.
func (w *Writer[T]) run() {
	defer close(w.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		batch, wait, over := w.take(time.Now())
		switch {
		case len(batch) > 0:
			w.commit(batch)
			w.put(batch)
		case over:
			return
		default:
			if wait >= 0 {
				timer.Reset(wait)
			} else {
				timer.Stop()
			}
			select {
			case <-w.wake:
			case <-timer.C:
			}
		}
	}
}

// take returns the next batch; or none, and how long there is nothing to do, -1 = until a
// wake-up; or over, when the writer is closed and everything is done.
func (w *Writer[T]) take(now time.Time) (batch []T, wait time.Duration, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.visible == 0 {
		return nil, -1, w.closing
	}
	if !w.closing {
		due := w.flushed.by
		if w.flushed.now {
			due = now
		}
		budget := w.file.opts.Budget
		if next := w.last.Add(budget.delay()); next.After(due) && next.After(now) && !w.flushed.urgent {
			due, w.putOff = next, true
		} else if w.putOff {
			budget.putOff()
			w.putOff = false
		}
		if w.retryAt.After(due) {
			due = w.retryAt
		}
		if wait := due.Sub(now); wait > 0 {
			return nil, wait, false
		}
	}
	n, bytes := 0, 0
	for n < w.visible && n < w.o.MaxOps {
		size := w.o.Size(w.queue[n])
		if n > 0 && bytes+size > w.o.MaxBytes {
			break
		}
		bytes += size
		n++
	}
	batch = append(w.spare[:0], w.queue[:n]...)
	w.spare = nil
	rest := copy(w.queue, w.queue[n:])
	clear(w.queue[rest:])
	w.queue = w.queue[:rest]
	w.bytes -= int64(bytes)
	w.visible -= n
	if w.visible == 0 {
		w.flushed = demand{}
	} else {
		w.flushed.now = true
	}
	return batch, 0, false
}

// put ends a batch: its array is given back for the one after next.
func (w *Writer[T]) put(batch []T) {
	clear(batch)
	w.mu.Lock()
	w.spare = batch
	w.last = time.Now()
	w.mu.Unlock()
}

// commit writes a batch and answers it. It returns when the file can be used again, or will not
// be.
func (w *Writer[T]) commit(batch []T) {
	var err error
	if w.givenUp() {
		err = fmt.Errorf("boltfile: %s: %w", w.file.path, ErrUnavailable)
	} else {
		err = w.file.Update(func(tx *bbolt.Tx) error { return w.o.Apply(tx, batch) })
	}
	if err == nil {
		if w.failures > 0 {
			if w.told {
				w.log.Info("commits work again", "path", w.file.path, "failures", w.failures)
			}
			w.failures, w.told = 0, false
			w.mu.Lock()
			w.retryGap, w.retryAt = 0, time.Time{}
			w.mu.Unlock()
		}
		w.o.Done(batch, nil)
		return
	}
	w.failures++
	known := w.o.Failed != nil && errors.Is(err, ErrDiskFull) // nothing was begun, and the caller tells
	if now := time.Now(); !known && (w.failures == 1 || now.Sub(w.logged) >= logInterval) {
		w.logged, w.told = now, true
		w.log.Error("commit failed, nothing of it was acknowledged", "path", w.file.path, "operations", len(batch), "failures", w.failures, "err", err)
	}
	if w.o.Failed != nil {
		w.o.Failed(err)
	}
	committed := w.recover()
	if committed {
		err = nil
	}
	w.mu.Lock()
	w.retryGap = min(max(2*w.retryGap, minRetry), maxRetry)
	if w.file.opts.Absent != nil {
		w.retryGap = minRetry // trying costs nothing, and whoever waits wants the answer
	}
	w.retryAt = time.Now().Add(w.retryGap)
	if err != nil && w.closing {
		w.closeErr = err
	}
	w.mu.Unlock()
	w.o.Done(batch, err)
}

// recover brings the file back, with back-off, and reports whether the failed transaction is on
// disk.
func (w *Writer[T]) recover() (committed bool) {
	var gap time.Duration
	var logged time.Time
	for tries := 1; ; tries++ {
		committed, err := w.file.Recover()
		if IsDiskFull(err) && w.file.opts.Reserve.Drop() {
			continue
		}
		if err == nil {
			if tries > 1 {
				w.log.Info("file is back after a failed commit", "path", w.file.path, "tries", tries)
			}
			return committed
		}
		if now := time.Now(); now.Sub(logged) >= logInterval {
			logged = now
			w.log.Error("file cannot be opened again after a failed commit", "path", w.file.path, "tries", tries, "err", err)
		}
		if w.isClosing() {
			return false
		}
		if w.o.Failed != nil {
			w.o.Failed(err)
		}
		gap = min(max(2*gap, minRetry), maxRetry)
		w.sleep(gap)
	}
}

func (w *Writer[T]) isClosing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing
}

// givenUp reports whether what waits is not even tried any more: the writer is to end, and the
// disk has failed or takes too long.
func (w *Writer[T]) givenUp() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.giveUp || w.closing && w.retryGap > 0
}

// sleep waits for d, or less when the writer is closed.
func (w *Writer[T]) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return
		case <-w.wake:
			if w.isClosing() {
				return
			}
		}
	}
}
