package broker

import (
	"time"

	"dunlin/core/durable"
	"dunlin/core/packet"
	"dunlin/core/session"
)

// The queue of a session is bounded in messages and bytes. The bounds are checked against what the
// store has, in flight included: that is never dropped to make room, since its client may have it.

// excess is by how many messages and bytes a queue would be too long with one more message. An empty
// queue takes any.
func (b *Broker) excess(n durable.SessionNumber, size int) (messages int, bytes int64) {
	had, queued := b.store.Queued(n)
	if had == 0 {
		return 0, 0
	}
	return had + 1 - b.limits.MaxQueued, queued + int64(size) - b.limits.MaxQueuedBytes
}

// fits says whether a message may be appended for a session, after it has made room if that is
// what Limits say.
func (b *Broker) fits(m *member, pub *publication) bool {
	messages, bytes := b.excess(m.state.Number(), pub.size())
	if messages <= 0 && bytes <= 0 {
		return true
	}
	if !b.limits.DropOldest {
		return false
	}
	dropped, last := b.store.DropOldest(m.state.Number(), m.state.NeverSent(), messages, bytes)
	if dropped == 0 {
		return false
	}
	m.state.Dropped(dropped, last)
	b.dropFull(m, "", dropped)
	return true
}

// offerMemory offers a message to a session that keeps its queue in memory.
func (b *Broker) offerMemory(m *member) (session.Offered, packet.ID) {
	for {
		o, id := m.state.Offer(b.ready(m))
		if o != session.Refuse || !b.limits.DropOldest {
			return o, id
		}
		oldest, ok := m.state.DropOldest()
		if !ok {
			return o, id
		}
		b.dropFull(m, oldest.Message.Topic, 1)
	}
}

// queueLong says whether a retained message would have to wait so that others need not be dropped.
func (b *Broker) queueLong(m *member) bool {
	_, bytes := b.store.Queued(m.state.Number())
	return bytes > b.limits.MaxQueuedBytes/2
}

// hasRoom says whether the queue of a session is at most half full.
func (b *Broker) hasRoom(m *member) bool {
	if !m.state.Durable() {
		return m.state.Pending() <= b.limits.MaxQueuedTransient/2 && m.state.QueuedBytes() <= b.limits.MaxTransientBytes/2
	}
	messages, bytes := b.store.Queued(m.state.Number())
	return messages <= b.limits.MaxQueued/2 && bytes <= b.limits.MaxQueuedBytes/2
}

// overflow is the time since the queue of a session was full.
type overflow struct {
	dropped int // since then
	logged  time.Duration
}

// dropFull counts what a full queue has dropped: the new message, or the oldest. The log has the
// first, then the sum at intervals, and when there is room again.
func (b *Broker) dropFull(m *member, topic string, messages int) {
	b.dropAll(DropQueueFull, m.clientID, topic, messages)
	first := m.overflow == nil
	if first {
		m.overflow = new(overflow)
	}
	o := m.overflow
	o.dropped += messages
	if now := b.loop.Now(); first || now-o.logged >= reportEvery {
		o.logged = now
		policy := "drop_newest"
		if b.limits.DropOldest {
			policy = "drop_oldest"
		}
		b.log.Warn("queue is full, messages are dropped", "client_id", m.clientID, "when_full", policy,
			"dropped", o.dropped, "queued", m.state.Pending(), "connected", m.client != nil)
	}
}

// overflowEnds reports how many messages were dropped in all.
func (b *Broker) overflowEnds(m *member, why string) {
	if m.overflow != nil {
		b.log.Info("messages were dropped from a full queue: "+why, "client_id", m.clientID, "dropped", m.overflow.dropped)
		m.overflow = nil
	}
}
