package sessionstore

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
)

const (
	// Records are counted in blocks of 256 numbers, which is about fifteen pages of small messages.
	blockShift = 8
	blockSize  = 1 << blockShift

	// maxSweep is how many dead blocks one commit deletes: twice as many records as it can add.
	maxSweep = 32
	// maxSearch is how many blocks one commit searches for room, about a megabyte of small messages.
	maxSearch = 16
	// fewBlocks is up to how many blocks all are searched for room.
	fewBlocks = 256
	// A block that is kept by a few entries is searched for dead records when it has at least
	// minGarbage, three quarters of it are dead, and the entries have halved since the last search.
	minGarbage = 32
)

// block is the count of a block of records.
type block struct {
	open    int32 // receiver entries that are not done
	records int32 // on disk
	scanned int32 // open at the last search for dead records, 0 = none yet
	queued  bool  // in dead or worth
}

// sweeper knows which records are dead. A record is dead when all its receivers are done with it
// and their cursors say so on disk. It is guarded by the lock of its store.
type sweeper struct {
	blocks  map[uint64]block
	below   uint64        // blocks before it get no records any more
	dead    []uint64      // blocks without an open entry
	worth   []uint64      // blocks to be searched
	garbage []durable.Seq // dead records in blocks that live

	// When there is no room, blocks are too coarse: all are searched, once in a while.
	search bool     // from the first one on
	round  []uint64 // are still to be searched
	less   bool     // some receiver was done with something since the last search
}

func blockOf(s durable.Seq) uint64 { return uint64(s) >> blockShift }

// came counts the receivers of a new message.
func (w *sweeper) came(s durable.Seq, receivers int) {
	if receivers == 0 {
		return
	}
	if w.blocks == nil {
		w.blocks = make(map[uint64]block)
	}
	i := blockOf(s)
	b := w.blocks[i]
	b.open += int32(receivers)
	w.blocks[i] = b
}

// left counts a receiver that is done with s.
func (w *sweeper) left(s durable.Seq) { w.leave(blockOf(s), 1) }

func (w *sweeper) leave(i uint64, entries int32) {
	w.less = true
	b := w.blocks[i]
	b.open -= entries
	w.blocks[i] = b
	w.look(i)
}

// leftAll counts a receiver that is done with a whole queue.
func (w *sweeper) leftAll(q *seqs) {
	at, entries := uint64(0), int32(0)
	for s := range q.Behind(0) {
		if i := blockOf(s); i != at && entries > 0 {
			w.leave(at, entries)
			entries = 0
		}
		at = blockOf(s)
		entries++
	}
	if entries > 0 {
		w.leave(at, entries)
	}
}

// wrote counts a record that is on disk now.
func (w *sweeper) wrote(s durable.Seq) {
	i := blockOf(s)
	b := w.blocks[i]
	b.records++
	w.blocks[i] = b
}

// close notes that messages up to to are on disk or given up, after those up to from were.
func (w *sweeper) close(from, to durable.Seq) {
	w.below = blockOf(to + 1)
	first := blockOf(from + 1)
	if w.below-first > uint64(len(w.blocks)) { // most numbers between were for messages that only lingered
		for _, i := range slices.Sorted(maps.Keys(w.blocks)) {
			w.look(i)
		}
		return
	}
	for i := first; i < w.below; i++ {
		w.look(i)
	}
}

// begin looks at all blocks of a store that was restored.
func (w *sweeper) begin(last durable.Seq) {
	w.below = blockOf(last + 1)
	for _, i := range slices.Sorted(maps.Keys(w.blocks)) {
		w.look(i)
	}
}

// look decides what is to be done about a block.
func (w *sweeper) look(i uint64) {
	b, known := w.blocks[i]
	if !known || i >= w.below || b.queued {
		return
	}
	switch {
	case b.open == 0 && b.records == 0:
		delete(w.blocks, i)
		return
	case b.open == 0:
		w.dead = append(w.dead, i)
	case b.records >= minGarbage && b.open <= b.records/4 && (b.scanned == 0 || b.open <= b.scanned/2):
		w.worth = append(w.worth, i)
	default:
		return
	}
	b.queued = true
	w.blocks[i] = b
}

// take returns what the transaction that is sealed now may delete: everything that made it dead is
// in this transaction or an earlier one.
func (w *sweeper) take(dead []uint64, garbage []durable.Seq) ([]uint64, []durable.Seq) {
	n := min(len(w.dead), maxSweep)
	dead = append(dead, w.dead[:n]...)
	w.dead = append(w.dead[:0], w.dead[n:]...)
	garbage = append(garbage, w.garbage...)
	w.garbage = w.garbage[:0]
	return dead, garbage
}

// busy says whether there is something to delete, or blocks are being searched for that.
func (w *sweeper) busy() bool { return len(w.dead)+len(w.garbage)+len(w.round) > 0 || w.search }

// lookClosely has all blocks searched if they are few: one of them may be a large part of the store.
func (w *sweeper) lookClosely() { w.search = len(w.blocks) <= fewBlocks }

