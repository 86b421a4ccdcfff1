package badinput

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// memory is what a broker had in memory before an attack.
type memory struct {
	broker *process.Process
	before int64 // bytes
}

func remember(t *testing.T, broker *process.Process) memory {
	t.Helper()
	m := memory{broker: broker}
	m.before = m.grown(t)
	return m
}

// grown is how many bytes the broker has more than before.
func (m memory) grown(t *testing.T) int64 {
	t.Helper()
	n, err := m.broker.Resident()
	if err != nil {
		t.Fatal(err)
	}
	return n - m.before
}

// below fails if an attack costs the broker that much memory.
func (m memory) below(t *testing.T, limit int64) {
	t.Helper()
	if n := m.grown(t); n > limit {
		t.Fatalf("the broker has grown by %d KiB, allowed are %d", n>>10, limit>>10)
	}
}

// stays is what an attack may leave behind, bytes: tables that once had ten thousand entries keep
// their size (3 MiB), and the heap keeps the 4 MiB that are not worth giving back.
const stays = 8 << 20

// returns waits until the broker has given back what an attack has cost. It does so seconds after
// the end of it; how many, the machine decides.
func (m memory) returns(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(6 * guard); m.grown(t) > stays; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the broker still has %d KiB more than before, allowed are %d", m.grown(t)>>10, stays>>10)
		}
	}
}

// holds attacks n times and fails if the broker is larger than limit after one of them: what an
// attack has taken must serve the next, or n of them are too many. In the end it must have gone.
func (m memory) holds(t *testing.T, n int, limit int64, attack func()) {
	t.Helper()
	for range n {
		attack()
		m.below(t, limit)
	}
	m.returns(t)
}

func start(t *testing.T, settings ...string) *process.Process {
	t.Helper()
	broker, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	return broker
}

// enter opens a connection and says CONNECT, but does not wait for the answer.
func enter(t *testing.T, broker *process.Process, c packet.Connect) *client.Raw {
	t.Helper()
	raw, err := client.Dial(t.Context(), "tcp", broker.Spec.Address, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	c.Version, c.RequestProblem = packet.V5, true
	if _, err := raw.Write(packet.AppendConnect(nil, &c)); err != nil {
		t.Fatal(err)
	}
	return raw
}

// expect reads the next packet.
func expect(t *testing.T, raw *client.Raw, want packet.Type) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	h, body, err := raw.Packet(ctx)
	if err != nil || h.Type != want {
		t.Fatalf("got %v, %v; want %v", h.Type, err, want)
	}
	return body
}

// TestClaimedBytesCostNothing has thousands of clients each announce a packet of a quarter of a
// GiB, of which a byte comes each second.
func TestClaimedBytesCostNothing(t *testing.T) {
	const clients, seconds, claim = 10_000, 2, 250 << 20
	broker := start(t, "limits.max_packet=256MiB", "limits.max_output=256MiB")
	canary := newCanary(t, broker.Spec.Address)
	canary.sing(t)
	m := remember(t, broker)
	publish := append([]byte{0x30}, binary.AppendUvarint(nil, claim)...) // of QoS 0
	m.holds(t, 3, 40<<20, func() {
		all := make([]*client.Raw, clients)
		for i := range all {
			all[i] = enter(t, broker, packet.Connect{ClientID: fmt.Append(nil, "claims", i), CleanStart: true})
			if i%1000 == 0 {
				canary.sing(t)
			}
		}
		for _, c := range all {
			expect(t, c, packet.CONNACK)
			if _, err := c.Write(publish); err != nil {
				t.Fatal(err)
			}
		}
		second := time.NewTicker(time.Second)
		defer second.Stop()
		for range seconds {
			for i, c := range all {
				if _, err := c.Write([]byte{0}); err != nil {
					t.Fatal(err)
				}
				if i%1000 == 0 {
					canary.sing(t)
				}
			}
			<-second.C
		}
		m.below(t, clients*4<<10)
		for _, c := range all {
			c.Close()
		}
		canary.sing(t)
	})
}

