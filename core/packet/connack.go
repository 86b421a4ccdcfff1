package packet

// Connack is a CONNACK (MQTT5 §3.2). AppendConnack maps Code to the return codes of 3.1 and
// 3.1.1, and leaves out properties there. A property is written only if it differs from what
// its absence means.
type Connack struct {
	SessionPresent bool // not written with a Code other than Success [MQTT-3.2.2-6]
	Code           ReasonCode

	SessionExpiry        uint32 // seconds, if HasSessionExpiry
	HasSessionExpiry     bool
	ReceiveMaximum       uint16 // 0 = absent, which means 65,535
	MaximumQoS           QoS    // written if HasMaximumQoS; 2 is what absence means
	HasMaximumQoS        bool
	RetainUnavailable    bool
	MaximumPacketSize    uint32 // bytes, 0 = absent
	AssignedClientID     []byte // nil if absent, as the others
	TopicAliasMaximum    uint16
	Reason               []byte // Reason String
	UserProperties       []byte // as in Connect
	WildcardUnavailable  bool
	SubIDUnavailable     bool
	SharedUnavailable    bool
	ServerKeepAlive      uint16 // seconds, if HasServerKeepAlive
	HasServerKeepAlive   bool
	ResponseInformation  []byte
	ServerReference      []byte
	AuthMethod, AuthData []byte
}

const connackSet = userSet | 1<<propSessionExpiry | 1<<propReceiveMaximum | 1<<propMaximumQoS |
	1<<propRetainAvailable | 1<<propMaximumPacketSize | 1<<propAssignedClientID |
	1<<propAliasMaximum | 1<<propReasonString | 1<<propWildcardAvailable | 1<<propSubIDAvailable |
	1<<propSharedAvailable | 1<<propServerKeepAlive | 1<<propResponseInfo |
	1<<propServerReference | 1<<propAuthMethod | 1<<propAuthData

const connackSessionPresent byte = 0x01

// The return codes of 3.1 and 3.1.1 (MQTT3 §3.2.2.3).
const (
	returnAccepted byte = iota
	returnBadVersion
	returnIdentifierRejected
	returnUnavailable
	returnBadCredentials
	returnNotAuthorized
)

var returnCodes = [...]ReasonCode{
	returnAccepted:           Success,
	returnBadVersion:         UnsupportedProtocolVersion,
	returnIdentifierRejected: ClientIdentifierNotValid,
	returnUnavailable:        ServerUnavailable,
	returnBadCredentials:     BadUserNameOrPassword,
	returnNotAuthorized:      NotAuthorized,
}

// returnCode is the return code of 3.1 and 3.1.1 that comes closest: "unavailable" where trying
// again later may help, "not authorized" where it will not.
func returnCode(c ReasonCode) byte {
	switch c {
	case Success:
		return returnAccepted
	case UnsupportedProtocolVersion:
		return returnBadVersion
	case ClientIdentifierNotValid:
		return returnIdentifierRejected
	case UnspecifiedError, ImplementationSpecificError, ServerUnavailable, ServerBusy, ServerShuttingDown,
		QuotaExceeded, UseAnotherServer, ServerMoved, ConnectionRateExceeded:
		return returnUnavailable
	case BadUserNameOrPassword, BadAuthenticationMethod:
		return returnBadCredentials
	}
	return returnNotAuthorized
}

// connackCode reports whether c may stand in a CONNACK [MQTT-3.2.2-8].
func connackCode(c ReasonCode) bool {
	switch c {
	case Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecificError,
		UnsupportedProtocolVersion, ClientIdentifierNotValid, BadUserNameOrPassword, NotAuthorized,
		ServerUnavailable, ServerBusy, Banned, BadAuthenticationMethod, TopicNameInvalid,
		PacketTooLarge, QuotaExceeded, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported,
		UseAnotherServer, ServerMoved, ConnectionRateExceeded:
		return true
	}
	return false
}

// ParseConnack decodes the variable header of a CONNACK (MQTT5 §3.2, MQTT3 §3.2).
//
//	+-----------------+------+-----------------+
//	| session present | code | properties (v5) |
//	+-----------------+------+-----------------+
//
// In 3.1 and 3.1.1 the code is a return code of 0 to 5; Code is what it means in 5.0. MQTT 3.1
// has no session present, its byte is not looked at. The result aliases body.
//
// It returns an *Error with code MalformedPacket for reserved bits [MQTT-3.2.2-1], cut fields,
// bytes behind the last and properties that are none of CONNACK; ProtocolError for a code that
// is none of CONNACK, a session present with a refusal [MQTT-3.2.2-6] and properties that stand
// twice or have a forbidden value.
func ParseConnack(body []byte, v Version) (Connack, error) {
	var c Connack
	if err := c.parse(body, v); err != nil {
		return Connack{}, err
	}
	return c, nil
}

