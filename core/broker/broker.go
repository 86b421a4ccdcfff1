// Package broker joins the parts of the core to an MQTT broker: connections, sessions, routes,
// retained messages, access. It declares what it needs from outside: a Store, Outboxes, a Clock,
// an Authenticator; and what can watch it, an Observer.
//
// # The way of a message
//
//	packet ─▶ Packet ─▶ onPublish: access, flow ─▶ publish
//	                                                 ├─ QoS 0, and sessions that end with their connection: sent now
//	                                                 ├─ durable receivers: Store.Append, one record for all of them;
//	                                                 │    QoS 1 to a live receiver is sent now, too
//	                                                 ├─ outboxes: Append at QoS 1; at QoS 2 they are receivers of the record
//	                                                 └─ retained
//	Completer ─▶ publishing.complete ─▶ PUBACK or PUBREC, in order; QoS 2 to live receivers; outboxes
//
// An acknowledgement is written only after the commit of what it promises. Everything runs on
// the goroutine of the loop; Listen, Inject, Disconnect, Snapshot and Shutdown may be called from any.
package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"dunlin/core/access"
	"dunlin/core/conn"
	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/retain"
	"dunlin/core/route"
	"dunlin/core/rule"
	"dunlin/core/session"
)

// Broker is an MQTT broker on one event loop.
type Broker struct {
	store  Store
	auth   Authenticator
	policy *access.Policy
	clock  Clock
	limits Limits
	log    *slog.Logger

	durableLimits, transientLimits *session.Limits

	rewrites      rule.Rewrites
	durability    []DurabilityRule
	autoSubscribe []AutoSubscription

	responsePrefix string

	observer Observer // nil = nobody watches
	freed    freed
	sys      *sys
	presence presence

	loop      *loop.Loop
	over      chan struct{} // closed when Run has returned
	ops       table
	index     *route.Index
	cache     *route.Cache
	receivers []receiver // by route.Receiver
	freeRecv  []route.Receiver
	members   map[string]*member // by client identifier
	groups    map[string]*group  // by Topic Filter of SUBSCRIBE
	sharers   int                // members of all groups
	retained  *retain.Store
	outboxes  []*outbox

	endings   map[string]*member      // by client identifier: ended, and not on disk yet
	waiting   map[waitKey]*publishing // QoS 2 messages of clients that are not committed yet
	handbacks handbacks
	undecided int               // bytes of messages that wait for a durable destination
	throttled []*client         // reading from them rests
	full      []*client         // they await output that may be written in this turn
	greeters  []*member         // they await the disk for retained messages
	paces     map[*client]*pace // of those who were let in; nil = they may publish at any rate

	wills     []will // to be published at the end of the turn
	willBytes int64  // of the wills of all sessions
	// kept are the records of sessions that have one for their wills only; afterWills is what is to be
	// written after wills.
	kept       map[*member]durable.SessionNumber
	afterWills map[*member][]func()
	orphans    []orphan    // to be given to others at the end of the turn
	movements  []*movement // the first is under way
	crashed    []*member   // connected when the last process ended; until Run
	// superseded are older sessions of client identifiers that have a newer one; until Run.
	superseded []*member
	sweep      retainedSweep
	dates      dates
	delayed    delayed
	held       heldMessages
	doubts     map[string]*doubt // by topic
	faults     failures          // of the store
	evictions  failures
	storeState durable.StoreState // as it was told last
	begun      bool               // the first turn was
	stopping   bool
	counters   Counters

	stamp   message.Stamp // of this turn
	stamped time.Duration // the turn of stamp

	// Scratch of one publish, reused.
	variants variants
	targets  []target
	chosen   []*group
	copies   []target
	handed   []*outbox
	durables []durable.Receiver
	spare    []*publishing

	spareFlow []*flow // steps that have ended

	publishes uint64 // counts them, so that the receivers of the one under way can be marked
}

// receiver is what a route.Receiver stands for: one of the three.
type receiver struct {
	member *member
	outbox *outbox
	group  *group
}

