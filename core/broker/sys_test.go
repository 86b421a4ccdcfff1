package broker

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"dunlin/core/access"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// withSys has values below $SYS. Its timer does not fire during a test: tick does.
func withSys(o *Options) { o.SysInterval, o.Version = time.Hour, "1.2.3" }

// tick fires the timer of $SYS.
func (x *bench) tick() {
	x.t.Helper()
	x.do(func() {
		if !x.b.sys.Set() {
			x.t.Error("the timer is not set")
		}
		if next := x.b.sys.Fire(x.b.loop.Now()); next == 0 {
			x.b.loop.Unset(x.b.sys)
		}
	})
}

// rests says that the timer of $SYS is off.
func (x *bench) rests() (rests bool) {
	x.t.Helper()
	x.do(func() { rests = !x.b.sys.Set() })
	return rests
}

// got returns what came before a PINGRESP, by topic.
func (w *wire) got(retain bool) map[string]string {
	w.t.Helper()
	w.write(packet.AppendPingreq(nil))
	all := make(map[string]string)
	for {
		h, body := w.read()
		if h.Type == packet.PINGRESP {
			return all
		}
		p, err := packet.ParsePublish(body, h.Flags, w.v)
		if err != nil {
			w.t.Fatal(err)
		}
		if p.Retain != retain || p.QoS != 0 {
			w.t.Errorf("%s has QoS %d and RETAIN %v, want 0 and %v", p.Topic, p.QoS, p.Retain, retain)
		}
		if _, twice := all[string(p.Topic)]; twice {
			w.t.Errorf("%s came twice", p.Topic)
		}
		all[string(p.Topic)] = string(p.Payload)
	}
}

func TestAlarmsAreRetainedBelowSys(t *testing.T) {
	text := "" // the loop's
	x := start(t, withSys, func(o *Options) {
		o.Alarms = []Alarm{{Name: "damage", Text: func() string { return text }}}
	})
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/alarm/#", 0)
	want := map[string]string{"$SYS/broker/alarm/damage": "none", "$SYS/broker/alarm/store": "none"}
	if got := w.got(true); !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	x.do(func() { text = "salvaged" })
	x.tick()
	want = map[string]string{"$SYS/broker/alarm/damage": "salvaged"} // the other is as it was
	if got := w.got(false); !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSysHasTheTopicsThatUsersKnow(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V311, "w")
	w.subscribe("$SYS/#", 1)
	got := w.got(true)
	var want []string
	for name := range strings.FieldsSeq(`
		version uptime
		clients/total clients/connected clients/disconnected clients/maximum clients/expired
		messages/received messages/sent messages/stored store/messages/count store/messages/bytes
		publish/messages/received publish/messages/sent publish/messages/dropped
		publish/bytes/received publish/bytes/sent bytes/received bytes/sent
		subscriptions/count shared_subscriptions/count retained_messages/count delayed_messages/count delayed_messages/bytes
		dropped/output dropped/queue_full dropped/too_large dropped/denied dropped/expired
		dropped/not_stored dropped/uplink_full dropped/publish_denied dropped/retained_full dropped/bad_payload
		dropped/session_ended dropped/delayed_full dropped/message_rate dropped/store_full alarm/store refused/connect_rate
		loop/drift loop/drift/maximum`) {
		want = append(want, sysBroker+strings.ReplaceAll(name, "_messages/", " messages/"))
	}
	for _, name := range []string{
		"messages/received", "messages/sent", "publish/received", "publish/sent", "publish/dropped",
		"bytes/received", "bytes/sent", "sockets", "connections",
	} {
		for _, minutes := range []string{"1min", "5min", "15min"} {
			want = append(want, sysBroker+"load/"+name+"/"+minutes)
		}
	}
	slices.Sort(want)
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	for name, value := range map[string]string{
		"version": "dunlin version 1.2.3", "clients/connected": "1", "subscriptions/count": "1", "dropped/queue_full": "0",
	} {
		if got[sysBroker+name] != value {
			t.Errorf("%s is %q, want %q", name, got[sysBroker+name], value)
		}
	}
	if !strings.HasSuffix(got[sysBroker+"uptime"], " seconds") {
		t.Errorf("uptime is %q", got[sysBroker+"uptime"])
	}
}

