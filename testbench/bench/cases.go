package main

import (
	"fmt"
	"slices"
	"time"

	"dunlin/testbench/load"
)

// benchCase is one thing that is measured.
type benchCase struct {
	name     string
	words    string
	scenario string // of package load
	set      func(o *load.Options)
	start    bool // measures the start instead of a scenario
	columns  []string
	// must are the ratios to a peer that we want to hold.
	must []must
	// without says why a broker does not take part.
	without map[string]string
}

// must is a bound: our figure is at most factor times that of the peer, at least if atLeast.
// Without a peer it is at most factor.
type must struct {
	figure  string
	of      string
	factor  float64
	atLeast bool
}

var (
	flowColumns = []string{"deliveries_per_s", "cpu_us", "p50_us", "p99_us", "rss_peak_mib", "lost"}
	// A consumer of JetStream for each of 256,000 subscriptions takes it longer than the whole run.
	noStreams = map[string]string{"nats-server": "makes a stream consumer of each subscription at QoS 1 and 2"}
)

// small bounds the memory of a broadcast: 20 MB.
var small = must{figure: "rss_peak_mib", factor: 20e6 / (1 << 20)}

// cpu bounds the CPU time for a delivery.
func cpu(factor float64) must { return must{figure: "cpu_us", of: "mosquitto", factor: factor} }

// broadcast is a closed loop from 10 publishers to 2000 subscribers.
func broadcast(qos byte, window int, more ...must) *benchCase {
	c := &benchCase{
		name:     fmt.Sprintf("fanout-qos%d-%d", qos, window),
		words:    fmt.Sprintf("10 publishers, 2000 subscribers to all of 128 topics, 128 B, QoS %d, %d messages in flight", qos, window),
		scenario: "fanout", columns: flowColumns, must: more,
		set: func(o *load.Options) { o.PubQoS, o.SubQoS, o.Window = qos, qos, window },
	}
	if qos > 0 {
		c.without = noStreams
	}
	return c
}

// collect is a closed loop from 2000 publishers to one subscriber.
func collect(qos byte, window int) *benchCase {
	return &benchCase{
		name:     fmt.Sprintf("fanin-qos%d", qos),
		words:    fmt.Sprintf("2000 publishers, 128 topics, 1 subscriber, 128 B, QoS %d, %d messages in flight, a publisher's 10 at a time", qos, window),
		scenario: "fanin", columns: flowColumns, must: []must{cpu(0.1)},
		set: func(o *load.Options) { o.PubQoS, o.SubQoS, o.Window = qos, qos, window },
	}
}

// storm lets all clients lose their connections at once and come back, atOnce at a time.
func storm(name string, atOnce int, words string) *benchCase {
	return &benchCase{
		name:     name,
		words:    "15,000 clients lose their connections at once, connect and subscribe again, seconds until the last is back; " + words,
		scenario: "storm", columns: []string{"first_s", "again_s", "storm_cpu_s"},
		must: []must{{figure: "again_s", of: "mosquitto", factor: 0.3}},
		set:  func(o *load.Options) { o.Rounds, o.AtOnce = 1, atOnce },
	}
}

