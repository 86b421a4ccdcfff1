package runner

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"dunlin/core/durable"
	"dunlin/storeforward/spool"
)

// counters are counts since the start of the process. The comments serve as help texts.
type counters struct {
	filtered      atomic.Uint64 // messages that no rule takes up
	sent          atomic.Uint64 // messages sent at QoS 1 and 2, repetitions included
	repeated      atomic.Uint64 // messages sent that may have been sent before
	acked         atomic.Uint64 // acknowledgements of the server
	qos0Sent      atomic.Uint64 // messages sent at QoS 0
	qos0Dropped   atomic.Uint64 // messages at QoS 0 dropped because the uplink was not connected or too slow
	down          atomic.Uint64 // messages that came down
	downUnmatched atomic.Uint64 // messages that came down and that no rule takes, acknowledged and dropped
	downDropped   atomic.Uint64 // messages at QoS 0 that came down and were dropped because too many waited
	downHeld      atomic.Uint64 // times that a message which came down could not be stored and was kept for later
}

// linkState is what Status says about the connection; immutable.
type linkState struct {
	endpoint  string // "" = the configured one
	connected bool
	since     time.Time
	lastError string
	dials     uint64
	nextDial  time.Time
	inFlight  int

	subscribed bool
}

// sinceIfDown returns when the uplink went down: now, if it was connected until now.
func (s *linkState) sinceIfDown() time.Time {
	if s.connected || s.since.IsZero() {
		return time.Now()
	}
	return s.since
}

// Status is a snapshot of an uplink. Counts are since the start of the process, those of Ledger
// over all starts.
type Status struct {
	Name      string
	Endpoint  string // where it is connected, or was, or tried to be
	Connected bool
	// Subscribed: the server has answered the subscriptions of this connection.
	Subscribed bool
	Since      time.Time // when Connected became what it is; zero before the first attempt ended
	LastError  string    // why it is not connected, "" if it is
	NextDial   time.Time // when it tries again, if not Connected
	Dials      uint64    // connections tried
	InFlight   int       // messages sent and not acknowledged for good
	Ledger     spool.Ledger

	Filtered      uint64 // no rule takes them up
	Sent          uint64 // at QoS 1 and 2, repetitions included
	Repeated      uint64 // of Sent, may have been sent before
	Acked         uint64 // acknowledgements of the server
	QoS0Sent      uint64
	QoS0Dropped   uint64 // not connected, or too slow
	Down          uint64 // came down
	DownUnmatched uint64 // came down, no rule takes them: acknowledged and dropped
	DownDropped   uint64 // came down at QoS 0 and were dropped
	DownHeld      uint64 // times that one could not be stored and was kept for later
}

// Status returns a snapshot.
func (u *Uplink) Status() Status {
	s := u.state.Load()
	return Status{
		Name: u.o.Name, Endpoint: cmp.Or(s.endpoint, u.o.Endpoint),
		Connected: s.connected, Subscribed: s.connected && s.subscribed, Since: s.since, LastError: s.lastError, NextDial: s.nextDial, Dials: s.dials, InFlight: s.inFlight,
		Ledger:   u.spool.Ledger(),
		Filtered: u.counters.filtered.Load(),
		Sent:     u.counters.sent.Load(), Repeated: u.counters.repeated.Load(), Acked: u.counters.acked.Load(),
		QoS0Sent: u.counters.qos0Sent.Load(), QoS0Dropped: u.counters.qos0Dropped.Load(),
		Down: u.counters.down.Load(), DownUnmatched: u.counters.downUnmatched.Load(),
		DownDropped: u.counters.downDropped.Load(), DownHeld: u.counters.downHeld.Load(),
	}
}

// Spool is the queue of the uplink on disk, for those who look into it.
func (u *Uplink) Spool() *spool.Spool { return u.spool }

// Account is the ledger of the spool in the words of the broker's.
func (u *Uplink) Account() durable.Account {
	l := u.spool.Ledger()
	a := durable.Account{
		Accepted: l.Accepted, Delivered: l.Delivered(), Expired: l.Expired(), Pending: l.Pending, Bytes: l.PendingBytes,
		Dropped: make(map[string]uint64),
	}
	for o := spool.Refused; o <= spool.Damaged; o++ {
		a.Dropped[o.String()] = l.Out[o]
	}
	return a
}

// publish updates what Status sees of the window.
func (u *Uplink) publish() {
	s := u.state.Load()
	if n := u.forward.InFlight(); n != s.inFlight || u.subscribed != s.subscribed {
		next := *s
		next.inFlight, next.subscribed = n, u.subscribed
		u.state.Store(&next)
	}
}

// Walked is what was found in the file of the spool, all of it as of one state.
type Walked struct {
	Accepted uint64 // messages that were stored, or dropped instead
	Gone     uint64 // messages that left the spool, however
	Pending  uint64 // messages that are not done, counted one by one
	Missing  uint64 // messages that the spool counts as pending, and that are not among them
}

// Walk counts what is pending in the file of the spool, in slices that hold up nobody.
func (u *Uplink) Walk(ctx context.Context) (Walked, error) {
	n, l, err := u.spool.Audit(ctx)
	return Walked{Accepted: l.Accepted, Gone: l.Delivered() + l.Expired() + l.Dropped(), Pending: n, Missing: max(l.Pending, n) - n}, err
}
