// Package client is the small MQTT client behind "dunlin pub" and "dunlin sub": one connection,
// MQTT 3.1, 3.1.1 or 5.0, over TCP, TLS or a unix socket.
//
// Calls block. They come from one goroutine; a second one, the reader, answers the broker: it
// keeps the connection alive, continues the QoS flows and fills the inbox.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"dunlin/core/packet"
)

const (
	// maxWindow is how many messages wait for their acknowledgement at most, both ways, in so far
	// as the peer can be told: enough to fill a link of 100 ms with what a person pipes in.
	maxWindow = 64
	// maxInbox is how many messages wait for Receive before the reader stops reading, which
	// holds back the broker. It is above maxWindow for the sake of QoS 0.
	maxInbox = 1024
	// writeTimeout ends a connection whose other side reads nothing any more.
	writeTimeout = 30 * time.Second
	// answerTimeout is how long the broker has for its CONNACK and SUBACK.
	answerTimeout = 30 * time.Second
	// reasonTimeout is how long a write that failed waits for the reader to say why.
	reasonTimeout = time.Second
)

// Options say where and as whom to connect.
type Options struct {
	Address       string // host:port or unix:path
	Version       packet.Version
	ClientID      string // "" lets the broker choose; 3.1.1 then needs CleanStart, and 3.1 has no such choice
	CleanStart    bool
	SessionExpiry uint32 // Session Expiry Interval in seconds, MQTT 5.0 only
	KeepAlive     uint16 // seconds, 0 = off
	Username      *string
	Password      *string // in 3.1.1 only with Username
	Will          *Message
	WillDelay     uint32      // seconds, MQTT 5.0 only
	TLS           *tls.Config // nil = none; not for a unix socket

	// Resume is the last connection of this client, which has ended; nil = none. The new one
	// takes over what was not finished: see Resend.
	Resume *Client

	// MQTT 5.0 only, as all that follows.
	ReceiveMaximum    uint16 // messages at QoS 1 and 2 that wait for us at once; 0 = a window of ours
	MaximumPacketSize uint32 // bytes, 0 = no limit
	TopicAliasMaximum uint16 // the broker may use aliases up to that one
	EndSession        bool   // Close ends the session, whatever SessionExpiry says
	RequestResponse   bool   // asks for Response Information
	NoProblems        bool   // asks for no Reason Strings
	UserProperties    []byte // as in packet.Connect
	// User properties of every SUBSCRIBE, of every UNSUBSCRIBE, and of the DISCONNECT.
	SubscribeProperties, UnsubscribeProperties, DisconnectProperties []byte
}

// Message is an Application Message (MQTT5 §1.2). What stands below Dup is of MQTT 5.0 only.
type Message struct {
	Topic   string
	Payload []byte
	QoS     packet.QoS
	Retain  bool
	Dup     bool // received: it may have come before

	Properties      packet.Travelling
	Expiry          uint32 // Message Expiry Interval in seconds, if HasExpiry
	HasExpiry       bool
	TopicAlias      uint16   // to publish with: set up by the first message, used by the next ones; 0 = none
	SubscriptionIDs []uint32 // received: of the subscriptions that matched
}

// packet returns the PUBLISH of m without packet id and alias.
func (m *Message) packet() packet.Publish {
	return packet.Publish{
		Topic: []byte(m.Topic), Payload: m.Payload, QoS: m.QoS, Retain: m.Retain,
		Properties: packet.AppendTravelling(nil, &m.Properties), Expiry: m.Expiry, HasExpiry: m.HasExpiry,
	}
}

// Client is one connection.
type Client struct {
	conn    net.Conn
	version packet.Version
	connack packet.Connack
	window  int           // messages of ours that may wait for their acknowledgement
	half    time.Duration // half of the keep alive, 0 = off

	changed chan struct{}  // something happened that the caller may wait for; holds one
	taken   chan struct{}  // Receive made room in the inbox; holds one
	done    chan struct{}  // closed when the reader has ended
	closing chan struct{}  // closed by Close
	broken  chan struct{}  // closed when a write has failed
	reader  sync.WaitGroup // the goroutine read

	mu        sync.Mutex // guards what follows; held while writing, so that packets stay whole
	out       []byte     // scratch space
	lastWrite time.Time
	pinged    time.Time // when the PINGREQ left that is not answered; zero = none
	nextID    packet.ID
	number    uint64 // of the last message of ours at QoS 1 or 2
	flight    map[packet.ID]*outgoing
	inbox     []incoming
	unread    *incoming          // given out by Receive, not acknowledged yet
	received  map[packet.ID]bool // QoS 2 ids until PUBREL; true: PUBREC has left
	answer    *packet.Suback
	waitingID packet.ID         // SUBSCRIBE or UNSUBSCRIBE that waits for its answer; 0 = none
	aliases   map[uint16]string // of ours, that the broker knows
	names     map[uint16]string // of the broker's, that we know
	refused   error             // first refusal of a message since the last Flush
	failed    error             // of the first write that failed
	err       error             // why the reader ended

	id  string // given by us or the broker
	end bool   // Options.EndSession

	forSubscribe, forUnsubscribe, forDisconnect []byte // user properties
}

