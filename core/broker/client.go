package broker

import (
	"context"
	"log/slog"
	"time"

	"dunlin/core/conn"
	"dunlin/core/loop"
	"dunlin/core/packet"
)

// client is one connection: what ends with it. There are thousands that do nothing, so what only
// some need is behind a pointer.
type client struct {
	loop.Place // of its timer
	version    packet.Version
	connecting bool // a CONNECT waits for authentication or its commit
	accepted   bool // CONNACK was sent
	created    bool // its session is new
	ended      bool
	denied     bool   // a denial was logged
	throttled  bool   // reading rests until acknowledgements have left, since seen
	awaiting   bool   // something waits until its output has gone
	slow       bool   // that has ever been so
	choked     bool   // reading rests until its output has gone
	noProblems bool   // Request Problem Information is 0
	ending     Ending // why it ended, or is about to
	keepAlive  uint16 // seconds as granted, 0 = none
	maxPacket  uint32 // the client's Maximum Packet Size, 0 = no limit
	holding    int32  // its publishes that are held, see heldMessages
	held       int32  // bytes of messages whose acknowledgement it is owed
	carried    int32  // QoS 2 messages of the client that were under way when it connected
	unsent     int32  // bytes of output when that was looked at last, while choked
	b          *Broker
	conn       *conn.Conn
	listener   *Listener
	member     *member       // nil until CONNECT is accepted
	seen       time.Duration // when its last packet came
	acks       acks
	received   *received // topic aliases; nil = the client has given none
	given      *given    // topic aliases; nil = it takes none
	resend     *resend   // nil = nothing is sent again
	answering  answering // of a session with a number
	pendingID  string    // client identifier of a CONNECT that waits
	remote     string    // address, once somebody wanted it
}

// how a connection ends.
type how int

const (
	abnormal how = iota // the will is published
	normal              // DISCONNECT 0x00: the will is dropped [MQTT-3.14.4-3]
)

func (c *client) id() string {
	if c.member != nil {
		return c.member.clientID
	}
	return c.pendingID
}

// onPacket takes one packet, in order.
func (c *client) onPacket(h packet.Header, body []byte) error {
	c.seen = c.b.loop.Now()
	if !c.accepted {
		if h.Type != packet.CONNECT {
			return protocolError("the first packet is not a CONNECT") // [MQTT-3.1.0-1]
		}
		return c.b.onConnect(c, body)
	}
	switch h.Type {
	case packet.PUBLISH:
		return c.b.onPublish(c, h.Flags, body)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		return c.b.onAck(c, h.Type, body)
	case packet.SUBSCRIBE:
		return c.b.onSubscribe(c, body)
	case packet.UNSUBSCRIBE:
		return c.b.onUnsubscribe(c, body)
	case packet.PINGREQ:
		if len(body) > 0 {
			return malformed("PINGREQ has a body")
		}
		c.send(c.b.loop.Arena.Packet(packet.AppendPingresp))
		return nil
	case packet.DISCONNECT:
		return c.b.onDisconnect(c, body)
	case packet.AUTH:
		return protocolError("AUTH without an authentication method in CONNECT") // [MQTT-4.12.0-7]
	case packet.CONNECT:
		return protocolError("a second CONNECT") // [MQTT-3.1.0-2]
	default:
		return protocolError("a packet that only a server sends")
	}
}

// onAcks takes n acknowledgements whose identifiers count up from first, as onPacket does.
func (c *client) onAcks(t packet.Type, first packet.ID, n int) error {
	if !c.accepted {
		return protocolError("the first packet is not a CONNECT") // [MQTT-3.1.0-1]
	}
	c.seen = c.b.loop.Now()
	return c.b.onAcks(c, t, first, n)
}

// reportDenied logs what the client may not do: the first of each connection, the others at
// level debug.
func (c *client) reportDenied(what, topic string) {
	level := slog.LevelInfo
	if c.denied {
		level = slog.LevelDebug
	}
	c.denied = true
	if c.b.log.Enabled(context.Background(), level) {
		c.b.log.Log(context.Background(), level, what, "client_id", c.id(), "user", c.member.user,
			"remote", c.conn.Remote(), "listener", c.listener.Name, "topic", topic)
	}
}

// send queues a packet without an identifier of ours. One that is larger than the client takes
// cannot be left out, as a PUBLISH can: the connection ends [MQTT-3.1.2-24].
func (c *client) send(s conn.Segment) {
	if !c.takes(s) {
		c.b.log.Info("client takes no packet as large as its answer", "client_id", c.id(), "max_packet", c.maxPacket, "bytes", s.Len())
		c.b.disconnect(c, packet.PacketTooLarge, "")
		return
	}
	c.conn.Send(&c.b.loop.Arena, s, 0)
}

