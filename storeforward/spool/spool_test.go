package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
)

// bench is a spool with the calls that tests make again and again.
type bench struct {
	*Spool
	t    *testing.T
	path string
	o    Options

	woken chan struct{} // one value: Wake was called
}

func open(t *testing.T, path string, o Options) *bench {
	t.Helper()
	o.NoSync = true // the tests crash the process, not the machine
	woken := make(chan struct{}, 1)
	o.Wake = func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{s, t, path, o, woken}
	t.Cleanup(func() { s.Close(context.Background()) })
	return b
}

// crash opens a copy of the file as it is now: what was not committed is gone.
func (b *bench) crash() *bench {
	b.t.Helper()
	data, err := os.ReadFile(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(b.t.TempDir(), "uplink-a.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return open(b.t, path, b.o)
}

func (b *bench) restart() *bench {
	b.t.Helper()
	if err := b.Close(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return open(b.t, b.path, b.o)
}

func msg(i int) *message.Message {
	return &message.Message{Topic: fmt.Sprintf("t/%d", i%3), Payload: fmt.Appendf(nil, "payload %d", i), QoS: 2}
}

// add appends messages and waits for their answers.
func (b *bench) add(qos byte, source durable.Seq, messages ...*message.Message) []error {
	b.t.Helper()
	errs := make([]error, len(messages))
	var wg sync.WaitGroup
	for i, m := range messages {
		wg.Add(1)
		b.Append(m, qos, source, func(err error) { errs[i] = err; wg.Done() })
		if source != 0 {
			source++
		}
	}
	b.Flush()
	wg.Wait()
	return errs
}

func (b *bench) mustAdd(qos byte, from, to int) {
	b.t.Helper()
	for i := from; i < to; i++ {
		if err := b.add(qos, 0, msg(i))[0]; err != nil {
			b.t.Fatal(err)
		}
	}
}

// next reads up to n messages behind after, and waits for what must be written first.
func (b *bench) next(after Seq, n int) (all []Record) {
	b.t.Helper()
	for len(all) < n {
		records, err := b.Next(after, n-len(all), 1<<20)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(records) > 0 {
			all = append(all, records...)
			after = all[len(all)-1].Seq
			continue
		}
		b.mu.Lock()
		hungry := b.hungry
		b.mu.Unlock()
		if hungry {
			<-b.woken
			continue
		}
		again, err := b.Next(after, 1, 1<<20) // the commit may have been between
		if err != nil {
			b.t.Fatal(err)
		}
		if len(again) == 0 {
			break
		}
		all = append(all, again...)
		after = again[0].Seq
	}
	return all
}

// received and forget return when the note is on disk.
func (b *bench) received(s Seq) {
	done := make(chan struct{})
	b.Received(s, func() { close(done) })
	<-done
}

func (b *bench) forget() {
	done := make(chan struct{})
	b.Forget(func() { close(done) })
	<-done
}

// adds checks the identity of the ledger, in memory and on disk.
func (b *bench) adds() {
	b.t.Helper()
	n, size, l, err := b.CountPending()
	if err != nil {
		b.t.Fatal(err)
	}
	if n != l.Pending || size != l.PendingBytes {
		b.t.Errorf("pending %d, %d bytes; walking the file finds %d, %d", l.Pending, l.PendingBytes, n, size)
	}
	for _, l := range []Ledger{l, b.Ledger()} {
		if l.Accepted != l.Delivered()+l.Expired()+l.Dropped()+l.Pending {
			b.t.Errorf("the ledger does not add up: %+v", l)
		}
	}
}

func seqs(records []Record) (s []Seq) {
	for _, r := range records {
		s = append(s, r.Seq)
	}
	return s
}

func TestAFileThatWasJustMadeHasNothingPending(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	if n, size, l, err := b.CountPending(); n != 0 || size != 0 || l != (Ledger{}) || err != nil {
		t.Errorf("%d messages, %d bytes, %+v, %v", n, size, l, err)
	}
}

func TestMessagesComeBackInOrderAfterARestart(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.mustAdd(1, 0, 10)
	b = b.restart()
	r := b.next(0, 4)
	if got := seqs(r); !slices.Equal(got, []Seq{1, 2, 3, 4}) {
		t.Fatalf("got %v", got)
	}
	if string(r[3].Message.Payload) != "payload 3" || r[3].QoS != 1 || r[3].Dup {
		t.Errorf("got %+v", r[3])
	}
	b.Done(1, Delivered)
	b.Done(3, Refused)
	b = b.restart()
	if got := seqs(b.next(b.Floor(), 3)); !slices.Equal(got, []Seq{2, 4, 5}) {
		t.Errorf("after a restart: %v", got)
	}
	if l := b.Ledger(); l.Accepted != 10 || l.Delivered() != 1 || l.Out[Refused] != 1 || l.Pending != 8 {
		t.Errorf("%+v", l)
	}
	b.adds()
}

func TestWhatMayHaveBeenSentIsMarked(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.mustAdd(1, 0, 6)
	b.next(0, 3)
	dup := func(b *bench) (s []Seq) {
		for _, r := range b.next(0, 10) {
			if r.Dup {
				s = append(s, r.Seq)
			}
		}
		return s
	}
	if got := dup(b.crash()); len(got) != 6 {
		t.Errorf("after a crash nobody knows what was sent: marked %v", got)
	}
	b = b.restart()
	if got := dup(b.crash()); !slices.Equal(got, []Seq{1, 2, 3}) {
		t.Errorf("after a clean stop it is known: marked %v", got)
	}
	b.next(0, 4)
	if got := dup(b.crash()); len(got) != 6 {
		t.Errorf("a crash after a start that sent something: marked %v", got)
	}
}

func TestASourceIsTakenOverOnce(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	// Also while the first is on its way to disk.
	var wg sync.WaitGroup
	wg.Add(2)
	for range 2 {
		b.Append(msg(1), 2, 7, func(err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
	}
	b.Flush()
	wg.Wait()
	again := func(b *bench) {
		t.Helper()
		if err := b.add(2, 5, msg(0), msg(0), msg(1), msg(2)); errors.Join(err...) != nil {
			t.Fatal(err)
		}
		if got := b.next(0, 10); len(got) != 2 || string(got[1].Message.Payload) != "payload 2" {
			t.Errorf("got %d messages, want 7 and 8", len(got))
		}
		b.adds()
	}
	again(b.crash())
	again(b)
	again(b.restart())
}

func TestReceivedAndForgetAreOnDiskWhenDone(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.mustAdd(2, 0, 4)
	b.next(0, 4)
	received := func(b *bench) (s []Seq) {
		for _, r := range b.next(b.Floor(), 10) {
			if r.Received {
				s = append(s, r.Seq)
			}
		}
		return s
	}
	b.received(1)
	b.received(3)
	if got := received(b.crash()); !slices.Equal(got, []Seq{1, 3}) {
		t.Errorf("received %v, want 1 and 3", got)
	}
	b.forget()
	if got := received(b.crash()); got != nil {
		t.Errorf("received %v, want none", got)
	}
	b.received(2)
	b.received(3)
	b.Done(3, Delivered)
	if got := received(b.restart()); !slices.Equal(got, []Seq{2}) {
		t.Errorf("received %v, want 2: 3 is done", got)
	}
}

func TestAcknowledgementsAreSavedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
		b.mustAdd(1, 0, 3)
		b.next(0, 3)
		b.Done(1, Delivered)
		synctest.Wait()
		if got := seqs(b.crash().next(0, 9)); len(got) != 3 {
			t.Errorf("saved at once: %v", got)
		}
		time.Sleep(DefaultSaveAfter)
		synctest.Wait()
		if got := seqs(b.crash().next(0, 9)); !slices.Equal(got, []Seq{2, 3}) {
			t.Errorf("after a second: %v", got)
		}
		b.Done(2, Delivered)
		b.mustAdd(1, 3, 4)
		if got := seqs(b.crash().next(0, 9)); !slices.Equal(got, []Seq{3, 4}) {
			t.Errorf("with the next commit: %v", got)
		}
		b.Close(t.Context())
	})
}

func TestManyAcknowledgementsAreSavedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
		messages := make([]*message.Message, saveCount)
		for i := range messages {
			messages[i] = msg(i)
		}
		b.add(1, 0, messages...)
		for _, r := range b.next(0, saveCount) {
			b.Done(r.Seq, Delivered)
		}
		synctest.Wait()
		if n, _, _, _ := b.CountPending(); n != 0 {
			t.Errorf("%d acknowledgements are not on disk", n)
		}
		if n := b.records(); n != 0 {
			t.Errorf("%d records are left in the file", n)
		}
		b.Close(t.Context())
	})
}

