package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dunlin/testbench/process"
)

// site is a running broker.
type site struct {
	address string // TCP
	socket  string // path of the unix socket
	queue   int    // messages for a session that is away
}

func (s site) options(id string) options {
	return options{network: "tcp", address: s.address, id: id, clean: true}
}

// TestClients lets every client do what clients do.
func TestClients(t *testing.T) {
	dir := socketDir(t)
	socket := filepath.Join(dir, "mqtt.sock")
	broker, err := process.Dunlin(t.Context(), dir, process.Gateway{Socket: socket})
	must(t, "start", err)
	t.Cleanup(func() {
		broker.Kill()
		if t.Failed() {
			t.Logf("the end of the log of the broker:\n%s", broker.Tail(4000))
		}
	})
	scenarios(t, site{broker.Spec.Address, socket, 200})
}

// TestClientsWithMosquitto keeps the scenarios honest: another broker passes them, too.
func TestClientsWithMosquitto(t *testing.T) {
	dir := socketDir(t)
	socket := filepath.Join(dir, "mqtt.sock")
	broker, err := process.Mosquitto(t.Context(), dir, "listener 0 "+socket, "allow_anonymous true")
	must(t, "start", err)
	t.Cleanup(func() { broker.Kill() })
	// Version 2.0.11 does not get through a longer queue at QoS 2 with a Receive Maximum of 20,
	// which is what its own clients announce.
	scenarios(t, site{broker.Spec.Address, socket, 20})
}

// socketDir returns a folder whose path is short enough for a unix socket.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "peers-")
	must(t, "temporary folder", err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func scenarios(t *testing.T, s site) {
	t.Run("every QoS between all pairs", func(t *testing.T) { everyQoS(t, s) })
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Run("wildcards", func(t *testing.T) { wildcards(t, s, p) })
			t.Run("retained messages", func(t *testing.T) { retained(t, s, p) })
			t.Run("will", func(t *testing.T) { will(t, s, p) })
			t.Run("offline queue", func(t *testing.T) { offlineQueue(t, s, p) })
			t.Run("clean start", func(t *testing.T) { cleanStart(t, s, p) })
			t.Run("takeover", func(t *testing.T) { takeover(t, s, p) })
			t.Run("unix socket", func(t *testing.T) { unixSocket(t, s, p) })
			if p.version == 5 {
				t.Run("message expiry", func(t *testing.T) { messageExpiry(t, s, p) })
				t.Run("session expiry", func(t *testing.T) { sessionExpiry(t, s, p) })
			}
		})
	}
}

// everyQoS publishes with each client and subscribes with each, at all QoS of both.
func everyQoS(t *testing.T, s site) {
	for _, to := range peers {
		for granted := range byte(3) {
			id := fmt.Sprintf("qos-%s-%d", to.name, granted)
			sub := to.dial(t, s.options(id))
			if got := sub.subscribe(t, id+"/#", granted); got != granted {
				t.Errorf("%s: granted 0x%02X, want %d", id, got, granted)
			}
			for _, from := range peers {
				pub := from.dial(t, s.options("publisher"))
				for qos := range byte(3) {
					m := message{topic: id + "/a", payload: fmt.Sprintf("%s at %d", from.name, qos), qos: qos}
					pub.publish(t, m, 0)
					m.qos = min(qos, granted)
					expect(t, sub, m)
				}
				pub.disconnect(t)
			}
			sub.disconnect(t)
		}
	}
}

