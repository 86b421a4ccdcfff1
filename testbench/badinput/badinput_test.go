// Package badinput sends to the broker what no client may send, and proves that it costs the
// connection it came by and nothing else: the broker closes as the Standard says, a canary is
// answered after each of them, and floods do not make the process grow from one to the next.
//
// What has to be there, and where it is (rows of attacks, generated and odds are named by what they
// send; all go to the real process, whole and byte by byte):
//
//	truncated and oversized lengths          attacks: "cut short", "runs past its end", "five bytes", "claims 256 MB"
//	reserved flags of every packet type      generated: flags
//	UTF-8 faults in every string             generated: texts; attacks: "PUBLISH with …"
//	wildcards in topics, response topics     attacks: "PUBLISH to +", "PUBLISH to #", "wildcard in its response topic"
//	packet id 0                              attacks: "with packet id 0" of seven types
//	QoS 3, DUP at QoS 0                      attacks: "QoS 3"; generated: "PUBLISH with flags"
//	duplicate properties                     generated: doubled
//	properties in the wrong packet           generated: misplaced
//	alias 0, above the maximum, unknown      attacks: "Topic Alias"
//	Receive Maximum exceeded                 odds: "receive maximum at QoS 1", "… 2", "… 2 and 1"
//	SUBSCRIBE without options, reserved ones attacks: "SUBSCRIBE without options", "with reserved options"
//	a+, a/b#                                 odds: badFilters
//	65,535 slashes                           odds: "slashes …", badFilters, badShares
//	malformed $share filters                 odds: badShares
//	packets that only a server sends         attacks: "… from a client"
//	bytes behind the payload of CONNECT      attacks: "CONNECT with bytes behind its payload"
//	10,000 sockets that claim 256 MB         TestClaimedBytesCostNothing
//	a subscriber that never reads            TestSubscriberThatNeverReadsCostsNobodyAnything
//	takeover storms                          TestTakeoverStormLeavesOneSession
//	answers that nobody reads                TestAnswersThatNobodyReadsAreBounded
//	thousands of large wills                 TestWillsAreBounded
//	thousands of properties, filters         TestManyOfOneKindAreTakenOrRefused
package badinput

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// guard bounds every single wait, so that a broker that hangs fails the test.
const guard = 10 * time.Second

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// maxPacket is what the brokers are told to accept, bytes.
const maxPacket = 256 << 10

func TestBadInputClosesItsConnectionAndNothingElse(t *testing.T) {
	broker, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	assault(t, broker, false)
}

// TestAnotherBrokerRefusesTheSame keeps the table honest: what it calls wrong, mosquitto calls
// wrong, too, but for the rows that say so.
func TestAnotherBrokerRefusesTheSame(t *testing.T) {
	broker, err := process.Mosquitto(t.Context(), t.TempDir(), fmt.Sprintf("max_packet_size %d", maxPacket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	assault(t, broker, true)
}

// assault sends every attack whole and byte by byte, each on a connection of its own. lenient
// leaves out the rows that mosquitto lets pass, and the reason codes.
func assault(t *testing.T, broker *process.Process, lenient bool) {
	address := broker.Spec.Address
	canary := newCanary(t, address)
	for _, v := range []packet.Version{packet.V5, packet.V311} {
		for _, a := range slices.Concat(attacks(v), generated(v)) {
			if lenient && a.passes {
				continue
			}
			for _, pieces := range []string{"whole", "byte by byte"} {
				t.Run(fmt.Sprintf("version %d/%s/%s", v, a.name, pieces), func(t *testing.T) {
					code, said, err := a.send(t.Context(), address, v, pieces != "whole")
					if err != nil {
						t.Error(err)
					}
					// Of what came in one piece nothing is left unread that could swallow the last word.
					if !lenient && v == packet.V5 && !said && !a.first && !a.eof && pieces == "whole" {
						t.Errorf("closed without a word, want %v (0x%02X)", a.code, byte(a.code))
					}
					if !lenient && v == packet.V5 && said && code != a.code {
						t.Errorf("closed with %v (0x%02X), want %v (0x%02X)", code, byte(code), a.code, byte(a.code))
					}
					canary.sing(t)
				})
			}
		}
	}
	select {
	case <-broker.Exited():
		t.Fatalf("the broker has ended:\n%s", broker.Tail(4000))
	default:
	}
}

// send sends the attack and waits until the broker has closed the connection.
func (a attack) send(ctx context.Context, address string, v packet.Version, split bool) (packet.ReasonCode, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, guard)
	defer cancel()
	raw, err := client.Dial(ctx, "tcp", address, v)
	if err != nil {
		return 0, false, err
	}
	defer raw.Close()
	if !a.first {
		if _, err := raw.Write(connect(v, "MQTT", byte(v), 2, "", str("attacker"))); err != nil {
			return 0, false, err
		}
		h, body, err := raw.Packet(ctx)
		if err != nil {
			return 0, false, fmt.Errorf("no CONNACK: %w", err)
		}
		if h.Type != packet.CONNACK || body[1] != 0 {
			return 0, false, fmt.Errorf("the CONNECT before it was refused: %v %x", h.Type, body)
		}
	}
	// A broker may close before it has read everything: errors of writing are its answer.
	if split {
		for i := range a.bytes {
			if _, err := raw.Write(a.bytes[i : i+1]); err != nil {
				break
			}
		}
	} else {
		raw.Write(a.bytes)
	}
	if a.eof {
		raw.HalfClose()
	}
	return raw.Closed(ctx)
}

// canary is a client that must not notice anything.
type canary struct {
	c *client.Client
	n int
}

func newCanary(t *testing.T, address string) *canary {
	c := client.New(client.Options{Address: address, ClientID: "canary", Guard: guard})
	if _, err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.Subscribe(t.Context(), client.Filter{Filter: "canary", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	return &canary{c: c}
}

// sing sends a message to itself and waits for it.
func (c *canary) sing(t *testing.T) {
	t.Helper()
	c.n++
	want := fmt.Sprint(c.n)
	if err := c.c.Publish(t.Context(), client.Publish{Topic: "canary", Payload: []byte(want), QoS: 1}); err != nil {
		t.Fatalf("the canary cannot publish: %v (%v)", err, c.c.Err())
	}
	m, err := c.c.Receive(t.Context())
	if err != nil {
		t.Fatalf("the canary got no answer: %v (%v)", err, c.c.Err())
	}
	if string(m.Payload) != want {
		t.Fatalf("the canary got %q, want %q", m.Payload, want)
	}
}

// TestSilentConnectionsAreClosed opens connections that never become clients.
func TestSilentConnectionsAreClosed(t *testing.T) {
	broker, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{
		Settings: []string{"limits.connect_timeout=1s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	canary := newCanary(t, broker.Spec.Address)
	whole := connect(packet.V5, "MQTT", 5, 2, "", str("slow"))
	for _, test := range []struct {
		name string
		sent []byte
	}{
		{"nothing", nil},
		{"the first byte of a CONNECT", whole[:1]},
		{"all but the last byte of a CONNECT", whole[:len(whole)-1]},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			raw, err := client.Dial(ctx, "tcp", broker.Spec.Address, packet.V5)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			if _, err := raw.Write(test.sent); err != nil {
				t.Fatal(err)
			}
			if _, _, err := raw.Closed(ctx); err != nil {
				t.Error(err)
			}
			canary.sing(t)
		})
	}
}
