package model

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"dunlin/core/packet"

	"golang.org/x/sys/unix"
)

// client is a raw client: it keeps what the specification asks a client to keep, and answers when
// it is told to.
type client struct {
	x  *run
	id string
	v  packet.Version

	fd        int // -1 = not connected
	conn      int // counts connections
	accepted  bool
	resumes   bool // what is open is to be sent again
	deaf      bool // what comes is lost, until the connection ends
	in        []byte
	present   bool // what CONNACK must say
	known     bool // it must
	keeps     bool // its session outlives the connection, as far as it knows
	limit     int  // bytes, 0 = none
	window    int  // Receive Maximum
	forgot    bool // its state, which the broker may still have
	over      int  // the connection that was taken over, 0 = none
	overTold  bool // and its client is told
	aliases   map[uint16]string
	inUse     map[packet.ID]*promise // PUBLISH packets to us that are not answered, on this connection
	answers   []packet.Ack           // that have not left
	asked     []asked                // SUBSCRIBE and UNSUBSCRIBE that are not answered
	flight    []*outgoing            // our PUBLISH packets
	held      map[packet.ID]string   // QoS 2 to us, between PUBREC and PUBREL
	nextID    packet.ID
	asks      packet.ID
	published int
}

type outgoing struct {
	id       packet.ID
	m        *post
	received bool // PUBREC has come
}

type asked struct {
	id      packet.ID
	unsub   bool
	filters []string
	subs    []*subscription
	before  [][]*subscription
}

func (c *client) session() *session { return c.x.m.sessions[c.id] }

func (c *client) write(b []byte) {
	if _, err := unix.Write(c.fd, b); err != nil {
		c.x.fault("%s cannot write: %v", c.id, err)
	}
}

// closed is the end of the connection for the client.
func (c *client) closed() {
	if c.fd >= 0 {
		c.forgot = c.forgot || !c.keeps && !c.accepted
		unix.Close(c.fd)
	}
	c.resumes = false
	c.fd, c.in, c.accepted, c.deaf, c.answers, c.asked, c.inUse = -1, nil, false, false, nil, nil, nil
	if !c.keeps {
		c.forget()
	}
}

// forget drops the client's Session State.
func (c *client) forget() { c.flight, c.held = nil, map[packet.ID]string{} }

func (c *client) connect(k *packet.Connect, w *will) {
	old := c.keeps
	if c.fd >= 0 { // it is for the broker to close the connection that is taken over
		c.over, c.overTold = c.fd, c.accepted && c.v == packet.V5
		c.forgot = c.forgot || !c.keeps && !c.accepted
		c.fd = -1
	}
	c.closed()
	k.CleanStart = k.CleanStart || c.forgot
	if k.CleanStart || !old {
		c.forget()
	}
	c.forgot = k.CleanStart
	var err error
	if c.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		c.x.t.Fatal(err)
	}
	if err := unix.Connect(c.fd, &unix.SockaddrUnix{Name: c.x.address}); err != nil {
		c.x.t.Fatal(err)
	}
	k.Version, k.ClientID, k.RequestProblem = c.v, []byte(c.id), true
	c.conn++
	expiry := int(k.SessionExpiry)
	if c.v < packet.V5 {
		if expiry = 0; !k.CleanStart {
			expiry = longest
		}
		k.ReceiveMaximum, k.MaximumPacketSize, k.TopicAliasMaximum, k.SessionExpiry = 65535, 0, 0, 0
	}
	c.limit, c.window = int(k.MaximumPacketSize), int(k.ReceiveMaximum)
	c.aliases, c.inUse = map[uint16]string{}, map[packet.ID]*promise{}
	c.keeps = expiry > 0
	c.present, c.known = c.x.m.connects(c.id, k.CleanStart, expiry, c.limit > 0, w, c.conn)
	c.write(packet.AppendConnect(nil, k))
}

// pull takes the bytes that have come. It says whether the broker has closed the connection.
func (c *client) pull() (over bool) {
	for c.fd >= 0 {
		n, err := unix.Read(c.fd, c.x.buf)
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil, n == 0:
			return true
		}
		c.x.busy = true
		if !c.deaf {
			c.in = append(c.in, c.x.buf[:n]...)
		}
	}
	return false
}

