// Package crash kills the broker under load, again and again, and proves that what it had
// acknowledged is delivered: to sessions that were away, to sessions that were there, and over
// an uplink to the cloud.
package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/core/topic"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/process"
	"dunlin/testbench/simnet"
	"dunlin/testbench/tally"
)

// guard bounds a whole test, so that a broker that hangs fails it.
const guard = 5 * time.Minute

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// rig is a gateway under load with everybody it serves.
type rig struct {
	t   *testing.T
	ctx context.Context
	rng *rand.Rand

	gateway *process.Process
	cloud   *process.Process
	link    *simnet.Proxy
	tally   *tally.Tally

	publishers []*fleet.Publisher
	topics     map[*tally.Stream]string
	offline    []*fleet.Receiver // sessions that stay away until the end
	online     *fleet.Receiver
	roaming    *fleet.Receiver   // there for one kill, away for the next
	others     []*fleet.Receiver // further sessions of the gateway
	above      *fleet.Receiver   // subscribes in the cloud
	dead       func()            // is called when the gateway is killed, before it starts again

	running sync.WaitGroup
	failed  chan error // the error of each publisher or receiver, which ends it
}

// newRig starts the gateway, its cloud behind a link that is up, and the sessions. uplinkQoS is
// the most that the uplink's rule lets through.
func newRig(t *testing.T, version packet.Version, uplinkQoS int) *rig {
	t.Helper()
	return newRigVia(t, version, uplinkQoS, nil)
}

