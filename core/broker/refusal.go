package broker

import (
	"cmp"
	"log/slog"
	"slices"

	"dunlin/core/durable"
	"dunlin/core/route"
)

// A store that takes no messages for now, because it or the disk is full or fails, refuses what needs
// it: new sessions and subscriptions that are kept, and messages for those who are durable. Everything
// else works: sessions that are there are resumed, QoS 0 and sessions that end with their connection
// get what is for them, and what takes messages out of the store goes on.
//
// A client of MQTT 5.0 is told (0x97) and may do as it likes. One of MQTT 3 cannot be told (MQTT3
// §3.3.5): its message is held, in memory, and so is its acknowledgement, until the store takes it. Reading from the
// client goes on meanwhile, up to the bounds of throttle.

// storeTakes says whether the store takes messages, new sessions and new subscriptions.
func (b *Broker) storeTakes() bool { return b.store.State() == durable.Taking }

// storeWrites says whether what makes nothing larger may be waited for.
func (b *Broker) storeWrites() bool { return b.store.State() < durable.DiskFull }

// storeChanged is what the store's Changed does on the loop.
func (b *Broker) storeChanged() {
	b.relieve()
	state := b.store.State()
	if state == b.storeState {
		return
	}
	b.storeState = state
	b.sys.tell(alarmStore, state.String())
	b.retryHeld()
}

// relieve makes room in the store: the largest queue loses what has waited longest in it and was never
// sent, and then the next, as long as the store asks for it.
func (b *Broker) relieve() {
	want := b.store.Pressure()
	if want <= 0 || b.limits.KeepWhenFull {
		return
	}
	type queue struct {
		m     *member
		bytes int64
	}
	var queues []queue
	for _, m := range b.members {
		if !m.state.Durable() {
			continue
		}
		if _, bytes := b.store.Queued(m.state.Number()); bytes > 0 {
			queues = append(queues, queue{m, bytes})
		}
	}
	slices.SortFunc(queues, func(x, y queue) int { return cmp.Compare(y.bytes, x.bytes) })
	for _, q := range queues {
		if want <= 0 {
			return
		}
		dropped, last := b.store.Evict(q.m.state.Number(), q.m.state.NeverSent(), want)
		if dropped == 0 {
			continue
		}
		q.m.state.Dropped(dropped, last)
		b.dropAll(DropStoreFull, q.m.clientID, "", dropped)
		b.evictions.report(b, slog.LevelWarn, "client_id", q.m.clientID, "messages", dropped)
		_, left := b.store.Queued(q.m.state.Number())
		want -= q.bytes - left
	}
}

// needsStore says whether a message is for anybody who gets it by the store. Nobody has got it yet.
func (b *Broker) needsStore(pub *publication, hits []route.Hit) bool {
	if pub.Retain || pub.delayed != 0 {
		return true
	}
	for i := range hits {
		r := &b.receivers[hits[i].Receiver]
		switch {
		case r.outbox != nil:
			if pub.source == "" {
				return true
			}
		case r.group != nil:
			if slices.ContainsFunc(r.group.shares, func(s share) bool { return s.m.state.Durable() && s.qos > 0 }) {
				return true
			}
		case r.member.state.Durable() && hits[i].QoS > 0:
			return true
		}
	}
	return false
}
