package runner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/spool"
	"dunlin/uplink/forward"
	"dunlin/uplink/mqtt"
)

// logInterval spaces the reports of a failure that lasts.
const logInterval = 5 * time.Minute

// Uplink is one uplink with its spool. Name, Filters, Append and Flush are what the broker calls
// an Outbox, for one goroutine; Status may be called from anywhere.
type Uplink struct {
	o     Options
	spool *spool.Spool
	inbox *inbox

	ingest  Ingest
	cancel  context.CancelFunc
	running sync.WaitGroup // the goroutine of the uplink and the one that dials

	counters counters
	state    atomic.Pointer[linkState] // for Status

	// What follows belongs to the goroutine of the uplink.
	forward    *forward.Forwarder
	detour     detour
	begin      time.Time // of its times
	dial       uint64    // connections tried so far
	conn       *mqtt.Conn
	release    func() bool   // stops what watches conn
	broken     bool          // conn failed; Lost is on its way
	subscribed bool          // the server has answered all subscriptions
	early      []uint16      // to be acknowledged when Dial returns; bounded by the Receive Maximum
	earlyEnd   error         // the connection ended before Dial was seen to return
	dialling   bool          // eventDialled is on its way
	connected  time.Duration // when conn came
	delay      time.Duration // the last wait between connections
	dialAt     time.Duration // when to dial next
	failures   int           // since the last connection
	logged     time.Duration // when a failure was logged last
	drained    bool          // the spool had nothing to read when it was asked last
	readAt     time.Duration // when to read again after an error, 0 = there was none
	acks       quickness
	held       []heldMessage // came down and could not be injected; bounded by the Receive Maximum
}

// heldMessage waits to be injected again.
type heldMessage struct {
	dial  uint64
	in    mqtt.Incoming
	at    time.Duration
	delay time.Duration
}

