package packet

import "dunlin/core/topic"

// Travelling holds the properties of an Application Message that a server passes on unaltered
// (MQTT5 §3.3.2.3), taken apart: for those who translate messages to something else than MQTT
// packets or make them from it. nil is absent, empty is there and empty.
type Travelling struct {
	PayloadFormat    byte // Payload Format Indicator, 0 or 1 = UTF-8, if HasPayloadFormat
	HasPayloadFormat bool
	ContentType      []byte // UTF-8
	ResponseTopic    []byte // a Topic Name
	CorrelationData  []byte
	UserProperties   []byte // as in Connect
}

// validName reports whether b, known to be UTF-8, is a Topic Name.
func validName(b []byte) bool { return topic.CheckName(b) == nil }

// ParseTravelling decodes a block as Publish.Properties, Will.Properties and
// message.Message.Properties hold it. The result aliases block. It returns an *Error as
// ParsePublish does, and refuses properties that do not travel.
func ParseTravelling(block []byte) (Travelling, error) {
	var t Travelling
	ps := properties{block: block, allowed: travellingSet, repeated: userSet, kept: userSet}
	for ps.more() {
		if err := ps.next(); err != nil {
			return Travelling{}, err
		}
		switch ps.id {
		case propPayloadFormat:
			t.PayloadFormat, t.HasPayloadFormat = byte(ps.number), true
		case propContentType:
			t.ContentType = ps.data
		case propResponseTopic:
			if !validName(ps.data) {
				return Travelling{}, errResponseTopic
			}
			t.ResponseTopic = ps.data
		case propCorrelationData:
			t.CorrelationData = ps.data
		}
	}
	t.UserProperties = ps.keptBlock()
	return t, nil
}

// AppendTravelling appends t as a block, the inverse of ParseTravelling but for the order in
// which the properties of different kinds stand. It panics if a string is longer than 65,535
// bytes.
func AppendTravelling(dst []byte, t *Travelling) []byte {
	if t.HasPayloadFormat {
		dst = appendFlag(dst, propPayloadFormat, t.PayloadFormat != 0)
	}
	dst = appendData(dst, propContentType, t.ContentType)
	dst = appendData(dst, propResponseTopic, t.ResponseTopic)
	dst = appendData(dst, propCorrelationData, t.CorrelationData)
	return appendOnly(dst, t.UserProperties, userSet)
}