// outgoing is a message that waits for its acknowledgement.
type outgoing struct {
	Message
	number   uint64 // messages are sent again in the order of their numbers
	sent     bool   // over this connection
	released bool   // QoS 2: PUBREL has left
}

// incoming is a message with the packet id to acknowledge it by.
type incoming struct {
	Message
	id packet.ID // 0 = there is nothing to acknowledge
}

// Connection is what a broker refuses with its CONNACK.
const Connection = "the connection"

// Limit says what the broker cannot take, which its CONNACK told.
type Limit struct{ text string }

func (l *Limit) Error() string { return l.text }

func limitf(format string, args ...any) error { return &Limit{fmt.Sprintf(format, args...)} }

// Refused says that the broker did not take something, with its reason.
type Refused struct {
	What   string // Connection, "the message to a/b"
	Code   packet.ReasonCode
	Reason string // Reason String of the broker, "" = none
	Server string // Server Reference: where to go instead, "" = it does not say
}

func (r *Refused) Error() string {
	return fmt.Sprintf("the broker refused %s: %s", r.What, words(r.Code, r.Reason, r.Server))
}

// words names a reason code, and what the broker says in addition.
func words(code packet.ReasonCode, reason, server string) string {
	s := fmt.Sprintf("%v (0x%02X)", code, byte(code))
	if reason != "" {
		s += fmt.Sprintf(": %.200q", reason)
	}
	if server != "" {
		s += fmt.Sprintf("; it names %.200q", server)
	}
	return s
}

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("the connection is closed")

var errAbandoned = errors.New("the connection is given up")

// Dial connects and waits for the CONNACK. The error is a *Refused if the broker answered and
// said no.
func Dial(ctx context.Context, o Options) (*Client, error) {
	network, address := "tcp", o.Address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("no connection: %w", err)
	}
	if o.TLS != nil {
		secure := tls.Client(conn, o.TLS)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("no TLS connection: %w", err)
		}
		conn = secure
	}
	return connect(ctx, conn, o)
}

