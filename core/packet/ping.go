package packet

// AppendPingreq appends a PINGREQ (MQTT5 §3.12), which is all header: ParseHeader is its parser.
//
//	+------+------+
//	| 0xC0 | 0x00 |
//	+------+------+
func AppendPingreq(dst []byte) []byte { return append(dst, byte(PINGREQ)<<4, 0) }

// AppendPingresp appends a PINGRESP (MQTT5 §3.13), which is all header: ParseHeader is its
// parser.
//
//	+------+------+
//	| 0xD0 | 0x00 |
//	+------+------+
func AppendPingresp(dst []byte) []byte { return append(dst, byte(PINGRESP)<<4, 0) }
