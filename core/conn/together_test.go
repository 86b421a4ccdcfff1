package conn

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

func crew(t *testing.T, hands int) *Crew {
	c := NewCrew(hands)
	t.Cleanup(c.Close)
	return c
}

func TestCrewReturnsWhenAllWorkIsDone(t *testing.T) {
	for _, hands := range []int{0, 1, 3, 8} {
		t.Run(fmt.Sprint(hands), func(t *testing.T) {
			c := crew(t, hands)
			const items = 1000
			var done [items]int // by whoever took the item: the race detector watches
			for round := 1; round <= 300; round++ {
				var next atomic.Int32
				busy := make([]atomic.Bool, c.Workers())
				c.Do(func(worker int) {
					if busy[worker].Swap(true) {
						t.Error("two calls with one number at a time")
					}
					for i := int(next.Add(1)); i <= items; i = int(next.Add(1)) {
						done[i-1]++
					}
					busy[worker].Store(false)
				})
				for i, n := range done {
					if n != round {
						t.Fatalf("item %d was done %d times in %d rounds", i, n, round)
					}
				}
			}
		})
	}
}

func TestCrewWritesEachConnectionItsOwnIDs(t *testing.T) {
	for _, hands := range []int{1, 3} {
		t.Run(fmt.Sprint(hands), func(t *testing.T) {
			var a Arena
			a.Join(crew(t, hands))
			const n = 200
			var conns [n]*Conn
			var peers [n]int
			_, _, poller := pair(t)
			for i := range n {
				conns[i], peers[i], _ = pair(t)
				if err := poller.Add(conns[i].Fd(), conns[i].Key); err != nil {
					t.Fatal(err)
				}
			}
			var want [n][]packet.ID
			for round := range 20 {
				for k := range 3 {
					s := a.Publish(&packet.Publish{Topic: []byte("t"), Payload: []byte("x"), QoS: 1, ID: 1}, packet.V311)
					for i, c := range conns {
						if (i+k)%7 == 0 {
							continue // so that ranges differ, and some are not contiguous
						}
						id := packet.ID(1 + i*100 + round*3 + k)
						c.Send(&a, s, id)
						want[i] = append(want[i], id)
					}
				}
				a.Flush(poller)
			}
			for i, c := range conns {
				if got := ids(t, output(t, c, peers[i], &a)); fmt.Sprint(got) != fmt.Sprint(want[i]) {
					t.Fatalf("connection %d: got %v, want %v", i, got, want[i])
				}
			}
		})
	}
}

func TestCrewKeepsWhatSocketsDoNotTake(t *testing.T) {
	var a Arena
	a.Join(crew(t, 2))
	const n = 40
	var conns [n]*Conn
	var peers [n]int
	_, _, poller := pair(t)
	for i := range n {
		conns[i], peers[i], _ = pair(t)
		if err := poller.Add(conns[i].Fd(), conns[i].Key); err != nil {
			t.Fatal(err)
		}
	}
	unix.Shutdown(peers[3], unix.SHUT_RDWR) // writes to it fail
	payload := bytes.Repeat([]byte("z"), 9000)
	var want []packet.ID
	for round := range 60 {
		s := a.Publish(&packet.Publish{Topic: []byte("t"), Payload: payload, QoS: 1, ID: 1}, packet.V311)
		for _, c := range conns {
			c.Send(&a, s, packet.ID(round+1))
		}
		want = append(want, packet.ID(round+1))
		a.Flush(poller)
	}
	for i, c := range conns {
		if i == 3 {
			if c.Unsent() != 0 {
				t.Errorf("%d bytes wait for a peer that is gone", c.Unsent())
			}
			continue
		}
		if c.Unsent() == 0 {
			t.Fatal("the sockets took everything: the test tests nothing")
		}
		if got := ids(t, output(t, c, peers[i], &a)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("connection %d: got %v, want %v", i, got, want)
		}
	}
}

// BenchmarkFlush writes 13 KB to each of 1,000 connections; what the peers read is not measured.
func BenchmarkFlush(b *testing.B) {
	for _, hands := range []int{0, 1, 3} {
		b.Run(fmt.Sprintf("hands %d", hands), func(b *testing.B) {
			var a Arena
			if hands > 0 {
				c := NewCrew(hands)
				defer c.Close()
				a.Join(c)
			}
			poller, err := poll.New()
			if err != nil {
				b.Fatal(err)
			}
			defer poller.Close()
			const n = 1000
			var conns [n]*Conn
			var peers [n]int
			for i := range n {
				fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
				if err != nil {
					b.Fatal(err)
				}
				defer unix.Close(fds[0])
				defer unix.Close(fds[1])
				k := poll.Key{Slot: poll.FirstSlot + uint32(i)}
				if err := poller.Add(fds[0], k); err != nil {
					b.Fatal(err)
				}
				conns[i], peers[i] = New(fds[0], k), fds[1]
			}
			payload := bytes.Repeat([]byte("z"), 128)
			buf := make([]byte, 64<<10)
			for b.Loop() {
				for k := range 100 {
					s := a.Publish(&packet.Publish{Topic: []byte("t"), Payload: payload, QoS: 1, ID: 1}, packet.V311)
					for _, c := range conns {
						c.Send(&a, s, packet.ID(k+1))
					}
				}
				a.Flush(poller)
				b.StopTimer()
				for _, p := range peers {
					for {
						if n, err := unix.Read(p, buf); n <= 0 || err != nil {
							break
						}
					}
				}
				b.StartTimer()
			}
		})
	}
}
