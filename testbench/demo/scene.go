package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/process"
	"dunlin/testbench/simnet"
	"dunlin/testbench/tally"
)

const (
	// catchUp bounds the wait for what is still on its way.
	catchUp = 30 * time.Second
	// frames is how often the screen is drawn, per second.
	frames = 10
)

// The moments of the story, seconds from the start at speed 1.
const (
	cutAt     = 5
	killAt    = 14
	startAt   = 16.5
	restoreAt = 22
	endAt     = 28
)

// scene is a gateway between devices and the cloud.
type scene struct {
	devices int
	rate    int     // messages per second of each device
	speed   float64 // of the story

	screen    *screen
	gateway   *process.Process
	link      *simnet.Proxy
	tally     *tally.Tally
	above     *fleet.Receiver // what an application in the cloud gets
	linkUp    atomic.Bool
	gatewayUp atomic.Bool
	begin     time.Time
	failed    chan error // of devices and the application
}

// play tells the story. It returns an error if a message was lost or came twice at QoS 2.
func (s *scene) play(ctx context.Context, dir string, screen *screen) error {
	ctx, cancel := context.WithCancel(ctx)
	s.screen, s.tally, s.failed = screen, tally.New(), make(chan error, s.devices+1)
	screen.title("Dunlin", "devices ▶ gateway ▶ cloud: a cut link and a killed gateway lose nothing")

	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	cloud, err := s.up(ctx, dir)
	if cloud != nil {
		defer cloud.Kill()
	}
	if s.link != nil {
		defer s.link.Close()
	}
	if s.gateway != nil {
		defer s.gateway.Kill()
	}
	if err != nil {
		return err
	}
	if err := s.above.Join(ctx); err != nil {
		return err
	}
	s.begin = time.Now()
	screen.step = time.Duration(float64(time.Second) / s.speed)
	screen.least = uint64(s.devices * s.rate) // what waits after a second without the link
	s.linkUp.Store(true)
	s.gatewayUp.Store(true)
	// Owner: play, which waits for all that run. They end with the context, the devices with stop.
	running.Go(func() { s.watch(ctx) })
	running.Go(func() { s.run(ctx, s.above.Run, nil) })
	stop := make(chan struct{})
	var devices sync.WaitGroup
	for i := range s.devices {
		devices.Go(func() { s.run(ctx, s.device(i).Run, stop) })
	}
	screen.event("●", green, "gateway and cloud are up; %d devices publish %s messages a second, half of them at QoS 2",
		s.devices, number(uint64(s.devices*s.rate)))

	if err := s.story(ctx); err != nil {
		return err
	}
	close(stop)
	devices.Wait()
	screen.event("●", green, "the devices stop; each of their messages has been acknowledged")
	return s.reckon(ctx)
}

// up starts the two brokers and the link between them.
func (s *scene) up(ctx context.Context, dir string) (cloud *process.Process, err error) {
	above, below := filepath.Join(dir, "cloud"), filepath.Join(dir, "gateway")
	for _, d := range []string{above, below} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	if cloud, err = process.Dunlin(ctx, above, process.Gateway{}); err != nil {
		return nil, err
	}
	if s.link, err = simnet.Listen(cloud.Spec.Address); err != nil {
		return cloud, err
	}
	s.gateway, err = process.Dunlin(ctx, below, process.Gateway{Uplinks: []process.Uplink{{
		Name: "cloud", Endpoint: "mqtt://" + s.link.Addr(), ClientID: "gateway-1",
		Rules: []process.Rule{{From: "line/#", To: "sites/demo/line/#", QoS: 2}},
	}}})
	if err != nil {
		return cloud, err
	}
	s.above = &fleet.Receiver{
		Options: client.Options{Address: cloud.Spec.Address, ClientID: "application", SessionExpiry: 3600},
		Filters: []client.Filter{{Filter: "sites/#", QoS: 2}},
		Got:     s.tally.Receiver(),
	}
	return cloud, nil
}

// device returns a device that publishes a measurement at QoS 1 and a count at QoS 2 in turn.
func (s *scene) device(i int) *fleet.Publisher {
	name := fmt.Sprintf("line/%d", i+1)
	return &fleet.Publisher{
		Options: client.Options{
			Address: s.gateway.Spec.Address, ClientID: fmt.Sprintf("device-%d", i+1), SessionExpiry: 3600, Window: 50,
		},
		Lines: []fleet.Line{
			{Topic: name + "/temperature", Stream: s.tally.Stream(name+"/temperature", 1)},
			{Topic: name + "/pieces", Stream: s.tally.Stream(name+"/pieces", 2)},
		},
		Size: 64,
		Rate: s.rate,
	}
}