func TestSysCountsWhatPassed(t *testing.T) {
	x := start(t, withSys)
	x.offline(packet.V311, "away", "a", 1)
	s, _ := x.connect(packet.V311, "s")
	s.subscribe("a", 0)
	p, _ := x.connect(packet.V311, "p")
	for i := range 3 {
		p.publish("a", "12345", 1, packet.ID(i+1))
		p.expect(packet.PUBACK)
		s.message()
	}
	b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("kept"), Payload: []byte("1"), Retain: true}, packet.V311)
	p.write(b)
	p.nothing()
	w, _ := x.connect(packet.V311, "w")
	suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "$SYS/broker/+/+"}, {Filter: "$SYS/broker/publish/+/+"}}, packet.V311))
	got := w.got(true)
	for name, want := range map[string]string{
		"clients/total": "4", "clients/connected": "3", "clients/disconnected": "1", "clients/maximum": "3",
		"subscriptions/count": "4", "retained messages/count": "1", "messages/stored": "4",
		"publish/messages/received": "4", "publish/bytes/received": "16",
	} {
		if got[sysBroker+name] != want {
			t.Errorf("%s is %q, want %q", name, got[sysBroker+name], want)
		}
	}
}

func TestSysCountsEveryByteOfThePackets(t *testing.T) {
	x := start(t, withSys)
	w := x.dial(packet.V5)
	in, out := 0, 0
	send := func(b []byte, answers int) {
		w.write(b)
		in += len(b)
		for range answers {
			h, body := w.read()
			out += packetSize(len(body))
			if h.Remaining != len(body) {
				t.Fatal("a packet is not whole")
			}
		}
	}
	send(packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte("c"), CleanStart: true, RequestProblem: true, ReceiveMaximum: 10}), 1)
	send(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a"}}, packet.V5), 1)
	for _, n := range []int{1, 200, 20_000} {
		b, _ := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: make([]byte, n)}, packet.V5)
		send(b, 1)
	}
	x.do(func() {
		k, a := x.b.counters, &x.b.loop.Arena
		if k.BytesReceived != uint64(in) || a.Bytes != uint64(out) {
			t.Errorf("%d bytes received and %d sent are counted, want %d and %d", k.BytesReceived, a.Bytes, in, out)
		}
		if k.PacketsReceived != 5 || a.Packets != 5 {
			t.Errorf("%d packets received and %d sent are counted, want 5 and 5", k.PacketsReceived, a.Packets)
		}
		if k.PayloadReceived != 20_201 || k.PayloadSent != 20_201 {
			t.Errorf("payload of %d bytes received and %d sent is counted, want 20201", k.PayloadReceived, k.PayloadSent)
		}
	})
}

func TestSysPublishesWhatHasChanged(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/clients/#", 0)
	w.got(true)
	x.connect(packet.V5, "another")
	x.tick()
	got := w.got(false) // [MQTT-3.3.1-12]: to a subscription that is there RETAIN is 0
	want := map[string]string{sysBroker + "clients/total": "2", sysBroker + "clients/connected": "2", sysBroker + "clients/maximum": "2"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	x.tick()
	if got := w.got(false); len(got) > 0 {
		t.Errorf("got %v, but nothing has changed", got)
	}
}

func TestSysKeepsRetainForThoseWhoAskForIt(t *testing.T) { // [MQTT-3.3.1-13]
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w")
	suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{
		Filter: "$SYS/broker/clients/total", Options: packet.SubscribeOptions{RetainAsPublished: true, RetainHandling: 2},
	}}, packet.V5))
	x.tick()
	x.connect(packet.V5, "another")
	x.tick()
	if got := w.got(true); got[sysBroker+"clients/total"] != "2" {
		t.Errorf("got %v", got)
	}
}

