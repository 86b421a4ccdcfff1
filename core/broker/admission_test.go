package broker

import (
	"fmt"
	"testing"

	"dunlin/core/packet"
)

// Admission first: a QoS 2 message that one of its outboxes refuses reaches nobody.
func TestQoS2IsRefusedBeforeAnybodyHasIt(t *testing.T) {
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			o := &spool{filters: []string{"a"}, full: true}
			x := start(t, func(p *Options) { p.Outboxes = []Outbox{o} })
			s, _ := x.connect(packet.V5, "s", lasting)
			s.subscribe("#", 2)
			p, _ := x.connect(v, "p", lasting)
			p.publish("a", "refused", 2, 1)
			if v == packet.V5 {
				a, err := packet.ParseAck(packet.PUBREC, p.expect(packet.PUBREC), v)
				if err != nil || a.Code != packet.QuotaExceeded {
					t.Errorf("got %v, %v; want 0x97", a.Code, err)
				}
			} else {
				p.nothing()
			}
			s.nothing()
			o.mu.Lock()
			o.full = false
			o.mu.Unlock()
			if v < packet.V5 { // it was held
				p.expect(packet.PUBREC)
				s.hears("a", "refused")
			}
			p, _ = x.connect(v, "p", func(c *packet.Connect) {})
			p.publish("a", "taken", 2, 1) // the identifier is free
			p.expect(packet.PUBREC)
			if m := s.message(); string(m.Payload) != "taken" {
				t.Errorf("got %q", m.Payload)
			}
		})
	}
}