func wildcards(t *testing.T, s site, p peer) {
	pub := p.dial(t, s.options("wild-pub"))
	for _, test := range []struct {
		filter string
		topics []string // that match
		others []string
	}{
		{"wild/+/temp", []string{"wild/1/temp", "wild//temp"}, []string{"wild/temp", "wild/1/2/temp", "wild/1/temp/x"}},
		{"wild/1/#", []string{"wild/1", "wild/1/a", "wild/1/a/b", "wild/1/"}, []string{"wild/10", "wild"}},
		{"+/one/+", []string{"a/one/b", "/one/"}, []string{"a/one", "one/b", "a/One/b"}},
	} {
		t.Run(test.filter, func(t *testing.T) {
			sub := p.dial(t, s.options("wild-sub"))
			sub.subscribe(t, test.filter, 1)
			for _, name := range test.others {
				pub.publish(t, message{topic: name, payload: "no", qos: 1}, 0)
			}
			for _, name := range test.topics {
				m := message{topic: name, payload: "yes", qos: 1}
				pub.publish(t, m, 0)
				expect(t, sub, m)
			}
			sub.disconnect(t)
		})
	}
	pub.disconnect(t)
}

func retained(t *testing.T, s site, p peer) {
	pub := p.dial(t, s.options("retain-pub"))
	topic := "retained/" + p.name
	m := message{topic: topic, payload: "kept", qos: 1, retain: true}
	pub.publish(t, message{topic: topic, payload: "replaced", qos: 1, retain: true}, 0)
	pub.publish(t, m, 0)

	early := p.dial(t, s.options("retain-early"))
	early.subscribe(t, "retained/#", 1)
	expect(t, early, m)
	// One who is subscribed gets a message as it comes, not as a retained one.
	m.payload = "new"
	pub.publish(t, m, 0)
	live := m
	live.retain = false
	expect(t, early, live)

	late := p.dial(t, s.options("retain-late"))
	late.subscribe(t, topic, 0)
	old := m
	old.qos = 0
	expect(t, late, old)
	late.disconnect(t)

	// An empty payload removes it, and is passed on to those who are subscribed.
	pub.publish(t, message{topic: topic, qos: 1, retain: true}, 0)
	expect(t, early, message{topic: topic, qos: 1})
	after := p.dial(t, s.options("retain-after"))
	after.subscribe(t, topic, 1)
	nothingElse(t, after, pub, topic, 1)
	for _, c := range []conn{early, after, pub} {
		c.disconnect(t)
	}
}

func will(t *testing.T, s site, p peer) {
	watch := p.dial(t, s.options("will-watch"))
	watch.subscribe(t, "will/#", 1)
	testament := message{topic: "will/" + p.name, payload: "gone", qos: 1}

	o := s.options("will-left")
	o.will = &testament
	left := p.dial(t, o)
	left.subscribe(t, "nothing", 0)
	left.disconnect(t)
	if p.name == "mosquitto clients 5.0" {
		// It disconnects with 0x04, Disconnect with Will Message.
		expect(t, watch, testament)
	}
	nothingElse(t, watch, watch, "will/last", 1)

	o.id = "will-lost"
	lost := p.dial(t, o)
	lost.subscribe(t, "nothing", 0)
	lost.drop(t)
	expect(t, watch, testament)
	watch.disconnect(t)
}

func offlineQueue(t *testing.T, s site, p peer) {
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			o := s.options(fmt.Sprintf("offline-%s-%d", p.name, qos))
			o.clean, o.expiry = false, 3600
			topic := o.id + "/a"
			first := p.dial(t, o)
			first.subscribe(t, topic, qos)
			first.disconnect(t)

			pub := peers[0].dial(t, s.options("offline-pub"))
			var want []message
			for i := range s.queue {
				m := message{topic: topic, payload: fmt.Sprint(i), qos: qos}
				pub.publish(t, m, 0)
				want = append(want, m)
			}
			pub.publish(t, message{topic: topic, payload: "QoS 0 may be left out"}, 0)

			second := p.dial(t, o)
			// The mosquitto clients subscribe at each start, which must not disturb the queue.
			second.subscribe(t, topic, qos)
			expect(t, second, want...)
			if present, known := second.present(); known && !present {
				t.Error("no session was present")
			}
			second.drop(t)

			o.clean = true
			third := p.dial(t, o)
			if present, known := third.present(); known && present {
				t.Error("a session was present after Clean Start")
			}
			third.subscribe(t, topic, qos)
			nothingElse(t, third, pub, topic, qos)
			third.disconnect(t)
			pub.disconnect(t)
		})
	}
}

