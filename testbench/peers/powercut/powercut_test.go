// Package powercut runs the broker on a disk that remembers every write and flush, cuts the
// power at many moments, and proves that what was acknowledged before each is delivered after
// it. It proves the proof by running the broker without fsync, which must lose.
package powercut

import (
	"context"
	"flag"
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

	messages = 6000 // acknowledged before the run ends
)

// long makes the long form of the tests: that of make chaos.
var long = flag.Bool("long", false, "cut as often as make chaos does, on all file systems")

// images is how often the power of one run is cut.
func images() int {
	if *long {
		return 48
	}
	return 12
}

// place is where a gateway runs whose power is cut.
type place struct {
	system faultdisk.FileSystem
	memory int64 // of the gateway, with its pages of files, bytes; 0 = that of the machine
}

func (p place) String() string {
	if p.memory == 0 {
		return p.system.Name
	}
	return fmt.Sprintf("%s, %d MiB of memory", p.system.Name, p.memory>>20)
}

// places are those where the power is cut.
func places() []place {
	if *long {
		return []place{
			{faultdisk.Ext4, 0},
			{faultdisk.Ext4, 32 << 20},
			{faultdisk.Ext4Writeback, 0},
			{faultdisk.XFS, 0},
			{faultdisk.Btrfs, 0},
		}
	}
	return []place{{faultdisk.Ext4, 0}}
}

// via returns the command by which a gateway is run there, see process.Gateway.Via. The test fails
// if the kernel kills a gateway because of its memory.
func (p place) via(t *testing.T) []string {
	t.Helper()
	if p.memory == 0 {
		return nil
	}
	group, err := process.LimitMemory(p.memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // behind the end of the gateways
		kills, err := group.Kills()
		if kills > 0 || err != nil {
			t.Errorf("the kernel has killed the gateway %d times, %v", kills, err)
		}
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	})
	return group.Via()
}

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// run is a broker's life on a disk, and who was told what, when.
type run struct {
	system    faultdisk.FileSystem
	via       []string // a gateway is run
	tally     *tally.Tally
	sessions  []*fleet.Receiver // as they were joined
	late      []joined          // sessions that were made under load
	states    []fleet.Line      // of retained messages
	positions positions
	window    int // of a publisher
	disk      *faultdisk.Disk
	joined    int // position of the disk when the sessions were confirmed
	end       int // position at the end of the load
}

// joined is a session that was confirmed when the disk stood there.
type joined struct {
	name     string
	position int
}

// positions is where a disk stood when each message was acknowledged.
type positions struct {
	now func() int // the position of the disk

	mu sync.Mutex              // guards at
	at map[*tally.Stream][]int // by number - 1, 0 = not acknowledged
}

// acked notes where the disk stands when an acknowledgement is read.
func (p *positions) acked(s *tally.Stream, seq uint64) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for uint64(len(p.at[s])) < seq {
		p.at[s] = append(p.at[s], 0)
	}
	p.at[s][seq-1] = now
}

// by reports whether a message was acknowledged when the disk stood at cut, or before.
func (p *positions) by(cut int, s *tally.Stream, seq uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.at[s]
	return seq <= uint64(len(at)) && at[seq-1] > 0 && at[seq-1] <= cut
}

func newPositions(now func() int) positions {
	return positions{now: now, at: make(map[*tally.Stream][]int)}
}

// record lets four publishers load a broker on a fault disk. settled runs when the sessions have
// been confirmed. At the end the disk is unmounted.
func record(t *testing.T, ctx context.Context, where place, settled func(d *faultdisk.Disk), settings ...string) *run {
	t.Helper()
	disk, err := faultdisk.Create(t.TempDir(), where.system)
	if err != nil {
		t.Fatal(err)
	}
	// A small window makes many small commits, and so many moments to cut at.
	r := &run{system: where.system, via: where.via(t), disk: disk, tally: tally.New(), positions: newPositions(disk.Position), window: 10}
	defer func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	}()
	r.load(t, ctx, disk.Path, func() {
		settled(disk)
		r.joined = disk.Position()
	}, func() bool { return r.tally.Acknowledged() >= messages }, settings...)
	r.end = disk.Position()
	if err := disk.Err(); err != nil {
		t.Fatal(err)
	}
	bytes, flushes := disk.Written()
	t.Logf("%s: %d messages acknowledged over %d disk operations, %d flushes, %d KiB",
		where, r.tally.Acknowledged(), r.end, flushes, bytes>>10)
	return r
}