// New builds a broker from what the store held. Nothing is accepted before Run and Listen.
func New(o Options) (*Broker, error) {
	o.Limits.setDefaults()
	if err := o.Rewrites.Validate(); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	b := &Broker{
		store:    o.Store,
		auth:     o.Auth,
		policy:   o.Policy,
		clock:    o.Clock,
		limits:   o.Limits,
		log:      o.Log,
		index:    route.New(),
		members:  make(map[string]*member),
		groups:   make(map[string]*group),
		retained: retain.New(o.Limits.retain()),
		waiting:  make(map[waitKey]*publishing),
		doubts:   make(map[string]*doubt),
		endings:  make(map[string]*member),

		rewrites:       o.Rewrites,
		durability:     o.Durability,
		autoSubscribe:  o.AutoSubscribe,
		responsePrefix: o.ResponsePrefix,

		over:    make(chan struct{}),
		stamped: -1,
		faults:  failures{what: "the store fails"},

		evictions: failures{what: "the store is nearly full, its largest queues lose their oldest messages"},
	}
	b.durableLimits, b.transientLimits = sessionLimits(&b.limits)
	if o.Limits.MaxMessageRate > 0 {
		b.paces = make(map[*client]*pace)
	}
	b.sweep.b = b
	b.dates.b = b
	b.delayed.b = b
	b.held.b = b
	b.sys = newSys(b, o)
	b.presence.b = b
	b.index.Observe(func(filter string, added bool) {
		b.sys.observe(filter, added)
		b.presence.observe(filter, added)
	})
	b.cache = route.NewCache(b.index, o.Limits.MatchCacheReferences)
	var err error
	if b.loop, err = loop.New(handler{b}, max(o.IOThreads-1, 0)); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	b.restoreRetained(o)
	b.restoreSessions(o)
	b.freed.tell = o.Freed
	b.delayed.restore(o.Delayed)
	b.observer = o.Observer // not told of what was restored
	return b, nil
}

// Completer is where the store is to answer to.
func (b *Broker) Completer() durable.Completer { return completer{b} }

// Listen adds a listening socket while Run runs, or waits until it does; ln may be closed after.
// Several sockets may share the settings o, and then share its bound of connections.
func (b *Broker) Listen(ctx context.Context, ln net.Listener, o *Listener) error {
	var failed error
	if err := b.onLoop(ctx, func() {
		if b.stopping {
			failed = errOver
			return
		}
		failed = b.loop.Listen(ln, o)
	}); err != nil {
		return err
	}
	return failed
}

// Run serves until the context ends; it is called once. The store must work from before it until
// it has returned.
func (b *Broker) Run(ctx context.Context) error {
	b.startUp()
	err := b.loop.Run(ctx)
	close(b.over)
	return err
}

// Turn does what Run would do by now and returns: for a test that has one goroutine and decides
// itself when there is a turn, and at what time. Run with a context that has ended ends it.
func (b *Broker) Turn() error {
	b.startUp()
	return b.loop.Turn()
}

// startUp does what has to be done once, before the first turn.
func (b *Broker) startUp() {
	if b.begun {
		return
	}
	b.begun = true
	b.startOutboxes()
	if len(b.movements) > 0 {
		b.loop.Post(b.moveNext)
	}
	b.afterCrash()
}

// errOver says that Run has returned, or is about to.
var errOver = errors.New("broker: the event loop has ended")

// onLoop runs f on the loop and waits for it: until ctx ends, or Run has returned.
func (b *Broker) onLoop(ctx context.Context, f func()) error {
	done := make(chan struct{})
	b.loop.Post(func() {
		f()
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-b.over:
		return errOver
	case <-ctx.Done():
		return fmt.Errorf("broker: no answer from the event loop: %w", ctx.Err())
	}
}

// lastWords is how long Shutdown waits for clients that are slow to take their output.
const lastWords = 3 * time.Second

// Shutdown closes the listeners, tells every client that the broker stops, or where to go, and
// closes the connections. It returns when all have taken what was queued for them, after lastWords, when Run
// has returned, or when the context ends. Run goes on until its own context ends, so that what is
// under way can complete.
func (b *Broker) Shutdown(ctx context.Context) {
	written := make(chan struct{})
	tell := func() {
		b.stopping = true
		b.loop.CloseListeners()
		b.loop.Linger(func() { close(written) })
		for _, m := range b.members {
			if m.client != nil {
				b.dismiss(m.client)
			}
		}
	}
	if b.onLoop(ctx, tell) != nil {
		return
	}
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
	case <-b.over:
	case <-ctx.Done():
	}
}

// Alive waits for one turn of the loop: the liveness that a watchdog asks for.
func (b *Broker) Alive(ctx context.Context) error { return b.onLoop(ctx, func() {}) }

// Snapshot returns the counters as of one moment.
func (b *Broker) Snapshot(ctx context.Context) (Counters, error) {
	out := make(chan Counters, 1)
	err := b.onLoop(ctx, func() {
		c := b.counters
		c.Sessions = len(b.members)
		c.Subscriptions = b.subscriptions()
		c.Retained = b.retained.Len()
		c.Delayed, c.DelayedBytes = b.delayed.count, b.delayed.bytes
		out <- c
	})
	if err != nil {
		return Counters{}, err
	}
	return <-out, nil
}

// handler is the broker as its loop sees it.
type handler struct{ *Broker }

