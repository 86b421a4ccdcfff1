package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"dunlin/core/packet"
)

// Message is a message that arrived. It owns its bytes.
type Message struct {
	Topic           string
	Payload         []byte
	QoS             packet.QoS
	Retain          bool
	Dup             bool
	ID              packet.ID // 0 at QoS 0
	Properties      []byte    // encoded, those that travel with the message
	SubscriptionIDs []uint32
	Expiry          uint32 // seconds that remain, if HasExpiry
	HasExpiry       bool

	link *link // that it came by: an acknowledgement is for that connection only
}

// Messages returns the channel of received messages. It stays open over reconnects; a QoS 2
// message comes by it once.
func (c *Client) Messages() <-chan Message { return c.inbox }

// Receive returns the next message.
func (c *Client) Receive(ctx context.Context) (Message, error) {
	ctx, cancel := c.guard(ctx)
	defer cancel()
	select {
	case m := <-c.inbox:
		return m, nil
	case <-ctx.Done():
		return Message{}, fmt.Errorf("client: no message: %w", ctx.Err())
	}
}

// Ack acknowledges a message that came with ManualAcks: PUBACK at QoS 1, PUBREC at QoS 2, whose
// PUBREL is answered by itself. It does nothing if the connection that the message came by has
// ended: the broker sends it again.
func (c *Client) Ack(m Message) {
	if m.link != nil && m.QoS > 0 {
		c.acknowledge(m.link, m.ID, m.QoS)
	}
}

func (c *Client) acknowledge(l *link, id packet.ID, qos packet.QoS) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putAck(l, id, qos)
}

// putAck sends the acknowledgement of what arrived. c.mu is held.
func (c *Client) putAck(l *link, id packet.ID, qos packet.QoS) {
	if c.link != l {
		return
	}
	t := packet.PUBACK
	if qos == 2 {
		t = packet.PUBREC
		c.incoming[id] = true
	} else {
		delete(c.held, id)
	}
	l.put(func(dst []byte) []byte { return packet.AppendAck(dst, &packet.Ack{Type: t, ID: id}, c.o.Version) })
}

// take handles one packet that arrived by l. An error ends the connection.
func (c *Client) take(l *link, h packet.Header, body []byte) error {
	v := c.o.Version
	switch h.Type {
	case packet.PUBLISH:
		p, err := packet.ParsePublish(body, h.Flags, v)
		if err != nil {
			return fmt.Errorf("PUBLISH: %w", err)
		}
		return c.takePublish(l, &p)
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
		a, err := packet.ParseAck(h.Type, body, v)
		if err != nil {
			return fmt.Errorf("%s: %w", h.Type, err)
		}
		return c.takeAck(l, a)
	case packet.PUBREL:
		a, err := packet.ParseAck(h.Type, body, v)
		if err != nil {
			return fmt.Errorf("PUBREL: %w", err)
		}
		c.mu.Lock()
		delete(c.incoming, a.ID)
		delete(c.held, a.ID)
		c.mu.Unlock()
		l.put(func(dst []byte) []byte {
			return packet.AppendAck(dst, &packet.Ack{Type: packet.PUBCOMP, ID: a.ID}, v)
		})
		return nil
	case packet.SUBACK:
		s, err := packet.ParseSuback(body, v)
		if err != nil {
			return fmt.Errorf("SUBACK: %w", err)
		}
		return c.answer(s)
	case packet.UNSUBACK:
		s, err := packet.ParseUnsuback(body, v)
		if err != nil {
			return fmt.Errorf("UNSUBACK: %w", err)
		}
		return c.answer(s)
	case packet.PINGRESP:
		return l.pong()
	case packet.DISCONNECT:
		d, err := packet.ParseDisconnect(body, v)
		if err != nil {
			return fmt.Errorf("DISCONNECT: %w", err)
		}
		if v != packet.V5 {
			return errors.New("DISCONNECT from a server before 5.0")
		}
		return &DisconnectedError{d.Code, string(d.Reason)}
	default:
		return fmt.Errorf("%s from a server", h.Type)
	}
}

// answer hands a SUBACK or UNSUBACK to who waits for it.
func (c *Client) answer(s packet.Suback) error {
	s.Codes = append([]packet.ReasonCode(nil), s.Codes...)
	s.Reason = bytes.Clone(s.Reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := c.requests[s.ID]
	if waiting == nil {
		return fmt.Errorf("SUBACK or UNSUBACK for packet id %d, which waits for none", s.ID)
	}
	delete(c.requests, s.ID)
	waiting <- s // has room for one
	return nil
}

// takePublish hands a message to the caller and acknowledges it. A full inbox stops the reader.
func (c *Client) takePublish(l *link, p *packet.Publish) error {
	if p.HasTopicAlias {
		return errors.New("PUBLISH with a Topic Alias, which was not allowed")
	}
	if p.QoS > 0 {
		c.mu.Lock()
		known := c.incoming[p.ID]
		_, again := c.held[p.ID]
		c.held[p.ID] = p.QoS
		held := len(c.held)
		c.mu.Unlock()
		switch {
		case held > int(c.o.ReceiveMaximum):
			return fmt.Errorf("%d messages unacknowledged, Receive Maximum is %d", held, c.o.ReceiveMaximum)
		case again:
			return fmt.Errorf("PUBLISH with packet id %d again within a connection", p.ID)
		case known:
			c.acknowledge(l, p.ID, p.QoS)
			return nil
		}
	}
	m := Message{
		Topic:   string(p.Topic),
		Payload: bytes.Clone(p.Payload),
		QoS:     p.QoS, Retain: p.Retain, Dup: p.Dup, ID: p.ID,
		Expiry: p.Expiry, HasExpiry: p.HasExpiry,
		link: l,
	}
	if len(p.Raw) > 0 {
		m.Properties = p.AppendTravelling(nil)
		if p.HasSubID {
			m.SubscriptionIDs = subscriptionIDs(p.Raw)
		}
	}
	if c.o.Deliver != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.o.Deliver(m)
		if p.QoS > 0 {
			c.putAck(l, p.ID, p.QoS)
		}
		return nil
	}
	select {
	case c.inbox <- m:
	case <-l.done:
		return l.err()
	}
	if p.QoS > 0 && !c.o.ManualAcks {
		c.acknowledge(l, p.ID, p.QoS)
	}
	return nil
}

// subscriptionIDs finds the Subscription Identifiers in a block of properties that has been
// parsed without error (MQTT5 §2.2.2.2).
func subscriptionIDs(b []byte) (ids []uint32) {
	for len(b) > 0 {
		id := b[0]
		b = b[1:]
		switch id {
		case 0x01: // Payload Format Indicator
			b = b[1:]
		case 0x02: // Message Expiry Interval
			b = b[4:]
		case 0x23: // Topic Alias
			b = b[2:]
		case 0x0B: // Subscription Identifier
			var n uint32
			for shift := 0; ; shift += 7 {
				n |= uint32(b[0]&0x7F) << shift
				more := b[0]&0x80 != 0
				b = b[1:]
				if !more {
					break
				}
			}
			ids = append(ids, n)
		case 0x26: // User Property
			b = b[2+int(b[0])<<8+int(b[1]):]
			b = b[2+int(b[0])<<8+int(b[1]):]
		default: // Content Type, Response Topic, Correlation Data: two bytes of length
			b = b[2+int(b[0])<<8+int(b[1]):]
		}
	}
	return ids
}
