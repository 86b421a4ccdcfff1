package sessionstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/topic"
	"dunlin/storeforward/boltfile"
)

// Builder makes a sessions.db of values, such as those that Visit has told of another one. It is on
// disk when Finish has returned nil.
type Builder struct {
	file  *boltfile.File
	batch []entry
	bytes int
	seq   durable.Seq           // the greatest number that was put
	last  durable.SessionNumber // the greatest number of a session that was put
}

// entry is a value on its way into the file; a nil value deletes.
type entry struct{ bucket, key, value []byte }

// NewBuilder makes a file at path, where there is none.
func NewBuilder(path string) (*Builder, error) {
	f, err := boltfile.Open(path, boltfile.Options{Format: Format, Version: Version, Buckets: buckets(), NoSync: true})
	if err != nil {
		return nil, err
	}
	return &Builder{file: f}, nil
}

// Put takes a value. The error says what is wrong with it: it may come from anywhere, and a broker
// would trust it.
func (b *Builder) Put(v *Value) error {
	switch {
	case v.Gone:
		b.add(entry{[]byte(v.Bucket), bytes.Clone(v.Key), nil})
		if v.Bucket == string(bucketSessions) {
			b.add(entry{bucketCursors, bytes.Clone(v.Key), nil})
		}
	case v.Boot != nil:
		if v.Boot.Number == 0 || v.Boot.Number == math.MaxUint32 { // the next one has a number, too
			return fmt.Errorf("there is no boot %d", v.Boot.Number)
		}
		key := bootKey(v.Boot.Number)
		b.add(entry{bucketBoots, key, appendBoot(nil, key, v.Boot)})
	case v.Delayed != nil:
		if err := checkMessage(v.Delayed.Message); err != nil {
			return err
		}
		b.see(v.Delayed.Seq)
		key := seqKey(v.Delayed.Seq)
		b.add(entry{bucketDue, key, appendDelayed(nil, key, v.Delayed)})
	case v.Session != nil:
		return b.session(v.Session)
	case v.Cursor != nil:
		return b.cursor(v.Cursor)
	case v.Retained != nil:
		if err := checkMessage(v.Retained); err != nil {
			return err
		}
		key := retainedKey(v.Retained.Topic)
		b.add(entry{bucketRetained, key, appendRetained(nil, key, v.Retained)})
	case v.Total != nil:
		b.add(entry{bucketLedgers, keyTotal, appendTotal(nil, v.Total)})
	case v.Counters != nil:
		b.see(v.Counters.Seq)
		b.last = max(b.last, v.Counters.Session)
	case v.Message != nil:
		return b.message(v.Message)
	}
	return b.step()
}

func (b *Builder) session(s *durable.Session) error {
	if s.Number == 0 {
		return errors.New("a session has the number 0")
	}
	if !topic.ValidString([]byte(s.ClientID)) || !topic.ValidString([]byte(s.Identity)) {
		return fmt.Errorf("session %d: its client identifier or its user is no string of MQTT", s.Number)
	}
	for _, sub := range s.Subscriptions {
		if _, filter, shared, err := topic.Shared(sub.Filter); err != nil || shared && topic.CheckFilter([]byte(filter)) != nil ||
			!shared && topic.CheckFilter([]byte(sub.Filter)) != nil {
			return fmt.Errorf("session %d: %.80q is no topic filter", s.Number, sub.Filter)
		}
	}
	if s.Will != nil {
		if err := checkMessage(s.Will.Message); err != nil {
			return fmt.Errorf("session %d: will: %w", s.Number, err)
		}
	}
	b.last = max(b.last, s.Number)
	key := seqKey(s.Number)
	b.add(entry{bucketSessions, key, appendSession(nil, key, s)})
	return b.step()
}

func (b *Builder) cursor(c *Cursor) error {
	ascends, before := true, durable.Seq(0)
	for _, s := range c.Open {
		ascends, before = ascends && s > before, s
	}
	if c.Session == 0 || c.High > c.AsOf || !ascends || before > c.High {
		return fmt.Errorf("cursor of session %d: as_of, high and open do not fit each other", c.Session)
	}
	for _, o := range c.Outgoing {
		if o.ID == 0 || o.Seq > c.AsOf {
			return fmt.Errorf("cursor of session %d: outgoing %d of message %d cannot be", c.Session, o.ID, o.Seq)
		}
	}
	if slices.Contains(c.Incoming, 0) {
		return fmt.Errorf("cursor of session %d: there is no packet identifier 0", c.Session)
	}
	b.see(c.AsOf)
	b.last = max(b.last, c.Session)
	key := seqKey(c.Session)
	b.add(entry{bucketCursors, key, c.append(nil, key)})
	return b.step()
}

