package broker

import (
	"fmt"
	"testing"
	"time"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

func TestWillsOfAllClientsAreBounded(t *testing.T) { // §3.2.2.2: 0x97 Quota exceeded
	const size = 1000
	x := start(t, func(o *Options) { o.Limits.MaxWillBytes = 3 * (256 + 4 + size) })
	will := func(n int) func(*packet.Connect) {
		return func(c *packet.Connect) {
			c.HasWill, c.Will = true, packet.Will{Topic: []byte("will"), Payload: make([]byte, n)}
		}
	}
	watch, _ := x.connect(packet.V5, "watch")
	watch.subscribe("will", 0)
	connect := func(id string, n int, want packet.ReasonCode) *wire {
		t.Helper()
		w, a := x.connect(packet.V5, id, will(n))
		if a.Code != want {
			t.Errorf("%s: got %v, want %v", id, a.Code, want)
		}
		if want != packet.Success {
			w.closed()
		}
		return w
	}
	first := connect("1", size, packet.Success)
	second := connect("2", size, packet.Success)
	connect("3", size, packet.Success)
	connect("4", 0, packet.QuotaExceeded)
	if _, a := x.connect(packet.V311, "4", will(0)); a.Code != packet.ServerUnavailable {
		t.Errorf("3.1.1: got %v, want 0x03", a.Code)
	}
	if _, a := x.connect(packet.V5, "none"); a.Code != packet.Success {
		t.Errorf("without a will: got %v", a.Code)
	}
	connect("1", size, packet.Success) // takes over: its own counts once
	first.closed()
	watch.message()
	connect("1", size+1, packet.QuotaExceeded)

	// What is published, or dropped, makes room.
	x.away(second, "2")
	watch.message()
	fourth := connect("4", size, packet.Success)
	fourth.write(packet.AppendDisconnect(nil, &packet.Disconnect{}, packet.V5))
	fourth.closed()
	connect("5", size, packet.Success)
	x.do(func() {
		if x.b.willBytes != 3*(256+4+size) {
			t.Errorf("%d bytes of wills are counted", x.b.willBytes)
		}
	})
}

// quick makes the wait for clients after a crash end at once.
func quick(o *Options) { o.Limits.WillGrace = time.Second }

func willAtQoS1(payload string, delay uint32) func(*packet.Connect) {
	return func(c *packet.Connect) {
		willOf(payload, delay)(c)
		c.Will.QoS = 1
	}
}

func TestAWillAndWhatBecomesOfItsSessionAreOneTransaction(t *testing.T) {
	for _, test := range []struct {
		name    string
		connect []func(*packet.Connect)
		end     func(x *bench, w *wire)
	}{
		{"a session that ends with its connection", nil, func(x *bench, w *wire) { x.away(w, "c") }},
		{"a session that goes on", []func(*packet.Connect){lasting}, func(x *bench, w *wire) { x.away(w, "c") }},
		{"a session that has ended", []func(*packet.Connect){lasting}, func(_ *bench, w *wire) {
			w.write(packet.AppendDisconnect(nil, &packet.Disconnect{Code: packet.DisconnectWithWill, HasSessionExpiry: true}, w.v))
			w.closed()
		}},
		{"taken over by a session that ends with its connection", nil, func(x *bench, _ *wire) { x.connect(packet.V5, "c") }},
		{"taken over by a new session", []func(*packet.Connect){lasting}, func(x *bench, _ *wire) { x.send(packet.V5, "c") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := start(t)
			x.offline(packet.V5, "s", "w", 1)
			w, _ := x.connect(packet.V5, "c", append(test.connect, willAtQoS1("x", 0))...)
			x.do(func() {})
			x.store.hold()
			test.end(x, w)
			x.until("the will", func() bool {
				x.store.mu.Lock()
				defer x.store.mu.Unlock()
				for _, o := range x.store.waiting {
					if o.seq != 0 {
						return true
					}
				}
				return false
			})
			x.store.mu.Lock()
			defer x.store.mu.Unlock()
			// What comes before the will leaves it where it is; what is tied to it does not.
			has := func() (n int) {
				for _, s := range x.store.sessions {
					if s.ClientID == "c" && s.Will != nil {
						n++
					}
				}
				return n
			}
			tied := 0
			for _, o := range x.store.waiting {
				if o.tied == 0 && tied == 0 {
					o.end(nil)
					if has() != 1 {
						t.Fatal("the will is off the disk before it is published")
					}
					continue
				}
				tied = max(tied, o.tied)
				if o.tied == tied {
					o.end(nil)
				}
			}
			if tied == 0 || has() != 0 {
				t.Errorf("the will is not published in one transaction with its removal: %d are left", has())
			}
		})
	}
}

func TestAWillOfASessionThatEndsWithItsConnectionSurvivesACrash(t *testing.T) { // [MQTT-3.1.2-8]
	x := start(t)
	for _, id := range []string{"back", "gone", "other"} {
		x.connect(packet.V311, id, willAtQoS1(id, 0))
	}
	left, _ := x.connect(packet.V5, "left", willAtQoS1("left", 0))
	x.until("the records", func() bool { return len(x.store.restored()) == 4 })
	left.write(packet.AppendDisconnect(nil, &packet.Disconnect{}, packet.V5))
	left.closed()
	x.until("the end of its record", func() bool { return len(x.store.restored()) == 3 })

	y := restart(t, x, quick)
	w, _ := y.connect(packet.V5, "watch")
	w.subscribe("w", 1)
	if _, k := y.connect(packet.V311, "back", func(c *packet.Connect) { c.CleanStart = false }); k.SessionPresent {
		t.Error("a session that has ended is present")
	}
	// Somebody else takes the identifier: the client itself will not come back under it.
	y.connect(packet.V5, "other", func(c *packet.Connect) { c.HasUsername, c.Username = true, []byte("u") })
	got := map[string]int{}
	for range 2 {
		m := w.message()
		got[string(m.Payload)]++
		w.ack(packet.PUBACK, m.ID)
	}
	w.nothing()
	if got["gone"] != 1 || got["other"] != 1 {
		t.Errorf("got the wills of %v, want gone and other", got)
	}
	y.until("the end of the records", func() bool { return len(y.store.restored()) == 1 }) // of back, which is 3.1.1 and lasting
}

func TestAWillIsOnDiskForAsLongAsItIsOwed(t *testing.T) {
	// Crash after crash, it waits.
	x := start(t)
	x.connect(packet.V5, "c", willAtQoS1("x", 0))
	x.until("the record", func() bool { return len(x.store.restored()) == 1 })
	for range 3 {
		x = restart(t, x)
		x.until("the record", func() bool { r := x.store.restored(); return len(r) == 1 && !r[0].Session.Connected })
	}
	x = restart(t, x)
	w, _ := x.connect(packet.V5, "watch")
	w.subscribe("w", 1)
	x.connect(packet.V5, "c")
	w.nothing() // it is back in time, in whichever process
	x.until("the end of the record", func() bool { return len(x.store.restored()) == 0 })
}

func TestOfTwoSessionsOfAClientTheNewerIsRestored(t *testing.T) {
	// A crash has come after the record of the new one and before the end of the old one.
	x := start(t)
	x.offline(packet.V5, "s", "w", 1)
	x.connect(packet.V5, "c", lasting, willAtQoS1("old", 0))
	x.until("the record", func() bool { return len(x.store.restored()) == 2 })
	x.store.mu.Lock()
	for _, s := range x.store.sessions {
		if s.ClientID == "c" {
			x.store.number++
			n := *s
			n.Number, n.Will = x.store.number, nil
			x.store.sessions[n.Number] = &n
			break
		}
	}
	x.store.mu.Unlock()
	y := restart(t, x)
	y.until("the end of the old one", func() bool { return len(y.store.restored()) == 2 })
	if _, k := y.connect(packet.V5, "c", lasting); !k.SessionPresent {
		t.Error("the newer session is gone")
	}
	s, _ := y.connect(packet.V5, "s", lasting)
	if m := s.message(); string(m.Payload) != "old" {
		t.Errorf("got %q, want the will of the session that has ended", m.Payload)
	}
}

func TestAWillThatTheDiskRefusesIsTriedAgain(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "s", "w", 1)
	watch, _ := x.connect(packet.V5, "watch")
	watch.subscribe("w", 0)
	w, _ := x.connect(packet.V5, "c", willAtQoS1("x", 0))
	x.store.hold()
	x.away(w, "c")
	watch.message()
	x.store.release(errDisk)
	x.until("the will", func() bool { return x.store.open() == 1 })
	watch.nothing() // it has it
	s, _ := x.connect(packet.V5, "s", lasting)
	if m := s.message(); string(m.Payload) != "x" {
		t.Errorf("got %q", m.Payload)
	}
}