func TestSysRestsUnlessSomebodyWhoIsConnectedSubscribes(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("#", 0) // does not match topics that begin with $ [MQTT-4.7.2-1]
	w.subscribe("+/broker/#", 0)
	if !x.rests() {
		t.Fatal("the timer is set, but nobody asks for $SYS")
	}
	w.subscribe("$SYS/no/such/topic", 0)
	x.tick()
	if !x.rests() {
		t.Fatal("the timer is set for a filter that matches nothing")
	}
	w.subscribe("$SYS/#", 0)
	w.got(true)
	x.tick()
	if x.rests() {
		t.Fatal("the timer is off, but somebody subscribes")
	}
	w.write(packet.AppendUnsubscribe(nil, 2, []string{"$SYS/#"}, packet.V5))
	for h, _ := w.read(); h.Type != packet.UNSUBACK; h, _ = w.read() {
	}
	x.tick()
	if !x.rests() {
		t.Error("the timer goes on, and nobody subscribes any more")
	}
	x.do(func() {
		if x.b.sys.values != nil || x.b.sys.retained.Len() > 0 {
			t.Error("the values are kept while nobody wants them")
		}
	})
}

func TestSysIsNeitherQueuedNorStored(t *testing.T) {
	x := start(t, withSys)
	x.offline(packet.V5, "away", "$SYS/#", 1)
	x.tick()
	if !x.rests() {
		t.Error("the timer goes on for a client that is away")
	}
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/#", 1)
	w.got(true)
	for range 3 {
		x.tick()
	}
	x.queues("away", 0, 0)
	x.do(func() {
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		if len(x.store.records) > 0 || x.b.retained.Len() > 0 {
			t.Errorf("%d messages are stored, %d retained", len(x.store.records), x.b.retained.Len())
		}
	})
}

func TestSysComesAgainForASessionThatIsBack(t *testing.T) {
	x := start(t, withSys)
	x.offline(packet.V5, "c", "$SYS/broker/version", 1)
	x.tick()
	w, a := x.connect(packet.V5, "c", lasting)
	if !a.SessionPresent || x.rests() {
		t.Fatalf("session present %v, resting %v", a.SessionPresent, x.rests())
	}
	x.tick()
	if got := w.got(false); got[sysBroker+"version"] != "dunlin version 1.2.3" {
		t.Errorf("got %v", got)
	}
}

func TestNobodyElsePublishesBelowSys(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/version", 0)
	w.got(true)
	p, _ := x.connect(packet.V5, "p")
	b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("$SYS/broker/version"), Payload: []byte("mine"), QoS: 1, Retain: true}, packet.V5)
	b[at+1] = 1
	p.write(b)
	if a := p.acked(packet.PUBACK); a.Code != packet.TopicNameInvalid {
		t.Errorf("got %v", a.Code)
	}
	done := make(chan error, 1)
	x.b.Inject(&message.Message{Topic: "$SYS/broker/version", Payload: []byte("from above"), Source: "cloud"}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := w.got(false); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	x.do(func() {
		if n := x.b.counters.DeniedPublishes; n != 1 {
			t.Errorf("%d denied publishes are counted, want that of the uplink", n)
		}
	})
}

