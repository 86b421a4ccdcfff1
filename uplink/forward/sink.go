package forward

import "dunlin/core/message"

// Seq numbers the messages of one spool in the order in which they were stored. 0 = none.
type Seq uint64

// Message is a stored message on its way.
type Message struct {
	Seq Seq
	QoS byte // 1 or 2
	// Dup: it may have been sent before (MQTT5 §3.3.1.1).
	Dup bool
	// Received: the remote end has it at QoS 2 and that is on disk; only the release remains.
	Received bool
	Size     int              // bytes charged to the window
	Body     *message.Message // shared, not to be changed
}

// Sink carries messages to one remote end over one connection. Its calls come from one
// goroutine; outcomes go to the Events that its dialler was given.
type Sink interface {
	// Send hands over a message; expiry is what remains of its Message Expiry Interval in
	// seconds if it has one. An error ends the connection.
	Send(m Message, expiry uint32) error
	// Release ends the delivery of a message that the remote end reported Received. A sink
	// that never reports Received is never asked. An error ends the connection.
	Release(s Seq) error
	// Flush sends what Send and Release have buffered. An error ends the connection.
	Flush() error
	// Close ends the connection, orderly if it is still up, and returns when nothing of it
	// runs any more. No event comes after that.
	Close() error
}

// Verdict is what a sink learned about a message.
type Verdict byte

// The verdicts. A sink without reason codes has Accepted and Failed.
const (
	// Accepted: the remote end has taken it for good.
	Accepted Verdict = iota + 1
	// Received: the remote end has it at QoS 2 and waits for the release.
	Received
	// Refused: it will never be accepted; sending it again would be refused again.
	Refused
	// Later: not now, whatever the message; it is kept, however often.
	Later
	// Failed: refused without saying whether for good; it is tried a few times.
	Failed
)

// Outcome is the verdict on one message.
type Outcome struct {
	Seq     Seq
	Verdict Verdict
	Code    byte // MQTT reason code or 0; for the log only
}

// Link is what a connection allows.
type Link struct {
	// SessionPresent: the remote end still knows what it has received of the window.
	SessionPresent bool
	// Window is how many messages may be unacknowledged at once; 0 = as many as one likes.
	Window int
}
