package config

import (
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"dunlin/core/access"
	"dunlin/core/topic"
)

// Store tunes what is on disk.
type Store struct {
	// Wear is "normal" or "low": what the others are that are "auto" in the file, or not there.
	Wear string
	// MaxBytes is how much of sessions.db may be in use, 0 = auto: see Bounds.
	MaxBytes int64
	// WhenFull says whether the largest queues lose their oldest messages when that is reached, or messages
	// are refused: "drop_oldest" or "reject".
	WhenFull string
	// Linger is how long a message of QoS 1 may wait for receivers that are connected to acknowledge
	// it before it is written, 0 = not at all.
	Linger time.Duration
	// SaveAfter is how long acknowledgements by receivers may stay unsaved, which a crash has repeated.
	SaveAfter time.Duration
	Flash     Flash
	// Durability is for topics that want another than "batched"; the first filter that matches decides.
	Durability []Durability

	// UnsafeNoSync leaves out every fsync, so that a power cut loses acknowledged messages. It is
	// there for the crash tests, which must fail with it, and is named nowhere else.
	UnsafeNoSync bool
}

// Durability is what the messages of some topics are acknowledged for.
type Durability struct {
	Filter string
	Mode   string // sync, batched or relaxed; see broker.Durability
}

// Relaxed returns the filters whose messages are acknowledged before they are on disk.
func (s *Store) Relaxed() (filters []string) {
	for _, d := range s.Durability {
		if d.Mode == "relaxed" {
			filters = append(filters, d.Filter)
		}
	}
	return filters
}

// Flash is how much is written to flash.
type Flash struct {
	Budget   int64         // bytes a day, 0 = any number
	Burst    int64         // bytes that may be written at once
	MaxDelay time.Duration // by how much a commit is put off when the budget is used up
}

// GB is how flash is sold, and its budget given.
const GB = 1_000_000_000

// stores are what a store is by its Wear.
var stores = map[string]Store{
	"normal": {
		Wear: "normal", WhenFull: "drop_oldest", Linger: 20 * time.Millisecond, SaveAfter: time.Second,
		Flash: Flash{Budget: 8 * GB, Burst: 512 * MiB, MaxDelay: 100 * time.Millisecond},
	},
	"low": {
		Wear: "low", WhenFull: "drop_oldest", Linger: 50 * time.Millisecond, SaveAfter: 10 * time.Second,
		Flash: Flash{Budget: GB, Burst: 128 * MiB, MaxDelay: time.Second},
	},
}

// maxLinger is the longest that a message may wait for its receivers, and so its publisher.
const maxLinger = time.Second

// What flash settings may be: a budget below the least would be used up by an idle broker.
const (
	minBudget, maxBudget = 100 * MiB, 100_000 * GB
	minBurst             = MiB
	maxSaveAfter         = time.Minute
	maxMaxDelay          = 10 * time.Second
)

// store reads the group: what is not there, or "auto", is as wear has it.
func (d *decoder) store(n *yaml.Node, s *Store) {
	wear, no, durability, maxBytes, full := s.Wear, s.UnsafeNoSync, s.Durability, s.MaxBytes, s.WhenFull
	var take []func() // of what is there
	d.group(n,
		field{key: "max_bytes", read: d.size(&maxBytes, minStore, 1024*GiB, true)},
		field{key: "when_full", read: d.oneOf(&full, "drop_oldest", "reject")},
		field{key: "wear", read: d.oneOf(&wear, "normal", "low")},
		unlessAuto("linger", &take, &s.Linger, func(v *time.Duration) func(*yaml.Node) { return d.duration(v, 0, maxLinger) }),
		unlessAuto("save_after", &take, &s.SaveAfter, func(v *time.Duration) func(*yaml.Node) {
			return d.duration(v, 10*time.Millisecond, maxSaveAfter)
		}),
		field{key: "durability", read: func(n *yaml.Node) {
			list(d, n, &durability, func(n *yaml.Node, rule *Durability) { d.durability(n, durability, rule) })
		}},
		field{key: "flash", read: func(n *yaml.Node) { d.flash(n, &take, &s.Flash) }},
		field{key: "unsafe_no_sync", hidden: true, read: func(n *yaml.Node) {
			d.flag(&no)(n)
			if no {
				d.warn(n, "nothing is synced to the disk: a power cut loses acknowledged messages")
			}
		}},
	)
	*s = stores[wear]
	s.UnsafeNoSync, s.Durability, s.MaxBytes, s.WhenFull = no, durability, maxBytes, full
	for _, f := range take {
		f()
	}
}

// durability reads a rule of all.
func (d *decoder) durability(n *yaml.Node, all []Durability, r *Durability) {
	g, ok := d.group(n,
		field{key: "filter", read: d.filter(&r.Filter)},
		field{key: "mode", read: d.oneOf(&r.Mode, "sync", "batched", "relaxed")},
	)
	if !ok {
		return
	}
	for _, key := range []string{"filter", "mode"} {
		if !g.has(key) {
			d.fail(n, "%s is missing; allowed: filter and mode, as in {filter: alarms/#, mode: sync}", key)
			return
		}
	}
	if _, _, shared, _ := topic.Shared(r.Filter); shared || r.Filter == "$SYS" || strings.HasPrefix(r.Filter, "$SYS/") {
		d.failAt(g, "filter", "nothing is published to %.80q; allowed: a filter of topics that clients publish to", r.Filter)
	}
	if r.Mode == "relaxed" {
		d.warnAt(g, "mode", "messages to %s are acknowledged before they are on disk: a crash loses what came in the last moment (store.save_after)", r.Filter)
	}
	for i := range all {
		o := &all[i]
		if o == r {
			return
		}
		if o.Filter != "" && access.Covers(o.Filter, r.Filter) {
			d.failAt(g, "filter", "what %.80q matches is decided by %.80q (store.durability.%d) already; allowed: before that", r.Filter, o.Filter, i)
			return
		}
	}
}

func (d *decoder) flash(n *yaml.Node, take *[]func(), f *Flash) {
	g, ok := d.group(n,
		unlessAuto("budget", take, &f.Budget, func(v *int64) func(*yaml.Node) { return d.sizeOrNone(v, minBudget, maxBudget) }),
		unlessAuto("burst", take, &f.Burst, func(v *int64) func(*yaml.Node) { return d.size(v, minBurst, maxBudget, false) }),
		unlessAuto("max_delay", take, &f.MaxDelay, func(v *time.Duration) func(*yaml.Node) { return d.duration(v, time.Millisecond, maxMaxDelay) }),
	)
	if !ok {
		return
	}
	d.later(func() {
		if g.has("burst") && f.Budget > 0 && f.Burst > f.Budget {
			d.warnAt(g, "burst", "is more than the budget of a day")
		}
	})
}

// sizeOrNone reads a size from low to high, or 0.
func (d *decoder) sizeOrNone(dst *int64, low, high int64) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && n.Value == "0" {
			*dst = 0
			return
		}
		d.size(dst, low, high, false)(n)
	}
}

// unlessAuto is a setting whose value may be "auto". What is read is noted, to be taken over later.
func unlessAuto[T any](key string, take *[]func(), dst *T, read func(*T) func(*yaml.Node)) field {
	return field{key: key, read: func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode && n.Value == "auto" {
			return
		}
		v := *dst
		read(&v)(n)
		*take = append(*take, func() { *dst = v })
	}}
}
