package mqtt

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/uplink/forward"
)

func TestAServerThatDoesNotSpeakMQTT5IsNamed(t *testing.T) {
	tests := []struct {
		name   string
		answer []byte
		want   func(error) bool
	}{
		{"3.1.1 return code", []byte{0x20, 2, 0, 1}, func(err error) bool { return errors.Is(err, ErrOldProtocol) }},
		{"3.1.1 return code with properties", []byte{0x20, 3, 0, 1, 0}, func(err error) bool { return errors.Is(err, ErrOldProtocol) }},
		{"3.1.1 success", []byte{0x20, 2, 0, 0}, func(err error) bool { return errors.Is(err, ErrOldProtocol) }},
		{"reason code", []byte{0x20, 3, 0, 0x84, 0}, func(err error) bool { return errors.Is(err, ErrOldProtocol) }},
		{"another reason", []byte{0x20, 3, 0, 0x87, 0}, func(err error) bool {
			refused, ok := errors.AsType[*RefusedError](err)
			return ok && refused.Code == 0x87
		}},
		{"silence", nil, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"QoS 0 only", []byte{0x20, 5, 0, 0, 2, 36, 0}, func(err error) bool { return errors.Is(err, ErrQoS0Only) }},
		{"an authentication that was not offered", []byte{0xF0, 2, 0x18, 0}, func(err error) bool { return err != nil }},
		{"another packet", []byte{0xD0, 0}, func(err error) bool { return err != nil }},
		{"a packet that claims 256 MB", []byte{0x20, 0xFF, 0xFF, 0xFF, 0x7F}, func(err error) bool { return err != nil }},
		{"a property length of 5 bytes", []byte{0x20, 8, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0}, func(err error) bool { return err != nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			end := serve(t, func(s *server) {
				s.want(packet.CONNECT)
				s.Write(tt.answer)
				if tt.answer != nil {
					s.drain()
				}
			})
			_, _, err := Dial(t.Context(), options(end), newLog())
			if !tt.want(err) {
				t.Errorf("Dial: %v", err)
			}
		})
	}
}

func TestConnackThatClaimsAuthenticationEndsTheConnection(t *testing.T) {
	end := serve(t, func(s *server) {
		s.connack(packet.Connack{AuthMethod: []byte("x")})
		s.drain()
	})
	l := newLog()
	c, _, err := Dial(t.Context(), options(end), l)
	if err == nil {
		get(t, l.lost)
		c.Close()
	}
}

func TestDialStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	end := serve(t, func(s *server) {
		s.want(packet.CONNECT)
		cancel()
		s.drain()
	})
	if _, _, err := Dial(ctx, options(end), newLog()); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
}

func TestSessionThatWasToEndIsNotContinued(t *testing.T) { // [MQTT-3.2.2-4]
	for _, present := range []bool{false, true} {
		end := serve(t, func(s *server) {
			c, err := packet.ParseConnect(s.want(packet.CONNECT))
			if err != nil || !c.CleanStart {
				s.t.Errorf("Clean Start %v, %v", c.CleanStart, err)
			}
			s.Write(packet.AppendConnack(nil, &packet.Connack{SessionPresent: present}, packet.V5))
			s.drain()
		})
		o := options(end)
		o.CleanStart = true
		c, _, err := Dial(t.Context(), o, newLog())
		if err == nil {
			c.Close()
		}
		if errors.Is(err, errSessionPresent) != present || !present && err != nil {
			t.Errorf("session present %v: %v", present, err)
		}
	}
}

