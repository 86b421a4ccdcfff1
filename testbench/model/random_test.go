package model

import (
	"context"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dunlin/core/access"
	"dunlin/core/auth"
	"dunlin/core/broker"
	"dunlin/core/message"
	"dunlin/core/packet"

	"golang.org/x/sys/unix"
)

var (
	seeds = flag.Int("seeds", 0, "runs of the model test; 0 = as many as are reasonable")
	seed  = flag.Uint64("seed", 0, "the only run of the model test")
	steps = flag.Int("steps", 60, "steps of each run")
)

// longest is a Session Expiry Interval beyond every run, in seconds.
const longest = 1_000_000

// run is one broker after the other between raw clients that do what a list of events says.
type run struct {
	t       *testing.T
	ln      net.Listener
	address string
	buf     []byte

	fails   bool // commits fail now and then
	start   time.Time
	b       *broker.Broker
	store   *store
	m       *model
	clients []*client
	busy    bool // something has come or gone
	verbose bool
	history []string
	err     error
}

// event is one thing to do, and what it takes of chance.
type event struct {
	kind   kind
	chance uint64
}

type kind int

const (
	publish kind = iota
	commit
	fail
	answer
	connect
	cut
	deafen
	disconnect
	subscribe
	unsubscribe
	wait
	settle
	crash
)

var weights = map[kind]int{
	publish: 28, commit: 16, fail: 3, answer: 20, connect: 9, cut: 4, deafen: 3, disconnect: 3,
	subscribe: 8, unsubscribe: 2, wait: 4, settle: 2, crash: 2,
}

func events(seed uint64, n int) (all []event) {
	rng := rand.New(rand.NewPCG(seed, 77))
	sum := 0
	for _, w := range weights {
		sum += w
	}
	for range n {
		x := rng.IntN(sum)
		for _, k := range slices.Sorted(maps.Keys(weights)) {
			if x -= weights[k]; x < 0 {
				all = append(all, event{k, rng.Uint64()})
				break
			}
		}
	}
	return all
}

func (x *run) fault(format string, args ...any) {
	if x.err == nil {
		x.err = fmt.Errorf(format, args...)
	}
}

func (x *run) log(format string, args ...any) {
	if x.verbose {
		x.history = append(x.history, fmt.Sprintf(format, args...))
	}
}

type anybody struct{}

func (anybody) Authenticate(_ auth.Request, done func(auth.Answer)) {
	done(auth.Answer{Identity: access.Identity{Anonymous: true}})
}

type bootClock struct{ start time.Time }

func (c bootClock) Stamp() message.Stamp {
	return message.Stamp{Boot: 1, Millis: uint64(time.Since(c.start) / time.Millisecond)}
}

func (c bootClock) Elapsed(s message.Stamp) time.Duration {
	return time.Since(c.start) - time.Duration(s.Millis)*time.Millisecond
}

// boot starts a broker on what the store holds.
func (x *run) boot() {
	policy, err := access.New(access.Options{})
	if err != nil {
		x.t.Fatal(err)
	}
	x.b, err = broker.New(broker.Options{
		Store: x.store, Restored: x.store.disk.restored(), Retained: x.retained(),
		Auth: anybody{}, Policy: policy, Clock: bootClock{x.start}, Log: slog.New(slog.DiscardHandler),
		Limits: broker.Limits{MaxInFlight: 5, ReceiveMaximum: 20},
	})
	if err != nil {
		x.t.Fatal(err)
	}
	x.store.c = x.b.Completer()
	listening := make(chan error, 1)
	go func() { // ended by the turn, awaited behind it
		listening <- x.b.Listen(x.t.Context(), x.ln, &broker.Listener{Name: "model", AllowAnonymous: true})
	}()
	synctest.Wait()
	x.turn()
	if err := <-listening; err != nil {
		x.t.Fatal(err)
	}
}

func (x *run) retained() iter.Seq[*message.Message] { return maps.Values(x.store.disk.retained) }

// kill ends the process: nothing of what it does from now on reaches the disk.
func (x *run) kill() {
	x.store = x.store.crash()
	over, cancel := context.WithCancel(x.t.Context())
	cancel()
	if err := x.b.Run(over); err != nil {
		x.t.Fatal(err)
	}
}

func (x *run) turn() {
	if err := x.b.Turn(); err != nil {
		x.t.Fatal(err)
	}
}

