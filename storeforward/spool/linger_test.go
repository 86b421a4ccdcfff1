package spool

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"dunlin/core/message"
)

// live is a spool whose uplink is quick, with messages that linger for 20 ms.
func live(t *testing.T) *bench {
	t.Helper()
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{Linger: 20 * time.Millisecond})
	b.Quick(true)
	return b
}

// hand appends a message and returns where its answer will be.
func (b *bench) hand(i int) *answer {
	b.t.Helper()
	a := new(answer)
	b.Append(msg(i), 1, 0, func(err error) { a.given.Store(&err) })
	b.Flush()
	return a
}

// answer is what an Append was answered with.
type answer struct{ given atomic.Pointer[error] }

func (a *answer) is() bool { return a.given.Load() != nil }

func (a *answer) ok() bool { return a.is() && *a.given.Load() == nil }

// version is how often the file was committed to.
func (b *bench) version() (id int) {
	b.t.Helper()
	if err := b.file.View(func(tx *bbolt.Tx) error {
		id = tx.ID()
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	return id
}

func TestWhatTheRemoteEndHasInTimeIsNeverWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := live(t)
		before := b.version()
		for i := range 2000 {
			a := b.hand(i)
			r := b.next(Seq(i), 1)[0]
			if r.Seq != Seq(i+1) || string(r.Message.Payload) != string(msg(i).Payload) || r.Dup {
				t.Fatalf("got %+v", r)
			}
			if a.is() {
				t.Fatal("answered before anybody has it")
			}
			time.Sleep(5 * time.Millisecond)
			b.Done(r.Seq, Delivered)
			if !a.ok() {
				t.Fatal("it is not answered")
			}
		}
		if got := b.version(); got != before {
			t.Errorf("the file was committed to %d times", got-before)
		}
		if l := b.Ledger(); l.Accepted != 2000 || l.Delivered() != 2000 || l.Pending != 0 || l.PendingBytes != 0 {
			t.Errorf("ledger %+v", l)
		}
		if b = b.restart(); b.Ledger().Delivered() != 2000 || b.Floor() != 2000 {
			t.Errorf("after a stop: %+v", b.Ledger())
		}
		b.Close(t.Context())
	})
}

func TestWhatLingersTooLongIsWrittenAndNothingLingersThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := live(t)
		first := b.hand(0)
		time.Sleep(15 * time.Millisecond)
		second := b.hand(1)
		records := b.next(0, 2)
		time.Sleep(4 * time.Millisecond)
		synctest.Wait()
		if first.is() || second.is() {
			t.Error("answered before it is written")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if !first.ok() || !second.ok() {
			t.Error("they are not answered after 20 ms")
		}
		c := b.crash()
		if l := c.Ledger(); l.Accepted != 2 || l.Pending != 2 || len(c.next(0, 2)) != 2 {
			t.Errorf("after a crash: %+v", l)
		}
		b.Done(records[0].Seq, Delivered)
		b.Done(records[1].Seq, Delivered)
		third := b.hand(2)
		synctest.Wait()
		if !third.is() {
			t.Error("a message lingers though the uplink was slow")
		}
		c.Close(t.Context())
		b.Close(t.Context())
	})
}

func TestWhatLingersGoesWithWhatIsWritten(t *testing.T) {
	for name, write := range map[string]func(b *bench){
		"QoS 2":            func(b *bench) { b.add(2, 7, msg(9)) },
		"a sync message":   func(b *bench) { b.Urgent(); b.Flush() },
		"the link is lost": func(b *bench) { b.Quick(false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := live(t)
				gone := b.hand(0)
				b.next(0, 1)
				stays := b.hand(1)
				b.Done(1, Delivered)
				write(b)
				synctest.Wait()
				if !gone.ok() || !stays.ok() {
					t.Error("they are not answered")
				}
				c := b.crash()
				r := c.next(c.Floor(), 1)
				if c.Floor() != 1 || r[0].Seq != 2 || string(r[0].Message.Payload) != string(msg(1).Payload) {
					t.Errorf("behind %d comes %+v", c.Floor(), r)
				}
				if l := c.Ledger(); l.Out[Damaged] != 0 || l.Delivered() != 1 {
					t.Errorf("ledger %+v", l)
				}
				c.Close(t.Context())
				b.Close(t.Context())
			})
		})
	}
}

func TestNothingLingersBehindABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{Linger: time.Hour})
		b.mustAdd(1, 0, 3)
		b.Quick(true)
		a := b.hand(3)
		synctest.Wait()
		if !a.is() {
			t.Error("it lingers, out of reach")
		}
		for _, r := range b.next(0, 4) {
			b.Done(r.Seq, Delivered)
		}
		if a = b.hand(4); a.is() {
			t.Error("it is written though nothing is before it")
		}
		b.Close(t.Context())
	})
}

func TestAFailedCommitRefusesWhatLingeredUnlessItHasArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := live(t)
		a := b.hand(0)
		r := b.next(0, 1)[0]
		b.mu.Lock()
		b.join(nil, true)
		late := b.settle(bolterrors.ErrDatabaseNotOpen)
		b.mu.Unlock()
		if len(late) != 1 || a.is() {
			t.Fatalf("%d late, answered: %v", len(late), a.is())
		}
		b.Done(r.Seq, Delivered) // it was on its way
		if l := b.Ledger(); l.Accepted != 0 || l.Pending != 0 || l.PendingBytes != 0 || l.Delivered() != 0 {
			t.Errorf("ledger %+v", l)
		}
		b.Close(t.Context())
	})
}

// Whatever happens, what was accepted is done or comes back after a crash, in order.
func TestRandomLingeringAndCrashes(t *testing.T) {
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) { lingerAtRandom(t, rand.New(rand.NewPCG(seed, 3))) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func lingerAtRandom(t *testing.T, r *rand.Rand) {
	b := live(t)
	type sent struct {
		m        *message.Message
		accepted atomic.Bool
		done     bool
	}
	var all []*sent
	byText := make(map[string]*sent)
	var flight []Record
	after, source := Seq(0), 0
	for range 300 {
		switch r.IntN(12) {
		case 0, 1, 2, 3:
			m := &sent{m: msg(len(all))}
			all = append(all, m)
			byText[string(m.m.Payload)] = m
			b.Append(m.m, 1, 0, func(err error) { m.accepted.Store(err == nil) })
		case 4:
			if r.IntN(4) == 0 {
				source++
				m := &sent{m: msg(len(all))}
				all = append(all, m)
				byText[string(m.m.Payload)] = m
				b.Append(m.m, 2, 0, func(err error) { m.accepted.Store(err == nil) })
			}
		case 5, 6:
			b.Flush()
		case 7:
			records, err := b.Next(after, 1+r.IntN(5), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range records {
				if x.Seq <= after {
					t.Fatalf("%d behind %d", x.Seq, after)
				}
				after = x.Seq
				flight = append(flight, x)
			}
		case 8, 9, 10:
			if len(flight) > 0 {
				i := r.IntN(len(flight))
				b.Done(flight[i].Seq, Delivered)
				byText[string(flight[i].Message.Payload)].done = true
				flight = slices.Delete(flight, i, i+1)
			}
		case 11:
			switch r.IntN(6) {
			case 0:
				b.Quick(r.IntN(3) > 0)
			case 1:
				b.GiveBack(after)
			default:
				time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
				synctest.Wait()
				b.Quick(true)
			}
		}
	}
	synctest.Wait()
	c := b.crash()
	found := make(map[string]bool)
	last := -1
	at := c.Floor()
	for {
		records, err := c.Next(at, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			synctest.Wait()
			if records, _ = c.Next(at, 100, 1<<20); len(records) == 0 {
				break
			}
		}
		for _, x := range records {
			at = x.Seq
			var n int
			if _, err := fmt.Sscanf(string(x.Message.Payload), "payload %d", &n); err != nil || n <= last {
				t.Errorf("%q behind %d", x.Message.Payload, last)
			}
			last = n
			found[string(x.Message.Payload)] = true
		}
	}
	for text, m := range byText {
		if m.accepted.Load() && !m.done && !found[text] {
			t.Errorf("%s was accepted and is gone", text)
		}
	}
	if l := c.Ledger(); l.Out[Damaged] != 0 || l.Pending != uint64(len(found)) {
		t.Errorf("ledger %+v, %d found", l, len(found))
	}
	if n, bytes, l, err := c.CountPending(); err != nil || n != l.Pending || bytes != l.PendingBytes {
		t.Errorf("%d pending of %d bytes, %+v, %v", n, bytes, l, err)
	}
	c.Close(t.Context())
	b.Close(t.Context())
	if l := b.Ledger(); l.Accepted != uint64(len(all)) || l.Accepted != l.Delivered()+l.Pending {
		t.Errorf("ledger %+v of %d", l, len(all))
	}
}
