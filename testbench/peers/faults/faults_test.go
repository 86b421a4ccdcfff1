// Package faults has each operation of a store's file fail once, under load, and proves that nothing is
// lost that was acknowledged and that the broker goes on by itself.
package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/peers/faultdisk"
	"dunlin/testbench/process"
	"dunlin/testbench/tally"
)

// long has more of the operations of a commit fail, and wants the order kept through that, too.
var long = flag.Bool("long", false, "the long form: more operations fail")

// guard bounds a whole test.
const guard = 8 * time.Minute

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// faults are what happens one after the other. A commit has a sync behind its pages and one behind its
// meta page, which is its last write.
func faults() (all []faultdisk.Fault) {
	deep := 5
	if *long {
		deep = 25
	}
	for after := range deep {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			all = append(all, faultdisk.Fault{Operation: faultdisk.Write, After: after, Errno: errno},
				faultdisk.Fault{Operation: faultdisk.Sync, After: after, Errno: errno})
		}
		all = append(all, faultdisk.Fault{Operation: faultdisk.Write, After: after, Errno: syscall.EIO, Torn: true})
	}
	return all
}

// rig is a broker in a folder that fails.
type rig struct {
	t       *testing.T
	ctx     context.Context
	folder  *faultdisk.Folder
	gateway *process.Process
	tally   *tally.Tally
	failed  chan error
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
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

func TestEachOperationMayFailOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, tally: tally.New(), failed: make(chan error, 64)}
	var err error
	if r.folder, err = faultdisk.NewFolder(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.folder.Close(); err != nil {
			t.Error(err)
		}
	})
	// Everything gets to the disk: nothing lingers.
	r.gateway, err = process.Dunlin(ctx, t.TempDir(), process.Gateway{
		Data: filepath.Join(r.folder.Path, "data"), Settings: []string{"store.linger=0s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.gateway.Kill()
		if t.Failed() {
			t.Logf("the end of the log of the broker:\n%s", r.gateway.Tail(6000))
		}
	})

	var receivers []*fleet.Receiver
	for i, v := range []packet.Version{packet.V5, packet.V311} {
		s := &fleet.Receiver{
			Options: client.Options{Address: r.gateway.Spec.Address, Version: v, ClientID: fmt.Sprint("away-", i), SessionExpiry: 3600},
			Filters: []client.Filter{{Filter: "site/#", QoS: 2}},
			Got:     r.tally.Receiver(),
		}
		if err := s.Join(ctx); err != nil {
			t.Fatal(err)
		}
		receivers = append(receivers, s)
	}
	stop := make(chan struct{})
	var devices sync.WaitGroup
	for i, v := range []packet.Version{packet.V5, packet.V311} {
		p := r.publisher(fmt.Sprint("p", i), v)
		devices.Go(func() { r.publish(p, stop) }) // ends with stop or ctx; the test waits
	}
	r.progress("at first")
	for i, fault := range faults() {
		r.folder.Fail(fault)
		r.until(fault.String(), r.folder.Failed)
		r.progress(fault.String())
		if i%10 == 9 {
			if err := errors.Join(r.gateway.Kill(), r.gateway.Start(ctx)); err != nil {
				t.Fatal(err)
			}
			r.progress("after a kill")
		}
	}
	close(stop)
	devices.Wait()
	if err := errors.Join(r.gateway.Kill(), r.gateway.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	r.check(receivers)
	t.Logf("%d faults, %d acknowledged", len(faults()), r.tally.Acknowledged())
}

func (r *rig) publisher(name string, v packet.Version) *fleet.Publisher {
	return &fleet.Publisher{
		Options: client.Options{Address: r.gateway.Spec.Address, Version: v, ClientID: name, SessionExpiry: 3600, Window: 10},
		Lines: []fleet.Line{
			{Topic: "site/" + name + "/fast", Stream: r.tally.Stream(name+"/fast", 1)},
			{Topic: "site/" + name + "/safe", Stream: r.tally.Stream(name+"/safe", 2)},
		},
		Size: 300, Rate: 2000,
	}
}

// publish runs a publisher. A step of its QoS 2 that was not stored ends its connection, and is repeated.
func (r *rig) publish(p *fleet.Publisher, stop <-chan struct{}) {
	for {
		err := p.Run(r.ctx, stop)
		if end, ok := errors.AsType[*client.DisconnectedError](err); ok && end.Code == packet.UnspecifiedError {
			continue
		}
		if _, ok := errors.AsType[*client.RefusedError](err); ok { // what it changes about its session is not stored
			continue
		}
		if err != nil {
			r.failed <- err
		}
		return
	}
}

// progress waits until each stream has more acknowledgements.
func (r *rig) progress(behind string) {
	r.t.Helper()
	was := make(map[*tally.Stream]uint64)
	for _, s := range r.tally.Streams() {
		was[s] = s.Count()
	}
	for s, n := range was {
		r.until(behind+", and then "+s.Name, func() bool { return s.Count() > n+5 })
	}
}

// check lets the sessions have what is theirs, and compares.
func (r *rig) check(receivers []*fleet.Receiver) {
	r.t.Helper()
	want, rules := r.tally.Snapshot(), tally.Rules{ExactlyOnce: true, Refused: !*long}
	stop := make(chan struct{})
	var sessions sync.WaitGroup
	for _, s := range receivers {
		sessions.Go(func() { // ends with stop or ctx; check waits
			if err := s.Run(r.ctx, stop); err != nil {
				r.failed <- err
			}
		})
	}
	for _, s := range receivers {
		if err := fleet.Complete(r.ctx, s.Got, want, rules); err != nil {
			r.t.Fatalf("%s: %v", s.Options.ClientID, err)
		}
	}
	close(stop)
	sessions.Wait()
	select {
	case err := <-r.failed:
		r.t.Fatal(err)
	default:
	}
	for _, s := range receivers {
		if err := s.Got.Check(want, rules); err != nil {
			r.t.Errorf("%s: %v", s.Options.ClientID, err)
		}
	}
}
