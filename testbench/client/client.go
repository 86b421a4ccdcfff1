// Package client is the MQTT client of the tests: fast, strict, and a good citizen over
// reconnects. It speaks 3.1.1 and 5.0 on core/packet.
//
// A Client outlives its Network Connections. What it has published at QoS 1 and 2 stays in
// flight over a lost connection and is resumed by the next Connect with the same packet ids and
// DUP, as MQTT5 §4.4 asks; so does what it has received at QoS 2. Everything a broker may not do
// ends the connection with an error that says what it was: an acknowledgement for an id that is
// not in flight, a PUBLISH beyond the announced Receive Maximum, a malformed packet.
//
//	c := client.New(client.Options{Address: addr, ClientID: "meter", SessionExpiry: 3600})
//	connack, err := c.Connect(ctx)
//	err = c.Publish(ctx, client.Publish{Topic: "a", QoS: 1, Acked: func(code packet.ReasonCode) { … }})
//	err = c.Drain(ctx)
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"dunlin/core/packet"
)

// Options configure a Client. Address is required; every other zero value means what is said.
type Options struct {
	Network string // "tcp" if empty, or "unix"
	Address string

	Version       packet.Version // 5.0 if 0
	ClientID      string
	CleanStart    bool   // Clean Session in 3.1.1
	SessionExpiry uint32 // seconds, 5.0 only
	KeepAlive     uint16 // seconds; 0 = off; else a PINGREQ leaves at half of it
	Username      string // "" = none
	Password      string // "" = none
	Will          *packet.Will

	ReceiveMaximum    uint16 // 0 = 65,535; announced, and checked on what arrives
	MaximumPacketSize uint32 // bytes; 0 = no limit; announced, and checked on what arrives

	// Window is how many PUBLISH packets at QoS 1 and 2 may be in flight; 50 if 0. The broker's
	// Receive Maximum makes it smaller. When it is full, Publish waits.
	Window int
	// Inbox is how many received messages may wait for the caller; 1024 if 0. When it is full,
	// reading stops, and TCP holds the broker back.
	Inbox int
	// Deliver takes what arrives instead of the Inbox; nil = the Inbox does. It is called from
	// the reader, as one with the acknowledgement: a State of the client has both or neither. It
	// must not block or call the client.
	Deliver func(Message)
	// ManualAcks leaves the acknowledging of what arrives to Ack.
	ManualAcks bool
	// Guard bounds calls whose context has no deadline, so that a broken broker fails a test
	// instead of hanging it; 60 s if 0.
	Guard time.Duration
}

// ErrNotConnected is returned when there is no Network Connection: call Connect, then try again.
var ErrNotConnected = errors.New("client: not connected")

// RefusedError is a CONNACK that refused the connection.
type RefusedError struct{ Code packet.ReasonCode }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("client: connection refused: %s (0x%02X)", e.Code, byte(e.Code))
}

// DisconnectedError is a DISCONNECT from the broker, 5.0 only.
type DisconnectedError struct {
	Code   packet.ReasonCode
	Reason string // Reason String, may be empty
}

func (e *DisconnectedError) Error() string {
	return fmt.Sprintf("client: the broker disconnected: %s (0x%02X) %s", e.Code, byte(e.Code), e.Reason)
}

// Client is an MQTT client with its part of the Session State. Its methods may be called from
// any goroutine; Connect, Disconnect and Close from one at a time.
type Client struct {
	o     Options
	inbox chan Message

	mu       sync.Mutex // guards what follows
	link     *link      // nil if never connected; ended links stay until the next Connect
	limit    int        // of flights: the Window, or the broker's Receive Maximum if smaller
	flights  map[packet.ID]*flight
	serial   uint64                             // of the newest flight
	lastID   packet.ID                          // handed out last
	requests map[packet.ID]chan<- packet.Suback // SUBSCRIBE and UNSUBSCRIBE that wait
	freed    chan struct{}                      // closed when a flight ends, if somebody waits
	incoming map[packet.ID]bool                 // QoS 2 ids received that wait for PUBREL
	held     map[packet.ID]packet.QoS           // received, not acknowledged yet (Receive Maximum)
}

