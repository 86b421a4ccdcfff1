package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// guard is when a test that hangs is ended.
const guard = 20 * time.Second

type open struct{}

func (open) Authenticate(r auth.Request, done func(auth.Answer)) {
	if r.HasUsername {
		done(auth.Answer{Identity: access.Identity{User: r.Username}})
		return
	}
	done(auth.Answer{Identity: access.Identity{Anonymous: true}})
}

type fixedClock struct{ start time.Time }

func (c fixedClock) Stamp() message.Stamp {
	return message.Stamp{Boot: 1, Millis: uint64(time.Since(c.start) / time.Millisecond)}
}

func (c fixedClock) Elapsed(s message.Stamp) time.Duration {
	return time.Since(c.start) - time.Duration(s.Millis)*time.Millisecond
}

// bench is a broker on a loopback socket.
type bench struct {
	t             testing.TB
	b             *Broker
	store         *fakeStore
	network, addr string
}

func start(t testing.TB, change ...func(*Options)) *bench {
	t.Helper()
	return startOn(t, "tcp", "127.0.0.1:0", change...)
}

// startOn is start on another socket.
func startOn(t testing.TB, network, address string, change ...func(*Options)) *bench {
	t.Helper()
	s := newFakeStore()
	policy, err := access.New(access.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Store:  s,
		Auth:   open{},
		Policy: policy,
		Clock:  fixedClock{time.Now()},
		Log:    slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&o)
	}
	s = o.Store.(*fakeStore)
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.c = b.Completer()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }() // ended by cancel, waited for in the cleanup
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(guard):
			t.Error("the broker does not end")
		}
	})
	if err := b.Listen(t.Context(), ln, &Listener{Name: "test", AllowAnonymous: true}); err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, b: b, store: s, network: network, addr: ln.Addr().String()}
}

// wire is a raw MQTT connection of a test.
type wire struct {
	t   testing.TB
	net net.Conn
	v   packet.Version
	in  []byte
}

func (x *bench) dial(v packet.Version) *wire {
	x.t.Helper()
	c, err := net.Dial(x.network, x.addr)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { c.Close() })
	return &wire{t: x.t, net: c, v: v}
}

// connect dials and connects; the changes are to the CONNECT.
func (x *bench) connect(v packet.Version, id string, change ...func(*packet.Connect)) (*wire, packet.Connack) {
	x.t.Helper()
	w := x.dial(v)
	c := packet.Connect{Version: v, ClientID: []byte(id), CleanStart: true, RequestProblem: true, ReceiveMaximum: 65535}
	for _, f := range change {
		f(&c)
	}
	w.write(packet.AppendConnect(nil, &c))
	h, body := w.read()
	if h.Type != packet.CONNACK {
		x.t.Fatalf("got %v, want CONNACK", h.Type)
	}
	a, err := packet.ParseConnack(body, v)
	if err != nil {
		x.t.Fatal(err)
	}
	return w, a
}

// lasting makes a CONNECT one of a session that outlives its connection.
func lasting(c *packet.Connect) {
	c.CleanStart = false
	c.SessionExpiry = 3600
}

func (w *wire) write(b []byte) {
	w.t.Helper()
	if _, err := w.net.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// read returns the next packet.
func (w *wire) read() (packet.Header, []byte) {
	w.t.Helper()
	h, body, err := w.next()
	if err != nil {
		w.t.Fatalf("read: %v", err)
	}
	return h, body
}

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

func (w *wire) expect(t packet.Type) []byte {
	w.t.Helper()
	h, body := w.read()
	if h.Type != t {
		w.t.Fatalf("got %v, want %v", h.Type, t)
	}
	return body
}

// closed waits for the end of the connection; what comes before is returned.
func (w *wire) closed() (last packet.Header, body []byte) {
	w.t.Helper()
	for {
		h, b, err := w.next()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				w.t.Fatal("the connection stays open")
			}
			if !errors.Is(err, io.EOF) && !errors.As(err, new(*net.OpError)) {
				w.t.Fatalf("read: %v", err)
			}
			return last, body
		}
		last, body = h, b
	}
}

