package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

// peer is one connection of a check, which sends what the check says and nothing by itself.
type peer struct {
	*client.Raw
	t       *T
	connack packet.Connack
	greeted bool // a CONNACK that accepts has come
	pinged  bool // a PINGREQ is under way that must not be answered
	unfit   bool // its CONNECT, or what it sent instead, must not be accepted
	lastID  packet.ID
	early   []arrival // PUBLISH packets that came while an answer was awaited
}

type arrival struct {
	header packet.Header
	body   []byte
}

func (t *T) dial() *peer {
	raw, err := client.Dial(t.ctx, "tcp", t.address, t.v)
	t.must(err)
	p := &peer{Raw: raw, t: t}
	t.peers = append(t.peers, p)
	return p
}

// try connects and returns whatever the CONNACK says. name is made a client identifier of the
// check; the changes are to the CONNECT.
func (t *T) try(name string, change ...func(*packet.Connect)) *peer {
	c := packet.Connect{Version: t.v, ClientID: []byte(t.id(name)), CleanStart: true, RequestProblem: true}
	for _, f := range change {
		f(&c)
	}
	if c.SessionExpiry > 0 || !t.v5() && !c.CleanStart {
		if t.lasting == nil {
			t.lasting = map[string]bool{}
		}
		t.lasting[string(c.ClientID)] = true
	}
	p := t.dial()
	p.send(packet.AppendConnect(nil, &c))
	var err error
	p.connack, err = packet.ParseConnack(p.expect(packet.CONNACK), t.v)
	t.must(err)
	p.greeted = p.connack.Code == packet.Success
	return p
}

// connect connects with success.
func (t *T) connect(name string, change ...func(*packet.Connect)) *peer {
	p := t.try(name, change...)
	if p.connack.Code == packet.UnsupportedProtocolVersion && t.v == packet.V31 {
		t.refused("MQTT 3.1")
	}
	if p.connack.Code != packet.Success {
		t.failf("CONNECT is refused: %s", p.connack.Code)
	}
	return p
}

// lasting makes a CONNECT one of a session that outlives its connection.
func lasting(c *packet.Connect) {
	c.CleanStart, c.SessionExpiry = false, 60
}

func will(w packet.Will) func(*packet.Connect) {
	return func(c *packet.Connect) { c.HasWill, c.Will = true, w }
}

func (p *peer) send(b []byte) {
	p.SetWriteDeadline(time.Now().Add(guard))
	if _, err := p.Write(b); err != nil {
		p.t.failf("write: %v", err)
	}
}

func (p *peer) next() (packet.Header, []byte) {
	if len(p.early) > 0 {
		a := p.early[0]
		p.early = p.early[1:]
		return a.header, a.body
	}
	h, body, err := p.Packet(p.t.ctx)
	if err != nil {
		p.t.failf("waiting for a packet: %v", err)
	}
	return h, body
}

func (p *peer) expect(want packet.Type) []byte {
	h, body := p.next()
	if h.Type != want {
		p.t.failf("got %s %x, want %s", h.Type, body, want)
	}
	return body
}

// await returns the next packet but for PUBLISH packets, which may come at any time: they are
// what next returns then.
func (p *peer) await(want packet.Type) []byte {
	early := p.early
	p.early = nil
	defer func() { p.early = early }()
	for {
		h, body := p.next()
		switch h.Type {
		case want:
			return body
		case packet.PUBLISH:
			early = append(early, arrival{h, body})
		default:
			p.t.failf("got %s %x, want %s", h.Type, body, want)
		}
	}
}

// closed waits until the broker has closed the connection; if it says a reason, it is one of codes.
// Our broker has to say one to a 5.0 client that is connected; the Standard leaves it free.
func (p *peer) closed(codes ...packet.ReasonCode) {
	connected := p.greeted
	code, said := p.ended()
	switch {
	case !p.t.v5() && connected && said:
		p.t.failf("there is no DISCONNECT of a server before 5.0")
	case !p.t.v5() || len(codes) == 0:
	case !said && p.t.ours && connected:
		p.t.failf("closed without a word, want %s (0x%02X)", codes[0], byte(codes[0]))
	case said && !slices.Contains(codes, code):
		p.t.failf("closed with %s (0x%02X), want %s (0x%02X)", code, byte(code), codes[0], byte(codes[0]))
	}
}