// cases are what is measured, in this order.
var cases = []*benchCase{
	broadcast(0, 100, cpu(0.02), small, must{figure: "deliveries_per_s", of: "mosquitto", factor: 30, atLeast: true}),
	broadcast(1, 100, cpu(0.033), small),
	broadcast(2, 100, cpu(0.02), small),
	broadcast(0, 20, cpu(0.1)),
	broadcast(0, 1000, cpu(0.02)),
	{
		name:     "fanout-single",
		words:    "10 publishers, 2000 subscribers, 128 B, QoS 0, open loop: 20 single messages a second",
		scenario: "fanout", columns: flowColumns, must: []must{cpu(0.9)},
		set: func(o *load.Options) { o.Every, o.Burst = 500*time.Millisecond, 1 },
	},
	{
		name:     "fanout-published",
		words:    "10 publishers, 2000 subscribers, 128 topics, 128 B, QoS 0, open loop: each publisher a message every millisecond, as far as it goes; lost counts what is still on its way three seconds later",
		scenario: "fanout", columns: flowColumns,
		set: func(o *load.Options) { o.Every, o.Burst, o.MayLose = time.Millisecond, 1, true },
	},
	collect(0, 20_000),
	collect(1, 20_000),
	collect(2, 20_000),
	{
		name:     "fanin-published",
		words:    "2000 publishers, 128 topics, 1 subscriber, 128 B, QoS 0, open loop: each publisher 10 messages every millisecond, as far as it goes; lost counts what is still on its way three seconds later",
		scenario: "fanin", columns: flowColumns,
		set: func(o *load.Options) { o.Every, o.Burst, o.MayLose = time.Millisecond, 10, true },
	},
	{
		name:     "pairs",
		words:    "100 publishers, each to a subscriber of its own, 5000 messages a second, 128 B, QoS 1",
		scenario: "pairs", columns: flowColumns,
		must: []must{
			cpu(1),
			{figure: "p50_us", of: "mosquitto", factor: 1},
			{figure: "p99_us", of: "mosquitto", factor: 1},
		},
		set: func(o *load.Options) { o.PubQoS, o.SubQoS = 1, 1 },
	},
	{
		name:     "idle",
		words:    "15,000 connections with one subscription each, before and after 3 messages to each; bytes resident for each",
		scenario: "idle", columns: []string{"each_settled", "each_traffic", "rss_peak_mib", "lost"},
		must: []must{{figure: "each_settled", of: "mosquitto", factor: 0.8}, {figure: "each_traffic", of: "mosquitto", factor: 0.8}},
		set:  func(*load.Options) {},
	},
	storm("storm", 15_000, "all open their connections at once, and what a listener has no room for tries again as TCP does"),
	storm("storm-1000", 1_000, "1,000 of them open theirs at a time"),
	{
		name:     "offline",
		words:    "20,000 messages of 128 B at QoS 1 for an absent session, 200 in flight; then it comes and gets them. Only dunlin and nats-server write them to disk",
		scenario: "offline", columns: []string{"queue_per_s", "drain_per_s", "queue_cpu_us", "memory_each", "written_each", "lost"},
		set: func(*load.Options) {},
	},
	{
		name: "start", words: "from the start of the process to the first CONNACK; memory when nobody is connected", start: true,
		columns: []string{"start_ms", "idle_rss_mib"},
		must:    []must{{figure: "start_ms", of: "mosquitto", factor: 2}, {figure: "idle_rss_mib", of: "mosquitto", factor: 1}},
	},
}

// guarded are the cases of the regression guard: CPU for a delivery, as a ratio to that of the
// bare fan-out.
var guarded = []string{"fanout-qos0-100", "fanout-qos1-100", "fanout-qos2-100", "fanout-single", "fanin-qos0", "fanin-qos1", "pairs"}

// figures are the numbers of one run, by name.
type figures map[string]float64

// figuresOf picks them from a result.
func figuresOf(r *load.Result) figures {
	f := figures{
		"lost": float64(r.Lost), "duplicated": float64(r.Duplicated), "misordered": float64(r.Misordered),
		"wrong": float64(len(r.Faults)), "generator_cpus": r.Generator,
	}
	if r.Seconds > 0 {
		f["deliveries_per_s"] = float64(r.Delivered) / r.Seconds
		f["publishes_per_s"] = float64(r.Published) / r.Seconds
	}
	if l := r.Latency; l != nil {
		f["p50_us"], f["p99_us"], f["p999_us"] = l.P50, l.P99, l.P999
	}
	if a := r.Ack; a != nil {
		f["ack_p50_us"], f["ack_p99_us"] = a.P50, a.P99
	}
	if b := r.Broker; b != nil {
		f["cpu_us"], f["broker_cpus"] = b.PerDelivery, b.CPUs
		f["rss_mib"], f["rss_peak_mib"] = float64(b.RSS)/(1<<20), float64(b.Peak)/(1<<20)
		f["written_mib"] = float64(b.Written) / (1 << 20)
	}
	if i := r.Idle; i != nil {
		f["each_opened"], f["each_settled"], f["each_traffic"] = i.EachOpened, i.EachSettled, i.EachTraffic
	}
	if s := r.Storm; s != nil {
		f["first_s"], f["again_s"], f["storm_cpu_s"] = s.First, s.Median, s.CPU
	}
	if o := r.Offline; o != nil {
		f["queue_per_s"], f["drain_per_s"], f["queue_cpu_us"] = o.QueueRate, o.DrainRate, o.QueueCPU
		f["memory_each"], f["written_each"] = o.Memory, o.Written
	}
	return f
}

// threaded are the cases in which threads may share the reading and the writing. Their bounds are
// about other brokers.
func threaded() (all []*benchCase) {
	names := []string{"fanout-qos0-100", "fanout-qos1-100", "fanin-qos0", "fanin-qos1"}
	for _, c := range cases {
		if slices.Contains(names, c.name) {
			c := *c
			c.must = nil
			all = append(all, &c)
		}
	}
	return all
}
