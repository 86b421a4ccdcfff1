package broker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"dunlin/core/packet"
)

// farewell is the DISCONNECT that ends a connection.
func (w *wire) farewell() packet.Disconnect {
	w.t.Helper()
	h, body := w.closed()
	if h.Type != packet.DISCONNECT {
		w.t.Fatalf("the last packet is %v, want DISCONNECT", h.Type)
	}
	d, err := packet.ParseDisconnect(body, w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// dismiss disconnects a client that is there.
func (x *bench) dismiss(id string, o Disconnection) {
	x.t.Helper()
	if found, err := x.b.Disconnect(x.t.Context(), id, o); !found || err != nil {
		x.t.Fatalf("disconnect %s: %v, %v", id, found, err)
	}
}

func TestAdministratorDisconnectsAClient(t *testing.T) { // 0x98, §3.14.2.1; [MQTT-3.14.4-1], [MQTT-3.14.4-2]
	x, seen := watched(t)
	for _, tt := range []struct{ why, told string }{{"", "an administrator ended the connection"}, {"out of order", "out of order"}} {
		w, _ := x.connect(packet.V5, "c")
		x.dismiss("c", Disconnection{Reason: tt.why})
		if d := w.farewell(); d.Code != packet.AdministrativeAction || string(d.Reason) != tt.told || d.HasSessionExpiry { // [MQTT-3.14.2-2]
			t.Errorf("told %v, %q, want 0x98, %q", d.Code, d.Reason, tt.told)
		}
		x.told(seen, `connected c "" 5`, "disconnected c: 2, Administrative action")
	}
	w, _ := x.connect(packet.V5, "quiet", func(c *packet.Connect) { c.RequestProblem = false })
	x.dismiss("quiet", Disconnection{})
	if d := w.farewell(); d.Code != packet.AdministrativeAction || d.Reason != nil { // [MQTT-3.1.2-29]
		t.Errorf("told %v, %q", d.Code, d.Reason)
	}
	for _, v := range []packet.Version{packet.V31, packet.V311} {
		w, _ := x.connect(v, "old")
		x.dismiss("old", Disconnection{})
		if h, _ := w.closed(); h.Type != 0 {
			t.Errorf("version %d is told %v", v, h.Type)
		}
	}
	if found, err := x.b.Disconnect(t.Context(), "nobody", Disconnection{}); found || err != nil {
		t.Errorf("nobody: %v, %v", found, err)
	}
}

func TestDisconnectedByAnAdministratorKeepsItsSession(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "c", lasting)
	w.subscribe("a", 1)
	x.dismiss("c", Disconnection{})
	w.closed()
	if found, err := x.b.Disconnect(t.Context(), "c", Disconnection{}); found || err != nil {
		t.Errorf("who is away: %v, %v", found, err)
	}
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "kept", 1, 1)
	p.expect(packet.PUBACK)
	w, a := x.connect(packet.V5, "c", lasting)
	if !a.SessionPresent {
		t.Error("the session is gone")
	}
	if m := w.message(); string(m.Payload) != "kept" {
		t.Errorf("got %q", m.Payload)
	}
}

func TestWillOfWhoIsDisconnectedByAnAdministrator(t *testing.T) { // [MQTT-3.1.2-8], [MQTT-3.1.2-10]
	x := start(t)
	s, _ := x.connect(packet.V311, "s")
	s.subscribe("will/+", 0)
	for _, id := range []string{"dropped", "published"} {
		for _, expires := range []uint32{0, 3600} {
			w, _ := x.connect(packet.V5, id, func(c *packet.Connect) {
				c.HasWill, c.Will.Topic = true, []byte("will/"+id)
				c.SessionExpiry = expires
			})
			x.dismiss(id, Disconnection{NoWill: id == "dropped"})
			w.closed()
			if id == "dropped" {
				s.nothing()
			} else if m := s.message(); string(m.Topic) != "will/published" {
				t.Errorf("got %s", m.Topic)
			}
		}
	}
}

func TestWhoIsNotLetInYetHearsNothingOfAnAdministrator(t *testing.T) { // [MQTT-3.14.0-1]
	x := start(t)
	x.store.hold()
	w := x.dial(packet.V5)
	w.write(packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte("c"), SessionExpiry: 3600}))
	x.until("its session is on the way to disk", func() bool { m := x.b.members["c"]; return m != nil && m.client != nil })
	x.dismiss("c", Disconnection{})
	if h, _ := w.closed(); h.Type != 0 {
		t.Errorf("got %v", h.Type)
	}
	x.store.release(nil)
}

func TestAdministratorHearsWhatIsNoReason(t *testing.T) { // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
	x := start(t)
	w, _ := x.connect(packet.V5, "c")
	for _, bad := range []string{"\xff", "a\x00b", strings.Repeat("x", 65_536)} {
		if found, err := x.b.Disconnect(t.Context(), "c", Disconnection{Reason: bad}); found || !errors.Is(err, errBadReason) {
			t.Errorf("%.10q: %v, %v", bad, found, err)
		}
	}
	w.nothing()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err := unstarted(t).Disconnect(ended, "c", Disconnection{}); found || !errors.Is(err, context.Canceled) {
		t.Errorf("while the loop does not run: %v, %v", found, err)
	}
}
