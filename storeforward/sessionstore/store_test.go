package sessionstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/platform/clock"
)

// answers is a Completer that tests wait on.
type answers struct {
	mu      sync.Mutex
	done    map[durable.Token]durable.Completion
	reads   map[durable.Token]durable.Batch
	order   []durable.Token
	changes int
	news    chan struct{} // a value after each call
	// onDone, if set, is called on the writer's goroutine, between two transactions.
	onDone func([]durable.Completion)
}

func newAnswers() *answers {
	return &answers{
		done:  make(map[durable.Token]durable.Completion),
		reads: make(map[durable.Token]durable.Batch),
		news:  make(chan struct{}, 1),
	}
}

func (a *answers) Completed(done []durable.Completion) {
	if a.onDone != nil {
		a.onDone(done)
	}
	a.mu.Lock()
	for _, c := range done {
		a.done[c.Token] = c
		a.order = append(a.order, c.Token)
	}
	a.mu.Unlock()
	a.tell()
}

func (a *answers) Read(b durable.Batch) {
	a.mu.Lock()
	a.reads[b.Token] = b
	a.mu.Unlock()
	a.tell()
}

func (a *answers) Changed() {
	a.mu.Lock()
	a.changes++
	a.mu.Unlock()
	a.tell()
}

func (a *answers) tell() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// wait returns the completion of k; only one goroutine may wait.
func (a *answers) wait(t testing.TB, k durable.Token) durable.Completion {
	t.Helper()
	return await(t, a, a.done, k)
}

func (a *answers) arrived(t testing.TB, k durable.Token) durable.Batch {
	t.Helper()
	return await(t, a, a.reads, k)
}

func await[V any](t testing.TB, a *answers, m map[durable.Token]V, k durable.Token) V {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		a.mu.Lock()
		v, ok := m[k]
		a.mu.Unlock()
		if ok {
			return v
		}
		select {
		case <-a.news:
		case <-late:
			t.Fatalf("no answer to operation %d", k)
		}
	}
}

// bench is a store under test.
type bench struct {
	*Store
	a     *answers
	t     testing.TB
	path  string
	token durable.Token
}

func start(t testing.TB, path string, o Options) *bench {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Store: s, a: newAnswers(), t: t, path: path}
	s.Start(b.a)
	t.Cleanup(func() { s.Close(context.Background()) }) // t's context has ended by then
	return b
}

// Read of the store, not of the answers.
func (b *bench) read(n durable.SessionNumber, after durable.Seq, max, bytes int) durable.Batch {
	b.t.Helper()
	k := b.next()
	b.Store.Read(n, after, max, bytes, k)
	b.Flush()
	return b.a.arrived(b.t, k)
}

func (b *bench) next() durable.Token {
	b.token++
	return b.token
}

// commit runs an operation and waits for its completion.
func (b *bench) commit(op func(k durable.Token)) durable.Completion {
	b.t.Helper()
	k := b.next()
	op(k)
	b.Flush()
	return b.a.wait(b.t, k)
}

func (b *bench) put(n durable.SessionNumber) {
	b.t.Helper()
	c := b.commit(func(k durable.Token) { b.PutSession(&durable.Session{Number: n, ClientID: fmt.Sprint("c", n)}, k) })
	if c.Err != nil {
		b.t.Fatal(c.Err)
	}
}

func (b *bench) add(text string, to ...durable.SessionNumber) durable.Seq {
	b.t.Helper()
	c := b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: note(text), Receivers: receivers(1, to...)}, k)
	})
	if c.Err != nil {
		b.t.Fatal(c.Err)
	}
	return c.Seq
}

// crash opens a copy of the file as it is now, as after the death of the process.
func (b *bench) crash() *bench {
	b.t.Helper()
	return start(b.t, copyFile(b.t, b.path), b.opts)
}

