package steps

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// cloud is the server at the other end of an uplink. It keeps its part of the session (MQTT5 §4.1)
// over all connections, and does nothing that the test does not ask for.
type cloud struct {
	t     *testing.T
	ln    net.Listener
	w     *wire
	known map[packet.ID]bool // between PUBREC and PUBCOMP
	got   []string
	seen  bool // has the session
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &cloud{t: t, ln: ln, known: make(map[packet.ID]bool)}
}

// accept takes the next connection of the uplink.
func (c *cloud) accept() {
	c.t.Helper()
	c.ln.(*net.TCPListener).SetDeadline(time.Now().Add(guard))
	conn, err := c.ln.Accept()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	c.w = &wire{t: c.t, net: conn, v: packet.V5}
	if h, _ := c.w.read(); h.Type != packet.CONNECT {
		c.t.Fatalf("got %v, want CONNECT", h.Type)
	}
	c.w.write(packet.AppendConnack(nil, &packet.Connack{SessionPresent: c.seen}, packet.V5))
	c.seen = true
}

// read reads the next packet that is no PINGREQ.
func (c *cloud) read() (packet.Header, []byte) {
	c.t.Helper()
	for {
		h, body := c.w.read()
		if h.Type != packet.PINGREQ {
			return h, body
		}
		c.w.write([]byte{byte(packet.PINGRESP) << 4, 0})
	}
}

// published reads a PUBLISH and returns its identifier, and does nothing with it.
func (c *cloud) published() packet.ID {
	c.t.Helper()
	h, body := c.read()
	m, err := packet.ParsePublish(body, h.Flags, c.w.v)
	if h.Type != packet.PUBLISH || err != nil || m.QoS != 2 {
		c.t.Fatalf("got %v at QoS %d, %v; want PUBLISH", h.Type, m.QoS, err)
	}
	return m.ID
}

// release sends PUBREC and reads the PUBREL.
func (c *cloud) release(id packet.ID) {
	c.t.Helper()
	c.w.ack(packet.PUBREC, id)
	if h, _ := c.read(); h.Type != packet.PUBREL {
		c.t.Fatalf("got %v, want PUBREL", h.Type)
	}
}

// take passes a message on, unless it knows its identifier (MQTT5 §4.3.3).
func (c *cloud) take(m *packet.Publish) {
	if !c.known[m.ID] {
		c.known[m.ID] = true
		c.got = append(c.got, string(m.Payload))
	}
}

// serve does everything that a server does, until n messages have come and no flow is open.
func (c *cloud) serve(n int) {
	c.t.Helper()
	for len(c.got) < n || len(c.known) > 0 {
		switch h, body := c.read(); h.Type {
		case packet.PUBLISH:
			m, err := packet.ParsePublish(body, h.Flags, c.w.v)
			if err != nil {
				c.t.Fatal(err)
			}
			c.take(&m)
			c.w.ack(packet.PUBREC, m.ID)
		case packet.PUBREL:
			a, err := packet.ParseAck(packet.PUBREL, body, c.w.v)
			if err != nil {
				c.t.Fatal(err)
			}
			delete(c.known, a.ID)
			c.w.ack(packet.PUBCOMP, a.ID)
		default:
			c.t.Fatalf("got %v", h.Type)
		}
	}
}

// files are those of a data folder at some moment: of a crash.
type files map[string][]byte

// forwarder is the real process with an uplink.
type forwarder struct {
	t   *testing.T
	ctx context.Context
	p   *process.Process
}

