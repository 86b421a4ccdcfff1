// Package message holds the Application Message (MQTT5 §1.2) as the broker keeps it once it
// must outlive the read buffer it came in, with its origin and its stored form.
package message

// Message is an Application Message that owns its bytes. It is immutable once shared.
type Message struct {
	Topic      string
	Payload    []byte
	Properties []byte // encoded MQTT 5.0 properties that travel with it, in order (packet.Publish.Properties)
	QoS        byte   // as published
	Retain     bool   // as published

	HasExpiry bool
	Expiry    uint32 // Message Expiry Interval in seconds, counted from Received

	Received  Stamp  // when it was accepted here
	Publisher string // client identifier, empty for the broker itself and uplinks
	Source    string // "" = a LAN client, otherwise the name of the uplink that it came down from
}

// New returns a message with copies of payload and properties. Small ones stand beside it, in one
// piece of memory: most messages of a gateway are small, and a queue has many.
func New(payload, properties []byte) *Message {
	m, room := allocate(len(payload) + len(properties))
	n := copy(room, payload)
	m.Payload = room[:n:n]
	if len(properties) > 0 {
		copy(room[n:], properties)
		m.Properties = room[n:]
	}
	return m
}

// allocate returns a message and n bytes.
func allocate(n int) (*Message, []byte) {
	switch {
	case n <= 32:
		m := new(struct {
			Message
			room [32]byte
		})
		return &m.Message, m.room[:n:n]
	case n <= 64:
		m := new(struct {
			Message
			room [64]byte
		})
		return &m.Message, m.room[:n:n]
	case n <= 128:
		m := new(struct {
			Message
			room [128]byte
		})
		return &m.Message, m.room[:n:n]
	case n <= 256:
		m := new(struct {
			Message
			room [256]byte
		})
		return &m.Message, m.room[:n:n]
	}
	return new(Message), make([]byte, n)
}

// Size is what a queue is charged for the message: the bytes of topic, properties and payload.
func (m *Message) Size() int { return len(m.Topic) + len(m.Properties) + len(m.Payload) }

// Stamp is a moment by the clock of one boot of the machine (platform/clock): wall time is not
// trusted to order anything.
type Stamp struct {
	Boot   uint32 // number of the boot, counted by the store; 0 = unknown
	Millis uint64 // milliseconds since that boot, suspend included
	Wall   int64  // Unix milliseconds, 0 if the wall clock was not believed then
}
