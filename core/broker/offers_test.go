package broker

import (
	"fmt"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// little is a broker that offers as little as the specification lets it.
func little(o *Options) {
	o.Limits.HasMaxQoS, o.Limits.MaxQoS = true, 1
	o.Limits.NoRetain, o.Limits.NoWildcards, o.Limits.NoSubscriptionIDs, o.Limits.NoShared = true, true, true, true
}

func TestConnackSaysWhatIsNotOffered(t *testing.T) { // [MQTT-3.2.2-9], §3.2.2.3
	_, k := start(t, little).connect(packet.V5, "c")
	if !k.HasMaximumQoS || k.MaximumQoS != 1 || !k.RetainUnavailable || !k.WildcardUnavailable || !k.SubIDUnavailable || !k.SharedUnavailable {
		t.Errorf("CONNACK of a broker that offers little: %+v", k)
	}
	_, k = start(t, func(o *Options) { o.Limits.HasMaxQoS = true }).connect(packet.V5, "c")
	if !k.HasMaximumQoS || k.MaximumQoS != 0 {
		t.Errorf("CONNACK of a broker of QoS 0: %+v", k)
	}
	_, k = start(t).connect(packet.V5, "c")
	if k.HasMaximumQoS || k.RetainUnavailable || k.WildcardUnavailable || k.SubIDUnavailable || k.SharedUnavailable {
		t.Errorf("CONNACK of a broker that offers everything: %+v", k)
	}
}

func TestWhatIsNotOfferedIsRefused(t *testing.T) {
	sub := func(id uint32, filter string) func(v packet.Version) []byte {
		return func(v packet.Version) []byte {
			return packet.AppendSubscribe(nil, 1, id, []packet.Subscription{{Filter: "a"}, {Filter: filter}}, v)
		}
	}
	pub := func(p packet.Publish) func(v packet.Version) []byte {
		return func(v packet.Version) []byte {
			b, _ := packet.AppendPublish(nil, &p, v)
			return b
		}
	}
	for _, tt := range []struct {
		name string
		what func(v packet.Version) []byte
		code packet.ReasonCode
		old  bool // 3.1.1 is closed, too
	}{
		{"QoS above the maximum", pub(packet.Publish{Topic: []byte("a"), QoS: 2, ID: 1}), packet.QoSNotSupported, true}, // §3.2.2.3.4
		{"retain", pub(packet.Publish{Topic: []byte("a"), Retain: true}), packet.RetainNotSupported, true},              // §3.2.2.3.5
		{"wildcard +", sub(0, "b/+"), packet.WildcardNotSupported, false},                                               // §3.2.2.3.11
		{"wildcard #", sub(0, "#"), packet.WildcardNotSupported, false},
		{"subscription identifier", sub(7, "b"), packet.SubIDNotSupported, false},       // §3.2.2.3.12
		{"shared subscription", sub(0, "$share/g/b"), packet.SharedNotSupported, false}, // §3.2.2.3.13
		{"queue", sub(0, "$queue/b"), packet.SharedNotSupported, false},
		{"malformed shared subscription", sub(0, "$share/g"), packet.SharedNotSupported, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, little)
			w, _ := x.connect(packet.V5, "c")
			w.write(tt.what(packet.V5))
			if code := w.disconnected(); code != tt.code {
				t.Errorf("got %v, want %v", code, tt.code)
			}
			if tt.old {
				w, _ := x.connect(packet.V311, "c")
				w.write(tt.what(packet.V311))
				w.closed()
			}
			x.do(func() {
				if x.b.index.Len() > 0 {
					t.Error("a filter of the refused SUBSCRIBE was entered")
				}
			})
		})
	}
}

func TestFilterThatIsNotOfferedFailsOlderClients(t *testing.T) { // MQTT3 §3.9.3
	w, _ := start(t, little).connect(packet.V311, "c")
	got := suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a/#"}, {Filter: "$share/g/a"}, {Filter: "a"}}, w.v))
	if want := fmt.Sprint([]packet.ReasonCode{0x80, 0x80, 0}); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSubscriptionAboveMaximumQoSIsGrantedTheMaximum(t *testing.T) { // [MQTT-3.2.2-10]
	x := start(t, little)
	for _, v := range versions {
		w, _ := x.connect(v, fmt.Sprint("c", v))
		got := suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{QoS: 2}}}, v))
		if len(got) != 1 || got[0] != packet.GrantedQoS1 {
			t.Errorf("version %d: got %v, want QoS 1", v, got)
		}
	}
}

func TestWillThatIsNotOfferedIsRefusedAtConnect(t *testing.T) { // [MQTT-3.2.2-12, MQTT-3.2.2-13]
	for _, tt := range []struct {
		name string
		will packet.Will
		code packet.ReasonCode
	}{
		{"qos", packet.Will{Topic: []byte("w"), QoS: 2}, packet.QoSNotSupported},
		{"retain", packet.Will{Topic: []byte("w"), Retain: true}, packet.RetainNotSupported},
		{"neither", packet.Will{Topic: []byte("w"), QoS: 1}, packet.Success},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, little)
			for _, v := range versions {
				w, k := x.connect(v, "c", func(c *packet.Connect) { c.HasWill, c.Will = true, tt.will })
				want := tt.code
				if v < packet.V5 && want != packet.Success {
					want = packet.NotAuthorized // the return code that comes closest
				}
				if k.Code != want {
					t.Errorf("version %d: got %v, want %v", v, k.Code, want)
				}
				if want != packet.Success {
					w.closed()
				}
			}
		})
	}
}

func TestRestoredSessionHasOnlyWhatIsStillOffered(t *testing.T) {
	x := start(t, little, func(o *Options) {
		o.Restored = []durable.Restored{{Session: durable.Session{
			Number: 1, ClientID: "s", Version: packet.V5, Expiry: 3600,
			Subscriptions: []durable.Subscription{{Filter: "a/#", QoS: 2}, {Filter: "a", QoS: 2, ID: 7}},
		}}}
	})
	x.do(func() {
		subs := x.b.subscriptionsOf(x.b.members["s"])
		if len(subs) != 1 || subs[0] != (durable.Subscription{Filter: "a", QoS: 1}) {
			t.Errorf("subscriptions %+v, want one to a at QoS 1 without an identifier", subs)
		}
	})
}
