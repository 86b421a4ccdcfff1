package broker

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"dunlin/core/packet"
)

// at adds a listener: what the result dials is that one.
func (x *bench) at(o *Listener) *bench {
	x.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		x.t.Fatal(err)
	}
	defer ln.Close()
	if err := x.b.Listen(x.t.Context(), ln, o); err != nil {
		x.t.Fatal(err)
	}
	there := *x
	there.addr = ln.Addr().String()
	return &there
}

func TestListenerRefusesOtherVersions(t *testing.T) { // [MQTT-3.1.2-2]
	x := start(t)
	for _, only := range versions {
		y := x.at(&Listener{Name: "one version", AllowAnonymous: true, Versions: []packet.Version{only}})
		for _, v := range versions {
			want := packet.UnsupportedProtocolVersion
			if v == only {
				want = packet.Success
			}
			w, a := y.connect(v, fmt.Sprintf("%d at %d", v, only))
			if a.Code != want {
				t.Errorf("version %d where only %d is spoken: %v, want %v", v, only, a.Code, want)
			}
			if a.Code != packet.Success {
				w.closed()
			}
		}
	}
	for _, v := range versions {
		if _, a := x.connect(v, fmt.Sprint(v)); a.Code != packet.Success {
			t.Errorf("another listener says %v", a.Code)
		}
	}
}

func TestListenerHasItsOwnMaximumPacketSize(t *testing.T) {
	x := start(t, func(o *Options) { o.Limits.MaxPacket = 10_000 })
	const head = 1 + 2 + 2 + 1 + 1 // fixed header, length of the topic, topic, property length
	for _, own := range []int{2000, 16_000} {
		y := x.at(&Listener{Name: "own", AllowAnonymous: true, MaxPacket: own})
		w, a := y.connect(packet.V5, fmt.Sprint(own))
		if int(a.MaximumPacketSize) != own {
			t.Errorf("%d is announced, want %d", a.MaximumPacketSize, own)
		}
		w.publish("a", strings.Repeat("x", own-head), 0, 0)
		w.nothing()
		w.publish("a", strings.Repeat("x", own-head+1), 0, 0)
		if code := w.disconnected(); code != packet.PacketTooLarge {
			t.Errorf("closed with %v, want 0x95", code)
		}
	}
}

func TestListenerHasItsOwnReceiveMaximum(t *testing.T) { // [MQTT-3.3.4-7]
	x := start(t, func(o *Options) { o.Limits.ReceiveMaximum = 5 })
	x.offline(packet.V5, "s", "a", 1)
	for _, own := range []int{2, 8} {
		y := x.at(&Listener{Name: "own", AllowAnonymous: true, ReceiveMaximum: own})
		w, a := y.connect(packet.V5, fmt.Sprint(own))
		if int(a.ReceiveMaximum) != own {
			t.Errorf("%d is announced, want %d", a.ReceiveMaximum, own)
		}
		x.store.hold()
		for i := range own {
			w.publish("a", "x", 1, packet.ID(i+1))
		}
		w.nothing()
		w.publish("a", "x", 1, packet.ID(own+1))
		if code := w.disconnected(); code != packet.ReceiveMaximumExceeded {
			t.Errorf("closed with %v, want 0x93", code)
		}
		x.store.release(nil)
	}
}

func TestListenerBoundsWhatIsInFlightToItsClients(t *testing.T) {
	x := start(t)
	y := x.at(&Listener{Name: "own", AllowAnonymous: true, MaxInFlight: 2})
	s, _ := y.connect(packet.V5, "s", lasting)
	s.subscribe("a", 1)
	p, _ := x.connect(packet.V5, "p")
	for i := range 5 {
		p.publish("a", fmt.Sprint(i), 1, packet.ID(i+1))
		p.expect(packet.PUBACK)
	}
	first := s.message()
	s.message()
	s.nothing()
	s.ack(packet.PUBACK, first.ID)
	if m := s.message(); string(m.Payload) != "2" {
		t.Errorf("got %q", m.Payload)
	}
	s.nothing()
	// The session has more room where it connects without that bound.
	x.away(s, "s")
	s, _ = x.connect(packet.V5, "s", lasting)
	for i := 1; i < 5; i++ {
		if m := s.message(); string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("got %q, want %d", m.Payload, i)
		}
	}
}

func TestSocketsOfOneListenerShareItsBound(t *testing.T) {
	x := start(t)
	o := &Listener{Name: "two sockets", AllowAnonymous: true, MaxConnections: 2}
	first, second := x.at(o), x.at(o)
	first.connect(packet.V311, "a")
	second.connect(packet.V311, "b")
	first.dial(packet.V311).closed()
	second.dial(packet.V311).closed()
}

// The client sees a connection that ends, whatever the reason: the log is the only place for it.
func TestListenerThatIsFullSaysSoOnceInALongTime(t *testing.T) {
	var log bytes.Buffer // written by the loop
	x := start(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	o := &Listener{Name: "small", AllowAnonymous: true, MaxConnections: 1}
	l := x.at(o)
	a, _ := l.connect(packet.V311, "a")
	for range 3 {
		l.dial(packet.V311).closed()
	}
	x.away(a, "a")
	x.until("there is room", func() bool { return o.connections == 0 })
	l.connect(packet.V311, "b")
	l.dial(packet.V311).closed()
	x.do(func() {
		const full = "there are as many connections as there may be, more are closed"
		said := log.String()
		if n := strings.Count(said, full); n != 1 || !strings.Contains(said, "listener=small") {
			t.Errorf("it is in the log %d times:\n%s", n, said)
		}
	})
}
