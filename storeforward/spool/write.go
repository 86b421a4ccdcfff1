package spool

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/storeforward/boltfile"
)

// restore reads the state. It writes nothing.
func (s *Spool) restore() error {
	err := s.file.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucketState).Get(keyCursor)
		if st, ok := parseState(value); ok {
			s.st = st
		} else {
			s.rebuild(tx, value != nil)
		}
		if k, _ := tx.Bucket(bucketMessages).Cursor().First(); len(k) == 8 {
			s.swept = Seq(binary.BigEndian.Uint64(k)) - 1
		} else {
			s.swept = s.st.last
		}
		return nil
	})
	s.horizon = min(s.st.limit, s.st.last)
	s.reach = s.horizon
	s.noted = len(s.st.received) > 0
	s.st.limit = 0 // nothing is handed out before this process has written how far
	return err
}

// Source is the highest source number that was taken over, 0 = none was. What comes with one up to it
// counts as taken over before.
func (s *Spool) Source() durable.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.source
}

// rebuild makes a state from the records alone: they are all pending. What was received at QoS 2
// and the highest source are lost, so that QoS 2 messages in flight may be repeated once.
func (s *Spool) rebuild(tx *bbolt.Tx, damaged bool) {
	c := tx.Bucket(bucketMessages).Cursor()
	s.st = state{}
	for k, v := c.First(); len(k) == 8; k, v = c.Next() {
		seq := Seq(binary.BigEndian.Uint64(k))
		switch {
		case s.st.ledger.Pending == 0:
			s.st.floor = seq - 1
		case seq > s.st.last+1:
			s.st.done(s.st.last+1, seq-1) // nobody knows of them any more
		}
		s.st.last = seq
		s.st.ledger.Accepted++
		s.st.ledger.Pending++
		s.st.ledger.PendingBytes += int64(len(v) + overhead)
	}
	if s.st.last > 0 {
		s.st.skip()
	}
	s.st.limit = s.st.last
	if damaged || s.st.ledger.Pending > 0 {
		s.o.Log.Error("the cursor of the spool is damaged: everything in the file counts as pending, QoS 2 messages may be repeated once",
			"path", s.file.Path(), "pending", s.st.ledger.Pending)
	}
}

// apply writes a batch: its messages, what gives way to them, the deletion of what is done, and
// the state as it is afterwards.
func (s *Spool) apply(tx *bbolt.Tx, batch []op) error {
	if err := s.ensure(tx, batch); err != nil {
		return err
	}
	s.mu.Lock()
	dirty := s.join(batch, s.dirty || s.swept < s.st.floor)
	next := s.st.clone()
	gap := s.gap
	s.dirty, s.saving, s.acks = false, false, 0
	if !dirty {
		s.tx = delta{limit: s.st.limit}
		s.mu.Unlock()
		return boltfile.Nothing()
	}
	d := delta{last: next.last, source: next.source, swept: s.swept, limit: s.reach}
	if !s.closed {
		// It never goes back, since Next hands out up to the old one during the commit.
		d.limit = max(s.st.limit, s.reach+s.reserve())
	}
	s.mu.Unlock()

	messages := boltfile.Appending(tx.Bucket(bucketMessages))
	s.values = s.values[:0]
	size := 0
	for i := range batch {
		size += batch[i].size
	}
	s.values = slices.Grow(s.values, size) // records must not move: bbolt keeps slices of them until the commit
	if err := s.putLate(messages); err != nil {
		return err
	}
	w := evictor{s: s, messages: messages, d: &d, pending: next.ledger.PendingBytes}
	for i := range batch {
		o := &batch[i]
		if o.kind != opAppend && o.kind != opDrop {
			continue
		}
		if o.source != 0 {
			if o.source <= d.source {
				continue // taken over before
			}
			if gap != 0 && o.source > gap {
				return ErrGap // it came before the failure of the one before it was known
			}
			d.source = o.source
		}
		d.ledger.Accepted++
		if o.kind == opDrop {
			d.ledger.Out[o.reason]++
			continue
		}
		start := len(s.values)
		seq := d.last + 1
		s.values = appendRecord(s.values, seq, o.msg, o.qos)
		value := s.values[start:len(s.values):len(s.values)]
		if fits, err := w.room(int64(len(value) + overhead)); err != nil {
			return err
		} else if !fits {
			d.ledger.Out[Full]++
			continue
		}
		if err := messages.Put(key(seq), value); err != nil {
			return err
		}
		d.last = seq
		d.stored++
		d.pending++
		d.bytes += int64(len(value) + overhead)
	}
	d.addTo(&next)
	if err := sweep(messages, &next, &d); err != nil {
		return err
	}
	s.tx = d
	return tx.Bucket(bucketState).Put(keyCursor, next.append(nil))
}