// While the store takes nothing, for hours if the disk is full, a crash must not lose wills.
func TestAWillStaysOnDiskUntilItIsStored(t *testing.T) {
	for _, qos := range []packet.QoS{1, 2} {
		for _, test := range []struct {
			name string
			as   []func(*packet.Connect)
		}{{"a session that ends with its connection", nil}, {"a session that goes on", []func(*packet.Connect){lasting}}} {
			t.Run(fmt.Sprint("QoS ", qos, ", ", test.name), func(t *testing.T) {
				x := start(t)
				x.offline(packet.V5, "s", "w", 2)
				w, _ := x.connect(packet.V5, "c", append(test.as, willOf("x", 0), func(c *packet.Connect) { c.Will.QoS = qos })...)
				left := func() (n int) {
					for _, r := range x.store.restored() {
						if r.Session.Will != nil {
							n++
						}
					}
					return n
				}
				x.until("the record", func() bool { return left() == 1 })
				x.store.become(durable.StoreFull)
				x.away(w, "c")
				x.do(func() {})
				if left() != 1 {
					t.Error("the will is off the disk, and nowhere else")
				}
				x.store.become(durable.Taking)
				x.until("the will", func() bool { return x.store.open() == 1 })
				x.until("the end of the record", func() bool { return left() == 0 })
			})
		}
	}
}
