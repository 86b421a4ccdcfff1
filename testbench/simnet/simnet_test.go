package simnet

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// echo is a server that returns what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String()
}

func start(t *testing.T) *Proxy {
	t.Helper()
	p, err := Listen(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestBytesArriveInOrder(t *testing.T) {
	c := dial(t, start(t))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	var writer sync.WaitGroup
	writer.Go(func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(c)
	writer.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d of %d bytes, %v", len(got), len(sent), err)
	}
}

func TestCutResetsAndTheNextConnectionWorks(t *testing.T) {
	p := start(t)
	c := dial(t, p)
	roundTrip(t, c)
	p.Cut()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("got %v after a cut, want a reset", err)
	}
	roundTrip(t, dial(t, p))
	if p.Accepted() != 2 {
		t.Errorf("accepted %d", p.Accepted())
	}
}

func TestDownRefusesUntilUp(t *testing.T) {
	p := start(t)
	p.Down()
	// The reset may be faster than the end of the dial.
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("read something while the network is down")
		}
		c.Close()
	}
	p.Up()
	roundTrip(t, dial(t, p))
}

func TestCutAfterCountsBytes(t *testing.T) {
	p := start(t)
	c := dial(t, p)
	p.CutAfter(10)
	roundTrip(t, c) // 5 bytes
	c.Write([]byte("0123456789"))
	if got, err := io.ReadAll(c); err == nil || len(got) > 5 {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestStallKeepsBytesUntilResume(t *testing.T) {
	p := start(t)
	c := dial(t, p)
	roundTrip(t, c)
	p.Stall()
	c.Write([]byte("hello"))
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 5)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v while stalled", n, err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	p.Resume()
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestDelayHoldsBothWays(t *testing.T) {
	p := start(t)
	c := dial(t, p)
	p.Delay(30 * time.Millisecond)
	begin := time.Now()
	roundTrip(t, c)
	if d := time.Since(begin); d < 60*time.Millisecond {
		t.Errorf("a round trip took %v, want at least 60ms", d)
	}
}

func roundTrip(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}
