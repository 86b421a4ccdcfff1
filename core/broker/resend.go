package broker

import (
	"time"

	"dunlin/core/loop"
	"dunlin/core/packet"
	"dunlin/core/session"
)

// resend sends again on a connection what its client has not acknowledged for Limits.ResendAfter:
// PUBLISH with DUP, and PUBREL. MQTT 5.0 forbids that [MQTT-4.4.0-1] and its clients have none; MQTT
// 3.1.1 leaves it open (MQTT3 §4.4). Its timer is set while something is in flight.
type resend struct {
	loop.Place
	b *Broker
	c *client

	// What is in flight of a session without a number, which nobody else keeps: at most
	// MaxTransientBytes of it. What is more is not sent again.
	kept  map[packet.ID]session.Queued
	bytes int
}

// setResend gives a client that was let in its timer.
func (b *Broker) setResend(c *client) {
	if b.limits.ResendAfter > 0 && c.version < packet.V5 {
		c.resend = &resend{b: b, c: c}
	}
}

// seconds are those of a moment of the loop's clock, as far as they fit: intervals are shorter. Rounded
// up, so that nothing is sent again too early.
func seconds(at time.Duration) uint16 { return uint16((at + time.Second - 1) / time.Second) }

// sent notes that a PUBLISH or PUBREL was sent.
func (r *resend) sent(id packet.ID) {
	if r == nil {
		return
	}
	now := r.b.loop.Now()
	r.c.member.state.Stamp(id, seconds(now))
	if !r.Set() {
		r.b.loop.At(now+r.b.limits.ResendAfter, r)
	}
}

// keep remembers a message that a session without a number is about to send.
func (r *resend) keep(id packet.ID, q session.Queued) {
	size := overhead + q.Message.Size()
	if r.bytes+size > r.b.limits.MaxTransientBytes {
		return
	}
	if r.kept == nil {
		r.kept = make(map[packet.ID]session.Queued)
	}
	r.kept[id] = q
	r.bytes += size
}

// forget drops a message that has arrived.
func (r *resend) forget(id packet.ID) {
	if r == nil {
		return
	}
	if q, ok := r.kept[id]; ok {
		delete(r.kept, id)
		r.bytes -= overhead + q.Message.Size()
	}
}

// Fire sends again what is due.
func (r *resend) Fire(now time.Duration) time.Duration {
	b, c := r.b, r.c
	if c.ended {
		return 0
	}
	m := c.member
	if c.conn.Unsent() > 0 {
		return now + b.limits.ResendAfter // it has not even taken what was sent
	}
	next := m.state.Overdue(seconds(now), seconds(b.limits.ResendAfter),
		func(id packet.ID) {
			if q, ok := r.kept[id]; ok {
				b.log.Debug("sent again", "client_id", m.clientID, "topic", q.Message.Topic)
				p := packetOf(q.Message)
				p.QoS, p.Retain, p.Dup = q.QoS, q.Retain, true
				b.sendStored(m, &p, q.Message, id)
			}
		},
		func(id packet.ID) { b.sendAck(c, packet.PUBREL, id, packet.Success) })
	b.pump(m) // reads again what the store has
	if m.state.InFlight() == 0 {
		return 0
	}
	return now + time.Duration(max(next, 1))*time.Second
}
