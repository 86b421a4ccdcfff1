package config

import (
	"time"

	"go.yaml.in/yaml/v3"
)

// Store tunes what is on disk.
type Store struct {
	// Wear is "normal" or "low": what the others are that are "auto" in the file, or not there.
	Wear string
	// Linger is how long a message of QoS 1 may wait for receivers that are connected to acknowledge
	// it before it is written, 0 = not at all.
	Linger time.Duration

	// UnsafeNoSync leaves out every fsync, so that a power cut loses acknowledged messages. It is
	// there for the crash tests, which must fail with it, and is named nowhere else.
	UnsafeNoSync bool
}

// stores are what a store is by its Wear.
var stores = map[string]Store{
	"normal": {Wear: "normal", Linger: 20 * time.Millisecond},
	"low":    {Wear: "low", Linger: 50 * time.Millisecond},
}

// maxLinger is the longest that a message may wait for its receivers, and so its publisher.
const maxLinger = time.Second

func (d *decoder) store(n *yaml.Node, s *Store) {
	wear := s.Wear
	own := *s                         // as written
	var given []func(dst, own *Store) // what is written and not auto
	auto := func(key string, read func(*yaml.Node), take func(dst, own *Store)) field {
		return field{key: key, read: func(n *yaml.Node) {
			if n.Kind == yaml.ScalarNode && n.Value == "auto" {
				return
			}
			read(n)
			given = append(given, take)
		}}
	}
	d.group(n,
		field{key: "wear", read: d.oneOf(&wear, "normal", "low")},
		auto("linger", d.duration(&own.Linger, 0, maxLinger), func(dst, own *Store) { dst.Linger = own.Linger }),
		field{key: "unsafe_no_sync", hidden: true, read: func(n *yaml.Node) {
			d.flag(&own.UnsafeNoSync)(n)
			if own.UnsafeNoSync {
				d.warn(n, "nothing is synced to the disk: a power cut loses acknowledged messages")
			}
		}},
	)
	*s = stores[wear]
	for _, take := range given {
		take(s, &own)
	}
	s.UnsafeNoSync = own.UnsafeNoSync
}
