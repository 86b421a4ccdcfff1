package sessionstore

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dunlin/core/durable"
	"dunlin/storeforward/boltfile"
)

// patient is a store in which messages linger until something makes them due.
func patient(t testing.TB) *bench {
	t.Helper()
	o := testOptions()
	o.Linger = time.Hour
	return start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
}

// lingers appends a message that may linger.
func (b *bench) linger(publisher, text string, to ...durable.SessionNumber) (durable.Seq, durable.Token) {
	m := note(text)
	m.Publisher = publisher
	k := b.next()
	return b.Append(durable.Append{Message: m, Receivers: receivers(1, to...), Linger: true}, k), k
}

// version is how often the file was committed to.
func (b *bench) version() (id int) {
	b.t.Helper()
	if err := b.file.View(func(tx *boltTx) error {
		id = tx.ID()
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	return id
}

func TestWhatAllReceiversAcknowledgeInTimeIsNeverWritten(t *testing.T) {
	b := patient(t)
	b.put(1)
	b.put(2)
	before := b.version()
	for i := range 5000 {
		s, k := b.linger("p", fmt.Sprint(i), 1, 2)
		b.Done(1, s, durable.Delivered)
		b.Flush()
		b.Done(2, s, durable.Delivered)
		b.Flush()
		if c := b.a.wait(t, k); c.Err != nil || c.Seq != s {
			t.Fatalf("got %+v", c)
		}
	}
	if got := b.version(); got != before {
		t.Errorf("the file was committed to %d times", got-before)
	}
	if got := len(b.sweeper.blocks); got > 1 {
		t.Errorf("the sweeper keeps %d blocks for messages that were never written", got)
	}
	equal(t, "ledger", b.Ledger(), Ledger{Counts: Counts{Accepted: 10000, Left: [outcomes]uint64{durable.Delivered: 10000}}})
}

// What was acknowledged and is not saved comes again after a crash. It must not come behind a later message
// that was never written: its receiver would be left with the older value.
func TestWhatIsNeverWrittenWaitsUntilEarlierAcknowledgementsAreSaved(t *testing.T) {
	b := patient(t)
	b.put(1)
	old := b.add("old", 1)
	b.Done(1, old, durable.Delivered)
	cancelled := func(text string) {
		t.Helper()
		s, k := b.linger("p", text, 1)
		b.Done(1, s, durable.Delivered)
		b.Flush()
		if c := b.a.wait(t, k); c.Err != nil || c.Seq != s {
			t.Fatalf("got %+v", c)
		}
	}
	cancelled("new")
	equal(t, "queue after a crash", texts(b.crash().read(1, 0, 10, 1<<20).Entries), []string(nil))
	before := b.version()
	cancelled("newer")
	if got := b.version(); got != before {
		t.Errorf("the file was committed to %d times, though nothing was behind", got-before)
	}
}

func TestWhatLingersTooLongIsWrittenForWhoIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions()
		o.Linger = 20 * time.Millisecond
		b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
		b.put(1)
		b.put(2)
		first, k1 := b.linger("p", "first", 1, 2)
		b.Done(1, first, durable.Delivered)
		b.Flush()
		time.Sleep(10 * time.Millisecond)
		second, k2 := b.linger("q", "second", 1, 2)
		b.Flush()
		time.Sleep(9 * time.Millisecond)
		synctest.Wait()
		if got := b.records(); got != nil {
			t.Errorf("records %v after 19 ms", got)
		}
		time.Sleep(time.Millisecond)
		b.a.wait(t, k1)
		equal(t, "records after 20 ms", b.records(), []durable.Seq{first})
		b.Done(1, second, durable.Delivered)
		b.Done(2, second, durable.Delivered)
		b.Flush()
		b.a.wait(t, k2)
		c := b.crash()
		equal(t, "queue 1", texts(c.read(1, 0, 10, 1<<20).Entries), []string(nil))
		equal(t, "queue 2", texts(c.read(2, 0, 10, 1<<20).Entries), []string{"first"})
		if l := c.Ledger(); l.Accepted != l.Gone()+l.Pending || l.Left[durable.DroppedDamaged] != 0 {
			t.Errorf("ledger after the crash %+v", l)
		}
	})
}

