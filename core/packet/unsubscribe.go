package packet

import "iter"

// Unsubscribe is an UNSUBSCRIBE (MQTT5 §3.10). ParseUnsubscribe has validated the whole
// packet: Filters cannot fail.
type Unsubscribe struct {
	ID             ID
	UserProperties []byte // as in Connect
	Body           []byte // the payload: Topic Filters
}

// ParseUnsubscribe decodes the variable header and payload of an UNSUBSCRIBE (MQTT5 §3.10, MQTT3
// §3.10).
//
//	+-----------------+-----------------+--------------+---
//	| packet ID (2 B) | properties (v5) | Topic Filter | … at least one
//	+-----------------+-----------------+--------------+---
//
// Filters are UTF-8 and otherwise unchecked, as in ParseSubscribe. The result aliases body.
//
// It returns an *Error with code MalformedPacket for cut fields, strings that are not UTF-8 and
// properties that are none of UNSUBSCRIBE; ProtocolError for packet identifier 0 and no filter
// [MQTT-3.10.3-2]. It does not allocate.
func ParseUnsubscribe(body []byte, v Version) (Unsubscribe, error) {
	var u Unsubscribe
	if err := u.parse(body, v); err != nil {
		return Unsubscribe{}, err
	}
	return u, nil
}

func (u *Unsubscribe) parse(b []byte, v Version) (err *Error) {
	if u.ID, b, err = cutID(b); err != nil {
		return err
	}
	if v >= V5 {
		ps, rest, err := cutProperties(b, userSet, userSet)
		if err != nil {
			return err
		}
		for ps.more() {
			if err := ps.next(); err != nil {
				return err
			}
		}
		u.UserProperties, b = ps.keptBlock(), rest
	}
	if len(b) == 0 {
		return errNoFilters
	}
	u.Body = b[:len(b):len(b)]
	for len(b) > 0 {
		if _, b, err = cutString(b); err != nil {
			return err
		}
	}
	return nil
}

// Filters yields the Topic Filters in order, of an Unsubscribe that came from ParseUnsubscribe.
// A filter aliases the parsed body.
func (u Unsubscribe) Filters() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for b := u.Body; len(b) > 0; {
			filter, rest, err := cutBinary(b)
			if err != nil {
				panic("packet: internal error: unsubscribe did not come from its parser")
			}
			if !yield(filter) {
				return
			}
			b = rest
		}
	}
}

// AppendUnsubscribe appends an UNSUBSCRIBE as a whole packet (MQTT5 §3.10, MQTT3 §3.10). It
// panics if a filter is longer than 65,535 bytes, and otherwise checks nothing.
func AppendUnsubscribe(dst []byte, id ID, filters []string, v Version) []byte {
	return AppendUnsubscribeWith(dst, id, nil, filters, v)
}

// AppendUnsubscribeWith is AppendUnsubscribe with User Properties, encoded as in Connect.
func AppendUnsubscribeWith(dst []byte, id ID, user []byte, filters []string, v Version) []byte {
	dst = append(dst, byte(UNSUBSCRIBE)<<4|fixedFlags)
	dst, body := openLength(dst)
	dst = append(dst, byte(id>>8), byte(id))
	if v >= V5 {
		var block int
		dst, block = openLength(dst)
		dst = appendOnly(dst, user, userSet)
		dst = closeLength(dst, block)
	}
	for _, filter := range filters {
		dst = appendString(dst, filter)
	}
	return closeLength(dst, body)
}
