// Package simnet is a bad network between a client and a server of a test: a TCP proxy on the
// loopback that cuts, stalls and delays.
package simnet

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// chunk is what one read takes, and window how many chunks are under way in one direction of
	// a connection: beyond, the sender is held back as by a full socket buffer.
	chunk  = 16 << 10
	window = 64
)

// Proxy forwards TCP connections to one target. Its methods may be called from any goroutine.
type Proxy struct {
	listener net.Listener
	target   string
	done     chan struct{}  // closed by Close
	running  sync.WaitGroup // every goroutine of the proxy

	mu       sync.Mutex // guards what follows
	closed   bool
	down     bool
	stalled  chan struct{} // not nil: nothing moves until it is closed
	latency  time.Duration // one way
	allow    int64         // bytes towards the target before the next cut, -1 = no limit
	links    map[*link]struct{}
	accepted int
}

// link is one connection and its other half.
type link struct {
	client, server net.Conn
	once           sync.Once
	gone           chan struct{} // closed when the link is cut
}

// Listen starts a proxy on a free port of the loopback that forwards to target ("host:port").
func Listen(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, target: target, done: make(chan struct{}), allow: -1, links: make(map[*link]struct{})}
	p.running.Go(p.accept) // ends when Close closes the listener; Close waits
	return p, nil
}

// Addr returns the address that clients dial.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Accepted returns how many connections were accepted so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Cut resets every connection; new ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

func (p *Proxy) cut() {
	for l := range p.links {
		l.cut()
	}
}

// CutAfter resets every connection as soon as n more bytes went towards the target, counted over
// all connections. The bytes up to there arrive, unless the reset overtakes them.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allow = n
}

// Down cuts the network: connections are reset, and so are new ones, until Up.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	p.cut()
}

// Up ends Down.
func (p *Proxy) Up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// Stall keeps every byte in both directions until Resume, without closing anything.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled == nil {
		p.stalled = make(chan struct{})
	}
}

// Resume ends Stall.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// Delay sets the time that a byte takes in one direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// Close cuts everything and ends the proxy.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed, p.down = true, true
	close(p.done)
	err := p.listener.Close()
	p.cut()
	p.mu.Unlock()
	p.running.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(c) }) // ends when its link is cut or closed; Close waits
	}
}

func (p *Proxy) serve(client net.Conn) {
	l := &link{client: client, gone: make(chan struct{})}
	p.mu.Lock()
	p.accepted++
	p.links[l] = struct{}{}
	down := p.down
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	if down {
		l.cut()
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		l.cut()
		return
	}
	p.mu.Lock()
	l.server = server
	p.mu.Unlock()
	select {
	case <-l.gone:
		server.Close()
		return
	default:
	}
	var both sync.WaitGroup
	both.Go(func() { p.copy(l, server, client, true) })
	both.Go(func() { p.copy(l, client, server, false) })
	both.Wait()
	// Without a reset, so that what is still on its way arrives.
	l.once.Do(func() {
		close(l.gone)
		client.Close()
		server.Close()
	})
}

// cut resets both halves: linger 0 sends an RST instead of what is still buffered.
func (l *link) cut() {
	l.once.Do(func() {
		close(l.gone)
		for _, c := range []net.Conn{l.client, l.server} {
			if c != nil {
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		}
	})
}

type parcel struct {
	b   []byte
	due time.Time
}

// copy forwards one direction. An end of file is passed on; an error cuts the link.
func (p *Proxy) copy(l *link, dst, src net.Conn, up bool) {
	parcels := make(chan parcel, window)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() { // ends with src, which cut closes; copy waits
		defer close(parcels)
		for {
			b := make([]byte, chunk)
			n, err := src.Read(b)
			if n > 0 {
				p.mu.Lock()
				due := time.Now().Add(p.latency)
				p.mu.Unlock()
				select {
				case parcels <- parcel{b[:n], due}:
				case <-l.gone:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					l.cut()
				}
				return
			}
		}
	})
	for m := range parcels {
		if !p.wait(l, m.due) {
			return
		}
		b, cut := m.b, false
		if up {
			b, cut = p.spend(b)
		}
		if _, err := dst.Write(b); err != nil {
			l.cut()
			return
		}
		if cut {
			p.Cut()
			return
		}
	}
	dst.(*net.TCPConn).CloseWrite()
}

// spend takes b off what CutAfter allows.
func (p *Proxy) spend(b []byte) (allowed []byte, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.allow < 0 {
		return b, false
	}
	if int64(len(b)) < p.allow {
		p.allow -= int64(len(b))
		return b, false
	}
	b = b[:p.allow]
	p.allow = -1
	return b, true
}

// wait returns true when the moment has come and nothing is stalled, false if the link is cut.
func (p *Proxy) wait(l *link, due time.Time) bool {
	if d := time.Until(due); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-l.gone:
			return false
		}
	}
	for {
		p.mu.Lock()
		stalled := p.stalled
		p.mu.Unlock()
		if stalled == nil {
			return true
		}
		select {
		case <-stalled:
		case <-l.gone:
			return false
		}
	}
}
