package load

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// rower writes one line of a table.
type rower func(name, format string, args ...any)

// Idle is what connections cost that do nothing. Bytes are those resident for each connection.
type Idle struct {
	Baseline int64 `json:"baseline"` // RSS of the broker before, with the first connections
	Opened   int64 `json:"opened"`   // RSS when all are connected, at once
	Settled  int64 `json:"settled"`  // and when it has stopped to change
	Traffic  int64 `json:"traffic"`  // the same after each has had some messages

	EachOpened  float64 `json:"each_opened"`
	EachSettled float64 `json:"each_settled"`
	EachTraffic float64 `json:"each_traffic"`
}

func (i *Idle) rows(row rower) {
	if i == nil {
		return
	}
	row("before", "RSS %s with %d connections", mib(i.Baseline), idleFirst)
	row("each", "%.0f B at once, %.0f B settled, %.0f B settled after traffic", i.EachOpened, i.EachSettled, i.EachTraffic)
	row("all", "RSS %s at once, %s settled, %s settled after traffic", mib(i.Opened), mib(i.Settled), mib(i.Traffic))
}

// idleFirst is how many connections are there before the first look: what a broker needs for the
// first of a kind is not what each costs.
const idleFirst = 500

// idle: connections with one subscription each, then a few messages to each of them.
func idle(ctx context.Context, o *Options) (*Result, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Connections < 1 {
		return nil, fmt.Errorf("load: connections is %d, must be at least 1", o.Connections)
	}
	e, err := newEngine(ctx, o)
	if err != nil {
		return nil, err
	}
	defer e.end()
	n := idleFirst + o.Connections
	topics := make([]string, n)
	for i := range n {
		topics[i] = e.topic(i)
		c := e.client(fmt.Sprintf("c%d", i))
		c.filters, c.qos = topics[i:i+1], o.SubQoS
		c.tracks, c.stride, c.offset = make([]track, 1), uint32(n), uint32(i)
	}
	quiet := e.clients
	p := e.publisher(e.client("p"), topics, 200, 1)
	p.limit = uint32(n * o.Messages)

	broker, err := e.prepare(len(e.clients))
	if err != nil {
		return nil, err
	}
	if broker == nil {
		return nil, errors.New("load: idle measures the memory of the broker, whose process is not found on this machine; --pid names it")
	}
	e.start()
	defer e.clear()
	var r *Result
	i := new(Idle)
	var from mark
	for _, step := range []func() error{
		func() error { return e.connect(ctx, quiet[:idleFirst], e.AtOnce) },
		func() error { return e.connect(ctx, e.clients[n:], 1) },
		func() (err error) { i.Baseline, err = e.memory(ctx, broker); return },
		func() (err error) { from, err = e.mark(broker, true); return },
		func() error { return e.connect(ctx, quiet[idleFirst:], e.AtOnce) },
		func() error {
			s, err := broker.Sample()
			if err == nil {
				i.Opened = s.RSS
			}
			return err
		},
		func() (err error) { i.Settled, err = e.memory(ctx, broker); return },
		func() error { return e.publish(true) },
		func() error { return e.delivered(ctx, uint64(p.limit)) },
		func() (err error) { i.Traffic, err = e.memory(ctx, broker); return },
		func() error {
			to, err := e.mark(broker, false)
			if err != nil {
				return err
			}
			r = newResult(e)
			r.between(from, to, broker)
			return e.books(r)
		},
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	each := func(rss int64) float64 { return float64(rss-i.Baseline) / float64(o.Connections) }
	i.EachOpened, i.EachSettled, i.EachTraffic = each(i.Opened), each(i.Settled), each(i.Traffic)
	r.Idle = i
	return r, nil
}

// memory waits until the resident memory of the broker has not changed for Options.Rest, at most
// Options.Settle, and returns it. What counts is what connections take that do nothing for hours: there
// are brokers that wait for some seconds of rest before they give anything back.
func (e *engine) memory(ctx context.Context, broker *Process) (int64, error) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	began := now()
	changed := began
	var last int64
	for {
		s, err := broker.Sample()
		if err != nil {
			return 0, err
		}
		if s.RSS != last {
			last, changed = s.RSS, now()
		}
		if time.Duration(now()-changed) > e.Rest || time.Duration(now()-began) > e.Settle {
			return last, nil
		}
		sum, err := e.totals()
		if err != nil {
			return 0, err
		}
		e.progress("waiting for the memory to settle", sum)
		if err := e.sleep(ctx, ticker.C); err != nil {
			return 0, err
		}
	}
}

// delivered waits until n messages have arrived, or none comes any more.
func (e *engine) delivered(ctx context.Context, n uint64) error {
	moved := now()
	var last uint64
	return e.until(ctx, "delivering", func(c counts) bool {
		if c.delivered != last {
			last, moved = c.delivered, now()
		}
		return c.delivered >= n || time.Duration(now()-moved) > e.Settle
	})
}
