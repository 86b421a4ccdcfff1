package broker

import (
	"errors"

	"dunlin/core/packet"
)

// A session that ends with its connection is no durable destination: a message at QoS 2 leaves for it at
// once, and a crash ends the session with what it has. A disk that fails does not. A publisher of MQTT 5.0
// that has lost its connection before it was told sends the message again: who has it already must not
// get it twice, so it is taken to those who are durable, as a delayed message that could not be stored.
// What MQTT 3 clients send is held meanwhile.

// notePartly remembers a QoS 2 message of a client that has reached those who need no disk, and nobody
// else, until the client sends it again under its identifier.
func (b *Broker) notePartly(op *publishing) {
	told := op.client != nil && !op.client.ended && op.client.version >= packet.V5
	unsent := op.failed == nil || errors.Is(op.failed, errRefused) || errors.Is(op.failed, errDelayedFull) || op.later != nil
	if m := op.member; !told && !unsent && m.state.Durable() && !m.ended { // else it comes as another message
		if m.partly == nil {
			m.partly = make(map[packet.ID]struct{})
		}
		m.partly[op.id] = struct{}{}
	}
}

// wasPartly says whether the last message under an identifier was noted, and forgets it.
func (m *member) wasPartly(id packet.ID) bool {
	if m.partly == nil {
		return false
	}
	_, was := m.partly[id]
	if delete(m.partly, id); len(m.partly) == 0 {
		m.partly = nil
	}
	return was
}
