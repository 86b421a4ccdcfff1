package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	paholog "github.com/eclipse/paho.golang/paho/log"
	pahosession "github.com/eclipse/paho.golang/paho/session"

	"dunlin/uplink/forward"
)

// packetIDNotFound is the reason code of an answer about a packet id that is not in use.
const packetIDNotFound = 0x92

// tolerance is how many times the announced Receive Maximum is taken before reading stops until
// there is room. To insist on it would not do: mosquitto 2.0 ignores it when a session is resumed.
const tolerance = 4

// session is what the library asks about the session: a thin adapter, since the session is the
// window of the forwarder.
type session Conn

// ConAckReceived refuses what the library takes for success and is not.
func (s *session) ConAckReceived(_ io.Writer, _ *packets.Connect, ack *packets.Connack) error {
	if ack.ReasonCode != 0 {
		return ErrOldProtocol
	}
	if s.o.CleanStart && ack.SessionPresent { // [MQTT-3.2.2-4]
		s.link.fail(errSessionPresent)
		return errSessionPresent
	}
	return nil
}

// ConnectionLost notes a DISCONNECT of the server, and answers who waits for a SUBACK.
func (s *session) ConnectionLost(d *packets.Disconnect) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d != nil && s.cause == nil {
		e := &DisconnectedError{Code: d.ReasonCode}
		if d.Properties != nil {
			e.Reason, e.Servers = printable(d.Properties.ReasonString), d.Properties.ServerReference
		}
		s.cause = e
	}
	s.gone = true
	for id, answer := range s.waiting {
		delete(s.waiting, id)
		answer <- packets.ControlPacket{} // it has room for one: see AddToSession
	}
	return nil
}

// AddToSession numbers a SUBSCRIBE, above the identifiers of messages. The library makes resp
// with room for one packet.
func (s *session) AddToSession(_ context.Context, p pahosession.Packet, resp chan<- packets.ControlPacket) error {
	if p.Type() != packets.SUBSCRIBE && p.Type() != packets.UNSUBSCRIBE {
		return fmt.Errorf("mqtt: internal error: packet type %d asks for an identifier", p.Type())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return pahosession.ErrNoConnection
	}
	for range math.MaxUint16 - MaxSpan {
		if s.lastID <= MaxSpan || s.lastID == math.MaxUint16 {
			s.lastID = MaxSpan
		}
		s.lastID++
		if _, used := s.waiting[s.lastID]; !used {
			s.waiting[s.lastID] = resp
			p.SetIdentifier(s.lastID)
			return nil
		}
	}
	return pahosession.ErrPacketIdentifiersExhausted
}

// PacketReceived takes acknowledgements and messages. The library does nothing with an error, so
// that the connection is closed here.
func (s *session) PacketReceived(p *packets.ControlPacket, _ chan<- *packets.Publish) error {
	err := s.received(p)
	if err != nil {
		s.link.fail(err)
	}
	return err
}

func (s *session) received(p *packets.ControlPacket) error {
	switch c := p.Content.(type) {
	case *packets.Puback:
		return s.acknowledged(c.PacketID, c.ReasonCode, packets.PUBACK)
	case *packets.Pubrec:
		return s.acknowledged(c.PacketID, c.ReasonCode, packets.PUBREC)
	case *packets.Pubcomp:
		return s.acknowledged(c.PacketID, c.ReasonCode, packets.PUBCOMP)
	case *packets.Pubrel:
		// Nothing was ever taken at QoS 2: the server is told so (MQTT5 §3.7.2.1).
		answer := packets.Pubcomp{PacketID: c.PacketID, ReasonCode: packetIDNotFound}
		_, err := answer.WriteTo(s.link)
		return err
	case *packets.Suback:
		return s.answer(c.PacketID, p)
	case *packets.Unsuback:
		return s.answer(c.PacketID, p)
	case *packets.Publish:
		return s.published(c)
	}
	return fmt.Errorf("mqtt: server sent an unexpected %s", p.PacketType())
}