// newRigVia does the same with a gateway that is run by a command, see process.Gateway.Via.
func newRigVia(t *testing.T, version packet.Version, uplinkQoS int, via []string) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := &rig{
		t: t, ctx: ctx, rng: rand.New(rand.NewPCG(seed, 0)),
		tally: tally.New(), failed: make(chan error, 256),
		topics: make(map[*tally.Stream]string), dead: func() {},
	}

	t.Cleanup(func() {
		cancel()
		r.running.Wait()
	})
	var err error
	if r.cloud, err = process.Mosquitto(ctx, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.cloud.Kill() })
	if r.link, err = simnet.Listen(r.cloud.Spec.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.link.Close() })
	r.gateway, err = process.Dunlin(ctx, t.TempDir(), process.Gateway{Via: via, Uplinks: []process.Uplink{{
		Name: "cloud", Endpoint: "mqtt://" + r.link.Addr(), ClientID: "gateway",
		Rules: []process.Rule{{From: "site/#", To: "plant/site/#", QoS: uplinkQoS}},
		Down:  []process.Rule{{From: "orders/#", QoS: 1}, {From: "probe", QoS: 1}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.gateway.Kill()
		if t.Failed() {
			t.Logf("the end of the log of the gateway:\n%s", r.gateway.Tail(4000))
		}
	})

	address := r.gateway.Spec.Address
	r.online = r.receiver("online", address, version, 2, "site/#")
	r.roaming = r.receiver("roaming", address, version, 2, "site/#")
	r.offline = []*fleet.Receiver{
		r.receiver("offline-2", address, version, 2, "site/#", "orders/#"),
		r.receiver("offline-1", address, packet.V311, 1, "site/+/fast", "site/+/safe"),
		// Overlapping filters: one copy of each message (v5), queued under either.
		r.receiver("offline-overlap", address, packet.V5, 2, "site/p0/#", "site/+/safe"),
	}
	for _, s := range append(r.offline, r.online, r.roaming) {
		if err := s.Join(ctx); err != nil {
			t.Fatal(err)
		}
	}
	r.above = r.receiver("above", r.cloud.Spec.Address, packet.V5, 2, "plant/#")
	if err := r.above.Join(ctx); err != nil {
		t.Fatal(err)
	}
	r.start(r.above.Run)
	for i := range 4 {
		name := fmt.Sprintf("p%d", i)
		r.publishers = append(r.publishers, &fleet.Publisher{
			Options: client.Options{
				Address: address, Version: version, ClientID: name, SessionExpiry: 3600, Window: 50,
			},
			Lines: []fleet.Line{r.line("site/"+name+"/fast", 1), r.line("site/"+name+"/safe", 2)},
			Size:  100,
		})
	}
	return r
}

// line returns a line of messages to a topic, by which its stream is named.
func (r *rig) line(topic string, qos byte) fleet.Line {
	s := r.tally.Stream(topic, qos)
	r.topics[s] = topic
	return fleet.Line{Topic: topic, Stream: s}
}

func (r *rig) receiver(name, address string, v packet.Version, qos packet.QoS, filters ...string) *fleet.Receiver {
	s := &fleet.Receiver{
		Options: client.Options{Address: address, Version: v, ClientID: name, SessionExpiry: 3600},
		Got:     r.tally.Receiver(),
	}
	for _, f := range filters {
		s.Filters = append(s.Filters, client.Filter{Filter: f, QoS: qos})
	}
	return s
}

// devices are publishers and receivers that run.
type devices struct {
	stop  chan struct{}
	ended sync.WaitGroup
}

// halt lets them end as they should, and waits.
func (d *devices) halt() {
	close(d.stop)
	d.ended.Wait()
}

// start runs devices. The error of one ends the test at the next step.
func (r *rig) start(run ...func(ctx context.Context, stop <-chan struct{}) error) *devices {
	d := &devices{stop: make(chan struct{})}
	for _, run := range run {
		r.running.Add(1)
		// Owner: the rig. It ends with halt or the context of the test, whose end waits.
		d.ended.Go(func() {
			defer r.running.Done()
			if err := run(r.ctx, d.stop); err != nil {
				r.failed <- err
			}
		})
	}
	return d
}

// load starts all publishers.
func (r *rig) load() *devices {
	var all []func(context.Context, <-chan struct{}) error
	for _, p := range r.publishers {
		all = append(all, p.Run)
	}
	return r.start(all...)
}

// attend starts all sessions of the gateway.
func (r *rig) attend() *devices {
	var all []func(context.Context, <-chan struct{}) error
	for _, s := range r.sessions() {
		all = append(all, s.Run)
	}
	return r.start(all...)
}

// sessions returns the sessions of the gateway.
func (r *rig) sessions() []*fleet.Receiver {
	return slices.Concat([]*fleet.Receiver{r.online, r.roaming}, r.offline, r.others)
}

// check fails the test if a device has failed.
func (r *rig) check() {
	r.t.Helper()
	select {
	case err := <-r.failed:
		r.t.Fatal(err)
	default:
	}
}

// kill waits until about more messages are acknowledged, kills the gateway at some moment
// behind that, and starts it again; one time in four it is killed while it starts, too.
func (r *rig) kill(more uint64) {
	r.t.Helper()
	target := r.tally.Acknowledged() + more
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for r.tally.Acknowledged() < target {
		select {
		case err := <-r.failed:
			r.t.Fatal(err)
		case <-r.gateway.Exited():
			r.t.Fatal("the gateway has ended by itself")
		case <-r.ctx.Done():
			r.t.Fatalf("%d acknowledged, waiting for %d", r.tally.Acknowledged(), target)
		case <-ticker.C:
		}
	}
	// The ticker would kill at the same moment of a commit each time.
	<-time.After(time.Duration(r.rng.IntN(3000)) * time.Microsecond)
	if err := r.gateway.Kill(); err != nil {
		r.t.Fatal(err)
	}
	if r.rng.IntN(4) == 0 {
		if err := r.gateway.Launch(); err != nil {
			r.t.Fatal(err)
		}
		<-time.After(time.Duration(r.rng.IntN(30_000)) * time.Microsecond)
		if err := r.gateway.Kill(); err != nil {
			r.t.Fatal(err)
		}
	}
	r.dead()
	if err := r.gateway.Start(r.ctx); err != nil {
		r.t.Fatal(err)
	}
}

// finish lets everything be delivered once the load has ended, and compares the lists.
func (r *rig) finish() {
	r.t.Helper()
	r.check()
	receivers := append(r.sessions(), r.above)
	// Everybody comes back at once.
	sessions := r.attend()
	r.complete(receivers)
	// What would come twice comes before what is published now.
	for _, p := range r.publishers {
		p.Limit = 2 * len(p.Lines)
		if err := p.Run(r.ctx, nil); err != nil {
			r.t.Fatal(err)
		}
	}
	r.complete(receivers)
	sessions.halt()
	r.check()

	want := r.tally.Snapshot()
	for _, p := range r.publishers {
		if n := p.Refused.Load(); n > 0 {
			r.t.Errorf("%s: %d messages were refused", p.Options.ClientID, n)
		}
	}
	for _, s := range receivers {
		if err := s.Got.Check(want, r.rules(s)); err != nil {
			r.t.Errorf("%s: %v", s.Options.ClientID, err)
		}
		r.t.Logf("%-16s %6d messages, %d repeats", s.Options.ClientID, s.Got.Count(), s.Got.Repeats())
	}
}

func (r *rig) complete(receivers []*fleet.Receiver) {
	r.t.Helper()
	want := r.tally.Snapshot()
	for _, s := range receivers {
		ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
		err := fleet.Complete(ctx, s.Got, want, r.rules(s))
		cancel()
		r.check()
		if err != nil {
			r.t.Fatalf("%s: %v", s.Options.ClientID, err)
		}
	}
}

// rules are what a receiver is owed: the streams to the topics that its filters match.
func (r *rig) rules(s *fleet.Receiver) tally.Rules {
	return tally.Rules{ExactlyOnce: s.Filters[0].QoS == 2, Only: func(stream *tally.Stream) bool {
		name := r.topics[stream]
		if s == r.above && topic.Matches("site/#", name) {
			name = "plant/" + name // the rule of the uplink
		}
		for _, f := range s.Filters {
			if topic.Matches(f.Filter, name) {
				return true
			}
		}
		return false
	}}
}

// TestKillsLoseNothing kills the gateway twenty times while four publishers keep fifty messages
// in flight each, at QoS 1 and 2, with the link to the cloud cut. At the end the sessions come
// back and the link is restored.
func TestKillsLoseNothing(t *testing.T) {
	for _, version := range []packet.Version{packet.V5, packet.V311} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) {
			r := newRig(t, version, 2)
			r.link.Down()
			online, load := r.start(r.online.Run), r.load()
			for kill := range 20 {
				var roaming *devices
				if kill%2 == 0 {
					roaming = r.start(r.roaming.Run)
				}
				r.kill(500 + r.rng.Uint64N(2500))
				if roaming != nil {
					roaming.halt()
				}
			}
			load.halt()
			online.halt()
			r.link.Up()
			r.finish()
		})
	}
}