// taken sees the end of a connection that was taken over [MQTT-3.1.4-3].
func (c *client) taken() {
	if c.over == 0 {
		return
	}
	var in []byte
	for {
		n, err := unix.Read(c.over, c.x.buf)
		if err == unix.EAGAIN {
			c.x.fault("the connection of %s that was taken over stays open", c.id)
			break
		}
		if err != nil || n == 0 {
			break
		}
		in = append(in, c.x.buf[:n]...)
	}
	unix.Close(c.over)
	c.over = 0
	i := bytes.LastIndexByte(in, byte(packet.DISCONNECT)<<4)
	if c.overTold && (i < 0 || len(in) < i+3 || in[i+2] != byte(packet.SessionTakenOver)) {
		c.x.fault("%s was not told that it was taken over: %x", c.id, in)
	}
}

// hear takes the packets that have come.
func (c *client) hear() {
	for len(c.in) > 0 && c.x.err == nil {
		h, n, err := packet.ParseHeader(c.in)
		if err != nil || n == 0 || len(c.in) < n+h.Remaining {
			c.x.fault("%s got half a packet: %x: %v", c.id, c.in, err)
			return
		}
		if c.limit > 0 && n+h.Remaining > c.limit { // [MQTT-3.1.2-24]
			c.x.fault("%s got %v of %d bytes, it takes %d", c.id, h.Type, n+h.Remaining, c.limit)
			return
		}
		body := c.in[n : n+h.Remaining]
		c.in = c.in[n+h.Remaining:]
		if err := c.take(h, body); err != nil {
			c.x.fault("%s got %v: %v", c.id, h.Type, err)
		}
	}
}

func (c *client) take(h packet.Header, body []byte) error {
	if !c.accepted && h.Type != packet.CONNACK { // [MQTT-3.2.0-1]
		return fmt.Errorf("before CONNACK")
	}
	switch h.Type {
	case packet.CONNACK:
		return c.connack(body)
	case packet.PUBLISH:
		return c.publish(h, body)
	case packet.SUBACK, packet.UNSUBACK:
		return c.answered(h.Type, body)
	case packet.DISCONNECT:
		if !c.x.fails {
			return fmt.Errorf("%x", body)
		}
		return nil
	}
	a, err := packet.ParseAck(h.Type, body, c.v)
	if err != nil {
		return err
	}
	c.x.log("  %s gets %v %d %v", c.id, h.Type, a.ID, a.Code)
	if h.Type == packet.PUBREL {
		delete(c.held, a.ID)
		c.answers = append(c.answers, packet.Ack{Type: packet.PUBCOMP, ID: a.ID})
		return nil
	}
	return c.acked(&a)
}

func (c *client) connack(body []byte) error {
	a, err := packet.ParseConnack(body, c.v)
	if err != nil {
		return err
	}
	c.x.log("  %s gets CONNACK %v, session present %v", c.id, a.Code, a.SessionPresent)
	if a.Code != packet.Success {
		if !c.x.fails {
			return fmt.Errorf("refused: %v", a.Code)
		}
		return nil
	}
	present := a.SessionPresent
	if c.v == packet.V31 { // it does not say
		present = c.present
	}
	if c.known && present != c.present { // [MQTT-3.2.2-2, MQTT-3.2.2-3]
		return fmt.Errorf("session present is %v", present)
	}
	c.accepted, c.forgot = true, false
	c.x.m.accepted(c.session(), present)
	if !present && (c.v > packet.V31 || c.known) {
		c.forget()
	}
	c.resumes = true
	return nil
}

// resume sends what is open again [MQTT-4.4.0-1].
func (c *client) resume() {
	c.resumes = false
	for _, o := range c.flight {
		if o.received {
			c.ack(packet.Ack{Type: packet.PUBREL, ID: o.id})
		} else {
			c.send(o, true)
		}
	}
}

