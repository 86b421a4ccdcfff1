package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dunlin/core/packet"
)

// peer is the broker's end of a connection, played by the test.
type peer struct {
	t  *testing.T
	v  packet.Version
	in frames
}

// start connects a client to a peer which has read the CONNECT and answered with a.
func start(t *testing.T, o Options, a packet.Connack) (*Client, *peer, packet.Connect) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	if o.Version == 0 {
		o.Version = packet.V5
	}
	p := &peer{t: t, v: o.Version, in: frames{conn: theirs}}
	var connect_ packet.Connect
	answered := make(chan struct{})
	go func() { // ends with its two packets; the test waits for it below
		defer close(answered)
		body := p.want(packet.CONNECT)
		connect_, _ = packet.ParseConnect(append([]byte(nil), body...))
		p.send(packet.AppendConnack(nil, &a, p.v))
	}()
	c, err := connect(t.Context(), ours, o)
	<-answered
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		theirs.Close()
		c.Close()
	})
	return c, p, connect_
}

// want reads a packet and returns its body, or fails the test if it is of another type.
func (p *peer) want(want packet.Type) []byte {
	p.t.Helper()
	h, body, err := p.in.next()
	if err != nil || h.Type != want {
		p.t.Errorf("the client sent %v (%v), want %v", h.Type, err, want)
	}
	return body
}

func (p *peer) wantPublish() packet.Publish {
	p.t.Helper()
	h, body, err := p.in.next()
	if err != nil {
		p.t.Errorf("no PUBLISH: %v", err)
	}
	m, err := packet.ParsePublish(append([]byte(nil), body...), h.Flags, p.v)
	if h.Type != packet.PUBLISH || err != nil {
		p.t.Errorf("the client sent %v, %v", h.Type, err)
	}
	return m
}

func (p *peer) wantAck(want packet.Type, id packet.ID) {
	p.t.Helper()
	a, err := packet.ParseAck(want, p.want(want), p.v)
	if err != nil || a.ID != id {
		p.t.Errorf("%v of id %d (%v), want id %d", want, a.ID, err, id)
	}
}

func (p *peer) send(b []byte) {
	p.t.Helper()
	if _, err := p.in.conn.Write(b); err != nil {
		p.t.Errorf("sending to the client: %v", err)
	}
}

func (p *peer) ack(t packet.Type, id packet.ID, code packet.ReasonCode) {
	p.t.Helper()
	p.send(packet.AppendAck(nil, &packet.Ack{Type: t, ID: id, Code: code}, p.v))
}

func (p *peer) publish(topic string, qos packet.QoS, id packet.ID) {
	p.t.Helper()
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), QoS: qos, ID: id}, p.v)
	p.send(b)
}

