// Package fulldisk fills a real file system under the load of a real broker, and proves that
// nothing is lost that was acknowledged, that everybody learns of it or waits, that what needs no
// disk goes on, and that the broker recovers by itself when there is room again.
package fulldisk

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/process"
	"dunlin/testbench/tally"
)

// long fills each file system several times, and kills the broker on the full disk.
var long = flag.Bool("long", false, "the long form: several fills, and kills on a full disk")

const (
	// guard bounds a whole test.
	guard = 5 * time.Minute

	diskSize   = 64 << 20 // bytes
	fillerSize = 24 << 20 // of them something else takes, until it is removed
	payload    = 2000     // bytes
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// system is a kind of file system.
type system struct {
	name  string
	mount func(t *testing.T, at string)
}

var systems = []system{
	{"tmpfs", func(t *testing.T, at string) {
		run(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", diskSize), "tmpfs", at)
	}},
	{"ext4", onLoop("mkfs.ext4", "-q", "-F", "-m", "0")},
}

// onLoop mounts an image of a file system.
func onLoop(mkfs string, args ...string) func(t *testing.T, at string) {
	return func(t *testing.T, at string) {
		image := filepath.Join(t.TempDir(), "image")
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, diskSize)); err != nil {
			t.Fatal(err)
		}
		run(t, mkfs, append(args, image)...)
		run(t, "mount", "-o", "loop,noatime", image, at)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s (needs root: sudo make test)", name, strings.Join(args, " "), err, out)
	}
}

// rig is a broker on a small disk with its devices.
type rig struct {
	t       *testing.T
	ctx     context.Context
	disk    string
	gateway *process.Process
	tally   *tally.Tally

	receivers []*fleet.Receiver
	told      []*fleet.Publisher // MQTT 5.0
	waits     []*fleet.Publisher // MQTT 3.1.1
	waiting   []*tally.Stream    // theirs

	kept    string // what is retained
	changes int    // of the subscriptions of the session that resumes

	failed chan error
}

func newRig(t *testing.T, s system) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	r := &rig{t: t, ctx: ctx, disk: t.TempDir(), tally: tally.New(), failed: make(chan error, 64)}
	t.Cleanup(cancel)
	s.mount(t, r.disk)
	t.Cleanup(func() {
		if err := unix.Unmount(r.disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r.occupy()
	var err error
	r.gateway, err = process.Dunlin(ctx, t.TempDir(), process.Gateway{
		Data:     filepath.Join(r.disk, "data"),
		Settings: []string{"store.max_bytes=1GiB", "sys.interval=1s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.gateway.Kill()
		if t.Failed() {
			t.Logf("the end of the log of the broker:\n%s", r.gateway.Tail(4000))
		}
	})
	r.retain("before", packet.Success)
	r.resume(false, 1)
	for i, v := range []packet.Version{packet.V5, packet.V311} {
		r.receivers = append(r.receivers, r.session(fmt.Sprint("away-", i), v))
		p, streams := r.publisher(fmt.Sprint("p", i), v)
		if v == packet.V5 {
			r.told = append(r.told, p)
		} else {
			r.waits, r.waiting = append(r.waits, p), streams
		}
	}
	return r
}

// session makes a session that stays away until it runs.
func (r *rig) session(name string, v packet.Version) *fleet.Receiver {
	r.t.Helper()
	s := &fleet.Receiver{
		Options: client.Options{Address: r.gateway.Spec.Address, Version: v, ClientID: name, SessionExpiry: 3600},
		Filters: []client.Filter{{Filter: "site/#", QoS: 2}},
		Got:     r.tally.Receiver(),
	}
	if err := s.Join(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) publisher(name string, v packet.Version) (*fleet.Publisher, []*tally.Stream) {
	fast, safe := r.tally.Stream(name+"/fast", 1), r.tally.Stream(name+"/safe", 2)
	return &fleet.Publisher{
		Options: client.Options{Address: r.gateway.Spec.Address, Version: v, ClientID: name, SessionExpiry: 3600, Window: 50},
		Lines:   []fleet.Line{{Topic: "site/" + name + "/fast", Stream: fast}, {Topic: "site/" + name + "/safe", Stream: safe}},
		Size:    payload, Rate: 4000,
	}, []*tally.Stream{fast, safe}
}

// filler is what takes room beside the broker.
func (r *rig) filler() string { return filepath.Join(r.disk, "filler") }

// occupy takes room, or what is left of it.
func (r *rig) occupy() {
	r.t.Helper()
	if err := os.WriteFile(r.filler(), make([]byte, fillerSize), 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
		r.t.Fatal(err)
	}
}

// until waits for something that is looked at again and again.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case err := <-r.failed:
			r.t.Fatal(err)
		case <-r.ctx.Done():
			r.t.Fatalf("%s: it does not come", what)
		case <-ticker.C:
		}
	}
}

// acked is how many messages were acknowledged to those who wait.
func (r *rig) acked() (n uint64) {
	for _, s := range r.waiting {
		n += s.Count()
	}
	return n
}

// alarm watches the alarm of the store.
type alarm struct {
	mu   sync.Mutex
	seen []string
}

func (a *alarm) watch(r *rig) {
	c := client.New(client.Options{Address: r.gateway.Spec.Address, ClientID: "watcher", CleanStart: true, Deliver: func(m client.Message) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if n := len(a.seen); n == 0 || a.seen[n-1] != string(m.Payload) {
			a.seen = append(a.seen, string(m.Payload))
		}
	}})
	r.t.Cleanup(c.Close)
	if _, err := c.Connect(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	if _, err := c.Subscribe(r.ctx, client.Filter{Filter: "$SYS/broker/alarm/store"}); err != nil {
		r.t.Fatal(err)
	}
}

func (a *alarm) is(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen) > 0 && a.seen[len(a.seen)-1] == text
}

