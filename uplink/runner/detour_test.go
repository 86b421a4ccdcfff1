package runner

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

// errScript ends a script.
var errScript = errors.New("the script is over")

// scripted is a server for one connection after the other: each is a script of its own, which gets
// the packets of the uplink. It ends with the test.
type scripted struct {
	t       *testing.T
	address string
}

// say answers packets: what it returns is sent; with errScript the connection is closed after that.
type say func(h packet.Header, body []byte) ([]byte, error)

func script(t *testing.T, connections ...say) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { // ends when l is closed
		for _, say := range connections {
			c, err := l.Accept()
			if err != nil {
				return
			}
			converse(c, say)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return &scripted{t, l.Addr().String()}
}

func converse(c net.Conn, say say) {
	in := bufio.NewReader(c)
	for {
		var b []byte
		h, n, err := packet.ParseHeader(b)
		for n == 0 && err == nil {
			var x byte
			if x, err = in.ReadByte(); err != nil {
				return
			}
			b = append(b, x)
			h, n, err = packet.ParseHeader(b)
		}
		body := make([]byte, h.Remaining)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		answer, err := say(h, body)
		c.Write(answer)
		if err != nil {
			return
		}
	}
}

func connack(a packet.Connack) []byte { return packet.AppendConnack(nil, &a, packet.V5) }

// cleanStart reports what a CONNECT asks for.
func cleanStart(t *testing.T, body []byte) bool {
	c, err := packet.ParseConnect(body)
	if err != nil {
		t.Error(err)
	}
	return c.CleanStart
}

func TestUplinkFollowsTheServerItIsSentTo(t *testing.T) { // §4.11
	c := startCloud(t)
	c.receive("site/a/#")
	away, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{Settings: []string{
		"listeners.1.address=" + away, "listeners.1.redirect.to=127.0.0.1:1 " + c.server.Spec.Address, "listeners.1.redirect.permanent=true",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gateway.Kill() })
	o := c.options(t)
	o.Endpoint = "mqtt://" + away
	u := openUplink(t, o)
	u.Start(nil)
	feed(t, u, 1, 50, 2)
	c.got.wait(t, 50) // the first server that is named is none
	c.got.complete(t, 50)
	drained(t, u, 50)
	if s := u.Status(); s.Endpoint != "mqtt://"+c.server.Spec.Address {
		t.Errorf("it is connected to %s", s.Endpoint)
	}
	b, err := os.ReadFile(detourPath(o.Folder, o.Name))
	if err != nil || string(b) != "mqtt://"+c.server.Spec.Address+"\n" {
		t.Errorf("the last server is noted as %q, %v", b, err)
	}
}

func TestMessageThatAnotherServerReceivedIsSentAnewToTheNext(t *testing.T) { // [MQTT-3.1.2-4], §4.11
	// The first server answers with PUBREC and sends the uplink on before it has the PUBREL. To the
	// second a PUBREL alone would say nothing: the message would be lost. And so on the way back.
	var mu sync.Mutex
	var clean []bool
	var got []string
	note := func(s string) { mu.Lock(); got = append(got, s); mu.Unlock() }
	start := func(body []byte) { mu.Lock(); clean = append(clean, cleanStart(t, body)); mu.Unlock() }
	second := script(t, func(h packet.Header, body []byte) ([]byte, error) {
		switch h.Type {
		case packet.CONNECT:
			start(body)
			return connack(packet.Connack{}), nil
		case packet.PUBLISH:
			p, err := packet.ParsePublish(body, h.Flags, packet.V5)
			if err != nil {
				t.Error(err)
			}
			note("second PUBLISH " + string(p.Topic))
			return packet.AppendAck(nil, &packet.Ack{Type: packet.PUBREC, ID: p.ID}, packet.V5), nil
		case packet.PUBREL:
			// Received here, too, and not released: back to the first, which has an older session.
			note("second PUBREL")
			return nil, errScript
		}
		return nil, nil
	})
	firstPublish := func(over []byte) say {
		return func(h packet.Header, body []byte) ([]byte, error) {
			switch h.Type {
			case packet.CONNECT:
				start(body)
				return connack(packet.Connack{}), nil
			case packet.PUBLISH:
				p, err := packet.ParsePublish(body, h.Flags, packet.V5)
				if err != nil {
					t.Error(err)
				}
				note("first PUBLISH")
				return append(packet.AppendAck(nil, &packet.Ack{Type: packet.PUBREC, ID: p.ID}, packet.V5), over...), nil
			case packet.PUBREL:
				note("first PUBREL")
				a, err := packet.ParseAck(packet.PUBREL, body, packet.V5)
				if err != nil {
					t.Error(err)
				}
				if over != nil {
					return nil, errScript
				}
				return packet.AppendAck(nil, &packet.Ack{Type: packet.PUBCOMP, ID: a.ID}, packet.V5), nil
			}
			return nil, nil
		}
	}
	sendOn := packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.UseAnotherServer, ServerReference: []byte(second.address)}, packet.V5)
	first := script(t, firstPublish(sendOn), firstPublish(nil))
	c := startCloud(t)
	o := c.options(t)
	o.Endpoint = "mqtt://" + first.address
	u := openUplink(t, o)
	u.Start(nil)
	feed(t, u, 1, 1, 2)
	drained(t, u, 1)
	mu.Lock()
	defer mu.Unlock()
	if len(clean) != 3 || clean[0] || !clean[1] || !clean[2] {
		t.Errorf("Clean Start of the connections to the first, second, first server: %v; want false, true, true", clean)
	}
	want := []string{"first PUBLISH", "second PUBLISH site/a/t1", "second PUBREL", "first PUBLISH", "first PUBREL"}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if _, err := os.Stat(detourPath(o.Folder, o.Name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("back at its endpoint, the note of the other is still there: %v", err)
	}
}

