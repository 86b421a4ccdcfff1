package spool

import (
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/topic"
	"dunlin/storeforward/boltfile"
)

// Builder makes the file of a spool of values, such as those that Visit has told of another one. It
// is on disk when Finish has returned nil.
type Builder struct {
	file  *boltfile.File
	batch []entry
	bytes int
	last  Seq
	state *State
}

type entry struct{ bucket, key, value []byte }

// maxNumber is the greatest number that is taken: what comes after it must have numbers, too.
const maxNumber = 1 << 62

// NewBuilder makes a file at path, where there is none.
func NewBuilder(path string) (*Builder, error) {
	f, err := boltfile.Open(path, boltfile.Options{Format: format, Version: version, Buckets: buckets(), NoSync: true})
	if err != nil {
		return nil, err
	}
	return &Builder{file: f}, nil
}

// Put takes a value. The error says what is wrong with it: it may come from anywhere, and a broker
// would trust it. Messages come in the order of their numbers, the state last.
func (b *Builder) Put(v *Value) error {
	switch {
	case b.state != nil:
		return errors.New("there is something behind the state of the spool")
	case v.State != nil:
		if v.State.Last > maxNumber || v.State.Source > maxNumber {
			return fmt.Errorf("numbers of the spool go up to %d and %d, which leaves none", v.State.Last, v.State.Source)
		}
		if v.State.Last < b.last || v.State.Floor > v.State.Last {
			return fmt.Errorf("the last number of the spool is %d, but there is message %d", v.State.Last, max(b.last, v.State.Floor))
		}
		b.state = v.State
		st := v.State.internal()
		b.add(entry{bucketState, keyCursor, st.append(nil)})
	case v.Message != nil:
		m := v.Message
		if m.Seq <= b.last || m.QoS < 1 || m.QoS > 2 {
			return fmt.Errorf("spooled message %d: it does not follow %d, or has a QoS of %d", m.Seq, b.last, m.QoS)
		}
		if err := checkMessage(m.Message); err != nil {
			return fmt.Errorf("spooled message %d: %w", m.Seq, err)
		}
		b.last = m.Seq
		b.add(entry{bucketMessages, key(m.Seq), appendRecord(nil, m.Seq, m.Message, m.QoS)})
	}
	if b.bytes < stepBytes && len(b.batch) < stepKeys {
		return nil
	}
	return b.write()
}

// checkMessage says why a message cannot be one.
func checkMessage(m *message.Message) error {
	if err := topic.CheckName([]byte(m.Topic)); err != nil {
		return fmt.Errorf("topic %.80q: %w", m.Topic, err)
	}
	if _, err := packet.ParseTravelling(m.Properties); err != nil {
		return fmt.Errorf("properties: %w", err)
	}
	return nil
}

func (b *Builder) add(e entry) {
	b.batch = append(b.batch, e)
	b.bytes += len(e.value)
}

func (b *Builder) write() error {
	batch := b.batch
	err := b.file.Update(func(tx *bbolt.Tx) error {
		for i := range batch {
			if err := boltfile.Appending(tx.Bucket(batch[i].bucket)).Put(batch[i].key, batch[i].value); err != nil {
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
	var err error
	if b.state == nil && b.last > 0 {
		err = errors.New("the state of the spool is missing")
	}
	if err == nil {
		err = b.write()
	}
	if err := errors.Join(err, b.file.Close()); err != nil {
		return err
	}
	return boltfile.SyncFile(b.file.Path())
}

// Abandon closes the file as it is.
func (b *Builder) Abandon() error { return b.file.Close() }