func copyFile(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "sessions.db")
	if err := os.WriteFile(to, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func note(text string) *message.Message {
	return &message.Message{
		Topic: "plant/1/temperature", Payload: []byte(text), QoS: 1, Publisher: "device-17",
		Received: message.Stamp{Boot: 3, Millis: 1_234_567, Wall: 1_780_000_000_000},
	}
}

func receivers(qos byte, to ...durable.SessionNumber) (r []durable.Receiver) {
	for _, n := range to {
		r = append(r, durable.Receiver{Session: n, QoS: 1})
		r[len(r)-1].QoS = 1
		if qos == 2 {
			r[len(r)-1].QoS = 2
		}
	}
	return r
}

func texts(entries []durable.Entry) (t []string) {
	for _, e := range entries {
		t = append(t, string(e.Message.Payload))
	}
	return t
}

func testOptions() Options {
	return Options{MaxBytes: 64 << 20, NoSync: true, Clock: testClock("boot-a", 1000)}
}

func testClock(id string, millis uint64) *clock.Clock {
	return clock.NewFrom(clock.Source{
		BootID: id,
		Millis: func() uint64 { return millis },
		Wall:   func() (time.Time, bool) { return time.UnixMilli(1_780_000_000_000), true },
	})
}

func newStore(t testing.TB) *bench {
	t.Helper()
	return start(t, filepath.Join(t.TempDir(), "sessions.db"), testOptions())
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAcknowledgedMessagesSurviveTheProcess(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	b.add("both", 1, 2)
	b.add("second", 2)
	b = b.crash()
	equal(t, "queue 1", texts(b.read(1, 0, 10, 1<<20).Entries), []string{"both"})
	equal(t, "queue 2", texts(b.read(2, 0, 10, 1<<20).Entries), []string{"both", "second"})
}

func TestAnEntryIsWhatWasAppended(t *testing.T) {
	b := newStore(t)
	b.put(7)
	b.put(9)
	m := &message.Message{
		Topic: "a/b", Payload: []byte{0, 1, 2}, Properties: []byte{0x01, 1}, QoS: 2, Retain: true, HasExpiry: true, Expiry: 3600,
		Received: message.Stamp{Boot: 1, Millis: 5, Wall: 1_780_000_000_000}, Publisher: "p", Source: "cloud",
	}
	c := b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: m, Receivers: []durable.Receiver{
			{Session: 9, QoS: 1, Retain: true, SubscriptionIDs: []uint32{3, 268_435_455}},
			{Session: 7, QoS: 2, Share: "$share/g/a/+"},
		}}, k)
	})
	b = b.crash()
	equal(t, "entry of 9", b.read(9, 0, 1, 1).Entries, []durable.Entry{{Seq: c.Seq, Message: m, QoS: 1, Retain: true, SubscriptionIDs: []uint32{3, 268_435_455}}})
	equal(t, "entry of 7", b.read(7, 0, 1, 1).Entries, []durable.Entry{{Seq: c.Seq, Message: m, QoS: 2, Share: "$share/g/a/+"}})
}

func TestASessionRecordIsWhatWasPut(t *testing.T) {
	b := newStore(t)
	full := durable.Session{
		Number: 5, ClientID: "device-17", Identity: "plant", Version: 5, Expiry: 0xFFFFFFFF, Connected: true,
		Left: message.Stamp{Boot: 2, Millis: 77, Wall: 1_780_000_000_000},
		Will: &durable.Will{Delay: 30, Message: note("gone")},
		Subscriptions: []durable.Subscription{
			{Filter: "a/#", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, ID: 268_435_455},
			{Filter: "+", QoS: 0},
		},
	}
	b.commit(func(k durable.Token) { b.PutSession(&durable.Session{Number: 5, ClientID: "older"}, k) })
	b.commit(func(k durable.Token) { b.PutSession(&full, k) })
	bare := durable.Session{Number: 6, Version: 4}
	b.commit(func(k durable.Token) { b.PutSession(&bare, k) })
	var got []durable.Session
	for _, r := range b.crash().Sessions() {
		got = append(got, r.Session)
	}
	equal(t, "sessions", got, []durable.Session{full, bare})
}

func TestNumbersAreNeverReused(t *testing.T) {
	b := newStore(t)
	n := b.NextSession()
	b.put(n)
	s := b.add("x", n)
	b.Done(n, s, durable.Delivered)
	b.commit(func(k durable.Token) { b.EndSession(n, k) })
	b = b.crash()
	if got := b.NextSession(); got <= n {
		t.Errorf("session number %d again, after %d", got, n)
	}
	b.put(9)
	if got := b.add("y", 9); got <= s {
		t.Errorf("message number %d again, after %d", got, s)
	}
}

func TestDoneBeforeTheCommitIsNotWritten(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	k1, k2 := b.next(), b.next()
	s1 := b.Append(durable.Append{Message: note("all done"), Receivers: receivers(1, 1, 2)}, k1)
	s2 := b.Append(durable.Append{Message: note("one left"), Receivers: receivers(1, 1, 2)}, k2)
	b.Done(1, s1, durable.Delivered)
	b.Done(2, s1, durable.Delivered)
	b.Done(1, s2, durable.Delivered)
	b.Flush()
	if c := b.a.wait(t, k1); c.Err != nil || c.Seq != s1 {
		t.Errorf("got %+v", c)
	}
	b.a.wait(t, k2)
	b = b.crash()
	if got := b.records(); !slices.Equal(got, []durable.Seq{s2}) {
		t.Errorf("records %v are on disk, want %v", got, []durable.Seq{s2})
	}
	equal(t, "queue 1", texts(b.read(1, 0, 10, 1<<20).Entries), []string(nil))
	equal(t, "queue 2", texts(b.read(2, 0, 10, 1<<20).Entries), []string{"one left"})
	l := b.Ledger()
	if l.Accepted != 4 || l.Left[durable.Delivered] != 3 || l.Pending != 1 {
		t.Errorf("got ledger %+v", l)
	}
}

