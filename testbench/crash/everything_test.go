package crash

import (
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/books"
	"dunlin/testbench/client"
	"dunlin/testbench/fleet"
	"dunlin/testbench/process"
	"dunlin/testbench/tally"
)

// long makes the long form of the tests: that of make chaos.
var long = flag.Bool("long", false, "kill as often as make chaos does")

// kills is how often the gateway is killed under everything.
func kills() int {
	if *long {
		return 60
	}
	return 8
}

// everything is a rig with all that may happen to a gateway at once: besides its publishers and
// sessions, retained messages that come and go, a subscription that does, one more session that is
// there all the time, and commands that come down the uplink.
type everything struct {
	*rig
	online3 *fleet.Receiver
	orders  *fleet.Publisher // in the cloud
	shelf   *fleet.Shelf
	changer *fleet.Changer
	killed  uint64 // how often
}

func newEverything(t *testing.T, via []string) *everything {
	t.Helper()
	e := &everything{rig: newRigVia(t, packet.V5, 2, via)}
	address := e.gateway.Spec.Address
	for i, p := range e.publishers {
		if i%2 == 1 {
			p.Options.Version = packet.V311
		}
		state := e.line(fmt.Sprintf("site/p%d/state", i), 1)
		state.Retain = true
		p.Lines = append(append(p.Lines, p.Lines...), state)
	}
	e.online3 = e.receiver("online-3", address, packet.V311, 2, "site/#", "orders/#")
	if err := e.online3.Join(e.ctx); err != nil {
		t.Fatal(err)
	}
	e.others = []*fleet.Receiver{e.online3}
	e.orders = &fleet.Publisher{
		Options: client.Options{Address: e.cloud.Spec.Address, ClientID: "office", SessionExpiry: 3600},
		Lines:   []fleet.Line{e.line("orders/a", 1), e.line("orders/b", 1)},
		Rate:    500,
	}
	e.shelf = &fleet.Shelf{
		Options: client.Options{Address: address, ClientID: "shelf", SessionExpiry: 3600}, Prefix: "kept",
	}
	var fast []*tally.Stream
	for _, p := range e.publishers {
		fast = append(fast, p.Lines[0].Stream, p.Lines[1].Stream)
	}
	e.changer = &fleet.Changer{
		Options: client.Options{Address: address, ClientID: "changer", SessionExpiry: 3600},
		Filter:  client.Filter{Filter: "site/+/+", QoS: 2, RetainHandling: 2},
		Streams: append(fast, e.states()...), Tally: e.tally, Got: e.tally.Receiver(),
		Rest: func() time.Duration { return time.Duration(e.tally.Acknowledged()%97) * time.Millisecond },
	}
	e.dead = e.audit
	e.probe()
	return e
}

// probe waits until something has come down: the cloud knows the subscriptions of the uplink.
func (e *everything) probe() {
	e.t.Helper()
	here := client.New(client.Options{Address: e.gateway.Spec.Address})
	above := client.New(client.Options{Address: e.cloud.Spec.Address})
	for _, c := range []*client.Client{here, above} {
		defer c.Close()
		if _, err := c.Connect(e.ctx); err != nil {
			e.t.Fatal(err)
		}
	}
	if _, err := here.Subscribe(e.ctx, client.Filter{Filter: "probe"}); err != nil {
		e.t.Fatal(err)
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if err := above.Publish(e.ctx, client.Publish{Topic: "probe", QoS: 1}); err != nil {
			e.t.Fatal(err)
		}
		select {
		case <-here.Messages():
			return
		case <-ticker.C:
		case <-e.ctx.Done():
			e.t.Fatal("nothing comes down the uplink")
		}
	}
}

func (e *everything) states() (all []*tally.Stream) {
	for _, p := range e.publishers {
		all = append(all, p.Lines[len(p.Lines)-1].Stream)
	}
	return all
}

// audit compares the books of the gateway, which is dead, with the lists of the publishers.
func (e *everything) audit() {
	e.t.Helper()
	e.killed++
	e.shelf.Bar()
	b, acked := e.read(), e.tally.Snapshot()
	for _, s := range e.offline {
		var least, most uint64
		for stream := range e.topics {
			if e.rules(s).Only(stream) {
				most += stream.Last()
				if stream != e.orders.Lines[0].Stream && stream != e.orders.Lines[1].Stream {
					least += acked.CountOf(stream) // the others it is the cloud that has acknowledged
				}
			}
		}
		// What is in flight when the gateway dies is published once more, in each of two kills.
		most += 2 * e.killed * uint64(len(e.publishers)+1) * 50
		a := b.Sessions[s.Options.ClientID]
		if a.Pending < least || a.Pending > most || a.Pending != a.Accepted {
			e.t.Errorf("%s has %+v; %d were acknowledged, at most %d sent", s.Options.ClientID, a, least, most)
		}
	}
}

