package forward

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Options of a Forwarder. The zero value of a field means its default.
type Options struct {
	MaxInFlight int // messages in the window; default 64
	MaxBytes    int // bytes in the window, except that one message always fits; default 1 MiB
	// MaxSpan limits how far apart the sequence numbers of the window may be, for a sink which
	// derives a small identifier from them; 0 = no limit.
	MaxSpan Seq
	// MaxTries is how often a message is sent before Failed becomes Refused; default 8.
	MaxTries int
	// Retry paces what was refused for the moment; default DefaultBackoff.
	Retry Backoff
	// Random returns numbers in [0, 1) for the jitter; required.
	Random func() float64
}

// Kind says what an Action asks for.
type Kind byte

// The kinds of actions.
const (
	Send    Kind = iota + 1 // give Message to the sink
	Release                 // tell the sink to release Seq
	Save                    // write down that Seq was Received, then call Saved
	Forget                  // take back all those notes, then call Forgotten
	Done                    // take Seq out of the spool with Result
)

// Result is how a message left the forwarder.
type Result byte

// The results.
const (
	Delivered   Result = iota + 1
	ExpiredHere        // its Message Expiry Interval passed before it was first sent
	RefusedThere
)

// Action is something that the owner of the forwarder must do. Actions are done in the order
// in which Next returns them.
type Action struct {
	Kind    Kind
	Seq     Seq
	Message Message // of Send and Done
	First   bool    // of Send: nobody has sent it yet, so that it may still expire
	Result  Result  // of Done
	Code    byte    // of Done with RefusedThere: the last reason code, 0 if the sink has none
}

type phase byte

const (
	waiting   phase = iota // to be sent on this connection
	sent                   // sent on this connection, not acknowledged
	saving                 // Received; the note is on its way to disk
	releasing              // to be released on this connection
	released               // released on this connection, not acknowledged
)

type item struct {
	Message
	phase  phase
	before bool          // somebody may have sent it on an earlier connection or in an earlier process
	tries  int           // verdicts of Failed
	delay  time.Duration // the last wait after Later or Failed
}

// Forwarder is the window of one uplink. It is not safe for concurrent use. Times are
// durations since a moment of the owner's choosing that never goes back.
type Forwarder struct {
	o         Options
	window    []item // ascending Seq
	bytes     int    // sum of Size in window
	after     Seq    // the highest Seq that was ever in the window and has not been taken back
	connected bool
	link      Link
	lost      bool // a remote end without our session was met
	// forgetting: the notes about that session are on their way off the disk; nothing is sent.
	forgetting bool
	next       int           // no item of the window before it is waiting or releasing
	open       int           // items which are not waiting
	resume     time.Duration // nothing is sent before
	notes      []Action      // Save, Forget and Done not fetched yet, at most 2 per item ever in the window
}

// New returns a Forwarder with an empty window that starts behind after.
func New(after Seq, o Options) *Forwarder {
	if o.MaxInFlight == 0 {
		o.MaxInFlight = 64
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 20
	}
	if o.MaxTries == 0 {
		o.MaxTries = 8
	}
	if o.Retry == (Backoff{}) {
		o.Retry = DefaultBackoff
	}
	return &Forwarder{o: o, after: after}
}

// InFlight returns how many messages are in the window.
func (f *Forwarder) InFlight() int { return len(f.window) }

// Want says what to read from the spool: at most n messages of about maxBytes in all, behind
// after. n is 0 while there is no room, no connection, or the remote end wants a pause.
func (f *Forwarder) Want(now time.Duration) (after Seq, n, maxBytes int) {
	if !f.connected || now < f.resume || f.bytes >= f.o.MaxBytes {
		return f.after, 0, 0
	}
	return f.after, max(0, f.limit()-len(f.window)), f.o.MaxBytes - f.bytes
}

// Offer adds a message that was read from the spool. It must be behind all earlier ones.
func (f *Forwarder) Offer(m Message) {
	if m.Seq <= f.after {
		panic(fmt.Sprintf("forward: internal error: message %d offered behind %d", m.Seq, f.after))
	}
	f.after = m.Seq
	f.bytes += m.Size
	it := item{Message: m, before: m.Dup || m.Received}
	it.Dup = m.Dup && !f.lost
	if m.Received && !f.forgetting {
		it.phase = releasing
		f.open++
	}
	f.window = append(f.window, it)
}

// Connected starts a connection. Everything in the window that the remote end has not
// acknowledged becomes due again.
func (f *Forwarder) Connected(l Link) {
	f.connected, f.link = true, l
	f.next, f.open = 0, 0
	for i := range f.window {
		it := &f.window[i]
		switch {
		case !l.SessionPresent:
			// Whoever answers now has never seen these messages: not a repetition (MQTT5 §3.3.1.1).
			it.phase, it.Dup = waiting, false
		case it.phase == sent:
			it.phase = waiting
		case it.phase == released:
			it.phase = releasing
		}
		if it.phase != waiting {
			f.open++
		}
	}
	if !l.SessionPresent {
		f.lost = true
		if !f.forgetting {
			f.forgetting = true
			f.notes = append(f.notes, Action{Kind: Forget})
		}
	}
}

