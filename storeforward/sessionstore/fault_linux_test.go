package sessionstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"dunlin/core/durable"
)

// breakFile makes every write to the open file at path fail, until it is opened again.
func breakFile(t testing.TB, path string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range fds {
		if name, _ := os.Readlink("/proc/self/fd/" + e.Name()); name != path {
			continue
		}
		fd, _ := strconv.Atoi(e.Name())
		r, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(r, fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.Close(r)
		return
	}
	t.Fatalf("%s is not open", path)
}

func TestAFailedCommitRevokesItsMessagesAndNothingElse(t *testing.T) {
	b := newStore(t)
	b.put(1)
	old := b.add("old", 1)
	breakFile(t, b.path)
	k1, k2, k3 := b.next(), b.next(), b.next()
	s := b.Append(durable.Append{Message: note("lost"), Receivers: receivers(2, 1), Publisher: 1, PublisherID: 7}, k1)
	b.PutSession(&durable.Session{Number: 2, ClientID: "c2"}, k2)
	b.Done(1, old, durable.Delivered)
	b.Flush()
	if c := b.a.wait(t, k1); c.Err == nil || c.Seq != s {
		t.Fatalf("got %+v, want an error", c)
	}
	if c := b.a.wait(t, k2); c.Err == nil {
		t.Fatal("the session was acknowledged")
	}
	b.Append(durable.Append{Message: note("new"), Receivers: receivers(2, 1, 2)}, k3)
	b.Flush()
	if c := b.a.wait(t, k3); c.Err != nil {
		t.Fatalf("the store did not come back: %v", c.Err)
	}
	equal(t, "queue", texts(b.read(1, 0, 10, 1<<20).Entries), []string{"new"})
	b = b.crash()
	rs := b.Sessions()
	if len(rs) != 2 || rs[0].Pending != 1 || rs[1].Pending != 1 || len(rs[0].Incoming) != 0 {
		t.Errorf("restored %+v, want two sessions with a message each, and no incoming id", rs)
	}
	if l := b.Ledger(); l.Accepted != 3 || l.Left[durable.Delivered] != 1 || l.Pending != 2 {
		t.Errorf("got ledger %+v", l)
	}
}

// Of a message with two records the second notes the identifier of QoS 2 and ends the delay: alone it
// would be taken for the whole.
func TestAFailedCommitTakesTheRestOfItsMessageAlong(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	k := b.next()
	due := b.Delay(durable.Delayed{Message: note("late"), Delay: 1}, k)
	b.Flush()
	b.a.wait(t, k)
	first, second, third := b.next(), b.next(), b.next()
	b.Append(durable.Append{Message: note("one"), Receivers: receivers(2, 1), More: true}, first)
	b.mu.Lock()
	under := b.open
	b.mu.Unlock()
	b.Store.done(under, unix.EIO) // as the writer does, when the commit before it has failed
	s := b.Append(durable.Append{Message: note("two"), Receivers: receivers(2, 2), Publisher: 1, PublisherID: 7, Delayed: due}, second)
	b.Append(durable.Append{Message: note("next"), Receivers: receivers(2, 1, 2)}, third)
	b.Flush()
	if c := b.a.wait(t, first); c.Err != unix.EIO {
		t.Errorf("the first part: got %+v, want the error", c)
	}
	if c := b.a.wait(t, second); c.Err != unix.EIO || s != 0 {
		t.Errorf("the second part has the number %d: got %+v, want the error", s, c)
	}
	if c := b.a.wait(t, third); c.Err != nil {
		t.Errorf("the next message: %v", c.Err)
	}
	b = b.crash()
	if d := b.Delayed(); len(d) != 1 {
		t.Errorf("%d messages are delayed, want the one that was not published", len(d))
	}
	for _, r := range b.Sessions() {
		if r.Pending != 1 || len(r.Incoming) != 0 {
			t.Errorf("restored %+v, want the next message alone, and no identifier", r)
		}
	}
}

func TestAFailedMoveLeavesTheMessageWhereItWas(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	var all []durable.Seq
	for i := range blockSize + 10 { // a whole block that the moves would make dead
		all = append(all, b.add(fmt.Sprint(i), 1))
	}
	breakFile(t, b.path)
	var last durable.Token
	for i, s := range all[1:] {
		last = b.next()
		b.Append(durable.Append{Message: note(fmt.Sprint(i + 1)), From: 1, FromSeq: s, Receivers: receivers(1, 2)}, last)
	}
	b.Done(1, all[0], durable.Delivered) // this stays true
	b.Flush()
	if c := b.a.wait(t, last); c.Err == nil {
		t.Fatal("the last move was acknowledged")
	}
	for range 3 { // what is dead would be swept by now
		b.add("more", 2)
	}
	for _, b := range []*bench{b, b.crash()} {
		l, _ := b.LedgerOf(1)
		if got := len(b.read(1, 0, 1000, 1<<20).Entries); got != len(all)-1 || l.Left[durable.Moved] != 0 || l.Pending != uint64(got) {
			t.Errorf("%d messages are left of %d, ledger %+v", got, len(all)-1, l)
		}
		equal(t, "queue 2", texts(b.read(2, 0, 10, 1<<20).Entries), []string{"more", "more", "more"})
	}
	// Now it works, and the records go.
	for i, s := range all[1:] {
		last = b.next()
		b.Append(durable.Append{Message: note(fmt.Sprint(i + 1)), From: 1, FromSeq: s, Receivers: receivers(1, 2)}, last)
	}
	b.Flush()
	if c := b.a.wait(t, last); c.Err != nil {
		t.Fatal(c.Err)
	}
	b.add("more", 2)
	b.add("more", 2)
	if got := b.records(); len(got) == 0 || got[0] <= all[0] {
		t.Errorf("the records begin with %d, though nobody wants %d any more", got[0], all[0])
	}
}

// Whatever fails when: what was answered with success is there, what was answered with an error is
// not, and the rest is true.
func TestFailedCommitsLoseNothingThatWasAnswered(t *testing.T) {
	for seed := range uint64(*seeds / 10) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := start(t, filepath.Join(t.TempDir(), "sessions.db"), testOptions())
		g := script{r: r, apart: true}
		now := newModel()
		var ops []op
		for range 100 + r.IntN(100) {
			o := g.next(now)
			ops = append(ops, o)
			k := durable.Token(0)
			if o.token {
				k = durable.Token(len(ops))
			}
			o.store(b, k)
			o.model(now)
			if r.IntN(3) == 0 {
				b.Flush()
			}
			if r.IntN(15) == 0 && k != 0 {
				b.Flush()
				// Only then is the file certainly not being opened again.
				if b.a.wait(t, k).Err == nil && r.IntN(2) == 0 {
					breakFile(t, b.path)
				}
			}
		}
		// A commit that works, in case the file is broken now.
		for k := durable.Token(1 << 32); ; k++ {
			b.Release(0, 0, k)
			b.Flush()
			if b.a.wait(t, k).Err == nil {
				break
			}
		}
		want := newModel()
		failed := 0
		for i, o := range ops {
			fn := o.model
			if o.token && b.a.wait(t, durable.Token(i+1)).Err != nil {
				failed++
				if o.revoked != nil {
					fn = o.revoked
				}
			}
			fn(want)
		}
		if err := b.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		s, err := Open(b.path, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		got := dump(t, s).normal()
		if l := s.Ledger(); l.Accepted != l.Gone()+l.Pending {
			t.Errorf("seed %d: ledger %+v", seed, l)
		}
		s.Close(context.Background())
		// What was revoked is not in the counts, what was done with it before is. The same goes for
		// the order of ids.
		for _, m := range []*model{want, got} {
			m.Total = Counts{}
			for q := range maps.Values(m.Sessions) {
				q.Counts = Counts{}
				slices.SortFunc(q.Outgoing, func(a, b durable.Outgoing) int { return cmp.Compare(a.ID, b.ID) })
				slices.Sort(q.Incoming)
			}
		}
		if diff := gocmp.Diff(want.normal(), got); diff != "" {
			t.Fatalf("seed %d, %d operations failed (-want +got):\n%s", seed, failed, diff)
		}
	}
}

func TestReadsWaitForAFailedFileToComeBack(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.add("x", 1)
	for i := range 5 {
		breakFile(t, b.path)
		b.PutSession(&durable.Session{Number: 1, ClientID: fmt.Sprint(i)}, b.next())
		b.Flush()
		if got := b.read(1, 0, 10, 1<<20); got.Err != nil || len(got.Entries) != 1 {
			t.Fatalf("got %+v", got)
		}
		if c := b.a.wait(t, b.token-1); c.Err == nil {
			t.Fatal("the commit worked: the test tests nothing")
		}
	}
}

func TestAFailedCommitLeavesDelayedMessagesAsTheyWere(t *testing.T) {
	b := newStore(t)
	b.put(1)
	due := b.delay("due", 60, 0, 0)
	breakFile(t, b.path)
	k1, k2, k3 := b.next(), b.next(), b.next()
	b.Append(durable.Append{Message: note("due"), Receivers: receivers(2, 1), Delayed: due}, k1)
	b.Delay(durable.Delayed{Message: note("lost"), Delay: 60, Publisher: 1, PublisherID: 7}, k2)
	b.Flush()
	if c := b.a.wait(t, k1); c.Err == nil {
		t.Fatal("the disk did not fail")
	}
	if c := b.a.wait(t, k2); c.Err == nil {
		t.Fatal("a message was acknowledged")
	}
	kept := b.delay("kept", 60, 0, 0)
	now := b.crash()
	if d := now.Delayed(); len(d) != 2 || d[0].Seq != due || d[1].Seq != kept {
		t.Errorf("got %+v, want the messages %d and %d", d, due, kept)
	}
	if r := now.Sessions(); r[0].Pending != 0 || len(r[0].Incoming) != 0 {
		t.Errorf("got %+v, want nothing queued and no incoming id", r[0])
	}
	b.Append(durable.Append{Message: note("due"), Receivers: receivers(2, 1), Delayed: due}, k3)
	b.Flush()
	if c := b.a.wait(t, k3); c.Err != nil {
		t.Fatal(c.Err)
	}
	if now := b.crash(); len(now.Delayed()) != 1 {
		t.Error("the message is still delayed")
	}
}

func TestAFailedCommitLeavesWhatLingersAndRevokesWhatWasDue(t *testing.T) {
	b := patient(t)
	b.put(1)
	b.put(2)
	apart, k1 := b.linger("q", "apart", 1)
	due, k2 := b.linger("p", "due with the next", 1)
	breakFile(t, b.path)
	m := note("lost")
	m.Publisher = "p"
	k3 := b.next()
	b.Append(durable.Append{Message: m, Receivers: receivers(1, 1, 2)}, k3)
	b.Flush()
	for _, k := range []durable.Token{k2, k3} {
		if c := b.a.wait(t, k); c.Err == nil {
			t.Errorf("operation %d was acknowledged", k)
		}
	}
	b.Done(1, due, durable.Delivered) // of a message that was taken back
	b.Done(1, apart, durable.Delivered)
	b.Flush()
	if c := b.a.wait(t, k1); c.Err != nil {
		t.Error(c.Err)
	}
	equal(t, "ledger", b.Ledger(), Ledger{Counts: Counts{Accepted: 1, Left: [outcomes]uint64{durable.Delivered: 1}}})
}
