package broker

import (
	"testing"

	"dunlin/core/packet"
)

// formatted is a PUBLISH with a Payload Format Indicator, and a User Property behind it.
func formatted(w *wire, qos packet.QoS, format byte, payload string) {
	p := packet.Publish{Topic: []byte("a"), QoS: qos, Properties: []byte{1, format, 0x26, 0, 1, 'k', 0, 1, 'v'}, Payload: []byte(payload)}
	b, at := packet.AppendPublish(nil, &p, packet.V5)
	if qos > 0 {
		b[at+1] = 1
	}
	w.write(b)
}

func TestPayloadThatIsNotWhatItClaimsIsRefused(t *testing.T) { // §3.3.2.3.2
	for _, tt := range []struct {
		name    string
		format  byte
		payload string
		code    packet.ReasonCode
	}{
		{"UTF-8", 1, "grün\x00", packet.Success},
		{"bytes that claim nothing", 0, "\xff", packet.Success},
		{"bytes that claim to be UTF-8", 1, "a\xff", packet.PayloadFormatInvalid},
		{"surrogate", 1, "\xed\xa0\x80", packet.PayloadFormatInvalid},
		{"overlong", 1, "\xc0\xaf", packet.PayloadFormatInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, check := range []bool{true, false} {
				want := tt.code
				if !check {
					want = packet.Success
				}
				x := start(t, func(o *Options) { o.Limits.CheckPayloads = check })
				s, _ := x.connect(packet.V5, "s")
				s.subscribe("a", 0)
				w, _ := x.connect(packet.V5, "c")
				answers := []packet.Type{1: packet.PUBACK, 2: packet.PUBREC}
				for qos := range packet.QoS(3) {
					formatted(w, qos, tt.format, tt.payload)
					if qos > 0 {
						if a := w.acked(answers[qos]); a.Code != want {
							t.Errorf("check %v, QoS %d: got %v, want %v", check, qos, a.Code, want)
						}
					}
					if want == packet.Success { // [MQTT-3.3.2-4]
						if m := s.gets("a", tt.payload); m.PayloadFormat != tt.format {
							t.Errorf("payload format %d came as %d", tt.format, m.PayloadFormat)
						}
					}
				}
				w.nothing()
				s.nothing()
				x.do(func() {
					if n := x.b.counters.BadPayloads; (n == 3) != (want != packet.Success) {
						t.Errorf("check %v: %d bad payloads are counted", check, n)
					}
				})
			}
		})
	}
}

func TestWillThatIsNotWhatItClaimsIsRefused(t *testing.T) { // §3.1.3.2.3
	x := start(t, func(o *Options) { o.Limits.CheckPayloads = true })
	for payload, want := range map[string]packet.ReasonCode{"grün": packet.Success, "\xff": packet.PayloadFormatInvalid} {
		_, k := x.connect(packet.V5, "c", func(c *packet.Connect) {
			c.HasWill = true
			c.Will = packet.Will{Topic: []byte("w"), Payload: []byte(payload), Properties: []byte{1, 1}}
		})
		if k.Code != want {
			t.Errorf("%q: got %v, want %v", payload, k.Code, want)
		}
	}
}
