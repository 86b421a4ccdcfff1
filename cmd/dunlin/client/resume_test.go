package client

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"dunlin/core/packet"
)

// lost ends the connection of c and returns a new one that resumes it.
func lost(t *testing.T, c *Client, p *peer, a packet.Connack) (*Client, *peer) {
	t.Helper()
	p.in.conn.Close()
	<-c.Done()
	next, q, _ := start(t, Options{Version: p.v, Resume: c}, a)
	return next, q
}

// [MQTT-4.4.0-1]: PUBLISH and PUBREL go again with their ids, [MQTT-3.3.1-1]: with DUP; [MQTT-4.6.0-1]:
// in their order.
func TestUnacknowledgedMessagesAreSentAgainInASessionThatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{}, packet.Connack{})
		ids := make(map[string]packet.ID)
		for _, m := range []Message{{Topic: "a", QoS: 1}, {Topic: "done", QoS: 1}, {Topic: "b", QoS: 2}, {Topic: "released", QoS: 2}, {Topic: "c", QoS: 1}} {
			go c.Publish(t.Context(), m) // ends when the peer has read it
			ids[m.Topic] = p.wantPublish().ID
			synctest.Wait()
		}
		p.ack(packet.PUBACK, ids["done"], 0)
		p.ack(packet.PUBREC, ids["released"], 0)
		p.wantAck(packet.PUBREL, ids["released"])
		synctest.Wait()

		c, p = lost(t, c, p, packet.Connack{SessionPresent: true, ReceiveMaximum: 3})
		resent := make(chan error, 1)
		go func() { resent <- c.Resend(t.Context()) }() // ends when all is written
		for _, want := range []string{"a", "b"} {
			if m := p.wantPublish(); string(m.Topic) != want || m.ID != ids[want] || !m.Dup {
				t.Errorf("PUBLISH of %s with id %d, DUP %v; want %s with id %d and DUP", m.Topic, m.ID, m.Dup, want, ids[want])
			}
		}
		p.wantAck(packet.PUBREL, ids["released"])
		p.in.conn.SetReadDeadline(time.Now().Add(time.Second))
		if h, _, err := p.in.next(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v, %v with three messages under way and a Receive Maximum of 3", h.Type, err)
		}
		p.in.conn.SetReadDeadline(time.Time{})
		p.ack(packet.PUBACK, ids["a"], 0)
		if m := p.wantPublish(); string(m.Topic) != "c" || m.ID != ids["c"] || !m.Dup {
			t.Errorf("PUBLISH of %s with id %d, DUP %v", m.Topic, m.ID, m.Dup)
		}
		if err := <-resent; err != nil {
			t.Errorf("Resend: %v", err)
		}
		p.ack(packet.PUBREC, ids["b"], 0)
		p.wantAck(packet.PUBREL, ids["b"])
		for _, topic := range []string{"b", "released"} {
			p.ack(packet.PUBCOMP, ids[topic], 0)
		}
		p.ack(packet.PUBACK, ids["c"], 0)
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("Flush: %v", err)
		}
	})
}

func TestUnacknowledgedMessagesAreNewToABrokerWithoutTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{Version: packet.V311}, packet.Connack{})
		for _, m := range []Message{{Topic: "released", QoS: 2}, {Topic: "a", QoS: 1}, {Topic: "b", QoS: 2}} {
			go c.Publish(t.Context(), m) // ends when the peer has read it
			if id := p.wantPublish().ID; m.Topic == "released" {
				p.ack(packet.PUBREC, id, 0)
				p.wantAck(packet.PUBREL, id)
			}
			synctest.Wait()
		}
		c, p = lost(t, c, p, packet.Connack{})
		go c.Resend(t.Context()) // ends when all is written
		for _, want := range []string{"a", "b"} {
			if m := p.wantPublish(); string(m.Topic) != want || m.Dup {
				t.Errorf("PUBLISH of %s, DUP %v; want %s without", m.Topic, m.Dup, want)
			}
		}
		synctest.Wait()
		if n := c.Unacknowledged(); n != 2 {
			t.Errorf("%d messages wait, want 2", n)
		}
	})
}

// [MQTT-4.3.3-10]: a QoS 2 message that comes again is not a second one.
func TestMessageOfQoS2IsReceivedOnceOverTwoConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{}, packet.Connack{})
		p.publish("given", 2, 1)
		p.publish("waits", 2, 2)
		p.publish("at QoS 0", 0, 0)
		synctest.Wait()
		if m, err := c.Receive(t.Context()); err != nil || m.Topic != "given" {
			t.Errorf("Receive: %q, %v", m.Topic, err)
		}
		c, p = lost(t, c, p, packet.Connack{SessionPresent: true})
		p.publish("given", 2, 1)
		p.wantAck(packet.PUBREC, 1)
		p.publish("waits", 2, 2)
		synctest.Wait()
		if m, err := c.Receive(t.Context()); err != nil || m.Topic != "at QoS 0" {
			t.Errorf("Receive: %q, %v", m.Topic, err)
		}
		if m, err := c.Receive(t.Context()); err != nil || m.Topic != "waits" {
			t.Errorf("Receive: %q, %v", m.Topic, err)
		}
	})
}

func TestMessageWhoseSessionIsGoneIsNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{}, packet.Connack{})
		p.publish("old", 1, 9)
		synctest.Wait()
		c, p = lost(t, c, p, packet.Connack{})
		if m, err := c.Receive(t.Context()); err != nil || m.Topic != "old" {
			t.Errorf("Receive: %q, %v", m.Topic, err)
		}
		go c.Close() // ends when the peer has read the packet
		p.want(packet.DISCONNECT)
		synctest.Wait()
	})
}

// MQTT5 §3.14.2.2.2: the Session Expiry Interval of a DISCONNECT replaces that of the CONNECT.
func TestCloseEndsASessionThatWasForReconnectingOnly(t *testing.T) {
	c, p, _ := start(t, Options{SessionExpiry: 60, EndSession: true}, packet.Connack{AssignedClientID: []byte("chosen")})
	if c.ClientID() != "chosen" {
		t.Errorf("client identifier %q, want that of the broker", c.ClientID())
	}
	go c.Close() // ends when the peer has read the packet
	d, err := packet.ParseDisconnect(p.want(packet.DISCONNECT), p.v)
	if err != nil || !d.HasSessionExpiry || d.SessionExpiry != 0 {
		t.Errorf("DISCONNECT %+v, %v", d, err)
	}
}
