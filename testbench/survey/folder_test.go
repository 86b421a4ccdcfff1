package survey

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

const (
	spoolName = "uplink-up.db"
	absent    = 30   // sessions that are away
	queued    = 40   // messages for each of them
	backlog   = 2500 // messages for one more
	upwards   = 1200 // messages for the uplink
)

func gateway(data string) process.Gateway {
	return process.Gateway{Data: data, Uplinks: []process.Uplink{{
		Name: "up", Endpoint: "mqtt://127.0.0.1:1", ClientID: "g", Rules: []process.Rule{{From: "up/#", QoS: 2}},
	}}}
}

func serve(ctx context.Context, t *testing.T, dir, data string) *process.Process {
	t.Helper()
	p, err := process.Dunlin(ctx, dir, gateway(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return p
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sessions.db", spoolName} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func connect(ctx context.Context, t *testing.T, p *process.Process, o client.Options) (*client.Client, packet.Connack) {
	t.Helper()
	o.Address = p.Spec.Address
	c := client.New(o)
	t.Cleanup(c.Close)
	k, err := c.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c, k
}

// sessionName is the client identifier of a session that is away; the last one has the backlog.
func sessionName(n int) string { return fmt.Sprintf("away-%02d", n) }

// makeFolders has a broker make a data folder with something of everything, and returns it as a kill
// and as a clean stop leave it.
func makeFolders(ctx context.Context, t *testing.T) (crashed, clean string) {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	p := serve(ctx, t, dir, data)
	for n := range absent + 1 {
		c, _ := connect(ctx, t, p, client.Options{ClientID: sessionName(n), SessionExpiry: 1 << 30, Will: &packet.Will{Topic: []byte("will"), Payload: []byte("w")}})
		filters := []client.Filter{{Filter: fmt.Sprintf("q/%d/#", n), QoS: 2}}
		for i := range n % 5 {
			filters = append(filters, client.Filter{Filter: fmt.Sprintf("more/%d/+/%s", i, strings.Repeat("x", 10*n)), QoS: 1})
		}
		if _, err := c.Subscribe(ctx, filters...); err != nil {
			t.Fatal(err)
		}
		if err := c.Disconnect(ctx); err != nil {
			t.Fatal(err)
		}
	}
	pub, _ := connect(ctx, t, p, client.Options{ClientID: "publisher", SessionExpiry: 1 << 30})
	publish(ctx, t, pub)
	// Some take a part of what is for them: there are cursors, and records that are dead.
	for n := 0; n < absent; n += 3 {
		c, _ := connect(ctx, t, p, client.Options{ClientID: sessionName(n), SessionExpiry: 1 << 30})
		for range 10 {
			if _, err := c.Receive(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Disconnect(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	crashed, clean = filepath.Join(dir, "crashed"), filepath.Join(dir, "clean")
	copyFolder(t, data, crashed)
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, data, clean)
	return crashed, clean
}

func publish(ctx context.Context, t *testing.T, pub *client.Client) {
	t.Helper()
	r := rand.New(rand.NewPCG(2, 2))
	send := func(topic string, qos packet.QoS, retain bool, size int) {
		payload := make([]byte, 8+size)
		binary.BigEndian.PutUint64(payload, r.Uint64())
		if err := pub.Publish(ctx, client.Publish{Topic: topic, Payload: payload, QoS: qos, Retain: retain}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range backlog {
		send(fmt.Sprintf("q/%d/%d", absent, i), packet.QoS(1+i%2), false, 100)
		if i < queued*absent {
			size := 150
			if i%100 == 7 {
				size = 20000 // needs pages of its own
			}
			send(fmt.Sprintf("q/%d/%d", i%absent, i), packet.QoS(1+i%2), false, size)
		}
		if i < upwards {
			send(fmt.Sprintf("up/%d", i), packet.QoS(1+i%2), false, 120)
		}
		if i < 300 {
			send(fmt.Sprintf("state/%d/%s", i, strings.Repeat("y", i%40)), 1, true, 50)
		}
		if i < 40 {
			send(fmt.Sprintf("$delayed/86400/later/%d", i), 1, false, 50)
		}
	}
	if err := pub.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// takesWork checks that a broker takes, keeps and delivers something new.
func takesWork(ctx context.Context, t *testing.T, p *process.Process, what string) {
	t.Helper()
	o := client.Options{ClientID: "new", SessionExpiry: 3600}
	c, k := connect(ctx, t, p, o)
	if k.SessionPresent {
		t.Errorf("%s: there is a session that never was", what)
	}
	if _, err := c.Subscribe(ctx, client.Filter{Filter: "new", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	if err := c.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	pub, _ := connect(ctx, t, p, client.Options{ClientID: "newcomer", CleanStart: true})
	for qos := range packet.QoS(3) {
		for _, topic := range []string{"new", "up/new"} {
			err := pub.Publish(ctx, client.Publish{Topic: topic, Payload: []byte{byte(qos)}, QoS: qos, Acked: func(code packet.ReasonCode) {
				if code != packet.Success && code != packet.NoMatchingSubscribers {
					t.Errorf("%s: new work at QoS %d to %s was refused: %v", what, qos, topic, code)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := pub.Drain(ctx); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	c, k = connect(ctx, t, p, o)
	if !k.SessionPresent {
		t.Errorf("%s: the new session is gone", what)
	}
	for qos := byte(1); qos <= 2; qos++ {
		if m, err := c.Receive(ctx); err != nil || m.Payload[0] != qos {
			t.Fatalf("%s: got %v, %v", what, m.Payload, err)
		}
	}
	if err := c.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
}

// receives has one of the sessions come back and take what must be there for it.
func receives(ctx context.Context, t *testing.T, p *process.Process, o *original, x *expected, r *rand.Rand, what string) int {
	t.Helper()
	name := sessionName(r.IntN(absent))
	c, k := connect(ctx, t, p, client.Options{ClientID: name, SessionExpiry: 1 << 30})
	if x.sessions[name] && !k.SessionPresent {
		t.Errorf("%s: session %s is whole in the damaged file, and is gone", what, name)
	}
	if !k.SessionPresent {
		return 0
	}
	missing := make(map[string]string) // by payload: keys
	for k, v := range x.must["messages"] {
		if x.sessionOf(v) == name {
			missing[o.payload(v)] = k
		}
	}
	n := len(missing)
	for len(missing) > 0 {
		m, err := c.Receive(ctx)
		if err != nil {
			t.Fatalf("%s: %d of %d messages for %s did not come: %v", what, len(missing), n, name, slices.Collect(maps.Values(missing))[:1])
		}
		delete(missing, string(m.Payload))
	}
	if err := c.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	for k, v := range o.files["sessions.db"].content["messages"] { // whatever it has taken may be deleted
		if x.sessionOf(v) == name {
			x.left[k] = true
		}
	}
	return n
}
