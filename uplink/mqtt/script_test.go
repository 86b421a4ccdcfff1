package mqtt

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/uplink/forward"
)

// server is one end of a connection, scripted by a test.
type server struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

// serve runs script as the server of one connection and returns its endpoint.
func serve(t *testing.T, script func(s *server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		script(&server{t, c, bufio.NewReader(c)})
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return "mqtt://" + l.Addr().String()
}

// read returns the next packet whole; its body must not be kept. io.EOF after the last.
func (s *server) read() (packet.Header, []byte, error) {
	var b []byte
	for {
		c, err := s.in.ReadByte()
		if err != nil {
			return packet.Header{}, nil, err
		}
		b = append(b, c)
		h, n, err := packet.ParseHeader(b)
		if err != nil {
			s.t.Errorf("client sent %x: %v", b, err)
			return h, nil, err
		}
		if n > 0 {
			body := make([]byte, h.Remaining)
			_, err := io.ReadFull(s.in, body)
			return h, body, err
		}
	}
}

// want reads a packet and checks its type.
func (s *server) want(typ packet.Type) []byte {
	h, body, err := s.read()
	if err != nil || h.Type != typ {
		s.t.Errorf("read %v, %v; want %v", h.Type, err, typ)
	}
	return body
}

func (s *server) wantPublish() packet.Publish {
	for {
		h, body, err := s.read()
		switch {
		case err != nil:
			s.t.Errorf("want PUBLISH: %v", err)
			return packet.Publish{}
		case h.Type == packet.PINGREQ:
			s.Write(packet.AppendPingresp(nil))
		case h.Type == packet.PUBLISH:
			p, err := packet.ParsePublish(body, h.Flags, packet.V5)
			if err != nil {
				s.t.Errorf("client sent a PUBLISH: %v", err)
			}
			return p
		default:
			s.t.Errorf("read %v, want PUBLISH", h.Type)
			return packet.Publish{}
		}
	}
}

// wantAck skips pings.
func (s *server) wantAck(typ packet.Type) packet.Ack {
	for {
		h, body, err := s.read()
		if err != nil {
			s.t.Errorf("want %v: %v", typ, err)
			return packet.Ack{}
		}
		if h.Type == packet.PINGREQ {
			continue
		}
		a, err := packet.ParseAck(h.Type, body, packet.V5)
		if err != nil || h.Type != typ {
			s.t.Errorf("read %v, %v; want %v", h.Type, err, typ)
		}
		return a
	}
}

func (s *server) connack(c packet.Connack) {
	body := s.want(packet.CONNECT)
	if _, err := packet.ParseConnect(body); err != nil {
		s.t.Errorf("CONNECT: %v", err)
	}
	s.Write(packet.AppendConnack(nil, &c, packet.V5))
}

// ack answers with an acknowledgement.
func (s *server) ack(typ packet.Type, id packet.ID, code packet.ReasonCode) {
	s.Write(packet.AppendAck(nil, &packet.Ack{Type: typ, ID: id, Code: code}, packet.V5))
}

func (s *server) publish(p packet.Publish) {
	b, _ := packet.AppendPublish(nil, &p, packet.V5)
	s.Write(b)
}

// drain reads until the client closes.
func (s *server) drain() {
	for {
		if _, _, err := s.read(); err != nil {
			return
		}
	}
}

// log keeps what happened on a connection.
type log struct {
	outcomes chan forward.Outcome
	incoming chan Incoming
	lost     chan error

	subscribed chan bool
}

func newLog() *log {
	return &log{make(chan forward.Outcome, 100000), make(chan Incoming, 100), make(chan error, 10), make(chan bool, 10)}
}

func (l *log) Outcome(o forward.Outcome) { l.outcomes <- o }
func (l *log) Incoming(m Incoming)       { l.incoming <- m }
func (l *log) Subscribed()               { l.subscribed <- true }
func (l *log) Idle()                     {}
func (l *log) Lost(err error)            { l.lost <- err }

func get[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
	}
	return v
}

func options(endpoint string) Options {
	return Options{Endpoint: endpoint, ClientID: "gateway", SpoolID: "cloud", Timeout: 5 * time.Second}
}

func dialServer(t *testing.T, o Options) (*Conn, forward.Link, *log) {
	t.Helper()
	l := newLog()
	c, link, err := Dial(t.Context(), o, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, link, l
}

func (c *Conn) sendNow(t *testing.T, m forward.Message) {
	t.Helper()
	if m.Body == nil {
		m.Body = &message.Message{Topic: "t", Payload: []byte("x")}
	}
	if err := errors.Join(c.Send(m, 7), c.Flush()); err != nil {
		t.Error(err)
	}
}
