package sessionstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/platform/clock"
)

// restoring is what a restore needs besides what stays.
type restoring struct {
	found   map[durable.SessionNumber]*found
	damaged int // values that were left out
}

// found is a session that is being restored.
type found struct {
	durable.Restored
	q    *session
	asOf durable.Seq
	high durable.Seq
	open []durable.Seq // of the cursor, those behind the record that was looked at last

	orphan bool // its record is damaged or missing: nobody can resume it
}

// restore reads the whole file once. A damaged value is left out; a damaged page ends the restore
// with an error, since what hangs on it is unknown.
func (s *Store) restore() error {
	r := restoring{found: make(map[durable.SessionNumber]*found)}
	err := s.file.View(func(tx *bbolt.Tx) error {
		return errors.Join(
			s.restoreCounters(tx, &r),
			s.restoreBoots(tx.Bucket(bucketBoots), &r),
			s.restoreSessions(tx, &r),
			s.restoreDelayed(tx.Bucket(bucketDue), &r),
			s.restoreMessages(tx.Bucket(bucketMessages), &r),
		)
	})
	if err != nil {
		return err
	}
	s.committed = s.seq
	s.sweeper.begin(s.seq)
	lost := uint64(0)
	for _, n := range slices.Sorted(maps.Keys(r.found)) {
		f := r.found[n]
		lost += f.settle()
		if f.orphan {
			lost += uint64(f.q.queue.Len())
			s.forget(f.q)
			continue
		}
		s.restored = append(s.restored, f.Restored)
		s.sessions[n] = f.q
	}
	s.unexplained.Store(lost)
	if r.damaged > 0 || lost > 0 {
		s.log.Error("damaged values were left out of the store", "path", s.file.Path(), "values", r.damaged, "queue_entries", lost)
	}
	return nil
}

// forget folds a session that cannot be resumed into the total; what is left of it goes with the
// next commit.
func (s *Store) forget(q *session) {
	if n := q.queue.Len(); n > 0 {
		q.ledger.count(durable.DroppedDamaged, uint64(n))
		s.sweeper.leftAll(&q.queue)
	}
	s.total.Add(&q.ledger)
	s.totalDirty = true
	s.ended = append(s.ended, q.number)
}

// damage counts and logs a value that is left out.
func (s *Store) damage(r *restoring, bucket, key []byte, err error) {
	r.damaged++
	if r.damaged <= 10 { // the sum is logged at the end
		s.log.Error("damaged value", "path", s.file.Path(), "bucket", string(bucket), "key", fmt.Sprintf("%x", key), "err", err)
	}
}

func (s *Store) restoreCounters(tx *bbolt.Tx, r *restoring) (err error) {
	if v := tx.Bucket(bucketMeta).Get(keyCounters); v != nil {
		// What is found below raises them further, should they be damaged.
		if s.seq, s.numbered, err = parseCounters(v); err != nil {
			s.damage(r, bucketMeta, keyCounters, err)
		}
	}
	if v := tx.Bucket(bucketLedgers).Get(keyTotal); v != nil {
		if s.total, err = parseTotal(v); err != nil {
			s.damage(r, bucketLedgers, keyTotal, err)
		}
	}
	return nil
}

func (s *Store) restoreBoots(b *bbolt.Bucket, r *restoring) error {
	var boots []clock.Boot
	err := b.ForEach(func(k, v []byte) error {
		boot, err := parseBoot(k, v)
		if err != nil {
			s.damage(r, bucketBoots, k, err)
			if len(k) != 4 {
				return nil
			}
			// Its number stays taken: stamps name it.
			boot = clock.Boot{Number: binary.BigEndian.Uint32(k)}
		}
		boots = append(boots, boot)
		return nil
	})
	s.history = clock.NewHistory(s.opts.Clock, boots)
	return err
}

func (s *Store) restoreDelayed(b *bbolt.Bucket, r *restoring) error {
	return b.ForEach(func(k, v []byte) error {
		if len(k) == 8 {
			s.seq = max(s.seq, durable.Seq(binary.BigEndian.Uint64(k)))
		}
		d, err := parseDelayed(k, v)
		if err != nil {
			s.damage(r, bucketDue, k, err)
			return nil
		}
		s.delayed = append(s.delayed, d)
		return nil
	})
}

func (s *Store) restoreSessions(tx *bbolt.Tx, r *restoring) error {
	err := tx.Bucket(bucketSessions).ForEach(func(k, v []byte) error {
		record, err := parseSession(k, v)
		if err != nil {
			s.damage(r, bucketSessions, k, err)
			if len(k) == 8 {
				s.orphan(r, durable.SessionNumber(binary.BigEndian.Uint64(k)))
			}
			return nil
		}
		n := record.Number
		r.found[n] = &found{Restored: durable.Restored{Session: record}, q: &session{number: n}}
		s.numbered = max(s.numbered, n)
		return nil
	})
	return errors.Join(err, tx.Bucket(bucketCursors).ForEach(func(k, v []byte) error {
		c, err := parseCursor(k, v)
		if err == nil && len(k) != 8 {
			err = errDamaged
		}
		if err != nil {
			// Then everything that names the session counts as not done: rather twice than never.
			s.damage(r, bucketCursors, k, err)
			return nil
		}
		s.seq = max(s.seq, c.asOf)
		n := durable.SessionNumber(binary.BigEndian.Uint64(k))
		f := r.found[n]
		if f == nil {
			f = s.orphan(r, n)
		}
		f.asOf, f.high, f.open = c.asOf, c.high, c.open
		f.q.high, f.q.outgoing, f.q.incoming, f.q.ledger = c.high, c.outgoing, c.incoming, c.ledger
		return nil
	}))
}

