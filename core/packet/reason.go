package packet

import "fmt"

// ReasonCode is a reason code of MQTT 5.0 (MQTT5 §2.4). From 0x80 on it is a failure.
type ReasonCode byte

// The reason codes by the names of MQTT5 §2.4. Success is also Normal Disconnection and
// Granted QoS 0.
const (
	Success                     ReasonCode = 0x00
	GrantedQoS1                 ReasonCode = 0x01
	GrantedQoS2                 ReasonCode = 0x02
	DisconnectWithWill          ReasonCode = 0x04
	NoMatchingSubscribers       ReasonCode = 0x10
	NoSubscriptionExisted       ReasonCode = 0x11
	ContinueAuthentication      ReasonCode = 0x18
	ReAuthenticate              ReasonCode = 0x19
	UnspecifiedError            ReasonCode = 0x80
	MalformedPacket             ReasonCode = 0x81
	ProtocolError               ReasonCode = 0x82
	ImplementationSpecificError ReasonCode = 0x83
	UnsupportedProtocolVersion  ReasonCode = 0x84
	ClientIdentifierNotValid    ReasonCode = 0x85
	BadUserNameOrPassword       ReasonCode = 0x86
	NotAuthorized               ReasonCode = 0x87
	ServerUnavailable           ReasonCode = 0x88
	ServerBusy                  ReasonCode = 0x89
	Banned                      ReasonCode = 0x8A
	ServerShuttingDown          ReasonCode = 0x8B
	BadAuthenticationMethod     ReasonCode = 0x8C
	KeepAliveTimeout            ReasonCode = 0x8D
	SessionTakenOver            ReasonCode = 0x8E
	TopicFilterInvalid          ReasonCode = 0x8F
	TopicNameInvalid            ReasonCode = 0x90
	PacketIDInUse               ReasonCode = 0x91
	PacketIDNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded      ReasonCode = 0x93
	TopicAliasInvalid           ReasonCode = 0x94
	PacketTooLarge              ReasonCode = 0x95
	MessageRateTooHigh          ReasonCode = 0x96
	QuotaExceeded               ReasonCode = 0x97
	AdministrativeAction        ReasonCode = 0x98
	PayloadFormatInvalid        ReasonCode = 0x99
	RetainNotSupported          ReasonCode = 0x9A
	QoSNotSupported             ReasonCode = 0x9B
	UseAnotherServer            ReasonCode = 0x9C
	ServerMoved                 ReasonCode = 0x9D
	SharedNotSupported          ReasonCode = 0x9E
	ConnectionRateExceeded      ReasonCode = 0x9F
	MaximumConnectTime          ReasonCode = 0xA0
	SubIDNotSupported           ReasonCode = 0xA1
	WildcardNotSupported        ReasonCode = 0xA2
)

var reasonNames = [...]string{
	Success:                     "Success",
	GrantedQoS1:                 "Granted QoS 1",
	GrantedQoS2:                 "Granted QoS 2",
	DisconnectWithWill:          "Disconnect with Will Message",
	NoMatchingSubscribers:       "No matching subscribers",
	NoSubscriptionExisted:       "No subscription existed",
	ContinueAuthentication:      "Continue authentication",
	ReAuthenticate:              "Re-authenticate",
	UnspecifiedError:            "Unspecified error",
	MalformedPacket:             "Malformed Packet",
	ProtocolError:               "Protocol Error",
	ImplementationSpecificError: "Implementation specific error",
	UnsupportedProtocolVersion:  "Unsupported Protocol Version",
	ClientIdentifierNotValid:    "Client Identifier not valid",
	BadUserNameOrPassword:       "Bad User Name or Password",
	NotAuthorized:               "Not authorized",
	ServerUnavailable:           "Server unavailable",
	ServerBusy:                  "Server busy",
	Banned:                      "Banned",
	ServerShuttingDown:          "Server shutting down",
	BadAuthenticationMethod:     "Bad authentication method",
	KeepAliveTimeout:            "Keep Alive timeout",
	SessionTakenOver:            "Session taken over",
	TopicFilterInvalid:          "Topic Filter invalid",
	TopicNameInvalid:            "Topic Name invalid",
	PacketIDInUse:               "Packet Identifier in use",
	PacketIDNotFound:            "Packet Identifier not found",
	ReceiveMaximumExceeded:      "Receive Maximum exceeded",
	TopicAliasInvalid:           "Topic Alias invalid",
	PacketTooLarge:              "Packet too large",
	MessageRateTooHigh:          "Message rate too high",
	QuotaExceeded:               "Quota exceeded",
	AdministrativeAction:        "Administrative action",
	PayloadFormatInvalid:        "Payload format invalid",
	RetainNotSupported:          "Retain not supported",
	QoSNotSupported:             "QoS not supported",
	UseAnotherServer:            "Use another server",
	ServerMoved:                 "Server moved",
	SharedNotSupported:          "Shared Subscriptions not supported",
	ConnectionRateExceeded:      "Connection rate exceeded",
	MaximumConnectTime:          "Maximum connect time",
	SubIDNotSupported:           "Subscription Identifiers not supported",
	WildcardNotSupported:        "Wildcard Subscriptions not supported",
}

// String returns the name of the code in MQTT5 §2.4, such as "Not authorized". The three names
// of 0x00 depend on the packet; here it is "Success".
func (c ReasonCode) String() string {
	if int(c) < len(reasonNames) && reasonNames[c] != "" {
		return reasonNames[c]
	}
	return fmt.Sprintf("ReasonCode(0x%02X)", byte(c))
}

// Error is the fault of the peer: a packet that the specification forbids. Code is what the
// DISCONNECT or CONNACK that closes the connection carries (MQTT5 §4.13).
type Error struct {
	Code   ReasonCode
	Detail string // fixed, lower case, names the field at fault
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s (reason code 0x%02X)", e.Detail, byte(e.Code))
}