// connect is Dial with a connection, which it closes if it fails.
func connect(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	c := &Client{
		conn:     conn,
		version:  o.Version,
		half:     time.Duration(o.KeepAlive) * time.Second / 2,
		changed:  make(chan struct{}, 1),
		taken:    make(chan struct{}, 1),
		done:     make(chan struct{}),
		closing:  make(chan struct{}),
		broken:   make(chan struct{}),
		id:       o.ClientID,
		end:      o.EndSession && o.SessionExpiry > 0 && o.Version == packet.V5,
		flight:   make(map[packet.ID]*outgoing),
		received: make(map[packet.ID]bool),
		aliases:  make(map[uint16]string),
		names:    make(map[uint16]string),

		forSubscribe:   o.SubscribeProperties,
		forUnsubscribe: o.UnsubscribeProperties,
		forDisconnect:  o.DisconnectProperties,
	}
	// The handshake runs without the reader: closing the connection is what interrupts it.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	in, err := c.handshake(o)
	if !stop() && err != nil {
		err = fmt.Errorf("%s does not answer as an MQTT broker does: %w", o.Address, context.Cause(ctx))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	if o.Resume != nil {
		c.inherit(o.Resume)
	}
	// The reader: ended by the connection, which Close closes; Close waits for it.
	c.reader.Go(func() { c.read(in, o) })
	return c, nil
}

// handshake exchanges CONNECT and CONNACK. It returns what was read behind the CONNACK.
func (c *Client) handshake(o Options) (rest []byte, err error) {
	p := packet.Connect{
		Version:        o.Version,
		CleanStart:     o.CleanStart,
		KeepAlive:      o.KeepAlive,
		ClientID:       []byte(o.ClientID),
		SessionExpiry:  o.SessionExpiry,
		ReceiveMaximum: maxWindow,
		RequestProblem: !o.NoProblems,

		RequestResponse:   o.RequestResponse,
		MaximumPacketSize: o.MaximumPacketSize,
		TopicAliasMaximum: o.TopicAliasMaximum,
		UserProperties:    o.UserProperties,
	}
	if o.ReceiveMaximum > 0 {
		p.ReceiveMaximum = o.ReceiveMaximum
	}
	if o.Username != nil {
		p.HasUsername, p.Username = true, []byte(*o.Username)
	}
	if o.Password != nil {
		p.HasPassword, p.Password = true, []byte(*o.Password)
	}
	if w := o.Will; w != nil {
		p.HasWill = true
		p.Will = packet.Will{
			Topic: []byte(w.Topic), Payload: w.Payload, QoS: w.QoS, Retain: w.Retain,
			Delay: o.WillDelay, Expiry: w.Expiry, HasExpiry: w.HasExpiry,
			Properties: packet.AppendTravelling(nil, &w.Properties),
		}
	}
	if err := c.write(packet.AppendConnect(nil, &p)); err != nil {
		return nil, err
	}
	in := frames{conn: c.conn}
	h, body, err := in.next()
	if _, ok := errors.AsType[*packet.Error](err); ok {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("the broker closed the connection before it answered: %w", err)
	}
	if h.Type != packet.CONNACK {
		return nil, fmt.Errorf("the broker answered with %v instead of CONNACK", h.Type)
	}
	v := c.version
	if len(body) == 2 && v == packet.V5 {
		v = packet.V311 // a broker that knows no 5.0 refuses in the only form it has
	}
	a, err := packet.ParseConnack(body, v)
	if err != nil {
		return nil, fmt.Errorf("the CONNACK of the broker is wrong: %w", err)
	}
	if a.Code >= packet.UnspecifiedError {
		return nil, &Refused{What: Connection, Code: a.Code, Reason: string(a.Reason), Server: string(a.ServerReference)}
	}
	if v != c.version {
		return nil, errors.New("the broker answered a CONNECT of MQTT 5.0 with a CONNACK of 3.1.1")
	}
	if a.AssignedClientID != nil {
		c.id = string(a.AssignedClientID)
	}
	a.ResponseInformation = bytes.Clone(a.ResponseInformation)
	c.connack = a // of which nothing else is used that aliases body
	if a.HasServerKeepAlive {
		c.half = time.Duration(a.ServerKeepAlive) * time.Second / 2
	}
	c.window = maxWindow
	if a.ReceiveMaximum > 0 {
		c.window = min(c.window, int(a.ReceiveMaximum))
	}
	return in.rest(), nil
}

// SessionPresent reports whether the broker had a session of this client.
func (c *Client) SessionPresent() bool { return c.connack.SessionPresent }

// ClientID returns the Client Identifier, which the broker may have chosen.
func (c *Client) ClientID() string { return c.id }

// ResponseInformation returns the part of the topics that the broker keeps for the responses to this
// client, if it was asked for; "" = it says nothing.
func (c *Client) ResponseInformation() string { return string(c.connack.ResponseInformation) }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection has ended, nil before Done is closed.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Publish sends a message. At QoS 0 it returns when the message is written. At QoS 1 and 2 it
// first waits until fewer than a window of messages are unacknowledged. If it returns nil the
// message is among those, also if the connection broke meanwhile; Flush waits for the
// acknowledgements. The payload must not change before that.
func (c *Client) Publish(ctx context.Context, m Message) error {
	p := m.packet()
	if err := c.acceptable(&m, &p); err != nil {
		return err
	}
	if m.QoS > 0 {
		if err := c.until(ctx, func() bool { return len(c.flight) < c.window }); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if m.QoS == 0 {
		return c.said(c.send(&p, &m))
	}
	p.ID = c.freeID()
	c.number++
	c.flight[p.ID] = &outgoing{Message: m, number: c.number, sent: true}
	c.said(c.send(&p, &m)) // who waits for the acknowledgement is told
	return nil
}

// send writes a PUBLISH, with the alias of the message if it has one. mu is held.
func (c *Client) send(p *packet.Publish, m *Message) error {
	if alias := m.TopicAlias; alias > 0 && c.version == packet.V5 {
		p.TopicAlias = alias
		if c.aliases[alias] == m.Topic {
			p.Topic = nil
		}
		c.aliases[alias] = m.Topic
	}
	c.out, _ = packet.AppendPublish(c.out[:0], p, c.version)
	return c.write(c.out)
}

// acceptable says why the broker would not take the message, as far as its CONNACK tells.
func (c *Client) acceptable(m *Message, p *packet.Publish) error {
	size := packet.PublishSize(p, c.version)
	if m.TopicAlias > 0 && c.version == packet.V5 {
		size += 3
	}
	switch a := &c.connack; {
	case size > packet.MaxRemaining:
		return limitf("the message to %s makes a packet of %d bytes, MQTT has room for %d", m.Topic, size, packet.MaxRemaining)
	case a.MaximumPacketSize > 0 && uint64(size) > uint64(a.MaximumPacketSize):
		return limitf("the message to %s makes a packet of %d bytes, the broker takes %d", m.Topic, size, a.MaximumPacketSize)
	case a.HasMaximumQoS && m.QoS > a.MaximumQoS:
		return limitf("the broker takes messages up to QoS %d", a.MaximumQoS)
	case a.RetainUnavailable && m.Retain:
		return limitf("the broker keeps no retained messages")
	case m.TopicAlias > a.TopicAliasMaximum && a.TopicAliasMaximum == 0 && c.version == packet.V5:
		return limitf("the broker takes no topic alias")
	case m.TopicAlias > a.TopicAliasMaximum && c.version == packet.V5:
		return limitf("the broker takes no topic alias above %d", a.TopicAliasMaximum)
	}
	return nil
}

// Flush waits until every message is acknowledged. It returns the first refusal since the last
// Flush, a *Refused.
func (c *Client) Flush(ctx context.Context) error {
	err := c.until(ctx, func() bool { return len(c.flight) == 0 })
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err, c.refused = c.refused, nil
	}
	return err
}

// Unacknowledged returns the number of messages that wait for their acknowledgement.
func (c *Client) Unacknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.flight)
}

