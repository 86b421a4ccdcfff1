package broker

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"

	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/message"
	"dunlin/core/retain"
)

// sys publishes what the broker counts, below $SYS/broker, under the names that users of mosquitto
// know, and some of our own. The values are retained in memory: a new subscriber gets them at once,
// as they are then. Nothing of it is stored, queued or handed to an uplink, and nobody but the
// broker publishes below $SYS.
//
// It costs nothing unless somebody who is connected subscribes to it: its timer runs only then. So
// the load averages of the time before are but its mean.
type sys struct {
	loop.Place
	b        *Broker
	interval time.Duration // whole seconds, 0 = off
	version  string
	alarms   []Alarm
	others   []Value
	filters  int // subscribed Topic Filters below $SYS

	ledger         Ledger          // nil = there is none
	accountFilters int             // subscribed Topic Filters that the account of a session can match
	accounted      bool            // the values have accounts of sessions
	total          durable.Account // of all queues, when the values were found out
	off            int64           // by how much it did not add up then

	values    []sysValue    // nil until somebody asks
	fixed     int           // so many of them are there always; behind are accounts of sessions
	retained  *retain.Store // of the values
	refreshed time.Duration // when they were found out last
	all       bool          // the next turn of the timer publishes also what is the same

	due           time.Duration // when the timer should fire
	drift, drifts time.Duration // how late it fired: the last time, and the most

	loads   []sysLoad
	sampled time.Duration // when the loads were looked at last
}

// sysValue is one topic.
type sysValue struct {
	topic   string
	value   func() string
	message *message.Message // as found out last, nil = never
	changed bool             // since it was published
}

// sysLoad is a counter with its averages.
type sysLoad struct {
	count    func() uint64
	last     uint64
	averages [len(sysMinutes)]float64 // per minute
}

// sysMinutes are the times over which loads are averaged.
var sysMinutes = [...]int{1, 5, 15}

// sysFresh is how old values may be for a new subscriber: what a thousand of them in a second cost
// has a bound.
const sysFresh = time.Second

const (
	sysRoot   = "$SYS"
	sysBroker = sysRoot + "/broker/"

	// alarmStore is why the store does not take messages, "none" if it does.
	alarmStore = "alarm/store"
)

func newSys(b *Broker, o Options) *sys {
	s := &sys{b: b, version: o.Version, alarms: o.Alarms, others: o.Values, ledger: o.Ledger, retained: retain.New(retain.Options{})}
	if o.SysInterval > 0 {
		s.interval = (o.SysInterval + time.Second - 1).Truncate(time.Second)
	}
	return s
}

// isSys says whether a Topic Name or Filter is below $SYS.
func isSys(name string) bool {
	return strings.HasPrefix(name, sysRoot) && (len(name) == len(sysRoot) || name[len(sysRoot)] == '/')
}

// observe learns from the index which filters are subscribed.
func (s *sys) observe(filter string, added bool) {
	if !isSys(filter) {
		return
	}
	change := 1
	if !added {
		change = -1
	}
	s.filters += change
	if matchesAccount(filter) {
		s.accountFilters += change
	}
}

// subscribed sets the timer for a subscription. When it fires it finds out whether the filter
// matches anything, and whether its client is connected.
func (s *sys) subscribed(filter string) {
	if s.interval > 0 && !s.Set() && isSys(filter) {
		s.due = (s.b.loop.Now() + s.interval + time.Second - 1).Truncate(time.Second)
		s.b.loop.At(s.due, s)
	}
}

// resumed has all values published for a session that is back: it does not subscribe anew.
func (s *sys) resumed(m *member) {
	if s.filters == 0 {
		return
	}
	for _, sub := range s.b.subscriptionsOf(m) {
		if topics := topicsOf(sub.Filter); isSys(topics) {
			s.all = true
			s.subscribed(topics)
		}
	}
}