// any returns a block to be searched though few of its records may be dead, or it may still get some:
// each one in turn, since somebody has asked for room.
func (w *sweeper) any() (i uint64, found bool) {
	if w.search {
		w.search, w.less = false, false
		w.round = slices.Sorted(maps.Keys(w.blocks))
	}
	for len(w.round) > 0 {
		i = w.round[0]
		w.round = w.round[1:]
		if w.blocks[i].records > 0 {
			return i, true
		}
	}
	return 0, false
}

// restore takes back what take had returned, since the transaction failed.
func (w *sweeper) restore(dead []uint64, garbage []durable.Seq) {
	w.dead = append(w.dead, dead...)
	w.garbage = append(w.garbage, garbage...)
}

// revive takes back that a receiver is done with s, which is on disk. What may have been decided
// because of that is decided anew.
func (w *sweeper) revive(s durable.Seq) {
	i := blockOf(s)
	w.came(s, 1)
	w.garbage = slices.DeleteFunc(w.garbage, func(g durable.Seq) bool { return g == s })
	if k := slices.Index(w.dead, i); k >= 0 {
		w.dead = slices.Delete(w.dead, k, k+1)
		b := w.blocks[i]
		b.queued = false
		w.blocks[i] = b
	}
}

// swept notes that this is deleted, and was there.
func (w *sweeper) swept(dead []uint64, garbage []durable.Seq) {
	for _, i := range dead {
		delete(w.blocks, i)
	}
	for _, s := range garbage {
		i := blockOf(s)
		if b, known := w.blocks[i]; known {
			b.records--
			w.blocks[i] = b
			w.look(i)
		}
	}
}

// next returns a block to be searched.
func (w *sweeper) next() (i uint64, found bool) {
	for len(w.worth) > 0 {
		i = w.worth[0]
		w.worth = append(w.worth[:0], w.worth[1:]...)
		b, known := w.blocks[i]
		if !known {
			continue
		}
		b.queued, b.scanned = false, b.open
		w.blocks[i] = b
		if b.open > 0 {
			return i, true
		}
		w.look(i)
	}
	return 0, false
}

// sweep deletes the dead records of t.
func sweep(messages *bbolt.Bucket, t *txn) error {
	var key [8]byte
	var doomed []byte // keys, 8 bytes each
	c := messages.Cursor()
	for _, i := range t.dead {
		binary.BigEndian.PutUint64(key[:], i<<blockShift)
		for k, _ := c.Seek(key[:]); len(k) == 8 && binary.BigEndian.Uint64(k)>>blockShift == i; k, _ = c.Next() {
			doomed = append(doomed, k...)
		}
	}
	found := t.garbage[:0]
	for _, s := range t.garbage {
		binary.BigEndian.PutUint64(key[:], uint64(s))
		if k, _ := c.Seek(key[:]); bytes.Equal(k, key[:]) { // a block can be searched twice
			found = append(found, s)
			doomed = append(doomed, key[:]...)
		}
	}
	t.garbage = found
	for ; len(doomed) > 0; doomed = doomed[8:] {
		// The same cursor for all of them: Bucket.Delete would make one for each.
		if k, _ := c.Seek(doomed[:8]); !bytes.Equal(k, doomed[:8]) {
			continue // it was doomed twice
		}
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// scan searches one block that a few entries keep for records that nobody wants any more, or some of
// those that are searched for room. The records are deleted with the next transaction: what made them
// dead may not be in this one.
func (s *Store) scan(messages *bbolt.Bucket) {
	s.mu.Lock()
	i, found := s.sweeper.next()
	for n := 0; !found && n < maxSearch && len(s.sweeper.garbage) < blockSize; n++ {
		var more bool
		if i, more = s.sweeper.any(); !more {
			break
		}
		s.mu.Unlock()
		s.scanBlock(messages, i)
		s.mu.Lock()
	}
	s.mu.Unlock()
	if found {
		s.scanBlock(messages, i)
	}
}

// scanBlock searches a block.
func (s *Store) scanBlock(messages *bbolt.Bucket, i uint64) {
	type want struct {
		seq durable.Seq
		by  durable.SessionNumber
	}
	var wanted []want
	var seqs []durable.Seq
	c := messages.Cursor()
	for k, v := c.Seek(seqKey(i << blockShift)); len(k) == 8 && binary.BigEndian.Uint64(k)>>blockShift == i; k, v = c.Next() {
		seq := durable.Seq(binary.BigEndian.Uint64(k))
		d, err := openValue(k, v)
		if err != nil {
			continue // a read or the next start counts it
		}
		seqs = append(seqs, seq)
		d.receivers(false, func(r *durable.Receiver) { wanted = append(wanted, want{seq, r.Session}) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seq := range seqs {
		alive := false
		for ; len(wanted) > 0 && wanted[0].seq == seq; wanted = wanted[1:] {
			q := s.sessions[wanted[0].by]
			alive = alive || q != nil && q.queue.Contains(seq)
		}
		if !alive {
			s.sweeper.garbage = append(s.sweeper.garbage, seq)
		}
	}
}