// Open checks o and opens the spool. Append works from then on; Start connects.
func Open(o Options) (*Uplink, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	u := &Uplink{o: o.withDefaults(), inbox: newInbox(), begin: time.Now()}
	s, err := spool.Open(SpoolPath(o.Folder, o.Name), spool.Options{
		MaxBytes: o.SpoolMaxBytes, WhenFull: o.WhenFull, Clock: o.Clock,
		Wake: u.inbox.read, Absent: o.SpoolAbsent, Damaged: o.SpoolDamaged, Warm: o.SpoolWarm, SaveAfter: o.SaveAfter, Linger: o.Linger, Budget: o.Budget, NoSync: o.NoSync, Reserve: o.Reserve, Log: u.o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("uplink %q: %w", o.Name, err)
	}
	u.spool = s
	u.forward = forward.New(forward.Seq(s.Floor()), forward.Options{
		MaxInFlight: u.o.MaxInFlight, MaxSpan: mqtt.MaxSpan, Retry: u.o.Backoff, Random: rand.Float64,
	})
	u.state.Store(&linkState{})
	if u.detour.last, err = u.lastServer(); err != nil && o.SpoolAbsent != nil {
		u.detour.last = u.o.Endpoint // its session is not to be thrown away
	} else if err != nil {
		return nil, errors.Join(err, s.Close(context.Background()))
	}
	return u, nil
}

// Start connects and keeps connected until Close. What comes down goes to ingest, which may be
// nil if there are no rules for it.
func (u *Uplink) Start(ingest Ingest) {
	ctx, cancel := context.WithCancel(context.Background())
	u.ingest, u.cancel = ingest, cancel
	u.running.Go(func() { u.run(ctx) }) // ends when Close cancels ctx; Close waits
}

// Close disconnects, writes what was appended and closes the spool. ctx bounds the writing.
func (u *Uplink) Close(ctx context.Context) error {
	if u.cancel != nil {
		u.cancel()
		u.running.Wait()
		events, _ := u.inbox.take()
		for i := range events {
			if conn := events[i].conn; conn != nil {
				conn.Close() // Dial returned when nobody waited any more
			}
		}
	}
	if err := u.spool.Close(ctx); err != nil {
		return fmt.Errorf("uplink %q: close: %w", u.o.Name, err)
	}
	return nil
}

// Name returns the name of the uplink.
func (u *Uplink) Name() string { return u.o.Name }

// Filters returns the Topic Filters of its rules: what matches none need not be appended.
func (u *Uplink) Filters() []string { return u.o.Rules.Filters() }

// Admits says whether Append would take a message of that many bytes now.
func (u *Uplink) Admits(bytes int) bool { return u.spool.Admits(bytes) }

// Append hands over a message. source is its number in the broker's store if it must be taken
// once only, ascending from call to call, otherwise 0. done is called once, from any goroutine,
// also from within Append: with nil when the message is on disk, or when no rule takes it, or it
// came down from an uplink; else with an error. At QoS 0 done may be nil; the message is sent if
// the uplink is connected, otherwise dropped and counted.
func (u *Uplink) Append(m *message.Message, source durable.Seq, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	if m.Source != "" {
		done(nil)
		return
	}
	name, qos, ok := u.o.Rules.Apply(m.Topic)
	if !ok {
		u.counters.filtered.Add(1)
		done(nil)
		return
	}
	if name != m.Topic {
		n := *m
		n.Topic = name
		m = &n
	}
	if qos = min(qos, m.QoS); qos > 0 {
		u.spool.Append(m, qos, source, done)
		return
	}
	if !u.inbox.postQoS0(m) {
		u.counters.qos0Dropped.Add(1)
	}
	done(nil)
}

// Urgent asks for what was appended to be written with the next Flush, whatever the flash budget says.
func (u *Uplink) Urgent() { u.spool.Urgent() }

// Flush hands what was appended to the writer and returns at once.
func (u *Uplink) Flush() { u.spool.Flush() }

func (u *Uplink) now() time.Duration { return time.Since(u.begin) }

// run is the goroutine of the uplink.
func (u *Uplink) run(ctx context.Context) {
	// At boot a whole fleet starts at once: full jitter.
	u.dialAt = u.now() + time.Duration(rand.Float64()*float64(u.o.Backoff.Min))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		events, readable := u.inbox.take()
		if readable {
			u.drained = false
		}
		for i := range events {
			u.handle(&events[i])
		}
		if u.readAt != 0 && u.now() >= u.readAt {
			u.drained, u.readAt = false, 0
		}
		wake := earlier(u.pump(), u.readAt)
		if u.conn == nil && !u.dialling {
			if u.now() >= u.dialAt {
				u.startDial(ctx)
			} else {
				wake = earlier(wake, u.dialAt)
			}
		}
		for i := range u.held {
			wake = earlier(wake, u.held[i].at)
		}
		u.publish()
		if wake != 0 {
			timer.Reset(max(0, wake-u.now()))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
		case <-u.inbox.wake:
		case <-timer.C:
		}
	}
	u.inbox.setConnected(false)
	if u.conn != nil {
		u.finish()
	}
	u.publish()
}

// finish ends the connection orderly. Acknowledgements that have come already are taken, and those
// for what is on disk here are given, which saves repetitions.
func (u *Uplink) finish() {
	events, _ := u.inbox.take()
	for i := range events {
		u.handle(&events[i])
	}
	if u.conn == nil {
		return // one of them was the end of the connection
	}
	u.conn.Flush()
	u.conn.Close()
	events, _ = u.inbox.take()
	for i := range events {
		if e := &events[i]; e.kind == eventOutcome {
			u.handle(e)
		}
	}
	u.disconnected()
	for {
		a, ok, _ := u.forward.Next(u.now())
		if !ok {
			return
		}
		u.do(a)
	}
}

// earlier returns the earlier one of two moments, of which 0 is never.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// startDial connects on a goroutine of its own.
func (u *Uplink) startDial(ctx context.Context) {
	u.dial++
	u.dialling = true
	u.earlyEnd, u.subscribed = nil, false
	dial, options := u.dial, u.o.mqtt()
	options.Endpoint = u.endpoint()
	options.CleanStart = options.Endpoint != u.detour.last
	u.running.Go(func() { // ends with Dial, which ctx bounds; Close waits
		e := event{kind: eventDialled, dial: dial}
		e.conn, e.link, e.err = mqtt.Dial(ctx, options, connEvents{u, dial})
		if e.conn != nil && options.CleanStart {
			if err := u.keepServer(options.Endpoint); err != nil {
				e.conn.Close()
				e.conn, e.err = nil, err
			}
		}
		if e.conn != nil {
			// A write that is stuck must not hold up the end.
			e.release = context.AfterFunc(ctx, e.conn.Hurry)
		}
		u.inbox.post(e)
	})
}

