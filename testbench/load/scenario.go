package load

import (
	"context"
	"runtime"
	"time"

	"dunlin/core/packet"
)

// Scenario is a way to load a broker.
type Scenario struct {
	Name, Summary string
	// Flags are the names of the options that it looks at, besides those of all.
	Flags []string
	// Defaults sets what differs from Defaults.
	Defaults func(o *Options)
	run      func(ctx context.Context, o *Options) (*Result, error)
}

// Run runs it. The Result is judged.
func (s *Scenario) Run(ctx context.Context, o Options) (*Result, error) {
	r, err := s.run(ctx, &o)
	if err != nil {
		return nil, err
	}
	r.Scenario = s.Name
	r.judge()
	return r, nil
}

// Options returns the options of s if nothing is said.
func (s *Scenario) Options() Options {
	o := Options{
		Address: "127.0.0.1:1883", Version: packet.V311, Loops: max(1, runtime.NumCPU()/2),
		Size: 128, AtOnce: 200, Burst: 1,
		Warmup: time.Second, Measure: 5 * time.Second, Settle: 3 * time.Second, Stall: 2 * time.Second, Timeout: time.Minute,
	}
	s.Defaults(&o)
	return o
}

// Scenarios are all there are.
var Scenarios = []*Scenario{
	{
		Name: "fanout", Summary: "few publishers, every message to each of many subscribers", run: star,
		Flags: []string{"publishers", "subscribers", "topics", "wildcard", "window", "every", "burst", "persistent"},
		Defaults: func(o *Options) {
			o.Publishers, o.Subscribers, o.Topics, o.Window = 10, 2000, 128, 100
		},
	},
	{
		Name: "fanin", Summary: "many publishers, few subscribers", run: star,
		Flags: []string{"publishers", "subscribers", "topics", "wildcard", "window", "every", "burst", "persistent"},
		Defaults: func(o *Options) {
			o.Publishers, o.Subscribers, o.Topics, o.Window, o.Burst = 2000, 1, 128, 20_000, 10
		},
	},
	{
		Name: "pairs", Summary: "one publisher to one subscriber, many times, at a rate: latency", run: pairs,
		Flags:    []string{"pairs", "rate", "window", "persistent"},
		Defaults: func(o *Options) { o.Pairs, o.Rate, o.Window = 100, 5000, 100 },
	},
	{
		Name: "idle", Summary: "connections with one subscription each: memory", run: idle,
		Flags: []string{"connections", "messages", "rest"},
		Defaults: func(o *Options) {
			o.Connections, o.Messages, o.Settle, o.Rest = 15_000, 3, 15*time.Second, 6*time.Second
		},
	},
	{
		Name: "storm", Summary: "all clients lose their connection at once and come back", run: storm,
		Flags: []string{"connections", "rounds"},
		Defaults: func(o *Options) { // More at a time only wait for each other in the queue of the listener.
			o.Connections, o.Rounds, o.AtOnce, o.Timeout = 15_000, 3, 1000, 5*time.Minute
		},
	},
	{
		Name: "offline", Summary: "messages for absent subscribers: queue them, then drain the queue", run: offline,
		Flags: []string{"publishers", "subscribers", "messages", "window"},
		Defaults: func(o *Options) {
			o.Publishers, o.Subscribers, o.Messages, o.Window, o.PubQoS, o.SubQoS = 4, 1, 20_000, 200, 1, 1
		},
	},
}

// Find returns the scenario of that name, nil if there is none.
func Find(name string) *Scenario {
	for _, s := range Scenarios {
		if s.Name == name {
			return s
		}
	}
	return nil
}
