package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// tickEvery is how often the one who waits for the loops looks at them.
const tickEvery = 5 * time.Millisecond

// engine has the loops and all clients of a run.
type engine struct {
	*Options
	address netip.AddrPort
	run     uint32
	open    bool // an open loop: messages leave by the clock

	loops      []*loop
	clients    []*client
	publishers []*publisher

	publishing atomic.Bool
	dialled    atomic.Uint32
	stalls     uint64
	line       line

	wait   sync.WaitGroup
	once   sync.Once
	failed chan struct{} // closed when err is set
	err    error
}

func newEngine(ctx context.Context, o *Options) (*engine, error) {
	address, err := resolve(ctx, o.Address)
	if err != nil {
		return nil, err
	}
	e := &engine{
		Options: o, address: address, run: rand.Uint32(), open: o.Every > 0,
		failed: make(chan struct{}),
	}
	for range max(o.Loops, 1) {
		l, err := newLoop(e)
		if err != nil {
			e.end()
			return nil, err
		}
		e.loops = append(e.loops, l)
	}
	return e, nil
}

func resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("load: %q is no HOST:PORT", address)
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("load: %w", err)
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("load: %w", err)
	}
	return netip.AddrPortFrom(found[0].Unmap(), uint16(n)), nil
}

// client adds a client, and gives it to the loops in turn.
func (e *engine) client(id string) *client {
	l := e.loops[len(e.clients)%len(e.loops)]
	c := &client{loop: l, id: fmt.Sprintf("bench-%08x-%s", e.run, id), fd: -1}
	l.clients = append(l.clients, c)
	e.clients = append(e.clients, c)
	return c
}

// topic returns the name of topic n of this run.
func (e *engine) topic(n int) string { return e.prefix() + strconv.Itoa(n) }

func (e *engine) prefix() string { return fmt.Sprintf("bench/%08x/", e.run) }

// publisher makes c publish to topics, one after the other. It may have window messages in
// flight; in a closed loop each of them waits for expect deliveries.
func (e *engine) publisher(c *client, topics []string, window, expect int) *publisher {
	p := &publisher{client: c, index: uint32(len(e.publishers)), qos: e.PubQoS, burst: max(e.Burst, 1), limit: ^uint32(0)}
	for _, t := range topics {
		p.frames = append(p.frames, e.frame(t))
	}
	if !e.open {
		p.expect = uint64(expect)
	}
	p.slots = make([]slot, min(max(window, 1), 65535))
	c.pub = p
	e.publishers = append(e.publishers, p)
	if e.open {
		c.loop.pace.publishers = append(c.loop.pace.publishers, p)
		c.loop.pace.interval, c.loop.pace.burst = e.Every, e.Burst
	}
	return p
}

func (e *engine) frame(topic string) frame {
	return newFrame(topic, e.PubQoS, e.Size, e.Version, e.run)
}

// share returns what part i of n gets of total.
func share(total, n, i int) int { return total*(i+1)/n - total*i/n }

// start starts the loops. Owner: who has made the engine and calls end, which waits for them.
func (e *engine) start() {
	for _, l := range e.loops {
		e.wait.Go(l.run)
	}
}

// end closes all connections, waits for the loops and releases what they have.
func (e *engine) end() {
	for _, l := range e.loops {
		l.do(func() { l.done = true })
	}
	e.wait.Wait()
	for _, l := range e.loops {
		l.poller.Close()
	}
}

// fail ends the run with err, if nothing else has ended it.
func (e *engine) fail(err error) {
	e.once.Do(func() {
		e.err = err
		close(e.failed)
	})
}

// each runs f on every loop and waits for all.
func (e *engine) each(f func(l *loop)) error {
	var wait sync.WaitGroup
	wait.Add(len(e.loops))
	for _, l := range e.loops {
		l.do(func() {
			f(l)
			wait.Done()
		})
	}
	done := make(chan struct{})
	e.wait.Go(func() { // ends with the loops at the latest: their inbox is emptied in the turn that ends them
		wait.Wait()
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-e.failed:
		return e.err
	}
}

// totals returns what all loops have counted.
func (e *engine) totals() (counts, error) {
	var mu sync.Mutex
	var sum counts
	err := e.each(func(l *loop) {
		mu.Lock()
		defer mu.Unlock()
		sum.add(&l.counts)
	})
	mu.Lock()
	defer mu.Unlock()
	return sum, err
}

// until asks the loops every tickEvery until reached says so.
func (e *engine) until(ctx context.Context, what string, reached func(counts) bool) error {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		sum, err := e.totals()
		if err != nil {
			return err
		}
		if reached(sum) {
			return nil
		}
		e.progress(what, sum)
		if err := e.sleep(ctx, ticker.C); err != nil {
			return err
		}
	}
}

