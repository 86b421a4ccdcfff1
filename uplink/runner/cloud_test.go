package runner

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/rule"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
	"dunlin/testbench/simnet"
	"dunlin/uplink/forward"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// cloud is mosquitto behind a bad network, with a client in it that receives everything.
type cloud struct {
	t      *testing.T
	server *process.Process
	net    *simnet.Proxy
	got    *received
}

func startCloud(t *testing.T, more ...string) *cloud {
	t.Helper()
	server, err := process.Mosquitto(t.Context(), t.TempDir(), more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Kill() })
	proxy, err := simnet.Listen(server.Spec.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	return &cloud{t: t, server: server, net: proxy}
}

// client returns a connected client in the cloud.
func (c *cloud) client(name string) *client.Client {
	c.t.Helper()
	cl := client.New(client.Options{Address: c.server.Spec.Address, ClientID: name})
	if _, err := cl.Connect(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// receive starts to receive what matches filter in the cloud.
func (c *cloud) receive(filter string) {
	c.t.Helper()
	cl := c.client("receiver")
	if _, err := cl.Subscribe(c.t.Context(), client.Filter{Filter: filter, QoS: 2}); err != nil {
		c.t.Fatal(err)
	}
	c.got = &received{changed: make(chan struct{}), times: map[uint32]int{}, last: map[string]uint32{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			m, err := cl.Receive(ctx)
			if err != nil {
				return
			}
			c.got.add(m)
		}
	})
	c.t.Cleanup(func() { cancel(); running.Wait() })
}

// received counts the numbers that arrive, and how they were in order.
type received struct {
	mu       sync.Mutex
	times    map[uint32]int
	repeated int
	last     map[string]uint32
	disorder []string
	messages []client.Message // the first few
	changed  chan struct{}    // closed at the next arrival
}

func (r *received) add(m client.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := binary.BigEndian.Uint32(m.Payload)
	if r.times[n]++; r.times[n] > 1 {
		r.repeated++
	} else {
		if last := r.last[m.Topic]; n <= last {
			r.disorder = append(r.disorder, fmt.Sprintf("%d behind %d on %s", n, last, m.Topic))
		}
		r.last[m.Topic] = n
	}
	if len(r.messages) < 100 {
		r.messages = append(r.messages, m)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// wait returns when n different numbers have arrived.
func (r *received) wait(t *testing.T, n int) {
	t.Helper()
	limit := time.After(patience)
	for {
		r.mu.Lock()
		have, changed := len(r.times), r.changed
		r.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%d of %d messages have arrived", have, n)
		}
	}
}

// complete checks that the numbers 1 to n have arrived, in order.
func (r *received) complete(t *testing.T, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := uint32(1); i <= uint32(n); i++ {
		if r.times[i] == 0 {
			t.Errorf("message %d is lost", i)
		}
	}
	if len(r.times) != n {
		t.Errorf("%d different messages arrived, want %d", len(r.times), n)
	}
	if len(r.disorder) > 0 {
		t.Errorf("%d messages out of order, the first: %s", len(r.disorder), r.disorder[0])
	}
}

func (c *cloud) options(t *testing.T) Options {
	return Options{
		Name: "cloud", Endpoint: "mqtt://" + c.net.Addr(), ClientID: "gateway", Folder: t.TempDir(),
		Rules:   rule.Set{{From: "up/#", To: "site/a/#", QoS: 2}},
		Backoff: forward.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond, Stable: time.Second},
		NoSync:  true,
	}
}

func openUplink(t *testing.T, o Options) *Uplink {
	t.Helper()
	u, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(context.Background()) })
	return u
}

// number is a message with a number on one of a few topics.
func number(n int, qos byte) *message.Message {
	payload := make([]byte, 40)
	binary.BigEndian.PutUint32(payload, uint32(n))
	return &message.Message{Topic: fmt.Sprintf("up/t%d", n%4), Payload: payload, QoS: qos}
}