func TestAFullDiskLosesNothingAndIsRecoveredFrom(t *testing.T) {
	for _, s := range systems {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, s)
			var a alarm
			a.watch(r)
			stop := make(chan struct{})
			var devices sync.WaitGroup
			for _, p := range append(r.told, r.waits...) {
				devices.Go(func() { // ends with stop or ctx; the test waits
					if err := p.Run(r.ctx, stop); err != nil {
						r.failed <- err
					}
				})
			}
			for round := range map[bool]int{false: 1, true: 3}[*long] {
				if round > 0 {
					r.drain(round)
					r.occupy()
				}
				r.full(&a)
				if round > 0 { // the broker is killed on the full disk, and starts on it
					if err := errors.Join(r.gateway.Kill(), r.gateway.Start(r.ctx)); err != nil {
						t.Fatal(err)
					}
					a.watch(r)
				}
				// There is room again.
				was := r.acked()
				if err := os.Remove(r.filler()); err != nil {
					t.Fatal(err)
				}
				on := func() { r.until("MQTT 3.1.1 gets on", func() bool { return r.acked() > was+500 }) }
				if round == 0 {
					on()
				} else { // the file has grown meanwhile: room is in it, when the sessions have fetched what is theirs
					r.attend(on)
				}
			}
			// The publishers may have filled the disk again: they come to an end as the sessions make room.
			r.attend(func() {
				close(stop)
				devices.Wait()
				r.complete(r.tally.Snapshot())
				r.until("the alarm is over", func() bool { return a.is("none") })
				r.retain("afterwards", packet.Success)
				r.resume(true, 1)
			})
			r.compare()
			a.mu.Lock()
			defer a.mu.Unlock()
			t.Logf("%d acknowledged, %d refused, alarms %v", r.tally.Acknowledged(), r.told[0].Refused.Load(), a.seen)
		})
	}
}