func (u *Uplink) handle(e *event) {
	switch e.kind {
	case eventOutcome:
		if e.dial == u.dial && u.conn != nil {
			if e.outcome.Verdict == forward.Accepted {
				u.counters.acked.Add(1)
				u.acknowledged(e.outcome.Seq)
			}
			u.forward.Report(e.outcome, u.now())
		}
	case eventIncoming:
		if e.dial == u.dial {
			u.incoming(e.incoming)
		}
	case eventInjected:
		u.injected(e)
	case eventSubscribed:
		if e.dial == u.dial {
			u.subscribed = true
		}
	case eventLost:
		u.lost(e)
	case eventDialled:
		u.dialled(e)
	case eventSaved:
		u.forward.Saved(e.seq)
	case eventForgotten:
		u.forward.Forgotten()
	case eventQoS0:
		if u.conn == nil || u.broken {
			u.counters.qos0Dropped.Add(1)
			return
		}
		u.send(forward.Message{Body: e.msg}, false)
		u.counters.qos0Sent.Add(1)
	}
}

// dialled takes a connection, or the reason why there is none.
func (u *Uplink) dialled(e *event) {
	early := u.early
	u.dialling, u.early = false, nil
	if e.err != nil {
		u.held = nil
		u.failed(e.err)
		u.turn(e.err, false)
		return
	}
	u.detour.last = u.endpoint()
	u.conn, u.release, u.broken, u.connected = e.conn, e.release, false, u.now()
	if u.failures > 0 {
		u.o.Log.Info("uplink is connected again", "endpoint", u.endpoint(), "failures", u.failures, "session_present", e.link.SessionPresent, "pending", u.spool.Ledger().Pending)
	} else {
		u.o.Log.Info("uplink is connected", "endpoint", u.endpoint(), "session_present", e.link.SessionPresent, "pending", u.spool.Ledger().Pending)
	}
	u.failures = 0
	u.acks = quickness{}
	u.spool.Quick(true) // until it is known better
	u.forward.Connected(e.link)
	u.inbox.setConnected(true)
	// Last: whoever has seen it may rely on messages at QoS 0 being taken.
	u.state.Store(&linkState{endpoint: u.endpoint(), connected: true, since: time.Now(), dials: u.dial})
	for _, id := range early {
		u.ack(id)
	}
	if err := u.earlyEnd; err != nil {
		u.earlyEnd = nil
		u.lost(&event{dial: e.dial, err: err})
	}
}

// lost takes the end of a connection.
func (u *Uplink) lost(e *event) {
	if e.dial != u.dial {
		return
	}
	if u.conn == nil {
		u.earlyEnd = e.err
		return
	}
	if u.now()-u.connected >= u.o.Backoff.Stable {
		u.delay = 0
	}
	u.inbox.setConnected(false)
	u.conn.Close()
	u.disconnected()
	u.failed(e.err)
	u.turn(e.err, true)
}

// disconnected forgets the connection.
func (u *Uplink) disconnected() {
	u.release()
	u.conn, u.release, u.broken = nil, nil, false
	u.held = nil // the server hands them over again
	u.spool.Quick(false)
	u.spool.GiveBack(spool.Seq(u.forward.Disconnected()))
	u.drained = false
}