// feed appends the numbers from to to, some at once, and returns when all are on disk.
func feed(t *testing.T, u *Uplink, from, to int, qos byte) {
	t.Helper()
	room := make(chan struct{}, 500)
	var all sync.WaitGroup
	for n := from; n <= to; n++ {
		select {
		case room <- struct{}{}:
		default:
			u.Flush()
			room <- struct{}{}
		}
		all.Add(1)
		source := durable.Seq(0)
		if qos == 2 {
			source = durable.Seq(n)
		}
		u.Append(number(n, qos), source, func(err error) {
			if err != nil {
				t.Error(err)
			}
			<-room
			all.Done()
		})
	}
	u.Flush()
	all.Wait()
}

// eventually waits until cond is true; it is asked again and again.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// drained waits until the spool is empty, and checks the ledger.
func drained(t *testing.T, u *Uplink, accepted int) {
	t.Helper()
	eventually(t, "the spool is empty", func() bool { return u.Status().Ledger.Pending == 0 })
	l := u.Status().Ledger
	if l.Accepted != uint64(accepted) || l.Delivered() != uint64(accepted) {
		t.Errorf("accepted %d, delivered %d, dropped %v; want all %d delivered", l.Accepted, l.Delivered(), l.Out, accepted)
	}
}

func TestEveryMessageArrivesInOrderOverLinkCuts(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("qos %d", qos), func(t *testing.T) {
			c := startCloud(t)
			c.receive("site/a/#")
			u := openUplink(t, c.options(t))
			u.Start(nil)
			const messages = 20000
			random := rand.New(rand.NewPCG(1, uint64(qos)))
			for n := 1; n <= messages; n += 400 {
				before := u.Status().Dials
				// In the middle of packets and between them, while messages or releases flow.
				c.net.CutAfter(int64(random.IntN(25000)))
				feed(t, u, n, n+399, qos)
				eventually(t, "the cut was noticed", func() bool { return u.Status().Dials > before })
			}
			drained(t, u, messages)
			c.got.wait(t, messages)
			c.got.complete(t, messages)
			s := u.Status()
			t.Logf("%d dials, %d repeated, %d arrived again", s.Dials, s.Repeated, c.got.repeated)
			if qos == 2 && c.got.repeated > 0 {
				t.Errorf("%d messages at QoS 2 arrived again", c.got.repeated)
			}
			if most := int(s.Dials) * DefaultMaxInFlight; c.got.repeated > most {
				t.Errorf("%d messages arrived again, more than a window for each connection (%d)", c.got.repeated, most)
			}
		})
	}
}

func TestABacklogArrivesAfterALongCutAndARestart(t *testing.T) {
	c := startCloud(t)
	c.receive("site/a/#")
	o := c.options(t)
	u := openUplink(t, o)
	u.Start(nil)
	feed(t, u, 1, 2000, 1)
	c.net.Down()
	feed(t, u, 2001, 12000, 1)
	eventually(t, "the link is down", func() bool { return !u.Status().Connected })
	if err := u.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	u = openUplink(t, o)
	u.Start(nil)
	feed(t, u, 12001, 14000, 1)
	eventually(t, "an attempt has failed", func() bool { return u.Status().LastError != "" })
	c.net.Up()
	drained(t, u, 14000)
	c.got.wait(t, 14000)
	c.got.complete(t, 14000)
}

