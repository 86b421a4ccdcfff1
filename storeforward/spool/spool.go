package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/boltfile"
)

// Seq numbers the messages of one spool in the order in which they were stored, without holes.
// 0 = none.
type Seq uint64

const (
	// DefaultMaxBytes bounds what is pending.
	DefaultMaxBytes = 128 << 20 << (bits.UintSize / 64) // 256 MiB; 128 MiB where addresses are short

	// The state on disk says how far Next may go, so that it is known after a crash what may have
	// been sent: that many records, about reserveBytes bytes of them. More would keep more
	// messages at QoS 2 from giving way after a crash, fewer would cost commits.
	reserveBytes = 4 << 20
	reserveMin   = 64
	reserveMax   = 8192

	// DefaultSaveAfter and saveCount bound what a crash repeats: acknowledgements that are not on disk.
	DefaultSaveAfter = time.Second
	saveCount        = 4096
	// maxSweep bounds the records that one commit deletes: its dirty pages stay few.
	maxSweep = 8192
	// keepBuffer is the size of the encoding buffer that is kept from one commit to the next.
	keepBuffer = 64 << 10
)

// Policy says what gives way when the spool is full.
type Policy byte

// The policies. What is in flight never gives way: if nothing else is there, the new message is
// dropped under DropOldest, too.
const (
	DropOldest Policy = iota // the oldest messages that nobody has seen, counted as Full
	DropNewest               // the new message, counted as Full
	Reject                   // the new message is not accepted: its Append fails with ErrFull
)

var policies = [...]string{DropOldest: "drop_oldest", DropNewest: "drop_newest", Reject: "reject"}

func (p Policy) String() string { return policies[p] }

// ParsePolicy returns the policy of that name.
func ParsePolicy(name string) (Policy, error) {
	i := slices.Index(policies[:], name)
	if i < 0 {
		return 0, fmt.Errorf("spool: unknown policy %q: it must be drop_oldest, drop_newest or reject", name)
	}
	return Policy(i), nil
}

var (
	// ErrFull says that the spool takes nothing more for now. The caller refuses the message with
	// 0x97 or withholds its acknowledgement.
	ErrFull = errors.New("spool: full")
	// ErrGap says that a message before this one was not taken over. The caller hands over again
	// from that one on.
	ErrGap = errors.New("spool: a message before it was not taken over")
	// ErrClosed says that the spool was closed. The caller withholds the acknowledgement.
	ErrClosed = errors.New("spool: closed")
)

// Clock tells how long ago a stamp was taken (platform/clock.History).
type Clock interface {
	Elapsed(boot uint32, millis uint64) time.Duration
}

// Budget is how much may be written to flash, by all files that share it; see boltfile.
type Budget = boltfile.Budget

// Options of a Spool. The zero value of a field means its default.
type Options struct {
	MaxBytes int64 // bytes of pending records; default DefaultMaxBytes
	WhenFull Policy
	Clock    Clock // nil: messages do not expire here
	// Wake is called from a goroutine of the spool, or by Flush, when there is something new to read;
	// it must not block nor call the spool. nil = none.
	Wake func()
	// Absent, if not nil, is why there is no file: nothing is taken, and there is nothing to read.
	Absent error
	// Damaged is told of damage that a transaction has met; nil = nobody is. It must not block.
	Damaged func(err error)
	Warm    bool // see boltfile.Options.Warm
	// SaveAfter is how long acknowledgements may stay unsaved; default DefaultSaveAfter.
	SaveAfter time.Duration
	// Linger is how long a message at QoS 1 may stay off the disk while the remote end acknowledges
	// quickly, see Quick; default 0 = not at all.
	Linger time.Duration
	Budget *Budget // nil = none
	NoSync bool    // see boltfile.Options.NoSync
	// Reserve is used up when the disk is full; nil = there is none. Available tells how much room it
	// has; nil = asks it. See boltfile.Options.
	Reserve   *boltfile.Reserve
	Available func(path string) (int64, error)
	Log       *slog.Logger // nil = none
}

// Record is a message read back.
type Record struct {
	Seq      Seq
	QoS      byte             // with which it goes up, 1 or 2
	Dup      bool             // an earlier process may have sent it
	Received bool             // QoS 2: its PUBREC was seen
	Size     int              // bytes of its record
	Message  *message.Message // owned by the caller
}

