package broker

import (
	"fmt"
	"slices"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// groupMember connects a client with a lasting session and lets it join the group.
func (x *bench) groupMember(id string, qos packet.QoS, change ...func(*packet.Connect)) *wire {
	x.t.Helper()
	w, _ := x.connect(packet.V5, id, append([]func(*packet.Connect){lasting}, change...)...)
	w.subscribe("$share/g/a", qos)
	return w
}

// collect waits for so many messages, and acknowledges them.
func (w *wire) collect(n int) (all []string) {
	w.t.Helper()
	for len(all) < n {
		h, body := w.read()
		if h.Type == packet.PUBREL {
			a, err := packet.ParseAck(packet.PUBREL, body, w.v)
			if err != nil {
				w.t.Fatal(err)
			}
			w.ack(packet.PUBCOMP, a.ID)
			continue
		}
		p, err := packet.ParsePublish(body, h.Flags, w.v)
		if h.Type != packet.PUBLISH || err != nil {
			w.t.Fatalf("got %v (%v), want PUBLISH", h.Type, err)
		}
		all = append(all, string(p.Payload))
		w.ack(map[packet.QoS]packet.Type{1: packet.PUBACK, 2: packet.PUBREC}[p.QoS], p.ID)
	}
	return all
}

// still waits until nothing is being moved any more.
func (x *bench) still() {
	x.t.Helper()
	x.until("the end of the movements", func() bool { return len(x.b.movements) == 0 })
}

func (x *bench) outcome(o durable.Outcome) int {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	return x.store.outcomes[o]
}

func TestMessagesOfALostSessionGoToAnotherThatIsConnected(t *testing.T) { // MQTT5 §4.8.2
	x := start(t)
	one := x.groupMember("one", 2, func(c *packet.Connect) { c.ReceiveMaximum = 2 })
	one.subscribe("own", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("own", "own", 1)
	for i := range 5 {
		p.deliver("a", fmt.Sprint(i), packet.QoS(1+i/4)) // the last one at QoS 2
	}
	one.message()
	one.message()
	two := x.groupMember("two", 2)
	x.away(one, "one")
	for i := range 5 {
		m := two.message()
		if string(m.Payload) != fmt.Sprint(i) || m.Dup || m.QoS != packet.QoS(1+i/4) {
			t.Fatalf("got %q at QoS %d, DUP %v; want %d", m.Payload, m.QoS, m.Dup, i)
		}
		if m.QoS == 1 {
			two.ack(packet.PUBACK, m.ID)
		} else {
			two.ack(packet.PUBREC, m.ID)
			two.expect(packet.PUBREL)
			two.ack(packet.PUBCOMP, m.ID)
		}
	}
	x.still()
	two.nothing()
	x.queues("one", 1, 1)
	x.queues("two", 0, 0)
	if got := x.outcome(durable.Moved); got != 5 || x.store.open() != 1 {
		t.Errorf("%d messages were moved, %d are in the store; want 5 and 1", got, x.store.open())
	}
	one, _ = x.connect(packet.V5, "one", lasting)
	if got := one.collect(1); !slices.Equal(got, []string{"own"}) {
		t.Errorf("who is back gets %v, want what came by its own subscription", got)
	}
}

func TestQoS2ThatWasBegunStaysWithItsSession(t *testing.T) { // [MQTT-4.8.2-4, MQTT-4.8.2-5]
	x := start(t)
	one := x.groupMember("one", 2, func(c *packet.Connect) { c.ReceiveMaximum = 2 })
	p, _ := x.connect(packet.V5, "p")
	for i := range 4 {
		p.deliver("a", fmt.Sprint(i), 2)
	}
	one.message()
	m := one.message()
	one.ack(packet.PUBREC, m.ID)
	one.expect(packet.PUBREL)
	two := x.groupMember("two", 2)
	x.away(one, "one")
	x.still()
	if got := two.collect(2); !slices.Equal(got, numbers(2, 3)) {
		t.Errorf("the other member got %v, want what was not begun", got)
	}
	one, _ = x.connect(packet.V5, "one", lasting)
	one.expect(packet.PUBREL)
	one.ack(packet.PUBCOMP, m.ID)
	if m := one.message(); string(m.Payload) != "0" || !m.Dup {
		t.Errorf("got %q, DUP %v; want 0 again", m.Payload, m.Dup)
	}
	one.nothing()
}

func TestMessagesStayIfNobodyWouldKeepThem(t *testing.T) {
	x := start(t)
	one := x.groupMember("one", 1)
	x.offline(packet.V5, "away", "$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "x", 1)
	one.message()
	passing, _ := x.connect(packet.V5, "passing") // would lose it with its connection
	passing.subscribe("$share/g/a", 1)
	low := x.groupMember("low", 0)
	x.away(one, "one")
	x.still()
	passing.nothing()
	low.nothing()
	x.queues("one", 1, 1)
	one, _ = x.connect(packet.V5, "one", lasting)
	if m := one.message(); !m.Dup {
		t.Error("it came again without DUP")
	}
}

func TestMessagesOfASessionThatEndsGoToTheOthers(t *testing.T) {
	end := map[string]func(x *bench, one *wire){
		"clean start": func(x *bench, one *wire) {
			x.away(one, "one")
			x.connect(packet.V5, "one")
		},
		"expiry": func(x *bench, one *wire) {
			x.away(one, "one")
			x.do(func() { m := x.b.members["one"]; m.away.expires.Fire(0) })
		},
		"disconnect": func(x *bench, one *wire) {
			one.write(packet.AppendDisconnect(nil, &packet.Disconnect{HasSessionExpiry: true}, one.v))
			one.closed()
		},
	}
	heirs := map[string]func(x *bench) func() *wire{
		"connected": func(x *bench) func() *wire {
			w := x.groupMember("heir", 1)
			return func() *wire { return w }
		},
		"away": func(x *bench) func() *wire {
			x.away(x.groupMember("heir", 1), "heir")
			return func() *wire { w, _ := x.connect(packet.V5, "heir", lasting); return w }
		},
		"passing": func(x *bench) func() *wire {
			w, _ := x.connect(packet.V5, "heir")
			w.subscribe("$share/g/a", 1)
			return func() *wire { return w }
		},
	}
	for how, end := range end {
		for who, heir := range heirs {
			t.Run(how+", heir "+who, func(t *testing.T) {
				x := start(t)
				one := x.groupMember("one", 2, func(c *packet.Connect) { c.ReceiveMaximum = 3 })
				one.subscribe("own", 1)
				p, _ := x.connect(packet.V5, "p")
				p.deliver("a", "begun", 2)
				for i := range 4 {
					p.deliver("a", fmt.Sprint(i), 1)
				}
				p.deliver("own", "own", 1)
				for range 3 {
					one.message()
				}
				got := heir(x)
				end(x, one)
				x.until("the end of the session", func() bool { m := x.b.members["one"]; return m == nil || !m.state.Durable() })
				x.still()
				if got := got().collect(4); !slices.Equal(got, numbers(0, 3)) {
					t.Errorf("got %v, want 0 to 3", got)
				}
				s, err := x.b.Snapshot(t.Context())
				if err != nil || s.DroppedEnded != 2 {
					t.Errorf("%d messages were dropped with the session, want 2 (%v)", s.DroppedEnded, err)
				}
				x.until("the end in the store", func() bool { return x.store.open() == 0 })
			})
		}
	}
}

func TestAnEndedSessionIsEmptiedByTheNextProcess(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "one", "$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "0", 1)
	p.deliver("a", "1", 1)
	x.offline(packet.V5, "heir", "$share/g/a", 1)
	x.store.hold()
	x.do(func() { x.b.members["one"].away.expires.Fire(0) })
	if x.restored("one") != 1 {
		t.Fatal("the session is gone though its end is not on disk")
	}
	y := restart(t, x) // a crash before the end was on disk: the session goes on
	y.queues("one", 2, 0)

	// A crash when that was on disk and nothing was moved.
	x.store.mu.Lock()
	for n, s := range x.store.sessions {
		if s.ClientID == "one" {
			x.store.sessions[n] = &durable.Session{Number: n}
		}
	}
	x.store.mu.Unlock()
	y = restart(t, x)
	y.still()
	y.queues("heir", 2, 0)
	if y.restored("") != 0 || y.restored("one") != 0 {
		t.Error("the ended session is still in the store")
	}
	w, k := y.connect(packet.V5, "one", lasting)
	if k.SessionPresent {
		t.Error("the ended session is resumed")
	}
	w.nothing()
}

// restored is how many sessions a crash would leave with a client identifier.
func (x *bench) restored(id string) (n int) {
	for _, r := range x.store.restored() {
		if r.Session.ClientID == id {
			n++
		}
	}
	return n
}

func TestFailedMoveLeavesTheMessageWhereItWas(t *testing.T) {
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprint("client is back: ", back), func(t *testing.T) {
			x := start(t)
			one := x.groupMember("one", 1)
			p, _ := x.connect(packet.V5, "p")
			p.deliver("a", "0", 1)
			p.deliver("a", "1", 1)
			one.message()
			one.message()
			two := x.groupMember("two", 1)
			x.store.hold()
			x.away(one, "one")
			x.until("the moves", func() bool { return x.b.members["two"].state.Pending() == 2 })
			x.queues("one", 0, 0)
			if back {
				one, _ = x.connect(packet.V5, "one", lasting)
				one.nothing()
			}
			x.store.release(errDisk)
			x.still()
			if back {
				if code := one.disconnected(); code != packet.UnspecifiedError {
					t.Errorf("got %v", code)
				}
			}
			x.away(two, "two")
			x.queues("one", 2, 0)
			if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedStore != 0 || s.DroppedFull != 0 {
				t.Errorf("the messages count as dropped: %+v (%v)", s, err)
			}
			one, _ = x.connect(packet.V5, "one", lasting)
			if got := one.collect(2); !slices.Equal(got, numbers(0, 1)) {
				t.Errorf("got %v, want both", got)
			}
			x.until("the end", func() bool { return x.store.open() == 0 })
		})
	}
}

// On their way to another they are in nobody's queue, but come back if the disk fails.
func TestMessagesThatCouldNotBeMovedOutliveTheirSession(t *testing.T) { // MQTT5 §4.8.2
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprint("it ends before the disk fails: ", before), func(t *testing.T) {
			x := start(t)
			one := x.groupMember("one", 1)
			p, _ := x.connect(packet.V5, "p")
			p.deliver("a", "0", 1)
			p.deliver("a", "1", 1)
			one.message()
			one.message()
			two := x.groupMember("two", 1)
			x.store.hold()
			x.away(one, "one")
			x.until("the moves", func() bool { return x.b.members["two"].state.Pending() == 2 })
			two.message()
			two.message()
			one, _ = x.connect(packet.V5, "one", lasting)
			x.away(one, "one")
			expire := func() { x.b.members["one"].away.expires.Fire(0) }
			if before {
				x.do(expire)
			}
			x.store.release(errDisk)
			x.still()
			if !before {
				x.do(expire)
			}
			if got := two.collect(2); !slices.Equal(got, numbers(0, 1)) {
				t.Errorf("the other member got %v, want both", got)
			}
			x.until("the end", func() bool { return x.store.open() == 0 })
			if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedEnded != 0 {
				t.Errorf("%+v (%v)", s, err)
			}
		})
	}
}