// [MQTT-3.2.2-11], [MQTT-3.2.2-14], [MQTT-3.2.2-15], [MQTT-3.2.2-17]
func TestWhatTheServerAllowsIsObeyed(t *testing.T) {
	end := serve(t, func(s *server) {
		s.connack(packet.Connack{SessionPresent: true, ReceiveMaximum: 8, MaximumQoS: 1, HasMaximumQoS: true, RetainUnavailable: true, MaximumPacketSize: 100})
		p := s.wantPublish()
		if p.QoS != 1 || p.Retain || p.ID != 5 || p.Dup || p.HasTopicAlias { // no aliases are allowed [MQTT-3.2.2-18]
			s.t.Errorf("got %+v", p)
		}
		s.ack(packet.PUBACK, p.ID, 0)
		if p := s.wantPublish(); p.ID != 7 {
			s.t.Errorf("got id %d: the one that is too large was sent", p.ID)
		}
		s.publish(packet.Publish{Topic: []byte("end")})
		s.drain()
	})
	c, link, l := dialServer(t, options(end))
	if !link.SessionPresent || link.Window != 8 || c.MaxQoS() != 1 {
		t.Errorf("%+v, max qos %d", link, c.MaxQoS())
	}
	c.sendNow(t, forward.Message{Seq: 5 + 2*MaxSpan, QoS: 2, Body: &message.Message{Topic: "t", Retain: true}})
	if o := get(t, l.outcomes); o != (forward.Outcome{Seq: 5 + 2*MaxSpan, Verdict: forward.Accepted}) {
		t.Errorf("got %+v", o)
	}
	// Header 2, topic 3, identifier 2, property length 1, "spool-id" 20, payload.
	c.sendNow(t, forward.Message{Seq: 6, QoS: 1, Body: &message.Message{Topic: "t", Payload: make([]byte, 100-28+1)}})
	if o := get(t, l.outcomes); o != (forward.Outcome{Seq: 6, Verdict: forward.Refused, Code: 0x95}) {
		t.Errorf("got %+v", o)
	}
	c.sendNow(t, forward.Message{Seq: 7, QoS: 1, Body: &message.Message{Topic: "t", Payload: make([]byte, 100-28)}})
	get(t, l.incoming)
}

// [MQTT-3.1.2-20], [MQTT-3.1.2-21], [MQTT-3.2.2-21]: our own would come minutes later.
func TestTheKeepAliveOfTheServerIsKept(t *testing.T) {
	pinged := make(chan bool, 1)
	o := options(serve(t, func(s *server) {
		s.connack(packet.Connack{HasServerKeepAlive: true, ServerKeepAlive: 1})
		s.want(packet.PINGREQ)
		s.Write(packet.AppendPingresp(nil))
		pinged <- true
		s.drain()
	}))
	o.KeepAlive = 10 * time.Minute
	dialServer(t, o)
	get(t, pinged)
}

func TestReasonCodesBecomeVerdicts(t *testing.T) {
	tests := []struct {
		code packet.ReasonCode
		want forward.Verdict
	}{
		{packet.Success, forward.Accepted},
		{packet.NoMatchingSubscribers, forward.Accepted},
		{packet.NotAuthorized, forward.Refused},
		{packet.TopicNameInvalid, forward.Refused},
		{packet.PacketTooLarge, forward.Refused},
		{packet.PayloadFormatInvalid, forward.Refused},
		{packet.QuotaExceeded, forward.Later},
		{packet.MessageRateTooHigh, forward.Later},
		{packet.ServerBusy, forward.Later},
		{packet.UnspecifiedError, forward.Failed},
		{packet.ImplementationSpecificError, forward.Failed},
		{packet.PacketIDInUse, forward.Failed},
	}
	end := serve(t, func(s *server) {
		s.connack(packet.Connack{})
		for _, tt := range tests {
			s.ack(packet.PUBACK, s.wantPublish().ID, tt.code)
			if tt.code >= 0x80 {
				s.ack(packet.PUBREC, s.wantPublish().ID, tt.code)
			}
		}
		s.drain()
	})
	c, _, l := dialServer(t, options(end))
	seq := forward.Seq(0)
	for _, tt := range tests {
		for qos := byte(1); qos <= 2; qos++ {
			if qos == 2 && tt.code < 0x80 {
				continue
			}
			seq++
			c.sendNow(t, forward.Message{Seq: seq, QoS: qos})
			want := forward.Outcome{Seq: seq, Verdict: tt.want, Code: byte(tt.code)}
			if o := get(t, l.outcomes); o != want {
				t.Errorf("%v at QoS %d: got %+v, want %+v", tt.code, qos, o, want)
			}
		}
	}
}

