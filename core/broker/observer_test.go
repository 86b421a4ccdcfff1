package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dunlin/core/access"
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// witness writes down what it is told. Its lines belong to the loop.
type witness struct{ lines []string }

func (w *witness) add(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *witness) Connected(p Peer) {
	if !strings.HasPrefix(p.Remote, "127.0.0.1:") || p.Listener != "test" {
		w.add("a stranger: %+v", p)
	}
	w.add("connected %s %q %d", p.ClientID, p.Identity.User, p.Version)
}

func (w *witness) Disconnected(p Peer, e Ending) {
	if !strings.HasPrefix(p.Remote, "127.0.0.1:") {
		w.add("a stranger: %+v", p)
	}
	w.add("disconnected %s: %d, %v", p.ClientID, e.By, e)
}

func (w *witness) Subscribed(id string, s durable.Subscription) {
	w.add("subscribed %s %s %d", id, s.Filter, s.QoS)
}
func (w *witness) Unsubscribed(id, filter string) { w.add("unsubscribed %s %s", id, filter) }
func (w *witness) Published(p Publication) {
	w.add("published %q%s %s=%s %d %v", p.ClientID, p.Source, p.Topic, p.Payload, p.QoS, p.Retain)
}

func (w *witness) Delivered(d Delivery) {
	w.add("delivered %s %s %d bytes %d %v %v", d.ClientID, d.Topic, d.Bytes, d.QoS, d.Retain, d.Dup)
}

func (w *witness) Dropped(d Drop) {
	w.add("dropped %q %s: %v", d.ClientID, d.Topic, d.Reason)
	if d.Messages != 1 {
		w.add("%d of them", d.Messages)
	}
}

// told waits for the last of the lines and compares all.
func (x *bench) told(w *witness, want ...string) {
	x.t.Helper()
	x.until(want[len(want)-1], func() bool { return slices.Contains(w.lines, want[len(want)-1]) })
	x.do(func() {
		if got := strings.Join(w.lines, "\n"); got != strings.Join(want, "\n") {
			x.t.Errorf("the observer was told\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
		w.lines = nil
	})
}

// watched is a broker with a witness.
func watched(t testing.TB, change ...func(*Options)) (*bench, *witness) {
	t.Helper()
	w := &witness{}
	return start(t, append(change, func(o *Options) { o.Observer = w })...), w
}

func TestObserverIsToldInOrder(t *testing.T) {
	x, seen := watched(t)
	s, _ := x.connect(packet.V5, "s", func(c *packet.Connect) { c.HasUsername, c.Username = true, []byte("eve") })
	s.subscribe("a/+", 1)
	p, _ := x.connect(packet.V311, "p")
	p.publish("a/b", "hello", 1, 7)
	p.expect(packet.PUBACK)
	m := s.message()
	s.ack(packet.PUBACK, m.ID)
	s.write(packet.AppendUnsubscribe(nil, 2, []string{"a/+"}, packet.V5))
	s.expect(packet.UNSUBACK)
	s.subscribe("c", 0)
	s.write(packet.AppendDisconnect(nil, &packet.Disconnect{}, packet.V5))
	s.closed()
	p.net.Close()
	x.told(seen,
		`connected s "eve" 5`,
		`subscribed s a/+ 1`,
		`connected p "" 4`,
		`published "p" a/b=hello 1 false`,
		`delivered s a/b 5 bytes 1 false false`,
		`unsubscribed s a/+`,
		`subscribed s c 0`,
		`disconnected s: 1, Normal disconnection`,
		`unsubscribed s c`,
		`disconnected p: 0, connection lost`)
}

func TestObserverIsToldWhyTheBrokerEndsAConnection(t *testing.T) {
	x, seen := watched(t)
	old, _ := x.connect(packet.V5, "c")
	w, _ := x.connect(packet.V5, "c") // [MQTT-3.1.4-3]
	old.closed()
	w.write([]byte{byte(packet.CONNACK) << 4, 0})
	w.closed()
	x.told(seen,
		`connected c "" 5`,
		`disconnected c: 2, `+packet.SessionTakenOver.String(),
		`connected c "" 5`,
		`disconnected c: 2, `+packet.ProtocolError.String())
}

func TestObserverIsNotToldOfClientsThatWereRefused(t *testing.T) {
	x, seen := watched(t)
	w := x.dial(packet.V5)
	w.write(packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte("$uplink/x"), CleanStart: true, RequestProblem: true, ReceiveMaximum: 1}))
	w.closed()
	x.connect(packet.V5, "let in")
	x.told(seen, `connected let in "" 5`)
}

func TestObserverIsToldOfWillsAndUplinks(t *testing.T) {
	x, seen := watched(t)
	w, _ := x.connect(packet.V5, "c", func(c *packet.Connect) {
		c.HasWill = true
		c.Will.Topic, c.Will.Payload = []byte("w"), []byte("gone")
	})
	w.net.Close()
	x.told(seen,
		`connected c "" 5`,
		`disconnected c: 0, connection lost`,
		`published "c" w=gone 0 false`)
	x.b.Inject(&message.Message{Topic: "down", Payload: []byte("x"), Source: "cloud"}, nil)
	x.told(seen, `published ""cloud down=x 0 false`)
}