// Spool is the queue of one uplink. Append and Flush are for one goroutine, the broker's loop;
// Next, Done, Received, Forget and GiveBack for another one, the uplink's. The rest may be
// called from anywhere.
type Spool struct {
	file   *boltfile.File
	writer *boltfile.Writer[op]
	o      Options

	horizon Seq // an earlier process may have sent this and everything before; constant

	// Of the transaction in progress, on the writer's goroutine.
	noRoom bool // the disk is full, as of the last message
	tx     delta
	values []byte // records of the transaction, reused

	mu     sync.Mutex  // guards what follows
	st     state       // what is on disk, and what Done, Received and Forget have changed since
	dirty  bool        // the last record "cursor" written does not say what st says
	saving bool        // an operation that writes it is queued
	acks   int         // Done since the last commit began
	gap    durable.Seq // the lowest source that was not taken, 0 = none; those behind it are refused
	queued int64       // bytes of Appends on their way to disk
	swept  Seq         // nothing is in the file up to here
	taken  map[Seq]int // handed out by Next and not done, with their sizes
	high   Seq         // highest Seq handed out and not given back
	reach  Seq         // highest Seq ever handed out, or the horizon
	hungry bool        // Next stopped at the limit
	noted  bool        // the file has, or may get, notes of Received
	linger linger
	// evicting is the first Seq that the transaction in progress may evict, 0 = it evicts
	// nothing: Next hands out nothing from there on.
	evicting Seq
	closed   bool
}

// delta is what a transaction adds to the state if it succeeds.
type delta struct {
	stored  int
	last    Seq
	source  durable.Seq
	ledger  Ledger // to be added, except Pending and PendingBytes
	pending int64  // change
	bytes   int64  // change
	evicted []span
	swept   Seq
	limit   Seq
}

func (d *delta) addTo(st *state) {
	st.last = max(st.last, d.last)
	st.source = max(st.source, d.source)
	st.limit = d.limit
	st.ledger.Accepted += d.ledger.Accepted
	for o, n := range d.ledger.Out {
		st.ledger.Out[o] += n
	}
	st.ledger.Pending += uint64(d.pending)
	st.ledger.PendingBytes += d.bytes
	for _, p := range d.evicted {
		st.done(p.lo, p.hi)
	}
}

type opKind byte

const (
	opAppend   opKind = iota // store message
	opDrop                   // count message as accepted and dropped
	opAnswer                 // nothing but the answer
	opSave                   // write the state
	opReceived               // the same, for a note that somebody waits for
	opLinger                 // look at what lingers
)

// op is one operation on its way to disk.
type op struct {
	kind   opKind
	qos    byte
	reason Outcome // of opDrop
	msg    *message.Message
	source durable.Seq
	size   int
	done   func(error)
	err    error // of opAnswer
}

// The buckets and the key of FORMAT "dunlin.uplink", version 1.
var (
	bucketMessages = []byte("messages")
	bucketState    = []byte("state")
	keyCursor      = []byte("cursor")
)