// Fire publishes the values that have changed, to those who are connected. If there is nobody it
// rests until somebody subscribes or comes back.
func (s *sys) Fire(now time.Duration) time.Duration {
	s.drift = now - s.due
	s.drifts = max(s.drifts, s.drift)
	s.refresh()
	watched := false
	for i := range s.values {
		v := &s.values[i]
		if !s.b.watched(v.topic) {
			continue
		}
		watched = true
		if v.changed || s.all {
			v.changed = false
			s.b.publishOwn(v.message)
		}
	}
	s.all = false
	if !watched {
		s.values, s.fixed, s.retained = nil, 0, retain.New(retain.Options{})
		return 0
	}
	if s.due += s.interval; s.due <= now {
		s.due = (now + s.interval).Truncate(time.Second)
	}
	return s.due
}

// watched says whether anybody who is connected gets what is published to a topic.
func (b *Broker) watched(name string) bool {
	for _, m := range b.cache.Match([]byte(name)) {
		r := &b.receivers[m.Receiver]
		if r.member != nil && r.member.online() || r.group != nil && r.group.online() {
			return true
		}
	}
	return false
}

// publishOwn publishes a message of the broker itself, of QoS 0. It is not kept, whatever its
// RETAIN flag says.
func (b *Broker) publishOwn(m *message.Message) {
	pub := publication{Publish: packetOf(m), msg: m, own: true}
	b.publish(&pub, b.publishing())
}

// current returns the values for a new subscriber.
func (s *sys) current() *retain.Store {
	unseen := s.accountFilters > 0 && !s.accounted
	if s.interval > 0 && (s.values == nil || unseen || s.b.loop.Now()-s.refreshed >= sysFresh) {
		s.refresh()
	}
	return s.retained
}

// refresh finds out the values.
func (s *sys) refresh() {
	if s.values == nil {
		s.values = s.tree()
		s.fixed = len(s.values)
	}
	s.accounts()
	now := s.b.loop.Now()
	s.refreshed = now
	s.sample(now)
	for i := range s.values {
		v := &s.values[i]
		text := v.value()
		if v.message != nil && string(v.message.Payload) == text {
			continue
		}
		v.changed = v.message != nil || i >= s.fixed // a session that is new
		v.message = &message.Message{Topic: v.topic, Payload: []byte(text), Retain: true, Received: s.b.now()}
		s.retained.Set(v.message)
	}
}

// tell publishes a value at once, to those who are connected, without waiting for the timer.
func (s *sys) tell(name, text string) {
	if s.filters == 0 || s.interval == 0 {
		return
	}
	m := &message.Message{Topic: sysBroker + name, Payload: []byte(text), Retain: true, Received: s.b.now()}
	for i := range s.values {
		if v := &s.values[i]; v.topic == m.Topic {
			v.message, v.changed = m, false
			s.retained.Set(m)
		}
	}
	s.b.publishOwn(m)
}

// sample brings the load averages up to now: they decay as those of Unix do.
func (s *sys) sample(now time.Duration) {
	minutes := (now - s.sampled).Minutes()
	if now-s.sampled < sysFresh {
		return
	}
	s.sampled = now
	for i := range s.loads {
		l := &s.loads[i]
		n := l.count()
		rate := float64(n-l.last) / minutes
		l.last = n
		for k, span := range sysMinutes {
			l.averages[k] = rate + math.Exp(-minutes/float64(span))*(l.averages[k]-rate)
		}
	}
}

