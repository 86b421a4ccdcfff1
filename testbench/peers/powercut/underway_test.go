package powercut

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/peers/faultdisk"
	"dunlin/testbench/process"
	"dunlin/testbench/tally"
)

// plant is a gateway and a cloud, both the real broker and both on one disk, so that one cut of
// the power ends both, with devices at the one and an application at the other.
type plant struct {
	system         faultdisk.FileSystem
	via            []string // the gateway is run
	disk           *faultdisk.Disk
	tally          *tally.Tally
	gateway, cloud string // addresses, the same over restarts

	publishers []*fleet.Publisher
	receivers  []*fleet.Receiver // of the gateway, online
	above      *fleet.Receiver   // of the cloud, online
	away       *fleet.Receiver   // of the gateway, until the power is back
}

// moment is a cut that everything has to survive.
type moment struct {
	fleet    *fleet.Moment
	position int // of the disk
}

// start starts cloud and gateway with their data in a folder.
func (p *plant) start(ctx context.Context, t *testing.T, data string) (kill func(), err error) {
	cloud, err := process.Dunlin(ctx, t.TempDir(), process.Gateway{
		Address: p.cloud, Data: filepath.Join(data, "cloud"),
	})
	if err != nil {
		return nil, err
	}
	c := config(filepath.Join(data, "gateway"), p.cloud, nil)
	c.Address, c.Via = p.gateway, p.via
	gateway, err := process.Dunlin(ctx, t.TempDir(), c)
	if err != nil {
		cloud.Kill()
		return nil, err
	}
	return func() {
		gateway.Kill()
		cloud.Kill()
	}, nil
}

// newPlant makes the disk and everybody, and starts nothing.
func newPlant(t *testing.T, where place) *plant {
	t.Helper()
	disk, err := faultdisk.Create(t.TempDir(), where.system)
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{system: where.system, via: where.via(t), disk: disk, tally: tally.New()}
	for _, address := range []*string{&p.gateway, &p.cloud} {
		if *address, err = process.FreeAddress(); err != nil {
			t.Fatal(err)
		}
	}
	receiver := func(name, address, filter string, v packet.Version) *fleet.Receiver {
		return &fleet.Receiver{
			Options: client.Options{Address: address, Version: v, ClientID: name, SessionExpiry: 3600},
			Filters: []client.Filter{{Filter: filter, QoS: 2}},
			Got:     p.tally.Receiver(),
		}
	}
	p.receivers = []*fleet.Receiver{
		receiver("online-5", p.gateway, "site/#", packet.V5),
		receiver("online-3", p.gateway, "site/#", packet.V311),
	}
	p.away = receiver("away", p.gateway, "site/#", packet.V5)
	p.above = receiver("above", p.cloud, "plant/#", packet.V5)
	for i, v := range []packet.Version{packet.V5, packet.V311, packet.V5, packet.V311} {
		name := fmt.Sprintf("p%d", i)
		p.publishers = append(p.publishers, &fleet.Publisher{
			Options: client.Options{Address: p.gateway, Version: v, ClientID: name, SessionExpiry: 3600, Window: 20},
			Lines: []fleet.Line{
				{Topic: "site/" + name + "/fast", Stream: p.tally.Stream(name+"/fast", 1)},
				{Topic: "site/" + name + "/safe", Stream: p.tally.Stream(name+"/safe", 2)},
			},
			Size: 100,
		})
	}
	return p
}

// online returns those who are connected all the time.
func (p *plant) online() []*fleet.Receiver { return append(p.receivers, p.above) }

