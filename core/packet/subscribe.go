package packet

import (
	"bytes"
	"iter"
)

// Subscribe is a SUBSCRIBE (MQTT5 §3.8). ParseSubscribe has validated the whole packet:
// Filters cannot fail.
type Subscribe struct {
	ID             ID
	SubscriptionID uint32 // Subscription Identifier, 0 if absent
	UserProperties []byte // as in Connect
	Body           []byte // the payload: Topic Filters with their options
	Version        Version
}

// SubscribeOptions is the options byte behind a Topic Filter (MQTT5 §3.8.3.1). In 3.1 and 3.1.1
// there is only the QoS.
type SubscribeOptions struct {
	QoS               QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send retained, 1 only if the subscription is new, 2 never
}

// Subscription is one Topic Filter of a SUBSCRIBE to be sent.
type Subscription struct {
	Filter  string
	Options SubscribeOptions
}

// The Subscription Options (MQTT5 §3.8.3.1).
const (
	optionsQoS               byte = 0x03
	optionsNoLocal           byte = 0x04
	optionsRetainAsPublished byte = 0x08
	optionsRetainHandling    byte = 0x30
	optionsShiftHandling          = 4
	optionsReserved          byte = 0xC0
	optionsReserved3         byte = 0xFC // MQTT3 §3.8.3
)

const subscribeSet = userSet | 1<<propSubscriptionID

// What begins the Topic Filter of a Shared Subscription: "$queue/" is ours.
var (
	sharePrefix = []byte("$share/")
	queuePrefix = []byte("$queue/")
)

// ParseSubscribe decodes the variable header and payload of a SUBSCRIBE (MQTT5 §3.8, MQTT3
// §3.8).
//
//	+-----------------+-----------------+-------------------------------------+---
//	| packet ID (2 B) | properties (v5) | Topic Filter | options (1 B) | … at least one
//	+-----------------+-----------------+-------------------------------------+---
//
// Filters are UTF-8, but whether they are Topic Filters is for the caller to check, who answers
// each with a reason code. The result aliases body.
//
// It returns an *Error with code MalformedPacket for cut fields, strings that are not UTF-8,
// reserved option bits [MQTT-3.8.3-5] and properties that are none of SUBSCRIBE; ProtocolError
// for packet identifier 0, no filter [MQTT-3.8.3-2], QoS 3 (3.1.1: malformed [MQTT-3-8.3-4]),
// Retain Handling 3, No Local on a Shared Subscription [MQTT-3.8.3-4], and a Subscription
// Identifier that is 0 or stands twice. It does not allocate.
func ParseSubscribe(body []byte, v Version) (Subscribe, error) {
	s := Subscribe{Version: v}
	if err := s.parse(body); err != nil {
		return Subscribe{}, err
	}
	return s, nil
}

func (s *Subscribe) parse(b []byte) (err *Error) {
	if s.ID, b, err = cutID(b); err != nil {
		return err
	}
	if s.Version >= V5 {
		ps, rest, err := cutProperties(b, subscribeSet, userSet)
		if err != nil {
			return err
		}
		for ps.more() {
			if err := ps.next(); err != nil {
				return err
			}
			if ps.id == propSubscriptionID {
				s.SubscriptionID = ps.number
			}
		}
		s.UserProperties, b = ps.keptBlock(), rest
	}
	if len(b) == 0 {
		return errNoFilters
	}
	s.Body = b[:len(b):len(b)]
	for len(b) > 0 {
		filter, rest, err := cutString(b)
		if err != nil {
			return err
		}
		if len(rest) == 0 {
			return errTruncated
		}
		if err := optionsFault(rest[0], filter, s.Version); err != nil {
			return err
		}
		b = rest[1:]
	}
	return nil
}

// optionsFault judges the options byte behind filter.
func optionsFault(options byte, filter []byte, v Version) *Error {
	if v < V5 {
		if options&optionsReserved3 != 0 || options&optionsQoS == 3 {
			return errOptionsReserved
		}
		return nil
	}
	switch {
	case options&optionsReserved != 0:
		return errOptionsReserved
	case options&optionsQoS == 3:
		return errOptionsQoS
	case options&optionsRetainHandling == optionsRetainHandling:
		return errOptionsRetain
	case options&optionsNoLocal != 0 && (bytes.HasPrefix(filter, sharePrefix) || bytes.HasPrefix(filter, queuePrefix)):
		return errNoLocalShared
	}
	return nil
}

// Filters yields the Topic Filters in order with their options, of a Subscribe that came from
// ParseSubscribe. A filter aliases the parsed body.
func (s Subscribe) Filters() iter.Seq2[[]byte, SubscribeOptions] {
	return func(yield func([]byte, SubscribeOptions) bool) {
		for b := s.Body; len(b) > 0; {
			filter, rest, err := cutBinary(b)
			if err != nil || len(rest) == 0 {
				panic("packet: internal error: subscribe did not come from its parser")
			}
			if !yield(filter, subscribeOptions(rest[0])) {
				return
			}
			b = rest[1:]
		}
	}
}

func subscribeOptions(b byte) SubscribeOptions {
	return SubscribeOptions{
		QoS:               QoS(b & optionsQoS),
		NoLocal:           b&optionsNoLocal != 0,
		RetainAsPublished: b&optionsRetainAsPublished != 0,
		RetainHandling:    b & optionsRetainHandling >> optionsShiftHandling,
	}
}

// AppendSubscribe appends a SUBSCRIBE as a whole packet (MQTT5 §3.8, MQTT3 §3.8). A subID of 0
// is no Subscription Identifier. 3.1 and 3.1.1 have of the options the QoS only, and no
// identifier. It panics if a filter is longer than 65,535 bytes, and otherwise checks nothing.
func AppendSubscribe(dst []byte, id ID, subID uint32, filters []Subscription, v Version) []byte {
	return AppendSubscribeWith(dst, id, subID, nil, filters, v)
}

// AppendSubscribeWith is AppendSubscribe with User Properties, encoded as in Connect.
func AppendSubscribeWith(dst []byte, id ID, subID uint32, user []byte, filters []Subscription, v Version) []byte {
	dst = append(dst, byte(SUBSCRIBE)<<4|fixedFlags)
	dst, body := openLength(dst)
	dst = append(dst, byte(id>>8), byte(id))
	if v >= V5 {
		var block int
		dst, block = openLength(dst)
		if subID != 0 {
			dst = append(dst, propSubscriptionID)
			dst = appendVarint(dst, int(subID))
		}
		dst = appendOnly(dst, user, userSet)
		dst = closeLength(dst, block)
	}
	for _, s := range filters {
		dst = appendString(dst, s.Filter)
		options := byte(s.Options.QoS)
		if v >= V5 {
			options |= s.Options.RetainHandling << optionsShiftHandling
			if s.Options.NoLocal {
				options |= optionsNoLocal
			}
			if s.Options.RetainAsPublished {
				options |= optionsRetainAsPublished
			}
		}
		dst = append(dst, options)
	}
	return closeLength(dst, body)
}