// ended reads until the broker has closed the connection, and returns what it said: the code of
// a DISCONNECT or of a CONNACK that refuses. It sees that nothing comes behind a DISCONNECT
// [MQTT-3.14.4-1] or a refusal, that there is no DISCONNECT without a CONNACK [MQTT-3.14.0-1], and
// that this comes once [MQTT-3.2.0-2].
func (p *peer) ended() (code packet.ReasonCode, said bool) {
	t := p.t
	p.early = nil
	for {
		h, body, err := p.Packet(t.ctx)
		if err != nil {
			if t.ctx.Err() != nil {
				t.failf("the connection stays open")
			}
			if _, rubbish := errors.AsType[*packet.Error](err); rubbish {
				t.failf("it sent rubbish: %v", err)
			}
			return code, said
		}
		if said {
			t.failf("%s comes behind the end", h.Type)
		}
		switch h.Type {
		case packet.PINGRESP:
			if p.pinged {
				panic(result{p.t.mild, p.t.told("the connection stays open")})
			}
		case packet.DISCONNECT:
			d, err := packet.ParseDisconnect(body, p.Version)
			t.must(err)
			if !p.greeted {
				t.failf("a DISCONNECT (%s) without a CONNACK before it", d.Code)
			}
			if d.HasSessionExpiry {
				t.failf("its DISCONNECT has a Session Expiry Interval") // [MQTT-3.14.2-2]
			}
			code, said = d.Code, true
		case packet.CONNACK:
			if p.greeted {
				t.failf("a second CONNACK")
			}
			// One who does not know the version answers in a form of its own choice, with
			// properties or without.
			v := packet.V5
			if len(body) == 2 {
				v = packet.V311
			}
			c, err := packet.ParseConnack(body, v)
			t.must(err)
			code, said, p.greeted = c.Code, c.Code != packet.Success, c.Code == packet.Success
			if p.greeted && p.unfit {
				t.failf("it is accepted")
			}
		}
	}
}

// leave sends DISCONNECT and waits until the broker has closed.
func (p *peer) leave() {
	p.send(packet.AppendDisconnect(nil, &packet.Disconnect{}, p.Version))
	p.closed()
}

// silent proves that no packet is on its way: a PINGRESP is the next.
func (p *peer) silent() {
	p.send(packet.AppendPingreq(nil))
	h, body := p.next()
	if h.Type != packet.PINGRESP {
		p.t.failf("got %s %q, want nothing", h.Type, body)
	}
}

func (p *peer) subscribeAs(id uint32, subs ...packet.Subscription) []packet.ReasonCode {
	p.lastID++
	p.send(packet.AppendSubscribe(nil, p.lastID, id, subs, p.Version))
	s, err := packet.ParseSuback(p.await(packet.SUBACK), p.Version)
	p.t.must(err)
	if s.ID != p.lastID {
		p.t.failf("SUBACK has packet id %d, want %d", s.ID, p.lastID)
	}
	if len(s.Codes) != len(subs) {
		p.t.failf("SUBACK has %d codes for %d filters", len(s.Codes), len(subs))
	}
	return s.Codes
}

// subscribe subscribes with success.
func (p *peer) subscribe(filter string, o packet.SubscribeOptions) {
	if code := p.subscribeAs(0, packet.Subscription{Filter: filter, Options: o})[0]; code != packet.ReasonCode(o.QoS) {
		p.t.failf("SUBSCRIBE to %q is answered %s (0x%02X), want QoS %d", filter, code, byte(code), o.QoS)
	}
}

// qos are subscription options with nothing but a QoS.
func qos(q packet.QoS) packet.SubscribeOptions { return packet.SubscribeOptions{QoS: q} }

func (p *peer) unsubscribe(filters ...string) packet.Suback {
	p.lastID++
	p.send(packet.AppendUnsubscribe(nil, p.lastID, filters, p.Version))
	s, err := packet.ParseUnsuback(p.await(packet.UNSUBACK), p.Version)
	p.t.must(err)
	if s.ID != p.lastID {
		p.t.failf("UNSUBACK has packet id %d, want %d", s.ID, p.lastID)
	}
	return s
}

// publish sends a PUBLISH and waits for nothing. It gives it a packet id if it needs one.
func (p *peer) publish(m packet.Publish) packet.ID {
	if m.QoS > 0 && m.ID == 0 {
		p.lastID++
		m.ID = p.lastID
	}
	if m.Retain && len(m.Payload) > 0 {
		if p.t.retained == nil {
			p.t.retained = map[string]bool{}
		}
		p.t.retained[string(m.Topic)] = true
	}
	b, _ := packet.AppendPublish(nil, &m, p.Version)
	p.send(b)
	return m.ID
}

// deliver publishes and waits until the broker has the message.
func (p *peer) deliver(m packet.Publish) {
	id := p.publish(m)
	switch m.QoS {
	case 0:
		p.silent()
	case 1:
		p.acked(packet.PUBACK, id)
	case 2:
		p.acked(packet.PUBREC, id)
		p.ack(packet.PUBREL, id)
		p.acked(packet.PUBCOMP, id)
	}
}

func text(topic, payload string, q packet.QoS) packet.Publish {
	return packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: q}
}

func kept(topic, payload string, q packet.QoS) packet.Publish {
	m := text(topic, payload, q)
	m.Retain = true
	return m
}

