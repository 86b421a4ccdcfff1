package broker

import (
	"dunlin/core/conn"
	"dunlin/core/packet"
)

// Reason Strings say what to do about a refusal where its code leaves that open. They are for the
// people who look after a client: fixed texts that repeat nothing of what it sent, and nothing about
// others. A client that asked for no problem information gets none [MQTT-3.1.2-29]; where one would
// make the packet larger than the client takes, it is left out.
var (
	publishReasons = map[packet.ReasonCode][]byte{
		packet.NotAuthorized:        []byte("the access rules do not let this client publish to the topic"),
		packet.TopicNameInvalid:     []byte("the topic is too long, has too many levels, belongs to the broker or has a malformed delay"),
		packet.QuotaExceeded:        []byte("the message could not be stored, an uplink takes nothing more for now, or too much is delayed or for too long"),
		packet.PayloadFormatInvalid: []byte("the payload format indicator says UTF-8, and the payload is not"),
	}
	subscribeReasons = map[packet.ReasonCode][]byte{
		packet.NotAuthorized:      []byte("the access rules do not let this client subscribe to a filter"),
		packet.TopicFilterInvalid: []byte("a filter is malformed, too long or has too many levels"),
		packet.QuotaExceeded:      []byte("the client has as many subscriptions as it may have"),
		packet.UnspecifiedError:   []byte("the session could not be stored"),
	}
)

// tells says whether a client gets Reason Strings.
func (c *client) tells() bool { return c.version >= packet.V5 && !c.noProblems }

// reason is why as a Reason String for the client, nil if it gets none.
func (c *client) reason(why string) []byte {
	if why == "" || !c.tells() {
		return nil
	}
	return []byte(why)
}

// takes says whether an encoded packet is within the client's Maximum Packet Size [MQTT-3.1.2-24].
func (c *client) takes(s conn.Segment) bool {
	return c.maxPacket == 0 || s.Len() <= int(c.maxPacket)
}

// encodeWithin encodes a packet with what it may do without, and again without that if the client
// takes no packet of that size [MQTT-3.2.2-19], [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.6.2-2],
// [MQTT-3.7.2-2], [MQTT-3.9.2-1], [MQTT-3.11.2-1], [MQTT-3.14.2-3]. Each of leave takes something
// out, what is missed least first.
func (c *client) encodeWithin(encode func(dst []byte) []byte, leave ...func()) conn.Segment {
	a := &c.b.loop.Arena
	s := a.Packet(encode)
	for i := 0; i < len(leave) && !c.takes(s); i++ {
		leave[i]()
		s = a.Packet(encode)
	}
	return s
}

// sendRefusal answers a packet of the client with a failure.
func (b *Broker) sendRefusal(c *client, t packet.Type, id packet.ID, code packet.ReasonCode) {
	k := packet.Ack{Type: t, ID: id, Code: code, Reason: publishReasons[code]}
	c.send(c.encodeWithin(
		func(dst []byte) []byte { return packet.AppendAck(dst, &k, c.version) },
		func() { k.Reason = nil }))
}

// subscribeReason explains the first failure among the codes of a SUBACK or UNSUBACK.
func subscribeReason(codes []packet.ReasonCode) []byte {
	for _, code := range codes {
		if code >= packet.UnspecifiedError {
			return subscribeReasons[code]
		}
	}
	return nil
}