// Disconnected ends a connection. What nobody has sent is given back: it is read again when it
// is needed, so that it can expire or be evicted meanwhile. It returns the Seq behind which
// nothing is in the window.
func (f *Forwarder) Disconnected() Seq {
	f.connected = false
	for len(f.window) > 0 {
		last := &f.window[len(f.window)-1]
		if last.before || last.phase != waiting {
			return f.after
		}
		f.bytes -= last.Size
		f.after = last.Seq - 1
		f.window = f.window[:len(f.window)-1]
	}
	return f.after
}

// Report takes an outcome from the sink. One that does not fit the phase of its message, such
// as a second acknowledgement, is ignored.
func (f *Forwarder) Report(o Outcome, now time.Duration) {
	i, ok := f.find(o.Seq)
	if !ok {
		return
	}
	it := &f.window[i]
	switch {
	case it.phase == released && o.Verdict == Accepted:
		f.done(i, Delivered, 0)
	case it.phase != sent:
	case o.Verdict == Accepted:
		f.done(i, Delivered, 0)
	case o.Verdict == Received && it.QoS == 2:
		it.phase = saving
		f.notes = append(f.notes, Action{Kind: Save, Seq: it.Seq})
	case o.Verdict == Refused:
		f.done(i, RefusedThere, o.Code)
	case o.Verdict == Failed && it.tries+1 >= f.o.MaxTries:
		f.done(i, RefusedThere, o.Code)
	case o.Verdict == Failed || o.Verdict == Later:
		if o.Verdict == Failed {
			it.tries++
		}
		// The refusal ended that delivery: the next one is no repetition.
		it.phase, it.Dup = waiting, false
		f.open--
		f.next = min(f.next, i)
		it.delay = f.o.Retry.Next(it.delay, f.o.Random())
		f.resume = max(f.resume, now+it.delay)
	}
}

// Saved tells that the note asked for by Save is on disk.
func (f *Forwarder) Saved(s Seq) {
	if i, ok := f.find(s); ok && f.window[i].phase == saving {
		f.window[i].phase = releasing
		f.next = min(f.next, i)
	}
}

// Forgotten tells that the notes are off the disk as Forget asked.
func (f *Forwarder) Forgotten() { f.forgetting = false }

// Expire answers a Send with First set: the message is too old to be sent.
func (f *Forwarder) Expire(s Seq) {
	if i, ok := f.find(s); ok && f.window[i].phase == sent {
		f.done(i, ExpiredHere, 0)
	}
}

// Next returns the next action, or false if there is nothing to do before the next input or,
// if wake is not 0, before that moment.
func (f *Forwarder) Next(now time.Duration) (a Action, ok bool, wake time.Duration) {
	if len(f.notes) > 0 {
		a = f.notes[0]
		f.notes = slices.Delete(f.notes, 0, 1)
		return a, true, 0
	}
	if !f.connected {
		return a, false, 0
	}
	// What must not be sent yet holds up what is to be sent behind it, but no release: that needs
	// no room, and may be what makes room.
	held := f.forgetting
	for i := f.next; i < len(f.window); i++ {
		it := &f.window[i]
		switch it.phase {
		case releasing:
			it.phase = released
			return Action{Kind: Release, Seq: it.Seq}, true, 0
		case waiting:
			switch {
			case held:
			case now < f.resume:
				held, wake = true, f.resume
			case f.open >= f.limit(), f.o.MaxSpan > 0 && it.Seq-f.window[0].Seq >= f.o.MaxSpan:
				held = true
			default:
				a = Action{Kind: Send, Seq: it.Seq, Message: it.Message, First: !it.before}
				it.phase, it.before, it.Dup = sent, true, true
				f.open++
				return a, true, 0
			}
		}
		if !held {
			f.next = i + 1
		}
	}
	return a, false, wake
}

// limit is the number of messages that may be unacknowledged.
func (f *Forwarder) limit() int {
	if f.link.Window > 0 {
		return min(f.link.Window, f.o.MaxInFlight)
	}
	return f.o.MaxInFlight
}

// done takes item i, which is not waiting, out of the window.
func (f *Forwarder) done(i int, r Result, code byte) {
	it := &f.window[i]
	f.notes = append(f.notes, Action{Kind: Done, Seq: it.Seq, Message: it.Message, Result: r, Code: code})
	f.bytes -= it.Size
	f.open--
	f.window = slices.Delete(f.window, i, i+1)
	if i < f.next {
		f.next--
	}
}

func (f *Forwarder) find(s Seq) (int, bool) {
	return slices.BinarySearchFunc(f.window, s, func(it item, s Seq) int { return cmp.Compare(it.Seq, s) })
}
