package poll

import (
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// guard is when a test that hangs is ended.
const guard = 20 * time.Second

func poller(t *testing.T) *Poller {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func sockets(t *testing.T) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func idle() bool { return true }

// wait is one Wait that may park; the test ends if it does not return.
func wait(t *testing.T, p *Poller) (ready []Event, timer bool) {
	t.Helper()
	stop := time.AfterFunc(guard, p.Wake)
	defer stop.Stop()
	began := time.Now()
	ready, timer, err := p.Wait(true, idle)
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(began) >= guard {
		t.Fatal("it does not return")
	}
	return ready, timer
}

func TestReadyDescriptorEndsThePark(t *testing.T) {
	p := poller(t)
	fd, peer := sockets(t)
	k := Key{Slot: FirstSlot + 3, Generation: 1<<32 - 1}
	if err := p.Add(fd, k); err != nil {
		t.Fatal(err)
	}
	for range 3 { // level-triggered: as long as it is not read
		go unix.Write(peer, []byte("x")) // ends by itself; a byte too many does no harm
		ready, timer := wait(t, p)
		if timer || len(ready) != 1 || ready[0].Key != k || !ready[0].Readable || ready[0].Writable {
			t.Fatalf("got %+v, timer %v", ready, timer)
		}
	}
	if err := p.Modify(fd, k, false, true); err != nil {
		t.Fatal(err)
	}
	if ready, _ := wait(t, p); len(ready) != 1 || ready[0].Readable || !ready[0].Writable {
		t.Fatalf("watched for writing: got %+v", ready)
	}
	if err := p.Remove(fd); err != nil {
		t.Fatal(err)
	}
	if ready, _, err := p.Wait(false, idle); err != nil || len(ready) != 0 {
		t.Fatalf("removed: got %+v, %v", ready, err)
	}
}

func TestWakeEndsThePark(t *testing.T) {
	p := poller(t)
	for range 100 {
		woken := make(chan struct{})
		go func() { // ends by itself, waited for below
			for !p.sleeping.Load() {
				time.Sleep(time.Microsecond)
			}
			p.Wake()
			close(woken)
		}()
		if ready, timer := wait(t, p); len(ready) != 0 || timer {
			t.Fatalf("got %+v, timer %v", ready, timer)
		}
		<-woken
	}
}

func TestWorkThatIsThereKeepsItAwake(t *testing.T) {
	p := poller(t)
	asked := 0
	ready, timer, err := p.Wait(true, func() bool { asked++; return false })
	if err != nil || len(ready) != 0 || timer || asked != 1 {
		t.Fatalf("got %+v, %v, %v; asked %d times", ready, timer, err, asked)
	}
}

func TestTimerFiresOnce(t *testing.T) {
	p := poller(t)
	if err := p.SetTimer(time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := p.SetTimer(time.Millisecond); err != nil { // the last one counts
		t.Fatal(err)
	}
	if ready, timer := wait(t, p); !timer || len(ready) != 0 {
		t.Fatalf("got %+v, timer %v", ready, timer)
	}
	if _, timer, err := p.Wait(false, idle); timer || err != nil {
		t.Fatalf("again: %v, %v", timer, err)
	}
	if err := p.SetTimer(0); err != nil {
		t.Fatal(err)
	}
}

func TestHangUpIsReportedAsReadable(t *testing.T) {
	p := poller(t)
	fd, peer := sockets(t)
	k := Key{Slot: FirstSlot}
	if err := p.Add(fd, k); err != nil {
		t.Fatal(err)
	}
	if err := p.Modify(fd, k, false, false); err != nil {
		t.Fatal(err)
	}
	unix.Shutdown(peer, unix.SHUT_RDWR)
	if ready, _ := wait(t, p); len(ready) != 1 || !ready[0].Readable {
		t.Fatalf("got %+v", ready)
	}
}

func TestUnreadCountsWhatTheSocketHolds(t *testing.T) {
	fd, peer := sockets(t)
	if n := Unread(fd); n != 0 {
		t.Errorf("%d bytes in an empty socket", n)
	}
	unix.Write(peer, []byte("hello"))
	if n := Unread(fd); n != 5 {
		t.Errorf("%d bytes, want 5", n)
	}
	var b [3]byte
	if n, err := Read(fd, b[:]); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if n := Unread(fd); n != 2 {
		t.Errorf("%d bytes, want 2", n)
	}
	if n := Unread(-1); n != 0 {
		t.Errorf("%d bytes in no socket", n)
	}
}

func TestWriteToAPeerThatIsGoneFails(t *testing.T) {
	fd, peer := sockets(t)
	unix.Shutdown(peer, unix.SHUT_RDWR)
	if _, err := Write(fd, []byte("x")); err != unix.EPIPE {
		t.Errorf("got %v, want EPIPE", err)
	}
	if n, err := Read(fd, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("got %d, %v; want the end", n, err)
	}
}

func TestWrite2WritesBothParts(t *testing.T) {
	fd, peer := sockets(t)
	if n, err := Write2(fd, []byte("one"), []byte("two")); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	b := make([]byte, 10)
	if n, err := Read(peer, b); string(b[:max(n, 0)]) != "onetwo" || err != nil {
		t.Errorf("got %q, %v", b[:max(n, 0)], err)
	}
	unix.Shutdown(peer, unix.SHUT_RDWR)
	if _, err := Write2(fd, []byte("x"), []byte("y")); err != unix.EPIPE {
		t.Errorf("got %v, want EPIPE", err)
	}
}

// A battery that is empty may have the clock begin at any date. Where numbers have 32 bits, it ends in 2038.
func TestNoDateIsPastTheTimerThatWatchesTheClock(t *testing.T) {
	p := poller(t)
	var left unix.ItimerSpec
	if err := unix.TimerfdGettime(p.clockFd, &left); err != nil {
		t.Fatal(err)
	}
	const year = 365 * 24 * 60 * 60
	if years := int64(left.Value.Sec) / year; math.MaxInt > math.MaxInt32 && years < 200 {
		t.Errorf("it comes in %d years", years)
	}
}

func TestATimerOfTheClockThatHasComeIsNotSetAgain(t *testing.T) {
	p := poller(t)
	past := unix.ItimerSpec{Value: unix.Timespec{Sec: 1}}
	if err := unix.TimerfdSettime(p.clockFd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &past, nil); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	var left unix.ItimerSpec
	if err := unix.TimerfdGettime(p.clockFd, &left); err != nil || left.Value != (unix.Timespec{}) {
		t.Errorf("it is set to come in %+v, %v: the clock would be past it", left.Value, err)
	}
}

func TestAClockThatWasSetEndsThePark(t *testing.T) {
	p := poller(t)
	if p.ClockStepped() {
		t.Error("the clock was set before")
	}
	// To set the clock would be for everybody here: what becomes of the timer is the same.
	now := unix.ItimerSpec{Value: unix.Timespec{Sec: 1}}
	if err := unix.TimerfdSettime(p.clockFd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &now, nil); err != nil {
		t.Fatal(err)
	}
	if ready, timer := wait(t, p); len(ready) > 0 || timer {
		t.Errorf("got %v, %v", ready, timer)
	}
	if !p.ClockStepped() || p.ClockStepped() {
		t.Error("it is not told, or twice")
	}
	if ready, timer, err := p.Wait(false, idle); err != nil || len(ready) > 0 || timer || p.ClockStepped() {
		t.Errorf("got %v, %v, %v after it was told", ready, timer, err)
	}
}