// Open opens the spool at path, or makes it. Errors are those of boltfile.Open.
func Open(path string, o Options) (*Spool, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.SaveAfter <= 0 {
		o.SaveAfter = DefaultSaveAfter
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	file, err := boltfile.Open(path, boltfile.Options{
		Format: format, Version: version,
		Buckets:  buckets(),
		MaxBytes: o.MaxBytes + o.MaxBytes/2,
		Absent:   o.Absent, Damaged: o.Damaged, Warm: o.Warm, Budget: o.Budget, NoSync: o.NoSync, Log: o.Log,
		Reserve: o.Reserve, Available: o.Available,
	})
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s := &Spool{file: file, o: o, taken: make(map[Seq]int), linger: linger{saved: time.Now()}}
	if err := s.restore(); err != nil && o.Absent == nil {
		return nil, errors.Join(fmt.Errorf("spool: open %s: %w", path, err), file.Close())
	}
	s.writer = boltfile.NewWriter(file, boltfile.WriterOptions[op]{
		Apply: s.apply,
		Done:  s.committed,
		Size:  func(o op) int { return o.size },
	})
	return s, nil
}

// admission is what a record takes at most beside topic, properties and payload, for a
// publisher's name of 256 bytes.
const admission = 512

// Admits says whether a message of that many bytes (topic, properties and payload) would be taken
// now: false only under Reject, when the spool is full, and if there is no file.
func (s *Spool) Admits(bytes int) bool {
	if s.o.Absent != nil {
		return false
	}
	if s.o.WhenFull != Reject {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.ledger.PendingBytes+s.queued+int64(bytes+admission+overhead) <= s.o.MaxBytes
}

// Append hands over a message with the topic under which it goes up and the quality of service
// 1 or 2 with which it does. done is called once, from any goroutine, also from within Append:
// with nil when the message is on disk, or a policy has dropped and counted it, or its source
// was taken over before; with ErrFull, ErrClosed or the error of the disk if it was not accepted.
//
// source is its number in the broker's own store, ascending from call to call, if it must be
// taken over once only, otherwise 0. Only the highest one taken is remembered: when one was not
// taken, those behind it fail with ErrGap until the caller begins again with it.
func (s *Spool) Append(m *message.Message, qos byte, source durable.Seq, done func(error)) {
	if qos < 1 || qos > 2 {
		panic(fmt.Sprintf("spool: internal error: append with qos %d", qos))
	}
	o := op{kind: opAppend, qos: qos, msg: m, source: source, size: maxRecord(m), done: done}
	charge := int64(o.size + overhead)
	s.mu.Lock()
	if source != 0 && source <= s.gap {
		s.gap = 0 // here it is again
	}
	switch {
	case s.closed:
		o = op{kind: opAnswer, done: done, err: ErrClosed}
	case source != 0 && s.gap != 0:
		o = op{kind: opAnswer, done: done, err: ErrGap}
	case source != 0 && source <= s.st.source:
		o = op{kind: opAnswer, done: done}
	case charge > s.o.MaxBytes:
		o.kind, o.reason = opDrop, TooLarge
	case s.st.ledger.PendingBytes+s.queued+charge <= s.o.MaxBytes:
	case s.o.WhenFull == DropNewest:
		o.kind, o.reason = opDrop, Full
	case s.o.WhenFull == Reject:
		o = op{kind: opAnswer, done: done, err: ErrFull}
		s.missed(source)
	}
	if o.kind == opAppend && qos == 1 && source == 0 && s.lingers(m, done) {
		s.mu.Unlock()
		return
	}
	if o.kind != opAppend {
		o.msg, o.size = nil, 0
	} else {
		s.queued += charge
	}
	s.mu.Unlock()
	err := s.writer.Add(o)
	if err == nil {
		return
	}
	s.mu.Lock()
	if o.kind == opAppend {
		s.queued -= charge
	}
	s.missed(source)
	s.mu.Unlock()
	if errors.Is(err, boltfile.ErrFull) {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	if done != nil {
		done(err)
	}
}

// missed notes that a source was not taken; the caller holds mu.
func (s *Spool) missed(source durable.Seq) {
	if source != 0 && (s.gap == 0 || source < s.gap) {
		s.gap = source
	}
}

// Urgent asks for what was appended to be written with the next Flush, whatever the budget says.
func (s *Spool) Urgent() {
	s.mu.Lock()
	s.hurry()
	s.mu.Unlock()
	s.writer.Urgent()
}

// Flush hands what was appended to the writer, or to Next, and returns at once.
func (s *Spool) Flush() {
	s.writer.Flush()
	s.mu.Lock()
	fresh := s.linger.fresh
	s.linger.fresh = false
	s.mu.Unlock()
	if fresh && s.o.Wake != nil {
		s.o.Wake()
	}
}

// Next reads messages behind after in order, at most n and about maxBytes bytes, but one if
// there is one. What is too old it counts as expired, what is damaged as damaged, and reads on.
// What it returns is in flight until Done or GiveBack. Only an empty result says that there is
// nothing more to read until the next Wake.
func (s *Spool) Next(after Seq, n, maxBytes int) ([]Record, error) {
	if records, ok := s.handOut(after, n, maxBytes); ok {
		return records, nil
	}
	for n > 0 && s.o.Absent == nil {
		found, err := s.read(after, n, maxBytes)
		if err != nil {
			return nil, fmt.Errorf("spool: read behind %d: %w", after, err)
		}
		records, again := s.take(after, found)
		if !again {
			return records, nil
		}
		after = found[len(found)-1].Seq
	}
	return nil, nil
}

// found is a record as read, before anybody decided about it.
type found struct {
	Record
	damaged bool
}

// read copies records out of the file.
func (s *Spool) read(after Seq, n, maxBytes int) (all []found, err error) {
	err = s.file.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketMessages).Cursor()
		size := 0
		for k, v := c.Seek(key(after + 1)); len(k) == 8 && len(all) < n; k, v = c.Next() {
			if size += len(v); len(all) > 0 && size > maxBytes {
				return nil
			}
			f := found{Record: Record{Seq: Seq(binary.BigEndian.Uint64(k)), Size: len(v) + overhead}}
			var ok bool
			f.Message, f.QoS, ok = parseRecord(f.Seq, v)
			f.damaged = !ok
			all = append(all, f)
		}
		return nil
	})
	return all, err
}

