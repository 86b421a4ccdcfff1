package packet

// Disconnect is a DISCONNECT (MQTT5 §3.14). In 3.1 and 3.1.1 it has no fields.
type Disconnect struct {
	Code             ReasonCode // Success is Normal Disconnection
	SessionExpiry    uint32     // seconds, if HasSessionExpiry
	HasSessionExpiry bool
	Reason           []byte // Reason String, nil if absent
	ServerReference  []byte // nil if absent
	UserProperties   []byte // as in Connect
}

const disconnectSet = userSet | 1<<propSessionExpiry | 1<<propReasonString | 1<<propServerReference

// disconnectCode reports whether c may stand in a DISCONNECT of either side [MQTT-3.14.2-1].
func disconnectCode(c ReasonCode) bool {
	switch c {
	case Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError,
		ImplementationSpecificError, NotAuthorized, ServerBusy, ServerShuttingDown,
		BadAuthenticationMethod, KeepAliveTimeout, SessionTakenOver, TopicFilterInvalid, TopicNameInvalid,
		ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge, MessageRateTooHigh,
		QuotaExceeded, AdministrativeAction, PayloadFormatInvalid, RetainNotSupported,
		QoSNotSupported, UseAnotherServer, ServerMoved, SharedNotSupported,
		ConnectionRateExceeded, MaximumConnectTime, SubIDNotSupported, WildcardNotSupported:
		return true
	}
	return false
}

// ParseDisconnect decodes the variable header of a DISCONNECT (MQTT5 §3.14, MQTT3 §3.14). Older
// versions have none.
//
//	+----------------+------------------+
//	| reason (v5)*   | properties (v5)* |   * left out if Success and empty
//	+----------------+------------------+
//
// The result aliases body. It returns an *Error with code MalformedPacket for cut fields, bytes
// behind the last, strings that are not UTF-8 and properties that are none of DISCONNECT;
// ProtocolError for a code that is none of DISCONNECT [MQTT-3.14.2-1] and properties that stand
// twice. What only the other side may send, such as a Session Expiry from a server
// [MQTT-3.14.2-2], is for the caller to refuse.
func ParseDisconnect(body []byte, v Version) (Disconnect, error) {
	var d Disconnect
	if err := d.parse(body, v); err != nil {
		return Disconnect{}, err
	}
	return d, nil
}

func (d *Disconnect) parse(b []byte, v Version) *Error {
	if v < V5 && len(b) > 0 {
		return errTrailing
	}
	if len(b) == 0 {
		return nil
	}
	d.Code, b = ReasonCode(b[0]), b[1:]
	if !disconnectCode(d.Code) {
		return errReason
	}
	if len(b) == 0 {
		return nil
	}
	ps, rest, err := cutProperties(b, disconnectSet, userSet)
	if err != nil {
		return err
	}
	for ps.more() {
		if err := ps.next(); err != nil {
			return err
		}
		switch ps.id {
		case propSessionExpiry:
			d.SessionExpiry, d.HasSessionExpiry = ps.number, true
		case propReasonString:
			d.Reason = ps.data
		case propServerReference:
			d.ServerReference = ps.data
		}
	}
	d.UserProperties = ps.keptBlock()
	if len(rest) > 0 {
		return errTrailing
	}
	return nil
}

// AppendDisconnect appends d as a whole packet, the inverse of ParseDisconnect, in its shortest
// form. In 3.1 and 3.1.1 it is the header alone, and only a client may send it.
func AppendDisconnect(dst []byte, d *Disconnect, v Version) []byte {
	dst = append(dst, byte(DISCONNECT)<<4)
	bare := !d.HasSessionExpiry && d.Reason == nil && d.ServerReference == nil && len(d.UserProperties) == 0
	if v < V5 || bare && d.Code == Success {
		return append(dst, 0)
	}
	if bare {
		return append(dst, 1, byte(d.Code))
	}
	dst, body := openLength(dst)
	dst = append(dst, byte(d.Code))
	dst, block := openLength(dst)
	if d.HasSessionExpiry {
		dst = appendUint32(dst, propSessionExpiry, d.SessionExpiry)
	}
	dst = appendData(dst, propReasonString, d.Reason)
	dst = appendOnly(dst, d.UserProperties, userSet)
	dst = appendData(dst, propServerReference, d.ServerReference)
	dst = closeLength(dst, block)
	return closeLength(dst, body)
}
