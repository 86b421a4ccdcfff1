package sessionstore

import (
	"encoding/binary"
	"math"
	"slices"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// session is what is in memory of a persistent session: its queue and how far it is.
type session struct {
	number durable.SessionNumber
	queue  seqs        // what is not done; nothing else of the session is
	high   durable.Seq // the highest number it has been done with
	// outgoing are the QoS 2 messages on their way, in the order in which they left.
	outgoing []durable.Outgoing
	incoming []packet.ID
	ledger   Counts

	lingering int    // entries of queue that linger
	txn       uint64 // the last transaction with an entry for it
	acked     uint64 // the transaction that saves what it is done with of what is on disk, or unsealed

	dirty  bool   // what a cursor holds has changed since the last one was sealed
	record []byte // of the session, to be written; nil = nothing to write
	read   *read  // waits for its turn; nil = none
	ended  bool   // it is not in the store any more
}

// unsealed stands for a transaction to come.
const unsealed = math.MaxUint64

// done takes s out of the queue and counts it, and reports whether it was there.
func (q *session) done(s durable.Seq, o durable.Outcome) bool {
	if !q.queue.Remove(s) {
		return false
	}
	q.high = max(q.high, s)
	q.ledger.count(o, 1)
	return true
}

// sent notes the packet id of a message.
func (q *session) sent(s durable.Seq, id packet.ID) {
	for i := range q.outgoing {
		if o := &q.outgoing[i]; o.ID == id || !o.Received && o.Seq == s {
			q.outgoing = slices.Delete(q.outgoing, i, i+1)
			break
		}
	}
	q.outgoing = append(q.outgoing, durable.Outgoing{ID: id, Seq: s})
}

// received notes that only PUBREL and PUBCOMP remain of id.
func (q *session) received(id packet.ID) {
	for i := range q.outgoing {
		if q.outgoing[i].ID == id {
			q.outgoing[i] = durable.Outgoing{ID: id, Received: true}
			return
		}
	}
	q.outgoing = append(q.outgoing, durable.Outgoing{ID: id, Received: true})
}

// free forgets the outgoing id, and reports whether it was known.
func (q *session) free(id packet.ID) bool {
	return q.forget(func(o durable.Outgoing) bool { return o.ID == id })
}

// unsend forgets the outgoing id of a message that is done without a PUBREC.
func (q *session) unsend(s durable.Seq) {
	q.forget(func(o durable.Outgoing) bool { return !o.Received && o.Seq == s })
}

func (q *session) forget(match func(durable.Outgoing) bool) bool {
	i := slices.IndexFunc(q.outgoing, match)
	switch {
	case i < 0:
		return false
	case i == 0:
		q.outgoing = q.outgoing[1:] // nearly always: acknowledgements come in order
	default:
		q.outgoing = slices.Delete(q.outgoing, i, i+1)
	}
	if len(q.outgoing) == 0 {
		q.outgoing = nil
	}
	return true
}

// packetID returns the id under which s has left, 0 if it has not.
func (q *session) packetID(s durable.Seq) packet.ID {
	for i := range q.outgoing {
		if o := &q.outgoing[i]; !o.Received && o.Seq == s {
			return o.ID
		}
	}
	return 0
}

// cursor is what the cursors bucket holds of a session.
type cursor struct {
	// asOf is the last number that was given when the cursor was taken. What a later record says
	// about the session comes on top.
	asOf durable.Seq
	// high is the greatest number such that the session is done with everything up to it, but for
	// what open lists.
	high     durable.Seq
	open     []durable.Seq // ascending, each < high
	outgoing []durable.Outgoing
	incoming []packet.ID
	ledger   Counts
}

// appendCursor writes the cursor of q. What is listed one by one is only what lies between the
// first message that is not done and the last one that is: about what is in flight. What lingers is
// left out: it is on disk together with a later cursor, or never.
func appendCursor(dst []byte, key []byte, q *session, asOf durable.Seq, l *linger) []byte {
	from := len(dst)
	high := asOf
	if q.queue.Len() > 0 {
		high = max(min(q.high, asOf), q.queue.First()-1)
	}
	dst = append(dst, valueVersion)
	dst = binary.AppendUvarint(dst, uint64(asOf))
	dst = binary.AppendUvarint(dst, uint64(asOf-high))
	open := 0
	for s := range q.queue.Behind(0) {
		if s > high {
			break
		}
		if q.lingering == 0 || !l.has(s) {
			open++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(open))
	before := durable.Seq(0)
	for s := range q.queue.Behind(0) {
		if s > high {
			break
		}
		if q.lingering == 0 || !l.has(s) {
			dst = binary.AppendUvarint(dst, uint64(s-before))
			before = s
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(q.outgoing)))
	for _, o := range q.outgoing {
		if o.Received {
			dst = binary.AppendUvarint(dst, uint64(o.ID)<<1|1)
		} else {
			dst = binary.AppendUvarint(dst, uint64(o.ID)<<1)
			dst = binary.AppendUvarint(dst, uint64(asOf-o.Seq))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(q.incoming)))
	for _, id := range q.incoming {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	counts := q.ledger
	counts.Accepted -= uint64(q.lingering)
	dst = appendCounts(dst, &counts)
	return appendChecksum(dst, from, key)
}

func parseCursor(key, value []byte) (c cursor, err error) {
	d, err := openValue(key, value)
	if err != nil {
		return c, err
	}
	c.asOf = durable.Seq(d.uvarint())
	c.high = c.asOf - durable.Seq(d.uint(uint64(c.asOf)))
	before := durable.Seq(0)
	for range d.count() {
		s := before + durable.Seq(d.uvarint())
		if s <= before || s > c.high {
			d.fail()
			break
		}
		c.open = append(c.open, s)
		before = s
	}
	for range d.count() {
		n := d.uint(math.MaxUint16<<1 | 1)
		o := durable.Outgoing{ID: packet.ID(n >> 1), Received: n&1 != 0}
		if !o.Received {
			o.Seq = c.asOf - durable.Seq(d.uint(uint64(c.asOf)))
		}
		if d.failed {
			break
		}
		c.outgoing = append(c.outgoing, o)
	}
	for range d.count() {
		id := packet.ID(d.uint(math.MaxUint16))
		if d.failed {
			break
		}
		c.incoming = append(c.incoming, id)
	}
	c.ledger = d.counts()
	return c, d.end()
}

// Flags of a session record.
const (
	sessionConnected = 1 << 0
	sessionWill      = 1 << 1
	sessionWall      = 1 << 2 // of Left
)

// Options of a subscription: the bits of SUBSCRIBE (MQTT5 §3.8.3.1), and one of ours.
const (
	subscriptionNoLocal = 1 << 2
	subscriptionRetain  = 1 << 3
	subscriptionID      = 1 << 6
)

// appendSession writes the record of a session.
func appendSession(dst []byte, key []byte, s *durable.Session) []byte {
	from := len(dst)
	dst = append(dst, valueVersion)
	var flags byte
	if s.Connected {
		flags |= sessionConnected
	}
	if s.Will != nil {
		flags |= sessionWill
	}
	if s.Left.Wall > 0 {
		flags |= sessionWall
	}
	dst = append(dst, flags, byte(s.Version))
	dst = appendBytes(dst, s.ClientID)
	dst = appendBytes(dst, s.Identity)
	dst = binary.AppendUvarint(dst, uint64(s.Expiry))
	dst = appendStamp(dst, s.Left, flags&sessionWall != 0)
	dst = binary.AppendUvarint(dst, uint64(len(s.Subscriptions)))
	for i := range s.Subscriptions {
		sub := &s.Subscriptions[i]
		dst = appendBytes(dst, sub.Filter)
		options := byte(sub.QoS)&3 | sub.RetainHandling&3<<4
		if sub.NoLocal {
			options |= subscriptionNoLocal
		}
		if sub.RetainAsPublished {
			options |= subscriptionRetain
		}
		if sub.ID != 0 {
			options |= subscriptionID
		}
		dst = append(dst, options)
		if sub.ID != 0 {
			dst = binary.AppendUvarint(dst, uint64(sub.ID))
		}
	}
	if s.Will != nil {
		dst = binary.AppendUvarint(dst, uint64(s.Will.Delay))
		dst = appendMessage(dst, s.Will.Message)
	}
	return appendChecksum(dst, from, key)
}

func parseSession(key, value []byte) (s durable.Session, err error) {
	d, err := openValue(key, value)
	if err != nil {
		return s, err
	}
	if len(key) != 8 {
		d.fail()
	} else {
		s.Number = durable.SessionNumber(binary.BigEndian.Uint64(key))
	}
	flags := d.byte()
	s.Connected = flags&sessionConnected != 0
	s.Version = packet.Version(d.byte())
	s.ClientID = d.string()
	s.Identity = d.string()
	s.Expiry = uint32(d.uint(math.MaxUint32))
	s.Left = d.stamp(flags&sessionWall != 0)
	for range d.count() {
		sub := durable.Subscription{Filter: d.string()}
		options := d.byte()
		sub.QoS = packet.QoS(options & 3)
		sub.NoLocal = options&subscriptionNoLocal != 0
		sub.RetainAsPublished = options&subscriptionRetain != 0
		sub.RetainHandling = options >> 4 & 3
		if options&subscriptionID != 0 {
			sub.ID = uint32(d.uint(math.MaxUint32))
		}
		if d.failed {
			break
		}
		s.Subscriptions = append(s.Subscriptions, sub)
	}
	if flags&sessionWill != 0 {
		s.Will = &durable.Will{Delay: uint32(d.uint(math.MaxUint32))}
		s.Will.Message = d.message()
	}
	return s, d.end()
}
