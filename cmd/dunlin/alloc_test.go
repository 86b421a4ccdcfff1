package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/packet"
	"dunlin/testbench/process"
)

// TestStoredMessagesCostFewAllocations runs the broker with its store in this process, and counts what
// it allocates for messages that go to a session on disk and are acknowledged. The clients allocate
// nothing for a message. Commits take many messages together, so the count is one over all of them.
func TestStoredMessagesCostFewAllocations(t *testing.T) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			const (
				window = 250
				warmup = 5
				rounds = 20
				// The message is one, and bbolt takes three for each record: two for the way to its page, one for
				// its key. The rest is what a commit takes, by the messages that it has: more of them where
				// the disk is quick.
				bound = 8.0
			)
			addr := runHere(t)
			s, p := rawConnect(t, addr, "s", false), rawConnect(t, addr, "p", true)
			s.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a/+", Options: packet.SubscribeOptions{QoS: qos}}}, packet.V311))
			s.take(5)
			f := storedFlood{p: p, s: s, qos: qos, n: window}
			for i := range window {
				m, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: qos, ID: 1}, packet.V311)
				m[at+1] = byte(i + 1)
				f.size, f.id = len(m), at
				f.out = append(f.out, m...)
			}
			for range warmup {
				f.round()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rounds {
				f.round()
			}
			runtime.ReadMemStats(&after)
			each := float64(after.Mallocs-before.Mallocs) / (rounds * window)
			t.Logf("%.2f allocations, %.0f bytes for a message", each, float64(after.TotalAlloc-before.TotalAlloc)/(rounds*window))
			if each > bound {
				t.Errorf("%.2f allocations for a message, want at most %v", each, bound)
			}
		})
	}
}

// runHere runs the broker in this process until the test ends, and returns its address.
func runHere(t *testing.T) (addr string) {
	t.Helper()
	addr, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load("", config.Overrides{Listen: []string{addr}, Data: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	logger := slog.New(slog.DiscardHandler)
	go func() { done <- run(ctx, cfg, &lacks{log: logger}, logger) }() // ended by cancel, waited for in the cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return addr
}

// rawClient is a client that allocates nothing for a message.
type rawClient struct {
	t    *testing.T
	conn net.Conn
	in   [64 << 10]byte
	out  [2 << 10]byte
}

func rawConnect(t *testing.T, addr, id string, clean bool) *rawClient {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(deadline)
			k := &rawClient{t: t, conn: c}
			k.write(packet.AppendConnect(nil, &packet.Connect{Version: packet.V311, ClientID: []byte(id), CleanStart: clean}))
			k.take(4)
			return k
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		runtime.Gosched() // the broker is about to listen
	}
}

func (k *rawClient) write(b []byte) {
	k.t.Helper()
	if _, err := k.conn.Write(b); err != nil {
		k.t.Fatal(err)
	}
}

func (k *rawClient) take(n int) []byte {
	k.t.Helper()
	if _, err := io.ReadFull(k.conn, k.in[:n]); err != nil {
		k.t.Fatalf("read %d bytes: %v", n, err)
	}
	return k.in[:n]
}

func (k *rawClient) acks(t packet.Type, first packet.ID, n int) {
	k.t.Helper()
	k.write(packet.AppendAckRun(k.out[:0], t, first, n))
}

// storedFlood publishes n messages at a time, which the subscriber acknowledges at once.
type storedFlood struct {
	p, s *rawClient
	qos  packet.QoS
	n    int
	size int    // of one PUBLISH
	id   int    // where its identifier stands
	out  []byte // n of them
}

func (f *storedFlood) round() {
	f.p.write(f.out)
	if f.qos == 2 {
		f.p.take(4 * f.n)
		f.p.acks(packet.PUBREL, 1, f.n)
	}
	f.p.take(4 * f.n)
	got := f.s.take(f.n * f.size)
	first := packet.ID(got[f.id])<<8 | packet.ID(got[f.id+1])
	if f.qos == 1 {
		f.s.acks(packet.PUBACK, first, f.n)
		return
	}
	f.s.acks(packet.PUBREC, first, f.n)
	f.s.take(4 * f.n)
	f.s.acks(packet.PUBCOMP, first, f.n)
}
