package load

import (
	"context"
	"fmt"
	"slices"
)

// star: every message goes to every subscriber. Each subscriber subscribes to all topics, one by
// one or by one wildcard, and the publishers go round them.
func star(ctx context.Context, o *Options) (*Result, error) {
	return o.flow(ctx, func(e *engine) {
		topics := make([]string, o.Topics)
		for i := range topics {
			topics[i] = e.topic(i)
		}
		filters := topics
		if o.Wildcard {
			filters = []string{e.prefix() + "+"}
		}
		for i := range o.Subscribers {
			c := e.client(fmt.Sprintf("s%d", i))
			c.filters, c.qos, c.persistent = filters, o.SubQoS, o.Persistent
			c.tracks = make([]track, o.Publishers)
		}
		for i := range o.Publishers {
			window := share(o.Window, o.Publishers, i)
			p := e.publisher(e.client(fmt.Sprintf("p%d", i)), topics, o.ring(window), o.Subscribers)
			if window == 0 && !e.open {
				p.limit = 0
			}
		}
	}, bySubscribers(o.Subscribers))
}

// ring returns how many slots a publisher needs that may have window messages in flight in a
// closed loop. In an open loop it is bound by the identifiers that a careful client uses.
func (o *Options) ring(window int) int {
	if o.Every > 0 {
		return max(1000, o.Burst)
	}
	return window
}

// flow runs messages through the broker: connect, warm up, measure, wait for the rest, compare.
func (o *Options) flow(ctx context.Context, plan func(*engine), expect func(*publisher) uint64) (*Result, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	e, err := newEngine(ctx, o)
	if err != nil {
		return nil, err
	}
	defer e.end()
	plan(e)
	return e.flow(ctx, expect)
}

func (e *engine) flow(ctx context.Context, expect func(*publisher) uint64) (*Result, error) {
	broker, err := e.prepare(len(e.clients))
	if err != nil {
		return nil, err
	}
	e.start()
	defer e.clear()
	if err := e.connect(ctx, e.clients, e.AtOnce); err != nil {
		return nil, err
	}
	if err := e.publish(true); err != nil {
		return nil, err
	}
	if err := e.pass(ctx, "warming up", e.Warmup); err != nil {
		return nil, err
	}
	from, err := e.mark(broker, true)
	if err != nil {
		return nil, err
	}
	if err := e.pass(ctx, "measuring", e.Measure); err != nil {
		return nil, err
	}
	to, err := e.mark(broker, false)
	if err != nil {
		return nil, err
	}
	r := newResult(e)
	r.between(from, to, broker)
	if err := e.publish(false); err != nil {
		return nil, err
	}
	if err := e.settle(ctx, expect); err != nil {
		return nil, err
	}
	if err := e.books(r); err != nil {
		return nil, err
	}
	return r, e.forget(ctx, slices.DeleteFunc(slices.Clone(e.clients), func(c *client) bool { return !c.persistent }))
}

// prepare makes room for n connections and finds the broker's process, nil if it is not here.
func (e *engine) prepare(n int) (*Process, error) {
	if err := RaiseFileLimit(n); err != nil {
		return nil, err
	}
	switch {
	case e.PID > 0:
		p := &Process{e.PID}
		_, err := p.Sample()
		return p, err
	case e.PID == 0:
		p, err := FindListener(e.address)
		if err != nil {
			return nil, nil // a broker elsewhere: its figures are left out
		}
		return p, nil
	}
	return nil, nil
}
