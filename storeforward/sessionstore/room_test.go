package sessionstore

import (
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
)

// until waits for something that becomes true after an answer.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	late := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-b.a.news:
		case <-time.After(10 * time.Millisecond):
		case <-late:
			b.t.Fatalf("%s: it does not come", what)
		}
	}
}

func large(size int) *message.Message {
	return &message.Message{Topic: "t", Payload: []byte(strings.Repeat("x", size)), QoS: 1}
}

// fillUp appends messages of 10 KB for session 1 until one is refused, and says how many there were.
func (b *bench) fillUp() (n int) {
	b.t.Helper()
	for ; n < 1000; n++ {
		k := b.next()
		b.Append(durable.Append{Message: large(10_000), Receivers: receivers(1, 1)}, k)
		b.Flush()
		if c := b.a.wait(b.t, k); c.Err != nil {
			if c.Err != ErrNoRoom {
				b.t.Fatalf("got %v, want ErrNoRoom", c.Err)
			}
			return n
		}
	}
	b.t.Fatal("it does not become full")
	return n
}

func TestAFullStoreRefusesMessagesAndNothingElse(t *testing.T) {
	o := testOptions()
	o.MaxBytes = 4 << 20
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	b.put(1)
	n := b.fillUp()
	if b.State() != durable.StoreFull {
		t.Fatalf("it is %v", b.State())
	}
	if used, limit := b.Used(); used > limit || n < 200 {
		t.Errorf("%d messages take %d bytes of %d", n, used, limit)
	}
	b.put(2) // a session
	k := b.next()
	b.Append(durable.Append{Message: &message.Message{Topic: "t"}, Retained: true}, k) // a removal
	b.Flush()
	if c := b.a.wait(t, k); c.Err != nil {
		t.Errorf("a retained message cannot be removed: %v", c.Err)
	}
	if p := b.Pressure(); p <= 0 {
		t.Fatalf("nothing is to be evicted")
	}
	dropped, last := b.Evict(1, 0, b.Pressure())
	if dropped == 0 || last == 0 || b.Pressure() != 0 {
		t.Errorf("%d were evicted, and %d bytes more are asked for before that is counted", dropped, b.Pressure())
	}
	b.Flush()
	b.until("it takes messages again", func() bool {
		if p := b.Pressure(); p > 0 {
			b.Evict(1, 0, p)
			b.Flush()
		}
		return b.State() == durable.Taking
	})
	b.add("again", 1)
	if l := b.Ledger(); l.Accepted != l.Gone()+l.Pending || l.Left[durable.DroppedFull] == 0 {
		t.Errorf("ledger %+v", l)
	}
}

func TestWhatIsTogetherIsRefusedWhole(t *testing.T) {
	o := testOptions()
	o.MaxBytes = 4 << 20
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	b.put(1)
	b.fillUp()
	k := b.next()
	b.Together(true)
	if seq := b.Append(durable.Append{Message: large(10_000), Receivers: receivers(1, 1), More: true}, k); seq != 0 {
		t.Error("the first message is taken")
	}
	b.Together(false)
	b.Flush()
	if c := b.a.wait(t, k); c.Err != ErrNoRoom {
		t.Errorf("got %v, want ErrNoRoom", c.Err)
	}
}

