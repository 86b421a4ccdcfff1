// Package idle measures what a connection costs that does nothing.
package idle

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

const (
	// guard bounds every wait.
	guard = time.Minute
	// maxBytes is what a connection with a session and a subscription may cost, resident.
	maxBytes = 1050
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// serve starts a broker.
func serve(t *testing.T) *process.Process {
	t.Helper()
	p, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return p
}

// open makes n connections with a subscription each, which stay open until the test ends.
func open(t *testing.T, address string, n int) {
	t.Helper()
	conns := make([]net.Conn, n)
	errs := make(chan error, n)
	var wait sync.WaitGroup
	const workers = 8
	for w := range workers {
		wait.Go(func() { // ends with its share; open waits
			for i := w; i < n; i += workers {
				conn, err := idle(t, address, i)
				if err != nil {
					errs <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
				conns[i] = conn
			}
		})
	}
	wait.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
}

// idle connects and subscribes.
func idle(t *testing.T, address string, i int) (net.Conn, error) {
	r, err := client.Dial(t.Context(), "tcp", address, packet.V5)
	if err != nil {
		return nil, err
	}
	r.SetDeadline(time.Now().Add(guard))
	out := packet.AppendConnect(nil, &packet.Connect{
		Version: packet.V5, CleanStart: true, KeepAlive: 600, ClientID: fmt.Appendf(nil, "idle-%d", i),
		ReceiveMaximum: 65535, RequestProblem: true,
	})
	filter := packet.Subscription{Filter: fmt.Sprintf("site/%d/command", i)}
	out = packet.AppendSubscribe(out, 1, 0, []packet.Subscription{filter}, packet.V5)
	if _, err := r.Write(out); err != nil {
		return nil, err
	}
	for _, want := range []packet.Type{packet.CONNACK, packet.SUBACK} {
		h, _, err := r.Packet(t.Context())
		if err != nil {
			return nil, err
		}
		if h.Type != want {
			return nil, fmt.Errorf("%v instead of %v", h.Type, want)
		}
	}
	return r.Conn, nil
}

// goroutine matches the head of each goroutine in the traceback of SIGQUIT.
var goroutine = regexp.MustCompile(`(?m)^goroutine \d+ .*\[`)

// goroutines ends the process by SIGQUIT and counts the goroutines in what it prints.
func goroutines(t *testing.T, p *process.Process) int {
	t.Helper()
	if err := p.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Exited():
	case <-time.After(guard):
		t.Fatal("the process lives on after SIGQUIT")
	}
	return len(goroutine.FindAllString(p.Tail(1<<24), -1))
}

func TestConnectionsHaveNoGoroutine(t *testing.T) {
	without := goroutines(t, serve(t))
	p := serve(t)
	open(t, p.Spec.Address, 1000)
	with := goroutines(t, p)
	t.Logf("%d goroutines without connections, %d with 1,000", without, with)
	if without == 0 {
		t.Fatal("found no goroutine at all in the traceback")
	}
	// One or two of the runtime's own come and go with its garbage collector.
	if with > without+4 {
		t.Errorf("%d goroutines with 1,000 connections, %d without", with, without)
	}
}

func TestIdleConnectionStaysSmall(t *testing.T) {
	const n = 8000
	p := serve(t)
	open(t, p.Spec.Address, 500) // warms up
	before := settled(t, p)
	open(t, p.Spec.Address, n)
	deadline := time.Now().Add(guard)
	each := settled(t, p) - before
	for each > n*maxBytes && time.Now().Before(deadline) {
		// The runtime hands back what the connects left behind, by and by.
		each = settled(t, p) - before
	}
	t.Logf("%d B resident for each of %d connections", each/n, n)
	if each > n*maxBytes {
		t.Errorf("%d B for each connection, at most %d may be", each/n, maxBytes)
	}
}

// settled returns the resident memory once it has not changed for a moment.
func settled(t *testing.T, p *process.Process) int64 {
	t.Helper()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	var last int64
	for same := 0; same < 5; <-ticker.C {
		now, err := p.Resident()
		if err != nil {
			t.Fatal(err)
		}
		if now == last {
			same++
		} else {
			same = 0
		}
		last = now
	}
	return last
}
