// Package steps crashes the broker, with its real store, at each step of a QoS 2 flow (MQTT5
// §4.3.3), on the side of the publisher and on that of the subscriber, against clients that keep
// their state: each message arrives exactly once.
//
// A crash is a copy of the store's file, taken while the broker runs, from which another broker
// starts. What was not committed when the copy was taken is lost, as with a power cut.
package steps

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/broker"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/platform/clock"
	"dunlin/storeforward/sessionstore"
)

// guard is when a test that hangs is ended.
const guard = 20 * time.Second

// gateway is a broker on a data folder of its own.
type gateway struct {
	t    *testing.T
	path string // of sessions.db
	addr string
	b    *broker.Broker
	stop func()
}

// begin starts a broker from an image of a store, or from nothing.
func begin(t *testing.T, image []byte) *gateway {
	t.Helper()
	g := &gateway{t: t, path: filepath.Join(t.TempDir(), "sessions.db")}
	if image != nil {
		if err := os.WriteFile(g.path, image, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	clk := clock.New()
	store, err := sessionstore.Open(g.path, sessionstore.Options{Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := access.New(access.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g.b, err = broker.New(broker.Options{
		Store:    store,
		Restored: store.Sessions(),
		Retained: store.Retained(),
		Auth:     auth.New(auth.Options{}),
		Policy:   policy,
		Clock:    dates{store.History(), clk},
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	store.Start(g.b.Completer())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.b.Run(ctx) }() // ended by stop, which waits
	stopped := false
	g.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		closing, cancel := context.WithTimeout(context.Background(), guard)
		defer cancel()
		if err := store.Close(closing); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	t.Cleanup(g.stop)
	err = errors.Join(g.b.Listen(t.Context(), ln, &broker.Listener{Name: "test", AllowAnonymous: true}), ln.Close())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// dates is the broker's clock, as cmd/dunlin wires it.
type dates struct {
	history *clock.History
	clock   *clock.Clock
}

func (d dates) Stamp() message.Stamp {
	return message.Stamp{Boot: d.history.Current().Number, Millis: d.clock.Millis()}
}

func (d dates) Elapsed(s message.Stamp) time.Duration { return d.history.Elapsed(s.Boot, s.Millis) }

// image copies the file as a crash would leave it now.
func (g *gateway) image() []byte {
	g.t.Helper()
	return settled(g.t, g.path)
}

// settled copies a file, not in the middle of a commit.
func settled(t *testing.T, path string) []byte {
	t.Helper()
	for {
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if before.ModTime().Equal(after.ModTime()) && before.Size() == after.Size() {
			return b
		}
	}
}

// crash ends the broker and starts another one from what is on disk now.
func (g *gateway) crash() *gateway {
	g.t.Helper()
	image := g.image()
	g.stop()
	return begin(g.t, image)
}

// wire is one connection of a client.
type wire struct {
	t   *testing.T
	net net.Conn
	v   packet.Version
	in  []byte
}

// connect begins or resumes the session of a client.
func (g *gateway) connect(v packet.Version, id string) (w *wire, present bool) {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	w = &wire{t: g.t, net: c, v: v}
	g.t.Cleanup(func() { c.Close() })
	w.write(packet.AppendConnect(nil, &packet.Connect{
		Version: v, ClientID: []byte(id), RequestProblem: true, ReceiveMaximum: 65535, SessionExpiry: 3600,
	}))
	h, body := w.read()
	a, err := packet.ParseConnack(body, v)
	if h.Type != packet.CONNACK || err != nil || a.Code != packet.Success {
		g.t.Fatalf("got %v %v, %v", h.Type, a.Code, err)
	}
	return w, a.SessionPresent
}

func (w *wire) write(b []byte) {
	w.t.Helper()
	if _, err := w.net.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) read() (packet.Header, []byte) {
	w.t.Helper()
	h, body, err := w.next()
	if err != nil {
		w.t.Fatalf("read: %v", err)
	}
	return h, body
}

// next is read for goroutines that are not the test's.
func (w *wire) next() (packet.Header, []byte, error) {
	buf := make([]byte, 4096)
	for {
		h, n, err := packet.ParseHeader(w.in)
		if err != nil {
			return h, nil, err
		}
		if n > 0 && len(w.in) >= n+h.Remaining {
			body := w.in[n : n+h.Remaining : n+h.Remaining]
			w.in = w.in[n+h.Remaining:]
			return h, body, nil
		}
		w.net.SetReadDeadline(time.Now().Add(guard))
		k, err := w.net.Read(buf)
		if err != nil {
			return h, nil, err
		}
		w.in = append(w.in, buf[:k]...)
	}
}

// acked reads an acknowledgement.
func (w *wire) acked(t packet.Type) packet.Ack {
	w.t.Helper()
	h, body := w.read()
	if h.Type != t {
		w.t.Fatalf("got %v, want %v", h.Type, t)
	}
	a, err := packet.ParseAck(t, body, w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *wire) ack(t packet.Type, id packet.ID) {
	w.t.Helper()
	w.write(packet.AppendAck(nil, &packet.Ack{Type: t, ID: id}, w.v))
}

func (w *wire) publish(payload string, qos packet.QoS, id packet.ID, dup bool) {
	w.t.Helper()
	w.write(w.appendPublish(payload, qos, id, dup))
}

func (w *wire) appendPublish(payload string, qos packet.QoS, id packet.ID, dup bool) []byte {
	b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), Payload: []byte(payload), QoS: qos, ID: id, Dup: dup}, w.v)
	b[at], b[at+1] = byte(id>>8), byte(id)
	return b
}

func (w *wire) message() packet.Publish {
	w.t.Helper()
	h, body := w.read()
	p, err := packet.ParsePublish(body, h.Flags, w.v)
	if h.Type != packet.PUBLISH || err != nil {
		w.t.Fatalf("got %v, %v; want PUBLISH", h.Type, err)
	}
	return p
}

func (w *wire) subscribe() {
	w.t.Helper()
	w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "t", Options: packet.SubscribeOptions{QoS: 2}}}, w.v))
	if h, _ := w.read(); h.Type != packet.SUBACK {
		w.t.Fatalf("got %v, want SUBACK", h.Type)
	}
}

// send publishes one message at QoS 2 to its end.
func (w *wire) send(payload string, id packet.ID) {
	w.t.Helper()
	w.publish(payload, 2, id, false)
	w.acked(packet.PUBREC)
	w.ack(packet.PUBREL, id)
	w.acked(packet.PUBCOMP)
}