// message returns the next packet, which is a PUBLISH.
func (p *peer) message() packet.Publish {
	h, body := p.next()
	if h.Type != packet.PUBLISH {
		p.t.failf("got %s %x, want PUBLISH", h.Type, body)
	}
	m, err := packet.ParsePublish(body, h.Flags, p.Version)
	p.t.must(err)
	return m
}

// take receives a message with this payload and acknowledges it to the end.
func (p *peer) take(payload string) packet.Publish {
	m := p.message()
	if string(m.Payload) != payload {
		p.t.failf("got the message %q, want %q", m.Payload, payload)
	}
	p.finish(m)
	return m
}

// finish acknowledges a message to the end.
func (p *peer) finish(m packet.Publish) {
	switch m.QoS {
	case 1:
		p.ack(packet.PUBACK, m.ID)
	case 2:
		p.ack(packet.PUBREC, m.ID)
		p.acked(packet.PUBREL, m.ID)
		p.ack(packet.PUBCOMP, m.ID)
	}
}

func (p *peer) ack(typ packet.Type, id packet.ID) {
	p.send(packet.AppendAck(nil, &packet.Ack{Type: typ, ID: id}, p.Version))
}

func (p *peer) acked(typ packet.Type, id packet.ID) packet.Ack {
	a, err := packet.ParseAck(typ, p.await(typ), p.Version)
	p.t.must(err)
	if a.ID != id {
		p.t.failf("%s has packet id %d, want %d", typ, a.ID, id)
	}
	return a
}

// takeAll receives messages with these payloads. QoS 1 and 2 may pass each other; those of one QoS
// come in this order [MQTT-4.6.0-5].
func (p *peer) takeAll(payloads ...string) {
	last := map[packet.QoS]int{}
	seen := map[int]bool{}
	for range payloads {
		m := p.message()
		i := slices.Index(payloads, string(m.Payload))
		switch {
		case i < 0 || seen[i]:
			p.t.failf("got the message %q, want one of %q, and each once", m.Payload, payloads)
		case i < last[m.QoS]:
			p.t.failf("got the message %q of QoS %d behind %q", m.Payload, m.QoS, payloads[last[m.QoS]])
		}
		seen[i], last[m.QoS] = true, i
		p.finish(m)
	}
}

// str is a UTF-8 Encoded String.
func str(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// frame is a whole packet: the first byte, the Remaining Length, the body.
func frame(first byte, body string) []byte {
	out := []byte{first}
	for n := len(body); ; {
		b := byte(n & 0x7F)
		if n >>= 7; n == 0 {
			return append(append(out, b), body...)
		}
		out = append(out, b|0x80)
	}
}

// props is a block of properties with its length; none before 5.0.
func (t *T) props(block string) string {
	if !t.v5() {
		return ""
	}
	if len(block) > 127 {
		panic(fmt.Sprintf("conform: internal error: a block of %d bytes", len(block)))
	}
	return string([]byte{byte(len(block))}) + block
}

// greeting is a CONNECT whose parts can be put wrong.
func (t *T) greeting(protocol string, level, flags byte, block, payload string) []byte {
	return frame(0x10, str(protocol)+string([]byte{level, flags, 0, 60})+t.props(block)+payload)
}

// fault is what no client may send.
type fault struct {
	name  string
	bytes []byte
	codes []packet.ReasonCode
}

// refuses sends each fault on a connection of its own, behind a CONNECT or instead of one, and
// sees that it is closed. Instead of a CONNECT a broker may close without a word; but what it says
// is right. 3.1.1 has codes for a version and a client identifier only: for what is malformed
// there is none [MQTT-3.1.4-1], [MQTT-3.2.2-6].
func (t *T) refuses(instead bool, faults ...fault) {
	for _, f := range faults {
		t.where = f.name
		var p *peer
		if instead {
			p = t.dial()
			p.unfit = true
		} else {
			p = t.connect("f")
		}
		p.SetWriteDeadline(time.Now().Add(guard))
		b := f.bytes
		if !instead {
			// A canary: whoever answers it has not closed.
			b = packet.AppendPingreq(slices.Clone(b))
			p.pinged = true
		}
		p.Write(b) // the broker may close before it has read all
		if instead {
			code, said := p.ended()
			if said && (!slices.Contains(f.codes, code) || !t.v5() && code != packet.UnsupportedProtocolVersion) {
				t.failf("CONNACK says %s (0x%02X)", code, byte(code))
			}
		} else {
			p.closed(f.codes...)
		}
		p.Close()
	}
	t.where = ""
}

// forbids is refuses for what a client may not send and a server need not look at.
func (t *T) forbids(faults ...fault) {
	if !t.ours {
		t.mild = tolerated
		defer func() { t.mild = failed }()
	}
	t.refuses(false, faults...)
}

func same(a, b []byte) bool { return bytes.Equal(a, b) }
