package load

import (
	"context"
	"fmt"
)

// Offline is what a queue for absent subscribers costs.
type Offline struct {
	QueueSeconds float64 `json:"queue_s"` // until the last message was acknowledged
	QueueRate    float64 `json:"queue_per_s"`
	DrainSeconds float64 `json:"drain_s"` // from the connect to the last message
	DrainRate    float64 `json:"drain_per_s"`
	// Memory and Written are of the queueing, in bytes for each message; 0 without a process.
	Memory       float64 `json:"memory_each"`
	Written      float64 `json:"written_each"`
	QueueCPU     float64 `json:"queue_cpu_us"` // of the broker, for each message
	DrainCPU     float64 `json:"drain_cpu_us"`
	DrainWritten float64 `json:"drain_written_each"`
}

func (o *Offline) rows(row rower) {
	if o == nil {
		return
	}
	row("queue", "%.0f/s, %.2f s; %.2f µs CPU, %.0f B of memory, %.0f B written for each",
		o.QueueRate, o.QueueSeconds, o.QueueCPU, o.Memory, o.Written)
	row("drain", "%.0f/s, %.2f s; %.2f µs CPU, %.0f B written for each", o.DrainRate, o.DrainSeconds, o.DrainCPU, o.DrainWritten)
}

// offline: subscribers with persistent sessions go; messages are published to them; they come
// back and get them.
func offline(ctx context.Context, o *Options) (*Result, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.PubQoS == 0 || o.SubQoS == 0 || o.Messages < 1 || o.Window < o.Publishers {
		return nil, fmt.Errorf("load: offline wants QoS 1 or 2 on both sides, a message, and a window of at least one for each publisher")
	}
	e, err := newEngine(ctx, o)
	if err != nil {
		return nil, err
	}
	defer e.end()
	topic := e.topic(0)
	for i := range o.Subscribers {
		c := e.client(fmt.Sprintf("s%d", i))
		c.filters, c.qos, c.persistent = []string{topic}, o.SubQoS, true
		c.tracks = make([]track, o.Publishers)
	}
	absent := e.clients
	for i := range o.Publishers {
		p := e.publisher(e.client(fmt.Sprintf("p%d", i)), []string{topic}, share(o.Window, o.Publishers, i), 0)
		p.limit = uint32(share(o.Messages, o.Publishers, i))
	}
	broker, err := e.prepare(len(e.clients))
	if err != nil {
		return nil, err
	}
	e.start()
	defer e.clear()

	var empty, queued, drained mark
	for _, step := range []func() error{
		func() error { return e.connect(ctx, e.clients, e.AtOnce) },
		func() error { return e.leave(ctx, absent) },
		func() (err error) { empty, err = e.mark(broker, true); return },
		func() error { return e.publish(true) },
		func() error { return e.acknowledged(ctx, uint64(o.Messages)) },
		func() (err error) { queued, err = e.mark(broker, false); return },
		func() error { return e.back(ctx, absent) },
		func() (err error) { drained, err = e.mark(broker, false); return },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	r := newResult(e)
	r.between(empty, drained, broker)
	if err := e.books(r); err != nil {
		return nil, err
	}
	r.Latency = nil // is how long they were absent
	if o.Keep {
		r.Lost = 0
	}
	n := float64(o.Messages)
	f := &Offline{
		QueueSeconds: float64(queued.at-empty.at) / 1e9,
		DrainSeconds: float64(drained.at-queued.at) / 1e9,
	}
	f.QueueRate = n / f.QueueSeconds
	if !o.Keep {
		f.DrainRate = n * float64(o.Subscribers) / f.DrainSeconds
	}
	if broker != nil {
		f.Memory = float64(queued.broker.RSS-empty.broker.RSS) / n
		f.Written = float64(queued.broker.Written-empty.broker.Written) / n
		f.DrainWritten = float64(drained.broker.Written-queued.broker.Written) / n
		f.QueueCPU = float64(queued.broker.CPU-empty.broker.CPU) / 1e3 / n
		f.DrainCPU = float64(drained.broker.CPU-queued.broker.CPU) / 1e3 / n / float64(o.Subscribers)
	}
	r.Offline = f
	if o.Keep {
		return r, nil
	}
	return r, e.forget(ctx, absent)
}

// back lets the absent subscribers come back and waits until they have everything, unless it is to be
// kept.
func (e *engine) back(ctx context.Context, absent []*client) error {
	if e.Keep {
		return nil
	}
	if err := e.connect(ctx, absent, e.AtOnce); err != nil {
		return err
	}
	return e.delivered(ctx, uint64(e.Messages)*uint64(len(absent)))
}

// leave lets clients send DISCONNECT and waits until the broker has closed their connections.
func (e *engine) leave(ctx context.Context, clients []*client) error {
	here := make(map[*loop][]*client)
	for _, c := range clients {
		here[c.loop] = append(here[c.loop], c)
	}
	if err := e.each(func(l *loop) {
		for _, c := range here[l] {
			if err := l.leave(c); err != nil {
				l.broke(c, err)
			}
		}
	}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, e.Timeout,
		fmt.Errorf("load: the broker does not close connections that have sent DISCONNECT"))
	defer cancel()
	return e.until(ctx, "leaving", func(c counts) bool { return c.leaving == 0 })
}

// forget removes the sessions of clients from the broker.
func (e *engine) forget(ctx context.Context, clients []*client) error {
	if err := e.leave(ctx, clients); err != nil {
		return err
	}
	if err := e.each(func(l *loop) {
		for _, c := range clients {
			if c.loop == l {
				c.persistent, c.filters = false, nil
			}
		}
	}); err != nil {
		return err
	}
	return e.connect(ctx, clients, e.AtOnce)
}

// acknowledged waits for n acknowledgements. A broker that does not give them ends the run.
func (e *engine) acknowledged(ctx context.Context, n uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.Timeout, fmt.Errorf("load: %d messages are not acknowledged after %v", n, e.Timeout))
	defer cancel()
	return e.until(ctx, "queueing", func(c counts) bool { return c.acked >= n })
}
