package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"dunlin/core/message"
	"dunlin/uplink/forward"
)

// Incoming is a message of the server.
type Incoming struct {
	Message *message.Message // Topic as in the server; Received, Publisher and Source are not set
	ID      uint16           // to be given to Ack; 0 at QoS 0
}

// Events takes what happens on a connection. The calls come from goroutines of the connection,
// also before Dial has returned; they must not block.
type Events interface {
	Outcome(forward.Outcome)
	// Subscribed is called once when the server has answered all subscriptions.
	Subscribed()
	// Incoming at QoS 1 comes at most four times Options.ReceiveMaximum times without Ack; then
	// the connection reads no further.
	Incoming(Incoming)
	// Idle is called when all that has arrived was reported, before the connection waits for
	// more: the moment to act on a batch.
	Idle()
	// Lost is called once when the connection has ended by itself. Close is to be called then.
	Lost(error)
}

// Conn is a connection to an MQTT 5 server: a forward.Sink. Send, Release, Ack, Flush and Close
// are for one goroutine.
type Conn struct {
	o      Options
	link   *link
	client *paho.Client
	pinger *paho.DefaultPinger
	events Events
	maxQoS byte
	retain bool   // the server takes RETAIN
	limit  uint32 // bytes of a packet that the server takes, 0 = no limit
	warned bool   // that RETAIN is left out

	running sync.WaitGroup     // the goroutine that subscribes
	cancel  context.CancelFunc // of that
	room    chan struct{}      // capacity 1: incoming got shorter

	mu       sync.Mutex         // guards what follows
	sent     map[uint16]sending // in flight, by packet identifier
	waiting  map[uint16]chan<- packets.ControlPacket
	lastID   uint16        // of SUBSCRIBE
	incoming []acknowledge // QoS 1, in the order in which they came, bounded by the Receive Maximum
	cause    error         // what is known about the end before Lost
	gone     bool          // the library is done with the session
	ended    bool          // Lost was called or Close began
}

type sending struct {
	seq      forward.Seq
	qos      byte
	released bool
}

type acknowledge struct {
	id   uint16
	done bool
}

// id returns the packet identifier of a message.
func id(s forward.Seq) uint16 { return uint16((s-1)%MaxSpan) + 1 }

// Dial connects, and begins to subscribe. What ctx bounds is Dial alone. Errors wrap ErrOldProtocol, ErrQoS0Only, a *RefusedError or that of the network.
func Dial(ctx context.Context, o Options, events Events) (*Conn, forward.Link, error) {
	var none forward.Link
	if err := o.Validate(); err != nil {
		return nil, none, err
	}
	o = o.withDefaults()
	raw, err := dial(ctx, &o)
	if err != nil {
		return nil, none, err
	}
	c := &Conn{
		o: o, link: newLink(raw, o.MaxPacketSize, o.Timeout, events.Idle), events: events, pinger: paho.NewDefaultPinger(),
		room: make(chan struct{}, 1), sent: make(map[uint16]sending), waiting: make(map[uint16]chan<- packets.ControlPacket),
	}
	c.client = paho.NewClient(paho.ClientConfig{
		ClientID:           o.ClientID,
		Conn:               c.link,
		Session:            (*session)(c),
		AuthHandler:        (*refuseAuth)(c),
		PingHandler:        c.pinger,
		PacketTimeout:      o.Timeout,
		OnPublishReceived:  []func(paho.PublishReceived) (bool, error){c.receivedQoS0},
		OnClientError:      c.lost,
		OnServerDisconnect: func(*paho.Disconnect) { c.lost(nil) },
	})
	ack, err := c.client.Connect(ctx, o.connect())
	if err != nil {
		return nil, none, c.connectError(ack, err)
	}
	l := c.learn(ack)
	if c.maxQoS == 0 {
		c.Close()
		return nil, none, ErrQoS0Only
	}
	// Without waiting for it: a resumed session may bring so many messages in front of the SUBACK
	// that they must be acknowledged meanwhile.
	subscribing, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.running.Go(func() { // ends with the last SUBACK or the connection; Close waits
		if err := c.subscribe(subscribing, c.o.Subscriptions); err != nil {
			c.link.fail(err)
			return
		}
		c.events.Subscribed()
	})
	return c, l, nil
}

