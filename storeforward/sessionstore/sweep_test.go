package sessionstore

import (
	"context"
	"testing"

	"dunlin/core/durable"
)

// settle commits a few times, so that sweeping can ride along.
func (b *bench) settle() {
	b.t.Helper()
	for range 8 {
		b.commit(func(k durable.Token) { b.Release(0, 0, k) })
	}
}

// fill appends n messages for each combination and returns their numbers.
func (b *bench) fill(n int, to ...durable.SessionNumber) (seqs []durable.Seq) {
	b.t.Helper()
	last := durable.Token(0)
	for range n {
		last = b.next()
		seqs = append(seqs, b.Append(durable.Append{Message: note("x"), Receivers: receivers(1, to...)}, last))
	}
	b.Flush()
	if c := b.a.wait(b.t, last); c.Err != nil {
		b.t.Fatal(c.Err)
	}
	return seqs
}

func TestDeadRecordsAreSwept(t *testing.T) {
	tests := []struct {
		name string
		kill func(b *bench, seqs []durable.Seq)
	}{
		{"in order", func(b *bench, seqs []durable.Seq) {
			for _, s := range seqs {
				b.Done(1, s, durable.Delivered)
				b.Done(2, s, durable.Delivered)
			}
		}},
		{"backwards", func(b *bench, seqs []durable.Seq) {
			for i := range seqs {
				b.Done(1, seqs[len(seqs)-1-i], durable.Delivered)
				b.Done(2, seqs[len(seqs)-1-i], durable.Delivered)
			}
		}},
		{"by the end of the sessions", func(b *bench, seqs []durable.Seq) {
			b.EndSession(1, 0)
			b.EndSession(2, 0)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newStore(t)
			b.put(1)
			b.put(2)
			seqs := b.fill(5000, 1, 2)
			if got := len(b.records()); got != 5000 {
				t.Fatalf("%d records, want 5000", got)
			}
			test.kill(b, seqs)
			b.settle()
			if got := len(b.records()); got > blockSize {
				t.Errorf("%d records are left, want at most those of the last block", got)
			}
			if got := len(b.sweeper.blocks); got > 1 {
				t.Errorf("%d blocks are counted, want at most 1", got)
			}
		})
	}
}

func TestAnOldMessagePinsItsRecordOnly(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	kept := 0
	for range 20 {
		for _, s := range b.fill(blockSize-1, 1) {
			b.Done(1, s, durable.Delivered)
		}
		b.fill(1, 2)
		kept++
	}
	for range 4 {
		b.settle()
	}
	if got := len(b.records()); got > kept+blockSize {
		t.Errorf("%d records are left, want the %d that are queued and at most those of the last block", got, kept)
	}
	b = b.crash()
	if got := len(b.read(2, 0, 100, 1<<20).Entries); got != kept {
		t.Errorf("got %d messages, want %d", got, kept)
	}
}

func TestGarbageThatACrashLeftIsSwept(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	seqs := b.fill(1000, 1)
	b.fill(1000, 2)
	for _, s := range seqs {
		b.Done(1, s, durable.Delivered)
	}
	b.sweeper.below = 0 // nothing is swept in this life
	b.sweeper.dead = nil
	b.commit(func(k durable.Token) { b.EndSession(2, k) })
	b = b.crash()
	b.fill(blockSize, 1)
	b.settle()
	if got := len(b.records()); got > 3*blockSize {
		t.Errorf("%d records are left", got)
	}
}

func TestDeletedSpaceIsUsedAgain(t *testing.T) {
	b := newStore(t)
	b.put(1)
	size := int64(0)
	for round := range 40 {
		for _, s := range b.fill(1000, 1) {
			b.Done(1, s, durable.Delivered)
		}
		if round == 10 {
			size = b.size()
		}
	}
	if got := b.size(); got > size+size/2 {
		t.Errorf("the file grew from %d to %d bytes with an empty queue", size, got)
	}
}

// size returns the bytes of the file up to its last page.
func (b *bench) size() (n int64) {
	b.t.Helper()
	if err := b.file.View(func(tx *boltTx) error { n = tx.Size(); return nil }); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// A long queue that ends at once must not make one commit long: those that follow share it.
func TestACommitSweepsABoundedNumberOfRecords(t *testing.T) {
	b := newStore(t)
	b.put(1)
	const n = 100_000
	for range n / 1000 {
		b.fill(1000, 1)
	}
	left := len(b.records())
	b.EndSession(1, 0)
	for commits := 0; left > blockSize; commits++ {
		b.commit(func(k durable.Token) { b.Release(0, 0, k) })
		now := len(b.records())
		if left-now > maxSweep*blockSize {
			t.Fatalf("a commit has deleted %d records, want at most %d", left-now, maxSweep*blockSize)
		}
		if left = now; commits > 2*n/(maxSweep*blockSize) {
			t.Fatalf("%d records are left after %d commits", left, commits)
		}
	}
}

func TestNumbersGoOnBehindThoseThatAnUplinkKnows(t *testing.T) {
	b := newStore(t)
	b.put(1)
	old := b.add("old", 1)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(b.path, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	s.GoOnBehind(100_000)
	s.GoOnBehind(50)
	c := &bench{Store: s, a: newAnswers(), t: t, path: b.path}
	s.Start(c.a)
	t.Cleanup(func() { s.Close(context.Background()) })
	if got := c.add("new", 1); got != 100_001 {
		t.Errorf("got number %d, want 100001", got)
	}
	if got := c.crash().add("after a crash", 1); got <= 100_001 {
		t.Errorf("got number %d after a crash", got)
	}
	equal(t, "queue", texts(c.read(1, 0, 10, 1<<20).Entries), []string{"old", "new"})
	c.Done(1, old, durable.Delivered)
	c.settle()
	equal(t, "records", c.records(), []durable.Seq{100_001})
}