// hear lets the broker work off what it has, and compares what the clients get with the model.
func (x *run) hear() {
	for range 2 {
		x.turn()
	}
	x.m.turn++
	for _, c := range x.clients {
		c.taken()
		if over := c.pull(); over {
			x.log("  %s is closed", c.id)
			if !x.fails {
				c.hear()
				x.fault("%s was closed by the broker", c.id)
				return
			}
			c.hear()
			if s := c.session(); s != nil && s.online {
				x.m.leaves(s, false)
			}
			c.closed()
		}
	}
	for _, c := range x.clients {
		c.hear()
		if s := c.session(); s != nil && c.fd >= 0 && !c.deaf && x.err == nil {
			if err := x.m.lost(s); err != nil {
				x.fault("%v", err)
			}
		}
	}
	for _, c := range x.clients { // now that all have heard what was sent before
		if c.resumes && x.err == nil {
			c.resume()
		}
	}
}

var (
	topics  = []string{"a", "a/b", "room/t", "room/t/x"}
	filters = []string{"#", "a/#", "+/b", "a", "a/b", "room/+", "room/#", "room/t/x", "w/+"}
)

func (x *run) step(e event) {
	rng := rand.New(rand.NewPCG(e.chance, 1))
	c := x.clients[rng.IntN(len(x.clients))]
	if c.fd < 0 && e.kind != connect && rng.IntN(2) == 0 {
		for _, other := range x.clients {
			if other.fd >= 0 {
				c = other
			}
		}
	}
	x.m.begin()
	up := c.fd >= 0 && c.accepted
	switch e.kind {
	case publish:
		for range 1 + rng.IntN(3) {
			if up {
				x.publish(c, rng)
			}
		}
	case commit, fail:
		if e.kind == fail && x.fails {
			x.log("the disk fails")
			x.store.fail()
			break
		}
		n := len(x.store.waiting)
		if rng.IntN(3) == 0 {
			n = rng.IntN(n + 1)
		}
		x.log("the store commits %d of %d", n, len(x.store.waiting))
		x.store.commit(n)
	case answer:
		if up && len(c.answers) > 0 {
			n := 1 + rng.IntN(len(c.answers))
			x.log("%s answers %d of %d", c.id, n, len(c.answers))
			c.answer(n)
		}
	case connect:
		if c.fd < 0 || rng.IntN(4) == 0 {
			x.connect(c, rng)
		}
	case cut:
		if c.fd >= 0 {
			x.log("the connection of %s is cut", c.id)
			x.leave(c, false)
		}
	case deafen:
		if up {
			x.log("nothing reaches %s any more", c.id)
			c.deaf = true
		}
	case disconnect:
		if up {
			x.disconnect(c, rng)
		}
	case subscribe:
		if up {
			x.subscribe(c, rng)
		}
	case unsubscribe:
		if f := filters[rng.IntN(len(filters))]; up && !c.pending(f) {
			x.log("%s unsubscribes from %s", c.id, f)
			c.unsubscribe([]string{f})
		}
	case wait:
		x.wait(1 + rng.IntN(4)*rng.IntN(40))
	case settle:
		x.settle()
	case crash:
		switch {
		case x.fails: // a failure may let a session go on that is not on disk: no crash on top of it
			x.store.commit(len(x.store.waiting))
		case rng.IntN(2) == 0:
			x.store.commit(rng.IntN(len(x.store.waiting) + 1))
		}
		x.die()
	}
	x.hear()
}

func (x *run) leave(c *client, clean bool) {
	if s := c.session(); s != nil {
		x.m.leaves(s, clean)
	}
	c.closed()
}

func (x *run) publish(c *client, rng *rand.Rand) {
	if len(c.flight) >= 6 {
		return
	}
	c.published++
	m := &post{
		from: c.id, topic: topics[rng.IntN(len(topics))], payload: fmt.Sprintf("%s-%d", c.id, c.published),
		qos: packet.QoS(rng.IntN(3)), retain: rng.IntN(4) == 0,
	}
	if rng.IntN(8) == 0 {
		m.large = true
		m.payload += strings.Repeat(".", 300)
	}
	if c.v == packet.V5 && rng.IntN(4) == 0 {
		m.expiry = 1 + rng.IntN(30)
	}
	if m.retain && rng.IntN(5) == 0 {
		m.payload, m.large = "", false
	}
	o := &outgoing{m: m}
	if m.qos > 0 {
		for used := true; used; {
			c.nextID = c.nextID%50 + 1
			used = slices.ContainsFunc(c.flight, func(o *outgoing) bool { return o.id == c.nextID })
		}
		o.id = c.nextID
		c.flight = append(c.flight, o)
	}
	c.send(o, false)
}