// Subscribe asks for the filters and returns the broker's answer to each, and its Reason String; id is
// the Subscription Identifier of them all, 0 = none. Messages that arrive meanwhile wait for Receive, however many:
// their acknowledgement waits, too, and that is what holds the broker back.
func (c *Client) Subscribe(ctx context.Context, id uint32, filters []packet.Subscription) (codes []packet.ReasonCode, reason string, err error) {
	if id > 0 && c.connack.SubIDUnavailable {
		return nil, "", limitf("the broker takes no subscription identifiers")
	}
	return c.ask(ctx, len(filters), packet.SUBSCRIBE, func(b []byte, p packet.ID) []byte {
		return packet.AppendSubscribeWith(b, p, id, c.forSubscribe, filters, c.version)
	})
}

// Unsubscribe ends the subscriptions and returns the broker's answer to each, and its Reason String;
// 3.1.1 has none.
func (c *Client) Unsubscribe(ctx context.Context, filters []string) (codes []packet.ReasonCode, reason string, err error) {
	n := len(filters)
	if c.version < packet.V5 {
		n = 0
	}
	return c.ask(ctx, n, packet.UNSUBSCRIBE, func(b []byte, p packet.ID) []byte {
		return packet.AppendUnsubscribeWith(b, p, c.forUnsubscribe, filters, c.version)
	})
}

// ask sends what has an answer with n codes, and waits for it.
func (c *Client) ask(ctx context.Context, n int, what packet.Type, request func([]byte, packet.ID) []byte) (codes []packet.ReasonCode, reason string, err error) {
	c.mu.Lock()
	c.waitingID, c.answer = c.freeID(), nil
	c.out = request(c.out[:0], c.waitingID)
	limit := c.connack.MaximumPacketSize
	if limit > 0 && uint64(len(c.out)) > uint64(limit) {
		c.waitingID = 0
		c.mu.Unlock()
		return nil, "", limitf("the %v has %d bytes, the broker takes %d", what, len(c.out), limit)
	}
	err = c.said(c.write(c.out))
	c.mu.Unlock()
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fmt.Errorf("the broker did not answer the %v", what))
	defer cancel()
	if err := c.until(ctx, func() bool { return c.answer != nil }); err != nil {
		return nil, "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitingID = 0
	if len(c.answer.Codes) != n {
		return nil, "", fmt.Errorf("the broker answered to %d filters instead of %d", len(c.answer.Codes), n)
	}
	return c.answer.Codes, string(c.answer.Reason), nil
}