// read reads the books, in which nothing is lost.
func (e *everything) read() *books.Books {
	e.t.Helper()
	b, err := books.Read(filepath.Join(e.gateway.Spec.Dir, "data"), e.gateway.Spec.Dir)
	if err != nil {
		e.t.Error(err)
		return &books.Books{}
	}
	for name, a := range b.Sessions {
		if a.Lost > 0 {
			e.t.Errorf("session %s: %+v", name, a)
		}
	}
	for name, a := range b.Uplinks {
		if a.Lost > 0 {
			e.t.Errorf("uplink %s: %+v", name, a)
		}
	}
	return b
}

// walk has the gateway, which runs, count its records and compare them with its ledger.
func (e *everything) walk() {
	e.t.Helper()
	binary, err := process.Binary()
	if err != nil {
		e.t.Fatal(err)
	}
	data := filepath.Join(e.gateway.Spec.Dir, "data")
	out, err := exec.CommandContext(e.ctx, binary, "ledger", "--data", data, "--walk").CombinedOutput()
	if err != nil {
		e.t.Errorf("dunlin ledger --walk: %v\n%s", err, out)
	}
}

// settle stops the gateway, to which everything was delivered, and compares its books with the
// lists of the receivers.
func (e *everything) settle() {
	e.t.Helper()
	if err := e.gateway.Stop(e.ctx); err != nil {
		e.t.Fatal(err)
	}
	b := e.read()
	compare := func(name string, a books.Account, got *tally.Got, least uint64) {
		most := got.Count() + got.Repeats()
		e.t.Logf("%-16s %7d accepted, %7d delivered; %7d arrived, %5d of them again",
			name, a.Accepted, a.Delivered, most, got.Repeats())
		if a.Pending > 0 || a.Delivered < least || a.Delivered > most {
			e.t.Errorf("%s: the books say %+v, %d arrived and %d again", name, a, got.Count(), got.Repeats())
		}
	}
	for _, s := range e.offline { // no kill has come between a message and its acknowledgement
		compare(s.Options.ClientID, b.Sessions[s.Options.ClientID], s.Got, s.Got.Count()+s.Got.Repeats())
	}
	for _, s := range []*fleet.Receiver{e.online, e.online3, e.roaming} {
		// What an online session takes at once may never come into its queue.
		compare(s.Options.ClientID, b.Sessions[s.Options.ClientID], s.Got, 0)
	}
	compare("uplink", b.Uplinks["cloud"], e.above.Got, e.above.Got.Count())
}

// TestKillsUnderEverythingKeepThePromise kills the gateway at full rate, with everything going on.
// Nothing acknowledged is lost, nothing at QoS 2 comes twice, nothing overtakes, no subscription
// and no retained message is older than what was acknowledged, and the ledgers agree with the lists
// of the publishers after each kill, and with those of the receivers at the end.
func TestKillsUnderEverythingKeepThePromise(t *testing.T) {
	killUnderEverything(t, nil)
}

// TestKillsWithLittleMemoryKeepThePromise does the same with 32 MiB for the process, its pages of
// the files and its socket buffers.
func TestKillsWithLittleMemoryKeepThePromise(t *testing.T) {
	group, err := process.LimitMemory(32 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // behind the end of the gateway
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	})
	killUnderEverything(t, group.Via())
	kills, err := group.Kills()
	if kills > 0 || err != nil {
		t.Errorf("the kernel has killed the gateway %d times, %v", kills, err)
	}
	peak, err := group.Peak()
	t.Logf("at most %d KiB in use, %v", peak>>10, err)
}

func killUnderEverything(t *testing.T, via []string) {
	t.Helper()
	e := newEverything(t, via)
	online := e.start(e.online.Run, e.online3.Run)
	load, orders := e.load(), e.start(e.orders.Run)
	changes, shelf := e.start(e.changer.Run), e.start(e.shelf.Run)
	for kill := range kills() {
		var roaming *devices
		if e.rng.IntN(2) == 0 {
			roaming = e.start(e.roaming.Run)
		}
		switch e.rng.IntN(4) {
		case 0:
			e.link.Cut()
		case 1:
			e.link.Down()
		default:
			e.link.Up()
		}
		e.kill(200 << e.rng.IntN(7))
		if err := e.shelf.Look(e.ctx); err != nil {
			t.Fatal(err)
		}
		if kill%4 == 0 {
			e.walk()
		}
		if roaming != nil {
			roaming.halt()
		}
	}
	e.link.Up()
	load.halt()
	orders.halt()
	changes.halt()
	shelf.halt()
	online.halt()
	e.check()
	if err := e.shelf.Look(e.ctx); err != nil {
		t.Error(err)
	}
	if err := e.changer.Check(e.ctx); err != nil {
		t.Error(err)
	}
	e.finish()
	e.walk()
	e.settle()
	t.Logf("%d kills, %d messages acknowledged, %d changes of a subscription, %d of retained messages",
		e.killed, e.tally.Acknowledged(), e.changer.Spans(), e.shelf.Operations())
}
