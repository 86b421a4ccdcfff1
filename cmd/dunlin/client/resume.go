package client

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"dunlin/core/packet"
)

// inherit takes over the state of the session from the last connection, which has ended, as far
// as the broker has the session, too (MQTT5 §4.1, §4.4). There is no reader yet.
func (c *Client) inherit(last *Client) {
	<-last.done
	last.mu.Lock()
	defer last.mu.Unlock()
	c.number, c.refused = last.number, last.refused
	for _, id := range last.inOrder() {
		m := last.flight[id]
		switch {
		case c.SessionPresent():
			c.flight[id] = &outgoing{Message: m.Message, number: m.number, released: m.released}
		case !m.released: // what was released has arrived
			c.flight[c.freeID()] = &outgoing{Message: m.Message, number: m.number}
		}
	}
	for _, m := range last.inbox {
		if c.SessionPresent() && m.QoS > 0 {
			continue // the broker sends it again
		}
		m.id = 0
		c.inbox = append(c.inbox, m)
	}
	if !c.SessionPresent() {
		return
	}
	c.nextID = last.nextID
	for id, told := range last.received {
		if told {
			c.received[id] = true
		}
	}
	// The caller has it; that the broker is not told yet changes nothing.
	if m := last.unread; m != nil && m.QoS == 2 && m.id != 0 {
		c.received[m.id] = true
	}
}

// inOrder returns the ids of the messages in flight as they were published. mu is held.
func (c *Client) inOrder() []packet.ID {
	return slices.SortedFunc(maps.Keys(c.flight), func(a, b packet.ID) int {
		return cmp.Compare(c.flight[a].number, c.flight[b].number)
	})
}

// Resend sends what the last connection has left unacknowledged, in its order: with its packet
// ids and DUP if the broker has the session [MQTT-4.4.0-1], [MQTT-3.3.1-1], as new messages if
// not. It is called once, before anything else, and returns when all is written; if the connection
// breaks before that, the next one has the rest.
func (c *Client) Resend(ctx context.Context) error {
	c.mu.Lock()
	ids := c.inOrder()
	c.mu.Unlock()
	for _, id := range ids {
		if err := c.until(ctx, func() bool { return c.underWay() < c.window }); err != nil {
			return err
		}
		if err := c.resend(id); err != nil {
			return err
		}
	}
	return nil
}

// underWay returns how many messages have been sent over this connection and are not
// acknowledged. mu is held.
func (c *Client) underWay() int {
	n := 0
	for _, m := range c.flight {
		if m.sent {
			n++
		}
	}
	return n
}

func (c *Client) resend(id packet.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	m := c.flight[id]
	if m == nil {
		return nil // acknowledged before it was sent
	}
	if m.released {
		m.sent = true
		return c.said(c.writeAck(&packet.Ack{Type: packet.PUBREL, ID: id}))
	}
	p := m.packet()
	if err := c.acceptable(&m.Message, &p); err != nil {
		return err
	}
	m.sent = true
	p.ID, p.Dup = id, c.SessionPresent()
	return c.said(c.send(&p, &m.Message))
}
