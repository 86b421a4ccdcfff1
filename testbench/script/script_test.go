// Package script plays the story for which people install a gateway: the link to the cloud
// fails, the machine fails, and everything arrives all the same.
package script

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/process"
	"dunlin/testbench/simnet"
	"dunlin/testbench/tally"
)

// guard bounds a whole test, so that a broker that hangs fails it.
const guard = 5 * time.Minute

// window is how many messages the uplink has in flight, which is what may come twice after a
// cut at QoS 1.
const window = 64

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// TestCutLinkAndKilledGatewayLoseNothing publishes 20,000 messages with the link up, cuts it,
// publishes 100,000 more, kills the gateway, starts it, publishes 20,000 more and restores the
// link: 140,000 arrive in the cloud, in order per topic; at QoS 1 no more come twice than the
// window holds, at QoS 2 none.
func TestCutLinkAndKilledGatewayLoseNothing(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			cloud, err := process.Mosquitto(ctx, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer cloud.Kill()
			link, err := simnet.Listen(cloud.Spec.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			gateway, err := process.Dunlin(ctx, t.TempDir(), process.Gateway{Uplinks: []process.Uplink{{
				Name: "cloud", Endpoint: "mqtt://" + link.Addr(), ClientID: "gateway", Window: window,
				Rules: []process.Rule{{From: "line/#", To: "site/line/#", QoS: 2}},
			}}})
			if err != nil {
				t.Fatal(err)
			}
			defer gateway.Kill()
			defer func() {
				if t.Failed() {
					t.Logf("the end of the log of the gateway:\n%s", gateway.Tail(4000))
				}
			}()

			tly := tally.New()
			above := &fleet.Receiver{
				Options: client.Options{Address: cloud.Spec.Address, ClientID: "above", SessionExpiry: 3600},
				Filters: []client.Filter{{Filter: "site/#", QoS: 2}},
				Got:     tly.Receiver(),
			}
			if err := above.Join(ctx); err != nil {
				t.Fatal(err)
			}
			leave, left := make(chan struct{}), make(chan error, 1)
			go func() { left <- above.Run(ctx, leave) }() // ends with leave; the test waits

			p := &fleet.Publisher{
				Options: client.Options{Address: gateway.Spec.Address, Version: packet.V5, ClientID: "machine", SessionExpiry: 3600, Window: 50},
				Size:    100,
			}
			for i := range 10 {
				name := fmt.Sprintf("line/%d", i)
				p.Lines = append(p.Lines, fleet.Line{Topic: name, Stream: tly.Stream(name, qos)})
			}
			publish := func(n int) {
				t.Helper()
				start := time.Now()
				p.Limit = n
				if err := p.Run(ctx, nil); err != nil {
					t.Fatal(err)
				}
				t.Logf("%6d messages acknowledged in %v", n, time.Since(start).Round(time.Millisecond))
			}

			publish(20_000)
			link.Down()
			publish(100_000)
			if err := gateway.Kill(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := gateway.Start(ctx); err != nil {
				t.Fatal(err)
			}
			t.Logf("the gateway was back in %v", time.Since(start).Round(time.Millisecond))
			publish(20_000)
			start = time.Now()
			had := above.Got.Count()
			link.Up()

			want := tly.Snapshot()
			if want.Count() != 140_000 {
				t.Fatalf("%d acknowledged, want 140000", want.Count())
			}
			rules := tally.Rules{ExactlyOnce: true, MaxBack: window, MaxRepeats: 2 * window}
			if err := fleet.Complete(ctx, above.Got, want, rules); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d waiting messages arrived in %v", want.Count()-had, time.Since(start).Round(time.Millisecond))
			// A repeat would come before what is published now.
			p.Limit = len(p.Lines)
			if err := p.Run(ctx, nil); err != nil {
				t.Fatal(err)
			}
			want = tly.Snapshot()
			if err := fleet.Complete(ctx, above.Got, want, rules); err != nil {
				t.Fatal(err)
			}
			close(leave)
			if err := <-left; err != nil {
				t.Error(err)
			}
			if err := above.Got.Check(want, rules); err != nil {
				t.Error(err)
			}
			t.Logf("%d messages in the cloud, %d repeats", above.Got.Count(), above.Got.Repeats())
		})
	}
}
