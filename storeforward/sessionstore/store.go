package sessionstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/platform/clock"
	"dunlin/storeforward/boltfile"
)

const (
	// Format and Version are what the meta bucket of the file says.
	Format  = "dunlin.sessions"
	Version = 1

	// DefaultSaveAfter and maxAcks bound how long what was acknowledged stays unsaved: that much is
	// sent again after a crash.
	DefaultSaveAfter = time.Second
	maxAcks          = 4096
	// lazyDelay is how long a retained message that nobody waits for may stay in memory.
	lazyDelay = time.Minute
	// maxTouched is how many bytes of the file may pass through reads and commits before the memory of
	// the mapping is given back.
	maxTouched = 1 << 20
	// bootInterval is how old the record of the running boot may get while something is committed,
	// bootDelay while nothing is.
	bootInterval = time.Minute
	bootDelay    = time.Hour
)

// The buckets, besides the meta bucket; FORMAT.md has their contents.
var (
	bucketMessages = []byte("messages")
	bucketSessions = []byte("sessions")
	bucketCursors  = []byte("cursors")
	bucketRetained = []byte("retained")
	bucketBoots    = []byte("boots")
	bucketLedgers  = []byte("ledgers")
	bucketDue      = []byte("due")
	bucketMeta     = []byte("meta")
)

// Errors with which operations are answered, besides those of the disk.
var (
	// ErrFull says that a message was not taken because MaxQueued bytes wait for the disk. The
	// caller refuses it to the publisher, or holds it back and tries again after a completion.
	ErrFull = boltfile.ErrFull
	// ErrNoRoom says that a message was not taken because of the State of the store.
	ErrNoRoom = durable.ErrNoRoom
	// ErrClosed says that the store was closed before the operation.
	ErrClosed = boltfile.ErrClosed
	// ErrSuperseded answers a Read whose session was read again before it was its turn.
	ErrSuperseded = errors.New("sessionstore: superseded by another read of the session")
)

// Options says how a Store works.
type Options struct {
	// Clock tells the boot of the machine; nil = clock.New().
	Clock *clock.Clock
	// MaxBytes is how much of the file may be in use; 0 = 1 GiB. When it is reached, messages are
	// refused; before, Pressure asks for some to be evicted.
	MaxBytes int64
	// Reserve is used up when the disk is full; nil = there is none. See boltfile.Options.
	Reserve *boltfile.Reserve
	// MaxQueued is how many bytes of messages may wait for the disk; 0 = 8 MiB. Beyond, messages
	// are refused with ErrFull.
	MaxQueued int64
	// Linger is how long a message whose Append allows it may wait for its receivers before it is
	// written; 0 = not at all.
	Linger time.Duration
	// Absent, if not nil, is why there is no file: the store is empty, and everything that needs the
	// disk is answered with an error.
	Absent error
	// Damaged is told of damage that a transaction has met; nil = nobody is. It must not block.
	Damaged func(err error)
	// Warm says that the file was read just now; see boltfile.Options.
	Warm bool
	// SaveAfter is how long what receivers are done with may stay unsaved, which is then sent again
	// after a crash; 0 = 1 s.
	SaveAfter time.Duration
	// Budget is charged with what commits write, and puts them off when it is used up; nil = none.
	Budget *boltfile.Budget
	// Available tells how much room the disk has; nil = asks it. See boltfile.Options.
	Available func(path string) (int64, error)
	// NoSync leaves out every fsync; see boltfile.Options.
	NoSync bool
	// Log takes damage, failures and recoveries; nil = none.
	Log *slog.Logger
}

// Store is the sessions.db of a broker. Open restores it, Start lets it work. The operations, from
// Append to Flush, come from one goroutine; the rest may be called from any.
type Store struct {
	opts    Options
	log     *slog.Logger
	file    *boltfile.File
	w       *boltfile.Writer[*txn] // nil before Start, which holds mu
	c       durable.Completer
	history *clock.History

	restored []durable.Restored // until Sessions was called
	delayed  []durable.Delayed  // until Delayed was called

	// The writer's own.
	values []byte // of the transaction under way

	touched     atomic.Int64  // bytes of the file since the last Forget
	unexplained atomic.Uint64 // entries that the last walk could not account for
	room        room

	mu       sync.Mutex // guards what follows
	sessions map[durable.SessionNumber]*session
	total    Counts // of ended sessions
	seq      durable.Seq
	numbered durable.SessionNumber // the last session number that was given

	linger     linger
	serial     uint64 // of the last transaction that was begun
	answeredTo uint64 // everything up to that transaction has been answered

	open      *txn  // collects; nil = nothing yet
	joined    bool  // what comes next belongs to open, too, which is not sealed before
	together  bool  // it is joined until Together or Flush says otherwise
	fresh     bool  // no message has come since together
	torn      error // of the commit that failed with the first part of what is joined, nil = none
	parted    sync.Cond
	txns      []*txn // not answered yet, in order, open included
	spare     *txn   // to be used again
	queued    int64  // bytes of messages in txns
	committed durable.Seq
	commits   uint64 // transactions answered, failed ones included

	dirty      []*session // have something for their cursors
	recorded   []*session // have a record to write
	ended      []durable.SessionNumber
	totalDirty bool
	acks       int // since the last transaction was sealed
	bootSaved  uint64
	bootKnown  bool // the running boot has been saved at bootSaved, in milliseconds of the clock,
	bootSynced bool // with a synchronised wall clock

	sweeper  sweeper
	resting  int       // visits under which nothing is deleted nor lingers
	barriers []barrier // visits that wait for transactions under way

	ready   []*read
	waiting []*read
	wake    sync.Cond // of the reader: ready or closing
	closing bool
	ending  sync.WaitGroup // the reader
}

