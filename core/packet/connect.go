package packet

// Connect is a CONNECT (MQTT5 §3.1, MQTT3 §3.1). Byte slices alias the parsed body.
type Connect struct {
	Version    Version
	CleanStart bool   // Clean Session in 3.1 and 3.1.1
	KeepAlive  uint16 // seconds, 0 = off
	ClientID   []byte // may be empty

	Username    []byte
	Password    []byte
	HasUsername bool
	HasPassword bool

	HasWill bool
	Will    Will

	// Properties, MQTT 5.0 only; for older versions ParseConnect sets the defaults below.
	SessionExpiry     uint32 // seconds; 0xFFFFFFFF = does not expire; 0 if absent
	ReceiveMaximum    uint16 // 65,535 if absent; never 0
	MaximumPacketSize uint32 // bytes; 0 if absent = no limit
	TopicAliasMaximum uint16 // 0 if absent
	RequestResponse   bool   // false if absent
	RequestProblem    bool   // true if absent
	AuthMethod        []byte // nil if absent
	AuthData          []byte // nil if absent

	// UserProperties are encoded User Properties in order, each with its identifier, for the
	// function UserProperties to read; nil if there is none. After a Parse, others may stand
	// between them; an Append writes the User Properties only.
	UserProperties []byte
}

// Will is the Will Message of a CONNECT (MQTT5 §3.1.2.5).
type Will struct {
	Topic   []byte
	Payload []byte
	QoS     QoS
	Retain  bool

	Delay     uint32 // Will Delay Interval in seconds, 0 if absent
	Expiry    uint32 // Message Expiry Interval in seconds, if HasExpiry
	HasExpiry bool

	// Raw, Properties and Scattered are as in Publish: where a Will Delay or a Message Expiry
	// stands between the properties that travel, only AppendTravelling has them.
	Raw        []byte
	Properties []byte
	Scattered  bool

	PayloadFormat byte // set by Parse, part of Properties; 1 = UTF-8; Append ignores it
}

// AppendTravelling appends the properties that travel with the will message to dst, contiguous
// or not, in order: what Properties would be.
func (w *Will) AppendTravelling(dst []byte) []byte {
	if w.Scattered {
		return appendOnly(dst, w.Raw, travellingSet)
	}
	return append(dst, w.Properties...)
}

// The Connect Flags (MQTT5 §3.1.2.3).
const (
	connectReserved   byte = 0x01
	connectClean      byte = 0x02
	connectWill       byte = 0x04
	connectWillQoS3   byte = 0x18
	connectWillRetain byte = 0x20
	connectPassword   byte = 0x40
	connectUsername   byte = 0x80
	connectShiftQoS        = 3
)

// The protocol names (MQTT5 §3.1.2.1).
const (
	protocolName   = "MQTT"
	protocolName31 = "MQIsdp"
)

const (
	connectSet = userSet | 1<<propSessionExpiry | 1<<propReceiveMaximum | 1<<propMaximumPacketSize |
		1<<propAliasMaximum | 1<<propRequestResponse | 1<<propRequestProblem |
		1<<propAuthMethod | 1<<propAuthData
	willSet = travellingSet | 1<<propWillDelay | 1<<propMessageExpiry
)

// ParseConnect decodes the variable header and payload of a CONNECT (MQTT5 §3.1, MQTT3 §3.1).
//
//	+-----------------+---------+-------+----------------+-----------------+
//	| "MQTT"          | version | flags | Keep Alive     | properties (v5) |
//	+-----------------+---------+-------+----------------+-----------------+
//	| Client Identifier | will properties (v5)*, topic*, payload* | user name* | password* |
//	+-------------------+-----------------------------------------+------------+-----------+
//
//	* if its flag is set; payload and password are Binary Data, the others UTF-8
//
// The result aliases body. On an error the Connect has nothing but the Version, for a CONNACK in
// the right form: the byte that came if the protocol name is one of MQTT, 0 if not or if body
// ends before it, and then there is nobody to answer.
//
// It returns an *Error with code UnsupportedProtocolVersion for another name or version
// [MQTT-3.1.2-1], [MQTT-3.1.2-2]; MalformedPacket if a field is cut, bytes follow the last, a
// string is not UTF-8, the reserved flag is set [MQTT-3.1.2-3], the will has QoS 3
// [MQTT-3.1.2-12] or a property is none of CONNECT; ProtocolError if will flags are set without
// a will [MQTT-3.1.2-11], [MQTT-3.1.2-13], 3.1.1 has a password without a user name
// [MQTT-3.1.2-22], a topic is empty or has a wildcard, a property stands twice or has a
// forbidden value, or authentication data has no method.
//
// For MQTT 3.1 the reserved flag may be set, and user name and password may be missing at the
// end although their flags are set: they then count as not given (MQTT 3.1 §3.1).
func ParseConnect(body []byte) (Connect, error) {
	var c Connect
	if err := c.parse(body); err != nil {
		return Connect{Version: c.Version}, err
	}
	return c, nil
}

