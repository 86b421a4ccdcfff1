package mqtt

import (
	"fmt"

	"github.com/eclipse/paho.golang/packets"
)

// frame follows the bytes of one packet on their way to the library and refuses what the
// library must not see.
type frame struct {
	left   int  // bytes of the packet still to come
	at     int  // bytes of its body seen
	props  int  // offset in the body where the property length begins, -1 = not known yet
	topic  int  // of PUBLISH: the length of its topic, as far as it was seen
	id     int  // of PUBLISH: 2 if it has a packet identifier
	length int  // bytes of the property length seen
	over   bool // the property length is complete, or there is none
}

// begin takes the bytes of a fixed header. n is how many it has; 0 = more bytes are needed.
func (f *frame) begin(b []byte, maxPacket uint32) (n int, err error) {
	remaining := 0
	for i, c := range b[1:] {
		if i == 4 {
			return 0, fmt.Errorf("mqtt: server sent a malformed packet: remaining length of more than 4 bytes")
		}
		remaining |= int(c&0x7F) << (7 * i)
		if c < 0x80 {
			n = i + 2
			break
		}
	}
	if n == 0 {
		return 0, nil
	}
	if uint64(n)+uint64(remaining) > uint64(maxPacket) {
		return 0, fmt.Errorf("mqtt: server sent a packet of %d bytes, more than the announced maximum of %d", n+remaining, maxPacket)
	}
	*f = frame{left: n + remaining, props: -1}
	switch b[0] >> 4 {
	case packets.PUBLISH:
		if b[0]&0x06 != 0 {
			f.id = 2
		}
	case packets.CONNACK:
		if remaining == 2 {
			return 0, ErrOldProtocol // no properties: a CONNACK of 3.1.1
		}
		f.props = 2
	case packets.SUBACK, packets.UNSUBACK:
		f.props = 2
	case packets.PUBACK, packets.PUBREC, packets.PUBREL, packets.PUBCOMP:
		f.props = 3
	case packets.DISCONNECT, packets.AUTH:
		f.props = 1
	default:
		f.over = true // no properties
	}
	return n, nil
}

// body takes the next bytes behind the fixed header.
func (f *frame) body(b []byte) error {
	for len(b) > 0 && !f.over {
		if f.props < 0 {
			f.topic = f.topic<<8 | int(b[0])
			if f.at == 1 {
				f.props = 2 + f.topic + f.id
			}
			f.at++
			b = b[1:]
			continue
		}
		if skip := f.props - f.at; skip > 0 {
			skip = min(skip, len(b))
			f.at += skip
			b = b[skip:]
			continue
		}
		if f.length++; f.length > 4 {
			return fmt.Errorf("mqtt: server sent a malformed packet: property length of more than 4 bytes")
		}
		f.over = b[0] < 0x80
		b = b[1:]
	}
	return nil
}
