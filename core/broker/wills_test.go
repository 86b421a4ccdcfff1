package broker

import (
	"testing"

	"dunlin/core/packet"
)

func TestWillsOfAllClientsAreBounded(t *testing.T) { // §3.2.2.2: 0x97 Quota exceeded
	const size = 1000
	x := start(t, func(o *Options) { o.Limits.MaxWillBytes = 3 * (256 + 4 + size) })
	will := func(n int) func(*packet.Connect) {
		return func(c *packet.Connect) {
			c.HasWill, c.Will = true, packet.Will{Topic: []byte("will"), Payload: make([]byte, n)}
		}
	}
	watch, _ := x.connect(packet.V5, "watch")
	watch.subscribe("will", 0)
	connect := func(id string, n int, want packet.ReasonCode) *wire {
		t.Helper()
		w, a := x.connect(packet.V5, id, will(n))
		if a.Code != want {
			t.Errorf("%s: got %v, want %v", id, a.Code, want)
		}
		if want != packet.Success {
			w.closed()
		}
		return w
	}
	first := connect("1", size, packet.Success)
	second := connect("2", size, packet.Success)
	connect("3", size, packet.Success)
	connect("4", 0, packet.QuotaExceeded)
	if _, a := x.connect(packet.V311, "4", will(0)); a.Code != packet.ServerUnavailable {
		t.Errorf("3.1.1: got %v, want 0x03", a.Code)
	}
	if _, a := x.connect(packet.V5, "none"); a.Code != packet.Success {
		t.Errorf("without a will: got %v", a.Code)
	}
	connect("1", size, packet.Success) // takes over: its own counts once
	first.closed()
	watch.message()
	connect("1", size+1, packet.QuotaExceeded)

	// What is published, or dropped, makes room.
	x.away(second, "2")
	watch.message()
	fourth := connect("4", size, packet.Success)
	fourth.write(packet.AppendDisconnect(nil, &packet.Disconnect{}, packet.V5))
	fourth.closed()
	connect("5", size, packet.Success)
	x.do(func() {
		if x.b.willBytes != 3*(256+4+size) {
			t.Errorf("%d bytes of wills are counted", x.b.willBytes)
		}
	})
}