// load starts a gateway with its data below path, makes sessions, calls settled, and lets four
// publishers load it until enough says so. Then the gateway is killed.
func (r *run) load(t *testing.T, ctx context.Context, path string, settled func(), enough func() bool, settings ...string) {
	t.Helper()
	nowhere, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := process.Dunlin(ctx, t.TempDir(), r.config(filepath.Join(path, "data"), nowhere, settings))
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Kill()
	for qos := packet.QoS(1); qos <= 2; qos++ {
		s := r.session(fmt.Sprintf("session-%d", qos), client.Filter{Filter: "site/#", QoS: qos})
		s.Options.Address = gateway.Spec.Address
		if err := s.Join(ctx); err != nil {
			t.Fatal(err)
		}
		r.sessions = append(r.sessions, s)
	}
	settled()

	stop := make(chan struct{})
	var wait sync.WaitGroup
	failed := make(chan error, 8)
	for i := range 4 {
		p := r.publisher(fmt.Sprintf("p%d", i), gateway.Spec.Address, &r.positions)
		r.states = append(r.states, p.Lines[2])
		wait.Go(func() { // ends with stop; load waits
			if err := p.Run(ctx, stop); err != nil {
				failed <- err
			}
		})
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !enough() {
		select {
		case <-ticker.C:
			r.joinLate(t, ctx, gateway.Spec.Address)
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
}

// publisher returns one that publishes at QoS 1 and 2, and retained messages.
func (r *run) publisher(name, address string, p *positions) *fleet.Publisher {
	lines := []fleet.Line{
		{Topic: "site/" + name + "/fast", Stream: r.tally.Stream(name+"/fast", 1)},
		{Topic: "site/" + name + "/safe", Stream: r.tally.Stream(name+"/safe", 2)},
		{Topic: "site/" + name + "/state", Stream: r.tally.Stream(name+"/state", 1), Retain: true},
	}
	return &fleet.Publisher{
		Options: client.Options{Address: address, ClientID: name, SessionExpiry: 3600, Window: r.window},
		Lines:   lines, Size: 100, OnAcked: p.acked,
	}
}

func (r *run) session(name string, filters ...client.Filter) *fleet.Receiver {
	return &fleet.Receiver{
		Options: client.Options{ClientID: name, SessionExpiry: 3600}, Filters: filters, Got: r.tally.Receiver(),
	}
}

// maxLate bounds how many sessions are made under load.
const maxLate = 20

// joinLate makes one more session with a subscription of its own.
func (r *run) joinLate(t *testing.T, ctx context.Context, address string) {
	t.Helper()
	if len(r.late) == maxLate {
		return
	}
	name := fmt.Sprintf("late-%d", len(r.late))
	s := r.session(name, client.Filter{Filter: "late/" + name, QoS: 1})
	s.Options.Address = address
	if err := s.Join(ctx); err != nil {
		t.Fatal(err)
	}
	r.late = append(r.late, joined{name, r.positions.now()})
}

// before returns what was acknowledged before the power was cut at that position.
func (r *run) before(cut int) *tally.Snapshot {
	return r.tally.SnapshotIf(func(s *tally.Stream, seq uint64) bool { return r.positions.by(cut, s, seq) })
}

// lateBefore returns how many of the late sessions were confirmed by then.
func (r *run) lateBefore(cut int) (n int) {
	for n < len(r.late) && r.late[n].position <= cut {
		n++
	}
	return n
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

// config is that of a gateway of the run.
func (r *run) config(data, cloud string, settings []string) process.Gateway {
	g := config(data, cloud, settings)
	g.Via = r.via
	return g
}

// cutter is the disk of a run that has ended, to be cut at random moments.
type cutter struct {
	*run
	rng *rand.Rand
}

// cut returns the disk of a power cut at a random moment behind the confirmation of the sessions,
// and what it must hold. i chooses what is lost.
func (c *cutter) cut(i int) (image []byte, loss faultdisk.Loss, must duty) {
	loss = faultdisk.Losses[i%len(faultdisk.Losses)]
	at := c.joined + 1 + c.rng.IntN(c.end-c.joined)
	return c.disk.Image(at, loss, c.rng), loss, duty{c.before(at), c.lateBefore(at)}
}

// newCutter records a run.
func newCutter(t *testing.T, ctx context.Context, where place) *cutter {
	t.Helper()
	r := record(t, ctx, where, func(*faultdisk.Disk) {})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &cutter{r, rand.New(rand.NewPCG(seed, 0))}
}

func TestPowerCutsLoseNothing(t *testing.T) {
	for _, where := range places() {
		t.Run(where.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			c := newCutter(t, ctx, where)
			for i := range images() {
				image, loss, must := c.cut(i)
				t.Run(fmt.Sprintf("cut %d/%s", i, loss), func(t *testing.T) {
					if err := c.restart(t, ctx, image, must, patience); err != nil {
						t.Errorf("%s of what was not flushed: %v", loss, err)
					}
				})
			}
		})
	}
}

// TestCutsDuringRecoveryLoseNothing starts the broker on a disk whose power was cut, and cuts it
// again while file system and broker recover and the first messages come.
func TestCutsDuringRecoveryLoseNothing(t *testing.T) {
	for _, where := range places() {
		t.Run(where.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			c := newCutter(t, ctx, where)
			for i := range images() / 3 {
				image, first, must := c.cut(i)
				// Each loss meets each.
				second := faultdisk.Losses[(i+i/len(faultdisk.Losses))%len(faultdisk.Losses)]
				t.Run(fmt.Sprintf("cut %d/%s then %s", i, first, second), func(t *testing.T) {
					image, must := c.again(t, ctx, fmt.Sprintf("again-%d", i), image, second, must)
					if err := c.restart(t, ctx, image, must, patience); err != nil {
						t.Errorf("%s, then %s of what was not flushed: %v", first, second, err)
					}
				})
			}
		})
	}
}

// again starts a gateway on an image, publishes a little as a device called name, and returns the
// disk as a cut at any moment since the image was mounted leaves it.
func (c *cutter) again(t *testing.T, ctx context.Context, name string, image []byte, loss faultdisk.Loss, must duty) ([]byte, duty) {
	t.Helper()
	disk, err := faultdisk.Resume(t.TempDir(), c.system, image)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	}()
	nowhere, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := process.Dunlin(ctx, t.TempDir(), c.config(filepath.Join(disk.Path, "data"), nowhere, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Kill()
	since := newPositions(disk.Position)
	p := c.publisher(name, gateway.Spec.Address, &since)
	p.Limit = 150
	if err := p.Run(ctx, nil); err != nil {
		t.Fatal(err)
	}
	cut := c.rng.IntN(disk.Position() + 1)
	t.Logf("cut again at operation %d of %d", cut, disk.Position())
	old := must.want
	must.want = c.tally.SnapshotIf(func(s *tally.Stream, seq uint64) bool {
		return old.Has(s, seq) || since.by(cut, s, seq)
	})
	return disk.Image(cut, loss, c.rng), must
}

// TestPowerCutsLoseWithoutFsync is the test of the test: a broker that does not sync must be
// found out.
func TestPowerCutsLoseWithoutFsync(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	const off = "store.unsafe_no_sync=true"
	// The sessions get to the disk all the same, so that what is missed is messages.
	r := record(t, ctx, place{system: faultdisk.Ext4}, func(d *faultdisk.Disk) {
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}, off)
	rng := rand.New(rand.NewPCG(1, 2))
	lost := 0
	for i := range images() {
		// One loss proves it. The first cuts are at the end, where most was acknowledged.
		cut := r.end - i*(r.end-r.joined)/images()
		must := duty{want: r.before(cut)}
		if err := r.restart(t, ctx, r.disk.Image(cut, faultdisk.Unflushed, rng), must, 2*time.Second, off); err != nil {
			t.Logf("found out at operation %d of %d: %.300v", cut, r.end, err)
			lost++
			break
		}
	}
	if lost == 0 {
		t.Error("a broker without fsync lost nothing: the power cuts prove nothing")
	}
}