func cleanStart(t *testing.T, s site, p peer) {
	o := s.options("clean-" + p.name)
	o.clean, o.expiry = false, 3600
	first := p.dial(t, o)
	first.subscribe(t, "clean/a", 1)
	first.disconnect(t)
	o.clean, o.expiry = true, 0
	second := p.dial(t, o)
	second.subscribe(t, "clean/b", 1)
	pub := p.dial(t, s.options("clean-pub"))
	pub.publish(t, message{topic: "clean/a", payload: "to the old session", qos: 1}, 0)
	nothingElse(t, second, pub, "clean/b", 1)
	second.disconnect(t)
	pub.disconnect(t)
}

func takeover(t *testing.T, s site, p peer) {
	o := s.options("takeover-" + p.name)
	o.clean, o.expiry = false, 3600
	first := p.dial(t, o)
	first.subscribe(t, "takeover", 1)
	// By a library: mosquitto_sub would fight back by connecting again.
	other := peers[0]
	if p.version < 5 {
		other = peers[1]
	}
	second := other.dial(t, o)
	if p.name == other.name {
		gone(t, first)
	} else {
		first.drop(t)
	}
	if present, known := second.present(); known && !present && p.name == other.name {
		t.Error("the session did not come along")
	}
	if p.name != other.name {
		// It may have taken the session back before it was dropped.
		second = other.dial(t, o)
	}
	nothingElse(t, second, other.dial(t, s.options("takeover-pub")), "takeover", 1)
	second.disconnect(t)
}

func unixSocket(t *testing.T, s site, p peer) {
	o := options{network: "unix", address: s.socket, id: "unix-" + p.name, clean: true}
	c := p.dial(t, o)
	c.subscribe(t, "unix/#", 2)
	m := message{topic: "unix/a", payload: "hello", qos: 2}
	c.publish(t, m, 0)
	expect(t, c, m)
	c.disconnect(t)
}

// pass waits until an interval of the protocol is over.
func pass(d time.Duration) { <-time.After(d) }

func messageExpiry(t *testing.T, s site, p peer) {
	o := s.options("expiry-" + p.name)
	o.clean, o.expiry = false, 3600
	topic := o.id
	first := p.dial(t, o)
	first.subscribe(t, topic, 1)
	first.disconnect(t)
	pub := p.dial(t, s.options("expiry-pub"))
	pub.publish(t, message{topic: topic, payload: "short", qos: 1}, 1)
	long := message{topic: topic, payload: "long", qos: 1}
	pub.publish(t, long, 3600)
	pub.publish(t, message{topic: topic, payload: "retained short", qos: 1, retain: true}, 1)
	pass(2500 * time.Millisecond)
	second := p.dial(t, o)
	second.subscribe(t, topic, 1)
	expect(t, second, long)
	nothingElse(t, second, pub, topic, 1)
	second.disconnect(t)
	pub.disconnect(t)
}

func sessionExpiry(t *testing.T, s site, p peer) {
	o := s.options("session-" + p.name)
	o.clean, o.expiry = false, 1
	first := p.dial(t, o)
	first.subscribe(t, "session/a", 1)
	first.disconnect(t)
	pub := p.dial(t, s.options("session-pub"))
	pub.publish(t, message{topic: "session/a", payload: "to the old session", qos: 1}, 0)
	pass(3 * time.Second)
	second := p.dial(t, o)
	if present, known := second.present(); known && present {
		t.Error("the session outlived its expiry")
	}
	second.subscribe(t, "session/b", 1)
	nothingElse(t, second, pub, "session/b", 1)
	second.disconnect(t)
	pub.disconnect(t)
}
