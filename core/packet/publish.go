package packet

import (
	"encoding/binary"
	"fmt"
	"iter"

	"dunlin/core/topic"
)

// Publish is a PUBLISH (MQTT5 §3.3, MQTT3 §3.3). Byte slices alias the parsed body.
type Publish struct {
	Topic   []byte // empty only in 5.0 with a Topic Alias
	Payload []byte
	ID      ID // 0 at QoS 0
	QoS     QoS
	Retain  bool
	Dup     bool

	// Raw is the whole property block as received, without its length. Only Parse sets it.
	Raw []byte
	// Properties are encoded properties that travel unaltered with the Application Message, in
	// order: Payload Format Indicator, Content Type, Response Topic, Correlation Data, User
	// Property. ParsePublish aliases them where they are contiguous in Raw; where a Message
	// Expiry, Topic Alias or Subscription Identifier stands between them it leaves them nil and
	// sets Scattered: call AppendTravelling with scratch space.
	Properties []byte
	Scattered  bool

	Expiry          uint32 // Message Expiry Interval in seconds, if HasExpiry
	HasExpiry       bool
	TopicAlias      uint16   // 0 if absent
	HasTopicAlias   bool     // set by Parse; a present alias of 0 is for the caller to refuse with 0x94
	SubscriptionIDs []uint32 // 1 to MaxRemaining each, written by Append in this order; Parse leaves it nil
	HasSubID        bool     // set by Parse: a Subscription Identifier was present
	ResponseTopic   []byte   // set by Parse, part of Properties; Append ignores it
	PayloadFormat   byte     // set by Parse, part of Properties; 1 = UTF-8; Append ignores it
}

const publishSet = travellingSet | 1<<propMessageExpiry | 1<<propTopicAlias | 1<<propSubscriptionID

// ParsePublish decodes the variable header and payload of a PUBLISH (MQTT5 §3.3, MQTT3 §3.3).
//
//	+-----------+-------+------------------+---------------------+---------+
//	| len (2 B) | topic | packet ID (2 B)* | properties (v5)     | payload |   * only if QoS > 0
//	+-----------+-------+------------------+---------------------+---------+
//
// body is what follows the fixed header, exactly Remaining Length bytes; flags are the low
// four bits of the first byte. The result aliases body: copy before body is reused.
//
// It returns an *Error with code MalformedPacket if lengths run past body, QoS is 3
// [MQTT-3.3.1-4], DUP is set at QoS 0 [MQTT-3.3.1-2], a string is not UTF-8 [MQTT-3.3.2-1] or a
// property is none of PUBLISH; ProtocolError if the topic or response topic has a wildcard
// [MQTT-3.3.2-2], [MQTT-3.3.2-14], the packet identifier is 0 [MQTT-2.2.1-4], a property stands
// twice or has a forbidden value, or the topic is empty without an alias. The Subscription
// Identifier may repeat, as servers send it; HasSubID is for a server to refuse it
// [MQTT-3.3.4-6]. It never panics, whatever the input. It does not allocate.
func ParsePublish(body []byte, flags byte, v Version) (p Publish, err error) {
	err = p.Parse(body, flags, v)
	return p, err
}

// Parse is ParsePublish into p, whatever p held before: a loop that parses one PUBLISH after the
// other into the same place saves a third of the time, which goes into moving the result.
func (p *Publish) Parse(body []byte, flags byte, v Version) error {
	*p = Publish{}
	if err := p.parse(body, flags, v); err != nil {
		*p = Publish{}
		return err
	}
	return nil
}

func (p *Publish) parse(b []byte, flags byte, v Version) *Error {
	if fault := firstByteFault[byte(PUBLISH)<<4|flags&0x0F]; fault != nil {
		return fault
	}
	if len(b) < 2 {
		return errTruncated
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	if end > len(b) {
		return errTruncated
	}
	name := b[2:end:end]
	if len(name) > 0 {
		if err := topic.CheckName(name); err != nil {
			return topicFault(err)
		}
	} else if v < V5 {
		return errTopicEmpty
	}
	p.Topic = name
	b = b[end:]
	if qos := QoS(flags >> shiftQoS & 3); qos > 0 {
		if len(b) < 2 {
			return errTruncated
		}
		p.QoS = qos
		p.ID = ID(binary.BigEndian.Uint16(b))
		if p.ID == 0 {
			return errPacketID
		}
		b = b[2:]
	}
	p.Retain = flags&flagRetain != 0
	p.Dup = flags&flagDup != 0
	if v >= V5 {
		var err *Error
		if b, err = p.parseProperties(b); err != nil {
			return err
		}
		if len(name) == 0 && !p.HasTopicAlias {
			return errTopicMissing
		}
	}
	p.Payload = b[:len(b):len(b)]
	return nil
}

// parseProperties decodes the property block at the start of b and returns what follows it.
func (p *Publish) parseProperties(b []byte) (rest []byte, err *Error) {
	if len(b) > 0 && b[0] == 0 { // the usual case
		p.Raw = b[1:1:1]
		return b[1:], nil
	}
	ps, rest, err := cutProperties(b, publishSet, travellingSet)
	if err != nil {
		return nil, err
	}
	ps.repeated |= 1 << propSubscriptionID
	for ps.more() {
		if err := ps.next(); err != nil {
			return nil, err
		}
		switch ps.id {
		case propPayloadFormat:
			p.PayloadFormat = byte(ps.number)
		case propResponseTopic:
			if !validName(ps.data) {
				return nil, errResponseTopic
			}
			p.ResponseTopic = ps.data
		case propMessageExpiry:
			p.Expiry, p.HasExpiry = ps.number, true
		case propTopicAlias:
			p.TopicAlias, p.HasTopicAlias = uint16(ps.number), true
		case propSubscriptionID:
			p.HasSubID = true
		}
	}
	p.Raw = ps.block
	p.Scattered = ps.scattered
	if !ps.scattered {
		p.Properties = ps.keptBlock()
	}
	return rest, nil
}

// topicFault is the fault of a Topic Name that is not empty.
func topicFault(err error) *Error {
	if err == topic.ErrWildcard {
		return errTopicWildcard
	}
	return errTopicUTF8
}

// AppendTravelling appends the properties that travel with the message to dst, contiguous or
// not, in order: what Properties would be.
func (p *Publish) AppendTravelling(dst []byte) []byte {
	if p.Scattered {
		return appendOnly(dst, p.Raw, travellingSet)
	}
	return append(dst, p.Properties...)
}

// ReceivedSubscriptionIDs yields the Subscription Identifiers of a parsed PUBLISH in order
// (MQTT5 §3.3.2.3.8). A client gets one for each of its subscriptions that matched and has one.
func (p *Publish) ReceivedSubscriptionIDs() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		var found property
		for block := p.Raw; len(block) > 0; {
			n, err := cutProperty(block, &found)
			if err != nil || found.id == propSubscriptionID && !yield(found.number) {
				return
			}
			block = block[n:]
		}
	}
}