// append writes the cursor as appendCursor does that of a session.
func (c *Cursor) append(dst, key []byte) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	dst = binary.AppendUvarint(dst, uint64(c.AsOf))
	dst = binary.AppendUvarint(dst, uint64(c.AsOf-c.High))
	dst = binary.AppendUvarint(dst, uint64(len(c.Open)))
	before := durable.Seq(0)
	for _, s := range c.Open {
		dst = binary.AppendUvarint(dst, uint64(s-before))
		before = s
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Outgoing)))
	for _, o := range c.Outgoing {
		if o.Received {
			dst = binary.AppendUvarint(dst, uint64(o.ID)<<1|1)
		} else {
			dst = binary.AppendUvarint(dst, uint64(o.ID)<<1)
			dst = binary.AppendUvarint(dst, uint64(c.AsOf-o.Seq))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Incoming)))
	for _, id := range c.Incoming {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	dst = appendCounts(dst, &c.Counts)
	return appendChecksum(dst, from, key)
}

func (b *Builder) message(r *Record) error {
	if r.Seq == 0 {
		return errors.New("a message has the number 0")
	}
	if err := checkMessage(r.Message); err != nil {
		return fmt.Errorf("message %d: %w", r.Seq, err)
	}
	all := make([]receiver, 0, len(r.Receivers))
	before := durable.SessionNumber(0)
	for _, to := range r.Receivers {
		if to.Session <= before {
			return fmt.Errorf("message %d: its receivers do not ascend at session %d", r.Seq, to.Session)
		}
		before = to.Session
		if to.Share != "" {
			if _, _, shared, err := topic.Shared(to.Share); err != nil || !shared {
				return fmt.Errorf("message %d: %.80q is no shared subscription", r.Seq, to.Share)
			}
		}
		for _, id := range to.SubscriptionIDs { // a Variable Byte Integer, as the Remaining Length is
			if id == 0 || id > packet.MaxRemaining {
				return fmt.Errorf("message %d: there is no subscription identifier %d", r.Seq, id)
			}
		}
		all = append(all, receiver{Receiver: to})
	}
	b.see(r.Seq)
	b.last = max(b.last, before)
	key := seqKey(r.Seq)
	b.add(entry{bucketMessages, key, appendRecord(nil, key, all, r.Message)})
	return b.step()
}

// checkMessage says why a message cannot be one.
func checkMessage(m *message.Message) error {
	if err := topic.CheckName([]byte(m.Topic)); err != nil {
		return fmt.Errorf("topic %.80q: %w", m.Topic, err)
	}
	if _, err := packet.ParseTravelling(m.Properties); err != nil {
		return fmt.Errorf("properties: %w", err)
	}
	if !topic.ValidString([]byte(m.Publisher)) {
		return fmt.Errorf("publisher %.80q is no client identifier", m.Publisher)
	}
	return nil
}

func (b *Builder) see(s durable.Seq) { b.seq = max(b.seq, s) }

// maxNumber is the greatest number of a message or a session that is taken: what comes after it must
// have numbers, too.
const maxNumber = 1 << 62

// Raise lets numbers go on behind s.
func (b *Builder) Raise(s durable.Seq) { b.see(s) }

func (b *Builder) add(e entry) {
	b.batch = append(b.batch, e)
	b.bytes += len(e.key) + len(e.value)
}

// step writes what was collected, if it is enough for a transaction.
func (b *Builder) step() error {
	if b.bytes < stepBytes && len(b.batch) < stepKeys {
		return nil
	}
	return b.write()
}

func (b *Builder) write() error {
	batch := b.batch
	err := b.file.Update(func(tx *bbolt.Tx) error {
		for i := range batch {
			e := &batch[i]
			to := tx.Bucket(e.bucket)
			if e.value == nil {
				if err := to.Delete(e.key); err != nil {
					return err
				}
				continue
			}
			if err := boltfile.Appending(to).Put(e.key, e.value); err != nil {
				return err
			}
		}
		return nil
	})
	clear(b.batch)
	b.batch, b.bytes = b.batch[:0], 0
	return err
}

// Finish completes the file and closes it. It is on disk then, but for its name.
func (b *Builder) Finish() error {
	if b.seq > maxNumber || b.last > maxNumber {
		return errors.Join(fmt.Errorf("numbers go up to %d and %d, which leaves none", b.seq, b.last), b.file.Close())
	}
	b.add(entry{bucketMeta, keyCounters, appendCounters(nil, b.seq, b.last)})
	if err := b.write(); err != nil {
		return errors.Join(err, b.file.Close())
	}
	if err := b.file.Close(); err != nil {
		return err
	}
	return boltfile.SyncFile(b.file.Path())
}

// Abandon closes the file as it is.
func (b *Builder) Abandon() error { return b.file.Close() }
