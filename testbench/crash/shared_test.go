package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// group is a gateway, a publisher at QoS 2, and members of a shared subscription whose sessions
// outlive their connections.
type group struct {
	t         *testing.T
	ctx       context.Context
	gateway   *process.Process
	publisher *client.Client
	members   []*client.Client
	arrived   chan arrival
	got       [][]int // by member
	sent      int
}

// arrival is a message that a member has got.
type arrival struct{ member, number int }

// newGroup starts a gateway and lets members join. maxima are their Receive Maximum, 0 = any.
func newGroup(t *testing.T, maxima ...uint16) *group {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	t.Cleanup(cancel)
	gateway, err := process.Dunlin(ctx, t.TempDir(), process.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		gateway.Kill()
		if t.Failed() {
			t.Logf("the end of the log of the gateway:\n%s", gateway.Tail(4000))
		}
	})
	g := &group{
		t: t, ctx: ctx, gateway: gateway,
		arrived: make(chan arrival, 10_000),
		got:     make([][]int, len(maxima)),
	}
	for i, most := range maxima {
		g.members = append(g.members, client.New(client.Options{
			Address: gateway.Spec.Address, ClientID: fmt.Sprint("member", i), SessionExpiry: 3600, ReceiveMaximum: most,
			Deliver: func(m client.Message) {
				n, err := strconv.Atoi(string(m.Payload))
				if err != nil {
					t.Errorf("got %q", m.Payload)
				}
				g.arrived <- arrival{i, n}
			},
		}))
	}
	g.publisher = client.New(client.Options{Address: gateway.Spec.Address, ClientID: "publisher", SessionExpiry: 3600, Window: 20})
	for _, c := range append(slices.Clone(g.members), g.publisher) {
		t.Cleanup(c.Close)
		g.connect(c)
	}
	return g
}

func (g *group) connect(c *client.Client) {
	g.t.Helper()
	if _, err := c.Connect(g.ctx); err != nil {
		g.t.Fatal(err)
	}
}

func (g *group) join(member int) {
	g.t.Helper()
	if _, err := g.members[member].Subscribe(g.ctx, client.Filter{Filter: "$share/g/x/+", QoS: 2}); err != nil {
		g.t.Fatal(err)
	}
}

// publish sends so many messages, numbered from 0 on.
func (g *group) publish(messages int) {
	g.t.Helper()
	for range messages {
		if err := g.publisher.Publish(g.ctx, client.Publish{Topic: "x/y", Payload: fmt.Append(nil, g.sent), QoS: 2}); err != nil {
			g.t.Fatal(err)
		}
		g.sent++
	}
}

// crash kills the gateway and starts it again. Nobody is connected then.
func (g *group) crash() {
	g.t.Helper()
	if err := g.gateway.Kill(); err != nil {
		g.t.Fatal(err)
	}
	for _, c := range append(slices.Clone(g.members), g.publisher) {
		c.Close()
	}
	if err := g.gateway.Start(g.ctx); err != nil {
		g.t.Fatal(err)
	}
}

// take waits until so many messages in all have come.
func (g *group) take(messages int) {
	g.t.Helper()
	for have := len(slices.Concat(g.got...)); have < messages; have++ {
		select {
		case a := <-g.arrived:
			g.got[a.member] = append(g.got[a.member], a.number)
		case <-g.ctx.Done():
			g.t.Fatalf("%d messages have come, want %d", have, messages)
		}
	}
}

// check sees that every message has come once, and nothing else comes.
func (g *group) check() {
	g.t.Helper()
	if err := g.publisher.Drain(g.ctx); err != nil {
		g.t.Fatal(err)
	}
	g.take(g.sent)
	for _, c := range g.members {
		if err := c.Ping(g.ctx); err != nil {
			g.t.Fatal(err)
		}
	}
	if n := len(g.arrived); n > 0 {
		g.t.Errorf("%d messages have come more than once", n)
	}
	all := slices.Concat(g.got...)
	slices.Sort(all)
	for i, n := range all {
		if i != n {
			g.t.Fatalf("message %d is missing, or another came twice", i)
		}
	}
}

// Each message at QoS 2 comes to one member once, and to each member in order [MQTT-4.6.0-6], however
// often the process is killed.
func TestGroupGetsEachMessageOnceOverKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	g := newGroup(t, 0, 0, 5)
	for i := range g.members {
		g.join(i)
	}
	for range 6 {
		g.publish(60)
		g.crash()
		all := append(slices.Clone(g.members), g.publisher)
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, c := range all {
			g.connect(c)
		}
	}
	g.check()
	for i, got := range g.got {
		if !slices.IsSorted(got) {
			t.Errorf("member %d got %v", i, got)
		}
	}
}

// What a lost member leaves is moved to another one while the process is killed: each message is in one
// queue or in the other. One at QoS 2 that was begun stays [MQTT-4.8.2-4].
func TestMessagesThatAreMovedComeOnceOverAKill(t *testing.T) {
	for _, before := range []int{0, 1, 10, 40} { // messages that have come to the heir
		t.Run(fmt.Sprint("killed after ", before), func(t *testing.T) {
			g := newGroup(t, 1, 20)
			g.join(0)
			g.members[0].Close()
			g.publish(200)
			if err := g.publisher.Drain(g.ctx); err != nil {
				t.Fatal(err)
			}
			g.join(1)
			g.connect(g.members[0]) // one message at a time
			g.take(1)
			g.members[0].Close()
			for len(g.got[1]) < before {
				g.take(len(slices.Concat(g.got...)) + 1)
			}
			g.crash()
			for _, c := range append(slices.Clone(g.members), g.publisher) {
				g.connect(c)
			}
			g.check()
		})
	}
}