func (c *client) send(o *outgoing, dup bool) {
	p := packet.Publish{
		Topic: []byte(o.m.topic), Payload: []byte(o.m.payload), QoS: o.m.qos, Retain: o.m.retain, ID: o.id, Dup: dup,
		HasExpiry: o.m.expiry > 0, Expiry: uint32(o.m.expiry),
	}
	b, at := packet.AppendPublish(nil, &p, c.v)
	if o.m.qos > 0 {
		binary.BigEndian.PutUint16(b[at:], uint16(o.id))
	}
	c.x.log("  %s sends %q on %s, QoS %d, retain %v, id %d, dup %v, expiry %d", c.id, short(o.m.payload), o.m.topic, o.m.qos, o.m.retain, o.id, dup, o.m.expiry)
	c.x.m.publish(o.m)
	c.write(b)
}

func short(s string) string {
	if len(s) > 12 {
		return s[:8] + "…"
	}
	return s
}

func (c *client) ack(a packet.Ack) {
	c.write(packet.AppendAck(nil, &a, c.v))
	c.x.log("  %s sends %v %d", c.id, a.Type, a.ID)
	p := c.inUse[a.ID]
	if p != nil && a.Type == packet.PUBACK {
		p.acked = true
	}
	if a.Type == packet.PUBACK || a.Type == packet.PUBCOMP {
		delete(c.inUse, a.ID)
	}
}

// answer sends the first n answers.
func (c *client) answer(n int) {
	n = min(n, len(c.answers))
	for _, a := range c.answers[:n] {
		c.ack(a)
		c.x.busy = true
	}
	c.answers = c.answers[n:]
}

