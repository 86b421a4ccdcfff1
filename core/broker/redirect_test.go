package broker

import (
	"fmt"
	"strings"
	"testing"

	"dunlin/core/auth"
	"dunlin/core/packet"
)

func TestClientsAreSentOnAtConnect(t *testing.T) { // §4.11, §3.2.2.3.16
	x := start(t)
	for _, tt := range []struct {
		name      string
		permanent bool
		code      packet.ReasonCode
	}{{"for now", false, packet.UseAnotherServer}, {"for good", true, packet.ServerMoved}} {
		t.Run(tt.name, func(t *testing.T) {
			y := x.at(&Listener{Name: "leaving", Redirect: Redirect{To: "b.example:1884 [2001:db8::1]", Permanent: tt.permanent}})
			for _, v := range versions {
				w, a := y.connect(v, "c", lasting)
				want, reference := tt.code, "b.example:1884 [2001:db8::1]"
				if v < packet.V5 {
					want, reference = packet.ServerUnavailable, "" // return code 0x03
				}
				if a.Code != want || string(a.ServerReference) != reference || a.SessionPresent {
					t.Errorf("version %d: got %v to %q, want %v to %q", v, a.Code, a.ServerReference, want, reference)
				}
				w.closed() // [MQTT-3.2.2-7]
			}
		})
	}
	x.do(func() {
		if len(x.b.members) > 0 || x.b.counters.RefusedConnects != 6 {
			t.Errorf("%d sessions were made, %d connects counted as refused", len(x.b.members), x.b.counters.RefusedConnects)
		}
	})
	if _, a := x.connect(packet.V5, "c"); a.Code != packet.Success {
		t.Errorf("another listener says %v", a.Code)
	}
}

func TestWhoIsSentOnIsNotAskedForAPassword(t *testing.T) {
	x := start(t, func(o *Options) { o.Auth = unasked{t} })
	_, a := x.at(&Listener{Redirect: Redirect{To: "b"}}).connect(packet.V5, "c")
	if a.Code != packet.UseAnotherServer {
		t.Errorf("got %v, want 0x9C", a.Code)
	}
}

// unasked must not be asked.
type unasked struct{ t *testing.T }

func (n unasked) Authenticate(_ auth.Request, done func(auth.Answer)) {
	n.t.Error("somebody is asked who the client is")
	done(auth.Answer{Err: auth.ErrBadCredentials})
}

func TestNothingBehindTheConnectOfWhoIsSentOnIsProcessed(t *testing.T) { // [MQTT-3.1.4-6]
	x := start(t)
	w := x.at(&Listener{Redirect: Redirect{To: "b"}}).dial(packet.V5)
	b := packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte("c"), CleanStart: true})
	w.write(packet.AppendSubscribe(b, 1, 0, []packet.Subscription{{Filter: "a"}}, packet.V5))
	if h, _ := w.closed(); h.Type != packet.CONNACK {
		t.Errorf("the last packet is %v, want CONNACK", h.Type)
	}
	x.do(func() {
		if x.b.index.Len() > 0 {
			t.Error("there is a subscription")
		}
	})
}

func TestReferenceIsLeftOutWhereItWouldBeTooLarge(t *testing.T) { // [MQTT-3.1.2-24], [MQTT-3.2.2-19]
	x := start(t)
	to := strings.Repeat("b", 100)
	y := x.at(&Listener{Redirect: Redirect{To: to}})
	for _, tt := range []struct {
		size      uint32
		reason    bool
		reference string
	}{{1000, true, to}, {108, false, to}, {107, false, ""}, {5, false, ""}} {
		w, a := y.connect(packet.V5, "c", func(c *packet.Connect) { c.MaximumPacketSize = tt.size })
		if a.Code != packet.UseAnotherServer || (a.Reason != nil) != tt.reason || string(a.ServerReference) != tt.reference {
			t.Errorf("within %d bytes: got %v, reason %q, reference %q", tt.size, a.Code, a.Reason, a.ServerReference)
		}
		w.closed()
	}
}