func TestObserverIsToldWhatIsDropped(t *testing.T) {
	policy, err := access.New(access.Options{Anonymous: access.Rules{Publish: []string{"a/#", "b"}, Subscribe: []string{"a/#"}}})
	if err != nil {
		t.Fatal(err)
	}
	x, seen := watched(t, func(o *Options) {
		o.Policy = policy
		o.Limits.MaxQueued = 1
		o.Limits.MaxRetained = 1
	})
	x.offline(packet.V5, "full", "a/queued", 1)
	tiny, _ := x.connect(packet.V5, "tiny", func(c *packet.Connect) { c.MaximumPacketSize = 40 })
	tiny.subscribe("a/large", 0)
	p, _ := x.connect(packet.V5, "p")
	x.do(func() { seen.lines = nil })

	p.publish("denied", "x", 0, 0)
	p.publish("a/queued", "1", 1, 1)
	p.publish("a/queued", "2", 1, 2)
	p.publish("a/large", strings.Repeat("x", 50), 0, 0)
	for _, topic := range []string{"a/r", "a/s"} {
		b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte("r"), Retain: true}, packet.V5)
		p.write(b)
	}
	x.told(seen,
		`dropped "p" denied: publish_denied`,
		`published "p" a/queued=1 1 false`,
		`published "p" a/queued=2 1 false`,
		`dropped "full" a/queued: queue_full`,
		`published "p" a/large=`+strings.Repeat("x", 50)+` 0 false`,
		`dropped "tiny" a/large: too_large`,
		`published "p" a/r=r 0 true`,
		`published "p" a/s=r 0 true`,
		`dropped "p" a/s: retained_full`)
}

func TestObserverIsToldOfTheQueueOfASessionThatEnds(t *testing.T) {
	x, seen := watched(t)
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		x.offline(v, "away", "a", 1)
		p, _ := x.connect(v, "p")
		for i := range 3 {
			p.publish("a", "x", 1, packet.ID(i+1))
			p.expect(packet.PUBACK)
		}
		x.do(func() { seen.lines = nil })
		x.connect(v, "away") // with a clean start [MQTT-3.1.2-4]
		x.told(seen,
			`dropped "away" : session_ended`,
			`3 of them`,
			`unsubscribed away a`,
			fmt.Sprintf(`connected away "" %d`, v))
		x.do(func() {
			if n := x.b.counters.DroppedEnded; n != 3 {
				t.Errorf("%d are counted, want 3", n)
			}
			x.b.counters.DroppedEnded = 0
			seen.lines = nil
		})
		x.until("the broker is idle", func() bool { return x.b.undecided == 0 })
	}
}

func TestEveryDropReasonHasANameAndACounter(t *testing.T) {
	var k Counters
	for i := range dropReasons {
		why := DropReason(i)
		*k.dropped(why)++
		if why.String() == "" {
			t.Errorf("reason %d has no name", i)
		}
	}
	for i := range dropReasons {
		if n := *k.dropped(DropReason(i)); n != 1 {
			t.Errorf("%v shares its counter with others: %d", DropReason(i), n)
		}
	}
}

// silent counts what it is told and does nothing else.
type silent struct {
	Unobserved
	n int
}

func (s *silent) Published(Publication) { s.n++ }
func (s *silent) Delivered(Delivery)    { s.n++ }
func (s *silent) Dropped(Drop)          { s.n++ }

// fanOut is an unstarted broker with a publisher and three subscribers; turn publishes ten
// messages and writes them.
func fanOut(t testing.TB, o Observer) (b *Broker, turn func()) {
	t.Helper()
	x := &bench{t: t}
	b = unstarted(t)
	b.observer = o
	poller, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { poller.Close() })
	pub, _ := x.adopt(t, b, "pub")
	var peers []int
	for _, id := range []string{"s1", "s2", "s3"} {
		c, fd := x.adopt(t, b, id)
		s := packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "plant/+/temp"}}, packet.V311)
		h, n, _ := packet.ParseHeader(s)
		if err := (handler{b}).Packet(c.conn, h, s[n:]); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, fd)
	}
	frame, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("plant/7/temp"), Payload: make([]byte, 128)}, packet.V311)
	h, n, err := packet.ParseHeader(frame)
	if err != nil {
		t.Fatal(err)
	}
	sink := make([]byte, 64<<10)
	turn = func() {
		for range 10 {
			if err := (handler{b}).Packet(pub.conn, h, frame[n:]); err != nil {
				t.Fatal(err)
			}
		}
		handler{b}.TurnEnds()
		b.loop.Arena.Flush(poller)
		for _, fd := range peers {
			for {
				if _, err := unix.Read(fd, sink); err != nil {
					break
				}
			}
		}
	}
	turn() // what is made once: cache entry, arena
	return b, turn
}

func TestObserverAllocatesNothing(t *testing.T) {
	o := &silent{}
	_, turn := fanOut(t, o)
	o.n = 0
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Errorf("%v allocations for 10 messages to 3 subscribers, want 0", got)
	}
	if o.n != 101*10*4 { // AllocsPerRun runs it once before it counts
		t.Errorf("told %d times, want %d", o.n, 101*10*4)
	}
}

func BenchmarkObserver(b *testing.B) {
	for name, o := range map[string]Observer{"none": nil, "counting": &silent{}} {
		b.Run("10_messages_to_3/"+name, func(b *testing.B) {
			_, turn := fanOut(b, o)
			b.ReportAllocs()
			for b.Loop() {
				turn()
			}
		})
	}
}