// full waits until the disk is, and looks at what goes on then.
func (r *rig) full(a *alarm) {
	t := r.t
	refused := r.told[0].Refused.Load()
	r.until("MQTT 5.0 is refused", func() bool { return r.told[0].Refused.Load() > refused+100 })
	r.until("it is told", func() bool { return a.is("disk_full") })
	// Those who cannot be told wait, and stay connected.
	was := r.acked()
	refused = r.told[0].Refused.Load()
	r.until("MQTT 5.0 is refused on", func() bool { return r.told[0].Refused.Load() > refused+1000 })
	if more := r.acked() - was; more > 100 {
		t.Errorf("%d messages were acknowledged on a full disk", more)
	}
	r.zero()
	r.retain("on a full disk", packet.QuotaExceeded)
	r.resume(true, packet.QuotaExceeded)
	r.newcomer(packet.V5, packet.QuotaExceeded)
	r.newcomer(packet.V311, packet.ServerUnavailable)
}

// zero sees that QoS 0 flows between sessions that are not kept.
func (r *rig) zero() {
	o := client.Options{Address: r.gateway.Spec.Address, CleanStart: true}
	from, to := client.New(o), client.New(o)
	defer from.Close()
	defer to.Close()
	for _, c := range []*client.Client{from, to} {
		if _, err := c.Connect(r.ctx); err != nil {
			r.t.Fatal(err)
		}
	}
	if _, err := to.Subscribe(r.ctx, client.Filter{Filter: "lan/#", QoS: 1}); err != nil {
		r.t.Fatal(err)
	}
	for i := range 100 {
		if err := from.Publish(r.ctx, client.Publish{Topic: "lan/x", Payload: fmt.Append(nil, i), QoS: packet.QoS(i % 2)}); err != nil {
			r.t.Fatal(err)
		}
		if m, err := to.Receive(r.ctx); err != nil || string(m.Payload) != fmt.Sprint(i) {
			r.t.Fatalf("got %q, %v", m.Payload, err)
		}
	}
}