func (c *client) publish(h packet.Header, body []byte) error {
	p, err := packet.ParsePublish(body, h.Flags, c.v)
	if err != nil {
		return err
	}
	topic := string(p.Topic)
	if p.HasTopicAlias {
		if topic == "" {
			topic = c.aliases[p.TopicAlias]
		}
		c.aliases[p.TopicAlias] = topic
	}
	what := fmt.Sprintf("%q on %s at QoS %d, retain %v, id %d, dup %v, identifiers [%s]", short(string(p.Payload)), topic, p.QoS, p.Retain, p.ID, p.Dup, identifiers(p.Raw))
	c.x.log("  %s gets %s", c.id, what)
	held, isHeld := c.held[p.ID]
	again := p.QoS == 2 && isHeld
	if again && (held != string(p.Payload) || !p.Dup) {
		if c.v != packet.V31 || p.Dup { // 3.1 does not tell that the session is another
			return fmt.Errorf("%s, which holds %q there", what, held)
		}
		again = false
	}
	var kept *promise
	if !again {
		kept, err = c.x.m.arrives(c.session(), &p, topic, c.v, identifiers(p.Raw))
		if err != nil && c.x.held(topic, string(p.Payload)) {
			kept, err = c.x.m.arrives(c.session(), &p, topic, c.v, identifiers(p.Raw))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if p.QoS == 0 {
		return nil
	}
	if c.inUse[p.ID] != nil { // [MQTT-2.2.1-4]
		return fmt.Errorf("%s: the identifier is in use", what)
	}
	if kept == nil {
		kept = &promise{}
	}
	if c.inUse[p.ID] = kept; len(c.inUse) > c.window { // [MQTT-3.3.4-9]
		return fmt.Errorf("%s: more than the receive maximum of %d", what, c.window)
	}
	a := packet.Ack{Type: packet.PUBACK, ID: p.ID}
	if p.QoS == 2 {
		a.Type = packet.PUBREC
		c.held[p.ID] = string(p.Payload)
	}
	c.answers = append(c.answers, a)
	return nil
}

// identifiers are the Subscription Identifiers of a PUBLISH, which are below 128 here, sorted.
func identifiers(raw []byte) string {
	var ids []string
	for i := 0; i < len(raw); {
		switch raw[i] {
		case 0x0B:
			ids = append(ids, fmt.Sprint(raw[i+1]))
			i += 2
		case 0x02:
			i += 5
		case 0x23:
			i += 3
		default:
			return fmt.Sprintf("unknown property %x", raw[i:])
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// acked takes PUBACK, PUBREC and PUBCOMP.
func (c *client) acked(a *packet.Ack) error {
	i := slices.IndexFunc(c.flight, func(o *outgoing) bool { return o.id == a.ID })
	if i < 0 {
		if a.Type == packet.PUBCOMP {
			return nil // of a PUBREL that was sent twice
		}
		return fmt.Errorf("%d is not in flight", a.ID)
	}
	o := c.flight[i]
	refused := a.Code >= packet.UnspecifiedError
	switch {
	case a.Type == packet.PUBACK && o.m.qos == 1, a.Type == packet.PUBREC && o.m.qos == 2:
		if refused && !c.x.fails {
			return fmt.Errorf("%q was refused: %v", o.m.payload, a.Code)
		}
		if !refused {
			c.x.m.acknowledged(o.m)
		}
		if a.Type == packet.PUBREC && !refused {
			o.received = true
			c.answers = append(c.answers, packet.Ack{Type: packet.PUBREL, ID: a.ID})
			return nil
		}
	case a.Type == packet.PUBCOMP && o.received:
	default:
		return fmt.Errorf("for %q at QoS %d, PUBREC seen %v", o.m.payload, o.m.qos, o.received)
	}
	c.flight = slices.Delete(c.flight, i, i+1)
	return nil
}

func (c *client) subscribe(id uint32, subs []*subscription) {
	k := asked{id: c.ask(), subs: subs}
	var filters []packet.Subscription
	s := c.session()
	for _, sub := range subs {
		filters = append(filters, packet.Subscription{Filter: sub.filter, Options: packet.SubscribeOptions{
			QoS: sub.qos, NoLocal: sub.noLocal, RetainAsPublished: sub.retainAsPublished, RetainHandling: sub.handling,
		}})
		k.before = append(k.before, s.filter(sub.filter))
		c.x.m.subscribes(s, sub)
	}
	c.asked = append(c.asked, k)
	c.write(packet.AppendSubscribe(nil, k.id, id, filters, c.v))
}

func (c *client) unsubscribe(filters []string) {
	k := asked{id: c.ask(), unsub: true, filters: filters}
	s := c.session()
	for _, f := range filters {
		k.before = append(k.before, s.filter(f))
		s.subs[f] = append(slices.Clone(s.filter(f)), nil)
	}
	c.asked = append(c.asked, k)
	c.write(packet.AppendUnsubscribe(nil, k.id, filters, c.v))
}

// answered takes SUBACK and UNSUBACK.
func (c *client) answered(t packet.Type, body []byte) error {
	parse := packet.ParseSuback
	if t == packet.UNSUBACK {
		parse = packet.ParseUnsuback
	}
	a, err := parse(body, c.v)
	if err != nil {
		return err
	}
	c.x.log("  %s gets %v %v", c.id, t, a.Codes)
	if len(c.asked) == 0 || c.asked[0].id != a.ID || c.asked[0].unsub != (t == packet.UNSUBACK) { // in order, as they were asked
		return fmt.Errorf("it answers nothing: %+v", c.asked)
	}
	k := c.asked[0]
	c.asked = c.asked[1:]
	s := c.session()
	for i, f := range k.filters {
		if c.v == packet.V5 && !c.x.fails {
			was := k.before[i]
			if want := (was[0] != nil); len(was) == 1 && want != (a.Codes[i] == packet.Success) { // MQTT5 §3.11.3
				return fmt.Errorf("%v for %s, which was there: %v", a.Codes[i], f, want)
			}
		}
		if c.v < packet.V5 || a.Codes[i] < packet.UnspecifiedError {
			delete(s.subs, f)
		}
	}
	if !k.unsub && len(a.Codes) != len(k.subs) { // [MQTT-3.8.4-6]
		return fmt.Errorf("%d codes for %d filters", len(a.Codes), len(k.subs))
	}
	for i, sub := range k.subs {
		switch {
		case a.Codes[i] == packet.ReasonCode(sub.qos):
			c.x.m.subscribed(s, sub, k.before[i])
		case !c.x.fails || a.Codes[i] < packet.UnspecifiedError:
			return fmt.Errorf("%v for QoS %d", a.Codes[i], sub.qos)
		}
	}
	return nil
}

// ask returns the identifier of the next SUBSCRIBE or UNSUBSCRIBE.
func (c *client) ask() packet.ID {
	c.asks++
	return 100 + c.asks
}

// pending says whether a filter is part of something that is not answered yet.
func (c *client) pending(filter string) bool {
	return slices.ContainsFunc(c.asked, func(k asked) bool {
		return slices.Contains(k.filters, filter) || slices.ContainsFunc(k.subs, func(s *subscription) bool { return s.filter == filter })
	})
}
