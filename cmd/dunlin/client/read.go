package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"dunlin/core/packet"
)

// frames cuts packets out of what a connection delivers.
type frames struct {
	conn net.Conn
	buf  []byte // read; from is where the next packet begins
	from int
	max  uint32 // bytes of a packet, 0 = any number
}

// next returns the next packet. body is valid until the next call. After a deadline has passed it
// can be called again: nothing is lost.
func (f *frames) next() (h packet.Header, body []byte, err error) {
	for {
		h, n, err := packet.ParseHeader(f.buf[f.from:])
		if err != nil {
			return h, nil, fmt.Errorf("the broker sent what is no MQTT: %w", err)
		}
		if size := n + h.Remaining; n > 0 && f.max > 0 && uint64(size) > uint64(f.max) {
			return h, nil, fmt.Errorf("the broker sent a packet of %d bytes, more than the %d it was told", size, f.max)
		}
		if end := f.from + n + h.Remaining; n > 0 && end <= len(f.buf) {
			body = f.buf[f.from+n : end]
			f.from = end
			return h, body, nil
		}
		if f.from > 0 {
			f.buf = f.buf[:copy(f.buf, f.buf[f.from:])]
			f.from = 0
		}
		// The buffer grows with what really came, not with what the header claims.
		if len(f.buf) == cap(f.buf) {
			f.buf = append(f.buf, make([]byte, max(4096, len(f.buf)))...)[:len(f.buf)]
		}
		got, err := f.conn.Read(f.buf[len(f.buf):cap(f.buf)])
		f.buf = f.buf[:len(f.buf)+got]
		if got == 0 && err != nil {
			return h, nil, err
		}
	}
}

// rest returns what has been read and not been returned by next.
func (f *frames) rest() []byte { return f.buf[f.from:] }

// read is the reader: it handles packets until the connection ends. in is what the handshake has
// read too much.
func (c *Client) read(in []byte, o Options) {
	err := c.packets(&frames{conn: c.conn, buf: in, max: o.MaximumPacketSize}, o.TopicAliasMaximum)
	c.conn.Close()
	c.mu.Lock()
	c.err = nil
	c.err = c.lost(err)
	if said, ok := errors.AsType[*Disconnected](err); ok {
		c.err = said
	} else if c.failed != nil && errors.Is(err, net.ErrClosed) {
		c.err = c.failed
	}
	c.mu.Unlock()
	close(c.done)
}

// Disconnected is the DISCONNECT of the broker.
type Disconnected struct {
	Code   packet.ReasonCode
	Reason string // Reason String, "" = none
	Server string // Server Reference: where to go instead, "" = it does not say
}

func (d *Disconnected) Error() string {
	return "the broker ended the connection: " + words(d.Code, d.Reason, d.Server)
}

func (c *Client) packets(in *frames, aliases uint16) error {
	for {
		if err := c.alive(); err != nil {
			return err
		}
		h, body, err := in.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, io.EOF):
			return errors.New("the broker closed it")
		case err != nil:
			return err
		}
		if err := c.handle(h, body, aliases); err != nil {
			return err
		}
		if !c.holdBack() {
			return net.ErrClosed
		}
	}
}

