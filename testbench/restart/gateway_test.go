// Package restart proves, row by row, what of the specification has to hold over a restart of the
// broker: of the real binary, killed by SIGKILL, and stopped as it should be.
package restart

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// guard bounds every wait, so that a broker that hangs fails the test.
const guard = 30 * time.Second

func TestMain(m *testing.M) {
	// They wait for seconds to pass, not for the processor.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// gateway is a broker that is restarted.
type gateway struct {
	*testing.T
	broker *process.Process
	killed bool // by SIGKILL; otherwise it is stopped
	open   []*client.Client
	marks  int
}

// over runs a test twice: over a kill and over a stop.
func over(t *testing.T, test func(g *gateway)) {
	t.Helper()
	for name, killed := range map[string]bool{"kill": true, "stop": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &gateway{T: t, killed: killed}
			var err error
			g.broker, err = process.Dunlin(t.Context(), t.TempDir(), process.Gateway{Settings: []string{"sessions.will_grace=6s"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				g.broker.Kill()
				if t.Failed() {
					t.Logf("the end of the log:\n%s", g.broker.Tail(3000))
				}
			})
			test(g)
		})
	}
}

// restart ends the broker and starts it again. Who was connected is not any more.
func (g *gateway) restart() {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.Context(), guard)
	defer cancel()
	end := g.broker.Stop
	if g.killed {
		end = func(context.Context) error { return g.broker.Kill() }
	}
	if err := end(ctx); err != nil {
		g.Fatal(err)
	}
	for _, c := range g.open {
		c.Close()
	}
	g.open = nil
	if err := g.broker.Start(g.Context()); err != nil {
		g.Fatal(err)
	}
}

// lasting are the options of a session that outlives its connection by an hour.
func lasting(id string) client.Options { return client.Options{ClientID: id, SessionExpiry: 3600} }

func (g *gateway) connect(o client.Options) (*client.Client, packet.Connack) {
	g.Helper()
	o.Address, o.Guard = g.broker.Spec.Address, guard
	c := client.New(o)
	a := g.resume(c)
	g.Cleanup(c.Close)
	return c, a
}

// resume connects a client again.
func (g *gateway) resume(c *client.Client) packet.Connack {
	g.Helper()
	a, err := c.Connect(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	g.open = append(g.open, c)
	return a
}

// leave disconnects with reason code 0.
func (g *gateway) leave(c *client.Client) {
	g.Helper()
	if err := c.Disconnect(g.Context()); err != nil {
		g.Fatal(err)
	}
}

// present connects a session and says whether the broker had it. It leaves again.
func (g *gateway) present(o client.Options) bool {
	g.Helper()
	c, a := g.connect(o)
	g.leave(c)
	return a.SessionPresent
}

func (g *gateway) subscribe(c *client.Client, filters ...string) {
	g.Helper()
	for _, f := range filters {
		if codes, err := c.Subscribe(g.Context(), client.Filter{Filter: f, QoS: 2}); err != nil || codes[0] > 2 {
			g.Fatal(codes, err)
		}
	}
}

// publish sends messages whose payloads are their topics, and waits for the acknowledgements.
func (g *gateway) publish(messages ...client.Publish) {
	g.Helper()
	c, _ := g.connect(lasting("publisher"))
	for _, m := range messages {
		if m.Payload == nil {
			m.Payload = []byte(m.Topic)
		}
		if err := c.Publish(g.Context(), m); err != nil {
			g.Fatal(err)
		}
	}
	if err := c.Drain(g.Context()); err != nil {
		g.Fatal(err)
	}
	g.leave(c)
}

func (g *gateway) receive(c *client.Client) client.Message {
	g.Helper()
	m, err := c.Receive(g.Context())
	if err != nil {
		g.Fatalf("%v (%v)", err, c.Err())
	}
	return m
}

// got returns the payloads of what has come to a client by now.
func (g *gateway) got(c *client.Client) (all []string) {
	g.Helper()
	// At QoS 2, which leaves last: order is among messages of one QoS.
	g.marks++
	mark := fmt.Sprint("end/", g.marks)
	g.subscribe(c, mark)
	g.publish(client.Publish{Topic: mark, QoS: 2})
	for m := g.receive(c); m.Topic != mark; m = g.receive(c) {
		if !strings.HasPrefix(m.Topic, "end/") { // another's
			all = append(all, string(m.Payload))
		}
	}
	return all
}

// pass waits until timers of so many seconds have fired.
func (g *gateway) pass(seconds string) {
	g.Helper()
	c, _ := g.connect(client.Options{ClientID: "waits"})
	g.subscribe(c, "passed/"+seconds)
	g.publish(client.Publish{Topic: "$delayed/" + seconds + "/passed/" + seconds, QoS: 1})
	g.receive(c)
	g.leave(c)
}
