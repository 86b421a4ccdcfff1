package sessionstore

import (
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/boltfile"
)

// What the store may use of MaxBytes, in percent.
const (
	maxForMessages = 95 // the rest is for sessions, and for taking messages out
	evictFrom      = 90 // what is above that wants to go
	evictTo        = 87
	takesAgain     = 92 // after it was full
)

const (
	// probeBytes is what a disk that was full must have room for before messages are taken again.
	probeBytes = 4 << 20
	// probeEvery is how often that is found out.
	probeEvery = time.Second
	// maxEvict bounds what is evicted at a time, in bytes: the loop waits for it.
	maxEvict = 4 << 20
	// maxDirty is for how many pages of state a transaction finds out whether there is room.
	maxDirty = 512
)

// room is what the store may take. What it holds is measured by the pages that are in use after each
// commit, to which comes what waits to be written: the bound is ours and not that of bbolt, with which
// nothing could be deleted any more.
type room struct {
	max   int64         // bytes
	state atomic.Uint32 // a durable.StoreState

	// Guarded by the lock of the store.
	used     int64               // bytes, after the last commit
	full     bool                // the bound is reached
	broken   durable.StoreState  // DiskFull, Failing, or Taking
	failures int                 // of commits and recoveries, since one that worked
	relief   *txn                // what was evicted last is counted with it
	lazy     map[string]retained // by topic: retained messages that nobody waits for, until the store takes them

	roomy bool // of the writer: the transaction under way has found that there is room again
}

// State returns what the store takes now. It costs nothing.
func (s *Store) State() durable.StoreState { return durable.StoreState(s.room.state.Load()) }

// Used returns how many bytes of the file are in use, and how many may be.
func (s *Store) Used() (bytes, max int64) { return s.file.Used(), s.room.max }

// Pressure returns how many bytes should be evicted to make room for what comes: 0 until what was
// evicted before is deleted and counted.
func (s *Store) Pressure() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pressure()
}

func (s *Store) pressure() int64 {
	held := s.room.used + s.queued
	if s.room.relief != nil || s.sweeper.busy() || held <= percent(s.room.max, evictFrom) || s.closing {
		return 0
	}
	return min(held-percent(s.room.max, evictTo), maxEvict)
}

func percent(n int64, p int64) int64 { return n / 100 * p }

// lacks says whether there is no room for a message of so many bytes. The caller holds mu.
func (s *Store) lacks(bytes int) bool {
	if s.State() == durable.Taking && s.room.used+s.queued+int64(bytes) > percent(s.room.max, maxForMessages) {
		s.room.full = true
		s.settleState()
	}
	return s.State() != durable.Taking
}

// settleState tells when the state is another one. The caller holds mu.
func (s *Store) settleState() {
	now := s.room.broken
	if now == durable.Taking && s.room.full {
		now = durable.StoreFull
	}
	before := durable.StoreState(s.room.state.Swap(uint32(now)))
	if before == now {
		return
	}
	switch now {
	case durable.Taking:
		s.log.Info("the store takes messages again", "path", s.file.Path(), "was", before.String(), "used", s.room.used, "max_bytes", s.room.max)
		s.takeLazy()
	case durable.StoreFull:
		s.log.Warn("the store is full: messages that need it are not acknowledged", "path", s.file.Path(), "used", s.room.used, "max_bytes", s.room.max)
	case durable.Failing:
		s.log.Error("the disk fails: messages that need it are not acknowledged", "path", s.file.Path())
	case durable.DiskFull:
		s.log.Error("the disk is full: messages that need it are not acknowledged", "path", s.file.Path(), "used", s.room.used)
	}
	if s.c != nil {
		s.c.Changed()
	}
}

// failing notes that a commit has failed, before it is known whether it is on disk all the same, or
// that this cannot be found out. What fails once may work again: what comes waits for that.
func (s *Store) failing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.failures++
	switch {
	case boltfile.IsDiskFull(err):
		s.room.broken = durable.DiskFull
	case s.room.failures > 1:
		s.room.broken = durable.Failing
	}
	s.settleState()
}

// measured notes what is in use after a commit, or after a transaction that had nothing to write. It
// says whether it has handed something over that is to be flushed. The caller holds mu.
func (s *Store) measured(t *txn) (handed bool) {
	r := &s.room
	r.used = s.file.Used()
	if r.relief == t {
		r.relief = nil
	}
	if r.full && r.used+s.queued < percent(r.max, takesAgain) {
		r.full = false
	}
	r.failures = 0
	if r.broken == durable.Failing || r.broken == durable.DiskFull && r.roomy {
		r.broken = durable.Taking
	}
	handed = len(r.lazy) > 0
	s.settleState()
	if w := &s.sweeper; s.State() != durable.Taking && w.less && !w.busy() {
		w.lookClosely()
	}
	switch {
	case (r.broken == durable.DiskFull || r.used > percent(r.max, evictTo)) && s.sweeper.busy() && s.resting == 0 && !s.closing:
		s.want(0) // one transaction deletes so much only
		handed = true
	case r.broken == durable.DiskFull:
		s.want(probeEvery)
		handed = true
	}
	if s.pressure() > 0 && s.c != nil {
		s.c.Changed()
	}
	return handed
}

// takeLazy hands over the retained messages that had to wait. The caller holds mu.
func (s *Store) takeLazy() {
	for _, r := range s.room.lazy {
		t := s.want(lazyDelay)
		s.charge(t, t.retain(r.m, true))
	}
	s.room.lazy = nil
}

// keepLazy keeps a retained message that nobody waits for until it can be written. There are no more of
// them than the broker retains.
func (s *Store) keepLazy(m *message.Message) {
	if s.room.lazy == nil {
		s.room.lazy = make(map[string]retained)
	}
	s.room.lazy[m.Topic] = retained{m, true}
}

// ensure finds out whether there is room for t. What brings no messages may use up the reserve.
func (s *Store) ensure(tx *bbolt.Tx, t *txn) error {
	s.room.roomy = false
	bytes := t.bytes + len(t.blobs) + min(len(t.cursors)+len(t.records)+len(t.ended)+len(t.dead)+len(t.garbage), maxDirty)*boltfile.PageSize
	for _, b := range t.records {
		bytes += len(b.value)
	}
	if s.State() == durable.DiskFull {
		if s.room.roomy = s.file.Ensure(tx, max(bytes, probeBytes)) == nil; s.room.roomy {
			s.file.Relax()
			return nil
		}
	}
	if t.hasMessages() {
		return s.file.Ensure(tx, bytes)
	}
	if s.State() == durable.DiskFull && t.empty() {
		return boltfile.Nothing()
	}
	return s.file.Squeeze(tx, bytes)
}

// hasMessages says whether t makes the store hold more messages.
func (t *txn) hasMessages() bool {
	for i := range t.appends {
		if t.appends[i].live > 0 {
			return true
		}
	}
	for _, r := range t.retained {
		if len(r.m.Payload) > 0 {
			return true
		}
	}
	return len(t.delays) > 0
}

// empty says whether t, which is sealed, has nothing to write.
func (t *txn) empty() bool {
	return !t.searches && len(t.appends)+len(t.delays)+len(t.published)+len(t.retained)+len(t.cursors)+len(t.records)+len(t.ended)+
		len(t.dead)+len(t.garbage) == 0 && t.total == nil && t.boot == nil
}