// retain publishes a retained message, and sees that what is retained then is what is on disk.
func (r *rig) retain(text string, want packet.ReasonCode) {
	r.t.Helper()
	c := client.New(client.Options{Address: r.gateway.Spec.Address, CleanStart: true})
	defer c.Close()
	if _, err := c.Connect(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	answer := make(chan packet.ReasonCode, 1)
	err := c.Publish(r.ctx, client.Publish{Topic: "kept", Payload: []byte(text), QoS: 1, Retain: true, Acked: func(k packet.ReasonCode) { answer <- k }})
	if err == nil {
		err = c.Drain(r.ctx)
	}
	if code := <-answer; err != nil || code != want && (want >= packet.UnspecifiedError || code >= packet.UnspecifiedError) {
		r.t.Errorf("a retained message got %v, %v; want %v", code, err, want)
	}
	if want < packet.UnspecifiedError {
		r.kept = text
	}
	if _, err := c.Subscribe(r.ctx, client.Filter{Filter: "kept", QoS: 1}); err != nil {
		r.t.Fatal(err)
	}
	if m, err := c.Receive(r.ctx); err != nil || string(m.Payload) != r.kept {
		r.t.Errorf("%q is retained, %v; want %q", m.Payload, err, r.kept)
	}
}

// resume connects a session, and sees that it was there, that it may subscribe again to what it has,
// and what it is answered for something else.
func (r *rig) resume(present bool, want packet.ReasonCode) {
	r.t.Helper()
	c := client.New(client.Options{Address: r.gateway.Spec.Address, ClientID: "resumes", SessionExpiry: 3600})
	defer c.Close()
	k, err := c.Connect(r.ctx)
	if err != nil || k.SessionPresent != present {
		r.t.Fatalf("session present is %v, %v; want %v", k.SessionPresent, err, present)
	}
	r.changes++
	filters := []client.Filter{{Filter: "its/own", QoS: 1}, {Filter: fmt.Sprint("more/", r.changes), QoS: 1}}
	if codes, err := c.Subscribe(r.ctx, filters...); err != nil || codes[0] != 1 || codes[1] != want {
		r.t.Errorf("got %v, %v; want 1 and %v", codes, err, want)
	}
	if err := c.Disconnect(r.ctx); err != nil {
		r.t.Error(err)
	}
}

// newcomer sees that there is no room for a new session.
func (r *rig) newcomer(v packet.Version, want packet.ReasonCode) {
	c := client.New(client.Options{Address: r.gateway.Spec.Address, Version: v, ClientID: "newcomer", SessionExpiry: 60})
	defer c.Close()
	_, err := c.Connect(r.ctx)
	if refused, ok := errors.AsType[*client.RefusedError](err); !ok || refused.Code != want {
		r.t.Errorf("a new session of version %d got %v, want %v", v, err, want)
	}
}

// drain lets the sessions fetch what waits for them, so that the next round begins with room.
func (r *rig) drain(round int) {
	want := r.tally.Snapshot()
	r.attend(func() { r.complete(want) })
	r.t.Logf("round %d: %d acknowledged", round, r.tally.Acknowledged())
}

// attend connects the sessions while f runs.
func (r *rig) attend(f func()) {
	stop := make(chan struct{})
	var sessions sync.WaitGroup
	for _, s := range r.receivers {
		sessions.Go(func() { // ends with stop or ctx; attend waits
			if err := s.Run(r.ctx, stop); err != nil {
				r.failed <- err
			}
		})
	}
	f()
	close(stop)
	sessions.Wait()
}

func (r *rig) complete(want *tally.Snapshot) {
	r.t.Helper()
	for _, s := range r.receivers {
		if err := fleet.Complete(r.ctx, s.Got, want, tally.Rules{ExactlyOnce: true}); err != nil {
			r.t.Fatalf("%s: %v", s.Options.ClientID, err)
		}
	}
}

// compare compares the lists.
func (r *rig) compare() {
	r.t.Helper()
	select {
	case err := <-r.failed:
		r.t.Fatal(err)
	default:
	}
	want := r.tally.Snapshot()
	for _, s := range r.receivers {
		if err := s.Got.Check(want, tally.Rules{ExactlyOnce: true}); err != nil {
			r.t.Errorf("%s: %v", s.Options.ClientID, err)
		}
	}
}

// TestAFullStoreKeepsToItsBound has one absent session fill a store that may not grow.
func TestAFullStoreKeepsToItsBound(t *testing.T) {
	const bound = 8 << 20
	for _, policy := range []string{"reject", "drop_oldest"} {
		t.Run(policy, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			t.Cleanup(cancel)
			r := &rig{t: t, ctx: ctx, disk: t.TempDir(), tally: tally.New(), failed: make(chan error, 64)}
			var err error
			r.gateway, err = process.Dunlin(ctx, t.TempDir(), process.Gateway{Data: r.disk, Settings: []string{
				fmt.Sprintf("store.max_bytes=%dMiB", bound>>20), "store.when_full=" + policy, "sys.interval=1s",
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.gateway.Kill() })
			away := r.session("away", packet.V5)
			p, _ := r.publisher("p0", packet.V5)
			stop, ended := make(chan struct{}), make(chan error, 1)
			go func() { ended <- p.Run(ctx, stop) }() // ends with stop or ctx; the test waits below
			if policy == "reject" {
				r.until("messages are refused", func() bool { return p.Refused.Load() > 500 })
			} else {
				r.until("several times the bound has come", func() bool { return r.tally.Acknowledged() > 4*bound/payload })
			}
			close(stop)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(filepath.Join(r.disk, "sessions.db")); err != nil || st.Size() > 2*bound+4<<20 {
				t.Errorf("the file has %d bytes, %v", st.Size(), err)
			}
			r.receivers = []*fleet.Receiver{away}
			if policy == "reject" {
				r.attend(func() { r.complete(r.tally.Snapshot()) })
				r.compare()
				return
			}
			// What is left are the newest, in order; how many they are is what there is room for.
			last := p.Lines[0].Stream.Last()
			r.attend(func() { r.until("the newest arrives", func() bool { return away.Got.Has(p.Lines[0].Stream, last) }) })
			if n := away.Got.Count(); n < bound/payload/4 {
				t.Errorf("%d messages were kept", n)
			}
			t.Logf("%d of %d were kept, %d refused", away.Got.Count(), r.tally.Acknowledged(), p.Refused.Load())
		})
	}
}