// Accepted takes a new connection.
func (h handler) Accepted(k *conn.Conn, where any) bool {
	b, ln := h.Broker, where.(*Listener)
	if b.stopping || ln.MaxConnections > 0 && ln.connections >= ln.MaxConnections ||
		b.limits.MaxConnections > 0 && b.counters.Connections >= b.limits.MaxConnections {
		b.counters.RefusedConnects++
		if !b.stopping { // nobody can be told: the reason is in the log only
			ln.full.what = "there are as many connections as there may be, more are closed"
			ln.full.report(b, slog.LevelWarn, "listener", ln.Name, "remote", k.Remote(), "connections", ln.connections,
				"of_all_listeners", b.counters.Connections)
		}
		return false
	}
	if b.loop.Now()-ln.full.logged >= reportEvery { // or coming and going at the bound would fill the log
		ln.full.over(b, "listener", ln.Name)
	}
	ln.connections++
	b.counters.Connections++
	b.counters.Sockets++
	c := &client{b: b, conn: k, listener: ln, seen: b.loop.Now(), version: packet.V311}
	k.Owner = c
	b.loop.At(b.loop.Now()+b.limits.ConnectTimeout, c)
	return true
}

// MaxPacket is what is taken of a connection now: less before its CONNECT was accepted.
func (h handler) MaxPacket(k *conn.Conn) int {
	c := k.Owner.(*client)
	if c.member == nil {
		return min(maxConnect, c.maxReceived())
	}
	return c.maxReceived()
}

// maxConnect is the largest first packet, in bytes.
const maxConnect = 64 << 10

// Packet takes one packet of a client.
func (h handler) Packet(k *conn.Conn, header packet.Header, body []byte) error {
	c := k.Owner.(*client)
	h.counters.PacketsReceived++
	h.counters.BytesReceived += uint64(packetSize(len(body)))
	return h.took(c, c.onPacket(header, body))
}

// Acks takes acknowledgements of a client whose identifiers count up.
func (h handler) Acks(k *conn.Conn, t packet.Type, first packet.ID, n int) error {
	c := k.Owner.(*client)
	h.counters.PacketsReceived += uint64(n)
	h.counters.BytesReceived += uint64(n) * uint64(packetSize(2))
	return h.took(c, c.onAcks(t, first, n))
}

// took lets reading from a client rest that asks for much and does not take its output.
func (h handler) took(c *client, err error) error {
	if err == nil && c.conn.Unsent() > chokeAt*h.limits.MaxOutput && !c.ended {
		return h.choke(c)
	}
	return err
}

// packetSize is the length of a packet with its fixed header, by what follows that.
func packetSize(remaining int) int {
	switch {
	case remaining < 1<<7:
		return 2 + remaining
	case remaining < 1<<14:
		return 3 + remaining
	case remaining < 1<<21:
		return 4 + remaining
	}
	return 5 + remaining
}

// Drained goes on with what waited for the output of a client: with its messages when there is room for
// some, or QoS 0, which does not wait, would have all of it; with reading from it when all has gone.
func (h handler) Drained(k *conn.Conn) {
	c := k.Owner.(*client)
	n := k.Unsent()
	if c.awaiting && (n == 0 || !k.Blocked() || !c.choked && n <= h.limits.MaxOutput) {
		h.drained(c)
	}
}

// Ended is the end of a connection that the client did not ask for.
func (h handler) Ended(k *conn.Conn, err error) {
	b, c := h.Broker, k.Owner.(*client)
	if fault, ok := errors.AsType[*packet.Error](err); ok {
		b.counters.ProtocolErrors++
		b.log.Info("client broke the protocol", "client_id", c.id(), "remote", k.Remote(), "listener", c.listener.Name, "err", fault)
		b.refuse(c, fault)
		return
	}
	if !errors.Is(err, io.EOF) {
		b.log.Debug("connection failed", "client_id", c.id(), "err", err)
	}
	b.end(c, abnormal)
}

// ClockStepped is told that the wall clock was set, or that the machine was suspended.
func (h handler) ClockStepped() { h.dates.stepped() }

// TurnEnds publishes the events and the wills of the turn, gives to others what sessions have left to
// them, and hands what was collected to the writers.
func (h handler) TurnEnds() {
	b := h.Broker
	b.unthrottle()
	b.checkOutput()
	b.freed.found(b.cache.Made())
	for again := true; again; again = b.adopt() {
		b.presence.publish()
		b.publishWills()
	}
	b.store.Flush()
	for _, o := range b.outboxes {
		o.Flush()
	}
}

// now dates what is stored in this turn.
func (b *Broker) now() message.Stamp {
	if b.stamped != b.loop.Now() {
		b.stamp, b.stamped = b.clock.Stamp(), b.loop.Now()
	}
	return b.stamp
}
