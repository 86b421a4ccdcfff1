package packet

// The faults that the parsers find. They are values made once, so that refusing a packet costs
// no more than taking it: a peer that sends nothing but faults must not keep the garbage
// collector busy.
var (
	// The fixed header.
	errReservedType    = malformed("packet type 0 is reserved")
	errReservedFlags   = malformed("reserved flags of the fixed header") // [MQTT-2.1.3-1]
	errTLS             = malformed("reserved flags of the fixed header: this is how TLS begins, and not MQTT")
	errHTTP            = malformed("reserved flags of the fixed header: this is how an HTTP request begins, as of a WebSocket, and not MQTT")
	errRemainingLength = malformed("remaining length is longer than 4 bytes") // §1.5.5
	errPingBody        = malformed("ping with a body")                        // §3.12, §3.13
	errQoS3            = malformed("publish with both qos bits set")          // [MQTT-3.3.1-4]
	errDupQoS0         = malformed("publish with dup at qos 0")               // [MQTT-3.3.1-2]

	// Data representation and packet identifiers.
	errTruncated = malformed("packet ends inside a field")
	errTrailing  = malformed("bytes behind the last field")
	errVarint    = malformed("variable byte integer is not minimal or too long")   // [MQTT-1.5.5-1]
	errUTF8      = malformed("string is not utf-8 or contains the null character") // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
	errPacketID  = protocolError("packet identifier is 0")                         // [MQTT-2.2.1-3], [MQTT-2.2.1-4]
	errReason    = protocolError("reason code is not one of this packet's")        // [MQTT-3.4.2-1] and its siblings

	// Properties.
	errProperty          = malformed("property is unknown or not one of this packet's") // §2.2.2.2
	errPropertyTwice     = protocolError("property stands twice")
	errPropertyFlag      = protocolError("property takes 0 or 1 only")
	errPropertyZero      = protocolError("property must not be 0")
	errAuthDataAlone     = protocolError("authentication data without a method")  // §3.1.2.11.10
	errAuthMethodMissing = protocolError("auth without an authentication method") // §3.15.2.2.2

	// CONNECT and CONNACK.
	errProtocolName    = &Error{UnsupportedProtocolVersion, "protocol name is not MQTT"}         // [MQTT-3.1.2-1]
	errVersion         = &Error{UnsupportedProtocolVersion, "protocol version is not supported"} // [MQTT-3.1.2-2]
	errConnectReserved = malformed("reserved connect flag is set")                               // [MQTT-3.1.2-3]
	errWillQoS3        = malformed("will qos is 3")                                              // [MQTT-3.1.2-12]
	errWillFlags       = protocolError("will qos or will retain without the will flag")          // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
	errPasswordAlone   = protocolError("password without a user name")                           // MQTT3 [MQTT-3.1.2-22]
	errConnackReserved = malformed("reserved connect acknowledge flag is set")                   // [MQTT-3.2.2-1]
	errSessionPresent  = protocolError("session present with a refusal")                         // [MQTT-3.2.2-6]

	// PUBLISH and will.
	errTopicUTF8     = malformed("topic name is not utf-8 or contains the null character") // [MQTT-3.3.2-1]
	errTopicWildcard = protocolError("topic name contains a wildcard")                     // [MQTT-3.3.2-2]
	errTopicMissing  = protocolError("topic name is empty and there is no topic alias")    // §3.3.2.1
	errTopicEmpty    = malformed("topic name is empty")                                    // MQTT3 [MQTT-4.7.3-1]
	errWillTopic     = protocolError("will topic is empty or contains a wildcard")         // [MQTT-4.7.3-1], [MQTT-3.3.2-2]
	errResponseTopic = protocolError("response topic is empty or contains a wildcard")     // [MQTT-3.3.2-14]

	// SUBSCRIBE and UNSUBSCRIBE.
	errNoFilters       = protocolError("no topic filter")                    // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
	errNoCodes         = protocolError("no reason code")                     // [MQTT-3.8.4-6]
	errOptionsReserved = malformed("reserved subscription options are set")  // [MQTT-3.8.3-5]
	errOptionsQoS      = protocolError("subscription asks for qos 3")        // §3.8.3.1
	errOptionsRetain   = protocolError("subscription has retain handling 3") // §3.8.3.1
	errNoLocalShared   = protocolError("no local on a shared subscription")  // [MQTT-3.8.3-4]
)

func malformed(detail string) *Error     { return &Error{MalformedPacket, detail} }
func protocolError(detail string) *Error { return &Error{ProtocolError, detail} }
