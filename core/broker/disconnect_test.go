package broker

import (
	"fmt"
	"strings"
	"testing"

	"dunlin/core/packet"
)

func TestOnlyServersSayCertainReasons(t *testing.T) { // [MQTT-3.14.2-1], the column "Sent by"
	x := start(t)
	both := "80 81 82 83 90 93 94 95 96 97 98 99"
	servers := "87 89 8B 8D 8E 8F 9A 9B 9C 9D 9E 9F A0 A1 A2"
	for code := range 256 {
		name := fmt.Sprintf("%02X", code)
		if !strings.Contains(both+" "+servers, name) {
			continue
		}
		w, _ := x.connect(packet.V5, "c")
		w.write([]byte{0xE0, 1, byte(code)})
		h, body := w.closed()
		if strings.Contains(both, name) {
			if h.Type != 0 {
				t.Errorf("0x%s: got %v, which nobody reads", name, h.Type)
			}
			continue
		}
		if d, err := packet.ParseDisconnect(body, packet.V5); h.Type != packet.DISCONNECT || err != nil || d.Code != packet.ProtocolError {
			t.Errorf("0x%s: got %v %v, %v; want 0x82", name, h.Type, d.Code, err)
		}
	}
}
