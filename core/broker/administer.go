package broker

import (
	"context"
	"errors"
	"math"

	"dunlin/core/packet"
	"dunlin/core/topic"
)

// Disconnection says how an administrator ends a connection. The zero value is that of one who only
// wants it to end.
type Disconnection struct {
	// Reason is told to a client of MQTT 5.0 that wants Reason Strings: UTF-8 of at most 65,535 bytes;
	// "" = that an administrator ended the connection.
	Reason string
	// NoWill drops the will, as if the client had said goodbye. Otherwise it is published by the rules:
	// after its delay, or when the session ends [MQTT-3.1.2-8].
	NoWill bool
}

// Disconnect ends the connection of a client as an administrator wants it: MQTT 5.0 is told 0x98,
// Administrative action, older clients see the end alone. It returns whether there was a connection.
//
// The session stays as long as it would after a loss of the connection, and nobody is kept from
// connecting again; a client whose CONNECT was not answered yet gets no answer [MQTT-3.14.0-1]. When
// Disconnect returns the client is told, but it may not have read it. It may be called from any
// goroutine but the loop's; after an error which says that ctx has ended the connection may still
// be ended.
func (b *Broker) Disconnect(ctx context.Context, clientID string, o Disconnection) (found bool, err error) {
	why := "an administrator ended the connection"
	if o.Reason != "" {
		why = o.Reason
	}
	if len(why) > math.MaxUint16 || !topic.ValidString([]byte(why)) {
		return false, errBadReason
	}
	var was bool
	if err := b.onLoop(ctx, func() {
		m := b.members[clientID]
		if m == nil || m.client == nil {
			return
		}
		was = true
		c, will := m.client, abnormal
		if o.NoWill {
			will = normal
		}
		b.log.Info("client is disconnected by an administrator", "client_id", clientID, "remote", c.conn.Remote(), "reason", why)
		b.sendDisconnect(c, packet.AdministrativeAction, why)
		b.end(c, will)
	}); err != nil {
		return false, err
	}
	return was, nil
}

// errBadReason is returned by Disconnect: the caller gives another reason, or none.
var errBadReason = errors.New("broker: the reason is no UTF-8 string of MQTT; give one without U+0000 of at most 65535 bytes")