func TestAMessageThatIsDueTakesEarlierOnesOfItsPublisherAlong(t *testing.T) {
	b := patient(t)
	b.put(1)
	b.put(2)
	s1, k1 := b.linger("p", "lingers", 1)
	_, other := b.linger("q", "of another", 1)
	k := b.next()
	m := note("due")
	m.Publisher = "p"
	s2 := b.Append(durable.Append{Message: m, Receivers: receivers(1, 1, 2)}, k)
	b.Flush()
	b.a.wait(t, k)
	b.a.wait(t, k1)
	equal(t, "records", b.records(), []durable.Seq{s1, s2})
	b.a.mu.Lock()
	if _, found := b.a.done[other]; found {
		t.Error("the message of another publisher was answered")
	}
	b.a.mu.Unlock()
	equal(t, "queue after a crash", texts(b.crash().read(1, 0, 10, 1<<20).Entries), []string{"lingers", "due"})
}

func TestAReadSeesWhatLingers(t *testing.T) {
	b := patient(t)
	b.put(1)
	b.linger("p", "one", 1)
	b.add("two", 1)
	b.linger("p", "three", 1)
	equal(t, "queue", texts(b.read(1, 0, 10, 1<<20).Entries), []string{"one", "two", "three"})
}

func TestWhatLingersIsWrittenByAStop(t *testing.T) {
	b := patient(t)
	b.put(1)
	_, k := b.linger("p", "one", 1)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := b.a.wait(t, k); c.Err != nil {
		t.Fatal(c.Err)
	}
	equal(t, "queue", texts(start(t, b.path, testOptions()).read(1, 0, 10, 1<<20).Entries), []string{"one"})
}

func TestAnEndedSessionIsNotWaitedFor(t *testing.T) {
	b := patient(t)
	b.put(1)
	b.put(2)
	s, k := b.linger("p", "one", 1, 2)
	b.EndSession(2, 0)
	b.Done(1, s, durable.Delivered)
	b.Flush()
	if c := b.a.wait(t, k); c.Err != nil {
		t.Fatal(c.Err)
	}
	equal(t, "ledger", b.Ledger(), Ledger{Counts: Counts{Accepted: 2, Left: [outcomes]uint64{durable.Delivered: 1, durable.DroppedEnded: 1}}})
}

func TestMoreThanMayLingerIsWrittenAtOnce(t *testing.T) {
	b := patient(t)
	b.put(1)
	for range maxLingering {
		b.linger("p", "x", 1)
	}
	_, k := b.linger("q", "y", 1)
	b.Flush()
	b.a.wait(t, k)
}

// A late record must not stay when everybody was done with it while it was being written.
func TestALateRecordIsSweptThoughItsNumberIsOld(t *testing.T) {
	b := patient(t)
	b.put(1)
	late, _ := b.linger("p", "late", 1)
	for i := range 3 * blockSize { // numbers that come behind it, and are gone before it is written
		s := b.add(fmt.Sprint(i), 1)
		b.Done(1, s, durable.Delivered)
	}
	b.settle()
	b.read(1, 0, 1, 1) // makes it due
	b.Done(1, late, durable.Delivered)
	b.settle()
	b.settle()
	for _, s := range b.records() {
		if s == late {
			t.Error("its record is still there")
		}
	}
}

// sent is a message of the random test.
type sentMessage struct {
	seq       durable.Seq
	token     durable.Token
	publisher string
	text      string
	open      []durable.SessionNumber // who is not done with it
}