// dial opens the connection below.
func dial(ctx context.Context, o *Options) (net.Conn, error) {
	address, secure, err := o.address()
	if err != nil {
		return nil, err
	}
	var config *tls.Config
	if secure {
		if config, err = o.tls(address); err != nil {
			return nil, err
		}
	}
	d := net.Dialer{Timeout: o.Timeout}
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("mqtt: %w", err)
	}
	if !secure {
		return raw, nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	t := tls.Client(raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("mqtt: tls handshake with %s: %w%s", address, err, handshakeRemedy(err))
	}
	return t, nil
}

// connect returns the CONNECT packet: the session in the server is kept when the connection ends.
func (o *Options) connect() *paho.Connect {
	return &paho.Connect{
		ClientID:     o.ClientID,
		CleanStart:   o.CleanStart,
		Username:     o.Username,
		UsernameFlag: o.Username != "",
		Password:     []byte(o.Password),
		PasswordFlag: o.Password != "",
		KeepAlive:    uint16(o.KeepAlive / time.Second),
		Properties: &paho.ConnectProperties{
			SessionExpiryInterval: new(uint32(o.SessionExpiry / time.Second)),
			ReceiveMaximum:        new(o.ReceiveMaximum),
			MaximumPacketSize:     new(o.MaxPacketSize),
			RequestProblemInfo:    true,
		},
	}
}

// connectError explains why Connect failed.
func (c *Conn) connectError(ack *paho.Connack, err error) error {
	switch {
	case ack != nil && (ack.ReasonCode == 0x84 || ack.ReasonCode > 0 && ack.ReasonCode < 0x80):
		return ErrOldProtocol
	case ack != nil && ack.ReasonCode >= 0x80:
		e := &RefusedError{Code: ack.ReasonCode}
		if ack.Properties != nil {
			e.Reason, e.Servers = printable(ack.Properties.ReasonString), ack.Properties.ServerReference
		}
		return e
	case c.link.failure() != nil:
		return c.link.failure()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("mqtt: the server closed the connection without an answer to CONNECT: servers that expect TLS (mqtts) on that port, do not speak MQTT 5, or do not like the client id or the certificate, may do so: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("mqtt: no answer to CONNECT within %v: %w", c.o.Timeout, err)
	}
	return fmt.Errorf("mqtt: connect: %w", err)
}

// learn takes what the CONNACK says.
func (c *Conn) learn(ack *paho.Connack) forward.Link {
	c.maxQoS, c.retain = 2, true
	l := forward.Link{SessionPresent: ack.SessionPresent}
	p := ack.Properties
	if p == nil {
		return l
	}
	if p.MaximumQoS != nil {
		c.maxQoS = *p.MaximumQoS
	}
	if p.MaximumPacketSize != nil {
		c.limit = *p.MaximumPacketSize
	}
	if p.ReceiveMaximum != nil {
		l.Window = int(*p.ReceiveMaximum)
	}
	c.retain = p.RetainAvailable
	if p.SessionExpiryInterval != nil && time.Duration(*p.SessionExpiryInterval)*time.Second < c.o.SessionExpiry {
		c.o.Log.Warn("server keeps the session for a shorter time than asked for: after a longer outage messages at QoS 2 may be repeated",
			"seconds", *p.SessionExpiryInterval)
	}
	return l
}

// subscribe asks for what is to come down. A filter that is refused does not hinder the rest.
func (c *Conn) subscribe(ctx context.Context, subscriptions []Subscription) error {
	for _, s := range subscriptions {
		ack, err := c.client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
			{Topic: s.Filter, QoS: s.QoS, NoLocal: true, RetainAsPublished: true, RetainHandling: packets.RetainSendOnSubscribeIfNew},
		}})
		switch {
		case ack != nil && len(ack.Reasons) == 1 && ack.Reasons[0] >= 0x80:
			c.o.Log.Error("server refuses a subscription: nothing comes down for it", "filter", s.Filter,
				"code", fmt.Sprintf("0x%02X", ack.Reasons[0]), "reason", codeName(ack.Reasons[0]))
		case ack != nil && len(ack.Reasons) != 1:
			return fmt.Errorf("mqtt: server answered a SUBSCRIBE of one filter with %d codes", len(ack.Reasons))
		case errors.Is(err, paho.ErrInvalidArguments):
			c.o.Log.Error("server does not take a subscription: nothing comes down for it", "filter", s.Filter, "err", err)
		case err != nil:
			return fmt.Errorf("mqtt: subscribe to %q: %w", s.Filter, err)
		}
	}
	return nil
}

