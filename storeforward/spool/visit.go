package spool

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/boltfile"
)

const (
	// A step of a visit is one read transaction, and ends after so many bytes, keys or so much time:
	// pages that it sees cannot be reused, and the mapping cannot grow. Steps behind what was there
	// when the visit began are larger, so that it catches up with a spool that is filled meanwhile.
	stepBytes  = 256 << 10
	chaseBytes = 1 << 20
	stepKeys   = 4096
	stepTime   = 50 * time.Millisecond
	// maxTouched is how many bytes of the file are read before the memory of the mapping is given back.
	maxTouched = 4 << 20
)

// Value is one value of the file, taken apart: a message, the state, or Err.
type Value struct {
	Bucket string
	Key    []byte // valid during the call
	Raw    []byte // as it is on disk, valid during the call
	Err    error  // why it cannot be read

	Message *Stored
	State   *State
}

// Stored is a message as it is in the file.
type Stored struct {
	Seq     Seq
	QoS     byte // with which it goes up
	Message *message.Message
}

// State is what the file says about all messages; FORMAT.md explains it.
type State struct {
	Last, Floor, Limit Seq
	Source             durable.Seq
	Ledger             Ledger
	Spans              []Span // done above Floor, ascending
	Received           []Seq  // QoS 2, PUBREC seen, ascending
}

// Span is the numbers from Lo to Hi, both included.
type Span struct{ Lo, Hi Seq }

// Look says what the file of a running spool holds, and which values are damaged; see boltfile.
func (s *Spool) Look(ctx context.Context) (*boltfile.Report, error) { return s.file.Look(ctx, Kind()) }

// Compact gives the free pages of the file of a running spool back; see boltfile.
func (s *Spool) Compact() (before, after int64, err error) { return s.file.Compact() }

// Visit calls fn with every value of the file of a running spool, and between after each read
// transaction: fn must be quick, between may wait, and the spool goes on meanwhile. The state comes last,
// of the moment at which all messages have been seen: each that is pending by it was visited.
func (s *Spool) Visit(ctx context.Context, fn func(*Value) error, between func() error) error {
	return VisitFile(ctx, s.file, fn, between)
}

// VisitFile is Visit for any file of a spool.
func VisitFile(ctx context.Context, f *boltfile.File, fn func(*Value) error, between func() error) error {
	var next, last []byte
	touched := 0
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		began, bytes, keys := time.Now(), 0, 0
		enough := func() bool {
			if string(next) > string(last) { // behind what was there at the beginning
				return bytes >= chaseBytes
			}
			return bytes >= stepBytes || keys >= stepKeys || keys&63 == 63 && time.Since(began) >= stepTime
		}
		err := f.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketMessages).Cursor()
			if last == nil {
				k, _ := c.Last()
				last = append([]byte{}, k...)
			}
			for k, raw := c.Seek(next); k != nil; k, raw = c.Next() {
				if enough() {
					next = slices.Clone(k)
					return nil
				}
				keys, bytes = keys+1, bytes+len(raw)
				x := Parse(bucketMessages, k, raw)
				if err := fn(&x); err != nil {
					return err
				}
			}
			more = false
			raw := tx.Bucket(bucketState).Get(keyCursor)
			if raw == nil {
				return nil // nothing was ever stored
			}
			x := Parse(bucketState, keyCursor, raw)
			return fn(&x)
		})
		if err != nil {
			return err
		}
		if touched += bytes; touched > maxTouched {
			touched = 0
			f.Forget()
		}
		if err := between(); err != nil {
			return err
		}
	}
	return nil
}

// Parse takes a value apart.
func Parse(bucket, key, raw []byte) (v Value) {
	v = Value{Bucket: string(bucket), Key: key, Raw: raw}
	switch {
	case string(bucket) == string(bucketMessages) && len(key) == 8:
		seq := Seq(binary.BigEndian.Uint64(key))
		m, qos, ok := parseRecord(seq, raw)
		if !ok {
			v.Err = errDamaged
			return v
		}
		v.Message = &Stored{seq, qos, m}
	case string(bucket) == string(bucketState) && string(key) == string(keyCursor):
		st, ok := parseState(raw)
		if !ok {
			v.Err = errDamaged
			return v
		}
		v.State = st.exported()
	default:
		v.Err = errDamaged
	}
	return v
}

func (st *state) exported() *State {
	x := &State{Last: st.last, Floor: st.floor, Limit: st.limit, Source: st.source, Ledger: st.ledger, Received: st.received}
	for _, p := range st.spans {
		x.Spans = append(x.Spans, Span{p.lo, p.hi})
	}
	return x
}

func (x *State) internal() state {
	st := state{last: x.Last, floor: x.Floor, limit: x.Limit, source: x.Source, ledger: x.Ledger, received: x.Received}
	for _, p := range x.Spans {
		st.spans = append(st.spans, span{p.Lo, p.Hi})
	}
	return st
}

// Audit counts what is pending, one by one, of what Take is called for with each value of a Visit.
type Audit struct {
	present []span
	state   *state
}

// Take takes a value into account.
func (a *Audit) Take(v *Value) {
	switch {
	case v.State != nil:
		a.state = new(v.State.internal())
	case v.Message != nil:
		seq := v.Message.Seq
		if n := len(a.present); n > 0 && a.present[n-1].hi+1 == seq {
			a.present[n-1].hi = seq
		} else {
			a.present = append(a.present, span{seq, seq})
		}
	}
}

// Pending is how many messages are pending by what was visited, and the ledger beside them.
func (a *Audit) Pending() (n uint64, l Ledger) {
	if a.state == nil {
		a.state = new(state)
	}
	for _, p := range a.present {
		for seq := p.lo; seq <= p.hi; seq++ {
			if !a.state.isDone(seq) {
				n++
			}
		}
	}
	return n, a.state.ledger
}

// Audit walks over the file of a running spool, in slices, and counts what is pending.
func (s *Spool) Audit(ctx context.Context) (n uint64, l Ledger, err error) {
	var a Audit
	if err := s.Visit(ctx, func(v *Value) error { a.Take(v); return nil }, func() error { return nil }); err != nil {
		return 0, Ledger{}, err
	}
	n, l = a.Pending()
	return n, l, nil
}