// Fire closes the connection when no CONNECT came in time, and later when the client was
// silent for one and a half times its Keep Alive [MQTT-3.1.2-22].
func (c *client) Fire(now time.Duration) time.Duration {
	switch {
	case c.ended:
		return 0
	case !c.accepted:
		if c.connecting {
			return now + c.b.limits.ConnectTimeout // the broker is at work, not the client late
		}
		c.b.log.Debug("no CONNECT in time", "listener", c.listener.Name)
		c.b.end(c, abnormal)
		return 0
	case c.throttled: // its keep alive is frozen: we are not reading, what it sent is in the socket
		if end := c.seen + maxRest; now < end {
			return end
		}
		c.b.log.Warn("client was held back for too long: its messages are not stored", "client_id", c.id(), "messages", c.acks.len(), "bytes", c.held)
		c.b.disconnect(c, packet.ServerBusy, "messages cannot be stored")
		return 0
	case c.keepAlive == 0:
		return 0
	}
	if deadline := c.deadline(); now < deadline {
		return deadline
	}
	if c.choked {
		if n := int32(c.conn.Unsent()); n < c.unsent {
			c.unsent = n
			return now + c.interval() // it takes its output, slowly
		}
	} else if c.conn.Waiting() {
		return now + c.interval() // it is we who are late
	}
	c.b.log.Info("client was silent for too long", "client_id", c.id(), "keep_alive", c.interval())
	c.b.disconnect(c, packet.KeepAliveTimeout, "nothing came for one and a half times the keep alive")
	return 0
}

// interval is the time in which the client sends at least one packet, 0 = it need not.
func (c *client) interval() time.Duration { return time.Duration(c.keepAlive) * time.Second }

// silence is how long it may send nothing [MQTT-3.1.2-22].
func (c *client) silence() time.Duration { return c.interval() + c.interval()/2 }

// deadline is when the client has been silent for too long.
func (c *client) deadline() time.Duration { return c.seen + c.silence() }

// refuse answers a packet that the specification forbids, and closes (MQTT5 §4.13).
func (b *Broker) refuse(c *client, fault *packet.Error) {
	if !c.accepted {
		// Before CONNACK only a CONNECT gets an answer: from a stranger nothing is known, not even
		// that it speaks MQTT.
		if c.connecting || c.pendingID != "" || fault.Code == packet.UnsupportedProtocolVersion {
			b.sendConnack(c, &packet.Connack{Code: fault.Code, Reason: c.reason(fault.Detail)})
		}
		b.end(c, abnormal)
		return
	}
	b.disconnect(c, fault.Code, fault.Detail)
}

// disconnect closes from our side; 5.0 is told why.
func (b *Broker) disconnect(c *client, code packet.ReasonCode, why string) {
	b.sendDisconnect(c, code, why)
	b.end(c, abnormal)
}

func (b *Broker) sendDisconnect(c *client, code packet.ReasonCode, why string) {
	c.sendLast(&packet.Disconnect{Code: code, Reason: c.reason(why)})
}

// sendLast sends a DISCONNECT, as far as the client takes one.
func (c *client) sendLast(d *packet.Disconnect) {
	c.ending = Ending{ByBroker, d.Code}
	if !c.accepted || c.version < packet.V5 || c.conn.Stopped() {
		return
	}
	s := c.encodeWithin(
		func(dst []byte) []byte { return packet.AppendDisconnect(dst, d, c.version) },
		func() { d.Reason = nil },
		func() { d.ServerReference = nil })
	if c.takes(s) {
		c.conn.Send(&c.b.loop.Arena, s, 0)
	}
}

// dismiss ends a connection because the broker stops; 5.0 is told where to go, if that is known.
func (b *Broker) dismiss(c *client) {
	d := packet.Disconnect{Code: packet.ServerShuttingDown, Reason: c.reason("the broker stops")}
	if r := &c.listener.Redirect; r.To != "" {
		d.Code, d.ServerReference = r.code(), r.reference()
	}
	c.sendLast(&d)
	b.end(c, abnormal)
}

// end ends a connection: what was queued for it is still flushed.
func (b *Broker) end(c *client, h how) {
	if c.ended {
		return
	}
	c.ended = true
	c.listener.connections--
	b.counters.Connections--
	if c.accepted {
		b.counters.Connected--
		if b.observer != nil {
			b.observer.Disconnected(c.peer(), c.ending)
		}
		b.presence.disconnected(c)
	}
	delete(b.paces, c)
	b.freed.add(c)
	b.loop.Unset(c)
	if c.resend != nil {
		b.loop.Unset(c.resend)
	}
	b.loop.Close(c.conn)
	if c.member != nil {
		b.leave(c, h)
	}
	c.acks = acks{}
}

func protocolError(detail string) *packet.Error {
	return &packet.Error{Code: packet.ProtocolError, Detail: detail}
}

func malformed(detail string) *packet.Error {
	return &packet.Error{Code: packet.MalformedPacket, Detail: detail}
}
