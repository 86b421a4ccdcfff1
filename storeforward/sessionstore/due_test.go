package sessionstore

import (
	"errors"
	"runtime"
	"slices"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

func (b *bench) delay(text string, seconds uint32, publisher durable.SessionNumber, id packet.ID) durable.Seq {
	b.t.Helper()
	c := b.commit(func(k durable.Token) {
		b.Delay(durable.Delayed{Message: note(text), Delay: seconds, Publisher: publisher, PublisherID: id}, k)
	})
	if c.Err != nil {
		b.t.Fatal(c.Err)
	}
	return c.Seq
}

func TestADelayedMessageSurvivesTheProcessWithItsPacketID(t *testing.T) {
	b := newStore(t)
	b.put(1)
	one := b.delay("one", 60, 1, 7)
	two := b.delay("two", 4_294_967_295, 0, 0)
	for range 2 {
		b = b.crash()
		equal(t, "delayed", b.Delayed(), []durable.Delayed{
			{Seq: one, Message: note("one"), Delay: 60},
			{Seq: two, Message: note("two"), Delay: 4_294_967_295},
		})
		equal(t, "incoming", b.Sessions()[0].Incoming, []packet.ID{7})
		if again := b.Delayed(); again != nil {
			t.Errorf("got %d messages twice", len(again))
		}
	}
	if n := b.delay("three", 1, 0, 0); n <= two {
		t.Errorf("number %d again", n)
	}
}

func TestADelayedMessageMovesToItsReceiversInOneTransaction(t *testing.T) {
	b := newStore(t)
	b.put(1)
	for _, to := range [][]durable.SessionNumber{{1}, nil} {
		seq := b.delay("x", 60, 0, 0)
		before := b.crash()
		c := b.commit(func(k durable.Token) {
			b.Append(durable.Append{Message: note("x"), Receivers: receivers(2, to...), Delayed: seq}, k)
		})
		if c.Err != nil {
			t.Fatal(c.Err)
		}
		after := b.crash()
		if d, r := before.Delayed(), before.Sessions(); len(d) != 1 || r[0].Pending != 0 && to != nil {
			t.Errorf("before the commit: %d delayed, %d queued", len(d), r[0].Pending)
		}
		if d, r := after.Delayed(), after.Sessions(); len(d) != 0 || r[0].Pending != 1 {
			t.Errorf("after the commit: %d delayed, %d queued", len(d), r[0].Pending)
		}
	}
}

// No two messages share a number, so that no delayed one is taken for another after a crash.
func TestNumbersOfDelayedMessagesAreThoseOfTheQueue(t *testing.T) {
	b := newStore(t)
	b.put(1)
	got := []durable.Seq{b.add("a", 1), b.delay("b", 60, 0, 0), b.add("c", 1), b.delay("d", 60, 0, 0)}
	b = b.crash()
	got = append(got, b.add("e", 1))
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("got %v", got)
	}
	equal(t, "queue", texts(b.read(1, 0, 10, 1<<20).Entries), []string{"a", "c", "e"})
}

func TestADelayedMessageIsRefusedWhileTooMuchWaitsForTheDisk(t *testing.T) {
	b := newStore(t)
	b.opts.MaxQueued = 100
	k1, k2 := b.next(), b.next()
	b.Delay(durable.Delayed{Message: note("taken"), Delay: 1}, k1)
	if seq := b.Delay(durable.Delayed{Message: note("refused"), Delay: 1}, k2); seq != 0 {
		t.Errorf("got number %d", seq)
	}
	b.Flush()
	if c := b.a.wait(t, k1); c.Err != nil {
		t.Error(c.Err)
	}
	if c := b.a.wait(t, k2); !errors.Is(c.Err, ErrFull) {
		t.Errorf("got %v, want ErrFull", c.Err)
	}
	if d := b.crash().Delayed(); len(d) != 1 {
		t.Errorf("%d messages are kept, want 1", len(d))
	}
}

// Whenever the writer is about to begin a transaction, and however full that is: records that belong
// together, and what the last of them says, are in the file or are not.
func TestAppendsThatBelongTogetherAreOneTransaction(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	const n = 3000
	var due []durable.Seq
	for range n {
		due = append(due, b.Delay(durable.Delayed{Message: note("x"), Delay: 1}, 0))
	}
	var copies []string
	b.a.onDone = func([]durable.Completion) {
		if len(copies) < 40 {
			copies = append(copies, copyFile(t, b.path))
		}
	}
	for i, seq := range due {
		b.Append(durable.Append{Message: note("x"), Receivers: receivers(2, 1), More: true}, b.next())
		if i%64 == 0 {
			b.Done(2, 0, durable.Delivered) // other calls in between do not part them
		}
		runtime.Gosched() // let the writer begin, if it can
		b.Append(durable.Append{Message: note("x"), Receivers: receivers(2, 2), Delayed: seq}, b.next())
		if i%3 == 0 {
			b.Flush()
		}
	}
	b.Flush()
	b.a.wait(t, b.token)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(copies, b.path) {
		s, err := Open(path, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		r, d := s.Sessions(), len(s.Delayed())
		if r[0].Pending != r[1].Pending || r[0].Pending+d != n && d > 0 {
			t.Errorf("%d and %d messages are queued, %d delayed, of %d", r[0].Pending, r[1].Pending, d, n)
		}
		s.Close(t.Context())
	}
}

func TestAppendsThatAreNotEndedDoNotHoldTheStore(t *testing.T) {
	b := newStore(t)
	b.put(1)
	k := b.next()
	b.Append(durable.Append{Message: note("x"), Receivers: receivers(2, 1), More: true}, k)
	b.Flush()
	if c := b.a.wait(t, k); c.Err != nil {
		t.Fatal(c.Err)
	}
	b.Append(durable.Append{Message: note("y"), Receivers: receivers(2, 1), More: true}, b.next())
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsTogetherIsOneTransaction(t *testing.T) {
	b := newStore(t)
	b.put(1)
	const n = 2000
	for i := range n {
		b.PutSession(&durable.Session{Number: durable.SessionNumber(i + 2), ClientID: "c"}, 0)
	}
	var copies []string
	b.a.onDone = func([]durable.Completion) {
		if len(copies) < 40 {
			copies = append(copies, copyFile(t, b.path))
		}
	}
	for i := range n {
		b.Together(true)
		b.Append(durable.Append{Message: note("x"), Receivers: receivers(2, 1)}, b.next())
		runtime.Gosched() // let the writer begin, if it can
		if i%2 == 0 {
			b.EndSession(durable.SessionNumber(i+2), 0)
		} else {
			b.PutSession(&durable.Session{Number: durable.SessionNumber(i + 2), ClientID: "d"}, 0)
		}
		b.Together(false)
		if i%3 == 0 {
			b.Flush()
		}
	}
	b.Flush()
	b.a.wait(t, b.token)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(copies, b.path) {
		s, err := Open(path, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		pending, before := 0, 0
		for _, r := range s.Sessions() {
			switch {
			case r.Session.Number == 1:
				pending = r.Pending
			case r.Session.ClientID == "c":
				before++
			}
		}
		if before+pending != n {
			t.Errorf("%d messages are on disk, and %d sessions as they were before theirs, of %d", pending, before, n)
		}
		s.Close(t.Context())
	}
}