func (x *run) connect(c *client, rng *rand.Rand) {
	k := &packet.Connect{CleanStart: rng.IntN(6) == 0, SessionExpiry: []uint32{0, 3, 50, 3600, 3600}[rng.IntN(5)], ReceiveMaximum: uint16(1 + rng.IntN(8))}
	if rng.IntN(4) == 0 {
		k.MaximumPacketSize = 150
	}
	if rng.IntN(3) == 0 {
		k.TopicAliasMaximum = 2
	}
	var w *will
	if !x.fails && rng.IntN(3) == 0 {
		c.published++
		w = &will{m: &post{from: c.id, topic: "w/" + c.id, payload: fmt.Sprintf("%s-%d", c.id, c.published), qos: packet.QoS(rng.IntN(3)), retain: rng.IntN(4) == 0, will: true}}
		if c.v == packet.V5 {
			w.delay = []int{0, 2, 20, 100}[rng.IntN(4)]
		}
		k.HasWill = true
		k.Will = packet.Will{Topic: []byte(w.m.topic), Payload: []byte(w.m.payload), QoS: w.m.qos, Retain: w.m.retain, Delay: uint32(w.delay)}
	}
	x.log("%s connects: clean start %v, expiry %d, receive maximum %d, maximum packet size %d, will %v", c.id, k.CleanStart, k.SessionExpiry, k.ReceiveMaximum, k.MaximumPacketSize, w)
	c.connect(k, w)
}

func (w *will) String() string {
	if w == nil {
		return "none"
	}
	return fmt.Sprintf("%s QoS %d retain %v after %d s", w.m.payload, w.m.qos, w.m.retain, w.delay)
}

func (x *run) disconnect(c *client, rng *rand.Rand) {
	d := packet.Disconnect{}
	s := c.session()
	if c.v == packet.V5 {
		if rng.IntN(3) == 0 {
			d.Code = packet.DisconnectWithWill
		}
		if s.lasts() > 0 && rng.IntN(3) == 0 {
			d.HasSessionExpiry, d.SessionExpiry = true, []uint32{0, 3, 3600}[rng.IntN(3)]
			s.expiry = append(s.expiry, int(d.SessionExpiry))
			c.keeps, c.forgot = d.SessionExpiry > 0, d.SessionExpiry == 0
		}
	}
	x.log("%s disconnects: %v, expiry %v %d", c.id, d.Code, d.HasSessionExpiry, d.SessionExpiry)
	c.write(packet.AppendDisconnect(nil, &d, c.v))
	x.leave(c, d.Code == packet.Success)
}

func (x *run) subscribe(c *client, rng *rand.Rand) {
	id := uint32(0)
	if c.v == packet.V5 && rng.IntN(2) == 0 {
		id = uint32(1 + rng.IntN(9))
	}
	var subs []*subscription
	for range 1 + rng.IntN(2) {
		sub := &subscription{filter: filters[rng.IntN(len(filters))], qos: packet.QoS(rng.IntN(3)), id: id}
		if c.v == packet.V5 {
			sub.noLocal, sub.retainAsPublished, sub.handling = rng.IntN(4) == 0, rng.IntN(2) == 0, byte(rng.IntN(3))
		}
		if c.pending(sub.filter) || slices.ContainsFunc(subs, func(s *subscription) bool { return s.filter == sub.filter }) {
			continue
		}
		subs = append(subs, sub)
		x.log("%s subscribes to %+v", c.id, *sub)
	}
	if len(subs) > 0 {
		c.subscribe(id, subs)
	}
}

// wait lets seconds pass. A second is longer than anything stays unsaved.
func (x *run) wait(seconds int) {
	x.log("%d seconds pass", seconds)
	for range seconds {
		for x.busy = true; x.busy && x.err == nil; {
			x.busy = false
			x.store.commit(len(x.store.waiting))
			x.hear()
			x.m.begin()
		}
		if x.err != nil {
			return
		}
		time.Sleep(time.Second)
		x.m.tick()
		x.hear()
		x.m.begin()
	}
}

// settle lets everything come to its end for those who are connected, and sees that they have got
// what they were to get.
func (x *run) settle() {
	x.log("everything comes to its end")
	quiet, waits := 0, 0
	if x.fails {
		waits = 2
	}
	for range 1000 {
		x.busy = len(x.store.waiting) > 0
		x.store.commit(len(x.store.waiting))
		for _, c := range x.clients {
			if c.fd >= 0 {
				c.answer(len(c.answers))
			}
		}
		x.hear()
		x.m.begin()
		if quiet++; x.busy {
			quiet = 0
		}
		if x.err != nil {
			return
		}
		if quiet > 1 && (waits == 0 || !x.publishing()) {
			break
		}
		if quiet > 1 { // what could not be stored is tried again after a while
			time.Sleep(2 * time.Second)
			waits--
			quiet = 0
		}
	}
	if quiet < 2 {
		x.fault("it does not come to an end")
	}
	for _, c := range x.clients {
		s := c.session()
		if c.fd < 0 || c.deaf || s == nil {
			continue
		}
		if err := s.missing(); err != nil {
			x.fault("%v", err)
		}
		s.greets = nil
		if !c.accepted || len(c.asked) > 0 || len(c.inUse) > 0 || len(c.flight) > 0 {
			x.fault("%s has flows that do not end: accepted %v, asked %v, in use %v, in flight %d", c.id, c.accepted, c.asked, c.inUse, len(c.flight))
		}
	}
}