// orphan notes a session without a record, so that what was queued for it is counted.
func (s *Store) orphan(r *restoring, n durable.SessionNumber) *found {
	f := &found{q: &session{number: n}, orphan: true}
	r.found[n] = f
	s.numbered = max(s.numbered, n)
	return f
}

func (s *Store) restoreMessages(b *bbolt.Bucket, r *restoring) error {
	var last *found // receivers repeat from record to record
	return b.ForEach(func(k, v []byte) error {
		s.used(len(v)) // a million messages must not be in memory together
		d, err := openValue(k, v)
		if err == nil && len(k) != 8 {
			err = errDamaged
		}
		if err != nil {
			s.damage(r, bucketMessages, k, err)
			if len(k) == 8 {
				seq := durable.Seq(binary.BigEndian.Uint64(k))
				s.seq = max(s.seq, seq)
				s.sweeper.came(seq, 1) // makes the block known,
				s.sweeper.left(seq)
				s.sweeper.wrote(seq) // so that the record goes with it
			}
			return nil
		}
		seq := durable.Seq(binary.BigEndian.Uint64(k))
		s.seq = max(s.seq, seq)
		sized := d
		sized.receivers(false, func(*durable.Receiver) {})
		size := uint32(sized.messageSize())
		entries := 0
		d.receivers(false, func(e *durable.Receiver) {
			f := last
			if f == nil || f.q.number != e.Session {
				if f = r.found[e.Session]; f == nil {
					s.numbered = max(s.numbered, e.Session)
					return // ended
				}
				last = f
			}
			if f.add(seq, e, size) {
				entries++
			}
		})
		s.sweeper.came(seq, entries)
		if entries == 0 {
			s.sweeper.came(seq, 1)
			s.sweeper.left(seq)
		}
		s.sweeper.wrote(seq)
		return nil
	})
}

// add takes a record into account that names the session, and reports whether it is not done.
func (f *found) add(seq durable.Seq, e *durable.Receiver, size uint32) bool {
	if seq > f.asOf {
		f.q.ledger.Accepted++
	}
	if seq <= f.high {
		for len(f.open) > 0 && f.open[0] < seq {
			f.open = f.open[1:]
		}
		if len(f.open) == 0 || f.open[0] != seq {
			return false
		}
	}
	f.q.queue.Push(seq, size)
	f.Pending++
	if e.Share != "" {
		f.Shared++
	}
	if seq > f.asOf && e.PacketID != 0 {
		f.q.sent(seq, e.PacketID)
	}
	return true
}

// settle completes a session when all records were seen. It returns how many of its entries are
// neither done nor there any more: their records were damaged.
func (f *found) settle() (lost uint64) {
	q := f.q
	if gone := q.ledger.Gone() + uint64(q.queue.Len()); gone < q.ledger.Accepted {
		lost = q.ledger.Accepted - gone
		q.ledger.count(durable.DroppedDamaged, lost)
	}
	q.outgoing = slices.DeleteFunc(q.outgoing, func(o durable.Outgoing) bool {
		return !o.Received && !q.queue.Contains(o.Seq)
	})
	f.Bytes = q.queue.Bytes()
	f.Outgoing = slices.Clone(q.outgoing)
	f.Incoming = slices.Clone(q.incoming)
	f.Floor = max(f.high, f.asOf)
	if q.queue.Len() > 0 {
		f.Floor = q.queue.First() - 1
		f.Last = q.queue.Last()
	}
	return lost
}

// retained reads in steps of at most stepKeys messages or stepBytes.
func (s *Store) retained(yield func(*message.Message) bool) {
	const stepKeys, stepBytes = 256, 1 << 20
	if s.opts.Absent != nil {
		return
	}
	var next []byte
	for {
		var step []*message.Message
		var after []byte
		r := restoring{}
		err := s.file.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketRetained).Cursor()
			bytes := 0
			for k, v := c.Seek(next); k != nil; k, v = c.Next() {
				if len(step) >= stepKeys || bytes >= stepBytes {
					after = slices.Clone(k)
					return nil
				}
				m, err := parseRetained(k, v)
				if err != nil {
					s.damage(&r, bucketRetained, k, err)
					continue
				}
				bytes += len(v)
				step = append(step, m)
			}
			return nil
		})
		for _, m := range step {
			if !yield(m) {
				return
			}
		}
		if err != nil {
			s.log.Error("retained messages cannot be read", "path", s.file.Path(), "err", err)
			return
		}
		if after == nil {
			return
		}
		next = after
	}
}
