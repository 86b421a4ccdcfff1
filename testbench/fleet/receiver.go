package fleet

import (
	"context"
	"errors"
	"fmt"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/tally"
)

// Receiver subscribes and notes in Got what arrives.
type Receiver struct {
	Options client.Options
	Filters []client.Filter
	Got     *tally.Got
	// Joined says that the broker has confirmed session and subscriptions: it must still have
	// them. Join and Run set it.
	Joined bool

	client *client.Client
}

// Join makes the session with its subscriptions and disconnects: from then on everything is
// queued for it.
func (r *Receiver) Join(ctx context.Context) error {
	if err := r.connect(ctx, nil); err != nil {
		return err
	}
	defer r.client.Close()
	if err := r.client.Disconnect(ctx); err != nil {
		return r.wrap(err)
	}
	return nil
}

// Run connects and receives until stop is closed, over any number of lost connections. Then it
// drops the connection; the session stays. Run may be called again.
//
// It returns an error if ctx ends first, if the broker breaks the protocol, or ErrForgotten.
func (r *Receiver) Run(ctx context.Context, stop <-chan struct{}) error {
	err := r.receive(ctx, stop)
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

func (r *Receiver) receive(ctx context.Context, stop <-chan struct{}) error {
	if err := r.connect(ctx, stop); err != nil {
		return err
	}
	defer r.client.Close()
	for {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return r.wrap(ctx.Err())
		case <-r.client.Done():
			if err := r.client.Err(); !client.Lost(err) {
				return r.wrap(err)
			}
			if err := r.connect(ctx, stop); err != nil {
				return err
			}
		}
	}
}

// connect connects, and subscribes unless the session is known to have the subscriptions.
func (r *Receiver) connect(ctx context.Context, stop <-chan struct{}) error {
	if r.client == nil {
		r.client = client.New(r.options())
	}
	for {
		present, err := connect(ctx, r.client, stop)
		if err != nil {
			return r.wrap(err)
		}
		switch {
		case r.Joined && present:
			return nil
		case r.Joined && !r.Options.CleanStart:
			return r.wrap(ErrForgotten)
		}
		codes, err := r.client.Subscribe(ctx, r.Filters...)
		if client.Lost(err) {
			continue
		}
		if err != nil {
			return r.wrap(err)
		}
		for i, code := range codes {
			if code != packet.ReasonCode(r.Filters[i].QoS) {
				return r.wrap(fmt.Errorf("%s was granted %v (0x%02X)", r.Filters[i].Filter, code, byte(code)))
			}
		}
		r.Joined = true
		return nil
	}
}

// options returns the options of the client, which notes each message before it is acknowledged.
func (r *Receiver) options() client.Options {
	o := r.Options
	o.Deliver = func(m client.Message) { r.Got.Add(m.Payload) }
	return o
}

func (r *Receiver) wrap(err error) error {
	return fmt.Errorf("fleet: receiver %s: %w", r.Options.ClientID, err)
}

// Complete waits until everything in want has arrived. It returns what is missing when ctx ends.
func Complete(ctx context.Context, got *tally.Got, want *tally.Snapshot, r tally.Rules) error {
	for {
		changed := got.Changed()
		if got.Missing(want, r.Only) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("fleet: %d of %d arrived: %w", got.Count(), want.Count(), got.Check(want, r))
		}
	}
}