// take decides about records that were read behind after, and marks what is left as in flight.
// It says again if none is left, but there may be more behind them.
func (s *Spool) take(after Seq, all []found) (records []Record, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range all {
		if s.evicting != 0 && f.Seq >= s.evicting {
			return records, false // the writer may be deleting it; there will be a wake-up
		}
		if f.Seq > s.st.last {
			return records, false // on disk, but not answered yet: there will be a wake-up
		}
		if s.st.isDone(f.Seq) {
			continue
		}
		if f.Seq > s.st.limit {
			s.hungry = true
			s.save()
			return records, false
		}
		if f.damaged {
			s.o.Log.Error("message in the spool is damaged, it is left out", "path", s.file.Path(), "seq", uint64(f.Seq))
			s.out(f.Seq, f.Size, Damaged)
			continue
		}
		s.fill(after, f.Seq)
		after = f.Seq
		_, f.Received = slices.BinarySearch(s.st.received, f.Seq)
		if !s.protected(f.Seq, f.QoS) && s.expired(f.Message) {
			s.out(f.Seq, f.Size, Expired)
			continue
		}
		f.Dup = f.Seq <= s.horizon
		s.taken[f.Seq] = f.Size
		s.high = max(s.high, f.Seq)
		s.reach = max(s.reach, f.Seq)
		records = append(records, f.Record)
	}
	if s.st.limit < s.st.last && s.st.limit-s.reach < s.reserve()/2 {
		s.save()
	}
	return records, len(records) == 0 && len(all) > 0
}

// fill counts what should be between after and seq and is not there as damaged: the cursor would
// wait for it for ever.
func (s *Spool) fill(after, seq Seq) {
	for at := s.st.undone(after + 1); at < seq; at = s.st.undone(at + 1) {
		s.o.Log.Error("message is missing in the spool", "path", s.file.Path(), "seq", uint64(at))
		s.out(at, 0, Damaged)
	}
}

// reserve is how far Next may go beyond what it has handed out; the caller holds mu.
func (s *Spool) reserve() Seq {
	average := s.st.ledger.PendingBytes / int64(max(s.st.ledger.Pending, 1))
	return Seq(min(max(reserveBytes/max(average, 1), reserveMin), reserveMax))
}

// protected reports whether the remote end may know of a message by its packet identifier: if it
// left the queue now, another message with that identifier would be taken for it.
func (s *Spool) protected(seq Seq, qos byte) bool { return qos == 2 && seq <= s.horizon }

// expired reports whether m is past its Message Expiry Interval.
func (s *Spool) expired(m *message.Message) bool {
	if !m.HasExpiry || s.o.Clock == nil {
		return false
	}
	return s.o.Clock.Elapsed(m.Received.Boot, m.Received.Millis) >= time.Duration(m.Expiry)*time.Second
}

// Done takes a message that Next returned out of the spool. It is on disk with a later commit.
func (s *Spool) Done(seq Seq, o Outcome) {
	s.mu.Lock()
	size, ok := s.taken[seq]
	if !ok {
		panic(fmt.Sprintf("spool: internal error: message %d is done, but was not in flight", seq))
	}
	delete(s.taken, seq)
	var done func(error)
	if size != void {
		if done = s.cancel(seq, size, o); done == nil {
			s.out(seq, size, o)
		}
	}
	s.mu.Unlock()
	if done != nil {
		done(nil)
	}
}

