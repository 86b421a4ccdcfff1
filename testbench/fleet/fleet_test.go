package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/process"
	"dunlin/testbench/simnet"
	"dunlin/testbench/tally"
)

// TestLossesOfTheConnectionAreBridged lets a fleet work over a link that is dropped again and
// again, with a broker that keeps its sessions in memory: the fleet itself must lose and double
// nothing.
func TestLossesOfTheConnectionAreBridged(t *testing.T) {
	for _, v := range []packet.Version{packet.V5, packet.V311} {
		t.Run(fmt.Sprintf("version %d", v), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			broker, err := process.Mosquitto(ctx, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer broker.Kill()
			link, err := simnet.Listen(broker.Spec.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()

			tly := tally.New()
			r := &fleet.Receiver{
				Options: client.Options{Address: link.Addr(), Version: v, ClientID: "receiver", SessionExpiry: 3600},
				Filters: []client.Filter{{Filter: "#", QoS: 2}},
				Got:     tly.Receiver(),
			}
			if err := r.Join(ctx); err != nil {
				t.Fatal(err)
			}
			var running sync.WaitGroup
			failed := make(chan error, 8)
			run := func(f func(context.Context, <-chan struct{}) error, stop <-chan struct{}) {
				running.Go(func() { // ends with stop; the test waits
					if err := f(ctx, stop); err != nil {
						failed <- err
					}
				})
			}
			for i := range 2 {
				p := &fleet.Publisher{
					Options: client.Options{Address: link.Addr(), Version: v, ClientID: fmt.Sprintf("p%d", i), SessionExpiry: 3600},
					Lines: []fleet.Line{
						{Topic: fmt.Sprintf("p%d/1", i), Stream: tly.Stream(fmt.Sprintf("p%d/1", i), 1)},
						{Topic: fmt.Sprintf("p%d/2", i), Stream: tly.Stream(fmt.Sprintf("p%d/2", i), 2)},
					},
					Limit: 5000,
				}
				run(p.Run, nil)
			}
			leave := make(chan struct{})
			received := make(chan struct{})
			go func() { // ends with leave; the test waits
				defer close(received)
				if err := r.Run(ctx, leave); err != nil {
					failed <- err
				}
			}()
			for cut := range uint64(18) {
				for r.Got.Count() < (cut+1)*500 {
					changed := r.Got.Changed()
					if r.Got.Count() >= (cut+1)*500 {
						break
					}
					select {
					case <-changed:
					case err := <-failed:
						t.Fatal(err)
					case <-ctx.Done():
						t.Fatalf("%d messages arrived", r.Got.Count())
					}
				}
				link.Cut()
			}
			running.Wait()
			want := tly.Snapshot()
			rules := tally.Rules{ExactlyOnce: true}
			if err := fleet.Complete(ctx, r.Got, want, rules); err != nil {
				t.Error(err)
			}
			close(leave)
			<-received
			select {
			case err := <-failed:
				t.Error(err)
			default:
			}
			if err := r.Got.Check(want, rules); err != nil {
				t.Error(err)
			}
			if want.Count() != 10_000 {
				t.Errorf("%d acknowledged, want 10000", want.Count())
			}
		})
	}
}

// TestForgottenSessionIsAnError restarts a broker that keeps nothing: the fleet must say so.
func TestForgottenSessionIsAnError(t *testing.T) {
	broker, err := process.Mosquitto(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Kill()
	tly := tally.New()
	r := &fleet.Receiver{
		Options: client.Options{Address: broker.Spec.Address, ClientID: "receiver", SessionExpiry: 3600},
		Filters: []client.Filter{{Filter: "#", QoS: 2}},
		Got:     tly.Receiver(),
	}
	if err := r.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := &fleet.Publisher{
		Options: client.Options{Address: broker.Spec.Address, ClientID: "p", SessionExpiry: 3600},
		Lines:   []fleet.Line{{Topic: "a", Stream: tly.Stream("a", 1)}},
		Limit:   10,
	}
	if err := p.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := broker.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context(), nil); !errors.Is(err, fleet.ErrForgotten) {
		t.Errorf("the publisher says %v, want ErrForgotten", err)
	}
	if err := r.Run(t.Context(), nil); !errors.Is(err, fleet.ErrForgotten) {
		t.Errorf("the receiver says %v, want ErrForgotten", err)
	}
}
