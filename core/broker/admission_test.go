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
			} else if h, _ := p.closed(); h.Type == packet.PUBREC {
				t.Error("3.1.1 got a PUBREC for what was refused")
			}
			s.nothing()
			o.mu.Lock()
			o.full = false
			o.mu.Unlock()
			p, _ = x.connect(v, "p", lasting)
			p.publish("a", "taken", 2, 1) // the identifier is free
			p.expect(packet.PUBREC)
			if m := s.message(); string(m.Payload) != "taken" {
				t.Errorf("got %q", m.Payload)
			}
		})
	}
}
