package powercut

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dunlin/testbench/peers/faultdisk"
	"dunlin/testbench/tally"
)

// snapshots is how many copies are made of a live disk.
func snapshots() int {
	if *long {
		return 24
	}
	return 6
}

// TestSnapshotsOfALiveDiskLoseNothing copies the disk of a broker at full speed at random moments,
// as a power cut would leave it, and starts another one from each copy.
func TestSnapshotsOfALiveDiskLoseNothing(t *testing.T) {
	for _, where := range places() {
		t.Run(where.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			disk, err := faultdisk.CreateLive(t.TempDir(), where.system)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := disk.Close(); err != nil {
					t.Error(err)
				}
			}()
			r, owed := snap(t, ctx, disk, where, snapshots())
			for n, must := range owed {
				t.Run(fmt.Sprint("snapshot ", n), func(t *testing.T) {
					copied, err := disk.Mount(n)
					if err != nil {
						t.Fatal(err)
					}
					err = errors.Join(r.check(t, ctx, copied.Path, must, patience, nil), copied.Close())
					if err != nil {
						t.Errorf("%d messages were acknowledged: %v", must.want.Count(), err)
					}
				})
			}
		})
	}
}

// TestSnapshotsLoseWithoutFsync is the test of the test.
func TestSnapshotsLoseWithoutFsync(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	disk, err := faultdisk.CreateLive(t.TempDir(), faultdisk.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	}()
	const off = "store.unsafe_no_sync=true"
	r, owed := snap(t, ctx, disk, place{system: faultdisk.Ext4}, 3, off)
	last := len(owed) - 1 // where most was acknowledged
	copied, err := disk.Mount(last)
	if err != nil {
		t.Fatal(err)
	}
	lost := r.check(t, ctx, copied.Path, owed[last], 2*time.Second, []string{off})
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	if lost == nil {
		t.Error("a broker without fsync lost nothing: the snapshots prove nothing")
	}
	t.Logf("found out: %.300v", lost)
}

// snap loads a gateway on the disk, copies the disk at random moments, and returns what each copy
// must hold. At the end the disk is unmounted.
func snap(t *testing.T, ctx context.Context, disk *faultdisk.Live, where place, copies int, settings ...string) (r *run, owed []duty) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r = &run{system: where.system, via: where.via(t), tally: tally.New(), window: 50}
	// What counts here is the moment of the copy, not the place in a log.
	r.positions = newPositions(func() int { return 1 })
	next := uint64(0)
	r.load(t, ctx, disk.Path, func() {}, func() bool {
		if r.tally.Acknowledged() < next {
			return false
		}
		must := duty{r.tally.Snapshot(), len(r.late)}
		if _, err := disk.Copy(); err != nil {
			t.Fatal(err)
		}
		owed = append(owed, must)
		next = r.tally.Acknowledged() + 50 + rng.Uint64N(4*messages/uint64(copies))
		return len(owed) == copies
	}, settings...)
	if err := disk.End(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d messages acknowledged, %d copies", where, r.tally.Acknowledged(), len(owed))
	return r, owed
}
