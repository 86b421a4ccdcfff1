package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

var versions = []packet.Version{packet.V311, packet.V5}

// broker starts a mosquitto, a broker that is known to be right where these tests look.
func broker(t *testing.T) string {
	t.Helper()
	p, err := process.Mosquitto(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return p.Spec.Address
}

func connect(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c := client.New(o)
	if _, err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestEveryQoSGoesThereAndBack(t *testing.T) {
	address := broker(t)
	for _, v := range versions {
		for qos := range packet.QoS(3) {
			t.Run(fmt.Sprintf("version %d/QoS %d", v, qos), func(t *testing.T) {
				c := connect(t, client.Options{Address: address, Version: v, CleanStart: true, ClientID: "c"})
				if codes, err := c.Subscribe(t.Context(), client.Filter{Filter: "a/#", QoS: qos}); err != nil || codes[0] != packet.ReasonCode(qos) {
					t.Fatalf("subscribe: %v, %v", codes, err)
				}
				acked := make(chan packet.ReasonCode, 1)
				err := c.Publish(t.Context(), client.Publish{
					Topic: "a/b", Payload: []byte("hello"), QoS: qos,
					Acked: func(code packet.ReasonCode) { acked <- code },
				})
				if err != nil {
					t.Fatal(err)
				}
				m, err := c.Receive(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if m.Topic != "a/b" || string(m.Payload) != "hello" || m.QoS != qos || m.Dup || m.Retain {
					t.Errorf("got %+v", m)
				}
				if err := c.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				if qos > 0 && <-acked != packet.Success {
					t.Error("the acknowledgement was no success")
				}
				if codes, err := c.Unsubscribe(t.Context(), "a/#"); err != nil || v == packet.V5 && codes[0] != packet.Success {
					t.Errorf("unsubscribe: %v, %v", codes, err)
				}
				if err := c.Ping(t.Context()); err != nil {
					t.Error(err)
				}
				if err := c.Disconnect(t.Context()); err != nil {
					t.Error(err)
				}
				if err := c.Publish(t.Context(), client.Publish{Topic: "a/b"}); !errors.Is(err, client.ErrNotConnected) {
					t.Errorf("publish after Disconnect: %v", err)
				}
			})
		}
	}
}

func TestPropertiesArrive(t *testing.T) {
	c := connect(t, client.Options{Address: broker(t), CleanStart: true})
	if _, err := c.SubscribeAs(t.Context(), 300, client.Filter{Filter: "a"}); err != nil {
		t.Fatal(err)
	}
	user := packet.AppendUserProperty(nil, "k", "v")
	if err := c.Publish(t.Context(), client.Publish{Topic: "a", Properties: user, Expiry: 60, HasExpiry: true}); err != nil {
		t.Fatal(err)
	}
	m, err := c.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Properties) != string(user) || !m.HasExpiry || m.Expiry > 60 {
		t.Errorf("got %+v", m)
	}
	if len(m.SubscriptionIDs) != 1 || m.SubscriptionIDs[0] != 300 {
		t.Errorf("subscription identifiers %v, want 300", m.SubscriptionIDs)
	}
}

func TestUnacknowledgedMessagesComeAgain(t *testing.T) {
	address := broker(t)
	for _, v := range versions {
		for _, qos := range []packet.QoS{1, 2} {
			t.Run(fmt.Sprintf("version %d/QoS %d", v, qos), func(t *testing.T) {
				sub := connect(t, client.Options{
					Address: address, Version: v, ClientID: fmt.Sprintf("manual-%d-%d", v, qos), SessionExpiry: 60, ManualAcks: true,
				})
				topic := fmt.Sprintf("again/%d/%d", v, qos)
				if _, err := sub.Subscribe(t.Context(), client.Filter{Filter: topic, QoS: qos}); err != nil {
					t.Fatal(err)
				}
				pub := connect(t, client.Options{Address: address, Version: v, CleanStart: true, ClientID: "p"})
				if err := pub.Publish(t.Context(), client.Publish{Topic: topic, Payload: []byte("x"), QoS: qos}); err != nil {
					t.Fatal(err)
				}
				first, err := sub.Receive(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				connack, err := sub.Connect(t.Context())
				if err != nil || !connack.SessionPresent {
					t.Fatalf("reconnect: %+v, %v", connack, err)
				}
				sub.Ack(first) // of the other connection: says nothing
				second, err := sub.Receive(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !second.Dup || second.ID != first.ID {
					t.Errorf("got %+v again as %+v, want the same id and DUP", first, second)
				}
				sub.Ack(second)
				if err := sub.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := sub.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := sub.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
				select {
				case m := <-sub.Messages():
					t.Errorf("got %+v, which was acknowledged", m)
				default:
				}
			})
		}
	}
}

// fakeBroker accepts one connection after the other, answers CONNECT with session present as
// told, and hands the connection to the next of the scripts.
func fakeBroker(t *testing.T, present bool, scripts ...func(r *client.Raw)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	go func() { // ends with the scripts or the listener; Cleanup waits
		defer close(done)
		for i, script := range scripts {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := &client.Raw{Conn: conn, Version: packet.V5}
			if _, _, err := r.Packet(t.Context()); err == nil {
				r.Write(packet.AppendConnack(nil, &packet.Connack{SessionPresent: present && i > 0, ReceiveMaximum: 3}, packet.V5))
				script(r)
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func TestWhatIsInFlightIsResumed(t *testing.T) {
	type seen struct {
		header packet.Header
		id     packet.ID
	}
	read := func(r *client.Raw, n int) (all []seen) {
		for range n {
			h, body, err := r.Packet(t.Context())
			if err != nil {
				t.Errorf("packet %d: %v", len(all), err)
				return all
			}
			s := seen{header: h}
			if h.Type == packet.PUBLISH {
				p, _ := packet.ParsePublish(body, h.Flags, packet.V5)
				s.id = p.ID
			} else {
				a, _ := packet.ParseAck(h.Type, body, packet.V5)
				s.id = a.ID
			}
			all = append(all, s)
		}
		return all
	}
	var first, second []seen
	rest := make(chan struct{})
	address := fakeBroker(t, true,
		func(r *client.Raw) {
			first = read(r, 3)
			// The second of the three is half way.
			r.Write(packet.AppendAck(nil, &packet.Ack{Type: packet.PUBREC, ID: first[1].id}, packet.V5))
			read(r, 1)
		},
		func(r *client.Raw) {
			second = read(r, 3)
			close(rest)
			r.Packet(t.Context()) // until the client leaves
		})
	c := connect(t, client.Options{Address: address, ClientID: "c"})
	for _, qos := range []packet.QoS{1, 2, 2} {
		if err := c.Publish(t.Context(), client.Publish{Topic: "a", QoS: qos}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Publish(ctx, client.Publish{Topic: "a", QoS: 1}); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, client.ErrNotConnected) {
		t.Errorf("a fourth message within a Receive Maximum of 3: %v", err)
	}
	<-c.Done()
	if _, err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-rest
	want := []seen{
		{packet.Header{Type: packet.PUBLISH, Flags: 0xA, Remaining: second[0].header.Remaining}, first[0].id},
		{packet.Header{Type: packet.PUBLISH, Flags: 0xC, Remaining: second[1].header.Remaining}, first[2].id},
		{packet.Header{Type: packet.PUBREL, Flags: 0x2, Remaining: second[2].header.Remaining}, first[1].id},
	}
	for i := range want {
		if second[i] != want[i] {
			t.Errorf("packet %d after the reconnect is %+v, want %+v", i, second[i], want[i])
		}
	}
	c.Close()
}

func TestFaultsOfTheBrokerEndTheConnection(t *testing.T) {
	publish := func(id packet.ID) []byte {
		b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), QoS: 1, ID: id}, packet.V5)
		return b
	}
	for _, test := range []struct {
		name string
		sent []byte
		want string
	}{
		{"PUBACK for nothing", packet.AppendAck(nil, &packet.Ack{Type: packet.PUBACK, ID: 7}, packet.V5), "PUBACK for packet id 7, which is not in flight"},
		{"PUBCOMP for nothing", packet.AppendAck(nil, &packet.Ack{Type: packet.PUBCOMP, ID: 7}, packet.V5), "PUBCOMP for packet id 7, which is not in flight"},
		{"SUBACK for nothing", packet.AppendSuback(nil, &packet.Suback{ID: 9, Codes: []packet.ReasonCode{0}}, packet.V5), "packet id 9, which waits for none"},
		{"PINGRESP for nothing", packet.AppendPingresp(nil), "PINGRESP without PINGREQ"},
		{"the same id twice", append(publish(1), publish(1)...), "packet id 1 again"},
		{"more than Receive Maximum", append(append(publish(1), publish(2)...), publish(3)...), "3 messages unacknowledged, Receive Maximum is 2"},
		{"a PINGREQ", packet.AppendPingreq(nil), "PINGREQ from a server"},
		{"rubbish", []byte{0x00, 0x00}, "malformed header"},
		{"DISCONNECT", packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.QuotaExceeded}, packet.V5), "Quota exceeded (0x97)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address := fakeBroker(t, false, func(r *client.Raw) {
				r.Write(test.sent)
				for { // until the client leaves
					if _, _, err := r.Packet(t.Context()); err != nil {
						return
					}
				}
			})
			c := connect(t, client.Options{Address: address, ClientID: "c", ReceiveMaximum: 2, ManualAcks: true})
			<-c.Done()
			if err := c.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ended with %v, want %q in it", err, test.want)
			}
			if client.Lost(c.Err()) {
				t.Error("counts as a lost connection")
			}
		})
	}
}