func TestQoS2InItsSteps(t *testing.T) {
	end := serve(t, func(s *server) {
		s.connack(packet.Connack{SessionPresent: true})
		p := s.wantPublish()
		if !p.Dup || p.QoS != 2 {
			s.t.Errorf("got %+v", p)
		}
		s.ack(packet.PUBREC, p.ID, 0)
		if a := s.wantAck(packet.PUBREL); a.ID != p.ID {
			s.t.Errorf("PUBREL of %d, want %d", a.ID, p.ID)
		}
		s.ack(packet.PUBCOMP, p.ID, 0)
		// A release of an earlier connection, which the server has finished.
		s.ack(packet.PUBCOMP, s.wantAck(packet.PUBREL).ID, packet.PacketIDNotFound)
		// A PUBREC of nobody (MQTT5 §3.6.2.1), a PUBREL of nobody, a PUBACK of nobody.
		s.ack(packet.PUBREC, 999, 0)
		if a := s.wantAck(packet.PUBREL); a.ID != 999 || a.Code != packet.PacketIDNotFound {
			s.t.Errorf("got %+v", a)
		}
		s.ack(packet.PUBREL, 998, 0)
		if a := s.wantAck(packet.PUBCOMP); a.ID != 998 || a.Code != packet.PacketIDNotFound {
			s.t.Errorf("got %+v", a)
		}
		s.ack(packet.PUBACK, 997, 0)
		s.publish(packet.Publish{Topic: []byte("end")})
		s.drain()
	})
	c, _, l := dialServer(t, options(end))
	c.sendNow(t, forward.Message{Seq: 3, QoS: 2, Dup: true})
	if o := get(t, l.outcomes); o != (forward.Outcome{Seq: 3, Verdict: forward.Received}) {
		t.Errorf("got %+v", o)
	}
	for _, seq := range []forward.Seq{3, 2} {
		if err := errors.Join(c.Release(seq), c.Flush()); err != nil {
			t.Error(err)
		}
		if o := get(t, l.outcomes); o != (forward.Outcome{Seq: seq, Verdict: forward.Accepted}) {
			t.Errorf("got %+v", o)
		}
	}
	get(t, l.incoming)
}

func TestAServerThatBreaksTheProtocolIsLeft(t *testing.T) {
	tests := []struct {
		name string
		send []byte
	}{
		{"PUBACK for QoS 2", []byte{0x40, 2, 0, 1}},
		{"PUBCOMP without PUBREL", []byte{0x70, 2, 0, 1}},
		{"QoS 2 that was not asked for", []byte{0x34, 6, 0, 1, 'a', 0, 1, 0}},
		{"QoS 3", []byte{0x36, 6, 0, 1, 'a', 0, 1, 0}},
		{"packet id 0", []byte{0x32, 6, 0, 1, 'a', 0, 0, 0}},
		{"topic alias", []byte{0x32, 9, 0, 1, 'a', 0, 1, 3, 35, 0, 1}},
		{"topic alias at QoS 0", []byte{0x30, 7, 0, 1, 'a', 3, 35, 0, 1}},
		{"no topic", []byte{0x30, 3, 0, 0, 0}},
		{"SUBACK of nobody", []byte{0x90, 4, 0, 9, 0, 0}},
		{"reserved type", []byte{0x00, 0}},
		{"second CONNACK", []byte{0x20, 3, 0, 0, 0}},
		{"a packet that claims 200 MB", []byte{0x32, 0x80, 0x80, 0x80, 0x60}},
		{"remaining length of 5 bytes", []byte{0x32, 0xFF, 0xFF, 0xFF, 0xFF, 1}},
		{"property length of 5 bytes", []byte{0x32, 10, 0, 1, 'a', 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F}},
		{"property length of 5 bytes in PUBACK", []byte{0x40, 8, 0, 1, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F}},
		{"properties longer than the packet", []byte{0x32, 6, 0, 1, 'a', 0, 1, 0x30}},
		{"extended authentication", []byte{0xF0, 2, 0x18, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			end := serve(t, func(s *server) {
				s.connack(packet.Connack{})
				s.wantPublish()
				s.Write(tt.send)
				if tt.name == "properties longer than the packet" {
					return // the library takes it for an empty message; nothing is wrong but the server
				}
				s.drain()
			})
			c, _, l := dialServer(t, options(end))
			c.sendNow(t, forward.Message{Seq: 1, QoS: 2})
			if err := get(t, l.lost); err == nil {
				t.Error("lost without a reason")
			} else {
				t.Log(err)
			}
		})
	}
}