func (c *Connect) parse(b []byte) *Error {
	name, b, err := cutBinary(b)
	if err != nil {
		return err
	}
	if string(name) != protocolName && string(name) != protocolName31 {
		return errProtocolName
	}
	if len(b) < 1 {
		return errTruncated
	}
	c.Version, b = Version(b[0]), b[1:]
	switch {
	case string(name) == protocolName31 && c.Version == V31:
	case string(name) == protocolName && (c.Version == V311 || c.Version == V5):
	default:
		return errVersion
	}

	if len(b) < 1 {
		return errTruncated
	}
	flags := b[0]
	if err := c.flagsFault(flags); err != nil {
		return err
	}
	c.CleanStart = flags&connectClean != 0
	c.HasWill = flags&connectWill != 0
	c.HasUsername = flags&connectUsername != 0
	c.HasPassword = flags&connectPassword != 0
	if c.KeepAlive, b, err = cutUint16(b[1:]); err != nil {
		return err
	}
	c.ReceiveMaximum = 65535
	c.RequestProblem = true
	if c.Version >= V5 {
		if b, err = c.parseProperties(b); err != nil {
			return err
		}
	}

	if c.ClientID, b, err = cutString(b); err != nil {
		return err
	}
	if c.HasWill {
		c.Will.QoS = QoS(flags & connectWillQoS3 >> connectShiftQoS)
		c.Will.Retain = flags&connectWillRetain != 0
		if b, err = c.Will.parse(b, c.Version); err != nil {
			return err
		}
	}
	if c.Version == V31 && len(b) == 0 {
		c.HasUsername = false
	}
	if c.HasUsername {
		if c.Username, b, err = cutString(b); err != nil {
			return err
		}
	}
	if c.Version == V31 && len(b) == 0 {
		c.HasPassword = false
	}
	if c.HasPassword {
		if c.Password, b, err = cutBinary(b); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		return errTrailing
	}
	return nil
}

// flagsFault judges the Connect Flags.
func (c *Connect) flagsFault(flags byte) *Error {
	switch {
	case flags&connectReserved != 0 && c.Version != V31:
		return errConnectReserved
	case flags&connectWillQoS3 == connectWillQoS3:
		return errWillQoS3
	case flags&connectWill == 0 && flags&(connectWillQoS3|connectWillRetain) != 0:
		return errWillFlags
	case flags&connectPassword != 0 && flags&connectUsername == 0 && c.Version < V5:
		return errPasswordAlone
	}
	return nil
}