// MaxQoS returns the highest quality of service that the server takes: 1 or 2.
func (c *Conn) MaxQoS() byte { return c.maxQoS }

// Send implements forward.Sink. It also sends a message at QoS 0, of which it reports no
// outcome. A message larger than the server takes is reported Refused.
func (c *Conn) Send(m forward.Message, expiry uint32) error {
	p := packets.Publish{
		Topic:      m.Body.Topic,
		Payload:    m.Body.Payload,
		QoS:        min(m.QoS, c.maxQoS),
		Duplicate:  m.Dup,
		Retain:     m.Body.Retain,
		Properties: &packets.Properties{},
	}
	if p.Retain && !c.retain {
		p.Retain = false
		if !c.warned {
			c.warned = true
			c.o.Log.Warn("server does not take retained messages: they are sent without RETAIN", "topic", m.Body.Topic)
		}
	}
	if err := travelling(m.Body.Properties, p.Properties); err != nil {
		return fmt.Errorf("mqtt: internal error: properties of message %d: %w", m.Seq, err)
	}
	if m.Body.HasExpiry {
		p.Properties.MessageExpiry = &expiry
	}
	if m.QoS > 0 {
		p.PacketID = id(m.Seq)
		p.Properties.User = append(p.Properties.User, packets.User{Key: "spool-id", Value: c.o.SpoolID + "/" + strconv.FormatUint(uint64(m.Seq), 10)})
	}
	if c.limit > 0 && c.tooLarge(&p, len(m.Body.Properties)) {
		if m.QoS > 0 {
			c.events.Outcome(forward.Outcome{Seq: m.Seq, Verdict: forward.Refused, Code: 0x95})
			c.events.Idle()
		}
		return nil
	}
	if m.QoS > 0 {
		c.mu.Lock()
		c.sent[p.PacketID] = sending{seq: m.Seq, qos: p.QoS}
		c.mu.Unlock()
	}
	_, err := p.WriteTo(batch{c.link})
	return err
}

// tooLarge reports whether p is more than the server takes. encoded is how long the properties
// of the message are.
func (c *Conn) tooLarge(p *packets.Publish, encoded int) bool {
	const fixed = 5 + 2 + 2 + 4 + 5 + 5 + len("spool-id") + 1 + 20 // headers, lengths, expiry, the user property
	if uint64(fixed+len(c.o.SpoolID)+len(p.Topic)+encoded+len(p.Payload)) <= uint64(c.limit) {
		return false
	}
	remaining := 0
	for _, b := range p.Buffers() {
		remaining += len(b)
	}
	size := 1 + len(binary.AppendUvarint(nil, uint64(remaining))) + remaining
	return uint64(size) > uint64(c.limit)
}