func TestAServerThatLostTheSessionGetsEverything(t *testing.T) { // [MQTT-3.2.2-5]
	c := startCloud(t)
	u := openUplink(t, c.options(t))
	u.Start(nil)
	var sent sync.WaitGroup
	sent.Go(func() { feed(t, u, 1, 5000, 2) })
	for range 3 {
		eventually(t, "something is in flight", func() bool { return u.Status().InFlight > 0 || u.Status().Ledger.Delivered() == 5000 })
		// Without persistence it forgets its sessions.
		c.server.Kill()
		if err := c.server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sent.Wait()
	drained(t, u, 5000)
}

func TestAStalledLinkIsGivenUp(t *testing.T) {
	c := startCloud(t)
	c.receive("site/a/#")
	o := c.options(t)
	o.KeepAlive = time.Second
	u := openUplink(t, o)
	u.Start(nil)
	feed(t, u, 1, 10, 1)
	c.got.wait(t, 10)
	c.net.Stall()
	feed(t, u, 11, 20, 1)
	eventually(t, "the uplink notices", func() bool { return !u.Status().Connected })
	c.net.Resume()
	drained(t, u, 20)
	c.got.wait(t, 20)
	c.got.complete(t, 20)
}

func TestCloseDoesNotWaitForAStalledLink(t *testing.T) {
	c := startCloud(t)
	u := openUplink(t, c.options(t))
	u.Start(nil)
	eventually(t, "connected", func() bool { return u.Status().Connected })
	c.net.Stall()
	payload := make([]byte, 900<<10)
	for range 20 {
		u.Append(&message.Message{Topic: "up/x", Payload: payload, QoS: 1}, 0, nil)
	}
	u.Flush()
	eventually(t, "something is in flight", func() bool { return u.Status().InFlight > 0 })
	begin := time.Now()
	if err := u.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
}

func TestQoS0GoesOnlyWhileConnected(t *testing.T) {
	c := startCloud(t)
	c.receive("site/a/#")
	u := openUplink(t, c.options(t))
	u.Append(number(1, 0), 0, nil)
	if s := u.Status(); s.QoS0Dropped != 1 {
		t.Errorf("dropped %d, want 1", s.QoS0Dropped)
	}
	u.Start(nil)
	eventually(t, "connected", func() bool { return u.Status().Connected })
	u.Append(number(2, 0), 0, nil)
	c.got.wait(t, 1)
	if s := u.Status(); s.QoS0Sent != 1 || s.Ledger.Accepted != 0 {
		t.Errorf("%+v", s)
	}
	if m := c.got.messages[0]; m.QoS != 0 || binary.BigEndian.Uint32(m.Payload) != 2 {
		t.Errorf("got %+v", m)
	}
}

func TestWhatARuleLeavesOutIsNotAccepted(t *testing.T) {
	c := startCloud(t)
	u := openUplink(t, c.options(t))
	answers := 0
	done := func(err error) {
		if err != nil {
			t.Error(err)
		}
		answers++
	}
	u.Append(&message.Message{Topic: "elsewhere", QoS: 1}, 0, done)
	u.Append(&message.Message{Topic: "up/from/another/uplink", QoS: 1, Source: "other"}, 0, done)
	if s := u.Status(); answers != 2 || s.Filtered != 1 || s.Ledger.Accepted != 0 {
		t.Errorf("%d answers, %+v", answers, s)
	}
}

func TestWhatTheCloudSeesOfAMessage(t *testing.T) {
	c := startCloud(t)
	c.receive("site/a/#")
	o := c.options(t)
	o.Rules = rule.Set{{From: "up/low/#", To: "site/a/low/#", QoS: 1}, {From: "up/#", To: "site/a/#", QoS: 2}}
	u := openUplink(t, o)
	u.Start(nil)
	m := number(1, 2)
	m.Topic, m.HasExpiry, m.Expiry = "up/low/x", true, 100
	m.Properties = []byte{0x01, 1, 0x26, 0, 1, 'k', 0, 1, 'v', 0x03, 0, 1, 'c'}
	done := make(chan error, 1)
	u.Append(m, 7, func(err error) { done <- err })
	u.Flush()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.got.wait(t, 1)
	got := c.got.messages[0]
	if got.Topic != "site/a/low/x" || got.QoS != 1 || !got.HasExpiry || got.Expiry == 0 || got.Expiry > 100 {
		t.Errorf("got %+v", got)
	}
	for _, want := range []string{"\x01\x01", "\x26\x00\x01k\x00\x01v", "\x03\x00\x01c", "\x26\x00\x08spool-id\x00\x07cloud/1"} {
		if !strings.Contains(string(got.Properties), want) {
			t.Errorf("properties %q lack %q", got.Properties, want)
		}
	}
}
