package broker

import (
	"time"

	"dunlin/core/packet"
)

// answering is how quickly a client acknowledges, as found out by one message at a time.
type answering struct {
	id   packet.ID     // of the message that is watched, 0 = none
	took uint32        // µs, the mean of the last few, 0 = nobody knows
	sent time.Duration // when that message was
}

// watch notes that a message of QoS 1 is sent.
func (a *answering) watch(id packet.ID, now time.Duration) {
	if a.id == 0 {
		a.id, a.sent = id, now
	}
}

// answered takes a PUBACK.
func (a *answering) answered(id packet.ID, now time.Duration) {
	if id != a.id || id == 0 {
		return
	}
	a.id = 0
	took := uint32(min(max(now-a.sent, time.Microsecond), time.Hour) / time.Microsecond)
	if a.took == 0 {
		a.took = took
		return
	}
	a.took = uint32(max((3*uint64(a.took)+uint64(took))/4, 1))
}

// within says whether the client acknowledges within d, also now. Of whom nothing is known yet that is
// expected: the first messages wait at most for what they were expected to.
func (a *answering) within(d, now time.Duration) bool {
	return time.Duration(a.took)*time.Microsecond < d && (a.id == 0 || now-a.sent < d)
}

// lingers says whether a message may stay off the disk for a moment: it is sent at once to all its
// durable receivers, each of which acknowledges in half of the time that there is.
func (b *Broker) lingers(pub *publication) bool {
	if b.limits.Linger == 0 || pub.durability != Batched || pub.QoS != 1 || pub.Retain || pub.copied || len(b.copies) > 0 ||
		pub.from != 0 || pub.overStore() || len(b.targets) == 0 {
		return false
	}
	now := b.loop.Now()
	for i := range b.targets {
		t := &b.targets[i]
		if t.id == 0 || t.qos != 1 {
			return false
		}
		if !t.m.client.answering.within(b.limits.Linger/2, now) {
			return false
		}
	}
	return true
}
