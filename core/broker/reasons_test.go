package broker

import (
	"testing"

	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/packet"
)

// guarded is a broker where only "ok" may be used.
func guarded(t *testing.T) *bench {
	policy, err := access.New(access.Options{Anonymous: access.Rules{Publish: []string{"ok"}, Subscribe: []string{"ok"}}})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, func(o *Options) { o.Policy = policy })
}

// refusals provokes the answers of a refusing broker and returns the Reason String of each.
func refusals(t *testing.T, w *wire) map[packet.Type]string {
	t.Helper()
	got := map[packet.Type]string{}
	for qos, typ := range map[packet.QoS]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
		w.publish("denied", "x", qos, 1)
		a := w.acked(typ)
		if a.Code != packet.NotAuthorized {
			t.Errorf("%v: got %v, want 0x87", typ, a.Code)
		}
		got[typ] = string(a.Reason)
	}
	w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "ok"}, {Filter: "denied"}, {Filter: "a+"}}, w.v))
	s, err := packet.ParseSuback(w.expect(packet.SUBACK), w.v)
	if err != nil || s.Codes[1] != packet.NotAuthorized || s.Codes[2] != packet.TopicFilterInvalid {
		t.Errorf("SUBACK %v, %v", s.Codes, err)
	}
	got[packet.SUBACK] = string(s.Reason)
	w.write([]byte{0x30, 2, 0, 0}) // no topic, no properties
	_, body := w.closed()
	d, err := packet.ParseDisconnect(body, w.v)
	if err != nil || d.Code != packet.MalformedPacket {
		t.Errorf("DISCONNECT %v, %v", d.Code, err)
	}
	got[packet.DISCONNECT] = string(d.Reason)
	return got
}

func TestRefusalSaysWhy(t *testing.T) { // §3.4.2.2.2, §3.9.2.1.2, §3.14.2.2.3
	w, _ := guarded(t).connect(packet.V5, "c")
	for typ, why := range refusals(t, w) {
		if why == "" {
			t.Errorf("%v says nothing", typ)
		}
	}
}

func TestNothingIsExplainedToClientsThatDoNotAsk(t *testing.T) { // [MQTT-3.1.2-29]
	w, _ := guarded(t).connect(packet.V5, "c", func(c *packet.Connect) { c.RequestProblem = false })
	for typ, why := range refusals(t, w) {
		if why != "" {
			t.Errorf("%v says %q", typ, why)
		}
	}
}

// [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.9.2-1], [MQTT-3.14.2-3], and the code comes all the same
func TestReasonIsLeftOutWhereItWouldBeTooLarge(t *testing.T) {
	w, _ := guarded(t).connect(packet.V5, "c", func(c *packet.Connect) { c.MaximumPacketSize = 24 })
	for typ, why := range refusals(t, w) {
		if why != "" {
			t.Errorf("%v says %q", typ, why)
		}
	}
}

func TestRefusedConnectSaysWhy(t *testing.T) { // [MQTT-3.2.2-19]
	x := guarded(t)
	for _, tt := range []struct {
		name   string
		change func(*packet.Connect)
		says   bool
	}{
		{"with room", func(*packet.Connect) {}, true},
		{"without room", func(c *packet.Connect) { c.MaximumPacketSize = 20 }, false},
		{"not asked", func(c *packet.Connect) { c.RequestProblem = false }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, k := x.connect(packet.V5, "c", willOf("denied", 0), tt.change)
			if k.Code != packet.NotAuthorized || (len(k.Reason) > 0) != tt.says {
				t.Errorf("got %v with %q", k.Code, k.Reason)
			}
		})
	}
}

type nobody struct{}

func (nobody) Authenticate(_ auth.Request, done func(auth.Answer)) {
	done(auth.Answer{Err: auth.ErrBadCredentials})
}

func TestWrongPasswordIsNotExplained(t *testing.T) {
	_, k := start(t, func(o *Options) { o.Auth = nobody{} }).connect(packet.V5, "c")
	if k.Code != packet.BadUserNameOrPassword || k.Reason != nil {
		t.Errorf("got %v with %q", k.Code, k.Reason)
	}
}