// records returns what is in the messages bucket.
func (b *bench) records() (seqs []durable.Seq) {
	b.t.Helper()
	err := b.file.View(func(tx *boltTx) error {
		return tx.Bucket(bucketMessages).ForEach(func(k, v []byte) error {
			n := durable.Seq(0)
			for _, c := range k {
				n = n<<8 | durable.Seq(c)
			}
			seqs = append(seqs, n)
			return nil
		})
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return seqs
}

func TestAcknowledgementsAreSavedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStore(t)
		b.put(1)
		s := b.add("x", 1)
		b.Done(1, s, durable.Delivered)
		b.Flush()
		time.Sleep(DefaultSaveAfter - time.Millisecond)
		synctest.Wait()
		if got := b.crash().Sessions()[0]; got.Pending != 1 {
			t.Errorf("a lone acknowledgement caused a commit at once: %+v", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := b.crash().Sessions()[0]; got.Pending != 0 || got.Floor != s {
			t.Errorf("got %+v, want nothing pending", got)
		}
	})
}

func TestARetainedMessageNobodyWaitsForIsSavedWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStore(t)
		b.put(1)
		for i := range 1000 {
			b.Append(durable.Append{Message: &message.Message{Topic: "lazy", Payload: fmt.Append(nil, i)}, Retained: true, Lazy: true}, 0)
			b.Flush()
		}
		time.Sleep(lazyDelay - time.Millisecond)
		synctest.Wait()
		if got := len(slices.Collect(b.crash().Retained())); got != 0 {
			t.Error("saved early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		got := slices.Collect(b.crash().Retained())
		if len(got) != 1 || string(got[0].Payload) != "999" {
			t.Errorf("got %d messages, want the last one", len(got))
		}
	})
}

func TestAnEndedSessionLeavesNothing(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	b.add("x", 1, 2)
	b.add("y", 1)
	b.commit(func(k durable.Token) { b.EndSession(1, k) })
	if r := b.read(1, 0, 10, 1<<20); len(r.Entries) != 0 || r.More || r.Err != nil {
		t.Errorf("read %+v of an ended session", r)
	}
	b = b.crash()
	if got := b.Sessions(); len(got) != 1 || got[0].Session.Number != 2 || got[0].Pending != 1 {
		t.Errorf("got sessions %+v, want 2 only", got)
	}
	l := b.Ledger()
	if l.Accepted != 3 || l.Left[durable.DroppedEnded] != 2 || l.Pending != 1 {
		t.Errorf("got ledger %+v", l)
	}
}

func TestRetainedMessagesAreReplacedAndRemoved(t *testing.T) {
	b := newStore(t)
	long := string(slices.Repeat([]byte("x/"), 30_000))
	retain := func(topic, payload string) func(durable.Token) {
		return func(k durable.Token) {
			b.Append(durable.Append{Message: &message.Message{Topic: topic, Payload: []byte(payload), Retain: true}, Retained: true}, k)
		}
	}
	for _, op := range []func(durable.Token){
		retain("a", "1"), retain("b", "1"), retain("a", "2"), retain("c", "1"), retain("c", ""), retain(long, "1"), retain(long, "2"),
	} {
		if c := b.commit(op); c.Err != nil {
			t.Fatal(c.Err)
		}
	}
	got := map[string]string{}
	for m := range b.crash().Retained() {
		got[m.Topic] = string(m.Payload)
	}
	equal(t, "retained", got, map[string]string{"a": "2", "b": "1", long: "2"})
}

func TestTheBootIsSaved(t *testing.T) {
	b := newStore(t)
	b.put(1)
	path := copyFile(t, b.path)
	o := testOptions()
	o.Clock = testClock("boot-b", 10)
	b = start(t, path, o)
	boots := b.History().Boots()
	if len(boots) != 2 || boots[0].ID != "boot-a" || boots[0].LastMillis != 1000 || boots[1].Number != 2 {
		t.Errorf("got boots %+v", boots)
	}
}

func TestOperationsBeforeStartAreAnsweredAfterIt(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "sessions.db"), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	a := newAnswers()
	s.PutSession(&durable.Session{Number: s.NextSession()}, 1)
	s.Append(durable.Append{Message: note("early"), Receivers: receivers(1, 1)}, 2)
	s.Read(1, 0, 10, 1<<20, 3)
	s.Flush()
	s.Start(a)
	a.wait(t, 1)
	a.wait(t, 2)
	equal(t, "queue", texts(a.arrived(t, 3).Entries), []string{"early"})
}