// After a crash at any moment: what was answered is there for everybody who was not done with it; what
// was published before something that is there is there, too; the counts are right.
func TestACrashWithMessagesThatLinger(t *testing.T) {
	for seed := range uint64(*seeds) {
		lingerCrash(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func lingerCrash(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	o := testOptions()
	o.Linger = []time.Duration{time.Hour, time.Millisecond}[r.IntN(2)]
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	var sessions []durable.SessionNumber
	for n := range durable.SessionNumber(4) {
		b.put(n + 1)
		sessions = append(sessions, n+1)
	}
	var all []*sentMessage
	for range 100 + r.IntN(300) {
		switch x := r.IntN(100); {
		case x < 45:
			m := &sentMessage{publisher: fmt.Sprint("p", r.IntN(3)), text: fmt.Sprint(len(all))}
			for _, n := range sessions {
				if r.IntN(2) == 0 {
					m.open = append(m.open, n)
				}
			}
			text := note(m.text)
			text.Publisher = m.publisher
			m.token = b.next()
			m.seq = b.Append(durable.Append{Message: text, Receivers: receivers(1, m.open...), Linger: x < 35}, m.token)
			all = append(all, m)
		case x < 85 && len(all) > 0:
			m := all[max(0, len(all)-1-r.IntN(20))]
			if len(m.open) > 0 {
				i := r.IntN(len(m.open))
				b.Done(m.open[i], m.seq, durable.Delivered)
				m.open = slices.Delete(m.open, i, i+1)
			}
		case x < 87:
			n := sessions[r.IntN(len(sessions))]
			got := texts(b.read(n, 0, 1000, 1<<20).Entries)
			if diff := cmp.Diff(queueOf(all, n), got); diff != "" {
				t.Errorf("queue of session %d (-want +got):\n%s", n, diff)
				return
			}
		case x < 88 && len(sessions) > 2:
			n := sessions[0]
			sessions = sessions[1:]
			b.EndSession(n, 0)
			for _, m := range all {
				m.open = slices.DeleteFunc(m.open, func(o durable.SessionNumber) bool { return o == n })
			}
		case x < 95:
			b.Flush()
		}
	}
	b.Flush()
	b.a.mu.Lock()
	answered := make(map[durable.Token]bool)
	for k := range b.a.done {
		answered[k] = true
	}
	b.a.mu.Unlock()
	copied := filepath.Join(t.TempDir(), "sessions.db")
	if err := b.file.View(func(tx *boltTx) error { return tx.CopyFile(copied, 0o600) }); err != nil {
		t.Fatal(err)
	}
	checkCrash(t, start(t, copied, testOptions()), all, sessions, answered)
}

// queueOf returns what session n is not done with.
func queueOf(all []*sentMessage, n durable.SessionNumber) (q []string) {
	for _, m := range all {
		if slices.Contains(m.open, n) {
			q = append(q, m.text)
		}
	}
	return q
}

func checkCrash(t *testing.T, c *bench, all []*sentMessage, sessions []durable.SessionNumber, answered map[durable.Token]bool) {
	t.Helper()
	queues := make(map[durable.SessionNumber][]string)
	for _, n := range sessions {
		queues[n] = texts(c.read(n, 0, 1000, 1<<20).Entries)
		if l, _ := c.LedgerOf(n); l.Accepted != l.Gone()+l.Pending || l.Left[durable.DroppedDamaged] != 0 {
			t.Errorf("session %d: ledger %+v", n, l)
		}
	}
	written := make(map[string]durable.Seq) // by publisher: its last message on disk
	for _, m := range all {
		if slices.Contains(c.records(), m.seq) {
			written[m.publisher] = m.seq
		}
	}
	for _, m := range all {
		if !answered[m.token] && m.seq > written[m.publisher] {
			continue
		}
		for _, n := range m.open {
			if !slices.Contains(queues[n], m.text) {
				t.Errorf("message %s of %s is not in the queue of session %d; answered: %v", m.text, m.publisher, n, answered[m.token])
			}
		}
	}
}

func TestARelaxedMessageIsWrittenWithinSaveAfterAndASyncOneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions()
		o.SaveAfter = 3 * time.Second
		o.Budget = boltfile.NewBudget(boltfile.BudgetOptions{PerDay: 1, Burst: 1, MaxDelay: 10 * time.Second})
		b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
		b.put(1)
		time.Sleep(10 * time.Minute) // the first commit has used the budget up
		k := b.next()
		s := b.Append(durable.Append{Message: note("relaxed"), Receivers: receivers(1, 1), Relaxed: true}, k)
		b.Flush()
		time.Sleep(3*time.Second - time.Millisecond)
		synctest.Wait()
		if got := b.records(); got != nil {
			t.Errorf("records %v before 3 s", got)
		}
		time.Sleep(time.Millisecond)
		b.a.wait(t, k)
		equal(t, "records after 3 s", b.records(), []durable.Seq{s})
		k = b.next()
		at := time.Now()
		b.Append(durable.Append{Message: note("sync"), Receivers: receivers(1, 1), Sync: true}, k)
		b.Flush()
		b.a.wait(t, k)
		if late := time.Since(at); late != 0 {
			t.Errorf("a sync message waited for %v", late)
		}
		at = time.Now()
		b.add("batched", 1)
		if late := time.Since(at); late != 10*time.Second {
			t.Errorf("a batched message waited for %v, want 10 s", late)
		}
	})
}
