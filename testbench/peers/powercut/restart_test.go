package powercut

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dunlin/storeforward/boltfile"
	"dunlin/testbench/books"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/peers/faultdisk"
	"dunlin/testbench/process"
	"dunlin/testbench/tally"
)

// patience is how long a receiver waits for what it is owed. It is a guard against hanging.
const patience = 30 * time.Second

// duty is what a disk must hold.
type duty struct {
	want *tally.Snapshot // messages for each session and the cloud
	late int             // of the late sessions, the first so many
}

// restart starts a fresh broker on the disk as the cut left it, with a fresh cloud, and returns
// an error if somebody lacks what was acknowledged after patience, or has too much.
func (r *run) restart(t *testing.T, ctx context.Context, image []byte, must duty, patience time.Duration, settings ...string) error {
	t.Helper()
	mounted, err := faultdisk.Mount(t.TempDir(), r.system, image)
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(r.check(t, ctx, mounted.Path, must, patience, settings), mounted.Close())
}

// check does the same on a mounted disk.
func (r *run) check(t *testing.T, ctx context.Context, path string, must duty, patience time.Duration, settings []string) error {
	t.Helper()
	dir := t.TempDir()
	if err := r.audit(filepath.Join(path, "data"), dir, must); err != nil {
		return err
	}
	cloud, err := process.Mosquitto(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cloud.Kill()
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	failed := make(chan error, 8)
	start := func(s *fleet.Receiver) {
		wait.Go(func() { // ends with the context; check waits
			if err := s.Run(ctx, nil); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	above := r.session("above", client.Filter{Filter: "plant/#", QoS: 2})
	above.Options.Address = cloud.Spec.Address
	if err := above.Join(ctx); err != nil {
		t.Fatal(err)
	}
	start(above)

	gateway, err := process.Dunlin(ctx, dir, r.config(filepath.Join(path, "data"), cloud.Spec.Address, settings))
	if err != nil {
		return err
	}
	defer gateway.Kill()
	receivers := []*fleet.Receiver{above}
	for _, joined := range r.sessions {
		s := r.session(joined.Options.ClientID, joined.Filters...)
		s.Options.Address, s.Joined = gateway.Spec.Address, true
		start(s)
		receivers = append(receivers, s)
	}
	for _, s := range receivers {
		rules := tally.Rules{ExactlyOnce: s.Filters[0].QoS == 2}
		complete, cancel := context.WithTimeout(ctx, patience)
		err := fleet.Complete(complete, s.Got, must.want, rules)
		cancel()
		select {
		case failure := <-failed:
			return failure
		default:
		}
		if err == nil {
			err = s.Got.Check(must.want, rules)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Options.ClientID, err)
		}
	}
	// The files were whole: nothing is to be salvaged.
	for _, file := range []string{"sessions.db", "uplink-cloud.db"} {
		if aside := boltfile.Aside(filepath.Join(path, "data", file)); len(aside) > 0 {
			return fmt.Errorf("the gateway has put aside %q", aside)
		}
	}
	return errors.Join(
		r.retained(ctx, gateway.Spec.Address, must.want, patience),
		r.subscriptions(ctx, gateway.Spec.Address, must.late, patience))
}

// audit looks at the books on the disk: they add up, nothing has left the queues of sessions that
// were away, and what is in them is at least what was acknowledged.
func (r *run) audit(data, scratch string, must duty) error {
	b, err := books.Read(data, scratch)
	if err != nil {
		return err
	}
	for _, s := range r.sessions {
		if a := b.Sessions[s.Options.ClientID]; a.Pending != a.Accepted || a.Pending < must.want.Count() {
			return fmt.Errorf("the books of %s say %+v, %d messages were acknowledged", s.Options.ClientID, a, must.want.Count())
		}
	}
	return nil
}

// retained returns an error if a retained message is older than what was acknowledged.
func (r *run) retained(ctx context.Context, address string, want *tally.Snapshot, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := client.New(client.Options{Address: address})
	defer c.Close()
	if _, err := c.Connect(ctx); err != nil {
		return err
	}
	if _, err := c.Subscribe(ctx, client.Filter{Filter: "site/+/state"}); err != nil {
		return err
	}
	newest := make(map[string]*tally.Stream)
	for _, line := range r.states {
		if want.CountOf(line.Stream) > 0 {
			newest[line.Topic] = line.Stream
		}
	}
	for len(newest) > 0 {
		m, err := c.Receive(ctx)
		if err != nil {
			return fmt.Errorf("%d retained messages are missing: %w", len(newest), err)
		}
		stream := newest[m.Topic]
		if stream == nil {
			continue // of a device that came later, or was not acknowledged
		}
		got := r.tally.Receiver()
		got.Add(m.Payload)
		for seq := stream.Last(); seq > 0; seq-- {
			if got.Has(stream, seq) {
				break
			}
			if want.Has(stream, seq) {
				return fmt.Errorf("%s retains %.30q, %d was acknowledged", m.Topic, m.Payload, seq)
			}
		}
		delete(newest, m.Topic)
	}
	return nil
}

// subscriptions returns an error if one of the first n late sessions is gone, or does not get what
// it has subscribed to.
func (r *run) subscriptions(ctx context.Context, address string, n int, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := client.New(client.Options{Address: address})
	defer p.Close()
	if _, err := p.Connect(ctx); err != nil {
		return err
	}
	for _, late := range r.late[:n] {
		c := client.New(client.Options{Address: address, ClientID: late.name, SessionExpiry: 3600})
		defer c.Close()
		connack, err := c.Connect(ctx)
		if err != nil {
			return err
		}
		if !connack.SessionPresent {
			return fmt.Errorf("%s: %w", late.name, fleet.ErrForgotten)
		}
		if err := p.Publish(ctx, client.Publish{Topic: "late/" + late.name, QoS: 1}); err != nil {
			return err
		}
		if _, err := c.Receive(ctx); err != nil {
			return fmt.Errorf("the subscription of %s: %w", late.name, err)
		}
	}
	return nil
}
