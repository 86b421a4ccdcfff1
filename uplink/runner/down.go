package runner

import (
	"time"

	"dunlin/core/topic"
	"dunlin/uplink/mqtt"
)

// incoming takes a message of the server: remapped, it goes to the broker.
func (u *Uplink) incoming(in mqtt.Incoming) {
	u.counters.down.Add(1)
	m := in.Message
	name, _, ok := u.o.Down.Apply(m.Topic)
	if !ok || u.ingest == nil || topic.CheckName([]byte(name)) != nil {
		// A subscription of an earlier configuration, which the session in the server still has.
		if u.counters.downUnmatched.Add(1) == 1 {
			u.o.Log.Warn("server sends what no rule takes down, it is acknowledged and dropped", "topic", m.Topic)
		}
		u.ack(in.ID)
		return
	}
	m.Topic, m.Source = name, u.o.Name
	u.inject(heldMessage{dial: u.dial, in: in})
}

// inject hands a message to the broker, and has the answer posted.
func (u *Uplink) inject(h heldMessage) {
	if h.in.ID == 0 {
		u.ingest.Inject(h.in.Message, func(err error) {
			if err != nil {
				u.counters.downDropped.Add(1)
			}
		})
		return
	}
	u.ingest.Inject(h.in.Message, func(err error) {
		u.inbox.post(event{kind: eventInjected, dial: h.dial, held: h, err: err})
	})
}

// injected acknowledges to the server what is on disk here, and keeps the rest for later: the
// server stops sending when its Receive Maximum is used up.
func (u *Uplink) injected(e *event) {
	if e.dial != u.dial || u.conn == nil && !u.dialling {
		return // the server will send it again
	}
	if e.err == nil {
		u.ack(e.held.in.ID)
		return
	}
	h := e.held
	h.delay = min(u.o.Backoff.Max, max(2*h.delay, time.Second))
	h.at = u.now() + h.delay
	if u.counters.downHeld.Add(1) == 1 {
		u.o.Log.Warn("message from the server cannot be stored, its acknowledgement waits", "err", e.err)
	}
	u.held = append(u.held, h)
}

// retryHeld injects again what has waited long enough.
func (u *Uplink) retryHeld() {
	now := u.now()
	waiting := u.held[:0]
	for _, h := range u.held {
		if h.at <= now {
			u.inject(h)
		} else {
			waiting = append(waiting, h)
		}
	}
	clear(u.held[len(waiting):])
	u.held = waiting
}

// ack acknowledges a message. One that came before Dial returned is acknowledged after it.
func (u *Uplink) ack(id uint16) {
	switch {
	case id == 0 || u.broken:
	case u.conn == nil:
		u.early = append(u.early, id)
	case u.conn.Ack(id) != nil:
		u.broken = true
	}
}
