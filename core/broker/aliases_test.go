package broker

import (
	"fmt"
	"strings"
	"testing"

	"dunlin/core/access"
	"dunlin/core/packet"
)

// aliased is a PUBLISH at QoS 0 with a topic alias, 0 included.
func aliased(topic string, alias uint16, payload string) []byte {
	body := []byte{byte(len(topic) >> 8), byte(len(topic))}
	body = append(body, topic...)
	body = append(body, 3, 0x23, byte(alias>>8), byte(alias))
	body = append(body, payload...)
	frame := []byte{0x30}
	for n := len(body); ; {
		x := byte(n & 0x7F)
		if n >>= 7; n == 0 {
			frame = append(frame, x)
			break
		}
		frame = append(frame, x|0x80)
	}
	return append(frame, body...)
}

func (w *wire) gets(topic, payload string) packet.Publish {
	w.t.Helper()
	m := w.message()
	if string(m.Topic) != topic || string(m.Payload) != payload {
		w.t.Fatalf("got %q with %q, want %q with %q", m.Topic, m.Payload, topic, payload)
	}
	return m
}

func TestTopicAliasStandsForTheTopicItCameWith(t *testing.T) { // [MQTT-3.3.2-12], [MQTT-3.2.2-17]
	x := start(t)
	s, _ := x.connect(packet.V5, "s")
	s.subscribe("#", 0)
	w, k := x.connect(packet.V5, "c")
	if k.TopicAliasMaximum != 16 {
		t.Fatalf("topic alias maximum is %d, want the default of 16", k.TopicAliasMaximum)
	}
	w.write(aliased("a/b", 16, "1"))
	w.write(aliased("", 16, "2"))
	w.write(aliased("c/d", 1, "3"))
	w.write(aliased("", 16, "4"))
	w.write(aliased("e/f", 16, "5")) // it may be given anew
	w.write(aliased("", 16, "6"))
	w.write(aliased("", 1, "7"))
	for i, topic := range strings.Fields("a/b a/b c/d a/b e/f e/f c/d") {
		if m := s.gets(topic, fmt.Sprint(i+1)); m.HasTopicAlias {
			t.Error("a client that takes no aliases got one") // [MQTT-3.1.2-27], [MQTT-3.3.2-11]
		}
	}
}

func TestTopicAliasThatWasNotOfferedIsRefused(t *testing.T) { // [MQTT-3.3.2-9], §3.3.2.3.4
	for _, tt := range []struct {
		name  string
		max   int
		topic string
		alias uint16
		code  packet.ReasonCode
	}{
		{"0", 16, "a", 0, packet.TopicAliasInvalid},
		{"above the maximum", 16, "a", 17, packet.TopicAliasInvalid},
		{"where there are none", -1, "a", 1, packet.TopicAliasInvalid},
		{"without a topic yet", 16, "", 3, packet.ProtocolError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, func(o *Options) { o.Limits.TopicAliases = tt.max })
			w, k := x.connect(packet.V5, "c")
			if int(k.TopicAliasMaximum) != max(tt.max, 0) {
				t.Fatalf("topic alias maximum is %d", k.TopicAliasMaximum)
			}
			if tt.max > 0 {
				w.write(aliased("b", 4, "x"))
			}
			w.write(aliased(tt.topic, tt.alias, "x"))
			if code := w.disconnected(); code != tt.code {
				t.Errorf("got %v, want %v", code, tt.code)
			}
		})
	}
}

func TestTopicAliasesEndWithTheConnection(t *testing.T) { // [MQTT-3.3.2-7]
	x := start(t)
	w, _ := x.connect(packet.V5, "c", lasting)
	w.write(aliased("a", 1, "x"))
	w.nothing()
	x.away(w, "c")
	w, k := x.connect(packet.V5, "c", lasting)
	if !k.SessionPresent {
		t.Fatal("no session")
	}
	w.write(aliased("", 1, "x"))
	if code := w.disconnected(); code != packet.ProtocolError {
		t.Errorf("got %v, want 0x82", code)
	}
}

func TestTopicAliasIsKnownThoughItsFirstMessageWasRefused(t *testing.T) {
	policy, err := access.New(access.Options{Anonymous: access.Rules{Publish: []string{"mine"}}})
	if err != nil {
		t.Fatal(err)
	}
	w, _ := start(t, func(o *Options) { o.Policy, o.Limits.MaxTopic = policy, 20 }).connect(packet.V5, "c")
	w.write(aliased("theirs", 1, "x"))
	w.write(aliased("", 1, "x"))
	w.write(aliased(strings.Repeat("x", 1000), 2, "x"))
	for i := range packet.ID(2) {
		b, at := packet.AppendPublish(nil, &packet.Publish{TopicAlias: uint16(i + 1), QoS: 1, ID: 1}, packet.V5)
		b[at+1] = 1
		w.write(b)
		want := []packet.ReasonCode{packet.NotAuthorized, packet.TopicNameInvalid}[i]
		if a := w.acked(packet.PUBACK); a.Code != want {
			t.Errorf("alias %d: got %v, want %v", i+1, a.Code, want)
		}
	}
}