func TestSessionOfAnotherServerIsNotContinuedAfterARestart(t *testing.T) {
	asked := make(chan bool, 4)
	s := script(t, func(h packet.Header, body []byte) ([]byte, error) {
		if h.Type == packet.CONNECT {
			asked <- cleanStart(t, body)
			return connack(packet.Connack{}), nil
		}
		return nil, nil
	})
	c := startCloud(t)
	o := c.options(t)
	o.Endpoint = "mqtt://" + s.address
	if err := os.WriteFile(detourPath(o.Folder, o.Name), []byte("mqtt://elsewhere.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := openUplink(t, o)
	u.Start(nil)
	if !<-asked {
		t.Error("it continues a session which the last process had left")
	}
	eventually(t, "the note is gone", func() bool {
		_, err := os.Stat(detourPath(o.Folder, o.Name))
		return errors.Is(err, os.ErrNotExist)
	})
}

func TestReleasesGoInTheOrderInWhichTheServerReceived(t *testing.T) { // [MQTT-4.6.0-4], [MQTT-4.6.0-1]
	const n = 20
	released := make(chan packet.ID, n)
	var waiting []packet.ID
	s := script(t, func(h packet.Header, body []byte) (answer []byte, _ error) {
		switch h.Type {
		case packet.CONNECT:
			return connack(packet.Connack{}), nil
		case packet.PUBLISH:
			p, err := packet.ParsePublish(body, h.Flags, packet.V5)
			if err != nil {
				t.Error(err)
			}
			if waiting = append(waiting, p.ID); len(waiting) == n { // all at once, in order
				for _, id := range waiting {
					answer = packet.AppendAck(answer, &packet.Ack{Type: packet.PUBREC, ID: id}, packet.V5)
				}
			}
			return answer, nil
		case packet.PUBREL:
			a, err := packet.ParseAck(packet.PUBREL, body, packet.V5)
			if err != nil {
				t.Error(err)
			}
			released <- a.ID
			return packet.AppendAck(nil, &packet.Ack{Type: packet.PUBCOMP, ID: a.ID}, packet.V5), nil
		}
		return nil, nil
	})
	c := startCloud(t)
	o := c.options(t)
	o.Endpoint = "mqtt://" + s.address
	u := openUplink(t, o)
	u.Start(nil)
	feed(t, u, 1, n, 2)
	drained(t, u, n)
	for _, want := range waiting {
		if got := <-released; got != want {
			t.Errorf("PUBREL of %d, want %d", got, want)
		}
	}
}