// New returns a Client that is not connected.
func New(o Options) *Client {
	if o.Network == "" {
		o.Network = "tcp"
	}
	if o.Version == 0 {
		o.Version = packet.V5
	}
	if o.Window == 0 {
		o.Window = 50
	}
	if o.Inbox == 0 {
		o.Inbox = 1024
	}
	if o.Guard == 0 {
		o.Guard = time.Minute
	}
	if o.ReceiveMaximum == 0 {
		o.ReceiveMaximum = 65535
	}
	return &Client{
		o:        o,
		inbox:    make(chan Message, o.Inbox),
		limit:    o.Window,
		flights:  make(map[packet.ID]*flight),
		requests: make(map[packet.ID]chan<- packet.Suback),
		incoming: make(map[packet.ID]bool),
		held:     make(map[packet.ID]packet.QoS),
	}
}

// guard gives ctx a deadline if it has none.
func (c *Client) guard(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.o.Guard)
}

// Connect makes a Network Connection, waits for the CONNACK and resumes what is in flight. It
// ends the previous connection if there is one.
//
// Without a session at the broker (Connack.SessionPresent false) messages in flight are
// published again as new ones: they may come twice, and the caller decides if that is a fault.
//
// It returns a *RefusedError if the broker refused.
func (c *Client) Connect(ctx context.Context) (packet.Connack, error) {
	c.Close()
	ctx, cancel := c.guard(ctx)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, c.o.Network, c.o.Address)
	if err != nil {
		return packet.Connack{}, fmt.Errorf("client: %w", err)
	}
	l := newLink(conn, c.o.Version, c.o.MaximumPacketSize)
	connack, err := l.handshake(ctx, c.connectPacket())
	if err != nil {
		conn.Close()
		return connack, fmt.Errorf("client: connect: %w", err)
	}
	if connack.Code != packet.Success {
		conn.Close()
		return connack, &RefusedError{connack.Code}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	c.limit = c.o.Window
	if connack.ReceiveMaximum > 0 {
		c.limit = min(c.limit, int(connack.ReceiveMaximum))
	}
	clear(c.held)
	if !connack.SessionPresent {
		clear(c.incoming)
	}
	c.resend(l, connack.SessionPresent)
	// Owner: the link. Both end when its connection does; link.end closes it, Close waits.
	l.ended.Go(func() { l.end(l.write(c.o.KeepAlive)) })
	l.ended.Go(func() { l.end(l.read(func(h packet.Header, body []byte) error { return c.take(l, h, body) })) })
	return connack, nil
}

// connectPacket encodes the CONNECT.
func (c *Client) connectPacket() []byte {
	p := packet.Connect{
		Version:           c.o.Version,
		CleanStart:        c.o.CleanStart,
		KeepAlive:         c.o.KeepAlive,
		ClientID:          []byte(c.o.ClientID),
		Username:          []byte(c.o.Username),
		Password:          []byte(c.o.Password),
		HasUsername:       c.o.Username != "",
		HasPassword:       c.o.Password != "",
		SessionExpiry:     c.o.SessionExpiry,
		ReceiveMaximum:    c.o.ReceiveMaximum,
		MaximumPacketSize: c.o.MaximumPacketSize,
		RequestProblem:    true,
	}
	if c.o.Will != nil {
		p.HasWill, p.Will = true, *c.o.Will
	}
	return packet.AppendConnect(nil, &p)
}

// Disconnect says DISCONNECT with Normal Disconnection, waits until the broker has closed the
// connection, and ends it. The session stays at the broker if the options say so.
func (c *Client) Disconnect(ctx context.Context) error {
	return c.DisconnectWith(ctx, packet.Disconnect{})
}

// DisconnectWith is Disconnect with a packet of the caller's.
func (c *Client) DisconnectWith(ctx context.Context, d packet.Disconnect) error {
	ctx, cancel := c.guard(ctx)
	defer cancel()
	l := c.current()
	if l == nil {
		return ErrNotConnected
	}
	l.leaving.Store(true)
	l.put(func(dst []byte) []byte { return packet.AppendDisconnect(dst, &d, c.o.Version) })
	select {
	case <-l.done:
	case <-ctx.Done():
		c.Close()
		return fmt.Errorf("client: the broker did not close after DISCONNECT: %w", ctx.Err())
	}
	c.Close()
	return nil
}

// Close drops the connection without a DISCONNECT and returns when its goroutines have ended.
// The Client keeps its part of the session; Connect resumes it.
func (c *Client) Close() {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return
	}
	l.end(net.ErrClosed)
	l.ended.Wait()
}

// Done returns a channel that is closed when the current connection has ended.
func (c *Client) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return c.link.done
}

// Err says why the last connection ended: a *DisconnectedError if the broker said so, nil while
// it lives. net.ErrClosed means that Close or Disconnect ended it.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return ErrNotConnected
	}
	return c.link.err()
}