func TestRefusedConnectionSaysWhy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() { // ends with its one connection; the test waits
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := &client.Raw{Conn: conn, Version: packet.V5}
		r.Packet(t.Context())
		r.Write(packet.AppendConnack(nil, &packet.Connack{Code: packet.NotAuthorized}, packet.V5))
	}()
	c := client.New(client.Options{Address: l.Addr().String()})
	_, err = c.Connect(t.Context())
	refused, ok := errors.AsType[*client.RefusedError](err)
	if !ok || refused.Code != packet.NotAuthorized {
		t.Errorf("got %v, want a RefusedError with Not authorized", err)
	}
	<-done
}

func TestFrozenClientGoesOnFromItsState(t *testing.T) {
	address := broker(t)
	sub := connect(t, client.Options{Address: address, ClientID: "sub", CleanStart: true})
	if _, err := sub.Subscribe(t.Context(), client.Filter{Filter: "a", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	o := client.Options{Address: address, ClientID: "pub", SessionExpiry: 60}
	pub := connect(t, o)
	if err := pub.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Nobody answers while the state is taken: the message is in flight in it.
	var states []client.State
	for _, qos := range []packet.QoS{1, 2} {
		if err := pub.Publish(t.Context(), client.Publish{Topic: "a", Payload: []byte{byte(qos)}, QoS: qos}); err != nil {
			t.Fatal(err)
		}
	}
	states = client.Freeze([]*client.Client{pub}, func() {})
	if err := pub.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	pub.Close()
	n := len(states[0].InFlight())
	again := client.Resume(o, states[0])
	defer again.Close()
	if got := again.InFlight(); got != n {
		t.Fatalf("%d in flight after Resume, %d before", got, n)
	}
	if _, err := again.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := again.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}
