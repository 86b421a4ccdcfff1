// Package simnet is the network of the tests: a TCP proxy whose link can be cut, stalled and
// slowed.
package simnet

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is how much one side may be ahead of the other, bytes; TCP holds the sender back then.
const chunk = 16 << 10

// Proxy forwards TCP connections to one target. A new Proxy's link is up. Its methods may be
// called from any goroutine.
type Proxy struct {
	listener net.Listener
	target   string
	wait     sync.WaitGroup // everything that Listen and accept started

	latency atomic.Int64 // nanoseconds that each chunk waits
	cuts    atomic.Uint64

	mu      sync.Mutex // guards what follows
	up      bool
	closed  bool
	flowing chan struct{} // closed while bytes flow; open while stalled
	conns   map[net.Conn]struct{}
}

// Listen returns a Proxy to target, on a free loopback address. The caller calls Close.
func Listen(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("simnet: %w", err)
	}
	p := &Proxy{
		listener: l, target: target, up: true,
		flowing: make(chan struct{}), conns: make(map[net.Conn]struct{}),
	}
	close(p.flowing)
	// Owner: the Proxy. It ends when Close closes the listener; Close waits.
	p.wait.Go(p.accept)
	return p, nil
}

// Addr returns the address to connect to, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut closes every connection by a reset, with what was under way, and does so with new ones
// until Restore.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up = false
	p.cuts.Add(1)
	p.drop()
}

// Drop closes every connection by a reset and leaves the link up.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts.Add(1)
	p.drop()
}

// drop resets all connections. p.mu is held.
func (p *Proxy) drop() {
	for c := range p.conns {
		reset(c)
	}
}

// Restore lets connections through again.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up = true
}

// Cuts returns how often Cut and Drop were called.
func (p *Proxy) Cuts() uint64 { return p.cuts.Load() }

// Stall stops the bytes of every connection, which stays open, as a dead link does that nobody
// has noticed. New connections are accepted and stall, too.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
		p.flowing = make(chan struct{})
	default:
	}
}

// Flow ends a stall; nothing was lost.
func (p *Proxy) Flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flowing:
	default:
		close(p.flowing)
	}
}

// SetLatency holds back what is read from now on by d in each direction. One chunk waits at a
// time, so it limits the rate, too: to 16 KiB in each d.
func (p *Proxy) SetLatency(d time.Duration) { p.latency.Store(int64(d)) }

// Close closes the listener and every connection and returns when everything has ended. Closing
// again does nothing.
func (p *Proxy) Close() error {
	p.mu.Lock()
	var err error
	if !p.closed {
		p.closed = true
		err = p.listener.Close()
	}
	p.drop()
	p.mu.Unlock()
	p.Flow()
	p.wait.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		below, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.add(below) {
			continue
		}
		// Owner: the Proxy. It ends with either side of the connection; Close waits.
		p.wait.Go(func() { p.forward(below) })
	}
}

// add registers a connection. It resets it instead if the link is not up.
func (p *Proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up || p.closed {
		reset(c)
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

// forward connects below with the target until one of them ends.
func (p *Proxy) forward(below net.Conn) {
	defer p.remove(below)
	above, err := net.Dial("tcp", p.target)
	if err != nil {
		reset(below)
		return
	}
	if !p.add(above) {
		return
	}
	defer p.remove(above)
	var both sync.WaitGroup
	// Owner: forward, which waits. Each ends with its source, and ends the other one.
	both.Go(func() { p.pump(above, below) })
	both.Go(func() { p.pump(below, above) })
	both.Wait()
}

// pump copies from src to dst until one of them ends.
func (p *Proxy) pump(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, chunk)
	for {
		n, err := src.Read(buf)
		if d := time.Duration(p.latency.Load()); d > 0 && n > 0 {
			<-time.After(d)
		}
		p.mu.Lock()
		flowing := p.flowing
		p.mu.Unlock()
		<-flowing
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// reset closes a connection by RST: what is under way is lost.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}
