// Package peers holds the tests in which clients of other projects meet the broker.
package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"dunlin/testbench/process"
)

// guard bounds every wait, so that what hangs fails the test.
const guard = 20 * time.Second

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// message is a message as a peer has received it.
type message struct {
	topic, payload string
	qos            byte
	retain         bool
}

// options are those of a connection.
type options struct {
	network, address string // "tcp" or "unix"
	id               string
	clean            bool   // Clean Start, Clean Session
	expiry           uint32 // seconds, 5.0 only
	will             *message
}

// conn is a connected client of some project.
type conn interface {
	// subscribe subscribes and returns what was granted.
	subscribe(t *testing.T, filter string, qos byte) (granted byte)
	// publish publishes and waits for the acknowledgement. expiry is in seconds, 0 = none.
	publish(t *testing.T, m message, expiry uint32)
	// messages returns the channel of what arrives.
	messages() <-chan message
	// disconnect says DISCONNECT and waits.
	disconnect(t *testing.T)
	// drop ends the connection without a DISCONNECT.
	drop(t *testing.T)
	// ended is closed when the connection has ended.
	ended() <-chan struct{}
	// present tells whether the broker had a session; known is false if the client does not say.
	present() (present, known bool)
}

// peer is a client library or program in one protocol version.
type peer struct {
	name    string
	version int
	dial    func(t *testing.T, o options) conn
}

// peers are all that are tested.
var peers = []peer{
	{"paho.golang", 5, dialPaho5},
	{"paho.mqtt.golang", 4, dialPaho3},
	{"mosquitto clients 5.0", 5, func(t *testing.T, o options) conn { return dialMosquitto(t, o, 5) }},
	{"mosquitto clients 3.1.1", 4, func(t *testing.T, o options) conn { return dialMosquitto(t, o, 4) }},
	{"mosquitto clients 3.1", 3, func(t *testing.T, o options) conn { return dialMosquitto(t, o, 3) }},
}

// receive waits for the next message.
func receive(t *testing.T, c conn) message {
	t.Helper()
	select {
	case m := <-c.messages():
		return m
	case <-time.After(guard):
		t.Fatal("no message came")
		return message{}
	}
}

// expect waits for exactly these messages, in order.
func expect(t *testing.T, c conn, want ...message) {
	t.Helper()
	for i, w := range want {
		if got := receive(t, c); got != w {
			t.Fatalf("message %d is %+v, want %+v", i, got, w)
		}
	}
}

// nothingElse publishes a last message on a topic that c is subscribed to, and wants it to be
// the next that c gets: nothing more was on its way before it.
func nothingElse(t *testing.T, c, publisher conn, topic string, qos byte) {
	t.Helper()
	last := message{topic: topic, payload: "the last one", qos: qos}
	publisher.publish(t, last, 0)
	expect(t, c, last)
}

// gone waits until the connection has ended.
func gone(t *testing.T, c conn) {
	t.Helper()
	select {
	case <-c.ended():
	case <-time.After(guard):
		t.Fatal("the connection lives on")
	}
}

// must fails the test on an error.
func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// within returns a context that ends with the guard.
func within(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), guard)
}

var errTimeout = errors.New("no answer")

// inbox is the channel of a connection; what does not fit is a fault of the test.
type inbox chan message

func (i inbox) put(t *testing.T, m message) {
	select {
	case i <- m:
	default:
		t.Errorf("more than %d messages are waiting: %+v", cap(i), m)
	}
}

func newInbox() inbox { return make(inbox, 4096) }

func (m message) String() string {
	return fmt.Sprintf("%s %q at QoS %d, retain %t", m.topic, m.payload, m.qos, m.retain)
}