func TestAFullDiskLetsThingsBecomeFewer(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	o := testOptions()
	o.Available = func(string) (int64, error) { return free.Load(), nil }
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	b.put(1)
	first := b.add("first", 1)
	free.Store(0)
	b.Append(durable.Append{Message: large(9 << 20), Receivers: receivers(1, 1)}, b.next()) // more than is allocated
	b.Append(durable.Append{Message: note("lazy"), Retained: true, Lazy: true}, 0)
	k := b.next()
	b.Append(durable.Append{Message: note("with it"), Receivers: receivers(1, 1)}, k)
	b.Flush()
	if c := b.a.wait(t, k); c.Err == nil {
		t.Fatal("there was room")
	}
	if b.State() != durable.DiskFull {
		t.Fatalf("it is %v", b.State())
	}
	b.Done(1, first, durable.Delivered)
	b.put(2)
	k = b.next()
	b.Append(durable.Append{Message: note("no"), Receivers: receivers(1, 1)}, k)
	if c := b.a.wait(t, k); c.Err != ErrNoRoom { // at once
		t.Errorf("got %v", c.Err)
	}
	free.Store(1 << 30)
	b.until("it recovers by itself", func() bool { return b.State() == durable.Taking })
	b.add("after", 1)
	b = b.crash()
	if rs := b.Sessions(); len(rs) != 2 || rs[0].Pending != 1 {
		t.Errorf("restored %+v", rs)
	}
	for m := range b.Retained() { // within a minute: maybe not yet
		if string(m.Payload) != "lazy" {
			t.Errorf("retained %q", m.Payload)
		}
	}
	if l := b.Ledger(); l.Accepted != 2 || l.Left[durable.Delivered] != 1 {
		t.Errorf("ledger %+v", l)
	}
}

func TestWhatLingersNeedsNoRoom(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	o := testOptions()
	o.Linger = time.Second
	o.Available = func(string) (int64, error) { return free.Load(), nil }
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	b.put(1)
	free.Store(0)
	b.Append(durable.Append{Message: large(9 << 20), Receivers: receivers(1, 1)}, b.next())
	b.Flush()
	b.until("the disk is full", func() bool { return b.State() == durable.DiskFull })
	quick, slow := b.next(), b.next()
	s := b.Append(durable.Append{Message: note("quick"), Receivers: receivers(1, 1), Linger: true}, quick)
	b.Append(durable.Append{Message: note("slow"), Receivers: receivers(1, 1), Linger: true}, slow)
	b.Done(1, s, durable.Delivered)
	b.Flush()
	if c := b.a.wait(t, quick); c.Err != nil {
		t.Errorf("what was acknowledged in time: %v", c.Err)
	}
	if c := b.a.wait(t, slow); c.Err != ErrNoRoom {
		t.Errorf("what was not: %v", c.Err)
	}
	if n, _ := b.Queued(1); n != 0 {
		t.Errorf("%d are queued", n)
	}
	if l := b.Ledger(); l.Accepted != l.Gone()+l.Pending {
		t.Errorf("ledger %+v", l)
	}
}

// A store that a few large messages fill gets rid of each one, not of the hundreds whose numbers are near.
func TestASmallStoreOfLargeMessagesMakesRoomForTheNext(t *testing.T) {
	o := testOptions()
	o.MaxBytes = 8 << 20
	b := start(t, filepath.Join(t.TempDir(), "sessions.db"), o)
	b.put(1)
	var taken []durable.Seq
	for i := range 150 { // four times as much as there is room for
		k := b.next()
		s := b.Append(durable.Append{Message: large(200_000), Receivers: receivers(1, 1)}, k)
		b.Flush()
		if c := b.a.wait(t, k); c.Err == nil {
			taken = append(taken, s)
		}
		if p := b.Pressure(); p > 0 {
			b.Evict(1, 0, p)
			b.Flush()
		}
		if i%50 == 0 {
			b.until("there is room", func() bool {
				if p := b.Pressure(); p > 0 {
					b.Evict(1, 0, p)
					b.Flush()
				}
				return b.State() == durable.Taking
			})
		}
	}
	n, _ := b.Queued(1)
	if n < 15 || len(taken) < 60 {
		t.Errorf("%d messages are left of %d that were taken, in room for 35", n, len(taken))
	}
	// Those that are delivered make room, too.
	b.fillUp()
	for _, s := range taken {
		b.Done(1, s, durable.Delivered)
	}
	b.Flush()
	b.until("there is room when all are delivered", func() bool { return b.State() == durable.Taking })
}