// out takes seq out of the queue in memory; the caller holds mu.
func (s *Spool) out(seq Seq, size int, o Outcome) {
	s.st.done(seq, seq)
	s.st.ledger.Out[o]++
	s.st.ledger.Pending--
	s.st.ledger.PendingBytes -= int64(size)
	s.acks++
	s.touch()
}

// save has the state written as soon as the writer is free; the caller holds mu.
func (s *Spool) save() {
	s.dirty = true
	if !s.closed {
		_ = s.writer.Add(op{kind: opSave})
		s.writer.Flush()
	}
}

// touch has the state written within SaveAfter; the caller holds mu.
func (s *Spool) touch() {
	s.dirty = true
	switch {
	case s.closed:
	case !s.saving:
		s.saving = true
		// It is of size 0, and refused only after Close, which writes the state itself.
		_ = s.writer.AddWithin(op{kind: opSave}, s.o.SaveAfter)
		s.writer.Flush()
	case s.acks == saveCount:
		s.writer.Within(0)
		s.writer.Flush()
	}
}

// Received notes that the PUBREC of a message was seen; done is called from any goroutine when
// that is on disk. If the disk fails, it is tried again until it succeeds or the spool is closed,
// when done is not called any more.
func (s *Spool) Received(seq Seq, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, found := slices.BinarySearch(s.st.received, seq); !found {
		s.st.received = slices.Insert(s.st.received, i, seq)
	}
	s.note(done)
}

// Forget takes all those notes back, since the remote end has lost its session; done as for
// Received, but also from within Forget if there are none.
func (s *Spool) Forget(done func()) {
	s.mu.Lock()
	if len(s.st.received) == 0 && !s.noted {
		s.mu.Unlock()
		done()
		return
	}
	defer s.mu.Unlock()
	s.st.received = nil
	s.note(done)
}

// note has the state written, and done called then; the caller holds mu.
func (s *Spool) note(done func()) {
	s.dirty = true
	if s.closed {
		return
	}
	s.noted = true
	_ = s.writer.Add(op{kind: opReceived, done: func(error) { done() }})
	s.writer.Flush()
}

// GiveBack says that of the messages that Next returned those behind after were not sent: they
// may expire and give way again, and Next returns them again.
func (s *Spool) GiveBack(after Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq := range s.taken {
		if seq > after {
			delete(s.taken, seq)
		}
	}
	s.high = min(s.high, after)
}

// Floor returns the Seq up to which everything is done: where Next starts after Open.
func (s *Spool) Floor() Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.floor
}

// Ledger returns the counts of this moment.
func (s *Spool) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.ledger
}

// CountPending walks the file and returns how many messages are pending in it and the bytes of
// their records, and the ledger that stands in the same file at that moment.
func (s *Spool) CountPending() (n uint64, bytes int64, l Ledger, err error) {
	err = s.file.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucketState).Get(keyCursor)
		if value == nil {
			return nil // nothing was ever stored: it is written with the first message
		}
		st, ok := parseState(value)
		if !ok {
			return errors.New("spool: its cursor is damaged")
		}
		l = st.ledger
		c := tx.Bucket(bucketMessages).Cursor()
		for k, v := c.Seek(key(st.floor + 1)); k != nil; k, v = c.Next() {
			if seq := Seq(binary.BigEndian.Uint64(k)); !st.isDone(seq) {
				n++
				bytes += int64(len(v) + overhead)
			}
		}
		return nil
	})
	return n, bytes, l, err
}

// Close writes what was handed over and closes the file. It returns the first error; messages
// whose done was not called with nil are not on disk.
func (s *Spool) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed, s.dirty = true, true
	_ = s.writer.Add(op{kind: opSave})
	s.mu.Unlock()
	err := s.writer.Close(ctx)
	if s.o.Absent != nil {
		err = nil // everybody was told
	}
	return errors.Join(err, s.file.Close())
}

func key(s Seq) []byte { return binary.BigEndian.AppendUint64(nil, uint64(s)) }