func TestCloseSavesEverything(t *testing.T) {
	b := newStore(t)
	b.put(1)
	s := b.add("x", 1)
	b.add("y", 1)
	b.Done(1, s, durable.Delivered)
	b.Append(durable.Append{Message: &message.Message{Topic: "lazy", Payload: []byte("1")}, Retained: true, Lazy: true}, 0)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	b = start(t, b.path, b.opts)
	if !b.WasClean() {
		t.Error("not marked as clean")
	}
	r := b.Sessions()[0]
	if r.Pending != 1 || r.Floor != s || r.Bytes != int64(len("plant/1/temperature")+1) {
		t.Errorf("got %+v", r)
	}
	if got := slices.Collect(b.Retained()); len(got) != 1 || got[0].Topic != "lazy" {
		t.Errorf("got %d retained messages", len(got))
	}
}

func TestTheOldestAreDroppedWithTheCommitOfWhatTookTheirPlace(t *testing.T) {
	b := newStore(t)
	b.put(1)
	var all []durable.Seq
	for i := range 5 {
		all = append(all, b.add(fmt.Sprint(i), 1))
	}
	if k, last := b.DropOldest(1, all[1], 4, 0); k != 0 || last != 0 {
		t.Fatalf("dropped %d messages up to %d, though there are but three behind the second", k, last)
	}
	if k, last := b.DropOldest(1, all[1], 2, 0); k != 2 || last != all[3] {
		t.Fatalf("dropped %d messages up to %d, want 2 up to %d", k, last, all[3])
	}
	b.add("new", 1)
	again := b.crash()
	r := again.Sessions()[0]
	l, _ := again.LedgerOf(1)
	if r.Pending != 4 || l.Left[durable.DroppedFull] != 2 || l.Accepted != 6 || l.Pending != 4 {
		t.Errorf("after a crash: %+v, %+v", r, l)
	}
	if messages, bytes := again.Queued(1); messages != 4 || bytes != r.Bytes {
		t.Errorf("%d messages of %d bytes are queued, want 4 of %d", messages, bytes, r.Bytes)
	}
	equal(t, "queue", texts(again.read(1, 0, 10, 1<<20).Entries), []string{"0", "1", "4", "new"})
}

func TestAMovedMessageIsInOneQueue(t *testing.T) {
	b := newStore(t)
	b.put(1)
	b.put(2)
	b.add("other", 1)
	c := b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: note("x"), Receivers: []durable.Receiver{{Session: 1, QoS: 1, Share: "$share/g/t"}}}, k)
	})
	b.add("last", 1, 2)
	before := b.crash()
	if r := before.Sessions(); r[0].Shared != 1 || r[0].Pending != 3 || r[1].Shared != 0 || r[1].Pending != 1 {
		t.Errorf("restored %+v before the message was moved", r)
	}
	// An ended session gets nothing, and then the message stays.
	b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: note("x"), From: 1, FromSeq: c.Seq, Receivers: receivers(1, 9)}, k)
	})
	equal(t, "queue 1", texts(b.read(1, 0, 10, 1<<20).Entries), []string{"other", "x", "last"})
	b.commit(func(k durable.Token) {
		b.Append(durable.Append{Message: note("x"), From: 1, FromSeq: c.Seq, Receivers: []durable.Receiver{{Session: 2, QoS: 1, Share: "$share/g/t"}}}, k)
	})
	for _, b := range []*bench{b, b.crash()} {
		equal(t, "queue 1", texts(b.read(1, 0, 10, 1<<20).Entries), []string{"other", "last"})
		equal(t, "queue 2", texts(b.read(2, 0, 10, 1<<20).Entries), []string{"last", "x"})
		l, _ := b.LedgerOf(1)
		if l.Accepted != 3 || l.Left[durable.Moved] != 1 || l.Pending != 2 {
			t.Errorf("got ledger %+v of the queue that it has left", l)
		}
	}
}

func TestABootWhoseTimeComesToBeKnownIsSavedWithTheNextCommit(t *testing.T) {
	var synced atomic.Bool
	var millis atomic.Uint64
	o := testOptions()
	o.Clock = clock.NewFrom(clock.Source{
		BootID: "boot-a",
		Millis: func() uint64 { return millis.Add(1) },
		Wall:   func() (time.Time, bool) { return time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), synced.Load() },
	})
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	b.put(1)
	saved := func() bool {
		o := testOptions()
		o.Clock = testClock("boot-b", 10)
		s, err := Open(copyFile(t, b.path), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		return s.History().Boots()[0].Synced
	}
	if saved() {
		t.Error("nobody has vouched for the wall clock")
	}
	synced.Store(true)
	b.put(2)
	if !saved() {
		t.Error("a crash would forget that the wall clock was synchronised")
	}
}