// TestSubscriberThatNeverReadsCostsNobodyAnything sends 60 MB to a client that has stopped
// reading.
func TestSubscriberThatNeverReadsCostsNobodyAnything(t *testing.T) {
	for qos := packet.QoS(0); qos <= 1; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			broker := start(t)
			canary := newCanary(t, broker.Spec.Address)
			canary.sing(t)
			m := remember(t, broker)
			m.holds(t, 8, 48<<20, func() {
				deaf := enter(t, broker, packet.Connect{ClientID: []byte("deaf"), CleanStart: true})
				expect(t, deaf, packet.CONNACK)
				if _, err := deaf.Write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "much", Options: packet.SubscribeOptions{QoS: qos}}}, packet.V5)); err != nil {
					t.Fatal(err)
				}
				expect(t, deaf, packet.SUBACK)
				p := client.New(client.Options{Address: broker.Spec.Address, ClientID: "p", Guard: guard})
				if _, err := p.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				payload := make([]byte, 60_000)
				for i := range 1000 {
					if err := p.Publish(t.Context(), client.Publish{Topic: "much", Payload: payload, QoS: qos}); err != nil {
						t.Fatal(err)
					}
					if i%100 == 0 {
						canary.sing(t)
						m.below(t, 48<<20)
					}
				}
				if err := p.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				canary.sing(t)
				m.below(t, 48<<20)
				deaf.Close()
				canary.sing(t)
			})
		})
	}
}

// TestTakeoverStormLeavesOneSession has many connections fight for one client identifier.
func TestTakeoverStormLeavesOneSession(t *testing.T) { // [MQTT-3.1.4-3]
	const fighters, rounds = 20, 100
	broker := start(t)
	canary := newCanary(t, broker.Spec.Address)
	canary.sing(t)
	me := packet.Connect{ClientID: []byte("wanted"), SessionExpiry: 3600}
	first := enter(t, broker, me)
	expect(t, first, packet.CONNACK)
	if _, err := first.Write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "for/me", Options: packet.SubscribeOptions{QoS: 1}}}, packet.V5)); err != nil {
		t.Fatal(err)
	}
	expect(t, first, packet.SUBACK)
	m := remember(t, broker)
	var all sync.WaitGroup
	for range fighters { // each ends by itself; waited for below
		all.Go(func() {
			for range rounds {
				ctx, cancel := context.WithTimeout(t.Context(), guard)
				raw, err := client.Dial(ctx, "tcp", broker.Spec.Address, packet.V5)
				if err == nil {
					c := me
					c.Version = packet.V5
					raw.Write(packet.AppendConnect(nil, &c))
					// Whoever is overtaken while its session is on the way to disk hears nothing.
					_, _, err = raw.Packet(ctx)
					if ctx.Err() == nil {
						err = nil
					}
					raw.Close()
				}
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { // ends with the fighters
		all.Wait()
		close(over)
	}()
	for fighting := true; fighting; {
		canary.sing(t)
		select {
		case <-over:
			fighting = false
		default:
		}
	}
	if code, said, err := first.Closed(t.Context()); err != nil || said && code != packet.SessionTakenOver {
		t.Errorf("the first was told %v, %v; want 0x8E", code, err)
	}
	p := client.New(client.Options{Address: broker.Spec.Address, ClientID: "p", Guard: guard})
	if _, err := p.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.Publish(t.Context(), client.Publish{Topic: "for/me", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := p.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := enter(t, broker, me)
	a, err := packet.ParseConnack(expect(t, last, packet.CONNACK), packet.V5)
	if err != nil || !a.SessionPresent {
		t.Errorf("the session is gone after the storm: %v, %v", a, err)
	}
	expect(t, last, packet.PUBLISH)
	m.below(t, 48<<20)
	m.returns(t)
}