func TestConnectCarriesTheOptions(t *testing.T) {
	user, password := "u", "p"
	c, p, got := start(t, Options{
		ClientID: "me", CleanStart: true, SessionExpiry: 60, KeepAlive: 30, Username: &user, Password: &password,
		Will: &Message{Topic: "w", Payload: []byte("gone"), QoS: 1, Retain: true},
	}, packet.Connack{SessionPresent: true})
	if string(got.ClientID) != "me" || !got.CleanStart || got.SessionExpiry != 60 || got.KeepAlive != 30 ||
		string(got.Username) != "u" || string(got.Password) != "p" || got.ReceiveMaximum != maxWindow {
		t.Errorf("CONNECT %+v", got)
	}
	if w := got.Will; string(w.Topic) != "w" || string(w.Payload) != "gone" || w.QoS != 1 || !w.Retain {
		t.Errorf("will %+v", w)
	}
	if !c.SessionPresent() {
		t.Error("session present is lost")
	}
	closed := make(chan error)
	go func() { closed <- c.Close() }() // ends when the peer has read its DISCONNECT
	p.want(packet.DISCONNECT)
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestRefusedConnectionIsSaidInWords(t *testing.T) {
	for _, tt := range []struct {
		name   string
		v      packet.Version
		answer []byte
		want   string
	}{
		{"5.0 with a reason", packet.V5, packet.AppendConnack(nil, &packet.Connack{Code: packet.NotAuthorized, Reason: []byte("ask Bob")}, packet.V5), `the broker refused the connection: Not authorized (0x87): "ask Bob"`},
		{"5.0 with another server", packet.V5, packet.AppendConnack(nil, &packet.Connack{Code: packet.UseAnotherServer, ServerReference: []byte("b:1883")}, packet.V5), `the broker refused the connection: Use another server (0x9C); it names "b:1883"`},
		{"3.1.1", packet.V311, []byte{0x20, 2, 0, 4}, `the broker refused the connection: Bad User Name or Password (0x86)`},
		{"5.0 to a broker of 3.1.1", packet.V5, []byte{0x20, 2, 0, 1}, `the broker refused the connection: Unsupported Protocol Version (0x84)`},
		{"no CONNACK", packet.V5, []byte{0xd0, 0}, `the broker answered with PINGRESP instead of CONNACK`},
		{"no MQTT", packet.V5, []byte("HTTP/1.1 400 Bad Request\r\n"), `the broker sent what is no MQTT: reserved flags of the fixed header (reason code 0x81)`},
		{"nothing", packet.V5, nil, `the broker closed the connection before it answered: EOF`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			p := &peer{t: t, v: tt.v, in: frames{conn: theirs}}
			go func() { // ends with the connection, which connect closes
				p.want(packet.CONNECT)
				theirs.Write(tt.answer)
				theirs.Close()
			}()
			c, err := connect(t.Context(), ours, Options{Version: tt.v})
			if err == nil {
				c.Close()
			}
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestBrokerThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		p := &peer{t: t, v: packet.V5, in: frames{conn: theirs}}
		ctx, cancel := context.WithTimeoutCause(t.Context(), answerTimeout, errors.New("no answer in time"))
		defer cancel()
		go p.want(packet.CONNECT) // ends with its one packet
		_, err := connect(ctx, ours, Options{Address: "pipe", Version: packet.V5})
		if err == nil || err.Error() != "pipe does not answer as an MQTT broker does: no answer in time" {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
	})
}

func TestPublishWaitsForTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{}, packet.Connack{ReceiveMaximum: 2})
		published := 0
		finished := make(chan error)
		go func() { // ends when the peer has acknowledged all
			for i := range 3 {
				if err := c.Publish(t.Context(), Message{Topic: fmt.Sprint("t", i), QoS: 1}); err != nil {
					finished <- err
					return
				}
				published++
			}
			finished <- c.Flush(t.Context())
		}()
		first := p.wantPublish()
		second := p.wantPublish()
		synctest.Wait()
		if published != 2 {
			t.Fatalf("%d published with a Receive Maximum of 2", published)
		}
		p.ack(packet.PUBACK, second.ID, 0)
		third := p.wantPublish()
		if string(third.Topic) != "t2" || third.ID == first.ID {
			t.Errorf("third: topic %s id %d, the first has id %d", third.Topic, third.ID, first.ID)
		}
		p.ack(packet.PUBACK, third.ID, 0)
		synctest.Wait()
		if n := c.Unacknowledged(); n != 1 {
			t.Errorf("%d unacknowledged, want 1", n)
		}
		p.ack(packet.PUBACK, first.ID, packet.NoMatchingSubscribers)
		if err := <-finished; err != nil {
			t.Errorf("Flush: %v", err)
		}
	})
}

func TestPublishAtQoS2TakesBothSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{Version: packet.V311}, packet.Connack{})
		go c.Publish(t.Context(), Message{Topic: "t", QoS: 2}) // ends when the peer has read it
		m := p.wantPublish()
		p.ack(packet.PUBREC, m.ID, 0)
		p.wantAck(packet.PUBREL, m.ID)
		synctest.Wait()
		if n := c.Unacknowledged(); n != 1 {
			t.Errorf("%d unacknowledged before PUBCOMP, want 1", n)
		}
		p.ack(packet.PUBCOMP, m.ID, 0)
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("Flush: %v", err)
		}
	})
}

