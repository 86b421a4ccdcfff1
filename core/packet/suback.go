package packet

// Suback is a SUBACK or UNSUBACK (MQTT5 §3.9, §3.11): one code for each filter, in order.
// AppendSuback maps codes from 0x80 on to 0x80 for 3.1.1; AppendUnsuback writes no codes there.
type Suback struct {
	ID             ID
	Codes          []ReasonCode // owned by the Suback, also after a Parse
	Reason         []byte       // Reason String, nil if absent
	UserProperties []byte       // as in Connect
}

// subackCode reports whether c may stand in a SUBACK of version v [MQTT-3.9.3-2].
func subackCode(c ReasonCode, v Version) bool {
	switch c {
	case Success, GrantedQoS1, GrantedQoS2, UnspecifiedError:
		return true
	case ImplementationSpecificError, NotAuthorized, TopicFilterInvalid, PacketIDInUse,
		QuotaExceeded, SharedNotSupported, SubIDNotSupported, WildcardNotSupported:
		return v >= V5
	}
	return false
}

// unsubackCode reports whether c may stand in an UNSUBACK [MQTT-3.11.3-2].
func unsubackCode(c ReasonCode) bool {
	switch c {
	case Success, NoSubscriptionExisted, UnspecifiedError, ImplementationSpecificError,
		NotAuthorized, TopicFilterInvalid, PacketIDInUse:
		return true
	}
	return false
}

// ParseSuback decodes the variable header and payload of a SUBACK (MQTT5 §3.9, MQTT3 §3.9).
//
//	+-----------------+-----------------+------+------+---
//	| packet ID (2 B) | properties (v5) | code | code | … at least one
//	+-----------------+-----------------+------+------+---
//
// It allocates Codes; the rest aliases body. It returns an *Error with code MalformedPacket for
// cut fields, strings that are not UTF-8 and properties that are none of SUBACK; ProtocolError
// for packet identifier 0, no code, and a code that is none of SUBACK [MQTT-3.9.3-2].
func ParseSuback(body []byte, v Version) (Suback, error) {
	var s Suback
	b, err := s.parse(body, v)
	if err != nil {
		return Suback{}, err
	}
	if len(b) == 0 {
		return Suback{}, errNoCodes
	}
	s.Codes = make([]ReasonCode, len(b))
	for i, c := range b {
		if !subackCode(ReasonCode(c), v) {
			return Suback{}, errReason
		}
		s.Codes[i] = ReasonCode(c)
	}
	return s, nil
}

// ParseUnsuback decodes an UNSUBACK as ParseSuback does (MQTT5 §3.11, MQTT3 §3.11). In 3.1 and
// 3.1.1 it has no codes and nothing may follow the packet identifier.
func ParseUnsuback(body []byte, v Version) (Suback, error) {
	var s Suback
	b, err := s.parse(body, v)
	switch {
	case err != nil:
		return Suback{}, err
	case v < V5 && len(b) > 0:
		return Suback{}, errTrailing
	case v < V5:
		return s, nil
	case len(b) == 0:
		return Suback{}, errNoCodes
	}
	s.Codes = make([]ReasonCode, len(b))
	for i, c := range b {
		if !unsubackCode(ReasonCode(c)) {
			return Suback{}, errReason
		}
		s.Codes[i] = ReasonCode(c)
	}
	return s, nil
}

// parse decodes the variable header and returns the payload.
func (s *Suback) parse(b []byte, v Version) (payload []byte, err *Error) {
	if s.ID, b, err = cutID(b); err != nil {
		return nil, err
	}
	if v >= V5 {
		if s.Reason, s.UserProperties, b, err = cutReason(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// AppendSuback appends s as a SUBACK, the inverse of ParseSuback. 3.1.1 has one code for
// failure, 0x80 (MQTT3 §3.9.3), and no properties; 3.1 has none, so its caller gives grants only.
func AppendSuback(dst []byte, s *Suback, v Version) []byte {
	dst = append(dst, byte(SUBACK)<<4)
	dst, body := openLength(dst)
	dst = s.appendHeader(dst, v)
	for _, c := range s.Codes {
		if v < V5 && c >= UnspecifiedError {
			c = UnspecifiedError
		}
		dst = append(dst, byte(c))
	}
	return closeLength(dst, body)
}

// AppendUnsuback appends s as an UNSUBACK, the inverse of ParseUnsuback. 3.1 and 3.1.1 have
// neither codes nor properties.
func AppendUnsuback(dst []byte, s *Suback, v Version) []byte {
	dst = append(dst, byte(UNSUBACK)<<4)
	dst, body := openLength(dst)
	dst = s.appendHeader(dst, v)
	if v >= V5 {
		for _, c := range s.Codes {
			dst = append(dst, byte(c))
		}
	}
	return closeLength(dst, body)
}

func (s *Suback) appendHeader(dst []byte, v Version) []byte {
	dst = append(dst, byte(s.ID>>8), byte(s.ID))
	if v >= V5 {
		dst = appendReason(dst, s.Reason, s.UserProperties)
	}
	return dst
}