// travelling decodes the properties that go with a message.
func travelling(encoded []byte, p *packets.Properties) error {
	if len(encoded) == 0 {
		return nil
	}
	block := binary.AppendUvarint(make([]byte, 0, len(encoded)+4), uint64(len(encoded)))
	return p.Unpack(bytes.NewBuffer(append(block, encoded...)), packets.PUBLISH)
}

// Release implements forward.Sink: PUBREL.
func (c *Conn) Release(s forward.Seq) error {
	c.mu.Lock()
	c.sent[id(s)] = sending{seq: s, qos: 2, released: true}
	c.mu.Unlock()
	p := packets.Pubrel{PacketID: id(s)}
	_, err := p.WriteTo(batch{c.link})
	return err
}

// Ack acknowledges an Incoming message: PUBACK. Acknowledgements leave in the order in which the
// messages came [MQTT-4.6.0-2], with the next Flush.
func (c *Conn) Ack(id uint16) error {
	var ready []uint16
	c.mu.Lock()
	for i := range c.incoming {
		if c.incoming[i].id == id && !c.incoming[i].done {
			c.incoming[i].done = true
			break
		}
	}
	for len(c.incoming) > 0 && c.incoming[0].done {
		ready = append(ready, c.incoming[0].id)
		c.incoming = c.incoming[1:]
	}
	c.mu.Unlock()
	select {
	case c.room <- struct{}{}:
	default:
	}
	for _, id := range ready {
		p := packets.Puback{PacketID: id}
		if _, err := p.WriteTo(batch{c.link}); err != nil {
			return err
		}
	}
	return nil
}

// Flush implements forward.Sink.
func (c *Conn) Flush() error {
	if err := c.link.Flush(); err != nil {
		return err
	}
	c.pinger.PacketSent()
	return nil
}

// Hurry lets what is being written, and all that follows, fail after a second instead of
// Options.Timeout. It may be called from any goroutine.
func (c *Conn) Hurry() { c.link.hurry() }

// Close implements forward.Sink: DISCONNECT, which leaves the session in the server.
func (c *Conn) Close() error {
	c.mu.Lock()
	was := c.ended
	c.ended = true
	c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
	defer c.running.Wait()
	if was || c.link.failure() != nil {
		c.link.Close()
		<-c.client.Done()
		return nil
	}
	c.link.hurry()
	return c.client.Disconnect(&paho.Disconnect{})
}

// lost tells the end of the connection, once.
func (c *Conn) lost(err error) {
	failure := c.link.failure()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	switch {
	case c.cause != nil:
		err = c.cause
	case failure != nil:
		err = failure
	case err == nil:
		err = errors.New("mqtt: connection closed")
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("mqtt: the server closed the connection without a DISCONNECT: %w", err)
	default:
		err = fmt.Errorf("mqtt: connection lost: %w", err)
	}
	c.events.Lost(err) // with mu held, so that Close knows that nothing comes any more
}

// receivedQoS0 takes messages at QoS 0, which the library passes by its channel.
func (c *Conn) receivedQoS0(r paho.PublishReceived) (bool, error) {
	p := r.Packet.Packet()
	if err := checkIncoming(p); err != nil {
		c.link.fail(err)
		return true, nil
	}
	c.events.Incoming(Incoming{Message: incoming(p)})
	return true, nil
}

// incoming makes a message of what came.
func incoming(p *packets.Publish) *message.Message {
	m := &message.Message{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain}
	if p.Properties != nil {
		if e := p.Properties.MessageExpiry; e != nil {
			m.HasExpiry, m.Expiry = true, *e
		}
		q := *p.Properties
		q.MessageExpiry, q.TopicAlias, q.SubscriptionIdentifier = nil, nil, nil
		m.Properties = q.Pack(packets.PUBLISH)
	}
	return m
}

// printable keeps a text of the server from breaking the log.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), 200)], "")
}

var _ forward.Sink = (*Conn)(nil)