// failed plans the next dial.
func (u *Uplink) failed(err error) {
	if errors.Is(err, context.Canceled) {
		return // Close
	}
	u.delay = u.o.Backoff.Next(u.delay, rand.Float64())
	var end *mqtt.DisconnectedError
	if errors.Is(err, mqtt.ErrOldProtocol) || errors.Is(err, mqtt.ErrQoS0Only) || errors.As(err, &end) && end.Code == mqtt.TakenOver {
		// Trying soon would change nothing, or make it worse.
		u.delay = u.o.Backoff.Max
	}
	now := u.now()
	u.dialAt = now + u.delay
	if u.failures++; u.failures == 1 || now-u.logged >= logInterval {
		u.logged = now
		u.o.Log.Warn("uplink is not connected", "endpoint", u.endpoint(), "err", err, "failures", u.failures, "next", u.delay.Round(time.Millisecond))
	}
	u.state.Store(&linkState{endpoint: u.endpoint(), since: u.state.Load().sinceIfDown(), lastError: err.Error(), dials: u.dial, nextDial: time.Now().Add(u.delay)})
}

// pump does what the forwarder asks for, and returns when it wants to be asked again, 0 = after
// the next event.
func (u *Uplink) pump() (wake time.Duration) {
	for {
		u.fill()
		n := 0
		for {
			a, ok, later := u.forward.Next(u.now())
			if !ok {
				wake = later
				break
			}
			u.do(a)
			n++
		}
		if n == 0 {
			break
		}
	}
	u.retryHeld()
	if u.conn != nil && !u.broken {
		if u.conn.Flush() != nil {
			u.broken = true
		}
	}
	return wake
}

// fill reads from the spool what the window has room for.
func (u *Uplink) fill() {
	if u.drained || u.broken {
		return
	}
	after, n, size := u.forward.Want(u.now())
	if n == 0 {
		return
	}
	records, err := u.spool.Next(spool.Seq(after), n, size)
	if err != nil {
		u.o.Log.Error("spool cannot be read", "err", err)
		u.drained, u.readAt = true, u.now()+time.Second
		return
	}
	u.drained = len(records) == 0
	for _, r := range records {
		u.forward.Offer(forward.Message{
			Seq: forward.Seq(r.Seq), QoS: r.QoS, Dup: r.Dup, Received: r.Received, Size: r.Size, Body: r.Message,
		})
	}
}

// do carries out an action of the forwarder.
func (u *Uplink) do(a forward.Action) {
	seq := spool.Seq(a.Seq)
	switch a.Kind {
	case forward.Send:
		u.send(a.Message, a.First)
	case forward.Release:
		if !u.broken && u.conn.Release(a.Seq) != nil {
			u.broken = true
		}
	case forward.Save:
		u.spool.Received(seq, func() { u.inbox.post(event{kind: eventSaved, seq: a.Seq}) })
	case forward.Forget:
		u.spool.Forget(func() { u.inbox.post(event{kind: eventForgotten}) })
	case forward.Done:
		switch a.Result {
		case forward.Delivered:
			u.spool.Done(seq, spool.Delivered)
		case forward.ExpiredHere:
			u.spool.Done(seq, spool.Expired)
		case forward.RefusedThere:
			outcome := spool.Refused
			if a.Code == tooLarge {
				outcome = spool.TooLarge
			}
			u.o.Log.Warn("server refuses a message for good, it is dropped", "seq", uint64(a.Seq), "topic", a.Message.Body.Topic, "code", fmt.Sprintf("0x%02X", a.Code))
			u.spool.Done(seq, outcome)
		}
	}
}

// tooLarge is the reason code for a packet that the server does not take.
const tooLarge = 0x95

// send gives a message to the connection, with what is left of its time.
func (u *Uplink) send(m forward.Message, first bool) {
	if u.broken {
		return
	}
	var expiry uint32
	if m.Body.HasExpiry {
		left := time.Duration(m.Body.Expiry) * time.Second
		if u.o.Clock != nil {
			left -= u.o.Clock.Elapsed(m.Body.Received.Boot, m.Body.Received.Millis)
		}
		if left <= 0 && first {
			u.forward.Expire(m.Seq)
			return
		}
		// In flight it does not expire; 0 would be no lifetime at all.
		expiry = max(1, uint32(max(0, left)/time.Second))
	}
	if u.conn.Send(m, expiry) != nil {
		u.broken = true
		return
	}
	if m.QoS > 0 {
		u.acks.sent(m.Seq, u.now())
		u.counters.sent.Add(1)
		if m.Dup {
			u.counters.repeated.Add(1)
		}
	}
}