// Open opens the file at path, or makes it, and restores what it holds. Nothing is answered
// before Start.
//
// A file that is in use, not of this kind, or of a newer version is refused (see boltfile.Open).
// Damaged values are left out, counted in the ledger and logged.
func Open(path string, o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = clock.New()
	}
	if o.SaveAfter == 0 {
		o.SaveAfter = DefaultSaveAfter
	}
	if o.MaxQueued == 0 {
		o.MaxQueued = boltfile.DefaultMaxQueued
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = boltfile.DefaultMaxBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f, err := boltfile.Open(path, boltfile.Options{
		Format:   Format,
		Version:  Version,
		Buckets:  buckets(),
		MaxBytes: o.MaxBytes + o.MaxBytes/4, // in use and free
		Absent:   o.Absent,
		Damaged:  o.Damaged,
		Warm:     o.Warm,
		Budget:   o.Budget,
		NoSync:   o.NoSync,
		Reserve:  o.Reserve,
		Log:      o.Log,

		Available: o.Available,
	})
	if err != nil {
		return nil, err
	}
	s := &Store{
		opts:     o,
		log:      o.Log,
		file:     f,
		sessions: make(map[durable.SessionNumber]*session),
	}
	s.wake.L, s.parted.L = &s.mu, &s.mu
	s.room.max, s.room.used = o.MaxBytes, f.Used()
	if o.Absent != nil {
		s.room.broken = durable.Failing
		s.room.state.Store(uint32(durable.Failing))
		s.history = clock.NewHistory(o.Clock, nil)
		return s, nil
	}
	if err := s.restore(); err != nil {
		f.Close()
		return nil, fmt.Errorf("sessionstore: restore %s: %w", path, err)
	}
	f.Forget()
	return s, nil
}

// used notes that so many bytes of the file were used, and now and then gives their memory back.
func (s *Store) used(bytes int) {
	if s.touched.Add(int64(bytes)) > maxTouched {
		s.touched.Store(0)
		s.file.Forget()
	}
}

// Sessions returns the sessions that were found, in the order of their numbers. It returns them
// once: they are the caller's from then on.
func (s *Store) Sessions() []durable.Restored {
	r := s.restored
	s.restored = nil
	return r
}

// Delayed returns the delayed messages that were found, in the order of their numbers. It returns
// them once: they are the caller's from then on.
func (s *Store) Delayed() []durable.Delayed {
	d := s.delayed
	s.delayed = nil
	return d
}

// GoOnBehind has the numbers of messages go on behind seq, if it is greater than all that are known. An
// uplink takes each number once only; one that has taken messages over from a file that is lost, or from
// a later state of this one, would take new messages for those. It is called before Start.
func (s *Store) GoOnBehind(seq durable.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= s.seq {
		return
	}
	s.log.Warn("an uplink knows later messages than the store: numbers go on behind them", "path", s.file.Path(), "last", s.seq, "taken_over", seq)
	s.seq, s.committed = seq, seq
	s.sweeper.begin(seq)
}

// Retained iterates over the retained messages on disk, in no order of meaning. The messages are
// the caller's. It reads in steps, so that a slow caller holds up nothing.
func (s *Store) Retained() iter.Seq[*message.Message] { return s.retained }

// History is the boots of the machine, the running one included. The store saves it with its
// commits, at least hourly.
func (s *Store) History() *clock.History { return s.history }

// WasClean reports whether the file was found as a clean stop leaves it.
func (s *Store) WasClean() bool { return s.file.WasClean() }

// Size is the size of the file in bytes, free pages included.
func (s *Store) Size() int64 { return s.file.Size() }

// Start lets the store work; c takes its answers. It must be called once. Operations before it
// are collected, and nothing is committed or answered.
func (s *Store) Start(c durable.Completer) {
	s.mu.Lock()
	s.c = c
	s.w = boltfile.NewWriter(s.file, boltfile.WriterOptions[*txn]{
		Apply:  func(tx *boltTx, batch []*txn) error { return s.apply(tx, batch[0]) },
		Done:   func(batch []*txn, err error) { s.done(batch[0], err) },
		Failed: s.failing,
		Single: true,
	})
	for _, t := range s.txns {
		s.queue(t)
	}
	s.want(bootDelay)
	// Owned by s; ends after Close has set closing; Close waits.
	s.ending.Go(s.reading)
	if s.opts.Linger > 0 {
		s.linger.wait, s.linger.timer = s.opts.Linger, time.NewTimer(time.Hour)
		s.linger.timer.Stop()
		s.linger.ended = make(chan struct{})
		s.ending.Go(s.lingering) // ends when Close closes ended; Close waits
	}
	s.mu.Unlock()
	s.w.Flush()
}

// Close commits everything that was handed over, answers it, and closes the file; reads that wait
// are answered with ErrClosed. If the disk fails or ctx ends first, what could not be written is
// answered with an error, and Close returns it. Operations after Close do nothing.
func (s *Store) Close(ctx context.Context) error {
	if s.w == nil {
		return s.file.Close()
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.dueAll()
	done := s.linger.done
	s.linger.done = nil
	s.bootKnown = false // to be saved as of now
	s.want(0)
	s.closing, s.together = true, false
	s.join(false)
	s.mu.Unlock()
	if s.linger.ended != nil {
		close(s.linger.ended)
	}
	if len(done) > 0 {
		s.c.Completed(done)
	}
	err := s.w.Close(ctx)
	if s.opts.Absent != nil {
		err = nil // everybody was told
	}
	s.mu.Lock()
	s.wake.Broadcast()
	s.mu.Unlock()
	s.ending.Wait()
	return errors.Join(err, s.file.Close())
}