func TestARuleForEverythingDoesNotOpenSys(t *testing.T) {
	policy, err := access.New(access.Options{
		Everyone: access.Rules{Subscribe: []string{"#"}},
		Users:    map[string]access.Rules{"admin": {Subscribe: []string{"$SYS/#"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	x := start(t, withSys, func(o *Options) { o.Policy = policy })
	for user, want := range map[string]packet.ReasonCode{"guest": packet.NotAuthorized, "admin": packet.Success} {
		w, _ := x.connect(packet.V5, user, func(c *packet.Connect) { c.HasUsername, c.Username = true, []byte(user) })
		codes := suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "$SYS/#"}}, packet.V5))
		if codes[0] != want {
			t.Errorf("%s: got %v, want %v", user, codes[0], want)
		}
		if got := w.got(true); (len(got) > 0) != (want == packet.Success) {
			t.Errorf("%s got %d values", user, len(got))
		}
	}
}

func TestSysStaysHere(t *testing.T) {
	o := &spool{filters: []string{"$SYS/#", "a"}}
	x := start(t, withSys, func(p *Options) { p.Outboxes = []Outbox{o} })
	if !x.rests() {
		t.Error("the timer is set for an uplink")
	}
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/#", 0)
	w.got(true)
	x.tick()
	w.publish("a", "x", 0, 0)
	w.got(false)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.taken, []string{"x"}) {
		t.Errorf("the uplink got %q, want only what is not below $SYS", o.taken)
	}
}

func TestSysCanBeSwitchedOff(t *testing.T) {
	x := start(t)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/#", 0)
	w.nothing()
	if !x.rests() {
		t.Error("the timer is set")
	}
}

func TestSysIsPublishedAtTheInterval(t *testing.T) {
	x := start(t, func(o *Options) { o.SysInterval = time.Millisecond }) // a second is the least
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("$SYS/broker/uptime", 0)
	var seen []string
	for range 3 {
		seen = append(seen, string(w.message().Payload))
	}
	if n := len(slices.Compact(slices.Clone(seen))); n != 3 {
		t.Errorf("got %v, want three moments", seen)
	}
	x.do(func() {
		if d := x.b.sys.drift; d < 0 || d > guard {
			t.Errorf("the drift is %v", d)
		}
	})
}

func TestLoadAveragesForgetAtTheirPace(t *testing.T) {
	var n uint64
	s := &sys{loads: []sysLoad{{count: func() uint64 { return n }}}}
	now := time.Duration(0)
	for range 6 * 60 { // an hour of 60 a minute
		now += 10 * time.Second
		n += 10
		s.sample(now)
	}
	for i, got := range s.loads[0].averages {
		if math.Abs(got-60) > 1.2 { // exp(-60/15) of the way is left
			t.Errorf("%d minutes: %.2f, want 60", sysMinutes[i], got)
		}
	}
	s.sample(now + time.Millisecond) // too short to say anything
	before := s.loads[0].averages
	for range 6 { // and a minute of silence
		now += 10 * time.Second
		s.sample(now)
	}
	for i, got := range s.loads[0].averages {
		if want := before[i] * math.Exp(-1/float64(sysMinutes[i])); math.Abs(got-want) > 0.01 {
			t.Errorf("%d minutes: %.2f after a minute of silence, want %.2f", sysMinutes[i], got, want)
		}
	}
}

func TestIdleBrokerHasNoTimerForSys(t *testing.T) {
	x := start(t, withSys)
	w, _ := x.connect(packet.V5, "w")
	w.subscribe("a", 0)
	w.net.Close()
	x.until("the client is gone", func() bool { return len(x.b.members) == 0 })
	x.until("its timers are gone", func() bool { return x.b.loop.Timers() == 0 })
}

func TestReasonsForDropsAreCountedBelowSys(t *testing.T) {
	x := start(t, withSys, func(o *Options) { o.Limits.MaxQueued = 1 })
	x.offline(packet.V5, "away", "a", 1)
	w, _ := x.connect(packet.V5, "w")
	for i := range 3 {
		w.publish("a", "x", 1, packet.ID(i+1))
		w.expect(packet.PUBACK)
	}
	suback(t, w, packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{
		{Filter: "$SYS/broker/dropped/queue_full"}, {Filter: "$SYS/broker/publish/messages/dropped"},
	}, packet.V5))
	if got := fmt.Sprint(w.got(true)); got != "map[$SYS/broker/dropped/queue_full:2 $SYS/broker/publish/messages/dropped:2]" {
		t.Error(got)
	}
}