func newForwarder(t *testing.T, c *cloud) *forwarder {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	p, err := process.Dunlin(ctx, t.TempDir(), process.Gateway{Uplinks: []process.Uplink{{
		Name: "cloud", Endpoint: "mqtt://" + c.ln.Addr().String(), ClientID: "gateway",
		Rules: []process.Rule{{From: "t", QoS: 2}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return &forwarder{t, ctx, p}
}

func (f *forwarder) path(name string) string { return filepath.Join(f.p.Spec.Dir, "data", name) }

// image copies the files as a crash would leave them now. The spool comes last: what it has taken
// over since is in both, as it is when the one is committed and the other not yet.
func (f *forwarder) image() files {
	f.t.Helper()
	all := make(files)
	for _, name := range []string{"sessions.db", "uplink-cloud.db"} {
		all[name] = settled(f.t, f.path(name))
	}
	return all
}

// crash kills the process and starts it again with the files of an image.
func (f *forwarder) crash(image files) {
	f.t.Helper()
	if err := f.p.Kill(); err != nil {
		f.t.Fatal(err)
	}
	for name, content := range image {
		if err := os.WriteFile(f.path(name), content, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := f.p.Start(f.ctx); err != nil {
		f.t.Fatal(err)
	}
}

// publish publishes a message at QoS 2. accepted is called between PUBREC and PUBREL.
func (f *forwarder) publish(payload string, accepted func()) {
	f.t.Helper()
	w, _ := (&gateway{t: f.t, addr: f.p.Spec.Address}).connect(packet.V5, "device-"+payload)
	w.publish(payload, 2, 1, false)
	w.acked(packet.PUBREC)
	accepted()
	w.ack(packet.PUBREL, 1)
	w.acked(packet.PUBCOMP)
	w.net.Close()
}

// stages are how far the flow of the message "one" has come on the disk of the gateway.
type stages struct {
	nothing  files // of the message
	stored   files // acknowledged to its device, and the uplink has it to take over
	sent     files // the PUBLISH has left, so it is in the spool
	received files // the PUBREL has left, so the PUBREC is noted
	complete files // the PUBCOMP is noted; the message "next" is where "one" was in received

	one, next packet.ID
}

// flow lets the message go from its device to the cloud, and takes an image at each step. That the
// PUBREC of the next message is on disk shows that the PUBCOMP of the first is.
func (f *forwarder) flow(c *cloud) (s stages) {
	f.t.Helper()
	c.accept()
	s.nothing = f.image()
	// That the spool has it is noted with the next commit, that of the PUBREL.
	f.publish("one", func() { s.stored = f.image() })
	s.one = c.published()
	s.sent = f.image()
	c.release(s.one)
	s.received = f.image()
	c.w.ack(packet.PUBCOMP, s.one)
	f.publish("next", func() {})
	s.next = c.published()
	c.release(s.next)
	s.complete = f.image()
	return s
}

// TestUplinkDeliversExactlyOnce crashes the gateway at each step of the flow of QoS 2 between it and
// a cloud that keeps its state.
func TestUplinkDeliversExactlyOnce(t *testing.T) {
	// What the cloud knows of the message "one".
	none := func(*cloud, *stages) {}
	known := func(c *cloud, s *stages) { c.got, c.known[s.one] = []string{"one"}, true }
	released := func(c *cloud, _ *stages) { c.got = []string{"one"} }
	for _, tt := range []struct {
		name string
		// The files are two, and a crash may come between their commits.
		sessions, spool func(s *stages) files
		cloud           func(c *cloud, s *stages)
		want            []string
	}{
		{"stored for the uplink, not in the spool", stored, nothing, none, []string{"one"}},
		{"in the spool, still stored for the uplink", stored, sent, none, []string{"one"}},
		{"the same, PUBLISH seen", stored, sent, known, []string{"one"}},
		{"PUBLISH lost", sent, sent, none, []string{"one"}},
		{"PUBLISH seen, PUBREC lost", sent, sent, known, []string{"one"}},
		{"PUBREC noted, PUBREL lost", received, received, known, []string{"one"}},
		{"PUBREL seen, PUBCOMP lost", received, received, released, []string{"one"}},
		{"PUBCOMP noted, the next PUBREL lost", complete, complete, func(c *cloud, s *stages) {
			c.got, c.known[s.next] = []string{"one", "next"}, true
		}, []string{"one", "next"}},
	} {
		for crashes := 1; crashes <= 2; crashes++ {
			t.Run(fmt.Sprintf("%s/crashes %d", tt.name, crashes), func(t *testing.T) {
				c := newCloud(t)
				f := newForwarder(t, c)
				s := f.flow(c)
				tt.cloud(c, &s)
				f.crash(files{"sessions.db": tt.sessions(&s)["sessions.db"], "uplink-cloud.db": tt.spool(&s)["uplink-cloud.db"]})
				c.accept()
				for range crashes - 1 {
					f.crash(nil) // what it has sent by now is lost with it
					c.accept()
				}
				// What would come again comes before these two.
				f.publish("two", func() {})
				f.publish("three", func() {})
				want := slices.Concat(tt.want, []string{"two", "three"})
				c.serve(len(want))
				if !slices.Equal(c.got, want) {
					t.Errorf("the cloud got %q, want %q", c.got, want)
				}
			})
		}
	}
}

// The stages by their names, for the table.
var (
	nothing  = func(s *stages) files { return s.nothing }
	stored   = func(s *stages) files { return s.stored }
	sent     = func(s *stages) files { return s.sent }
	received = func(s *stages) files { return s.received }
	complete = func(s *stages) files { return s.complete }
)

// The spool takes each number of the store once only, and a store that was lost begins anew: what it
// accepts then must not be taken for what has gone up before.
func TestWhatIsAcceptedAfterTheStoreWasLostGoesUp(t *testing.T) {
	c := newCloud(t)
	f := newForwarder(t, c)
	c.accept()
	want := []string{"one", "two", "three", "four"}
	for _, text := range want[:3] {
		f.publish(text, func() {})
	}
	c.serve(3)
	f.crash(files{"sessions.db": nil})
	c.accept()
	f.publish(want[3], func() {})
	c.serve(4)
	if !slices.Equal(c.got, want) {
		t.Errorf("got %q, want %q", c.got, want)
	}
}
