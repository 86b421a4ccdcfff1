package sessionstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"dunlin/core/durable"
)

func TestAReadStopsAtItsBounds(t *testing.T) {
	b := newStore(t)
	b.put(1)
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprint(i, strings.Repeat("x", 1000)))
		b.add(want[i], 1)
	}
	tests := []struct {
		name       string
		max, bytes int
		want       int
	}{
		{"at least one", 1, 1, 1},
		{"entries", 3, 1 << 20, 3},
		{"bytes", 10, 3500, 4}, // the one that passes the bound is in
		{"all", 10, 1 << 20, 10},
		{"more than there are", 1 << 30, 1 << 30, 10},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := b.read(1, 0, test.max, test.bytes)
			equal(t, "entries", texts(r.Entries), want[:test.want])
			if r.More != (test.want < 10) || r.Last != r.Entries[len(r.Entries)-1].Seq {
				t.Errorf("got last %d, more %v", r.Last, r.More)
			}
		})
	}
}

func TestAReadSeesEveryAppendBeforeIt(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.Append(durable.Append{Message: note("lazy"), Receivers: receivers(1, 1), Lazy: true}, 0)
	b.Append(durable.Append{Message: note("x"), Receivers: receivers(1, 1)}, b.next())
	equal(t, "entries", texts(b.read(1, 0, 10, 1<<20).Entries), []string{"lazy", "x"})
}

func TestASecondReadTakesThePlaceOfOneThatWaits(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.Append(durable.Append{Message: note("x"), Receivers: receivers(1, 1)}, b.next())
	first, second := b.next(), b.next()
	b.Store.Read(1, 0, 10, 1<<20, first) // waits for the commit
	b.Store.Read(1, 0, 10, 1<<20, second)
	b.Flush()
	equal(t, "entries", texts(b.a.arrived(t, second).Entries), []string{"x"})
	if r := b.a.arrived(t, first); !errors.Is(r.Err, ErrSuperseded) {
		t.Errorf("got %+v, want ErrSuperseded", r)
	}
}

func TestAReadThatWaitsIsAnsweredWhenItsSessionEnds(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.Append(durable.Append{Message: note("x"), Receivers: receivers(1, 1)}, b.next())
	k := b.next()
	b.Store.Read(1, 0, 10, 1<<20, k)
	b.EndSession(1, 0)
	b.Flush()
	if r := b.a.arrived(t, k); r.Err != nil || len(r.Entries) != 0 || r.More {
		t.Errorf("got %+v, want nothing", r)
	}
}

func TestReadsThatWaitAreRefusedByClose(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.Append(durable.Append{Message: note("x"), Receivers: receivers(1, 1)}, b.next())
	k := b.next()
	b.Store.Read(1, 0, 10, 1<<20, k)
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r := b.a.arrived(t, k); r.Err == nil && len(r.Entries) == 0 {
		t.Errorf("got %+v, want ErrClosed or the entry", r)
	}
}

func TestMessagesAreRefusedWhenTooMuchWaits(t *testing.T) {
	o := testOptions()
	o.MaxQueued = 1000
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	b.put(1)
	var taken, refused []durable.Token
	for range 20 {
		k := b.next()
		if b.Append(durable.Append{Message: note("x"), Receivers: receivers(1, 1)}, k) == 0 {
			refused = append(refused, k)
		} else {
			taken = append(taken, k)
		}
	}
	b.Flush()
	for _, k := range taken {
		if c := b.a.wait(t, k); c.Err != nil {
			t.Errorf("got %+v", c)
		}
	}
	for _, k := range refused {
		if c := b.a.wait(t, k); !errors.Is(c.Err, ErrFull) || c.Seq != 0 {
			t.Errorf("got %+v, want ErrFull", c)
		}
	}
	if len(taken) < 5 || len(refused) < 5 {
		t.Errorf("took %d, refused %d", len(taken), len(refused))
	}
	if l := b.Ledger(); l.Accepted != uint64(len(taken)) || l.Pending != uint64(len(taken)) {
		t.Errorf("got ledger %+v", l)
	}
	if s := b.add("later", 1); s == 0 {
		t.Error("refused after the queue was empty again")
	}
}