func TestAcksOfIncomingMessagesKeepTheirOrder(t *testing.T) { // [MQTT-4.6.0-2]
	end := serve(t, func(s *server) {
		s.connack(packet.Connack{})
		for id := packet.ID(1); id <= 3; id++ {
			s.publish(packet.Publish{Topic: []byte("t"), ID: id, QoS: 1, Payload: []byte{byte(id)}, Properties: []byte{38, 0, 1, 'k', 0, 1, 'v'}, Expiry: 9, HasExpiry: true})
		}
		for id := packet.ID(1); id <= 3; id++ {
			if a := s.wantAck(packet.PUBACK); a.ID != id {
				s.t.Errorf("PUBACK of %d, want %d", a.ID, id)
			}
		}
		s.publish(packet.Publish{Topic: []byte("t0"), Payload: []byte("x"), Retain: true})
		s.drain()
	})
	c, _, l := dialServer(t, options(end))
	var ids []uint16
	for range 3 {
		in := get(t, l.incoming)
		ids = append(ids, in.ID)
		m := in.Message
		if m.Topic != "t" || m.QoS != 1 || !m.HasExpiry || m.Expiry != 9 || string(m.Properties) != "\x26\x00\x01k\x00\x01v" {
			t.Errorf("got %+v", m)
		}
	}
	for _, i := range []int{2, 0, 1} {
		if err := errors.Join(c.Ack(ids[i]), c.Flush()); err != nil {
			t.Error(err)
		}
	}
	if in := get(t, l.incoming); in.ID != 0 || in.Message.Topic != "t0" || !in.Message.Retain {
		t.Errorf("got %+v", in)
	}
}

func TestAServerThatIgnoresTheReceiveMaximumIsHeldBack(t *testing.T) {
	o := options(serve(t, func(s *server) {
		s.connack(packet.Connack{})
		for id := packet.ID(1); id <= 2*tolerance+3; id++ {
			s.publish(packet.Publish{Topic: []byte("t"), ID: id, QoS: 1})
		}
		s.drain()
	}))
	o.ReceiveMaximum, o.Timeout = 2, time.Second
	c, _, l := dialServer(t, o)
	for range 2 * tolerance {
		get(t, l.incoming)
	}
	if len(l.incoming) > 0 {
		t.Error("more than may wait")
	}
	if err := errors.Join(c.Ack(1), c.Flush()); err != nil {
		t.Error(err)
	}
	get(t, l.incoming)
	// Nothing is acknowledged any more: the connection, which reads nothing, is given up.
	t.Log(get(t, l.lost))
}

func TestDisconnectOfTheServerIsReported(t *testing.T) {
	end := serve(t, func(s *server) {
		s.connack(packet.Connack{})
		s.Write(packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.SessionTakenOver, Reason: []byte("you\nagain")}, packet.V5))
		s.drain()
	})
	_, _, l := dialServer(t, options(end))
	err := get(t, l.lost)
	if e, ok := errors.AsType[*DisconnectedError](err); !ok || e.Code != TakenOver || e.Reason != "you again" {
		t.Errorf("lost: %v", err)
	}
}

