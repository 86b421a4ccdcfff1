package packet

// Header is a fixed header (MQTT5 §2.1).
type Header struct {
	Type      Type
	Flags     byte // the low four bits of the first byte, as received
	Remaining int  // Remaining Length: bytes that follow the fixed header, 0 to MaxRemaining
}

// ParseHeader decodes the fixed header at the start of b (MQTT5 §2.1, MQTT3 §2.2).
//
//	+--------+---------+-----------------------------+
//	| type 4 | flags 4 | Remaining Length (1 to 4 B) |
//	+--------+---------+-----------------------------+
//
// n is the length of the header, so that the packet is n+h.Remaining bytes long; it is 0 with a
// nil error if b does not hold the whole header yet. A claim of Remaining is no reason to make
// room for it: compare it with what is allowed first.
//
// It returns an *Error with code MalformedPacket if the type is 0, the reserved flags are not
// as the type wants them [MQTT-2.1.3-1], a PUBLISH has QoS 3 [MQTT-3.3.1-4] or DUP at QoS 0
// [MQTT-3.3.1-2], a ping has a body, or the Remaining Length does not end with its fourth byte.
// The first byte is judged as soon as it is there. A Remaining Length in more bytes than it
// needs is taken, as MQTT 3.1 and 3.1.1 have it.
func ParseHeader(b []byte) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, 0, nil
	}
	if fault := firstByteFault[b[0]]; fault != nil {
		return Header{}, 0, fault
	}
	return parseHeader(b)
}

// ParseHeader31 is ParseHeader for a connection of MQTT 3.1, where SUBSCRIBE, UNSUBSCRIBE and
// PUBREL may be sent again with DUP set (MQTT 3.1 §2.1).
func ParseHeader31(b []byte) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, 0, nil
	}
	first := b[0]
	switch Type(first >> 4) {
	case SUBSCRIBE, UNSUBSCRIBE, PUBREL:
		first &^= flagDup
	}
	if fault := firstByteFault[first]; fault != nil {
		return Header{}, 0, fault
	}
	return parseHeader(b)
}

// ParseHeader5 is ParseHeader for a connection of MQTT 5.0, where the Remaining Length must be as
// short as it can be [MQTT-1.5.5-1].
func ParseHeader5(b []byte) (h Header, n int, err error) {
	h, n, err = ParseHeader(b)
	if n > 2 && h.Remaining < 1<<(7*(n-2)) {
		return Header{}, 0, errVarint
	}
	return h, n, err
}

// parseHeader decodes the header behind a first byte that has been judged.
func parseHeader(b []byte) (h Header, n int, err error) {
	h.Type, h.Flags = Type(b[0]>>4), b[0]&0x0F
	if len(b) > 1 && b[1] < 0x80 { // nearly every packet
		h.Remaining, n = int(b[1]), 2
	} else {
		for i := 1; ; i++ {
			if i > 4 {
				return Header{}, 0, errRemainingLength
			}
			if i == len(b) {
				return Header{}, 0, nil
			}
			h.Remaining |= int(b[i]&0x7F) << (7 * (i - 1))
			if b[i] < 0x80 {
				n = i + 1
				break
			}
		}
	}
	if h.Remaining > 0 && (h.Type == PINGREQ || h.Type == PINGRESP) {
		return Header{}, 0, errPingBody
	}
	return h, n, nil
}

// The flags of a PUBLISH (MQTT5 §3.3.1).
const (
	flagRetain byte = 0x01
	flagDup    byte = 0x08
	shiftQoS        = 1
)

// fixedFlags are the flags of SUBSCRIBE, UNSUBSCRIBE and PUBREL (MQTT5 §2.1.3).
const fixedFlags = 0x02

// firstByteFault is what is wrong with a first byte, nil for the good ones.
var firstByteFault = func() (faults [256]*Error) {
	for b := range faults {
		flags := byte(b) & 0x0F
		switch Type(b >> 4) {
		case 0:
			faults[b] = errReservedType
		case PUBLISH:
			faults[b] = publishFlagsFault(flags)
		case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
			if flags != fixedFlags {
				faults[b] = errReservedFlags
			}
		default:
			if flags != 0 {
				faults[b] = errReservedFlags
			}
		}
	}
	// What comes to a port by mistake most often. None of these bytes begins a packet of MQTT.
	faults[0x15], faults[0x16] = errTLS, errTLS // an alert, a handshake
	faults['G'] = errHTTP                       // GET
	return faults
}()

// publishFlagsFault judges the flags of a PUBLISH.
func publishFlagsFault(flags byte) *Error {
	switch qos := flags >> shiftQoS & 3; {
	case qos == 3:
		return errQoS3
	case qos == 0 && flags&flagDup != 0:
		return errDupQoS0
	}
	return nil
}