// run runs a device or the application and keeps its error.
func (s *scene) run(ctx context.Context, device func(context.Context, <-chan struct{}) error, stop <-chan struct{}) {
	if err := device(ctx, stop); err != nil && ctx.Err() == nil {
		s.failed <- err
	}
}

// story is what happens between the start and the end.
func (s *scene) story(ctx context.Context) error {
	if err := s.until(ctx, cutAt); err != nil {
		return err
	}
	s.link.Down()
	s.linkUp.Store(false)
	s.screen.event("✂", red, "the link to the cloud is cut; the gateway goes on accepting")

	if err := s.until(ctx, killAt); err != nil {
		return err
	}
	waiting := s.state().waiting
	if err := s.gateway.Kill(); err != nil {
		return err
	}
	s.gatewayUp.Store(false)
	s.screen.event("✘", red, "the gateway is killed (SIGKILL) with %s messages waiting in it", number(waiting))

	if err := s.until(ctx, startAt); err != nil {
		return err
	}
	start := time.Now()
	if err := s.gateway.Start(ctx); err != nil {
		return err
	}
	s.gatewayUp.Store(true)
	s.screen.event("●", green, "the gateway is back after %d ms; the devices resume where they were", time.Since(start).Milliseconds())

	if err := s.until(ctx, restoreAt); err != nil {
		return err
	}
	waiting = s.state().waiting
	s.link.Up()
	s.linkUp.Store(true)
	s.screen.event("●", green, "the link is restored")
	restored, want := time.Now(), s.tally.Snapshot()
	err := fleet.Complete(bounded(ctx, catchUp), s.above.Got, want, tally.Rules{})
	if err := s.failure(ctx); err != nil {
		return err
	}
	if err != nil {
		s.screen.event("✘", red, "the cloud has not caught up within %v", catchUp)
		return nil // the reckoning says what is missing
	}
	s.screen.event("✔", green, "the cloud has caught up with %s messages in %.1f s", number(waiting), time.Since(restored).Seconds())
	return s.until(ctx, endAt)
}

// until waits for a moment of the story.
func (s *scene) until(ctx context.Context, second float64) error {
	at := s.begin.Add(time.Duration(second / s.speed * float64(time.Second)))
	select {
	case <-time.After(time.Until(at)):
		return nil
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failure returns the error of a device or of the context, if there is one.
func (s *scene) failure(ctx context.Context) error {
	select {
	case err := <-s.failed:
		return err
	default:
		return ctx.Err()
	}
}

// watch draws the state until the context ends.
func (s *scene) watch(ctx context.Context) {
	ticker := time.NewTicker(time.Second / frames)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.screen.show(s.state())
		case <-ctx.Done():
			return
		}
	}
}

// state counts. A message may be delivered before its publisher has read the acknowledgement.
func (s *scene) state() state {
	delivered := s.above.Got.Count()
	accepted := s.tally.Acknowledged()
	return state{
		linkUp: s.linkUp.Load(), gatewayUp: s.gatewayUp.Load(),
		accepted: accepted, delivered: delivered, waiting: accepted - min(accepted, delivered),
	}
}

// reckon waits for what is under way and compares the books.
func (s *scene) reckon(ctx context.Context) error {
	want := s.tally.Snapshot()
	rules := tally.Rules{ExactlyOnce: true}
	// What is missing after that is what the table shows.
	_ = fleet.Complete(bounded(ctx, catchUp), s.above.Got, want, rules)
	if err := s.failure(ctx); err != nil {
		return err
	}
	var rows [][]string
	var accepted, delivered, lost uint64
	for qos := byte(1); qos <= 2; qos++ {
		var a, d, twice uint64
		for _, st := range s.tally.Streams() {
			if st.QoS != qos {
				continue
			}
			count, repeats := s.above.Got.Of(st)
			a += st.Count()
			d += count
			twice += repeats
		}
		missing := s.above.Got.Missing(want, func(st *tally.Stream) bool { return st.QoS == qos })
		again := number(twice)
		if qos == 1 && twice > 0 {
			again += " (QoS 1 may)"
		}
		rows = append(rows, []string{fmt.Sprintf("QoS %d", qos), number(a), number(d), number(missing), again})
		accepted, delivered, lost = accepted+a, delivered+d, lost+missing
	}
	s.screen.table([]string{"", "accepted", "delivered", "lost", "came twice"}, rows)
	err := s.above.Got.Check(want, rules)
	s.screen.verdict(err == nil && lost == 0, fmt.Sprintf("accepted %s   delivered %s   lost %s",
		number(accepted), number(delivered), number(lost)))
	return err
}

// bounded returns a context that ends after d, too.
func bounded(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(ctx, cancel)
	return ctx
}