func TestRefusedMessageIsReportedByFlush(t *testing.T) {
	for _, tt := range []struct {
		qos packet.QoS
		ack packet.Type
	}{{1, packet.PUBACK}, {2, packet.PUBREC}} {
		c, p, _ := start(t, Options{}, packet.Connack{})
		go c.Publish(t.Context(), Message{Topic: "a/b", QoS: tt.qos}) // ends when the peer has read it
		m := p.wantPublish()
		p.ack(tt.ack, m.ID, packet.QuotaExceeded)
		err := c.Flush(t.Context())
		refused, ok := errors.AsType[*Refused](err)
		if !ok || refused.Code != packet.QuotaExceeded || err.Error() != "the broker refused the message to a/b: Quota exceeded (0x97)" {
			t.Errorf("QoS %d: %v", tt.qos, err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("QoS %d, second Flush: %v", tt.qos, err)
		}
	}
}

func TestWhatTheBrokerCannotTakeIsNotSent(t *testing.T) {
	c, _, _ := start(t, Options{}, packet.Connack{MaximumPacketSize: 20, HasMaximumQoS: true, MaximumQoS: 1, RetainUnavailable: true})
	for want, m := range map[string]Message{
		"the message to t makes a packet of 106 bytes, the broker takes 20": {Topic: "t", Payload: make([]byte, 100)},
		"the broker takes messages up to QoS 1":                             {Topic: "t", QoS: 2},
		"the broker keeps no retained messages":                             {Topic: "t", Retain: true},
	} {
		if err := c.Publish(t.Context(), m); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestMessageIsAcknowledgedWhenTheNextIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{}, packet.Connack{})
		p.publish("one", 1, 11)
		p.publish("two", 2, 12)
		p.publish("two", 2, 12) // once more: QoS 2 counts it once
		p.publish("three", 0, 0)
		for _, want := range []string{"one", "two", "three"} {
			got := make(chan Message)
			go func() { // ends when the peer has read the acknowledgement
				m, err := c.Receive(t.Context())
				if err != nil {
					t.Errorf("Receive: %v", err)
				}
				got <- m
			}()
			switch want {
			case "two":
				p.wantAck(packet.PUBACK, 11)
			case "three":
				p.wantAck(packet.PUBREC, 12)
			}
			if m := <-got; m.Topic != want {
				t.Errorf("got %s, want %s", m.Topic, want)
			}
		}
		p.publish("two", 2, 12) // the broker has not seen the PUBREC
		p.wantAck(packet.PUBREC, 12)
		p.ack(packet.PUBREL, 12, 0)
		p.wantAck(packet.PUBCOMP, 12)
		synctest.Wait()
		if n := c.Waiting(); n != 0 {
			t.Errorf("%d messages wait, want none", n)
		}
	})
}

func TestCloseAcknowledgesTheLastMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{}, packet.Connack{})
		p.publish("one", 1, 7)
		if _, err := c.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		go c.Close() // ends when the peer has read both packets
		p.wantAck(packet.PUBACK, 7)
		p.want(packet.DISCONNECT)
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := c.Publish(t.Context(), Message{Topic: "x"}); !errors.Is(err, ErrClosed) {
			t.Errorf("Publish after Close: %v", err)
		}
	})
}

func TestSubscribeAnswersForEachFilter(t *testing.T) {
	c, p, _ := start(t, Options{}, packet.Connack{})
	go func() { // ends with its packets
		s, err := packet.ParseSubscribe(append([]byte(nil), p.want(packet.SUBSCRIBE)...), p.v)
		if err != nil {
			t.Errorf("SUBSCRIBE: %v", err)
		}
		p.publish("early", 0, 0) // a message may overtake the answer
		p.send(packet.AppendSuback(nil, &packet.Suback{ID: s.ID, Codes: []packet.ReasonCode{packet.GrantedQoS1, packet.NotAuthorized}, Reason: []byte("not b")}, p.v))
	}()
	codes, reason, err := c.Subscribe(t.Context(), 0, []packet.Subscription{{Filter: "a"}, {Filter: "b"}})
	if err != nil || len(codes) != 2 || codes[0] != packet.GrantedQoS1 || codes[1] != packet.NotAuthorized || reason != "not b" {
		t.Errorf("Subscribe: %v, %q, %v", codes, reason, err)
	}
	if m, err := c.Receive(t.Context()); err != nil || m.Topic != "early" {
		t.Errorf("Receive: %v, %v", m, err)
	}
}

func TestReaderStopsReadingWhenTheInboxIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{KeepAlive: 10}, packet.Connack{})
		sent := 0
		go func() { // ends when the client reads no more
			b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t")}, p.v)
			for range maxInbox + 10 {
				if _, err := p.in.conn.Write(b); err != nil {
					return
				}
				sent++
			}
		}()
		synctest.Wait()
		if sent != maxInbox {
			t.Fatalf("%d messages were read, want %d", sent, maxInbox)
		}
		for range 3 { // the broker hears of the client all the same
			p.want(packet.PINGREQ)
		}
		if _, err := c.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if sent != maxInbox+1 {
			t.Errorf("%d messages were read after one was taken, want %d", sent, maxInbox+1)
		}
	})
}

func TestPingKeepsTheConnectionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, _ := start(t, Options{KeepAlive: 60}, packet.Connack{})
		began := time.Now()
		for range 3 {
			p.want(packet.PINGREQ)
			p.send(packet.AppendPingresp(nil))
		}
		if d := time.Since(began); d != 90*time.Second {
			t.Errorf("three pings in %v, want 90s", d)
		}
		// A flood to the client is no sign of life from it.
		stop := time.Now().Add(time.Minute)
		go func() { // ends after a minute
			for time.Now().Before(stop) {
				p.publish("t", 0, 0)
				time.Sleep(time.Second)
			}
		}()
		p.want(packet.PINGREQ)
		<-c.Done() // no answer to that one
		_, _, err := c.Subscribe(t.Context(), 0, []packet.Subscription{{Filter: "a"}})
		if err == nil || err.Error() != "the connection is lost: the broker does not answer any more" {
			t.Errorf("got %v", err)
		}
	})
}

func TestServerKeepAliveCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _ := start(t, Options{KeepAlive: 600}, packet.Connack{HasServerKeepAlive: true, ServerKeepAlive: 20})
		began := time.Now()
		p.want(packet.PINGREQ)
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("ping after %v, want 10s", d)
		}
	})
}

func TestReasonOfTheBrokerIsTold(t *testing.T) {
	c, p, _ := start(t, Options{}, packet.Connack{})
	go func() { // ends with the connection
		p.send(packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.SessionTakenOver}, p.v))
		p.in.conn.Close()
	}()
	_, err := c.Receive(t.Context())
	if err == nil || err.Error() != "the broker ended the connection: Session taken over (0x8E)" {
		t.Errorf("Receive: %v", err)
	}
	if err := c.Publish(t.Context(), Message{Topic: "t"}); err == nil || !strings.Contains(err.Error(), "Session taken over") {
		t.Errorf("Publish: %v", err)
	}
}