// current returns the connection, nil if there is none or it has ended.
func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil || c.link.err() != nil {
		return nil
	}
	return c.link
}

// Write sends bytes as they are, in order with everything else.
func (c *Client) Write(b []byte) error {
	l := c.current()
	if l == nil {
		return ErrNotConnected
	}
	l.put(func(dst []byte) []byte { return append(dst, b...) })
	return nil
}

// Ping sends PINGREQ and waits for its PINGRESP. As a broker answers in order, everything sent
// before has been read by it then.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := c.guard(ctx)
	defer cancel()
	l := c.current()
	if l == nil {
		return ErrNotConnected
	}
	select {
	case <-l.ping():
		return nil
	case <-l.done:
		return fmt.Errorf("client: ping: %w", l.err())
	case <-ctx.Done():
		return fmt.Errorf("client: no PINGRESP: %w", ctx.Err())
	}
}

// Filter is one Topic Filter of a SUBSCRIBE with its options (MQTT5 §3.8.3.1).
type Filter struct {
	Filter            string
	QoS               packet.QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
}

// Subscribe subscribes and returns the codes of the SUBACK, one for each filter.
func (c *Client) Subscribe(ctx context.Context, filters ...Filter) ([]packet.ReasonCode, error) {
	return c.SubscribeAs(ctx, 0, filters...)
}

// SubscribeAs is Subscribe with a Subscription Identifier, 0 = none, 5.0 only.
func (c *Client) SubscribeAs(ctx context.Context, subscriptionID uint32, filters ...Filter) ([]packet.ReasonCode, error) {
	wanted := make([]packet.Subscription, len(filters))
	for i, f := range filters {
		wanted[i] = packet.Subscription{Filter: f.Filter, Options: packet.SubscribeOptions{
			QoS: f.QoS, NoLocal: f.NoLocal, RetainAsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling,
		}}
	}
	suback, err := c.request(ctx, func(dst []byte, id packet.ID) []byte {
		return packet.AppendSubscribe(dst, id, subscriptionID, wanted, c.o.Version)
	})
	if err != nil {
		return nil, fmt.Errorf("client: subscribe: %w", err)
	}
	if len(suback.Codes) != len(filters) {
		return suback.Codes, fmt.Errorf("client: SUBACK with %d codes for %d filters", len(suback.Codes), len(filters))
	}
	return suback.Codes, nil
}

// Unsubscribe unsubscribes and returns the codes of the UNSUBACK, none in 3.1.1.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) ([]packet.ReasonCode, error) {
	unsuback, err := c.request(ctx, func(dst []byte, id packet.ID) []byte {
		return packet.AppendUnsubscribe(dst, id, filters, c.o.Version)
	})
	if err != nil {
		return nil, fmt.Errorf("client: unsubscribe: %w", err)
	}
	return unsuback.Codes, nil
}

// request sends a packet under a fresh id and waits for its SUBACK or UNSUBACK.
func (c *Client) request(ctx context.Context, encode func(dst []byte, id packet.ID) []byte) (packet.Suback, error) {
	ctx, cancel := c.guard(ctx)
	defer cancel()
	l := c.current()
	if l == nil {
		return packet.Suback{}, ErrNotConnected
	}
	answer := make(chan packet.Suback, 1)
	c.mu.Lock()
	id := c.freeID()
	c.requests[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.requests, id)
		c.mu.Unlock()
	}()
	l.put(func(dst []byte) []byte { return encode(dst, id) })
	select {
	case a := <-answer:
		return a, nil
	case <-l.done:
		// The answer may have come before the end.
		select {
		case a := <-answer:
			return a, nil
		default:
			return packet.Suback{}, l.err()
		}
	case <-ctx.Done():
		return packet.Suback{}, ctx.Err()
	}
}

// freeID returns an unused packet id. c.mu is held.
func (c *Client) freeID() packet.ID {
	for {
		c.lastID++
		if c.lastID == 0 {
			c.lastID = 1
		}
		if c.flights[c.lastID] == nil && c.requests[c.lastID] == nil {
			return c.lastID
		}
	}
}

// inOrder returns the flights in the order in which they were published, or of their PUBREC.
// c.mu is held.
func (c *Client) inOrder() []*flight {
	all := make([]*flight, 0, len(c.flights))
	for _, f := range c.flights {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *flight) int { return int(int64(a.serial) - int64(b.serial)) })
	return all
}
