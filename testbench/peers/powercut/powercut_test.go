// Package powercut runs the broker on a disk that remembers every write and flush, cuts the
// power at many moments, and proves that what was acknowledged before each is delivered after
// it. It proves the proof by running the broker without fsync, which must lose.
package powercut

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
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

const (
	// guard bounds a whole test.
	guard = 8 * time.Minute

	diskSize = 96 << 20 // bytes
	messages = 6000     // acknowledged before the run ends
	images   = 24
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// run is a broker's life on a fault disk, and who was told what, when.
type run struct {
	disk     *faultdisk.Disk
	tally    *tally.Tally
	sessions []*fleet.Receiver // as they were joined
	joined   int               // position of the disk when the sessions were confirmed
	end      int               // position at the end of the load

	mu        sync.Mutex              // guards positions
	positions map[*tally.Stream][]int // of the disk when the message was acknowledged, by number - 1
}

// record lets four publishers load a broker on a fault disk. settled runs when the sessions have
// been confirmed.
func record(t *testing.T, ctx context.Context, settled func(d *faultdisk.Disk), settings ...string) *run {
	t.Helper()
	disk, err := faultdisk.Create(t.TempDir(), diskSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	nowhere, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := process.Dunlin(ctx, t.TempDir(), config(filepath.Join(disk.Path, "data"), nowhere, settings))
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Kill()

	r := &run{disk: disk, tally: tally.New(), positions: make(map[*tally.Stream][]int)}
	for qos := packet.QoS(1); qos <= 2; qos++ {
		s := &fleet.Receiver{
			Options: client.Options{Address: gateway.Spec.Address, ClientID: fmt.Sprintf("session-%d", qos), SessionExpiry: 3600},
			Filters: []client.Filter{{Filter: "site/#", QoS: qos}},
			Got:     r.tally.Receiver(),
		}
		if err := s.Join(ctx); err != nil {
			t.Fatal(err)
		}
		r.sessions = append(r.sessions, s)
	}
	settled(disk)
	r.joined = disk.Position()

	stop := make(chan struct{})
	var wait sync.WaitGroup
	failed := make(chan error, 4)
	for i := range 4 {
		name := fmt.Sprintf("p%d", i)
		p := &fleet.Publisher{
			// A small window makes many small commits, and so many moments to cut at.
			Options: client.Options{Address: gateway.Spec.Address, ClientID: name, SessionExpiry: 3600, Window: 10},
			Lines: []fleet.Line{
				{Topic: "site/" + name + "/fast", Stream: r.tally.Stream(name+"/fast", 1)},
				{Topic: "site/" + name + "/safe", Stream: r.tally.Stream(name+"/safe", 2)},
			},
			Size: 100, OnAcked: r.acked,
		}
		wait.Go(func() { // ends with stop; record waits
			if err := p.Run(ctx, stop); err != nil {
				failed <- err
			}
		})
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for r.tally.Acknowledged() < messages {
		select {
		case <-ticker.C:
		case err := <-failed:
			t.Fatal(err)
		case <-ctx.Done():
			t.Fatalf("%d messages were acknowledged", r.tally.Acknowledged())
		}
	}
	close(stop)
	wait.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	r.end = disk.Position()
	if err := disk.Err(); err != nil {
		t.Fatal(err)
	}
	bytes, flushes := disk.Written()
	t.Logf("%d messages acknowledged over %d disk operations, %d flushes, %d KiB",
		r.tally.Acknowledged(), r.end, flushes, bytes>>10)
	return r
}

// acked notes where the disk stands when an acknowledgement is read.
func (r *run) acked(s *tally.Stream, seq uint64) {
	position := r.disk.Position()
	r.mu.Lock()
	defer r.mu.Unlock()
	for uint64(len(r.positions[s])) < seq {
		r.positions[s] = append(r.positions[s], 0)
	}
	r.positions[s][seq-1] = position
}

// before returns what was acknowledged before the power was cut at that position.
func (r *run) before(cut int) *tally.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tally.SnapshotIf(func(s *tally.Stream, seq uint64) bool {
		p := r.positions[s]
		return seq <= uint64(len(p)) && p[seq-1] > 0 && p[seq-1] <= cut
	})
}

func config(data, cloud string, settings []string) process.Gateway {
	return process.Gateway{
		Data: data, Settings: settings,
		Uplinks: []process.Uplink{{
			Name: "cloud", Endpoint: "mqtt://" + cloud, ClientID: "gateway",
			Rules: []process.Rule{{From: "site/#", To: "plant/site/#", QoS: 2}},
		}},
	}
}

// restart starts a fresh broker on the disk as the cut left it, with a fresh cloud, and returns
// an error if a session or the cloud lacks what was acknowledged after patience, or has too much.
func (r *run) restart(t *testing.T, ctx context.Context, cut int, loss faultdisk.Loss, rng *rand.Rand, patience time.Duration, settings ...string) (err error) {
	t.Helper()
	dir := t.TempDir()
	image, err := faultdisk.Mount(dir, r.disk.Image(cut, loss, rng))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	cloud, err := process.Mosquitto(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cloud.Kill()

	want := r.before(cut)
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	failed := make(chan error, 8)
	start := func(s *fleet.Receiver) {
		wait.Go(func() { // ends with the context; restart waits
			if err := s.Run(ctx, nil); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	above := &fleet.Receiver{
		Options: client.Options{Address: cloud.Spec.Address, ClientID: "above", SessionExpiry: 3600},
		Filters: []client.Filter{{Filter: "plant/#", QoS: 2}},
		Got:     r.tally.Receiver(),
	}
	if err := above.Join(ctx); err != nil {
		t.Fatal(err)
	}
	start(above)

	gateway, err := process.Dunlin(ctx, dir, config(filepath.Join(image.Path, "data"), cloud.Spec.Address, settings))
	if err != nil {
		return err
	}
	defer gateway.Kill()
	receivers := []*fleet.Receiver{above}
	for _, joined := range r.sessions {
		s := &fleet.Receiver{Options: joined.Options, Filters: joined.Filters, Got: r.tally.Receiver(), Joined: true}
		s.Options.Address = gateway.Spec.Address
		start(s)
		receivers = append(receivers, s)
	}
	for _, s := range receivers {
		rules := tally.Rules{ExactlyOnce: s.Filters[0].QoS == 2}
		complete, cancel := context.WithTimeout(ctx, patience)
		err := fleet.Complete(complete, s.Got, want, rules)
		cancel()
		select {
		case failure := <-failed:
			return failure
		default:
		}
		if err == nil {
			err = s.Got.Check(want, rules)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Options.ClientID, err)
		}
	}
	return nil
}

func TestPowerCutsLoseNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	r := record(t, ctx, func(*faultdisk.Disk) {})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range images {
		loss := faultdisk.Losses[i%len(faultdisk.Losses)]
		cut := r.joined + 1 + rng.IntN(r.end-r.joined)
		t.Run(fmt.Sprintf("cut %d/%s", i, loss), func(t *testing.T) {
			if err := r.restart(t, ctx, cut, loss, rng, 30*time.Second); err != nil {
				t.Errorf("cut at operation %d of %d, %s of what was not flushed: %v", cut, r.end, loss, err)
			}
		})
	}
}

// TestPowerCutsLoseWithoutFsync is the test of the test: a broker that does not sync must be
// found out.
func TestPowerCutsLoseWithoutFsync(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	const off = "store.unsafe_no_sync=true"
	// The sessions get to the disk all the same, so that what is missed is messages.
	r := record(t, ctx, func(d *faultdisk.Disk) {
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}, off)
	rng := rand.New(rand.NewPCG(1, 2))
	lost := 0
	for i := range images {
		// One loss proves it. The first cuts are at the end, where most was acknowledged.
		cut := r.end - i*(r.end-r.joined)/images
		if err := r.restart(t, ctx, cut, faultdisk.Unflushed, rng, 2*time.Second, off); err != nil {
			t.Logf("found out at operation %d of %d: %.300v", cut, r.end, err)
			lost++
			break
		}
	}
	if lost == 0 {
		t.Error("a broker without fsync lost nothing: the power cuts prove nothing")
	}
}