// alive sends a PINGREQ when it is time for one, and sets the deadline of the read that follows.
// It is called between packets too, since a client that only reads has to send something all the
// same [MQTT-3.1.2-20].
func (c *Client) alive() error {
	if c.half == 0 {
		return c.conn.SetReadDeadline(time.Time{})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pinged.IsZero() && time.Since(c.pinged) >= 2*c.half {
		return errors.New("the broker does not answer any more")
	}
	if err := c.ping(); err != nil {
		return err
	}
	if !c.pinged.IsZero() {
		return c.conn.SetReadDeadline(c.pinged.Add(2 * c.half))
	}
	return c.conn.SetReadDeadline(c.lastWrite.Add(c.half))
}

// ping sends a PINGREQ if nothing was sent for half the keep alive and none is unanswered. mu is
// held.
func (c *Client) ping() error {
	if !c.pinged.IsZero() || time.Since(c.lastWrite) < c.half {
		return nil
	}
	c.out = packet.AppendPingreq(c.out[:0])
	if err := c.write(c.out); err != nil {
		return err
	}
	c.pinged = c.lastWrite
	return nil
}

// holdBack waits while the inbox is full. The broker gets its signs of life meanwhile, but is not
// asked for any, since its answers are not read. It returns false if the client is closed.
func (c *Client) holdBack() bool {
	for {
		c.mu.Lock()
		full := len(c.inbox) >= maxInbox && c.waitingID == 0
		c.mu.Unlock()
		if !full {
			return true
		}
		var tick <-chan time.Time
		if c.half > 0 {
			tick = time.After(c.half)
		}
		select {
		case <-c.taken:
		case <-tick:
			c.mu.Lock()
			c.pinged = time.Time{}
			err := c.ping()
			c.pinged = time.Time{}
			c.mu.Unlock()
			if err != nil {
				return true // the read that follows says what is wrong
			}
		case <-c.broken:
			return true // likewise
		case <-c.closing:
			return false
		}
	}
}

// handle does what a packet asks for. aliases is the Topic Alias Maximum that the broker was told.
func (c *Client) handle(h packet.Header, body []byte, aliases uint16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer pulse(c.changed)
	switch h.Type {
	case packet.PUBLISH:
		p, err := packet.ParsePublish(body, h.Flags, c.version)
		if err != nil {
			return wrong(h, err)
		}
		if err := c.resolve(&p, aliases); err != nil {
			return err
		}
		return c.publish(&p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a, err := packet.ParseAck(h.Type, body, c.version)
		if err != nil {
			return wrong(h, err)
		}
		return c.ack(&a)
	case packet.SUBACK, packet.UNSUBACK:
		parse := packet.ParseSuback
		if h.Type == packet.UNSUBACK {
			parse = packet.ParseUnsuback
		}
		a, err := parse(body, c.version)
		if err != nil {
			return wrong(h, err)
		}
		if a.ID != 0 && a.ID == c.waitingID {
			c.answer = &packet.Suback{
				ID:     a.ID,
				Reason: append([]byte(nil), a.Reason...),
				Codes:  append([]packet.ReasonCode(nil), a.Codes...),
			}
		}
		return nil
	case packet.PINGRESP:
		c.pinged = time.Time{}
		return nil
	case packet.DISCONNECT:
		d, err := packet.ParseDisconnect(body, c.version)
		if err != nil {
			return wrong(h, err)
		}
		return &Disconnected{Code: d.Code, Reason: string(d.Reason), Server: string(d.ServerReference)}
	}
	return fmt.Errorf("the broker sent %v, which is not for clients", h.Type)
}

func wrong(h packet.Header, err error) error {
	return fmt.Errorf("the broker sent a wrong %v: %w", h.Type, err)
}

// resolve gives p the topic that its alias stands for (MQTT5 §3.3.2.3.4). mu is held.
func (c *Client) resolve(p *packet.Publish, aliases uint16) error {
	if !p.HasTopicAlias {
		return nil
	}
	if p.TopicAlias == 0 || p.TopicAlias > aliases { // [MQTT-3.1.2-26]
		return fmt.Errorf("the broker sent the topic alias %d, it was told a maximum of %d", p.TopicAlias, aliases)
	}
	if len(p.Topic) > 0 {
		c.names[p.TopicAlias] = string(p.Topic)
		return nil
	}
	name, ok := c.names[p.TopicAlias]
	if !ok {
		return fmt.Errorf("the broker sent the topic alias %d and never said what it stands for", p.TopicAlias)
	}
	p.Topic = []byte(name)
	return nil
}

// publish takes a message into the inbox, a QoS 2 one once only (MQTT5 §4.3.3). mu is held.
func (c *Client) publish(p *packet.Publish) error {
	if p.QoS == 2 {
		if told, ok := c.received[p.ID]; ok {
			if told {
				return c.writeAck(&packet.Ack{Type: packet.PUBREC, ID: p.ID})
			}
			return nil // its PUBREC leaves when the caller has it
		}
		c.received[p.ID] = false
	}
	// One copy of the properties, which what is parsed of it aliases.
	properties, err := packet.ParseTravelling(p.AppendTravelling(nil))
	if err != nil {
		return wrong(packet.Header{Type: packet.PUBLISH}, err)
	}
	c.inbox = append(c.inbox, incoming{
		Message: Message{
			Topic:           string(p.Topic),
			Payload:         append([]byte(nil), p.Payload...),
			QoS:             p.QoS,
			Retain:          p.Retain,
			Dup:             p.Dup,
			Properties:      properties,
			Expiry:          p.Expiry,
			HasExpiry:       p.HasExpiry,
			TopicAlias:      p.TopicAlias,
			SubscriptionIDs: slices.Collect(p.ReceivedSubscriptionIDs()),
		},
		id: p.ID,
	})
	return nil
}

// ack continues the QoS flow of a message of ours, or ends that of one we received. mu is held.
func (c *Client) ack(a *packet.Ack) error {
	if a.Type == packet.PUBREL {
		delete(c.received, a.ID)
		return c.writeAck(&packet.Ack{Type: packet.PUBCOMP, ID: a.ID})
	}
	m := c.flight[a.ID]
	if m == nil {
		return nil // of an earlier connection of this client
	}
	if a.Code >= packet.UnspecifiedError && !m.released {
		if c.refused == nil {
			c.refused = &Refused{What: "the message to " + m.Topic, Code: a.Code, Reason: string(a.Reason)}
		}
		delete(c.flight, a.ID)
		return nil
	}
	if a.Type == packet.PUBREC {
		m.released = true
		return c.writeAck(&packet.Ack{Type: packet.PUBREL, ID: a.ID})
	}
	delete(c.flight, a.ID)
	return nil
}