// tree is every topic below $SYS/broker that has a value.
func (s *sys) tree() []sysValue {
	b, k := s.b, &s.b.counters
	var all []sysValue
	add := func(name string, value func() string) {
		all = append(all, sysValue{topic: sysBroker + name, value: value})
	}
	number := func(name string, n func() int) { add(name, func() string { return strconv.Itoa(n()) }) }
	count := func(name string, n *uint64) { add(name, func() string { return strconv.FormatUint(*n, 10) }) }
	millis := func(name string, d *time.Duration) {
		add(name, func() string { return strconv.FormatFloat(d.Seconds()*1000, 'f', 3, 64) })
	}

	add("version", func() string { return "dunlin version " + s.version })
	add("uptime", func() string { return strconv.FormatInt(int64(b.loop.Now()/time.Second), 10) + " seconds" })

	number("clients/total", func() int { return len(b.members) })
	number("clients/connected", func() int { return k.Connected })
	number("clients/disconnected", func() int { return len(b.members) - k.Connected })
	number("clients/maximum", func() int { return k.MaxConnected })
	count("clients/expired", &k.SessionsExpired)

	count("messages/received", &k.PacketsReceived)
	count("messages/sent", &b.loop.Arena.Packets)
	stored := func() int { n, _ := b.stored(); return n }
	number("messages/stored", stored)
	number("store/messages/count", stored)
	add("store/messages/bytes", func() string { _, n := b.stored(); return strconv.FormatInt(n, 10) })
	count("publish/messages/received", &k.Received)
	count("publish/messages/sent", &k.Sent)
	add("publish/messages/dropped", func() string { return strconv.FormatUint(k.lost(), 10) })
	count("publish/bytes/received", &k.PayloadReceived)
	count("publish/bytes/sent", &k.PayloadSent)
	count("bytes/received", &k.BytesReceived)
	count("bytes/sent", &b.loop.Arena.Bytes)
	number("subscriptions/count", b.subscriptions)
	number("shared_subscriptions/count", func() int { return b.sharers })
	number("retained messages/count", b.retained.Len)
	number("delayed messages/count", func() int { return b.delayed.count })
	number("delayed messages/bytes", func() int { return int(b.delayed.bytes) })

	for i := range dropReasons {
		count("dropped/"+DropReason(i).String(), k.dropped(DropReason(i)))
	}
	s.ledgerTree(add)
	add(alarmStore, func() string { return b.store.State().String() })
	count("refused/connect_rate", &k.RefusedRate)
	for _, v := range s.others {
		add(v.Name, v.Text)
	}
	for _, a := range s.alarms {
		add("alarm/"+a.Name, func() string { return cmp.Or(a.Text(), "none") })
	}
	millis("loop/drift", &s.drift)
	millis("loop/drift/maximum", &s.drifts)

	for i, l := range s.loadsOf(k) {
		for n, minutes := range sysMinutes {
			add("load/"+l.name+"/"+strconv.Itoa(minutes)+"min", func() string {
				return strconv.FormatFloat(s.loads[i].averages[n], 'f', 2, 64)
			})
		}
	}
	return all
}

// namedLoad is a counter whose load is published.
type namedLoad struct {
	name  string
	count func() uint64
}

// loadsOf names the loads, and begins to measure them if that has not begun.
func (s *sys) loadsOf(k *Counters) []namedLoad {
	field := func(n *uint64) func() uint64 { return func() uint64 { return *n } }
	named := []namedLoad{
		{"messages/received", field(&k.PacketsReceived)},
		{"messages/sent", field(&s.b.loop.Arena.Packets)},
		{"publish/received", field(&k.Received)},
		{"publish/sent", field(&k.Sent)},
		{"publish/dropped", k.lost},
		{"bytes/received", field(&k.BytesReceived)},
		{"bytes/sent", field(&s.b.loop.Arena.Bytes)},
		{"sockets", field(&k.Sockets)},
		{"connections", field(&k.Connects)},
	}
	if s.loads == nil {
		for _, l := range named {
			s.loads = append(s.loads, sysLoad{count: l.count})
		}
	}
	return named
}

// stored is how many messages are kept: retained, or in the queue of a session. One that is in
// several queues counts in each. bytes are those of topics, properties and payloads.
func (b *Broker) stored() (messages int, bytes int64) {
	messages, bytes = b.retained.Len(), b.retained.Size()
	for _, m := range b.members {
		if m.state.Durable() {
			n, size := b.store.Queued(m.state.Number())
			messages, bytes = messages+n, bytes+size
			continue
		}
		messages, bytes = messages+m.state.Pending(), bytes+int64(m.state.QueuedBytes())
	}
	return messages, bytes
}

// lost is how many messages did not get to somebody who was to get them.
func (k *Counters) lost() (n uint64) {
	for i := range dropReasons {
		if why := DropReason(i); why != DropRetainedFull {
			n += *k.dropped(why)
		}
	}
	return n
}