func TestMovesOfAnEndedSessionAreTriedAgain(t *testing.T) {
	x := start(t)
	x.offline(packet.V5, "one", "$share/g/a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "0", 1)
	p.deliver("a", "1", 1)
	x.offline(packet.V5, "heir", "$share/g/a", 1)
	x.store.hold()
	var v *movement
	x.do(func() {
		x.b.members["one"].away.expires.Fire(0)
		v = x.b.movements[0]
	})
	x.until("the moves", func() bool { return v.under == 2 })
	x.store.release(errDisk)
	x.still()
	x.queues("heir", 0, 0)
	if x.store.open() != 2 {
		t.Fatalf("%d messages are in the store, want 2", x.store.open())
	}
	x.do(func() {
		if !v.Set() {
			t.Error("it is not tried again")
		}
		x.b.loop.Unset(v)
		v.Fire(0)
	})
	x.still()
	x.queues("heir", 2, 0)
	if s, err := x.b.Snapshot(t.Context()); err != nil || s.DroppedEnded != 0 || s.DroppedStore != 0 {
		t.Errorf("%+v (%v)", s, err)
	}
}

func TestWhoIsBackInTimeKeepsItsMessages(t *testing.T) {
	x := start(t)
	one := x.groupMember("one", 1)
	p, _ := x.connect(packet.V5, "p")
	p.deliver("a", "x", 1)
	one.message()
	two := x.groupMember("two", 1)
	x.store.hold()
	p.publish("a", "y", 1, 2) // for two, in turn; the movement waits until it is on disk
	p.publish("a", "z", 1, 3) // for one
	p.nothing()
	x.away(one, "one")
	one, _ = x.connect(packet.V5, "one", lasting)
	x.store.release(nil)
	x.still()
	if got := one.collect(2); !slices.Equal(got, []string{"x", "z"}) {
		t.Errorf("got %v, want x and z", got)
	}
	if got := two.collect(1); !slices.Equal(got, []string{"y"}) {
		t.Errorf("the other got %v, want y", got)
	}
}

func TestManyLostSessionsAreEmptiedOneAfterTheOther(t *testing.T) {
	x := start(t)
	const n = 20
	members := make([]*wire, n)
	for i := range members {
		members[i] = x.groupMember(fmt.Sprint("m", i), 1)
	}
	p, _ := x.connect(packet.V5, "p")
	for i := range 5 * n {
		p.deliver("a", fmt.Sprint(i), 1)
	}
	last := x.groupMember("last", 1, func(c *packet.Connect) { c.ReceiveMaximum = 3 })
	for i, w := range members {
		w.net.Close()
		if i%5 == 0 {
			x.away(w, fmt.Sprint("m", i))
		}
	}
	got := map[string]bool{}
	for len(got) < 5*n {
		m := last.message()
		got[string(m.Payload)] = true
		last.ack(packet.PUBACK, m.ID)
	}
	x.still()
	last.nothing()
	x.until("the end", func() bool { return x.store.open() == 0 })
}

// Members that come and go must not write a long queue to flash again and again.
func TestWhatComesBackSoonIsNotMovedAgain(t *testing.T) {
	x := start(t)
	slow := func(c *packet.Connect) { c.ReceiveMaximum = 1 }
	one, two := x.groupMember("one", 1, slow), x.groupMember("two", 1, slow)
	x.away(two, "two")
	p, _ := x.connect(packet.V5, "p")
	const messages = restBytes/10_000 + 1
	for i := range messages {
		p.deliver("a", fmt.Sprintf("%010000d", i), 1)
	}
	rejoin := func(id string) *wire {
		w, _ := x.connect(packet.V5, id, lasting, slow)
		return w
	}
	moved := func(want int) {
		t.Helper()
		x.still()
		if n := x.outcome(durable.Moved); n != want {
			t.Fatalf("%d messages were moved, want %d", n, want)
		}
	}
	two = rejoin("two")
	x.away(one, "one")
	moved(messages)
	one = rejoin("one")
	x.away(two, "two")
	moved(2 * messages)
	two = rejoin("two")
	for range 3 {
		x.away(one, "one") // it was moved from a moment ago
		moved(2 * messages)
		one = rejoin("one")
	}
	x.do(func() { x.b.members["one"].movement.Fire(0) }) // its rest ends while it is connected
	moved(2 * messages)
	x.away(one, "one")
	moved(3 * messages)
	x.do(func() { x.b.members["one"].movement.Fire(0) })

	x.away(two, "two")
	rejoin("one")
	moved(3 * messages)
	x.do(func() { x.b.members["two"].movement.Fire(0) }) // its rest ends while it is away
	moved(4 * messages)
	x.queues("one", messages, 1)
	x.queues("two", 0, 0)
}
