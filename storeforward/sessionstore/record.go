package sessionstore

import (
	"bytes"
	"encoding/binary"
	"math"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// Flags of a message, its second byte; the lowest two bits are the QoS.
const (
	messageRetain    = 1 << 2
	messageExpiry    = 1 << 3
	messageWall      = 1 << 4
	messagePublisher = 1 << 5
	messageSource    = 1 << 6
)

// appendMessage writes a message: flags, stamp, what the flags announce, properties, topic,
// payload.
func appendMessage(dst []byte, m *message.Message) []byte {
	flags := m.QoS & 3
	for _, f := range []struct {
		is   bool
		flag byte
	}{
		{m.Retain, messageRetain},
		{m.HasExpiry, messageExpiry},
		{m.Received.Wall > 0, messageWall},
		{m.Publisher != "", messagePublisher},
		{m.Source != "", messageSource},
	} {
		if f.is {
			flags |= f.flag
		}
	}
	dst = append(dst, flags)
	dst = appendStamp(dst, m.Received, flags&messageWall != 0)
	if m.HasExpiry {
		dst = binary.AppendUvarint(dst, uint64(m.Expiry))
	}
	if m.Publisher != "" {
		dst = appendBytes(dst, m.Publisher)
	}
	if m.Source != "" {
		dst = appendBytes(dst, m.Source)
	}
	dst = appendBytes(dst, m.Properties)
	dst = appendBytes(dst, m.Topic)
	return appendBytes(dst, m.Payload)
}

// message reads what appendMessage wrote. The message owns its bytes.
func (d *decoder) message() *message.Message {
	flags := d.byte()
	if flags&3 == 3 || flags&(1<<7) != 0 {
		d.fail()
	}
	m := &message.Message{QoS: flags & 3, Retain: flags&messageRetain != 0, HasExpiry: flags&messageExpiry != 0}
	m.Received = d.stamp(flags&messageWall != 0)
	if m.HasExpiry {
		m.Expiry = uint32(d.uint(math.MaxUint32))
	}
	if flags&messagePublisher != 0 {
		m.Publisher = d.string()
	}
	if flags&messageSource != 0 {
		m.Source = d.string()
	}
	if p := d.bytes(); len(p) > 0 {
		m.Properties = bytes.Clone(p)
	}
	m.Topic = d.string()
	if p := d.bytes(); len(p) > 0 {
		m.Payload = bytes.Clone(p)
	}
	return m
}

// messageSize skips a message and returns the bytes of its properties, topic and payload.
func (d *decoder) messageSize() int {
	flags := d.byte()
	d.stamp(flags&messageWall != 0)
	if flags&messageExpiry != 0 {
		d.uvarint()
	}
	if flags&messagePublisher != 0 {
		d.bytes()
	}
	if flags&messageSource != 0 {
		d.bytes()
	}
	return len(d.bytes()) + len(d.bytes()) + len(d.bytes())
}

func appendStamp(dst []byte, s message.Stamp, wall bool) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.Boot))
	dst = binary.AppendUvarint(dst, s.Millis)
	if wall {
		dst = binary.AppendUvarint(dst, uint64(s.Wall))
	}
	return dst
}

func (d *decoder) stamp(wall bool) message.Stamp {
	s := message.Stamp{Boot: uint32(d.uint(math.MaxUint32)), Millis: d.uvarint()}
	if wall {
		s.Wall = int64(d.uint(math.MaxInt64))
	}
	return s
}

// Flags of a receiver entry; the lowest two bits are the granted QoS.
const (
	receiverRetain   = 1 << 2
	receiverIDs      = 1 << 3
	receiverPacketID = 1 << 4
	receiverShare    = 1 << 5
)

// receiver is a receiver of a message on its way to disk.
type receiver struct {
	durable.Receiver
	gone bool // done before the record was written: it is left out
}

// appendRecord writes the value of a message: its receivers in ascending order of their sessions,
// then the message.
func appendRecord(dst []byte, key []byte, receivers []receiver, m *message.Message) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	n := 0
	for i := range receivers {
		if !receivers[i].gone {
			n++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	before := durable.SessionNumber(0)
	for i := range receivers {
		r := &receivers[i]
		if r.gone {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(r.Session-before))
		before = r.Session
		flags := byte(r.QoS) & 3
		if r.Retain {
			flags |= receiverRetain
		}
		if len(r.SubscriptionIDs) > 0 {
			flags |= receiverIDs
		}
		if r.PacketID != 0 {
			flags |= receiverPacketID
		}
		if r.Share != "" {
			flags |= receiverShare
		}
		dst = append(dst, flags)
		if len(r.SubscriptionIDs) > 0 {
			dst = binary.AppendUvarint(dst, uint64(len(r.SubscriptionIDs)))
			for _, id := range r.SubscriptionIDs {
				dst = binary.AppendUvarint(dst, uint64(id))
			}
		}
		if r.PacketID != 0 {
			dst = binary.AppendUvarint(dst, uint64(r.PacketID))
		}
		if r.Share != "" {
			dst = appendBytes(dst, r.Share)
		}
	}
	dst = appendMessage(dst, m)
	return appendChecksum(dst, from, key)
}

// someShare stands for the filter of a shared subscription where it is not wanted.
const someShare = "$share"

// receivers calls fn with each receiver entry of a record; what is left is the message. The
// subscription identifiers are only read if whole is true, otherwise someShare stands for any filter.
func (d *decoder) receivers(whole bool, fn func(r *durable.Receiver)) {
	n := d.count()
	var r durable.Receiver
	for range n {
		before := r.Session
		r = durable.Receiver{Session: before + durable.SessionNumber(d.uvarint())}
		if r.Session <= before {
			d.fail() // twice the same, or not ascending
		}
		flags := d.byte()
		if flags&3 == 3 || flags>>6 != 0 {
			d.fail()
		}
		r.QoS, r.Retain = packet.QoS(flags&3), flags&receiverRetain != 0
		if flags&receiverIDs != 0 {
			k := d.count()
			if whole && k > 0 {
				r.SubscriptionIDs = make([]uint32, 0, k)
			}
			for range k {
				id := uint32(d.uint(math.MaxUint32))
				if whole {
					r.SubscriptionIDs = append(r.SubscriptionIDs, id)
				}
			}
		}
		if flags&receiverPacketID != 0 {
			r.PacketID = packet.ID(d.uint(math.MaxUint16))
		}
		if flags&receiverShare != 0 {
			r.Share = someShare
			if share := d.bytes(); whole {
				r.Share = string(share)
			}
		}
		if d.failed {
			return
		}
		fn(&r)
	}
}

// entry reads a record for session n; found is false if the record does not name it.
func (d *decoder) entry(n durable.SessionNumber, s durable.Seq) (e durable.Entry, found bool, err error) {
	d.receivers(true, func(r *durable.Receiver) {
		if r.Session == n {
			e.QoS, e.Retain, e.SubscriptionIDs, e.PacketID, e.Share = r.QoS, r.Retain, r.SubscriptionIDs, r.PacketID, r.Share
			found = true
		}
	})
	if !found {
		return e, false, nil
	}
	e.Seq, e.Message = s, d.message()
	return e, true, d.end()
}