// takes lets the broker use aliases.
func takes(n uint16) func(*packet.Connect) {
	return func(c *packet.Connect) { c.TopicAliasMaximum = n }
}

func (w *wire) getsAlias(topic string, alias uint16, payload string) {
	w.t.Helper()
	if m := w.gets(topic, payload); m.TopicAlias != alias {
		w.t.Fatalf("%q came with alias %d, want %d", payload, m.TopicAlias, alias)
	}
}

func TestClientGetsAliasesUpToItsMaximum(t *testing.T) { // [MQTT-3.1.2-26], [MQTT-3.3.2-8]
	for qos := packet.QoS(0); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			x := start(t)
			s, _ := x.connect(packet.V5, "s", takes(2))
			plain, _ := x.connect(packet.V5, "plain")
			s.subscribe("#", 0)
			plain.subscribe("#", 0)
			p, _ := x.connect(packet.V5, "p")
			topics := []string{"plant/a", "plant/b", "plant/c", "plant/a", "plant/b", "plant/c", "a"}
			for i, topic := range topics {
				p.publish(topic, fmt.Sprint(i), qos, packet.ID(i+1))
			}
			s.getsAlias("plant/a", 1, "0")
			s.getsAlias("plant/b", 2, "1")
			s.getsAlias("plant/c", 0, "2")
			s.getsAlias("", 1, "3")
			s.getsAlias("", 2, "4")
			s.getsAlias("plant/c", 0, "5")
			s.getsAlias("a", 0, "6") // shorter than an alias
			for i, topic := range topics {
				plain.getsAlias(topic, 0, fmt.Sprint(i))
			}
		})
	}
}

func TestNoMoreAliasesAreGivenThanConfigured(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.TopicAliases = 1 })
	s, _ := x.connect(packet.V5, "s", takes(65535))
	s.subscribe("#", 0)
	for range 2 {
		s.publish("plant/a", "", 0, 0)
		s.publish("plant/b", "", 0, 0)
	}
	s.getsAlias("plant/a", 1, "")
	s.getsAlias("plant/b", 0, "")
	s.getsAlias("", 1, "")
	s.getsAlias("plant/b", 0, "")
}

func TestResentMessageHasItsWholeTopic(t *testing.T) { // §3.3.2.3.4: an alias lasts for one connection
	x := start(t)
	both := func(c *packet.Connect) { lasting(c); takes(5)(c) }
	s, _ := x.connect(packet.V5, "s", both)
	s.subscribe("#", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 3 {
		p.publish("plant/a", fmt.Sprint(i), 1, packet.ID(i+1))
		p.expect(packet.PUBACK)
	}
	s.getsAlias("plant/a", 1, "0")
	s.getsAlias("", 1, "1")
	s.getsAlias("", 1, "2")
	x.away(s, "s")
	s, _ = x.connect(packet.V5, "s", both)
	s.getsAlias("plant/a", 1, "0")
	s.getsAlias("", 1, "1")
	x.away(s, "s")
	s, _ = x.connect(packet.V5, "s", lasting) // and now takes none
	for i := range 3 {
		s.getsAlias("plant/a", 0, fmt.Sprint(i))
	}
}

func TestAliasIsNotTakenForGivenIfItsMessageWasTooLarge(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V5, "s", takes(5), func(c *packet.Connect) { c.MaximumPacketSize = 40 })
	s.subscribe("#", 0)
	p, _ := x.connect(packet.V5, "p")
	p.publish("plant/a", strings.Repeat("x", 40), 0, 0) // dropped
	exact := strings.Repeat("x", 40-2-9-1)              // fits without the property of an alias
	p.publish("plant/a", exact, 0, 0)
	p.publish("plant/a", "small", 0, 0)
	p.publish("plant/a", exact, 0, 0)
	s.getsAlias("plant/a", 0, exact)
	s.getsAlias("plant/a", 1, "small")
	s.getsAlias("", 1, exact)
}

func TestLargeMessageIsEncodedOnceWhoeverTakesAliases(t *testing.T) {
	x := start(t)
	s, _ := x.connect(packet.V5, "s", takes(5))
	s.subscribe("#", 0)
	large := strings.Repeat("x", maxAliased+1)
	s.publish("plant/a", large, 0, 0)
	s.getsAlias("plant/a", 0, large)
}