// records counts the records in the file, done or not.
func (b *bench) records() (n int) {
	b.file.View(func(tx *bbolt.Tx) error {
		n = tx.Bucket(bucketMessages).Stats().KeyN
		return nil
	})
	return n
}

func TestWhenFull(t *testing.T) {
	const size = 100
	m := &message.Message{Topic: "t", Payload: make([]byte, size), QoS: 1}
	record := len(appendRecord(nil, 1, m, 1))
	// Five fit; a sixth is charged with its bound as long as it is not stored.
	limit := int64(5*(record+overhead) + maxRecord(m) - record)
	tests := []struct {
		policy Policy
		want   string // payloads that are left
		full   uint64
		err    error
	}{
		{DropOldest, "0 1 6 7 8", 4, nil}, // 0 and 1 are in flight
		{DropNewest, "0 1 2 3 4", 4, nil},
		{Reject, "0 1 2 3 4", 0, ErrFull},
	}
	for _, tt := range tests {
		t.Run(tt.policy.String(), func(t *testing.T) {
			b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{MaxBytes: limit, WhenFull: tt.policy})
			var last error
			for i := range 9 {
				payload := make([]byte, size)
				payload[0] = '0' + byte(i)
				last = b.add(1, 0, &message.Message{Topic: "t", Payload: payload, QoS: 1})[0]
				if i == 4 {
					b.next(0, 2)
				}
			}
			if !errors.Is(last, tt.err) {
				t.Errorf("the last append: %v; want %v", last, tt.err)
			}
			b.adds()
			l := b.Ledger()
			if l.Out[Full] != tt.full {
				t.Errorf("dropped %d, want %d", l.Out[Full], tt.full)
			}
			var left strings.Builder
			for _, r := range b.crash().next(0, 20) {
				left.WriteString(" " + string(r.Message.Payload[:1]))
			}
			if left.String() != " "+tt.want {
				t.Errorf("left are%s; want %s", left.String(), tt.want)
			}
			// What gave way leaves no hole that stops the cursor.
			for _, r := range b.next(0, 20) {
				if r.Seq > 2 {
					b.Done(r.Seq, Delivered)
				}
			}
			b.Done(1, Delivered)
			b.Done(2, Delivered)
			if l := b.Ledger(); l.Pending != 0 || b.Floor() != b.st.last {
				t.Errorf("pending %d, floor %d of %d", l.Pending, b.Floor(), b.st.last)
			}
		})
	}
}