func (c *Connack) parse(b []byte, v Version) *Error {
	if len(b) < 2 {
		return errTruncated
	}
	if v != V31 {
		if b[0]&^connackSessionPresent != 0 {
			return errConnackReserved
		}
		c.SessionPresent = b[0] != 0
	}
	if v >= V5 {
		c.Code = ReasonCode(b[1])
		if !connackCode(c.Code) {
			return errReason
		}
	} else {
		if int(b[1]) >= len(returnCodes) {
			return errReason
		}
		c.Code = returnCodes[b[1]]
	}
	if c.SessionPresent && c.Code != Success {
		return errSessionPresent
	}
	b = b[2:]
	if v >= V5 {
		var err *Error
		if b, err = c.parseProperties(b); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		return errTrailing
	}
	return nil
}

func (c *Connack) parseProperties(b []byte) (rest []byte, err *Error) {
	ps, rest, err := cutProperties(b, connackSet, userSet)
	if err != nil {
		return nil, err
	}
	for ps.more() {
		if err := ps.next(); err != nil {
			return nil, err
		}
		switch ps.id {
		case propSessionExpiry:
			c.SessionExpiry, c.HasSessionExpiry = ps.number, true
		case propReceiveMaximum:
			c.ReceiveMaximum = uint16(ps.number)
		case propMaximumQoS:
			c.MaximumQoS, c.HasMaximumQoS = QoS(ps.number), true
		case propRetainAvailable:
			c.RetainUnavailable = ps.number == 0
		case propMaximumPacketSize:
			c.MaximumPacketSize = ps.number
		case propAssignedClientID:
			c.AssignedClientID = ps.data
		case propAliasMaximum:
			c.TopicAliasMaximum = uint16(ps.number)
		case propReasonString:
			c.Reason = ps.data
		case propWildcardAvailable:
			c.WildcardUnavailable = ps.number == 0
		case propSubIDAvailable:
			c.SubIDUnavailable = ps.number == 0
		case propSharedAvailable:
			c.SharedUnavailable = ps.number == 0
		case propServerKeepAlive:
			c.ServerKeepAlive, c.HasServerKeepAlive = uint16(ps.number), true
		case propResponseInfo:
			c.ResponseInformation = ps.data
		case propServerReference:
			c.ServerReference = ps.data
		case propAuthMethod:
			c.AuthMethod = ps.data
		case propAuthData:
			c.AuthData = ps.data
		}
	}
	if c.AuthData != nil && c.AuthMethod == nil {
		return nil, errAuthDataAlone
	}
	c.UserProperties = ps.keptBlock()
	return rest, nil
}

// versionMark is the bit that some bridges set in the Protocol Version of their CONNECT.
const versionMark Version = 0x80

// AppendConnack appends c as a whole packet in the form that a client of version v reads: the
// inverse of ParseConnack. v may be the byte of a version that ParseConnect has refused. For
// 3.1 and 3.1.1 the code becomes the nearest return code; MQTT 3.1 has no session present.
func AppendConnack(dst []byte, c *Connack, v Version) []byte {
	v &^= versionMark
	dst = append(dst, byte(CONNACK)<<4)
	dst, body := openLength(dst)
	present := byte(0)
	if c.SessionPresent && c.Code == Success && v > V31 {
		present = connackSessionPresent
	}
	if v >= V5 {
		dst = append(dst, present, byte(c.Code))
		dst = c.appendProperties(dst)
	} else {
		dst = append(dst, present, returnCode(c.Code))
	}
	return closeLength(dst, body)
}

func (c *Connack) appendProperties(dst []byte) []byte {
	dst, block := openLength(dst)
	if c.HasSessionExpiry {
		dst = appendUint32(dst, propSessionExpiry, c.SessionExpiry)
	}
	if c.ReceiveMaximum != 0 && c.ReceiveMaximum != 65535 {
		dst = appendUint16(dst, propReceiveMaximum, c.ReceiveMaximum)
	}
	if c.HasMaximumQoS && c.MaximumQoS < 2 {
		dst = append(dst, propMaximumQoS, byte(c.MaximumQoS))
	}
	if c.RetainUnavailable {
		dst = appendFlag(dst, propRetainAvailable, false)
	}
	if c.MaximumPacketSize != 0 {
		dst = appendUint32(dst, propMaximumPacketSize, c.MaximumPacketSize)
	}
	dst = appendData(dst, propAssignedClientID, c.AssignedClientID)
	if c.TopicAliasMaximum != 0 {
		dst = appendUint16(dst, propAliasMaximum, c.TopicAliasMaximum)
	}
	dst = appendData(dst, propReasonString, c.Reason)
	dst = appendOnly(dst, c.UserProperties, userSet)
	if c.WildcardUnavailable {
		dst = appendFlag(dst, propWildcardAvailable, false)
	}
	if c.SubIDUnavailable {
		dst = appendFlag(dst, propSubIDAvailable, false)
	}
	if c.SharedUnavailable {
		dst = appendFlag(dst, propSharedAvailable, false)
	}
	if c.HasServerKeepAlive {
		dst = appendUint16(dst, propServerKeepAlive, c.ServerKeepAlive)
	}
	dst = appendData(dst, propResponseInfo, c.ResponseInformation)
	dst = appendData(dst, propServerReference, c.ServerReference)
	dst = appendData(dst, propAuthMethod, c.AuthMethod)
	dst = appendData(dst, propAuthData, c.AuthData)
	return closeLength(dst, block)
}
