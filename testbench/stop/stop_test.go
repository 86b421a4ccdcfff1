// Package stop proves from outside what SIGTERM does: clients are told, nothing that was
// acknowledged is lost, wills are published by the rules, and the exit code is 0.
package stop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// guard bounds every single wait, so that a broker that hangs fails the test.
const guard = 20 * time.Second

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

func gateway(t *testing.T, g process.Gateway) *process.Process {
	t.Helper()
	broker, err := process.Dunlin(t.Context(), t.TempDir(), g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	return broker
}

// stop sends SIGTERM and wants exit code 0 in time.
func stop(t *testing.T, broker *process.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	if err := broker.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, broker *process.Process, o client.Options) *client.Client {
	t.Helper()
	o.Address, o.Guard = broker.Spec.Address, guard
	c := client.New(o)
	connect(t, c)
	t.Cleanup(c.Close)
	return c
}

func connect(t *testing.T, c *client.Client) packet.Connack {
	t.Helper()
	a, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func subscribe(t *testing.T, c *client.Client, filter string, qos packet.QoS) {
	t.Helper()
	if _, err := c.Subscribe(t.Context(), client.Filter{Filter: filter, QoS: qos}); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, c *client.Client, p client.Publish) {
	t.Helper()
	if err := c.Publish(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c *client.Client) client.Message {
	t.Helper()
	m, err := c.Receive(t.Context())
	if err != nil {
		t.Fatalf("%v (%v)", err, c.Err())
	}
	return m
}

func TestClientsAreToldAndTheExitCodeIsZero(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	broker := gateway(t, process.Gateway{Socket: socket})
	five := dial(t, broker, client.Options{ClientID: "five"})
	old := dial(t, broker, client.Options{ClientID: "old", Version: packet.V311})
	stop(t, broker)
	for _, c := range []*client.Client{five, old} {
		select {
		case <-c.Done():
		case <-time.After(guard):
			t.Fatal("the connection stays open")
		}
	}
	if e, ok := errors.AsType[*client.DisconnectedError](five.Err()); !ok || e.Code != packet.ServerShuttingDown {
		t.Errorf("a client of MQTT 5.0 sees %v, want DISCONNECT 0x8B", five.Err())
	}
	if _, ok := errors.AsType[*client.DisconnectedError](old.Err()); ok {
		t.Errorf("a client of MQTT 3.1.1 sees %v", old.Err()) // it knows no DISCONNECT from a server
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the unix socket is left behind: %v", err)
	}
}

func TestQueueOfAnAbsentClientOutlivesTheStop(t *testing.T) {
	broker := gateway(t, process.Gateway{})
	away := dial(t, broker, client.Options{ClientID: "away", SessionExpiry: 3600})
	subscribe(t, away, "a", 2)
	if err := away.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := dial(t, broker, client.Options{ClientID: "p"})
	const n = 300
	for i := range n {
		publish(t, p, client.Publish{Topic: "a", Payload: fmt.Append(nil, i), QoS: packet.QoS(1 + i%2)})
	}
	publish(t, p, client.Publish{Topic: "kept", Payload: []byte("x"), QoS: 1, Retain: true})
	if err := p.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop(t, broker)
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := connect(t, away); !a.SessionPresent {
		t.Error("the session is gone")
	}
	var last [3]int // by QoS: order holds for each
	seen := map[string]bool{}
	for range n {
		m := receive(t, away)
		i := 0
		fmt.Sscan(string(m.Payload), &i)
		if seen[string(m.Payload)] || i < last[m.QoS] {
			t.Fatalf("%d at QoS %d comes twice or behind %d", i, m.QoS, last[m.QoS])
		}
		seen[string(m.Payload)], last[m.QoS] = true, i
	}
	subscribe(t, away, "kept", 1)
	if m := receive(t, away); m.Topic != "kept" || !m.Retain {
		t.Errorf("got %s %q, want the retained message and nothing else", m.Topic, m.Payload)
	}
}

func TestWillsArePublishedByTheRules(t *testing.T) { // [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
	broker := gateway(t, process.Gateway{})
	watcher := dial(t, broker, client.Options{ClientID: "watcher", SessionExpiry: 3600})
	subscribe(t, watcher, "will/#", 1)
	if err := watcher.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	will := func(name string, delay uint32) *packet.Will {
		return &packet.Will{Topic: []byte("will/" + name), Payload: []byte(name), QoS: 1, Retain: true, Delay: delay}
	}
	dial(t, broker, client.Options{ClientID: "there", Will: will("there", 0)})
	dial(t, broker, client.Options{ClientID: "old", Version: packet.V311, CleanStart: true, Will: will("old", 0)})
	dial(t, broker, client.Options{ClientID: "late", SessionExpiry: 3600, Will: will("late", 1000)})
	left := dial(t, broker, client.Options{ClientID: "left", Will: will("left", 0)})
	if err := left.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop(t, broker)
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	connect(t, watcher)
	publish(t, watcher, client.Publish{Topic: "will/end", QoS: 1})
	got := map[string]int{}
	for m := receive(t, watcher); m.Topic != "will/end"; m = receive(t, watcher) {
		got[string(m.Payload)]++
	}
	if len(got) != 2 || got["there"] != 1 || got["old"] != 1 {
		t.Errorf("the wills of %v came, want there and old, once each", got)
	}
}

// peer is a client that does not finish what it begins.
type peer struct {
	*client.Raw
	t *testing.T
}

func (p peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p peer) expect(want packet.Type) (packet.Header, []byte) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), guard)
	defer cancel()
	h, body, err := p.Packet(ctx)
	if err != nil || h.Type != want {
		p.t.Fatalf("got %v, %v; want %v", h.Type, err, want)
	}
	return h, body
}

