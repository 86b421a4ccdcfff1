package archive

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/sessionstore"
)

// hang is a guard: no test takes nearly that long.
const hang = time.Minute

// answers collects what a store answers.
type answers struct {
	mu    sync.Mutex
	done  map[durable.Token]durable.Completion
	batch chan durable.Batch
	more  chan struct{} // capacity 1
}

func (a *answers) Completed(all []durable.Completion) {
	a.mu.Lock()
	for _, c := range all {
		a.done[c.Token] = c
	}
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
}

func (a *answers) Read(b durable.Batch) { a.batch <- b }

// Changed is of no interest here.
func (a *answers) Changed() {}

// busy is a store that works, and what should be in it.
type busy struct {
	t *testing.T
	*sessionstore.Store
	a     *answers
	r     *rand.Rand
	token durable.Token
	next  int // of the texts, which are unique

	queues  map[durable.SessionNumber]map[string]durable.Seq // by text
	delayed map[string]durable.Seq
	moved   map[string]bool
}

func newBusy(t *testing.T, path string, seed uint64) *busy {
	t.Helper()
	s, err := sessionstore.Open(path, sessionstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	b := &busy{
		t: t, Store: s, r: rand.New(rand.NewPCG(seed, 1)),
		a:       &answers{done: make(map[durable.Token]durable.Completion), batch: make(chan durable.Batch, 1), more: make(chan struct{}, 1)},
		queues:  make(map[durable.SessionNumber]map[string]durable.Seq),
		delayed: make(map[string]durable.Seq), moved: make(map[string]bool),
	}
	s.Start(b.a)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// commit does an operation and waits until it is on disk.
func (b *busy) commit(op func(k durable.Token)) durable.Completion {
	b.t.Helper()
	b.token++
	k := b.token
	op(k)
	b.Flush()
	timeout := time.After(hang)
	for {
		b.a.mu.Lock()
		c, ok := b.a.done[k]
		b.a.mu.Unlock()
		if ok {
			if c.Err != nil {
				b.t.Fatal(c.Err)
			}
			return c
		}
		select {
		case <-b.a.more:
		case <-timeout:
			b.t.Fatal("no answer")
		}
	}
}

func (b *busy) text(size int) string {
	b.next++
	return fmt.Sprintf("%06d%s", b.next, strings.Repeat("x", size))
}

func note(text string) *message.Message {
	return &message.Message{Topic: "plant/a", Payload: []byte(text), QoS: 1, Publisher: "p"}
}

func (b *busy) session() {
	n := b.NextSession()
	s := durable.Session{Number: n, ClientID: fmt.Sprint("c", n), Version: 5, Expiry: 100, Will: &durable.Will{Message: note(b.text(9000))}}
	b.commit(func(k durable.Token) { b.PutSession(&s, k) })
	b.queues[n] = make(map[string]durable.Seq)
}

// some returns up to n sessions, ascending.
func (b *busy) some(n int) []durable.SessionNumber {
	all := slices.Sorted(maps.Keys(b.queues))
	b.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:min(n, len(all))]
	slices.Sort(all)
	return all
}

func receivers(to []durable.SessionNumber) (all []durable.Receiver) {
	for _, n := range to {
		all = append(all, durable.Receiver{Session: n, QoS: 1})
	}
	return all
}

func (b *busy) add(size int, delayed durable.Seq, text string) {
	to := b.some(1 + b.r.IntN(3))
	if text == "" {
		text = b.text(size)
	}
	c := b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: note(text), Receivers: receivers(to), Delayed: delayed}, k)
	})
	for _, n := range to {
		b.queues[n][text] = c.Seq
	}
}

func (b *busy) delay() {
	text := b.text(9000)
	c := b.commit(func(k durable.Token) { b.Delay(durable.Delayed{Message: note(text), Delay: 3600}, k) })
	b.delayed[text] = c.Seq
}

// one returns any key of a map, in an order that the seed decides.
func one[V any](b *busy, from map[string]V) (string, bool) {
	keys := slices.Sorted(maps.Keys(from))
	if len(keys) == 0 {
		return "", false
	}
	return keys[b.r.IntN(len(keys))], true
}

