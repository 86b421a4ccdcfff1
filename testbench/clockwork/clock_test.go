package clockwork_test

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/clockwork"
	"dunlin/testbench/process"
)

// guard bounds every wait, so that a broker that hangs fails the test.
const guard = 30 * time.Second

const (
	hour = time.Hour
	year = 365 * 24 * time.Hour
)

var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	clockwork.Main()
	// They wait for seconds to pass, not for the processor.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// site is a gateway on a machine of its own, whose cloud cannot be reached until the end.
type site struct {
	*clockwork.Machine
	t      *testing.T
	broker *process.Process
	cloud  *process.Process // does not run until the end
	above  *client.Client   // subscribes in the cloud
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Machine: clockwork.New(t, noon), t: t}
	var err error
	if s.cloud, err = process.Dunlin(t.Context(), t.TempDir(), process.Gateway{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cloud.Kill() })
	s.above = client.New(client.Options{Address: s.cloud.Spec.Address, Guard: guard, ClientID: "above", SessionExpiry: 3600})
	t.Cleanup(s.above.Close)
	if _, err := s.above.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.subscribe(s.above, "up/#")
	if err := s.cloud.Kill(); err != nil {
		t.Fatal(err)
	}
	s.broker, err = process.Dunlin(t.Context(), t.TempDir(), s.On(process.Gateway{
		Settings: []string{"sessions.will_grace=1s", "log.level=debug"},
		Uplinks: []process.Uplink{{
			Name: "cloud", Endpoint: "mqtt://" + s.cloud.Spec.Address, ClientID: "g", Rules: []process.Rule{{From: "up/#", QoS: 1}},
		}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.broker.Kill()
		if t.Failed() {
			t.Logf("the machine is %v; the end of the log:\n%s", s, s.broker.Tail(5000))
		}
	})
	return s
}

func (s *site) connect(o client.Options) (*client.Client, packet.Connack) {
	s.t.Helper()
	o.Address, o.Guard = s.broker.Spec.Address, guard
	c := client.New(o)
	a, err := c.Connect(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c, a
}

func (s *site) subscribe(c *client.Client, filters ...string) {
	s.t.Helper()
	for _, f := range filters {
		if _, err := c.Subscribe(s.t.Context(), client.Filter{Filter: f, QoS: 1}); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) receive(c *client.Client) client.Message {
	s.t.Helper()
	m, err := c.Receive(s.t.Context())
	if err != nil {
		s.t.Fatalf("%v (%v)", err, c.Err())
	}
	return m
}

// publish waits for the acknowledgement.
func (s *site) publish(c *client.Client, p client.Publish) {
	s.t.Helper()
	if p.Payload == nil {
		p.Payload = []byte(p.Topic)
	}
	if err := c.Publish(s.t.Context(), p); err != nil {
		s.t.Fatal(err)
	}
	if err := c.Drain(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// fill gives the broker, of everything that waits, what is over in one hour and what is in three.
func (s *site) fill() {
	s.t.Helper()
	one, three := uint32(hour/time.Second), uint32(3*hour/time.Second)
	for name, expiry := range map[string]uint32{"short": one, "long": three} {
		c, _ := s.connect(client.Options{ClientID: name, SessionExpiry: expiry})
		if err := c.Disconnect(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
	queue, _ := s.connect(client.Options{ClientID: "queue", SessionExpiry: 30 * 24 * one})
	s.subscribe(queue, "queued/#", "now/#")
	if err := queue.Disconnect(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	p, _ := s.connect(client.Options{ClientID: "p"})
	for name, expiry := range map[string]uint32{"1": one, "3": three} {
		s.publish(p, client.Publish{Topic: "queued/" + name, QoS: 1, HasExpiry: true, Expiry: expiry})
		s.publish(p, client.Publish{Topic: "kept/" + name, QoS: 1, HasExpiry: true, Expiry: expiry, Retain: true})
		s.publish(p, client.Publish{Topic: "up/" + name, QoS: 1, HasExpiry: true, Expiry: expiry})
		s.publish(p, client.Publish{Topic: "$delayed/" + map[string]string{"1": "3600", "3": "10800"}[name] + "/now/delayed/" + name, QoS: 1})
		c, _ := s.connect(client.Options{ClientID: "will" + name, SessionExpiry: 24 * one, Will: &packet.Will{
			Topic: []byte("now/will/" + name), Payload: []byte("x"), QoS: 1, Delay: expiry,
		}})
		c.Close()
	}
	if err := p.Disconnect(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// reboot switches the machine off, without a warning, for a while.
func (s *site) reboot(off time.Duration, change func()) {
	s.t.Helper()
	s.settle()
	if err := s.broker.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.Off(off)
	if change != nil {
		change()
	}
	if err := s.broker.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// settle waits until everything that was handed over is on disk, and what was due has been done.
func (s *site) settle() {
	s.t.Helper()
	c, _ := s.connect(client.Options{ClientID: "settle"})
	s.subscribe(c, "settled")
	s.publish(c, client.Publish{Topic: "$delayed/1/settled", QoS: 1})
	s.receive(c)
	if err := c.Disconnect(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// check looks at what is left: everything, or after two hours what lasts for three.
func (s *site) check(hours int) {
	s.t.Helper()
	s.settle()
	over := hours > 0
	for name, want := range map[string]bool{"short": !over, "long": true} {
		if _, a := s.connect(client.Options{ClientID: name, SessionExpiry: 1}); a.SessionPresent != want {
			s.t.Errorf("the session %s is there: %v, want %v", name, a.SessionPresent, want)
		}
	}
	queue, a := s.connect(client.Options{ClientID: "queue", SessionExpiry: 3600})
	if !a.SessionPresent {
		s.t.Error("the session is gone")
	}
	s.subscribe(queue, "kept/#", "end")
	p, _ := s.connect(client.Options{ClientID: "p"})
	s.publish(p, client.Publish{Topic: "end", QoS: 1})
	got := map[string]bool{}
	for m := s.receive(queue); m.Topic != "end"; m = s.receive(queue) {
		got[m.Topic] = true
		if left := time.Duration(m.Expiry) * time.Second; m.HasExpiry {
			want := 3*hour - time.Duration(hours)*hour
			if strings.HasSuffix(m.Topic, "/1") {
				want -= 2 * hour
			}
			if left > want || left < want-10*time.Minute {
				s.t.Errorf("%s has %v left, want about %v", m.Topic, left, want) // [MQTT-3.3.2-6]
			}
		}
	}
	for name, want := range map[string]bool{
		"queued/1": !over, "queued/3": true, "kept/1": !over, "kept/3": true,
		"now/delayed/1": over, "now/delayed/3": false, "now/will/1": over, "now/will/3": false,
	} {
		if got[name] != want {
			s.t.Errorf("%s has come: %v, want %v", name, got[name], want)
		}
	}
	s.checkAbove(over)
}

// checkAbove looks at what of the spool of the uplink is sent when the link is there.
func (s *site) checkAbove(over bool) {
	s.t.Helper()
	if err := s.cloud.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.above.Connect(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	p, _ := s.connect(client.Options{ClientID: "p"})
	s.publish(p, client.Publish{Topic: "up/end", QoS: 1})
	got := map[string]bool{}
	for m := s.receive(s.above); m.Topic != "up/end"; m = s.receive(s.above) {
		got[m.Topic] = true
	}
	if got["up/1"] == over || !got["up/3"] {
		s.t.Errorf("%v went up", got)
	}
}

func TestTimeBetweenBootsCountsIfTheClockWasSynchronisedInBoth(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill()
	s.reboot(2*hour, nil)
	s.check(2)
}

func TestTimeBetweenBootsDoesNotCountWhileTheClockIsUnknown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill()
	s.reboot(2*hour, s.Forget) // no battery: 1970
	s.check(0)
}

func TestWhatIsKnownOnlyLaterCountsFromThenOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill()
	s.reboot(2*hour, s.Forget)
	s.settle()
	s.Sync() // the network is there, and with it the time
	s.settle()
	s.check(2)
}

func TestTheTimeOfTheLastBootIsEnoughIfItWasSynchronisedLate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Forget()
	s.fill()
	s.Sync()
	s.settle()
	if err := s.broker.Stop(t.Context()); err != nil { // which saves what is known of the boot
		t.Fatal(err)
	}
	s.Off(2 * hour)
	if err := s.broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.check(2)
}

func TestAStepOfTheWallClockChangesNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		step time.Duration
	}{{"a year ahead", year}, {"a year back", -year}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			there, _ := s.connect(client.Options{ClientID: "there", KeepAlive: 5})
			s.fill()
			s.Step(test.step, true)
			s.settle()
			if err := there.Ping(t.Context()); err != nil {
				t.Errorf("a client that is connected: %v", err)
			}
			s.check(0)
		})
	}
}

func TestAClockThatWasWrongInOneBootEndsNothingInTheNext(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		step       time.Duration
		vouched    bool // somebody says it is right
		afterwards func(s *site)
	}{
		{"a year ahead, then right", year, true, (*site).sync},
		{"a year back, nobody vouches for it", -year, false, nil},
		{"a year ahead, nobody vouches for it", year, false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.fill()
			s.Step(test.step, test.vouched)
			s.settle()
			s.reboot(0, func() {
				if test.afterwards != nil {
					test.afterwards(s)
				}
			})
			s.check(0)
		})
	}
}

func (s *site) sync() { s.Machine.Correct() }

func TestTimeInSuspendCounts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	there, _ := s.connect(client.Options{ClientID: "there", KeepAlive: 5})
	s.fill()
	s.settle()
	s.Suspend(2 * hour)
	s.settle() // dates are looked at a second later
	if err := there.Ping(t.Context()); err != nil {
		t.Errorf("a client that is connected: %v", err)
	}
	s.check(2)
}