// acknowledged gives an acknowledgement to the forwarder. One that fits nothing in flight is
// ignored: it may belong to a message of an earlier connection that was given up.
func (s *session) acknowledged(id uint16, code byte, kind byte) error {
	s.mu.Lock()
	m, ok := s.sent[id]
	var o forward.Outcome
	switch {
	case !ok && kind == packets.PUBREC && code < 0x80:
		s.mu.Unlock()
		answer := packets.Pubrel{PacketID: id, ReasonCode: packetIDNotFound}
		_, err := answer.WriteTo(s.link)
		return err
	case !ok:
		s.mu.Unlock()
		s.o.Log.Debug("server acknowledges what is not in flight", "packet_id", id)
		return nil
	case kind == packets.PUBACK && m.qos != 1, kind == packets.PUBREC && m.qos != 2, kind == packets.PUBCOMP && !m.released:
		s.mu.Unlock()
		return fmt.Errorf("mqtt: server sent a packet of type %d for packet id %d, which waits for another one", kind, id)
	case kind == packets.PUBREC && code < 0x80:
		o = forward.Outcome{Seq: m.seq, Verdict: forward.Received}
	case kind == packets.PUBCOMP:
		// Also with 0x92: a server that has no such identifier has finished with it.
		delete(s.sent, id)
		o = forward.Outcome{Seq: m.seq, Verdict: forward.Accepted}
	default:
		delete(s.sent, id)
		o = forward.Outcome{Seq: m.seq, Verdict: verdict(code), Code: code}
	}
	s.mu.Unlock()
	s.events.Outcome(o)
	return nil
}

// verdict says what a reason code of PUBACK or PUBREC means for the message.
func verdict(code byte) forward.Verdict {
	switch code {
	case 0x87, 0x90, 0x95, 0x99: // not authorized, topic, too large, payload format: so it will stay
		return forward.Refused
	case 0x89, 0x96, 0x97: // busy, rate, quota: so it will not stay
		return forward.Later
	}
	if code < 0x80 {
		return forward.Accepted
	}
	return forward.Failed
}

// answer gives a SUBACK or UNSUBACK to who waits for it.
func (s *session) answer(id uint16, p *packets.ControlPacket) error {
	s.mu.Lock()
	resp, ok := s.waiting[id]
	delete(s.waiting, id)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("mqtt: server sent a %s for packet id %d, which nobody waits for", p.PacketType(), id)
	}
	resp <- *p
	return nil
}

// published takes a message at QoS 1.
func (s *session) published(p *packets.Publish) error {
	if err := checkIncoming(p); err != nil {
		return err
	}
	if p.QoS > 1 {
		return fmt.Errorf("mqtt: server sent a message at QoS %d, but was asked for 1 at most", p.QoS)
	}
	if p.PacketID == 0 {
		return errors.New("mqtt: server sent a message with packet id 0")
	}
	if err := s.waitForRoom(); err != nil {
		return err
	}
	s.mu.Lock()
	s.incoming = append(s.incoming, acknowledge{id: p.PacketID})
	s.mu.Unlock()
	s.events.Incoming(Incoming{Message: incoming(p), ID: p.PacketID})
	return nil
}

// waitForRoom holds back a server that ignores the Receive Maximum, on the goroutine that reads.
// If the local commits do not get on, the connection is given up, since nothing else is read.
func (s *session) waitForRoom() error {
	limit := tolerance * int(s.o.ReceiveMaximum)
	var timeout <-chan time.Time
	for {
		s.mu.Lock()
		full := len(s.incoming) >= limit
		s.mu.Unlock()
		if !full {
			return nil
		}
		if timeout == nil {
			t := time.NewTimer(s.o.Timeout)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-s.room:
		case <-s.link.closed:
			return net.ErrClosed
		case <-timeout:
			return fmt.Errorf("mqtt: server sent more than %d unacknowledged messages, the announced maximum is %d, and they could not be stored within %v", limit, s.o.ReceiveMaximum, s.o.Timeout)
		}
	}
}

// checkIncoming refuses what we have not agreed to.
func checkIncoming(p *packets.Publish) error {
	if p.Topic == "" || p.Properties != nil && p.Properties.TopicAlias != nil {
		return errors.New("mqtt: server uses a topic alias, but none was allowed")
	}
	return nil
}

// Ack has nothing to do: acknowledgements leave after the local commit, by Conn.Ack.
func (s *session) Ack(*packets.Publish) error { return nil }

// Close has nothing to release.
func (s *session) Close() error { return nil }

// SetErrorLogger is not used: errors come by OnClientError.
func (s *session) SetErrorLogger(paholog.Logger) {}

// SetDebugLogger is not used.
func (s *session) SetDebugLogger(paholog.Logger) {}

// refuseAuth ends the connection when the server starts an extended authentication, which was
// not asked for (MQTT5 §4.12).
type refuseAuth Conn

func (a *refuseAuth) Authenticate(*paho.Auth) *paho.Auth {
	a.link.fail(errors.New("mqtt: server asks for an extended authentication, which was not offered"))
	return &paho.Auth{ReasonCode: packets.AuthContinueAuthentication}
}

func (a *refuseAuth) Authenticated() {
	a.link.fail(errors.New("mqtt: server claims an extended authentication, which was not offered"))
}
