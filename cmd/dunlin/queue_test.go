package main

import (
	"context"
	"fmt"
	"testing"

	"dunlin/testbench/client"
)

// What a full queue has dropped stays dropped, and what it has kept is there, after the process is
// killed between any two messages.
func TestDroppedMessagesDoNotComeBackAfterAKill(t *testing.T) {
	for policy, want := range map[string]string{"drop_newest": "[0 1 2 3 4 last]", "drop_oldest": "[16 17 18 19 last]"} {
		t.Run(policy, func(t *testing.T) {
			broker := startGateway(t, "sessions.max_queued_messages=5", "sessions.when_full="+policy)
			ctx, cancel := context.WithTimeout(t.Context(), 2*hang)
			defer cancel()
			away := client.New(client.Options{Address: broker.Spec.Address, ClientID: "away", SessionExpiry: 3600})
			p := client.New(client.Options{Address: broker.Spec.Address, ClientID: "p", SessionExpiry: 3600})
			defer away.Close()
			defer p.Close()
			connect := func(c *client.Client) {
				t.Helper()
				if _, err := c.Connect(ctx); err != nil {
					t.Fatal(err)
				}
			}
			publish := func(payload string) {
				t.Helper()
				if err := p.Publish(ctx, client.Publish{Topic: "a", Payload: []byte(payload), QoS: 1}); err != nil {
					t.Fatal(err)
				}
				if err := p.Drain(ctx); err != nil {
					t.Fatal(err)
				}
			}
			connect(away)
			if _, err := away.Subscribe(ctx, client.Filter{Filter: "a", QoS: 1}); err != nil {
				t.Fatal(err)
			}
			if err := away.Disconnect(ctx); err != nil {
				t.Fatal(err)
			}
			connect(p)
			for i := range 20 {
				publish(fmt.Sprint(i))
				if i%6 != 5 {
					continue
				}
				if err := broker.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := broker.Start(ctx); err != nil {
					t.Fatal(err)
				}
				connect(p)
			}
			if policy == "drop_oldest" {
				publish("last") // takes the place of 15
			}
			if err := broker.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := broker.Start(ctx); err != nil {
				t.Fatal(err)
			}
			connect(away)
			var got []string
			receive := func() {
				t.Helper()
				m, err := away.Receive(ctx)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(m.Payload))
			}
			for range 5 {
				receive()
			}
			if policy == "drop_newest" { // nothing stands between them and what comes now
				connect(p)
				publish("last")
				receive()
			}
			if fmt.Sprint(got) != want {
				t.Errorf("got %v, want %s", got, want)
			}
		})
	}
}