func TestWrongPacketsEndTheConnection(t *testing.T) {
	for name, b := range map[string][]byte{
		"flags":           {0x61, 2, 0, 1},
		"for brokers":     {0x82, 8, 0, 1, 0, 0, 2, 'a', 'b', 0},
		"short SUBACK":    {0x90, 1, 0},
		"length too long": {0x30, 0xff, 0xff, 0xff, 0xff, 0xff},
		"topic":           {0x30, 4, 0, 1, '#', 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, p, _ := start(t, Options{}, packet.Connack{})
			go p.in.conn.Write(b) // ends when it is read
			_, err := c.Receive(t.Context())
			if err == nil || !strings.HasPrefix(err.Error(), "the connection is lost: the broker sent ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPacketsAreCutOutOfAnySplit(t *testing.T) {
	var all []byte
	for i := range 50 {
		all, _ = packet.AppendPublish(all, &packet.Publish{Topic: []byte("t"), Payload: make([]byte, i*i)}, packet.V5)
	}
	for _, step := range []int{1, 7, 4096, len(all)} {
		ours, theirs := net.Pipe()
		go func() { // ends when everything is read
			for b := all; len(b) > 0; b = b[min(step, len(b)):] {
				theirs.Write(b[:min(step, len(b))])
			}
			theirs.Close()
		}()
		in := frames{conn: ours}
		for i := range 50 {
			h, body, err := in.next()
			if err != nil {
				t.Fatalf("step %d, packet %d: %v", step, i, err)
			}
			p, err := packet.ParsePublish(body, h.Flags, packet.V5)
			if err != nil || len(p.Payload) != i*i {
				t.Fatalf("step %d, packet %d: %d bytes, %v", step, i, len(p.Payload), err)
			}
		}
		if _, _, err := in.next(); err == nil || len(in.rest()) != 0 {
			t.Errorf("step %d: %v and %d bytes at the end", step, err, len(in.rest()))
		}
	}
}

func TestUnsubscribeAnswersForEachFilter(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		c, p, _ := start(t, Options{Version: v}, packet.Connack{})
		go func() { // ends with its packets
			u, err := packet.ParseUnsubscribe(append([]byte(nil), p.want(packet.UNSUBSCRIBE)...), v)
			if err != nil {
				t.Errorf("UNSUBSCRIBE: %v", err)
			}
			p.send(packet.AppendUnsuback(nil, &packet.Suback{ID: u.ID, Codes: []packet.ReasonCode{packet.Success, packet.NotAuthorized}}, v))
		}()
		codes, _, err := c.Unsubscribe(t.Context(), []string{"a", "b"})
		if err != nil || v == packet.V5 && (len(codes) != 2 || codes[1] != packet.NotAuthorized) {
			t.Errorf("version %d: %v, %v", v, codes, err)
		}
	}
}

func TestTopicIsSentOnceWithAnAlias(t *testing.T) {
	c, p, _ := start(t, Options{}, packet.Connack{TopicAliasMaximum: 3})
	go func() { // ends when the peer has read all
		for _, topic := range []string{"a", "a", "b", "b"} {
			if err := c.Publish(t.Context(), Message{Topic: topic, TopicAlias: 3}); err != nil {
				t.Errorf("Publish: %v", err)
			}
		}
	}()
	for i, want := range []string{"a", "", "b", ""} {
		if m := p.wantPublish(); string(m.Topic) != want || m.TopicAlias != 3 {
			t.Errorf("message %d: topic %q with alias %d, want %q with 3", i, m.Topic, m.TopicAlias, want)
		}
	}
	if err := c.Publish(t.Context(), Message{Topic: "a", TopicAlias: 4}); err == nil || err.Error() != "the broker takes no topic alias above 3" {
		t.Errorf("alias 4: %v", err)
	}
}

// [MQTT-3.1.2-26]: the broker sends no alias above the maximum that we tell it.
func TestAliasesOfTheBrokerAreUnderstood(t *testing.T) {
	for _, tt := range []struct {
		name   string
		first  uint16
		second uint16
		want   string // error; "" = both messages come
	}{
		{"known", 2, 2, ""},
		{"unknown", 2, 1, "the broker sent the topic alias 1 and never said what it stands for"},
		{"too large", 2, 3, "the broker sent the topic alias 3, it was told a maximum of 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p, connect := start(t, Options{TopicAliasMaximum: 2}, packet.Connack{})
			if connect.TopicAliasMaximum != 2 {
				t.Errorf("CONNECT has a topic alias maximum of %d", connect.TopicAliasMaximum)
			}
			go func() { // ends with its packets
				b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), TopicAlias: tt.first}, p.v)
				b, _ = packet.AppendPublish(b, &packet.Publish{TopicAlias: tt.second}, p.v)
				p.send(b)
			}()
			if m, err := c.Receive(t.Context()); err != nil || m.Topic != "a" {
				t.Errorf("first: %q, %v", m.Topic, err)
			}
			m, err := c.Receive(t.Context())
			if tt.want == "" && (err != nil || m.Topic != "a") {
				t.Errorf("second: %q, %v", m.Topic, err)
			}
			if tt.want != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.want)) {
				t.Errorf("second: %v, want %s", err, tt.want)
			}
		})
	}
}

// [MQTT-3.1.2-24]: the broker sends no packet above the size that we tell it.
func TestPacketAboveTheMaximumSizeEndsTheConnection(t *testing.T) {
	c, p, connect := start(t, Options{MaximumPacketSize: 50}, packet.Connack{})
	if connect.MaximumPacketSize != 50 {
		t.Errorf("CONNECT has a maximum packet size of %d", connect.MaximumPacketSize)
	}
	go func() { // ends when the client has read so much
		for _, n := range []int{50 - 6, 50 - 5} {
			b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), Payload: make([]byte, n)}, p.v)
			p.in.conn.Write(b)
		}
	}()
	if _, err := c.Receive(t.Context()); err != nil {
		t.Errorf("a packet of 50 bytes: %v", err)
	}
	_, err := c.Receive(t.Context())
	if err == nil || err.Error() != "the connection is lost: the broker sent a packet of 51 bytes, more than the 50 it was told" {
		t.Errorf("a packet of 51 bytes: %v", err)
	}
}
