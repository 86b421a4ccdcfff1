package load

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Storm is how long it took until all clients had connected and subscribed.
type Storm struct {
	First  float64   `json:"first_s"`  // the first time
	Again  []float64 `json:"again_s"`  // each time that all had lost their connection
	Median float64   `json:"median_s"` // of Again
	CPU    float64   `json:"broker_cpu_s"`
	// Connect is how long one client took, from its connect to its SUBACK.
	Connect *Percentiles `json:"connect,omitempty"`
}

func (s *Storm) rows(row rower) {
	if s == nil {
		return
	}
	row("first", "%.3f s until all were connected and subscribed", s.First)
	row("again", "%.3f s (median of %.3f), broker CPU %.3f s", s.Median, s.Again, s.CPU)
	if c := s.Connect; c != nil {
		row("each", "p50 %s  p99 %s  max %s", micros(c.P50), micros(c.P99), micros(c.Max))
	}
}

// storm: all clients connect and subscribe, Options.AtOnce of each loop at a time; then, round by round, all sockets are cut and
// all come back.
func storm(ctx context.Context, o *Options) (*Result, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Connections < 1 || o.Rounds < 1 {
		return nil, fmt.Errorf("load: %d connections and %d rounds, must be at least 1", o.Connections, o.Rounds)
	}
	e, err := newEngine(ctx, o)
	if err != nil {
		return nil, err
	}
	defer e.end()
	for i := range o.Connections {
		c := e.client(fmt.Sprintf("c%d", i))
		c.filters, c.qos = []string{e.topic(i)}, o.SubQoS
	}
	broker, err := e.prepare(len(e.clients))
	if err != nil {
		return nil, err
	}
	e.start()
	defer e.clear()

	s := new(Storm)
	began := now()
	if err := e.connect(ctx, e.clients, e.AtOnce); err != nil {
		return nil, err
	}
	if s.First, err = e.lastUp(began); err != nil {
		return nil, err
	}
	if err := e.each(func(l *loop) { l.connect = Histogram{} }); err != nil {
		return nil, err
	}
	from, err := e.mark(broker, true)
	if err != nil {
		return nil, err
	}
	for range o.Rounds {
		began := now()
		if err := e.each(func(l *loop) {
			for _, c := range l.clients {
				l.drop(c)
			}
		}); err != nil {
			return nil, err
		}
		if err := e.connect(ctx, e.clients, e.AtOnce); err != nil {
			return nil, err
		}
		took, err := e.lastUp(began)
		if err != nil {
			return nil, err
		}
		s.Again = append(s.Again, took)
	}
	to, err := e.mark(broker, false)
	if err != nil {
		return nil, err
	}
	r := newResult(e)
	r.between(from, to, broker)
	if err := e.books(r); err != nil {
		return nil, err
	}
	var all Histogram
	if err := e.gather(&all, func(l *loop) *Histogram { return &l.connect }); err != nil {
		return nil, err
	}
	s.Connect = all.Percentiles()
	s.Median = median(s.Again)
	if from.broker != nil {
		s.CPU = (to.broker.CPU - from.broker.CPU).Seconds() / float64(o.Rounds)
	}
	r.Storm = s
	return r, nil
}

// lastUp returns how many seconds after began the last client was ready.
func (e *engine) lastUp(began int64) (float64, error) {
	last := make([]int64, len(e.loops))
	err := e.each(func(l *loop) { last[slices.Index(e.loops, l)] = l.lastUp })
	return time.Duration(slices.Max(last) - began).Seconds(), err
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}
