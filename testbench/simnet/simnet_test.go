package simnet

import (
	"io"
	"net"
	"testing"
	"time"
)

// echo returns the address of a server that sends back what it gets.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with its connection
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func listen(t *testing.T) *Proxy {
	p, err := Listen(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second)) // a guard against hanging
	return c
}

// exchange sends a byte and waits for it to come back.
func exchange(c net.Conn) error {
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func TestCutEndsConnectionsUntilRestore(t *testing.T) {
	p := listen(t)
	c := dial(t, p)
	if err := exchange(c); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if err := exchange(c); err == nil {
		t.Error("bytes came over a link that is cut")
	}
	// The reset may come before Dial returns.
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		if err := exchange(c); err == nil {
			t.Error("a new connection got through a link that is cut")
		}
		c.Close()
	}
	p.Restore()
	if err := exchange(dial(t, p)); err != nil {
		t.Errorf("after Restore: %v", err)
	}
	if p.Cuts() != 1 {
		t.Errorf("%d cuts, want 1", p.Cuts())
	}
}

func TestStallKeepsTheBytesBack(t *testing.T) {
	p := listen(t)
	c := dial(t, p)
	if err := exchange(c); err != nil {
		t.Fatal(err)
	}
	p.Stall()
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	back := make(chan error, 1)
	go func() { // ends with the byte, or the deadline of c
		_, err := io.ReadFull(c, make([]byte, 1))
		back <- err
	}()
	select {
	case <-back:
		t.Error("a byte came over a stalled link")
	case <-time.After(50 * time.Millisecond):
	}
	p.Flow()
	if err := <-back; err != nil {
		t.Errorf("after Flow: %v", err)
	}
}

func TestLatencyHoldsBothWays(t *testing.T) {
	p := listen(t)
	c := dial(t, p)
	const latency = 20 * time.Millisecond
	p.SetLatency(latency)
	start := time.Now()
	if err := exchange(c); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 2*latency {
		t.Errorf("the way there and back took %v, want at least %v", took, 2*latency)
	}
}

func TestCloseEndsWhatIsStalled(t *testing.T) {
	p := listen(t)
	c := dial(t, p)
	if err := exchange(c); err != nil {
		t.Fatal(err)
	}
	p.Stall()
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