// record runs the plant under load and takes moments of it. At the end the disk is unmounted.
func (p *plant) record(ctx context.Context, t *testing.T) (moments []moment) {
	t.Helper()
	defer func() {
		if err := p.disk.Close(); err != nil {
			t.Error(err)
		}
	}()
	kill, err := p.start(ctx, t, p.disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer kill()
	for _, r := range append(p.online(), p.away) {
		if err := r.Join(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	failed := make(chan error, 16)
	var wait sync.WaitGroup
	run := func(device func(context.Context, <-chan struct{}) error) {
		wait.Go(func() { // ends with stop; record waits
			if err := device(ctx, stop); err != nil {
				failed <- err
			}
		})
	}
	for _, r := range p.online() {
		run(r.Run)
	}
	for _, d := range p.publishers {
		run(d.Run)
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for len(moments) < images() {
		next := uint64(messages / images() * (len(moments) + 1))
		for p.tally.Acknowledged() < next {
			select {
			case <-ticker.C:
			case err := <-failed:
				t.Fatal(err)
			case <-ctx.Done():
				t.Fatalf("%d messages were acknowledged", p.tally.Acknowledged())
			}
		}
		var m moment
		m.fleet = fleet.Freeze(p.tally, p.publishers, p.online(), func() { m.position = p.disk.Position() })
		moments = append(moments, m)
	}
	close(stop)
	wait.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	if err := p.disk.Err(); err != nil {
		t.Fatal(err)
	}
	return moments
}

// resume lets everybody go on from a moment, on the disk as the cut left it.
func (p *plant) resume(ctx context.Context, t *testing.T, m moment, loss faultdisk.Loss, rng *rand.Rand) (err error) {
	t.Helper()
	image, err := faultdisk.Mount(t.TempDir(), p.system, p.disk.Image(m.position, loss, rng))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	kill, err := p.start(ctx, t, image.Path)
	if err != nil {
		return err
	}
	defer kill()

	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	stop := make(chan struct{})
	failed := make(chan error, 16)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	run := func(device func(context.Context, <-chan struct{}) error) {
		wait.Go(func() { // ends with stop or the context; resume waits
			if err := device(ctx, stop); err != nil && !errors.Is(err, context.Canceled) {
				failed <- err
			}
		})
	}
	away := &fleet.Receiver{Options: p.away.Options, Filters: p.away.Filters, Got: p.tally.Receiver(), Joined: true}
	receivers := []*fleet.Receiver{away}
	for i, r := range p.online() {
		receivers = append(receivers, m.fleet.Receiver(i, r, r.Options.Address))
	}
	for _, r := range receivers {
		run(r.Run)
	}
	// They finish what was in flight, and publish no more.
	none := make(chan struct{})
	close(none)
	for i, d := range p.publishers {
		if err := m.fleet.Publisher(i, d, p.gateway).Run(ctx, none); err != nil {
			return err
		}
	}
	for _, r := range receivers {
		rules := tally.Rules{ExactlyOnce: true}
		err := fleet.Complete(ctx, r.Got, m.fleet.Want(), rules)
		select {
		case failure := <-failed:
			return failure
		default:
		}
		if err == nil {
			err = r.Got.Check(m.fleet.Want(), rules)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Options.ClientID, err)
		}
	}
	close(stop)
	wait.Wait()
	select {
	case failure := <-failed:
		return failure
	default:
		return nil
	}
}

// TestPowerCutsAmidAllFlowsKeepThePromise cuts the power of gateway and cloud while messages are
// in every stage: half published, half forwarded, half delivered. Devices and applications keep
// their part of their sessions and go on: nothing acknowledged is lost, and nothing of QoS 2
// comes twice, neither to those at the gateway nor through both brokers.
func TestPowerCutsAmidAllFlowsKeepThePromise(t *testing.T) {
	for _, where := range places() {
		t.Run(where.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			p := newPlant(t, where)
			moments := p.record(ctx, t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			for i, m := range moments {
				loss := faultdisk.Losses[i%len(faultdisk.Losses)]
				t.Run(fmt.Sprintf("moment %d/%s", i, loss), func(t *testing.T) {
					if err := p.resume(ctx, t, m, loss, rng); err != nil {
						t.Errorf("cut at operation %d, %s of what was not flushed: %v", m.position, loss, err)
					}
				})
			}
		})
	}
}
