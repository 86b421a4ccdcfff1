package load

import (
	"encoding/binary"
	"fmt"

	"dunlin/core/packet"
)

// refusal is an answer of the broker after which there is no point in going on.
type refusal struct {
	client, what string
	code         packet.ReasonCode
	reason       []byte
}

func (r *refusal) Error() string {
	s := fmt.Sprintf("load: the broker answers the %s of %s with 0x%02X %v", r.what, r.client, byte(r.code), r.code)
	if len(r.reason) > 0 {
		s += fmt.Sprintf(": %q", r.reason)
	}
	return s
}

// packets handles the whole packets in b, appends to l.scratch what they make the client
// answer, and returns the start of a packet that is not whole.
func (l *loop) packets(c *client, b []byte) ([]byte, error) {
	at := now()
	v5 := l.engine.Version == packet.V5
	for len(b) >= 2 {
		first := b[0]
		remaining, header := int(b[1]), 2
		if remaining >= 0x80 {
			h, n, err := packet.ParseHeader(b)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				return b, nil
			}
			remaining, header = h.Remaining, n
		}
		if header+remaining > len(l.in) {
			return nil, fmt.Errorf("load: a %v of %d bytes is larger than anything that was asked for", packet.Type(first>>4), remaining)
		}
		if len(b) < header+remaining {
			return b, nil
		}
		body := b[header : header+remaining]
		b = b[header+remaining:]
		var err error
		switch packet.Type(first >> 4) {
		case packet.PUBLISH:
			err = l.publish(c, first, body, at, v5)
		case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
			err = l.acknowledge(c, packet.Type(first>>4), body, at)
		default:
			err = l.control(c, packet.Type(first>>4), body)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

var errShort = &packet.Error{Code: packet.MalformedPacket, Detail: "packet is too short"}

// publish handles a PUBLISH to a subscriber.
func (l *loop) publish(c *client, first byte, body []byte, at int64, v5 bool) error {
	if len(body) < 2 {
		return errShort
	}
	i := 2 + int(binary.BigEndian.Uint16(body))
	qos := first >> 1 & 3
	if qos > 0 {
		if len(body) < i+2 {
			return errShort
		}
		kind := byte(packet.PUBACK) << 4
		if qos == 2 {
			kind = byte(packet.PUBREC) << 4
		}
		l.scratch = append(l.scratch, kind, 2, body[i], body[i+1])
		i += 2
	}
	if v5 {
		if len(body) <= i {
			return errShort
		}
		n, used := binary.Uvarint(body[i:]) // the same form as a Variable Byte Integer
		if used <= 0 {
			return errShort
		}
		i += int(n) + used
	}
	if len(body) < i+headerSize {
		l.foreign++
		return nil
	}
	payload := body[i:]
	index := binary.BigEndian.Uint32(payload[4:])
	nth := index - c.base
	if binary.BigEndian.Uint32(payload) != l.engine.run || nth >= uint32(len(c.tracks)) {
		l.foreign++
		return nil
	}
	p := l.engine.publishers[index]
	seq := binary.BigEndian.Uint32(payload[8:])
	nr, topics := seq, uint32(len(p.frames))
	if c.stride > 0 {
		nr, topics = seq/c.stride, 1
	}
	if !c.tracks[nth].accept(nr, topics, &l.faults) {
		return nil
	}
	l.delivered++
	l.latency.Record(at - int64(binary.BigEndian.Uint64(payload[12:])))
	if p.expect > 0 && p.arrived(seq) {
		l.queue(p)
	}
	return nil
}

// acknowledge handles the other packets of QoS 1 and 2, of both directions.
func (l *loop) acknowledge(c *client, t packet.Type, body []byte, at int64) error {
	if len(body) < 2 {
		return errShort
	}
	if t == packet.PUBREL {
		l.scratch = append(l.scratch, byte(packet.PUBCOMP)<<4, 2, body[0], body[1])
		return nil
	}
	p, id := c.pub, binary.BigEndian.Uint16(body)
	if p == nil || id == 0 || int(id) > len(p.slots) {
		return fmt.Errorf("load: a %v for packet identifier %d, which %s does not use", t, id, c.id)
	}
	failed := len(body) > 2 && body[2] >= 0x80
	if failed {
		l.refused++
	}
	if t == packet.PUBREC && !failed {
		l.scratch = append(l.scratch, byte(packet.PUBREL)<<4|2, 2, body[0], body[1])
		return nil
	}
	s := &p.slots[id-1]
	v := s.state.Load()
	if v&0xffffffff == 0 {
		return fmt.Errorf("load: a %v for packet identifier %d, which %s does not use now", t, id, c.id)
	}
	l.acked++
	p.acked++
	l.acks.Record(at - s.sent)
	if s.state.Add(^uint64(0))&0xffffffff == 0 {
		l.queue(p)
	}
	return nil
}

// control handles what comes a few times in the life of a connection.
func (l *loop) control(c *client, t packet.Type, body []byte) error {
	v := l.engine.Version
	switch {
	case t == packet.CONNACK && c.state == opening:
		a, err := packet.ParseConnack(body, v)
		if err != nil {
			return err
		}
		if a.Code != packet.Success {
			return &refusal{c.id, "CONNECT", a.Code, a.Reason}
		}
		if c.pub != nil {
			if err := c.pub.keepTo(&a, c.id); err != nil {
				return err
			}
		}
		if c.filters == nil || a.SessionPresent {
			l.up(c)
			return nil
		}
		subscriptions := make([]packet.Subscription, len(c.filters))
		for i, f := range c.filters {
			subscriptions[i] = packet.Subscription{Filter: f, Options: packet.SubscribeOptions{QoS: packet.QoS(c.qos)}}
		}
		c.state = attaching
		l.scratch = packet.AppendSubscribe(l.scratch, 1, 0, subscriptions, v)
	case t == packet.SUBACK && c.state == attaching:
		a, err := packet.ParseSuback(body, v)
		if err != nil {
			return err
		}
		for _, code := range a.Codes {
			if byte(code) != c.qos {
				return &refusal{c.id, "SUBSCRIBE", code, a.Reason}
			}
		}
		l.up(c)
	case t == packet.DISCONNECT && v == packet.V5:
		d, err := packet.ParseDisconnect(body, v)
		if err != nil {
			return err
		}
		return &refusal{c.id, "connection", d.Code, d.Reason}
	case t == packet.PINGRESP:
	default:
		return fmt.Errorf("load: unexpected %v", t)
	}
	return nil
}

// keepTo shortens the ring to what the broker takes at once.
func (p *publisher) keepTo(a *packet.Connack, id string) error {
	if a.HasMaximumQoS && p.qos > byte(a.MaximumQoS) {
		return &refusal{id, "QoS", packet.QoSNotSupported, nil}
	}
	if p.qos > 0 && a.ReceiveMaximum > 0 && p.next == 0 && len(p.slots) > int(a.ReceiveMaximum) {
		p.slots = p.slots[:a.ReceiveMaximum]
	}
	return nil
}
