package peers

import (
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	paho5 "github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"
)

// paho5Conn is a connection of paho.golang, MQTT 5.0.
type paho5Conn struct {
	client  *paho5.Client
	socket  net.Conn
	in      inbox
	session bool
}

func dialPaho5(t *testing.T, o options) conn {
	t.Helper()
	socket, err := net.Dial(o.network, o.address)
	must(t, "dial", err)
	c := &paho5Conn{socket: socket, in: newInbox()}
	c.client = paho5.NewClient(paho5.ClientConfig{
		Conn:     socket,
		ClientID: o.id,
		OnPublishReceived: []func(paho5.PublishReceived) (bool, error){func(p paho5.PublishReceived) (bool, error) {
			c.in.put(t, message{p.Packet.Topic, string(p.Packet.Payload), p.Packet.QoS, p.Packet.Retain})
			return true, nil
		}},
	})
	connect := &paho5.Connect{
		ClientID: o.id, CleanStart: o.clean, KeepAlive: 30,
		Properties: &paho5.ConnectProperties{SessionExpiryInterval: &o.expiry},
	}
	if w := o.will; w != nil {
		connect.WillMessage = &paho5.WillMessage{Topic: w.topic, Payload: []byte(w.payload), QoS: w.qos, Retain: w.retain}
	}
	ctx, cancel := within(t)
	defer cancel()
	connack, err := c.client.Connect(ctx, connect)
	must(t, "connect", err)
	c.session = connack.SessionPresent
	t.Cleanup(func() { socket.Close() })
	return c
}

func (c *paho5Conn) subscribe(t *testing.T, filter string, qos byte) byte {
	t.Helper()
	ctx, cancel := within(t)
	defer cancel()
	suback, err := c.client.Subscribe(ctx, &paho5.Subscribe{
		Subscriptions: []paho5.SubscribeOptions{{Topic: filter, QoS: qos}},
	})
	must(t, "subscribe", err)
	return suback.Reasons[0]
}

func (c *paho5Conn) publish(t *testing.T, m message, expiry uint32) {
	t.Helper()
	ctx, cancel := within(t)
	defer cancel()
	p := &paho5.Publish{Topic: m.topic, Payload: []byte(m.payload), QoS: m.qos, Retain: m.retain}
	if expiry > 0 {
		p.Properties = &paho5.PublishProperties{MessageExpiry: &expiry}
	}
	_, err := c.client.Publish(ctx, p)
	must(t, "publish", err)
}

func (c *paho5Conn) disconnect(t *testing.T) {
	t.Helper()
	must(t, "disconnect", c.client.Disconnect(&paho5.Disconnect{}))
	gone(t, c)
}

func (c *paho5Conn) drop(t *testing.T) {
	t.Helper()
	c.socket.Close()
	gone(t, c)
}

func (c *paho5Conn) messages() <-chan message { return c.in }
func (c *paho5Conn) ended() <-chan struct{}   { return c.client.Done() }
func (c *paho5Conn) present() (bool, bool)    { return c.session, true }

// paho3Conn is a connection of paho.mqtt.golang, MQTT 3.1.1.
type paho3Conn struct {
	client  paho3.Client
	socket  net.Conn
	in      inbox
	session bool
	over    chan struct{} // closed when the connection has ended
	once    sync.Once
}

func dialPaho3(t *testing.T, o options) conn {
	t.Helper()
	c := &paho3Conn{in: newInbox(), over: make(chan struct{})}
	opts := paho3.NewClientOptions().
		AddBroker("tcp://" + o.address).
		SetCustomOpenConnectionFn(func(*url.URL, paho3.ClientOptions) (net.Conn, error) {
			socket, err := net.Dial(o.network, o.address)
			c.socket = socket
			return socket, err
		}).
		SetProtocolVersion(4).SetClientID(o.id).SetCleanSession(o.clean).
		SetAutoReconnect(false).SetConnectTimeout(guard).SetOrderMatters(true).
		SetConnectionLostHandler(func(paho3.Client, error) { c.end() }).
		SetDefaultPublishHandler(func(_ paho3.Client, m paho3.Message) {
			c.in.put(t, message{m.Topic(), string(m.Payload()), m.Qos(), m.Retained()})
		})
	if w := o.will; w != nil {
		opts.SetWill(w.topic, w.payload, w.qos, w.retain)
	}
	c.client = paho3.NewClient(opts)
	token := c.client.Connect()
	must(t, "connect", wait(token))
	c.session = token.(*paho3.ConnectToken).SessionPresent()
	t.Cleanup(func() { c.client.Disconnect(0) })
	return c
}

// wait waits for an answer.
func wait(token paho3.Token) error {
	if !token.WaitTimeout(guard) {
		return errTimeout
	}
	return token.Error()
}

func (c *paho3Conn) end() { c.once.Do(func() { close(c.over) }) }

func (c *paho3Conn) subscribe(t *testing.T, filter string, qos byte) byte {
	t.Helper()
	token := c.client.Subscribe(filter, qos, nil)
	must(t, "subscribe", wait(token))
	return token.(*paho3.SubscribeToken).Result()[filter]
}

func (c *paho3Conn) publish(t *testing.T, m message, expiry uint32) {
	t.Helper()
	if expiry > 0 {
		t.Fatal(fmt.Errorf("3.1.1 has no message expiry"))
	}
	must(t, "publish", wait(c.client.Publish(m.topic, m.qos, m.retain, m.payload)))
}

func (c *paho3Conn) disconnect(t *testing.T) {
	t.Helper()
	c.client.Disconnect(uint(time.Second.Milliseconds()))
	c.end()
}

func (c *paho3Conn) drop(t *testing.T) {
	t.Helper()
	// The library takes a closed socket for its own doing, and an end of both directions for a
	// lost connection.
	both := c.socket.(interface {
		CloseRead() error
		CloseWrite() error
	})
	both.CloseWrite()
	both.CloseRead()
	gone(t, c)
}

func (c *paho3Conn) messages() <-chan message { return c.in }
func (c *paho3Conn) ended() <-chan struct{}   { return c.over }
func (c *paho3Conn) present() (bool, bool)    { return c.session, true }
