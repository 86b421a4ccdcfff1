// Package packet parses and appends the fifteen MQTT Control Packets of MQTT 3.1, 3.1.1 and
// 5.0 (MQTT5 §2, §3). It does no I/O and does not allocate: what Parse returns aliases its
// input, what Append writes goes behind dst.
//
// Parse and Append come in pairs. A ParseX takes the body, which is exactly the Remaining
// Length bytes behind the fixed header; an AppendX writes the whole packet with its fixed
// header. A Parse never panics, whatever the input; what it refuses is an *Error whose code is
// the reason code that goes on the wire.
package packet

// Version is the Protocol Version byte of CONNECT (MQTT5 §3.1.2.2).
type Version byte

// The protocol versions that the broker speaks.
const (
	V31  Version = 3 // MQTT 3.1, protocol name MQIsdp
	V311 Version = 4 // MQTT 3.1.1
	V5   Version = 5 // MQTT 5.0
)

// Type is the MQTT Control Packet type, the high four bits of the first byte (MQTT5 §2.1.2).
type Type byte

// The Control Packet types. 0 is reserved.
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
	AUTH        Type = 15
)

// QoS is the quality of service of a PUBLISH or a subscription: 0, 1 or 2 (MQTT5 §4.3).
type QoS byte

// ID is a Packet Identifier (MQTT5 §2.2.1). 0 is no identifier.
type ID uint16

// Header is a fixed header (MQTT5 §2.1).
type Header struct {
	Type      Type
	Flags     byte // the low four bits of the first byte, as received
	Remaining int  // Remaining Length: bytes that follow the fixed header, 0 to 268,435,455
}

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
	UserProperties    []byte // encoded User Property properties in order, each with its identifier; see UserProperty
}

// Will is the Will Message of a CONNECT (MQTT5 §3.1.2.5).
type Will struct {
	Topic   []byte
	Payload []byte
	QoS     QoS
	Retain  bool

	Delay      uint32 // Will Delay Interval in seconds, 0 if absent
	Expiry     uint32 // Message Expiry Interval in seconds, if HasExpiry
	HasExpiry  bool
	Properties []byte // encoded properties that travel with the message (see Publish.Properties)
}

// Connack is a CONNACK (MQTT5 §3.2). AppendConnack maps Code to the return codes of 3.1 and
// 3.1.1, and leaves out properties there. A property is written only if it differs from what
// its absence means.
type Connack struct {
	SessionPresent bool
	Code           ReasonCode

	SessionExpiry        uint32
	HasSessionExpiry     bool
	ReceiveMaximum       uint16 // 0 = absent
	MaximumQoS           QoS    // written if HasMaximumQoS
	HasMaximumQoS        bool
	RetainUnavailable    bool
	MaximumPacketSize    uint32 // bytes, 0 = absent
	AssignedClientID     []byte
	TopicAliasMaximum    uint16
	Reason               []byte // Reason String
	UserProperties       []byte // as in Connect
	WildcardUnavailable  bool
	SubIDUnavailable     bool
	SharedUnavailable    bool
	ServerKeepAlive      uint16
	HasServerKeepAlive   bool
	ResponseInformation  []byte
	ServerReference      []byte
	AuthMethod, AuthData []byte
}

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
	SubscriptionIDs []uint32 // written by Append in this order; Parse leaves it nil
	HasSubID        bool     // set by Parse: a Subscription Identifier was present
	ResponseTopic   []byte   // set by Parse, part of Properties; Append ignores it
	PayloadFormat   byte     // set by Parse, part of Properties; 1 = UTF-8; Append ignores it
}

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP (MQTT5 §3.4 to §3.7).
type Ack struct {
	Type           Type
	ID             ID
	Code           ReasonCode // Success in 3.1 and 3.1.1
	Reason         []byte     // Reason String, nil if absent
	UserProperties []byte
}

// Subscribe is a SUBSCRIBE (MQTT5 §3.8). ParseSubscribe has validated the whole packet:
// Filters cannot fail.
type Subscribe struct {
	ID             ID
	SubscriptionID uint32 // Subscription Identifier, 0 if absent
	UserProperties []byte
	Body           []byte // the payload: Topic Filters with their options
	Version        Version
}

// SubscribeOptions is the options byte behind a Topic Filter (MQTT5 §3.8.3.1).
type SubscribeOptions struct {
	QoS               QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send retained, 1 only if the subscription is new, 2 never
}

// Suback is a SUBACK or UNSUBACK (MQTT5 §3.9, §3.11): one code for each filter, in order.
// AppendSuback maps codes from 0x80 on to 0x80 for 3.1.1; AppendUnsuback writes no codes there.
type Suback struct {
	ID     ID
	Codes  []ReasonCode
	Reason []byte
}

// Unsubscribe is an UNSUBSCRIBE (MQTT5 §3.10). ParseUnsubscribe has validated the whole
// packet: Filters cannot fail.
type Unsubscribe struct {
	ID             ID
	UserProperties []byte
	Body           []byte
}

// Disconnect is a DISCONNECT (MQTT5 §3.14). In 3.1 and 3.1.1 it has no fields.
type Disconnect struct {
	Code             ReasonCode
	SessionExpiry    uint32 // seconds, if HasSessionExpiry
	HasSessionExpiry bool
	Reason           []byte
	ServerReference  []byte
	UserProperties   []byte
}

// Auth is an AUTH, MQTT 5.0 only (MQTT5 §3.15).
type Auth struct {
	Code           ReasonCode // 0x00, 0x18 or 0x19
	Method, Data   []byte
	Reason         []byte
	UserProperties []byte
}
