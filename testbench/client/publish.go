package client

import (
	"context"
	"fmt"

	"dunlin/core/packet"
)

// Publish is a message to publish.
type Publish struct {
	Topic      string
	Payload    []byte // must not change until the acknowledgement
	QoS        packet.QoS
	Retain     bool
	Properties []byte // encoded, see packet.Publish.Properties
	Expiry     uint32 // seconds, if HasExpiry
	HasExpiry  bool

	// Acked is called once, when the broker has taken the message over: PUBACK, or PUBREC at
	// QoS 2, with its reason code. It is called from the reader and must not block. A lost
	// connection does not end a message: it is resumed, and Acked is called then. Nil is allowed.
	Acked func(code packet.ReasonCode)
}

// flight is a PUBLISH at QoS 1 or 2 that is not done.
type flight struct {
	p      Publish
	id     packet.ID
	serial uint64 // order of sending; of the PUBREL once released
	// released: PUBREC came, PUBREL is on its way, PUBCOMP is awaited.
	released bool
}

func (f *flight) append(dst []byte, dup bool, v packet.Version) []byte {
	return appendPublish(dst, &f.p, f.id, dup, v)
}

func appendPublish(dst []byte, p *Publish, id packet.ID, dup bool, v packet.Version) []byte {
	dst, _ = packet.AppendPublish(dst, &packet.Publish{
		Topic: []byte(p.Topic), Payload: p.Payload, ID: id, QoS: p.QoS, Retain: p.Retain, Dup: dup,
		Properties: p.Properties, Expiry: p.Expiry, HasExpiry: p.HasExpiry,
	}, v)
	return dst
}

// Publish sends a message; at QoS 1 and 2 as soon as there is room in the window. It returns
// when the message is on its way, not when it is acknowledged (see Publish.Acked and Drain).
//
// An error means that the message was not taken: without a connection it is ErrNotConnected.
// Nil means at QoS 1 and 2 that the message is in flight and stays so over lost connections.
func (c *Client) Publish(ctx context.Context, p Publish) error {
	ctx, cancel := c.guard(ctx)
	defer cancel()
	for {
		c.mu.Lock()
		l := c.link
		if l == nil || l.err() != nil {
			c.mu.Unlock()
			return ErrNotConnected
		}
		var wait <-chan struct{}
		switch {
		case p.QoS > 0 && len(c.flights) >= c.limit:
			if c.freed == nil {
				c.freed = make(chan struct{})
			}
			wait = c.freed
		default:
			wait = l.room()
		}
		if wait == nil {
			var id packet.ID
			if p.QoS > 0 {
				id = c.freeID()
				c.serial++
				c.flights[id] = &flight{p: p, id: id, serial: c.serial}
			}
			l.put(func(dst []byte) []byte { return appendPublish(dst, &p, id, false, c.o.Version) })
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-wait:
		case <-l.done:
		case <-ctx.Done():
			return fmt.Errorf("client: publish: the window of %d stays full: %w", c.limit, ctx.Err())
		}
	}
}

// InFlight returns how many messages at QoS 1 and 2 are not done.
func (c *Client) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.flights)
}

// Drain waits until nothing is in flight. It returns the error that ended the connection if
// that comes first: Connect, and drain again.
func (c *Client) Drain(ctx context.Context) error {
	ctx, cancel := c.guard(ctx)
	defer cancel()
	for {
		c.mu.Lock()
		n, l := len(c.flights), c.link
		if n == 0 {
			c.mu.Unlock()
			return nil
		}
		if c.freed == nil {
			c.freed = make(chan struct{})
		}
		freed := c.freed
		c.mu.Unlock()
		if l == nil {
			return ErrNotConnected
		}
		select {
		case <-freed:
		case <-l.done:
			if c.InFlight() > 0 {
				return fmt.Errorf("client: %d messages in flight: %w", n, l.err())
			}
		case <-ctx.Done():
			return fmt.Errorf("client: %d messages in flight: %w", n, ctx.Err())
		}
	}
}

// resend puts what is in flight into a fresh connection, in order (MQTT5 §4.4, §4.6). c.mu is
// held.
func (c *Client) resend(l *link, present bool) {
	for _, f := range c.inOrder() {
		switch {
		case !present:
			// The broker knows nothing of it: a new message, which has been acknowledged to the
			// caller already if it was released.
			if f.released {
				c.land(f)
				continue
			}
			l.put(func(dst []byte) []byte { return f.append(dst, false, c.o.Version) })
		case f.released:
			l.put(func(dst []byte) []byte {
				return packet.AppendAck(dst, &packet.Ack{Type: packet.PUBREL, ID: f.id}, c.o.Version)
			})
		default:
			l.put(func(dst []byte) []byte { return f.append(dst, true, c.o.Version) })
		}
	}
}

// land ends a flight. c.mu is held.
func (c *Client) land(f *flight) {
	delete(c.flights, f.id)
	if c.freed != nil {
		close(c.freed)
		c.freed = nil
	}
}

// takeAck handles the acknowledgements of what this client published.
func (c *Client) takeAck(l *link, a packet.Ack) error {
	c.mu.Lock()
	f := c.flights[a.ID]
	switch {
	case f == nil:
		c.mu.Unlock()
		return fmt.Errorf("%s for packet id %d, which is not in flight", a.Type, a.ID)
	case a.Type == packet.PUBACK && f.p.QoS != 1, a.Type != packet.PUBACK && f.p.QoS != 2:
		c.mu.Unlock()
		return fmt.Errorf("%s for packet id %d, which is in flight at QoS %d", a.Type, a.ID, f.p.QoS)
	case a.Type == packet.PUBCOMP && !f.released:
		c.mu.Unlock()
		return fmt.Errorf("PUBCOMP for packet id %d before its PUBREC", a.ID)
	}
	first := !f.released
	switch {
	case a.Type == packet.PUBREC && a.Code < packet.UnspecifiedError:
		c.serial++
		f.released, f.serial = true, c.serial
		// Before the lock is released, so that PUBRELs leave in the order of the PUBRECs
		// [MQTT-4.6.0-4].
		l.put(func(dst []byte) []byte {
			return packet.AppendAck(dst, &packet.Ack{Type: packet.PUBREL, ID: f.id}, c.o.Version)
		})
	default:
		c.land(f)
	}
	c.mu.Unlock()
	if first && f.p.Acked != nil {
		f.p.Acked(a.Code)
	}
	return nil
}
