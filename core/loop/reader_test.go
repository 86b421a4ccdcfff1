package loop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"dunlin/core/conn"
	"dunlin/core/packet"
)

// exchange lets n clients send many PUBACK packets in pieces that end anywhere, and returns what
// each got back.
func exchange(t *testing.T, addr string, n, packets int) [][]byte {
	t.Helper()
	got := make([][]byte, n)
	var clients sync.WaitGroup
	for i := range n {
		c := dial(t, addr)
		c.SetDeadline(time.Now().Add(guard))
		clients.Go(func() {
			var out []byte
			for k := range packets {
				out = append(out, byte(packet.PUBACK)<<4, 2)
				out = binary.BigEndian.AppendUint16(out, uint16(k+1))
			}
			dice := rand.New(rand.NewPCG(1, uint64(i)))
			for len(out) > 0 {
				piece := min(1+dice.IntN(40), len(out))
				c.Write(out[:piece]) // an error shows in what comes back
				out = out[piece:]
			}
			got[i] = make([]byte, 4*packets)
			if _, err := io.ReadFull(c, got[i]); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	clients.Wait()
	return got
}

// echo sends every packet back, with the body that it came with.
func echo(s *server) {
	s.body = func(c *conn.Conn, h packet.Header, body []byte) error {
		a := &s.loop.Arena
		c.Send(a, a.Packet(func(dst []byte) []byte {
			return append(append(dst, byte(h.Type)<<4, byte(len(body))), body...)
		}), 0)
		return nil
	}
}

func TestHandsKeepTheOrderOfEachConnection(t *testing.T) {
	for _, hands := range []int{0, 1, 3} {
		t.Run(fmt.Sprint(hands), func(t *testing.T) {
			s := &server{hands: hands}
			echo(s)
			const clients, packets = 100, 400
			var want []byte
			for k := range packets {
				want = append(want, byte(packet.PUBACK)<<4, 2)
				want = binary.BigEndian.AppendUint16(want, uint16(k+1))
			}
			for i, got := range exchange(t, serve(t, s), clients, packets) {
				if !bytes.Equal(got, want) {
					t.Fatalf("client %d did not get back what it sent", i)
				}
			}
		})
	}
}

// together makes every one of n connections ready before the loop looks: their packets are read in
// one turn.
func together(t *testing.T, s *server, n int) (clients []*net.TCPConn) {
	t.Helper()
	addr := serve(t, s)
	var accepted sync.WaitGroup
	accepted.Add(n)
	s.do(t, func() {
		s.accepted = func(*conn.Conn) bool { accepted.Done(); return true }
	})
	for range n {
		clients = append(clients, dial(t, addr))
	}
	accepted.Wait()
	s.do(t, func() {
		for i, c := range clients {
			c.Write([]byte{byte(packet.PUBACK) << 4, 2, byte(i >> 8), byte(i)}) // into the socket's buffer
		}
	})
	return clients
}

func TestConnectionClosedByAnotherIsNotServed(t *testing.T) {
	const n = 64
	s := &server{hands: 2}
	served := make(chan *conn.Conn, n)
	var first *conn.Conn
	s.body = func(c *conn.Conn, _ packet.Header, _ []byte) error {
		served <- c
		if first == nil {
			first = c
			for i := range s.loop.slots {
				if other := s.loop.slots[i].conn; other != nil && other != c {
					s.loop.Close(other)
				}
			}
		}
		return nil
	}
	clients := together(t, s, n)
	open := 0
	s.do(t, func() {})
	s.do(t, func() {
		for i := range s.loop.slots {
			if s.loop.slots[i].conn != nil {
				open++
			}
		}
	})
	if len(served) != 1 || open != 1 {
		t.Errorf("%d connections served, %d open; want one of each: the others were closed by its packet", len(served), open)
	}
	for _, c := range clients {
		c.Close()
	}
}

func TestConnectionPausedByAnotherKeepsWhatWasRead(t *testing.T) {
	const n = 64
	s := &server{hands: 2}
	served := make(map[*conn.Conn]int)
	var others []*conn.Conn
	s.body = func(c *conn.Conn, _ packet.Header, _ []byte) error {
		if len(served) == 0 {
			for i := range s.loop.slots {
				if other := s.loop.slots[i].conn; other != nil && other != c {
					s.loop.Pause(other)
					others = append(others, other)
				}
			}
		}
		served[c]++
		return nil
	}
	together(t, s, n)
	s.do(t, func() {})
	s.do(t, func() {
		if len(served) != 1 {
			t.Errorf("%d connections served, want 1: the others rest", len(served))
		}
		for _, c := range others {
			s.loop.Resume(c)
		}
	})
	for deadline := time.Now().Add(guard); ; {
		done := false
		s.do(t, func() { done = len(served) == n })
		if done {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d connections were served after the rest", len(served), n)
		}
	}
	s.do(t, func() {
		for _, times := range served {
			if times != 1 {
				t.Errorf("a packet was served %d times", times)
			}
		}
	})
}