func TestAMessageLargerThanTheSpoolIsCounted(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{MaxBytes: 1000})
	b.mustAdd(1, 0, 2)
	if err := b.add(1, 0, &message.Message{Topic: "t", Payload: make([]byte, 2000)})[0]; err != nil {
		t.Error(err)
	}
	if l := b.Ledger(); l.Out[TooLarge] != 1 || l.Pending != 2 {
		t.Errorf("%+v", l)
	}
	b.adds()
}

func TestInFlightDoesNotGiveWayAfterACrash(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{MaxBytes: 2000})
	b.mustAdd(2, 0, 10)
	b.next(0, 4)
	b = b.crash()
	b.mustAdd(2, 10, 100)
	if got := seqs(b.next(0, 4)); !slices.Equal(got, []Seq{1, 2, 3, 4}) {
		t.Errorf("first are %v: the remote end may know 1 to 4 by their packet identifiers", got)
	}
	b.adds()
}

// clock is at a number of seconds after boot 1.
type clock struct{ seconds *int }

func (c clock) Elapsed(_ uint32, millis uint64) time.Duration {
	return time.Duration(*c.seconds)*time.Second - time.Duration(millis)*time.Millisecond
}

func TestExpiredMessagesAreCountedWhenTheyAreRead(t *testing.T) {
	now := 0
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{Clock: clock{&now}})
	for i := range 6 {
		m := msg(i)
		m.HasExpiry, m.Expiry, m.Received = i%2 == 0, uint32(10+i), message.Stamp{Boot: 1}
		b.add(1, 0, m)
	}
	now = 12
	if got := seqs(b.next(0, 1)); !slices.Equal(got, []Seq{2}) {
		t.Errorf("got %v", got)
	}
	if got := seqs(b.next(2, 10)); !slices.Equal(got, []Seq{4, 5, 6}) {
		t.Errorf("got %v", got)
	}
	// What was given back may still expire; what was sent may not.
	b.GiveBack(4)
	now = 14
	if got := seqs(b.next(4, 10)); !slices.Equal(got, []Seq{6}) {
		t.Errorf("got %v", got)
	}
	if l := b.Ledger(); l.Expired() != 3 {
		t.Errorf("%+v", l)
	}
	b.restart().adds()
}