func (p peer) ack(kind packet.Type, id packet.ID) {
	p.t.Helper()
	p.write(packet.AppendAck(nil, &packet.Ack{Type: kind, ID: id}, p.Version))
}

// lasting connects with a session that outlives its connection.
func lasting(t *testing.T, broker *process.Process, id string) peer {
	t.Helper()
	raw, err := client.Dial(t.Context(), "tcp", broker.Spec.Address, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	p := peer{raw, t}
	p.write(packet.AppendConnect(nil, &packet.Connect{
		Version: packet.V5, ClientID: []byte(id), SessionExpiry: 3600, RequestProblem: true, ReceiveMaximum: 65535,
	}))
	p.expect(packet.CONNACK)
	return p
}

func TestQoS2GoesOnWhereTheStopCutIt(t *testing.T) { // [MQTT-4.3.3-10], [MQTT-4.4.0-1]
	broker := gateway(t, process.Gateway{})
	to := lasting(t, broker, "to")
	to.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a", Options: packet.SubscribeOptions{QoS: 2}}}, packet.V5))
	to.expect(packet.SUBACK)
	from := lasting(t, broker, "from")
	send := func(id packet.ID, dup bool) {
		b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("once"), QoS: 2, ID: id, Dup: dup}, packet.V5)
		b[at], b[at+1] = byte(id>>8), byte(id)
		from.write(b)
		from.expect(packet.PUBREC)
	}
	send(7, false)
	h, body := to.expect(packet.PUBLISH)
	first, err := packet.ParsePublish(body, h.Flags, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	id := first.ID
	stop(t, broker)
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	from = lasting(t, broker, "from")
	send(7, true) // as if the PUBREC had been lost: delivered once is enough
	from.ack(packet.PUBREL, 7)
	from.expect(packet.PUBCOMP)

	to = lasting(t, broker, "to")
	h, body = to.expect(packet.PUBLISH)
	again, err := packet.ParsePublish(body, h.Flags, packet.V5)
	if err != nil || again.ID != id || !again.Dup || string(again.Payload) != "once" {
		t.Fatalf("got %v, %v; want the same message with identifier %d and DUP", again, err, id)
	}
	to.ack(packet.PUBREC, id)
	to.expect(packet.PUBREL)
	stop(t, broker)
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	to = lasting(t, broker, "to")
	_, body = to.expect(packet.PUBREL)
	if got := packet.ID(body[0])<<8 | packet.ID(body[1]); got != id {
		t.Errorf("PUBREL of %d, want %d", got, id)
	}
	to.ack(packet.PUBCOMP, id)
	to.write(packet.AppendPingreq(nil))
	to.expect(packet.PINGRESP)
}

func TestOneWhoDoesNotReadHoldsTheStopUpForSecondsOnly(t *testing.T) {
	broker := gateway(t, process.Gateway{})
	deaf := lasting(t, broker, "deaf")
	deaf.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a"}}, packet.V5))
	deaf.expect(packet.SUBACK)
	p := dial(t, broker, client.Options{ClientID: "p"})
	payload := make([]byte, 200<<10)
	for range 100 {
		publish(t, p, client.Publish{Topic: "a", Payload: payload})
	}
	if err := p.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop(t, broker)
}
