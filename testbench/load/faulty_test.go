package load

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin/core/packet"
)

const (
	// guard bounds the wait for what is bound to come.
	guard = 30 * time.Second
	// lostAfter is how long a test waits for what does not come. Nothing else may be as late.
	lostAfter = 5 * time.Second
)

// faulty is a broker that passes every message to everybody, but for what alter makes of it. It
// acknowledges nothing.
type faulty struct {
	listener net.Listener
	alter    func(n int, whole []byte) [][]byte // n counts messages from 0

	mu    sync.Mutex
	n     int               // guarded by mu
	conns map[net.Conn]bool // guarded by mu: true = has subscribed
	wait  sync.WaitGroup
}

func serveFaulty(t *testing.T, alter func(n int, whole []byte) [][]byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{listener: l, alter: alter, conns: make(map[net.Conn]bool)}
	f.wait.Go(func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[c] = false
			f.mu.Unlock()
			f.wait.Go(func() { f.serve(c) }) // ends with the connection
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		for c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		f.wait.Wait()
	})
	return l.Addr().String()
}

func (f *faulty) serve(c net.Conn) {
	defer c.Close()
	var in []byte
	chunk := make([]byte, 4096)
	for {
		n, err := c.Read(chunk)
		if err != nil {
			return
		}
		in = append(in, chunk[:n]...)
		for {
			h, n, err := packet.ParseHeader(in)
			if err != nil {
				return
			}
			if n == 0 || len(in) < n+h.Remaining {
				break
			}
			f.packet(c, h, in[:n+h.Remaining], in[n:])
			in = in[n+h.Remaining:]
		}
	}
}

func (f *faulty) packet(c net.Conn, h packet.Header, whole, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch h.Type {
	case packet.CONNECT:
		c.Write([]byte{byte(packet.CONNACK) << 4, 2, 0, 0})
	case packet.SUBSCRIBE:
		f.conns[c] = true
		c.Write([]byte{byte(packet.SUBACK) << 4, 3, body[0], body[1], 0})
	case packet.PUBLISH:
		for _, b := range f.alter(f.n, whole) {
			for to, subscribed := range f.conns {
				if subscribed {
					to.Write(b)
				}
			}
		}
		f.n++
	}
}

func TestFaultsOfABrokerAreFound(t *testing.T) {
	const wrong = 7 // the number of the message that is wrong
	var held []byte
	for _, test := range []struct {
		name  string
		want  string
		alter func(n int, whole []byte) [][]byte
	}{
		{"nothing", "", func(n int, whole []byte) [][]byte { return [][]byte{whole} }},
		{"lost", "2 deliveries are lost", func(n int, whole []byte) [][]byte {
			if n == wrong {
				return nil
			}
			return [][]byte{whole}
		}},
		{"duplicated", "2 deliveries are duplicates", func(n int, whole []byte) [][]byte {
			if n == wrong {
				return [][]byte{whole, whole}
			}
			return [][]byte{whole}
		}},
		{"misordered", "2 deliveries came behind a later message", func(n int, whole []byte) [][]byte {
			switch n {
			case wrong:
				held = append([]byte(nil), whole...)
				return nil
			case wrong + 1:
				return [][]byte{whole, held}
			}
			return [][]byte{whole}
		}},
		{"not of this run", "2 deliveries are not of this run", func(n int, whole []byte) [][]byte {
			if n == wrong {
				other := append([]byte(nil), whole...)
				other[len(other)-128]++
				return [][]byte{whole, other}
			}
			return [][]byte{whole}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			held = nil
			o := small("fanout", serveFaulty(t, test.alter))
			o.Publishers, o.Topics, o.Subscribers, o.Window, o.Wildcard = 1, 1, 2, 4, true
			// A hundred messages, at a pace at which no window is closed by the lost one.
			o.Every, o.Burst, o.Settle = 2*time.Millisecond, 1, guard
			if test.name == "lost" {
				o.Settle = lostAfter // has to pass; the others end when all is there
			}
			r, err := Find("fanout").Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(r.Faults, "; ")
			if test.want == "" && got != "" || !strings.HasPrefix(got, test.want) {
				t.Errorf("found %q, want %q", got, test.want)
			}
		})
	}
}

func TestALostMessageDoesNotEndAClosedLoop(t *testing.T) {
	address := serveFaulty(t, func(n int, whole []byte) [][]byte {
		if n == 3 {
			return nil
		}
		return [][]byte{whole}
	})
	o := small("fanout", address)
	o.Publishers, o.Topics, o.Subscribers, o.Window, o.Wildcard = 1, 1, 1, 1, true
	o.Warmup, o.Stall, o.Settle = 3*time.Second, 50*time.Millisecond, lostAfter
	r, err := Find("fanout").Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost != 1 || r.Stalls == 0 || r.Total < 4 {
		t.Errorf("%d lost, %d stalls, %d delivered; want 1, at least 1, and some behind it", r.Lost, r.Stalls, r.Total)
	}
}

func TestARefusedConnectNamesTheReason(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadAtLeast(c, make([]byte, 64), 14)
			c.Write([]byte{byte(packet.CONNACK) << 4, 2, 0, 5})
		}
	})
	t.Cleanup(func() { l.Close(); wait.Wait() })
	_, err = Find("fanout").Run(t.Context(), small("fanout", l.Addr().String()))
	if err == nil || !strings.Contains(err.Error(), "answers the CONNECT") || !strings.Contains(err.Error(), "0x87") {
		t.Errorf("error %v, want one that names the code of the CONNACK", err)
	}
}

func TestNobodyListening(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = Find("fanout").Run(t.Context(), small("fanout", l.Addr().String()))
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v, want one that says that the connection is refused", err)
	}
}

func TestARunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address := serveFaulty(t, func(n int, whole []byte) [][]byte {
		if n == 10 {
			cancel()
		}
		return [][]byte{whole}
	})
	o := small("fanout", address)
	o.Topics, o.Wildcard, o.Measure = 1, true, time.Hour
	if _, err := Find("fanout").Run(ctx, o); err == nil {
		t.Error("no error, although the run did not come to its end")
	}
}