func (c *Connect) parseProperties(b []byte) (rest []byte, err *Error) {
	ps, rest, err := cutProperties(b, connectSet, userSet)
	if err != nil {
		return nil, err
	}
	for ps.more() {
		if err := ps.next(); err != nil {
			return nil, err
		}
		switch ps.id {
		case propSessionExpiry:
			c.SessionExpiry = ps.number
		case propReceiveMaximum:
			c.ReceiveMaximum = uint16(ps.number)
		case propMaximumPacketSize:
			c.MaximumPacketSize = ps.number
		case propAliasMaximum:
			c.TopicAliasMaximum = uint16(ps.number)
		case propRequestResponse:
			c.RequestResponse = ps.number != 0
		case propRequestProblem:
			c.RequestProblem = ps.number != 0
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

// parse decodes the will in the payload and returns what follows it.
func (w *Will) parse(b []byte, v Version) (rest []byte, err *Error) {
	if v >= V5 {
		if b, err = w.parseProperties(b); err != nil {
			return nil, err
		}
	}
	if w.Topic, b, err = cutString(b); err != nil {
		return nil, err
	}
	if !validName(w.Topic) {
		return nil, errWillTopic
	}
	if w.Payload, b, err = cutBinary(b); err != nil {
		return nil, err
	}
	return b, nil
}

func (w *Will) parseProperties(b []byte) (rest []byte, err *Error) {
	ps, rest, err := cutProperties(b, willSet, travellingSet)
	if err != nil {
		return nil, err
	}
	for ps.more() {
		if err := ps.next(); err != nil {
			return nil, err
		}
		switch ps.id {
		case propWillDelay:
			w.Delay = ps.number
		case propPayloadFormat:
			w.PayloadFormat = byte(ps.number)
		case propMessageExpiry:
			w.Expiry, w.HasExpiry = ps.number, true
		case propResponseTopic:
			if !validName(ps.data) {
				return nil, errResponseTopic
			}
		}
	}
	w.Raw = ps.block
	w.Scattered = ps.scattered
	if !ps.scattered {
		w.Properties = ps.keptBlock()
	}
	return rest, nil
}

// AppendConnect appends c as a whole packet: the inverse of ParseConnect. A property is written
// if it differs from what its absence means, so for 5.0 RequestProblem wants to be set; a
// ReceiveMaximum of 0 is left out, too. Older versions have no properties. It panics if a string
// is longer than 65,535 bytes, and otherwise checks nothing.
func AppendConnect(dst []byte, c *Connect) []byte {
	dst = append(dst, byte(CONNECT)<<4)
	dst, body := openLength(dst)
	if c.Version == V31 {
		dst = appendString(dst, protocolName31)
	} else {
		dst = appendString(dst, protocolName)
	}
	dst = append(dst, byte(c.Version), c.flags(), byte(c.KeepAlive>>8), byte(c.KeepAlive))
	if c.Version >= V5 {
		dst = c.appendProperties(dst)
	}
	dst = appendString(dst, c.ClientID)
	if c.HasWill {
		if c.Version >= V5 {
			dst = c.Will.appendProperties(dst)
		}
		dst = appendString(dst, c.Will.Topic)
		dst = appendString(dst, c.Will.Payload)
	}
	if c.HasUsername {
		dst = appendString(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendString(dst, c.Password)
	}
	return closeLength(dst, body)
}

func (c *Connect) flags() (flags byte) {
	if c.CleanStart {
		flags |= connectClean
	}
	if c.HasWill {
		flags |= connectWill | byte(c.Will.QoS)<<connectShiftQoS
		if c.Will.Retain {
			flags |= connectWillRetain
		}
	}
	if c.HasUsername {
		flags |= connectUsername
	}
	if c.HasPassword {
		flags |= connectPassword
	}
	return flags
}

func (c *Connect) appendProperties(dst []byte) []byte {
	dst, block := openLength(dst)
	if c.SessionExpiry != 0 {
		dst = appendUint32(dst, propSessionExpiry, c.SessionExpiry)
	}
	if c.ReceiveMaximum != 0 && c.ReceiveMaximum != 65535 {
		dst = appendUint16(dst, propReceiveMaximum, c.ReceiveMaximum)
	}
	if c.MaximumPacketSize != 0 {
		dst = appendUint32(dst, propMaximumPacketSize, c.MaximumPacketSize)
	}
	if c.TopicAliasMaximum != 0 {
		dst = appendUint16(dst, propAliasMaximum, c.TopicAliasMaximum)
	}
	if c.RequestResponse {
		dst = appendFlag(dst, propRequestResponse, true)
	}
	if !c.RequestProblem {
		dst = appendFlag(dst, propRequestProblem, false)
	}
	dst = appendData(dst, propAuthMethod, c.AuthMethod)
	dst = appendData(dst, propAuthData, c.AuthData)
	dst = appendOnly(dst, c.UserProperties, userSet)
	return closeLength(dst, block)
}

func (w *Will) appendProperties(dst []byte) []byte {
	dst, block := openLength(dst)
	if w.Delay != 0 {
		dst = appendUint32(dst, propWillDelay, w.Delay)
	}
	dst = w.AppendTravelling(dst)
	if w.HasExpiry {
		dst = appendUint32(dst, propMessageExpiry, w.Expiry)
	}
	return closeLength(dst, block)
}
