package sessionstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/platform/clock"
	"dunlin/storeforward/boltfile"
)

const (
	// A step of a visit is one read transaction, and ends after so many bytes, keys or so much time:
	// pages that it sees cannot be reused, and the mapping cannot grow.
	stepBytes = 256 << 10
	stepKeys  = 4096
	stepTime  = 50 * time.Millisecond
)

// Value is one value of the file, taken apart. One of the pointers is set, or Err, or Gone.
type Value struct {
	Bucket string
	Key    []byte // valid during the call
	Raw    []byte // as it is on disk, valid during the call
	Err    error  // why it cannot be read
	// Gone: of what was visited before, this is not there any more.
	Gone bool

	Boot     *clock.Boot
	Delayed  *durable.Delayed
	Session  *durable.Session
	Cursor   *Cursor
	Retained *message.Message
	Total    *Counts
	Counters *Counters
	Message  *Record
}

// Cursor is how far a session is; FORMAT.md explains it.
type Cursor struct {
	Session  durable.SessionNumber
	AsOf     durable.Seq
	High     durable.Seq
	Open     []durable.Seq // ascending, each < High
	Outgoing []durable.Outgoing
	Incoming []packet.ID
	Counts   Counts
}

// Counters are the last numbers that were given.
type Counters struct {
	Seq     durable.Seq
	Session durable.SessionNumber
}

// Record is a message with all its receivers.
type Record struct {
	Seq       durable.Seq
	Receivers []durable.Receiver // ascending by session
	Message   *message.Message
}

// visitor takes what a file holds in steps.
type visitor struct {
	ctx     context.Context
	file    *boltfile.File
	fn      func(*Value) error
	between func() error

	began   time.Time
	bytes   int
	keys    int
	touched int
}

// Look says what the file of a running store holds, and which values are damaged; see boltfile.
func (s *Store) Look(ctx context.Context) (*boltfile.Report, error) { return s.file.Look(ctx, Kind()) }

// Compact gives the free pages of the file of a running store back; see boltfile.
func (s *Store) Compact() (before, after int64, err error) { return s.file.Compact() }

// Visit calls fn with every value of the file of a running store, and between after each read
// transaction: fn must be quick, between may wait, and the store goes on meanwhile.
//
// It is a state to go back to. Every message that was acknowledged before the call is in it, unless its
// receivers are done with it, and what came later is in it up to the number that Counters says, which
// is the number at the end of the visit but for its messages. Each session and its cursor are as of
// one moment in between, and so is each retained message. What ended in between is told as Gone.
//
//	boots · delayed messages · sessions, each with its cursor · retained messages
//	· in one transaction: what has come or gone of these, the total, the counters
//	· messages up to the last number of the counters
//
// Records are not deleted meanwhile, so that what a cursor says is still open is there.
func (s *Store) Visit(ctx context.Context, fn func(*Value) error, between func() error) error {
	awake, err := s.rest(ctx)
	if err != nil {
		return err
	}
	defer awake()
	return visit(ctx, s.file, fn, between)
}

// VisitFile is Visit for a file that nobody else has open.
func VisitFile(ctx context.Context, f *boltfile.File, fn func(*Value) error, between func() error) error {
	return visit(ctx, f, fn, between)
}

func visit(ctx context.Context, f *boltfile.File, fn func(*Value) error, between func() error) error {
	v := &visitor{ctx: ctx, file: f, fn: fn, between: between}
	due, sessions := make(map[string]bool), make(map[string]bool)
	if err := v.bucket(bucketBoots, nil, nil); err != nil {
		return err
	}
	if err := v.bucket(bucketDue, nil, due); err != nil {
		return err
	}
	if err := v.sessions(sessions); err != nil {
		return err
	}
	if err := v.bucket(bucketRetained, nil, nil); err != nil {
		return err
	}
	last, err := v.settle(due, sessions)
	if err != nil {
		return err
	}
	return v.bucket(bucketMessages, seqKey(last), nil)
}

// step runs fn in one read transaction; it says whether there is more.
func (v *visitor) step(fn func(tx *bbolt.Tx) (more bool, err error)) (more bool, err error) {
	if err := v.ctx.Err(); err != nil {
		return false, err
	}
	v.began, v.bytes, v.keys = time.Now(), 0, 0
	if err := v.file.View(func(tx *bbolt.Tx) error {
		more, err = fn(tx)
		return err
	}); err != nil {
		return false, err
	}
	if v.touched += v.bytes; v.touched > maxTouched {
		v.touched = 0
		v.file.Forget()
	}
	return more, v.between()
}

