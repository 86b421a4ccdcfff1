package spool

import (
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"dunlin/core/message"
	"dunlin/storeforward/boltfile"
)

func TestAFullDiskRefusesMessagesAndLetsOthersGo(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{
		MaxBytes:  64 << 20,
		Available: func(string) (int64, error) { return free.Load(), nil },
	})
	if errs := b.add(2, 1, msg(1), msg(2)); errors.Join(errs...) != nil {
		t.Fatal(errs)
	}
	free.Store(0)
	large := &message.Message{Topic: "t", Payload: []byte(strings.Repeat("x", 7<<20)), QoS: 2} // more than is allocated
	if err := b.add(1, 0, large)[0]; !errors.Is(err, boltfile.ErrDiskFull) {
		t.Errorf("got %v, want ErrDiskFull", err)
	}
	// What comes behind a message that was not taken over must not be, either.
	if errs := b.add(2, 3, large, msg(4)); !errors.Is(errs[0], boltfile.ErrDiskFull) || !errors.Is(errs[1], ErrGap) {
		t.Errorf("got %v, want ErrDiskFull and ErrGap", errs)
	}
	for _, r := range b.next(0, 2) {
		b.Done(r.Seq, Delivered)
	}
	if err := b.add(1, 0, msg(5))[0]; err != nil { // there is room for it
		t.Error(err)
	}
	free.Store(1 << 30)
	if errs := b.add(2, 3, large, msg(4)); errors.Join(errs...) != nil {
		t.Errorf("there is room again: %v", errs)
	}
	b = b.crash()
	l := b.Ledger()
	gone := uint64(0)
	for _, n := range l.Out {
		gone += n
	}
	if l.Accepted != 5 || l.Accepted != gone+l.Pending {
		t.Errorf("ledger %+v", l)
	}
}