// held says whether a message may have been held, since it or one before it could not be stored: then it
// is for those who have subscribed meanwhile, too.
func (x *run) held(topic, payload string) (may bool) {
	for _, c := range x.clients {
		for _, o := range c.flight {
			if x.fails && o.m.qos == 2 && o.m.topic == topic && o.m.payload == payload {
				x.m.maybe(o.m)
				may = true
			}
		}
	}
	return may
}

// publishing says whether somebody who is connected waits for an acknowledgement.
func (x *run) publishing() bool {
	return slices.ContainsFunc(x.clients, func(c *client) bool { return c.fd >= 0 && !c.deaf && len(c.inUse)+len(c.flight) > 0 })
}

// end brings everybody back, and then nothing may be left. After another start of the broker,
// which finds it all on disk, everybody asks for what is retained.
func (x *run) end() {
	x.gather()
	if n := x.store.mem.left(); n != 0 {
		x.fault("%d entries are left in the store, and everybody has everything", n)
	}
	if n := x.store.disk.left(); n != 0 {
		x.fault("%d entries are left on disk that are not in memory", n)
	}
	if x.err == nil {
		x.die()
		x.gather()
	}
	for _, c := range x.clients {
		if x.err == nil && c.fd >= 0 {
			c.subscribe(0, []*subscription{{filter: "#", qos: 2}})
		}
	}
	if x.err == nil {
		x.settle()
	}
}

func (x *run) gather() {
	for _, c := range x.clients {
		if x.err == nil {
			x.m.begin()
			x.log("%s connects in the end", c.id)
			c.connect(&packet.Connect{SessionExpiry: 3600, ReceiveMaximum: 100}, nil)
			x.hear()
		}
	}
	for range 3 { // who was closed by a failure comes again
		if x.err == nil {
			x.settle()
		}
	}
}

// die is a crash and another start.
func (x *run) die() {
	x.log("crash: %d operations are lost", len(x.store.waiting))
	x.kill()
	x.m.crash()
	for _, c := range x.clients {
		c.closed()
	}
	x.boot()
}

// play runs a list of events against a new broker.
func (x *run) play(seed uint64, list []event) error {
	x.fails, x.start, x.err, x.history = seed%4 == 1, time.Now(), nil, nil
	x.store, x.m, x.clients = newStore(), newModel(), nil
	x.m.fails = x.fails
	for i, v := range []packet.Version{packet.V5, packet.V5, packet.V311, packet.V31} {
		x.clients = append(x.clients, &client{x: x, id: fmt.Sprint("c", i), v: v, fd: -1, held: map[packet.ID]string{}})
	}
	x.boot()
	for i, e := range list {
		x.log("step %d", i)
		if x.step(e); x.err != nil {
			break
		}
	}
	if x.err == nil {
		x.end()
	}
	x.kill()
	for _, c := range x.clients {
		c.closed()
	}
	return x.err
}

// shrink leaves out what a failure does not need.
func (x *run) shrink(seed uint64, list []event) []event {
	for size := len(list) / 2; size > 0; size /= 2 {
		for i := 0; i+size <= len(list); {
			less := slices.Delete(slices.Clone(list), i, i+size)
			if x.play(seed, less) != nil {
				list = less
			} else {
				i += size
			}
		}
	}
	return list
}

func (x *run) report(seed uint64, list []event) {
	list = x.shrink(seed, list)
	x.verbose = true
	err := x.play(seed, list)
	x.t.Fatalf("seed %d: %v\nOf the events, these are needed:\n%s\nTo run it alone: go test ./testbench/model -run %s -seed %d -steps %d",
		seed, err, strings.Join(x.history, "\n"), x.t.Name(), seed, *steps)
}

// TestSessionsKeepWhatTheModelPromises plays random events against a broker whose store commits
// one operation at a time, in fake time: publishing at all QoS, subscribing, acknowledging late or
// never, losing connections, taking over, expiring, crashing between any two commits.
func TestSessionsKeepWhatTheModelPromises(t *testing.T) {
	from, n := uint64(1), 4000
	switch {
	case testing.Short():
		n = 200
	case raceEnabled:
		n = 500
	}
	if *seeds > 0 {
		n = *seeds
	}
	if *seed > 0 {
		from, n = *seed, 1
	}
	address := fmt.Sprintf("@dunlin-model-%d", unix.Getpid())
	ln, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	synctest.Test(t, func(t *testing.T) {
		x := &run{t: t, ln: ln, address: address, buf: make([]byte, 64<<10)}
		for s := from; s < from+uint64(n); s++ {
			list := events(s, *steps)
			if x.play(s, list) != nil {
				x.report(s, list)
			}
		}
	})
}