func TestClientsAreSentOnWhenTheBrokerStops(t *testing.T) { // §4.11, §3.14.2.2.5
	x := start(t)
	y := x.at(&Listener{Name: "leaving", AllowAnonymous: true, Redirect: Redirect{To: "b.example", Permanent: true, AtStop: true}})
	all := map[string]*wire{}
	for _, v := range versions {
		w, a := y.connect(v, fmt.Sprint("c", v))
		if a.Code != packet.Success {
			t.Fatalf("version %d: got %v before the stop", v, a.Code)
		}
		all[fmt.Sprint(v)] = w
	}
	all["tiny"], _ = y.connect(packet.V5, "tiny", func(c *packet.Connect) { c.MaximumPacketSize = 20 })
	all["elsewhere"], _ = x.connect(packet.V5, "elsewhere")
	x.b.Shutdown(t.Context())
	for name, want := range map[string]packet.Disconnect{
		fmt.Sprint(packet.V5): {Code: packet.ServerMoved, ServerReference: []byte("b.example")},
		"tiny":                {Code: packet.ServerMoved, ServerReference: []byte("b.example")},
		"elsewhere":           {Code: packet.ServerShuttingDown},
	} {
		h, body := all[name].closed()
		d, err := packet.ParseDisconnect(body, packet.V5)
		if err != nil || h.Type != packet.DISCONNECT || d.Code != want.Code || string(d.ServerReference) != string(want.ServerReference) {
			t.Errorf("%s: got %v %v to %q, %v; want %v to %q", name, h.Type, d.Code, d.ServerReference, err, want.Code, want.ServerReference)
		}
	}
	for _, v := range []packet.Version{packet.V31, packet.V311} {
		if h, _ := all[fmt.Sprint(v)].closed(); h.Type != 0 {
			t.Errorf("version %d got %v, which it does not know", v, h.Type)
		}
	}
}

// held lets nobody know who a client is before it is told to.
type held struct{ asked chan func(auth.Answer) }

func (h held) Authenticate(_ auth.Request, done func(auth.Answer)) { h.asked <- done }

func TestConnectUnderWayAtTheStopIsSentOn(t *testing.T) { // §4.11
	doors := held{make(chan func(auth.Answer), 2)}
	x := start(t, func(o *Options) { o.Auth = doors })
	for _, tt := range []struct {
		redirect Redirect
		code     packet.ReasonCode
	}{
		{Redirect{To: "b", AtStop: true}, packet.UseAnotherServer},
		{Redirect{}, packet.ServerUnavailable}, // [MQTT-3.2.2-8]: 0x8B is for DISCONNECT
	} {
		w := x.at(&Listener{Redirect: tt.redirect}).dial(packet.V5)
		w.write(packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte("c"), CleanStart: true}))
		done := <-doors.asked
		x.do(func() { x.b.stopping = true })
		done(auth.Answer{})
		a, err := packet.ParseConnack(w.expect(packet.CONNACK), packet.V5)
		if want := tt.redirect.To; err != nil || a.Code != tt.code || string(a.ServerReference) != want {
			t.Errorf("got %v to %q, %v; want %v to %q", a.Code, a.ServerReference, err, tt.code, want)
		}
		w.closed()
		x.do(func() { x.b.stopping = false })
	}
}

// A CONNACK has what a client must be told, and without which it would go wrong; one that cannot be
// sent whole is none [MQTT-3.1.2-24].
func TestClientThatTakesNoConnackIsRefusedWithoutHarm(t *testing.T) {
	x := start(t)
	tiny := func(n uint32) func(c *packet.Connect) {
		return func(c *packet.Connect) {
			c.MaximumPacketSize = n
			c.SessionExpiry = 3600
			c.HasWill, c.Will = true, packet.Will{Topic: []byte("will")}
		}
	}
	watch, _ := x.connect(packet.V5, "watch")
	watch.subscribe("will", 0)
	old, _ := x.connect(packet.V5, "c", lasting)
	old.subscribe("a", 1)
	w, a := x.connect(packet.V5, "c", tiny(10))
	if a.Code != packet.ImplementationSpecificError {
		t.Errorf("got %v, want 0x83", a.Code)
	}
	w.closed()
	// Not even the smallest CONNACK: the connection is closed, nothing is sent.
	w = x.dial(packet.V5)
	c := packet.Connect{Version: packet.V5, ClientID: []byte("c"), CleanStart: true}
	tiny(4)(&c)
	w.write(packet.AppendConnect(nil, &c))
	if h, _ := w.closed(); h.Type != 0 {
		t.Errorf("got %v within 4 bytes", h.Type)
	}
	old.nothing() // it was not taken over, its session is as it was
	watch.nothing()
	x.do(func() {
		if m := x.b.members["c"]; m == nil || len(m.subs) != 1 || !m.online() {
			t.Error("the session was touched")
		}
	})
}
