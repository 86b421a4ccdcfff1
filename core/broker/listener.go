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
	MaxConnectRate int              // CONNECT packets a second; who sends one more is told to come back later
	Redirect       Redirect

	// What follows belongs to the loop.
	connections int
	connects    bucket
	crowded     failures // CONNECT packets above the rate
	full        failures // connections above MaxConnections, its own or that of Limits
}

// Redirect sends clients on to other servers (MQTT5 §4.11). The zero value sends nobody.
type Redirect struct {
	// To is the Server Reference: host, host:port or several of them with spaces between. "" = none.
	To        string
	Permanent bool // Server moved, 0x9D; otherwise Use another server, 0x9C
	// AtStop lets clients in, and sends on those who are there when the broker stops. Otherwise each
	// CONNECT is answered so, before anybody is asked who the client is.
	AtStop bool
}

// code is what a client of MQTT 5.0 is told; older ones hear that the server is unavailable.
func (r *Redirect) code() packet.ReasonCode {
	if r.Permanent {
		return packet.ServerMoved
	}
	return packet.UseAnotherServer
}

// turnsAway says whether nobody is let in.
func (r *Redirect) turnsAway() bool { return r.To != "" && !r.AtStop }

// reference is r.To as a property.
func (r *Redirect) reference() []byte { return []byte(r.To) }

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

// maxConnectRate is how many CONNECT packets a second the listener takes, 0 = any number.
func (c *client) maxConnectRate() int {
	if n := c.listener.MaxConnectRate; n != 0 {
		return n
	}
	return c.b.limits.MaxConnectRate
}

// window is how many PUBLISH packets the client gets at once: as many as it asks for, within the
// bound of its listener.
func (c *client) window(receiveMaximum uint16) uint16 {
	if n := c.listener.MaxInFlight; n != 0 {
		return min(receiveMaximum, uint16(min(n, 65535)))
	}
	return receiveMaximum
}
