package broker

import (
	"slices"

	"dunlin/core/packet"
)

// Listener says what holds for the connections of one listening socket, or of several that share
// it. A bound of 0 is that of Limits.
type Listener struct {
	Name           string // for the log
	AllowAnonymous bool
	Versions       []packet.Version // that it speaks, nil = all
	MaxConnections int              // 0 = no limit of its own
	MaxPacket      int              // bytes, announced to MQTT 5.0
	ReceiveMaximum int              // announced to MQTT 5.0
	MaxInFlight    int              // PUBLISH packets on their way to one client; that of Limits counts if it is less

	connections int // belongs to the loop
}

// speaks says whether a version of the protocol may be used.
func (l *Listener) speaks(v packet.Version) bool {
	return l.Versions == nil || slices.Contains(l.Versions, v)
}

// maxReceived is the largest packet of an accepted client, in bytes.
func (c *client) maxReceived() int {
	if n := c.listener.MaxPacket; n != 0 {
		return min(n, largestPacket)
	}
	return c.b.limits.MaxPacket
}

// receiveMaximum is how many PUBLISH packets of the client may wait for our answer.
func (c *client) receiveMaximum() int {
	if n := c.listener.ReceiveMaximum; n != 0 {
		return n
	}
	return c.b.limits.ReceiveMaximum
}

// window is how many PUBLISH packets the client gets at once: as many as it asks for, within the
// bound of its listener.
func (c *client) window(receiveMaximum uint16) uint16 {
	if n := c.listener.MaxInFlight; n != 0 {
		return min(receiveMaximum, uint16(min(n, 65535)))
	}
	return receiveMaximum
}