func (w *wire) subscribe(filter string, qos packet.QoS) {
	w.t.Helper()
	w.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: filter, Options: packet.SubscribeOptions{QoS: qos}}}, w.v))
	w.expect(packet.SUBACK)
}

func (w *wire) publish(topic, payload string, qos packet.QoS, id packet.ID) {
	w.t.Helper()
	b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: id}, w.v)
	if qos > 0 {
		b[at], b[at+1] = byte(id>>8), byte(id)
	}
	w.write(b)
}

func (w *wire) message() packet.Publish {
	w.t.Helper()
	h, body := w.read()
	if h.Type != packet.PUBLISH {
		w.t.Fatalf("got %v, want PUBLISH", h.Type)
	}
	p, err := packet.ParsePublish(body, h.Flags, w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *wire) ack(t packet.Type, id packet.ID) {
	w.t.Helper()
	w.write(packet.AppendAck(nil, &packet.Ack{Type: t, ID: id}, w.v))
}

// nothing proves that no packet is on its way: a PINGRESP is the next.
func (w *wire) nothing() {
	w.t.Helper()
	w.write(packet.AppendPingreq(nil))
	w.expect(packet.PINGRESP)
}

// do runs f on the loop and waits for it.
func (x *bench) do(f func()) {
	x.t.Helper()
	done := make(chan struct{})
	x.b.loop.Post(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(guard):
		x.t.Fatal("the loop does not turn")
	}
}

// until waits for something that the loop can see, turn by turn.
func (x *bench) until(what string, ok func() bool) {
	x.t.Helper()
	for deadline := time.Now().Add(guard); ; {
		var yes bool
		x.do(func() { yes = ok() })
		if yes {
			x.do(func() {}) // so that the turn in which it came has ended, with what it handed to the store
			return
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("%s: it does not come", what)
		}
	}
}

// away cuts a connection and waits until the broker knows.
func (x *bench) away(w *wire, id string) {
	x.t.Helper()
	w.net.Close()
	x.until(id+" is offline", func() bool { m := x.b.members[id]; return m == nil || m.client == nil })
}

// queues checks what a session has waiting and in flight.
func (x *bench) queues(id string, pending, inFlight int) {
	x.t.Helper()
	x.do(func() {
		m := x.b.members[id]
		if m == nil {
			x.t.Errorf("no session of %s", id)
			return
		}
		if p, f := m.state.Pending(), m.state.InFlight(); p != pending || f != inFlight {
			x.t.Errorf("%s has %d messages pending and %d in flight, want %d and %d", id, p, f, pending, inFlight)
		}
	})
}

// offline makes a lasting session with a subscription, and leaves.
func (x *bench) offline(v packet.Version, id, filter string, qos packet.QoS) {
	x.t.Helper()
	w, _ := x.connect(v, id, lasting)
	w.subscribe(filter, qos)
	x.away(w, id)
}

func (w *wire) disconnected() packet.ReasonCode {
	w.t.Helper()
	h, body := w.closed()
	if h.Type != packet.DISCONNECT {
		w.t.Fatalf("the last packet is %v, want DISCONNECT", h.Type)
	}
	d, err := packet.ParseDisconnect(body, w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Code
}

func (w *wire) acked(t packet.Type) packet.Ack {
	w.t.Helper()
	a, err := packet.ParseAck(t, w.expect(t), w.v)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// again is a PUBLISH with DUP set.
func (w *wire) again(topic, payload string, qos packet.QoS, id packet.ID) {
	w.t.Helper()
	b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: id, Dup: true}, w.v)
	b[at], b[at+1] = byte(id>>8), byte(id)
	w.write(b)
}
