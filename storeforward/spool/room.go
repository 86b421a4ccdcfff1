package spool

import (
	"go.etcd.io/bbolt"

	"dunlin/storeforward/boltfile"
)

// Reserve is boltfile.Reserve, for those who open a spool.
type Reserve = boltfile.Reserve

// ensure finds out whether there is room for a batch. If the disk is full the messages of it are
// refused, and the rest is written all the same: what was sent and acknowledged makes room.
func (s *Spool) ensure(tx *bbolt.Tx, batch []op) error {
	bytes := 0
	for i := range batch {
		bytes += batch[i].size
	}
	if bytes > 0 {
		err := s.file.Ensure(tx, bytes)
		if !boltfile.IsDiskFull(err) {
			s.diskFull(false)
			return err
		}
		s.diskFull(true)
		s.refuse(batch, err)
	}
	return s.file.Squeeze(tx, 0)
}

// refuse turns the messages of a batch into answers. Those that count as dropped by a policy are among
// them: a number of the source that comes before theirs may be refused.
func (s *Spool) refuse(batch []op, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range batch {
		o := &batch[i]
		switch {
		case o.kind == opAppend:
			s.queued -= int64(o.size + overhead)
		case o.kind != opDrop || o.source == 0:
			continue
		}
		s.missed(o.source)
		*o = op{kind: opAnswer, done: o.done, err: err}
	}
}

// diskFull reports when the disk is full, and when it is not any more. It is called by the writer.
func (s *Spool) diskFull(full bool) {
	switch {
	case full && !s.noRoom:
		s.o.Log.Error("the disk is full: messages for the uplink are not acknowledged", "path", s.file.Path())
	case !full && s.noRoom:
		s.file.Relax()
		s.o.Log.Info("the disk has room for the uplink again", "path", s.file.Path())
	}
	s.noRoom = full
}
