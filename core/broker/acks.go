package broker

import "dunlin/core/packet"

// acks are the PUBACKs and PUBRECs that a connection is owed, in the order of the PUBLISH
// packets [MQTT-4.6.0-2, MQTT-4.6.0-3]: one that is ready waits for those before it.
//
// Most connections never send a PUBLISH that is answered, so it is all behind a pointer.
type acks struct{ *answers }

type answers struct {
	first uint64 // number of owed[head]
	head  int
	owed  []ack
	qos1  int // how many of them are PUBACKs
}

type ack struct {
	id    packet.ID
	qos   packet.QoS
	code  packet.ReasonCode
	ready bool
}

// idleAcks is the capacity that a connection may keep when nothing is owed.
const idleAcks = 4

// add notes that a PUBLISH will have to be answered and returns the number of the answer.
func (a *acks) add(id packet.ID, qos packet.QoS) uint64 {
	if a.answers == nil {
		a.answers = new(answers)
	}
	if a.head > 0 && len(a.owed) == cap(a.owed) {
		a.owed = a.owed[:copy(a.owed, a.owed[a.head:])]
		a.head = 0
	}
	a.owed = append(a.owed, ack{id: id, qos: qos})
	if qos == 1 {
		a.qos1++
	}
	return a.first + uint64(a.len()) - 1
}

// ready notes that an answer may leave.
func (a *acks) ready(n uint64, code packet.ReasonCode) {
	k := &a.owed[a.head+int(n-a.first)]
	k.code, k.ready = code, true
}

// next takes the next answer that may leave.
func (a *acks) next() (ack, bool) {
	if a.len() == 0 || !a.owed[a.head].ready {
		return ack{}, false
	}
	k := a.owed[a.head]
	a.head++
	a.first++
	if k.qos == 1 {
		a.qos1--
	}
	if a.head == len(a.owed) {
		a.head = 0
		a.owed = a.owed[:0]
		if cap(a.owed) > idleAcks {
			a.owed = nil
		}
	}
	return k, true
}

// len is how many PUBLISH packets wait for their answer.
func (a *acks) len() int {
	if a.answers == nil {
		return 0
	}
	return len(a.owed) - a.head
}

// pubacks is how many of them wait for a PUBACK.
func (a *acks) pubacks() int {
	if a.answers == nil {
		return 0
	}
	return a.qos1
}
