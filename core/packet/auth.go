package packet

// Auth is an AUTH, MQTT 5.0 only (MQTT5 §3.15).
type Auth struct {
	Code           ReasonCode // Success, ContinueAuthentication or ReAuthenticate
	Method, Data   []byte     // nil if absent; the method is absent only in the empty form
	Reason         []byte     // Reason String, nil if absent
	UserProperties []byte     // as in Connect
}

const authSet = userSet | 1<<propAuthMethod | 1<<propAuthData | 1<<propReasonString

// authCode reports whether c may stand in an AUTH [MQTT-3.15.2-1].
func authCode(c ReasonCode) bool {
	return c == Success || c == ContinueAuthentication || c == ReAuthenticate
}

// ParseAuth decodes the variable header of an AUTH (MQTT5 §3.15).
//
//	+---------+-------------+
//	| reason* | properties* |   * left out if Success and empty (MQTT5 §3.15.2.1)
//	+---------+-------------+
//
// The result aliases body. It returns an *Error with code MalformedPacket for cut fields, bytes
// behind the last, strings that are not UTF-8 and properties that are none of AUTH;
// ProtocolError for a code that is none of AUTH [MQTT-3.15.2-1], a property that stands twice,
// and a missing method (MQTT5 §3.15.2.2.2), which only the empty body may leave out.
func ParseAuth(body []byte) (Auth, error) {
	var a Auth
	if err := a.parse(body); err != nil {
		return Auth{}, err
	}
	return a, nil
}

func (a *Auth) parse(b []byte) *Error {
	if len(b) == 0 {
		return nil
	}
	a.Code, b = ReasonCode(b[0]), b[1:]
	if !authCode(a.Code) {
		return errReason
	}
	ps, rest, err := cutProperties(b, authSet, userSet)
	if err != nil {
		return err
	}
	for ps.more() {
		if err := ps.next(); err != nil {
			return err
		}
		switch ps.id {
		case propAuthMethod:
			a.Method = ps.data
		case propAuthData:
			a.Data = ps.data
		case propReasonString:
			a.Reason = ps.data
		}
	}
	a.UserProperties = ps.keptBlock()
	if len(rest) > 0 {
		return errTrailing
	}
	if a.Method == nil {
		return errAuthMethodMissing
	}
	return nil
}

// AppendAuth appends a as a whole packet, the inverse of ParseAuth, in its shortest form.
func AppendAuth(dst []byte, a *Auth) []byte {
	dst = append(dst, byte(AUTH)<<4)
	if a.Code == Success && a.Method == nil && a.Data == nil && a.Reason == nil && len(a.UserProperties) == 0 {
		return append(dst, 0)
	}
	dst, body := openLength(dst)
	dst = append(dst, byte(a.Code))
	dst, block := openLength(dst)
	dst = appendData(dst, propAuthMethod, a.Method)
	dst = appendData(dst, propAuthData, a.Data)
	dst = appendData(dst, propReasonString, a.Reason)
	dst = appendOnly(dst, a.UserProperties, userSet)
	dst = closeLength(dst, block)
	return closeLength(dst, body)
}