// enough says whether a step has taken what it may.
func (v *visitor) enough() bool {
	return v.bytes >= stepBytes || v.keys >= stepKeys || v.keys&63 == 63 && time.Since(v.began) >= stepTime
}

// value hands over one value.
func (v *visitor) value(bucket, key, raw []byte) error {
	v.keys++
	v.bytes += len(key) + len(raw)
	x := Parse(bucket, key, raw)
	return v.fn(&x)
}

// bucket visits a bucket up to the key last, nil = all of it, and notes the keys in seen, unless it
// is nil.
func (v *visitor) bucket(name, last []byte, seen map[string]bool) error {
	var next []byte
	for more := true; more; {
		var err error
		if more, err = v.step(func(tx *bbolt.Tx) (bool, error) {
			b := tx.Bucket(name)
			if b == nil {
				return false, nil // of an older version
			}
			c := b.Cursor()
			for k, raw := c.Seek(next); k != nil; k, raw = c.Next() {
				if last != nil && bytes.Compare(k, last) > 0 {
					return false, nil
				}
				if v.enough() {
					next = slices.Clone(k)
					return true, nil
				}
				if err := v.value(name, k, raw); err != nil {
					return false, err
				}
				if seen != nil {
					seen[string(k)] = true
				}
			}
			return false, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// sessions visits sessions, each with its cursor, and cursors without a session, which are damage.
func (v *visitor) sessions(seen map[string]bool) error {
	var next []byte
	for more := true; more; {
		var err error
		if more, err = v.step(func(tx *bbolt.Tx) (bool, error) {
			a, b := tx.Bucket(bucketSessions).Cursor(), tx.Bucket(bucketCursors).Cursor()
			sk, sv := a.Seek(next)
			ck, cv := b.Seek(next)
			for sk != nil || ck != nil {
				key := first(sk, ck)
				if v.enough() {
					next = slices.Clone(key)
					return true, nil
				}
				seen[string(key)] = true
				key = slices.Clone(key)
				if sk != nil && bytes.Equal(sk, key) {
					if err := v.value(bucketSessions, sk, sv); err != nil {
						return false, err
					}
					sk, sv = a.Next()
				}
				if ck != nil && bytes.Equal(ck, key) {
					if err := v.value(bucketCursors, ck, cv); err != nil {
						return false, err
					}
					ck, cv = b.Next()
				}
			}
			return false, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// first returns the lower of two keys; nil is none.
func first(a, b []byte) []byte {
	if a == nil || b != nil && bytes.Compare(b, a) < 0 {
		return b
	}
	return a
}

// settle tells what has come and gone since it was visited, and the numbers that go with that: all of
// one moment. Messages up to last are still to be visited.
func (v *visitor) settle(due, sessions map[string]bool) (last durable.Seq, err error) {
	_, err = v.step(func(tx *bbolt.Tx) (bool, error) {
		if err := v.difference(tx, bucketDue, due); err != nil {
			return false, err
		}
		cursors := tx.Bucket(bucketCursors)
		if err := v.difference(tx, bucketSessions, sessions, cursors); err != nil {
			return false, err
		}
		if raw := tx.Bucket(bucketLedgers).Get(keyTotal); raw != nil {
			if err := v.value(bucketLedgers, keyTotal, raw); err != nil {
				return false, err
			}
		}
		last = greatest(tx)
		raw := tx.Bucket(bucketMeta).Get(keyCounters)
		if raw == nil {
			return false, nil
		}
		if seq, _, err := parseCounters(raw); err == nil {
			last = max(last, seq)
		}
		return false, v.value(bucketMeta, keyCounters, raw)
	})
	return last, err
}

// greatest is the number of the last message that is there.
func greatest(tx *bbolt.Tx) durable.Seq {
	if k, _ := tx.Bucket(bucketMessages).Cursor().Last(); len(k) == 8 {
		return durable.Seq(binary.BigEndian.Uint64(k))
	}
	return 0
}

// difference tells what is in a bucket and not among the seen keys, with its values in the other
// buckets, and what was seen and has gone.
func (v *visitor) difference(tx *bbolt.Tx, name []byte, seen map[string]bool, others ...*bbolt.Bucket) error {
	b := tx.Bucket(name)
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, raw := c.First(); k != nil; k, raw = c.Next() {
		if seen[string(k)] {
			delete(seen, string(k))
			continue
		}
		if err := v.value(name, k, raw); err != nil {
			return err
		}
		for _, o := range others {
			if raw := o.Get(k); raw != nil {
				if err := v.value(bucketCursors, k, raw); err != nil {
					return err
				}
			}
		}
	}
	for key := range seen {
		if len(others) > 0 && others[0].Get([]byte(key)) != nil {
			continue // a cursor without a session
		}
		if err := v.fn(&Value{Bucket: string(name), Key: []byte(key), Gone: true}); err != nil {
			return err
		}
	}
	return nil
}

// Parse takes a value apart.
func Parse(bucket, key, raw []byte) (v Value) {
	v = Value{Bucket: string(bucket), Key: key, Raw: raw}
	switch string(bucket) {
	case "boots":
		b, err := parseBoot(key, raw)
		v.Boot, v.Err = &b, err
	case "due":
		d, err := parseDelayed(key, raw)
		v.Delayed, v.Err = &d, err
	case "sessions":
		s, err := parseSession(key, raw)
		v.Session, v.Err = &s, err
	case "cursors":
		c, err := parseCursor(key, raw)
		if err == nil && len(key) != 8 {
			err = errDamaged
		}
		if v.Err = err; err == nil {
			v.Cursor = c.exported(durable.SessionNumber(binary.BigEndian.Uint64(key)))
		}
	case "retained":
		v.Retained, v.Err = parseRetained(key, raw)
		if v.Err == nil && !bytes.Equal(retainedKey(v.Retained.Topic), key) {
			v.Err = errDamaged
		}
	case "ledgers":
		t, err := parseTotal(raw)
		v.Total, v.Err = &t, err
	case "meta":
		seq, session, err := parseCounters(raw)
		v.Counters, v.Err = &Counters{seq, session}, err
	case "messages":
		v.Message, v.Err = wholeRecord(key, raw)
	default:
		v.Err = errDamaged
	}
	if v.Err != nil {
		v = Value{Bucket: v.Bucket, Key: key, Raw: raw, Err: v.Err}
	}
	return v
}

func (c *cursor) exported(n durable.SessionNumber) *Cursor {
	return &Cursor{Session: n, AsOf: c.asOf, High: c.high, Open: c.open, Outgoing: c.outgoing, Incoming: c.incoming, Counts: c.ledger}
}

func wholeRecord(key, raw []byte) (*Record, error) {
	d, err := openValue(key, raw)
	if err != nil {
		return nil, err
	}
	if len(key) != 8 {
		return nil, errDamaged
	}
	r := &Record{Seq: durable.Seq(binary.BigEndian.Uint64(key))}
	d.receivers(true, func(x *durable.Receiver) { r.Receivers = append(r.Receivers, *x) })
	r.Message = d.message()
	return r, d.end()
}

// barrier is somebody who waits until a transaction is answered.
type barrier struct {
	t       *txn
	settled chan struct{}
}

// rest keeps records from being deleted, and messages from lingering, until awake is called. It returns
// when no transaction is under way that deletes any, and what lingered is on disk.
func (s *Store) rest(ctx context.Context) (awake func(), err error) {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	s.resting++
	lingered := s.linger.live > 0
	s.dueAll()
	var settled chan struct{}
	for _, t := range slices.Backward(s.txns) {
		if t.sealed || lingered {
			settled = make(chan struct{})
			s.barriers = append(s.barriers, barrier{t, settled})
			break
		}
	}
	w := s.w
	s.mu.Unlock()
	if w != nil {
		w.Flush()
	}
	awake = func() {
		s.mu.Lock()
		s.resting--
		s.mu.Unlock()
	}
	if settled == nil {
		return awake, nil
	}
	select {
	case <-settled:
		return awake, nil
	case <-ctx.Done():
		awake()
		return nil, ctx.Err()
	}
}

// lift tells those who have waited for transactions that are answered.
func (s *Store) lift() {
	s.barriers = slices.DeleteFunc(s.barriers, func(b barrier) bool {
		if slices.Contains(s.txns, b.t) {
			return false
		}
		close(b.settled)
		return true
	})
}