// TestKillsWhileForwardingLoseNothing kills the gateway while its uplink is sending, with and
// without a cut of the link between the kills: the cloud gets everything, at QoS 2 once.
func TestKillsWhileForwardingLoseNothing(t *testing.T) {
	r := newRig(t, packet.V5, 2)
	load := r.load()
	for kill := range 12 {
		r.kill(500 + r.rng.Uint64N(2500))
		switch kill % 3 {
		case 1:
			r.link.Cut()
		case 2:
			r.link.Down()
			r.kill(500)
			r.link.Up()
		}
	}
	load.halt()
	r.finish()
}

// TestKillsWhileDrainingLoseNothing fills the queues of absent sessions, and kills the gateway
// while they are being read.
func TestKillsWhileDrainingLoseNothing(t *testing.T) {
	r := newRig(t, packet.V5, 2)
	r.link.Down()
	for _, p := range r.publishers {
		p.Limit = 5000
	}
	r.load().ended.Wait()
	r.check()
	want := r.tally.Snapshot()
	for kill := range 8 {
		sessions := r.attend()
		// At some moment between the first message and the last but a few.
		target := want.Count() * uint64(kill+1) / 10
		for got := r.offline[0].Got; got.Count() < target; {
			changed := got.Changed()
			if got.Count() >= target {
				break
			}
			select {
			case <-changed:
			case err := <-r.failed:
				t.Fatal(err)
			case <-r.ctx.Done():
				t.Fatalf("%d of %d arrived", got.Count(), target)
			}
		}
		if err := r.gateway.Kill(); err != nil {
			t.Fatal(err)
		}
		sessions.halt()
		if err := r.gateway.Start(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	r.link.Up()
	r.finish()
}