// sleep waits for a tick, the end of the run or of ctx.
func (e *engine) sleep(ctx context.Context, tick <-chan time.Time) error {
	select {
	case <-tick:
		return nil
	case <-e.failed:
		return e.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connect opens clients, at most atOnce at a time on each loop, and waits until all are ready.
func (e *engine) connect(ctx context.Context, clients []*client, atOnce int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.Timeout,
		fmt.Errorf("load: not all clients are connected and subscribed after %v", e.Timeout))
	defer cancel()
	before, err := e.totals()
	if err != nil {
		return err
	}
	share := make(map[*loop][]*client)
	for _, c := range clients {
		share[c.loop] = append(share[c.loop], c)
	}
	if err := e.each(func(l *loop) {
		l.maxOpening = atOnce
		l.waiting = append(l.waiting, share[l]...)
	}); err != nil {
		return err
	}
	return e.until(ctx, fmt.Sprintf("%d connections", len(clients)), func(c counts) bool {
		return c.ready >= before.ready+len(clients)
	})
}

// publish starts or stops the publishers.
func (e *engine) publish(on bool) error {
	e.publishing.Store(on)
	return e.each(func(l *loop) {
		l.pace.stop()
		if on {
			l.pace.start()
		}
		for _, c := range l.clients {
			if c.pub == nil {
				continue
			}
			c.pub.tokens = 0
			if on && !e.open {
				l.queue(c.pub)
			}
		}
	})
}

// mark is the state of things at one moment.
type mark struct {
	at        int64
	counts    counts
	broker    *Sample // nil without a process
	generator time.Duration
}

// mark takes the state of things. fresh forgets the durations that were recorded up to now.
func (e *engine) mark(broker *Process, fresh bool) (mark, error) {
	if fresh {
		if err := e.each(func(l *loop) { l.latency, l.acks = Histogram{}, Histogram{} }); err != nil {
			return mark{}, err
		}
	}
	sum, err := e.totals()
	if err != nil {
		return mark{}, err
	}
	m := mark{at: now(), counts: sum, generator: ownCPU()}
	if broker != nil {
		if m.broker, err = broker.Sample(); err != nil {
			return mark{}, err
		}
	}
	return m, nil
}

// pass lets d go by. In a closed loop in which nothing arrives for Options.Stall it writes off what
// is in flight, so that one lost message does not end the run.
func (e *engine) pass(ctx context.Context, what string, d time.Duration) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	end, moved := now()+int64(d), now()
	var last uint64
	for now() < end {
		if err := e.sleep(ctx, ticker.C); err != nil {
			return err
		}
		sum, err := e.totals()
		if err != nil {
			return err
		}
		e.progress(what, sum)
		if seen := sum.delivered + sum.acked; seen != last || e.open {
			last, moved = seen, now()
			continue
		}
		if time.Duration(now()-moved) > e.Stall {
			e.stalls++
			moved = now()
			if err := e.writeOff(); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeOff frees the slots of messages at QoS 0 that did not arrive. What is not acknowledged
// cannot be written off: its identifier is in use.
func (e *engine) writeOff() error {
	if e.PubQoS > 0 {
		return errors.New("load: the broker neither delivers nor acknowledges anything any more")
	}
	return e.each(func(l *loop) {
		for _, c := range l.clients {
			if c.pub == nil {
				continue
			}
			for i := range c.pub.slots {
				c.pub.slots[i].state.Store(0)
			}
			l.queue(c.pub)
		}
	})
}

// settle waits until every message that was sent has arrived as often as it should and is
// acknowledged, or nothing more comes for Options.Settle.
func (e *engine) settle(ctx context.Context, expect func(p *publisher) uint64) error {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	began := now()
	moved := began
	var last counts
	for {
		var mu sync.Mutex
		var sum counts
		var due uint64
		if err := e.each(func(l *loop) {
			mu.Lock()
			defer mu.Unlock()
			sum.add(&l.counts)
			for _, c := range l.clients {
				if c.pub != nil {
					due += uint64(c.pub.next) * expect(c.pub)
				}
			}
		}); err != nil {
			return err
		}
		if sum.delivered >= due && (e.PubQoS == 0 || sum.acked == sum.published) {
			return nil
		}
		if sum != last {
			last, moved = sum, now()
		}
		// A flood of an open loop can take as long as one likes to pass.
		if e.MayLose {
			moved = began
		}
		if time.Duration(now()-moved) > e.Settle {
			return nil
		}
		e.progress("waiting for the rest", sum)
		if err := e.sleep(ctx, ticker.C); err != nil {
			return err
		}
	}
}

// gather adds up a histogram of all loops.
func (e *engine) gather(sum *Histogram, of func(*loop) *Histogram) error {
	var mu sync.Mutex
	return e.each(func(l *loop) {
		mu.Lock()
		defer mu.Unlock()
		sum.Add(of(l))
	})
}

// books compares what every subscriber has got with what was sent.
func (e *engine) books(r *Result) error {
	var mu sync.Mutex
	var sum counts
	err := e.each(func(l *loop) {
		mu.Lock()
		defer mu.Unlock()
		sum.add(&l.counts)
		for _, c := range l.clients {
			for i := range c.tracks {
				r.Lost += c.tracks[i].missing(c.share(e.publishers[int(c.base)+i].next))
			}
		}
		r.latency.Add(&l.latency)
		r.acks.Add(&l.acks)
	})
	if err != nil {
		return err
	}
	r.Total = sum.delivered
	if e.PubQoS > 0 {
		r.Unacknowledged = sum.published - sum.acked
	}
	r.Duplicated, r.Misordered, r.Crossed, r.Foreign = sum.duplicated, sum.misordered, sum.crossed, sum.foreign
	r.Refused, r.Retried, r.Stalls = sum.refused, sum.retried, e.stalls
	r.Latency, r.Ack = r.latency.Percentiles(), r.acks.Percentiles()
	return nil
}

// share returns how many of the first sent messages of a publisher c gets.
func (c *client) share(sent uint32) uint32 {
	if c.stride == 0 {
		return sent
	}
	return (sent + c.stride - 1 - c.offset) / c.stride
}

// bySubscribers is the expectation of a publisher whose messages go to each of n.
func bySubscribers(n int) func(*publisher) uint64 {
	return func(*publisher) uint64 { return uint64(n) }
}