// turn does something of what a broker does.
func (b *busy) turn() {
	who := b.some(2)
	if len(who) < 2 {
		b.session()
		return
	}
	q := b.queues[who[0]]
	switch b.r.IntN(12) {
	case 0, 1, 2:
		b.add(100, 0, "")
	case 3, 4, 5, 6:
		for range 3 {
			if text, ok := one(b, q); ok {
				b.Done(who[0], q[text], durable.Delivered)
				delete(q, text)
			}
		}
	case 7:
		if text, ok := one(b, b.delayed); ok {
			seq := b.delayed[text]
			delete(b.delayed, text)
			b.add(0, seq, text)
		}
	case 8:
		b.delay()
	case 9, 10:
		if text, ok := one(b, q); ok && b.queues[who[1]][text] == 0 {
			from := q[text]
			c := b.commit(func(k durable.Token) {
				b.Append(durable.Append{Message: note(text), Receivers: receivers(who[1:]), From: who[0], FromSeq: from}, k)
			})
			delete(q, text)
			b.queues[who[1]][text], b.moved[text] = c.Seq, true
		}
	case 11:
		if b.r.IntN(3) == 0 {
			b.commit(func(k durable.Token) { b.EndSession(who[0], k) })
			delete(b.queues, who[0])
		} else {
			b.session()
		}
	}
}

// queued reads back everything that is in the queues of a store.
func (b *busy) queued() map[string][]durable.SessionNumber {
	b.t.Helper()
	all := make(map[string][]durable.SessionNumber)
	for _, s := range b.Sessions() {
		for after, more := s.Floor, true; more; {
			b.token++
			b.Store.Read(s.Session.Number, after, 1000, 1<<20, b.token)
			b.Flush()
			var got durable.Batch
			select {
			case got = <-b.a.batch:
			case <-time.After(hang):
				b.t.Fatal("no answer")
			}
			if got.Err != nil {
				b.t.Fatal(got.Err)
			}
			for _, e := range got.Entries {
				text := string(e.Message.Payload)
				all[text] = append(all[text], s.Session.Number)
			}
			after, more = got.Last, got.More
		}
	}
	return all
}

func TestBackupOfARunningStoreHoldsWhatWasAcknowledged(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { backUpRunning(t, seed) })
	}
}

func backUpRunning(t *testing.T, seed uint64) {
	b := newBusy(t, filepath.Join(t.TempDir(), SessionsFile), seed)
	for range 60 {
		b.session()
	}
	for range 60 {
		b.delay()
	}
	for range 300 {
		b.add(3000, 0, "")
	}
	for range 200 {
		b.turn()
	}
	before := make(map[durable.SessionNumber]map[string]durable.Seq)
	for n, q := range b.queues {
		before[n] = maps.Clone(q)
	}
	delayed := maps.Clone(b.delayed)

	var text bytes.Buffer
	steps := 0
	visit := func(ctx context.Context, fn func(*sessionstore.Value) error, between func() error) error {
		return b.Visit(ctx, fn, func() error {
			steps++
			for range 25 {
				b.turn()
			}
			return between()
		})
	}
	if err := Write(t.Context(), &text, Sources{Sessions: visit}, "test", ""); err != nil {
		t.Fatal(err)
	}
	if steps < 8 {
		t.Fatalf("%d steps: nothing happens in between", steps)
	}

	folder := t.TempDir()
	result, err := Restore(folder, &text, false)
	if err != nil {
		t.Fatal(err)
	}
	if result.Mismatch != 0 {
		t.Errorf("the ledger of the backup is off by %d", result.Mismatch)
	}
	r := newBusy(t, filepath.Join(folder, SessionsFile), seed)
	waits := make(map[string]bool)
	for _, d := range r.Delayed() {
		waits[string(d.Message.Payload)] = true
	}
	if total := r.Total(); total.Mismatch() != 0 || r.Unexplained() != 0 {
		t.Errorf("the ledger after the restore is off: %+v, %d missing", total, r.Unexplained())
	}
	found := r.queued()
	held := 0
	for n, q := range before {
		for text := range q {
			if b.moved[text] {
				continue // looked at below
			}
			if _, still := b.queues[n][text]; still && !slices.Contains(found[text], n) {
				t.Errorf("%.6s was in the queue of %d all the time, and is not in the backup", text, n)
			} else if still {
				held++
			}
		}
	}
	if held == 0 {
		t.Error("nothing stayed in a queue: the test tests nothing")
	}
	for n, q := range b.queues {
		for text := range q {
			_, had := before[n][text]
			if b.moved[text] && wasThere(before, text) && len(found[text]) == 0 {
				t.Errorf("%.6s was moved, and is in no queue of the backup", text)
			}
			if _, waited := delayed[text]; waited && !had && len(found[text]) == 0 && !waits[text] {
				t.Errorf("%.6s became due, and neither waits nor is in a queue of the backup", text)
			}
		}
	}
	for text := range delayed {
		if _, still := b.delayed[text]; still && !waits[text] {
			t.Errorf("%.6s waited all the time, and does not in the backup", text)
		}
	}
}

func wasThere(queues map[durable.SessionNumber]map[string]durable.Seq, text string) bool {
	for _, q := range queues {
		if _, ok := q[text]; ok {
			return true
		}
	}
	return false
}
