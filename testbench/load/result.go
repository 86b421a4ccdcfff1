package load

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"dunlin/core/packet"
)

// Result is what came of a run.
type Result struct {
	Scenario string    `json:"scenario"`
	Started  time.Time `json:"started"`
	Options  Options   `json:"options"`
	Command  string    `json:"command,omitempty"`

	Seconds   float64 `json:"seconds"` // that were measured; the counts below are of this interval
	Published uint64  `json:"published"`
	Delivered uint64  `json:"delivered"`
	Held      uint64  `json:"held_back"` // could not leave when the clock of the open loop wanted it

	Latency *Percentiles `json:"latency,omitempty"` // from leaving, or the moment it was due, to arriving
	Ack     *Percentiles `json:"ack,omitempty"`     // to the last acknowledgement of the broker
	Broker  *Usage       `json:"broker,omitempty"`
	// Generator is the part of one CPU that the generator used: near its number of loops, it is
	// what was measured.
	Generator float64 `json:"generator_cpus"`

	Total uint64 `json:"total"` // delivered in the whole run

	// These are of the whole run, too, and must be 0.
	Lost           uint64 `json:"lost"`
	Duplicated     uint64 `json:"duplicated"`
	Misordered     uint64 `json:"misordered"`
	Foreign        uint64 `json:"foreign"`
	Refused        uint64 `json:"refused"`
	Unacknowledged uint64 `json:"unacknowledged"`
	Stalls         uint64 `json:"stalls"`
	// These may be more.
	Crossed uint64 `json:"crossed"` // behind a later message of the same publisher on another topic
	Retried uint64 `json:"retried"` // connects that were tried again

	Idle    *Idle    `json:"idle,omitempty"`
	Storm   *Storm   `json:"storm,omitempty"`
	Offline *Offline `json:"offline,omitempty"`

	Faults []string `json:"faults,omitempty"` // what is wrong, in words

	latency, acks Histogram
}

// Usage is what the broker's process used in the measured interval.
type Usage struct {
	PID         int     `json:"pid"`
	Name        string  `json:"name"`
	CPUs        float64 `json:"cpus"` // part of one CPU
	PerDelivery float64 `json:"cpu_us_per_delivery,omitempty"`
	PerPublish  float64 `json:"cpu_us_per_publish,omitempty"`
	RSS         int64   `json:"rss"` // bytes, at the end
	PSS         int64   `json:"pss"`
	Peak        int64   `json:"rss_peak"` // since the process was started
	Written     int64   `json:"written"`  // bytes that it caused to be written to block devices
}

func newResult(e *engine) *Result {
	return &Result{Options: *e.Options, Started: time.Now().UTC()}
}

// between fills in the measured interval.
func (r *Result) between(from, to mark, broker *Process) {
	wall := float64(to.at-from.at) / 1e9
	r.Seconds = wall
	r.Published = to.counts.published - from.counts.published
	r.Delivered = to.counts.delivered - from.counts.delivered
	r.Held = to.counts.held - from.counts.held
	r.Generator = (to.generator - from.generator).Seconds() / wall
	if from.broker == nil || to.broker == nil {
		return
	}
	cpu := to.broker.CPU - from.broker.CPU
	r.Broker = &Usage{
		PID: broker.PID, Name: broker.Name(), CPUs: cpu.Seconds() / wall,
		RSS: to.broker.RSS, PSS: to.broker.PSS, Peak: to.broker.Peak,
		Written: to.broker.Written - from.broker.Written,
	}
	if r.Delivered > 0 {
		r.Broker.PerDelivery = float64(cpu) / 1e3 / float64(r.Delivered)
	}
	if r.Published > 0 {
		r.Broker.PerPublish = float64(cpu) / 1e3 / float64(r.Published)
	}
}

// judge fills in Faults.
func (r *Result) judge() {
	find := func(n uint64, what string) {
		if n > 0 {
			r.Faults = append(r.Faults, fmt.Sprintf("%d %s", n, what))
		}
	}
	if !r.Options.MayLose {
		find(r.Lost, fmt.Sprintf("deliveries are lost: not there after %v without any", r.Options.Settle))
		find(r.Stalls, "times nothing arrived for seconds")
	}
	find(r.Duplicated, "deliveries are duplicates")
	find(r.Misordered, "deliveries came behind a later message of the same publisher and topic")
	find(r.Foreign, "deliveries are not of this run")
	find(r.Refused, "messages were refused")
	find(r.Unacknowledged, "messages were not acknowledged")
}

