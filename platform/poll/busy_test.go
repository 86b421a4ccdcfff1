package poll

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processors sets how many there are during the test.
func processors(t *testing.T, n int) {
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// expectant makes p wait for its next event by itself.
func expectant(t *testing.T, p *Poller) {
	t.Helper()
	if p.busy {
		return
	}
	p.busy = true
	if err := p.nest(false); err != nil {
		t.Fatal(err)
	}
}

func TestQuickEventsLetTheThreadWaitByItself(t *testing.T) {
	for _, n := range []int{1, 2} {
		processors(t, n)
		p := poller(t)
		fd, peer := sockets(t)
		if err := p.Add(fd, Key{Slot: FirstSlot}); err != nil {
			t.Fatal(err)
		}
		unix.Write(peer, []byte("x"))
		// On a machine with much to do a wait may be long for something that is there.
		for began := time.Now(); !p.busy && n > 1 && time.Since(began) < guard; {
			wait(t, p)
		}
		for range 2 * quick {
			wait(t, p)
			if n == 1 && p.busy {
				t.Fatal("it keeps the only processor from the others")
			}
		}
		if n > 1 {
			expectant(t, p)
			if ready, _ := wait(t, p); len(ready) != 1 || !ready[0].Readable {
				t.Fatalf("got %+v", ready)
			}
		}
	}
}

func TestWhatEndsAParkEndsAWaitOfTheThread(t *testing.T) {
	processors(t, 2)
	p := poller(t)
	fd, peer := sockets(t)
	if err := p.Add(fd, Key{Slot: FirstSlot}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		expectant(t, p)
		go unix.Write(peer, []byte("x")) // ends by itself
		if ready, timer := wait(t, p); len(ready) != 1 || timer {
			t.Fatalf("an event: got %+v, timer %v", ready, timer)
		}
		if _, err := Read(fd, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}

		// On a machine with much to do the timer may have fired before the wait, which is short then.
		for began := time.Now(); ; {
			expectant(t, p)
			if err := p.SetTimer(5 * soon); err != nil {
				t.Fatal(err)
			}
			if ready, timer := wait(t, p); len(ready) != 0 || !timer {
				t.Fatalf("the timer: got %+v, timer %v", ready, timer)
			}
			if !p.busy {
				break
			}
			if time.Since(began) > guard {
				t.Fatal("a long wait lets it expect the next event soon")
			}
		}

		expectant(t, p)
		woken := make(chan struct{})
		go func() { // ends by itself, waited for below
			for !p.sleeping.Load() {
				time.Sleep(time.Microsecond)
			}
			p.Wake()
			close(woken)
		}()
		if ready, timer := wait(t, p); len(ready) != 0 || timer {
			t.Fatalf("a wake-up: got %+v, timer %v", ready, timer)
		}
		<-woken
	}
}

func TestAnEventAtTheChangeIsSeenByThePark(t *testing.T) {
	processors(t, 2)
	p := poller(t)
	fd, peer := sockets(t)
	if err := p.Add(fd, Key{Slot: FirstSlot}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		expectant(t, p)
		unix.Write(peer, []byte("x")) // while the runtime does not know
		p.busy = false
		if err := p.nest(true); err != nil {
			t.Fatal(err)
		}
		if ready, _ := wait(t, p); len(ready) != 1 {
			t.Fatalf("got %+v", ready)
		}
		if _, err := Read(fd, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
	}
}