// Receive waits for a message. What it returned before is acknowledged by that: a message counts
// as received when the caller asks for the next one or calls Close.
func (c *Client) Receive(ctx context.Context) (Message, error) {
	if err := c.acknowledge(); err != nil {
		return Message{}, err
	}
	if err := c.until(ctx, func() bool { return len(c.inbox) > 0 }); err != nil {
		return Message{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.inbox[0]
	c.inbox[0] = incoming{} // lets go of the payload
	c.inbox = c.inbox[1:]
	c.unread = &m
	pulse(c.taken)
	return m.Message, nil
}

// Waiting returns the number of messages that Receive returns without waiting.
func (c *Client) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.inbox)
}

// acknowledge tells the broker that the caller has what Receive returned last.
func (c *Client) acknowledge() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.unread
	c.unread = nil
	if m == nil || m.QoS == 0 || m.id == 0 {
		return nil
	}
	a := packet.Ack{Type: packet.PUBACK, ID: m.id}
	if m.QoS == 2 {
		a.Type = packet.PUBREC
		c.received[m.id] = true
	}
	return c.said(c.writeAck(&a))
}

// Abandon ends the connection without a DISCONNECT, as a loss of the link does, for another to
// resume it. It returns when the reader has ended.
func (c *Client) Abandon() {
	c.mu.Lock()
	if c.failed == nil {
		c.failed = errAbandoned
		close(c.broken)
	}
	c.mu.Unlock()
	c.conn.Close()
	<-c.done
}

// Close acknowledges what was received, says DISCONNECT and returns when the reader has ended.
func (c *Client) Close() error {
	select {
	case <-c.closing:
		c.reader.Wait()
		return nil
	default:
	}
	err := c.acknowledge()
	c.mu.Lock()
	close(c.closing)
	if err == nil {
		c.out = packet.AppendDisconnect(c.out[:0], &packet.Disconnect{HasSessionExpiry: c.end, UserProperties: c.forDisconnect}, c.version)
		err = c.write(c.out)
	}
	c.mu.Unlock()
	// The broker may be quick to close, and the reader then has done so, too.
	if closed := c.conn.Close(); err == nil && !errors.Is(closed, net.ErrClosed) {
		err = closed
	}
	c.reader.Wait()
	return err
}

// until waits until ready, which is called with mu held, returns true.
func (c *Client) until(ctx context.Context, ready func() bool) error {
	for {
		c.mu.Lock()
		ok, err := ready(), c.err
		c.mu.Unlock()
		switch {
		case ok:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-c.changed:
		case <-c.done: // the reader has left its reason, which the next round finds
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// freeID returns an unused packet id. mu is held. The window is far below the number of ids.
func (c *Client) freeID() packet.ID {
	for {
		c.nextID++
		if c.nextID != 0 && c.flight[c.nextID] == nil {
			return c.nextID
		}
	}
}

// said gives the reader a moment to find out why a write failed: the broker may have said so in
// a DISCONNECT. The connection has then ended. mu is held by the caller, and not while it waits.
func (c *Client) said(err error) error {
	if err == nil {
		return nil
	}
	if c.failed == nil {
		c.failed = err
		close(c.broken)
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-c.done:
	case <-c.closing:
		return err
	case <-time.After(reasonTimeout):
		c.conn.Close()
		<-c.done
	}
	return c.err // final once done is closed
}

// write sends whole packets. mu is held, except before there is a reader.
func (c *Client) write(b []byte) error {
	now := time.Now()
	c.lastWrite = now
	if err := c.conn.SetWriteDeadline(now.Add(writeTimeout)); err != nil {
		return c.lost(err)
	}
	if _, err := c.conn.Write(b); err != nil {
		return c.lost(err)
	}
	return nil
}

// lost puts the end of the connection into words. mu is held.
func (c *Client) lost(err error) error {
	select {
	case <-c.closing:
		return ErrClosed
	default:
	}
	if c.err != nil {
		return c.err // what the broker said before is the better reason
	}
	return fmt.Errorf("the connection is lost: %w", err)
}

func (c *Client) writeAck(a *packet.Ack) error {
	c.out = packet.AppendAck(c.out[:0], a, c.version)
	return c.write(c.out)
}

// pulse wakes who waits for the channel, now or when it waits next.
func pulse(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