// OK says whether nothing was wrong.
func (r *Result) OK() bool { return len(r.Faults) == 0 }

// JSON writes r as an indented object.
func (r *Result) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// Table writes r for people.
func (r *Result) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	row(r.Scenario, "%s", r.Options.words(r.Scenario))
	if r.Seconds > 0 && r.Published+r.Delivered > 0 {
		row("published", "%s/s  (%d in %.2f s)", perSecond(r.Published, r.Seconds), r.Published, r.Seconds)
		row("delivered", "%s/s  (%d)", perSecond(r.Delivered, r.Seconds), r.Delivered)
	}
	if r.Held > 0 {
		row("held back", "%s/s", perSecond(r.Held, r.Seconds))
	}
	percentiles := func(name string, p *Percentiles) {
		if p != nil {
			row(name, "p50 %s  p90 %s  p99 %s  p99.9 %s  max %s", micros(p.P50), micros(p.P90), micros(p.P99), micros(p.P999), micros(p.Max))
		}
	}
	percentiles("latency", r.Latency)
	percentiles("acknowledged", r.Ack)
	r.Idle.rows(row)
	r.Storm.rows(row)
	r.Offline.rows(row)
	if b := r.Broker; b != nil {
		row("broker", "%s (pid %d), %.2f CPUs", b.Name, b.PID, b.CPUs)
		if b.PerDelivery > 0 {
			row("CPU", "%.3f µs per delivery, %.3f µs per message published", b.PerDelivery, b.PerPublish)
		}
		row("memory", "RSS %s, PSS %s, peak RSS %s", mib(b.RSS), mib(b.PSS), mib(b.Peak))
		row("written", "%s to block devices", mib(b.Written))
	}
	row("generator", "%.2f CPUs", r.Generator)
	lost := "lost"
	if r.Options.MayLose {
		lost = "lost or still on their way"
	}
	row("lost", "%d %s, %d duplicated, %d misordered (%d crossed over from other topics)", r.Lost, lost, r.Duplicated, r.Misordered, r.Crossed)
	if r.OK() {
		row("verdict", "ok")
	} else {
		row("verdict", "WRONG: %s", strings.Join(r.Faults, "; "))
	}
	return t.Flush()
}

func perSecond(n uint64, seconds float64) string {
	switch v := float64(n) / seconds; {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1f k", v/1e3)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

func micros(us float64) string {
	switch {
	case us >= 1e6:
		return fmt.Sprintf("%.2f s", us/1e6)
	case us >= 1e4:
		return fmt.Sprintf("%.1f ms", us/1e3)
	default:
		return fmt.Sprintf("%.0f µs", us)
	}
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// words says in short what the options ask for.
func (o *Options) words(scenario string) string {
	var b strings.Builder
	add := func(format string, args ...any) {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, format, args...)
	}
	add("%s", o.Address)
	version := "3.1.1"
	if o.Version == packet.V5 {
		version = "5.0"
	}
	add("MQTT %s", version)
	if o.Pairs > 0 {
		add("%d pairs (QoS %d to %d)", o.Pairs, o.PubQoS, o.SubQoS)
	}
	if o.Connections > 0 {
		add("%d connections", o.Connections)
	}
	if o.Publishers > 0 {
		add("%d publishers (QoS %d)", o.Publishers, o.PubQoS)
	}
	if o.Subscribers > 0 {
		add("%d subscribers (QoS %d)", o.Subscribers, o.SubQoS)
	}
	if o.Persistent {
		add("persistent sessions")
	}
	if o.Topics > 0 {
		add("%d topics", o.Topics)
	}
	add("%d B", o.Size)
	switch {
	case o.Every > 0:
		add("open loop, %d every %v", o.Burst, o.Every)
	case o.Window > 0:
		add("%d in flight", o.Window)
		if o.Burst > 1 {
			add("%d of a publisher at a time", o.Burst)
		}
	}
	return b.String()
}
