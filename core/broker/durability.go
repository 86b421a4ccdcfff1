package broker

import (
	"fmt"

	"dunlin/core/topic"
)

// Durability says when a message of QoS 1 or 2 is acknowledged to its publisher.
type Durability byte

const (
	// Batched: when it is on disk, with what comes in the meantime, or when every receiver has it.
	Batched Durability = iota
	// Sync: when it is on disk, also if all receivers have it and if the flash budget is used up.
	Sync
	// Relaxed: at once, at QoS 1; it is on disk a moment later, unless the process ends before. What
	// cannot be stored is lost, and counted.
	Relaxed
)

func (d Durability) String() string { return [...]string{"batched", "sync", "relaxed"}[d] }

// ParseDurability returns the durability of that name.
func ParseDurability(name string) (Durability, error) {
	for _, d := range []Durability{Batched, Sync, Relaxed} {
		if d.String() == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("broker: unknown durability %q: it must be batched, sync or relaxed", name)
}

// DurabilityRule is the durability of the topics that a filter matches.
type DurabilityRule struct {
	Filter     string
	Durability Durability
}

// durabilityOf returns what the first rule says that matches, otherwise Batched. What is in the store
// already, and must leave it in the transaction that has it anew, is never relaxed.
func (b *Broker) durabilityOf(pub *publication) Durability {
	for i := range b.durability {
		r := &b.durability[i]
		if !topic.Matches(r.Filter, pub.topic) {
			continue
		}
		if r.Durability == Relaxed && (pub.QoS != 1 || pub.delayed != 0 || pub.from != 0 || pub.again || pub.redo ||
			b.undecided >= maxUndecided/2 || !b.storeTakes()) {
			return Batched
		}
		return r.Durability
	}
	return Batched
}

// apart returns who waits for the store in place of op if nobody else does, otherwise op.
func (b *Broker) apart(pub *publication, op *publishing) *publishing {
	if pub.durability != Relaxed {
		return op
	}
	w := b.publishing()
	w.qos = pub.QoS
	return w
}