// propertySize returns the bytes of the property block without its length.
func (p *Publish) propertySize() int {
	size := len(p.Properties)
	if p.Scattered {
		size = sizeOnly(p.Raw, travellingSet)
	}
	if p.HasExpiry {
		size += 5
	}
	if p.TopicAlias != 0 {
		size += 3
	}
	for _, id := range p.SubscriptionIDs {
		if id > MaxRemaining {
			panic(fmt.Sprintf("packet: internal error: subscription identifier %d, at most %d fits", id, MaxRemaining))
		}
		size += 1 + varintSize(int(id))
	}
	return size
}

// sizes returns the Remaining Length and the bytes of the property block without its length.
func (p *Publish) sizes(v Version) (remaining, properties int) {
	remaining = 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		remaining += 2
	}
	if v >= V5 {
		properties = p.propertySize()
		remaining += varintSize(properties) + properties
	}
	return remaining, properties
}

// PublishSize returns how many bytes AppendPublish writes. It may be more than a packet can have
// where a message arrived in a version without properties and leaves in one with them: one
// whose size is over the receiver's Maximum Packet Size, or MaxRemaining, must not be appended.
func PublishSize(p *Publish, v Version) int {
	remaining, _ := p.sizes(v)
	return 1 + varintSize(remaining) + remaining
}

// AppendPublish appends p as a whole packet: the inverse of ParsePublish. idOffset is where its
// packet identifier stands, counted from the start of the packet, so that one encoding can be
// sent with many identifiers; 0 at QoS 0. In 5.0, the properties that travel come first, then
// Message Expiry, Topic Alias if it is not 0, and SubscriptionIDs; older versions leave all out.
//
// It checks nothing: what it is given has come from ParsePublish or passed topic.CheckName. It
// panics if the topic is longer than 65,535 bytes or the packet than MaxRemaining allows. It
// does not allocate if dst has PublishSize bytes to spare.
func AppendPublish(dst []byte, p *Publish, v Version) (out []byte, idOffset int) {
	remaining, properties := p.sizes(v)
	if remaining > MaxRemaining || len(p.Topic) > maxString {
		panic(fmt.Sprintf("packet: internal error: publish of %d bytes with a topic of %d bytes", remaining, len(p.Topic)))
	}
	first := byte(PUBLISH)<<4 | byte(p.QoS)<<shiftQoS
	if p.Retain {
		first |= flagRetain
	}
	if p.Dup {
		first |= flagDup
	}
	start := len(dst)
	dst = append(dst, first)
	dst = appendVarint(dst, remaining)
	dst = append(dst, byte(len(p.Topic)>>8), byte(len(p.Topic)))
	dst = append(dst, p.Topic...)
	if p.QoS > 0 {
		idOffset = len(dst) - start
		dst = append(dst, byte(p.ID>>8), byte(p.ID))
	}
	if v >= V5 {
		dst = appendVarint(dst, properties)
		if properties > 0 {
			dst = p.appendProperties(dst)
		}
	}
	return append(dst, p.Payload...), idOffset
}

func (p *Publish) appendProperties(dst []byte) []byte {
	dst = p.AppendTravelling(dst)
	if p.HasExpiry {
		dst = appendUint32(dst, propMessageExpiry, p.Expiry)
	}
	if p.TopicAlias != 0 {
		dst = appendUint16(dst, propTopicAlias, p.TopicAlias)
	}
	for _, id := range p.SubscriptionIDs {
		dst = append(dst, propSubscriptionID)
		dst = appendVarint(dst, int(id))
	}
	return dst
}