func TestASubscriptionThatIsRefusedDoesNotEndTheConnection(t *testing.T) {
	o := options(serve(t, func(s *server) {
		s.connack(packet.Connack{})
		for range 2 {
			h, body, err := s.read()
			for err == nil && h.Type == packet.PINGREQ {
				h, body, err = s.read()
			}
			sub, err := packet.ParseSubscribe(body, packet.V5)
			if err != nil || h.Type != packet.SUBSCRIBE {
				s.t.Errorf("read %v, %v", h.Type, err)
				return
			}
			if sub.ID <= MaxSpan {
				s.t.Errorf("SUBSCRIBE has packet id %d, which is one of a message", sub.ID)
			}
			for _, o := range sub.Filters() {
				if !o.NoLocal || !o.RetainAsPublished || o.RetainHandling != 1 || o.QoS != 1 {
					s.t.Errorf("options %+v", o)
				}
			}
			s.Write(packet.AppendSuback(nil, &packet.Suback{ID: sub.ID, Codes: []packet.ReasonCode{packet.NotAuthorized}}, packet.V5))
		}
		s.wantPublish()
		s.publish(packet.Publish{Topic: []byte("end")})
		s.drain()
	}))
	o.Subscriptions = []Subscription{{"a/#", 1}, {"b/#", 1}}
	c, _, l := dialServer(t, o)
	get(t, l.subscribed)
	c.sendNow(t, forward.Message{Seq: 1, QoS: 1})
	get(t, l.incoming)
}

func TestSubackWithoutCodesIsAnError(t *testing.T) {
	o := options(serve(t, func(s *server) {
		s.connack(packet.Connack{})
		for {
			h, body, err := s.read()
			if err != nil {
				return
			}
			if h.Type == packet.SUBSCRIBE {
				s.Write([]byte{0x90, 3, body[0], body[1], 0})
			}
		}
	}))
	o.Subscriptions = []Subscription{{"a/#", 1}}
	_, _, l := dialServer(t, o)
	t.Log(get(t, l.lost))
}

// TestPacketsStayWholeWhoeverWrites has pings and a SUBSCRIBE amid bursts.
func TestPacketsStayWholeWhoeverWrites(t *testing.T) {
	const messages = 20000
	o := options(serve(t, func(s *server) {
		s.connack(packet.Connack{})
		next := packet.ID(1)
		for {
			h, body, err := s.read()
			if err != nil {
				return
			}
			switch h.Type {
			case packet.PINGREQ:
				s.Write(packet.AppendPingresp(nil))
			case packet.SUBSCRIBE:
				sub, err := packet.ParseSubscribe(body, packet.V5)
				if err != nil {
					s.t.Error(err)
				}
				s.Write(packet.AppendSuback(nil, &packet.Suback{ID: sub.ID, Codes: []packet.ReasonCode{0}}, packet.V5))
			case packet.PUBLISH:
				p, err := packet.ParsePublish(body, h.Flags, packet.V5)
				if err != nil || p.ID != next {
					s.t.Errorf("id %d, %v; want %d", p.ID, err, next)
				}
				next++
				s.ack(packet.PUBACK, p.ID, 0)
			}
		}
	}))
	c, _, l := dialServer(t, o)
	var writers sync.WaitGroup
	stop := make(chan struct{})
	writers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := packetPing.WriteTo(c.link); err != nil {
				t.Error(err)
				return
			}
			if i%50 == 0 {
				if err := c.subscribe(t.Context(), []Subscription{{"a/#", 1}}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	body := &message.Message{Topic: "some/topic", Payload: make([]byte, 100)}
	for i := forward.Seq(1); i <= messages; i++ {
		if err := c.Send(forward.Message{Seq: i, QoS: 1, Body: body}, 0); err != nil {
			t.Fatal(err)
		}
		if i%64 == 0 || i == messages {
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := forward.Seq(1); i <= messages; i++ {
		if o := get(t, l.outcomes); o.Seq != i || o.Verdict != forward.Accepted {
			t.Fatalf("got %+v, want %d", o, i)
		}
	}
	close(stop)
	writers.Wait()
}

func TestNoEventComesAfterClose(t *testing.T) {
	end := serve(t, func(s *server) {
		s.connack(packet.Connack{})
		s.wantPublish()
		s.drain()
	})
	c, _, l := dialServer(t, options(end))
	c.sendNow(t, forward.Message{Seq: 1, QoS: 1})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-l.lost:
		t.Errorf("lost after Close: %v", err)
	default:
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