// evictor makes room in a transaction.
type evictor struct {
	s        *Spool
	messages *bbolt.Bucket
	d        *delta
	pending  int64 // bytes before the transaction
	from     Seq   // first Seq that may give way, 0 = not asked yet
	done     state // what was done then; nothing from there on changes until the commit
}

// room makes size bytes fit, and reports whether they do.
func (w *evictor) room(size int64) (bool, error) {
	if w.s.o.WhenFull != DropOldest {
		return true, nil // admitted when it came
	}
	for w.pending+w.d.bytes+size > w.s.o.MaxBytes {
		if w.from == 0 {
			w.s.mu.Lock()
			w.from = max(w.s.high, w.s.st.floor) + 1
			w.s.evicting = w.from
			w.done = w.s.st.clone()
			w.s.mu.Unlock()
		}
		k, v := w.messages.Cursor().Seek(key(w.from))
		if len(k) != 8 {
			return false, nil
		}
		seq := Seq(binary.BigEndian.Uint64(k))
		w.from = seq + 1
		if w.done.isDone(seq) {
			continue // expired when it was read; it is swept later
		}
		why := Full
		m, qos, ok := parseRecord(seq, v)
		switch {
		case !ok:
			why = Damaged
		case w.s.protected(seq, qos):
			continue
		case w.s.expired(m):
			why = Expired
		}
		w.d.ledger.Out[why]++
		w.d.pending--
		w.d.bytes -= int64(len(v) + overhead)
		if err := w.messages.Delete(key(seq)); err != nil {
			return false, err
		}
		if n := len(w.d.evicted); n > 0 && w.d.evicted[n-1].hi == seq-1 {
			w.d.evicted[n-1].hi = seq
		} else {
			w.d.evicted = append(w.d.evicted, span{seq, seq})
		}
	}
	return true, nil
}

// sweep deletes what is done from the front of the file, at most maxSweep records.
func sweep(messages *bbolt.Bucket, next *state, d *delta) error {
	if d.swept >= next.floor {
		return nil
	}
	c := messages.Cursor()
	for range maxSweep {
		// Not First and Next: they would walk over all the pages that are empty by now.
		k, _ := c.Seek(key(d.swept + 1))
		if len(k) != 8 || Seq(binary.BigEndian.Uint64(k)) > next.floor {
			d.swept = next.floor
			return nil
		}
		d.swept = Seq(binary.BigEndian.Uint64(k))
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// committed takes the answer of the disk to a batch.
func (s *Spool) committed(batch []op, err error) {
	s.mu.Lock()
	late := s.settle(err)
	if err == nil {
		s.tx.addTo(&s.st)
		s.swept = max(s.swept, s.tx.swept)
	} else {
		s.dirty = true
	}
	s.tick()
	for i := range batch {
		if batch[i].kind == opAppend {
			s.queued -= int64(batch[i].size + overhead)
		}
		if err != nil {
			s.missed(batch[i].source)
		}
	}
	// Next stops at what the writer may evict, so that it must be told when that is decided.
	wake := s.evicting != 0 || s.hungry || err == nil && s.tx.stored+len(late) > 0
	s.evicting, s.hungry = 0, false
	if !s.closed && !s.saving && (s.dirty || s.swept < s.st.floor) {
		s.saving = true
		_ = s.writer.AddWithin(op{kind: opSave}, s.o.SaveAfter)
		s.writer.Flush()
	}
	s.tx = delta{}
	if cap(s.values) > keepBuffer {
		s.values = nil
	}
	s.mu.Unlock()
	for _, l := range late {
		if l.value == nil {
			l.done(nil)
		} else {
			l.done(err)
		}
	}
	for i := range batch {
		s.answer(&batch[i], err)
	}
	if wake && s.o.Wake != nil {
		s.o.Wake()
	}
}

func (s *Spool) answer(o *op, err error) {
	switch {
	case o.kind == opReceived && err != nil:
		// Nobody can do anything else than to try again, and the order of releases hangs on it.
		_ = s.writer.AddWithin(*o, time.Second)
		s.writer.Flush()
	case o.done == nil:
	case o.kind == opAnswer && o.err != nil:
		o.done(o.err)
	default:
		o.done(err)
	}
}