func TestADamagedRecordIsCountedAndPassed(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.mustAdd(1, 0, 6)
	err := b.file.Update(func(tx *bbolt.Tx) error {
		messages := tx.Bucket(bucketMessages)
		value := slices.Clone(messages.Get(key(2)))
		value[5] ^= 1
		return errors.Join(messages.Put(key(2), value), messages.Delete(key(4)), messages.Delete(key(5)))
	})
	if err != nil {
		t.Fatal(err)
	}
	got := b.next(0, 10)
	if !slices.Equal(seqs(got), []Seq{1, 3, 6}) {
		t.Fatalf("got %v", seqs(got))
	}
	for _, r := range got {
		b.Done(r.Seq, Delivered)
	}
	if l := b.Ledger(); l.Out[Damaged] != 3 || l.Pending != 0 || b.Floor() != 6 {
		t.Errorf("floor %d, %+v", b.Floor(), l)
	}
}

func TestADamagedCursorLosesNoMessage(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.mustAdd(1, 0, 5)
	b.next(0, 2)
	b.Done(1, Delivered)
	b.mustAdd(1, 5, 6)
	if err := b.file.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Put(keyCursor, []byte{1, 2, 3}) }); err != nil {
		t.Fatal(err)
	}
	b = b.crash()
	if got := seqs(b.next(b.Floor(), 10)); !slices.Equal(got, []Seq{2, 3, 4, 5, 6}) {
		t.Errorf("got %v", got)
	}
	b.mustAdd(1, 6, 7)
	b.adds()
}

func TestAppendAfterCloseFails(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.Close(t.Context())
	if err := b.add(1, 0, msg(0))[0]; err == nil {
		t.Error("accepted")
	}
}

func TestAnErrorOfTheDiskReachesTheCaller(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.mustAdd(1, 0, 2)
	b.next(0, 1)
	if err := b.file.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketState) }); err != nil {
		t.Fatal(err)
	}
	if err := b.add(1, 0, msg(2))[0]; err == nil {
		t.Fatal("no error")
	}
	if l := b.Ledger(); l.Accepted != 2 || l.Pending != 2 {
		t.Errorf("what failed was counted: %+v", l)
	}
}

func TestWakeIsCalledForNewMessages(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	b.mustAdd(1, 0, 1)
	<-b.woken
}

func TestNothingIsHandedOutBeforeItIsWrittenHowFar(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{})
	messages := make([]*message.Message, 500)
	for i := range messages {
		messages[i] = &message.Message{Topic: "t", Payload: make([]byte, 50_000)}
	}
	b.add(2, 0, messages...)
	b = b.restart()
	if r, err := b.Next(0, 10, 1<<20); len(r) != 0 || err != nil {
		t.Errorf("got %d records, %v before anything was written", len(r), err)
	}
	// A crash in the middle of a drain: what was handed out is marked, far less than everything.
	sent := b.next(0, 200)
	c := b.crash()
	marked := 0
	for _, r := range c.next(0, 500) {
		if r.Dup {
			marked++
		}
	}
	if marked < len(sent) || marked > 400 {
		t.Errorf("%d were handed out, %d are marked", len(sent), marked)
	}
}

func TestNothingIsTakenOverBehindAGap(t *testing.T) {
	one := int64(maxRecord(msg(0)) + overhead)
	b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{MaxBytes: 2 * one, WhenFull: Reject})
	if err := b.add(2, 1, msg(1), msg(2), msg(3)); err[0] != nil || err[1] != nil || !errors.Is(err[2], ErrFull) {
		t.Fatalf("got %v, want the third refused", err)
	}
	for _, r := range b.next(0, 2) {
		b.Done(r.Seq, Delivered)
	}
	if err := b.add(2, 4, msg(4))[0]; !errors.Is(err, ErrGap) {
		t.Errorf("4 before 3: %v, want ErrGap", err)
	}
	if err := b.add(2, 3, msg(3), msg(4)); errors.Join(err...) != nil {
		t.Errorf("3 and 4 in order: %v", err)
	}
	if got := b.next(2, 10); len(got) != 2 || string(got[0].Message.Payload) != "payload 3" {
		t.Errorf("got %d messages, want 3 and 4", len(got))
	}
}

func TestAFullSpoolAdmitsNothingUnderReject(t *testing.T) {
	for policy, want := range map[Policy]bool{DropOldest: true, DropNewest: true, Reject: false} {
		t.Run(policy.String(), func(t *testing.T) {
			b := open(t, filepath.Join(t.TempDir(), "uplink-a.db"), Options{MaxBytes: 8 << 10, WhenFull: policy})
			if !b.Admits(100) {
				t.Error("an empty spool admits nothing")
			}
			for i := range 300 {
				b.add(2, 0, msg(i))
			}
			if got := b.Admits(1000); got != want {
				t.Errorf("a full spool admits: %v, want %v", got, want)
			}
		})
	}
}
