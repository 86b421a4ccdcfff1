package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"dunlin/core/packet"
)

// model is what a broker owes to its clients, written down as plainly as the specification allows.
// It has no packets, identifiers, windows or commits; where a crash leaves open what has become of
// something that nobody was told, it holds every possibility.
type model struct {
	now      int // seconds
	order    int // counts publishes
	turn     int // counts what the clients have heard: what is published meanwhile is heard the next time
	sessions map[string]*session
	ghosts   map[string]*session // ended, and a crash might still bring them back
	retained map[string]*kept
	fails    bool // messages may be refused, and come again behind later ones
}

// post is an Application Message. Its payload names it, unless it is empty.
type post struct {
	from, topic, payload string
	qos                  packet.QoS
	retain               bool
	expiry               int // seconds, 0 = none
	large                bool
	will                 bool
	order                int // among all that were published
	times                int // how often it was published: a publisher that was not answered sends it again
}

// session is a Session (MQTT5 §4.1) as its client may rely on.
type session struct {
	id      string
	subs    map[string][]*subscription // by filter: each that it may be by now; nil among them = none
	sure    bool                       // it exists; otherwise it may
	durable bool                       // it is on disk
	online  bool                       // a connection has it
	told    bool                       // and its client has seen CONNACK
	limited bool                       // large messages are too large for its client
	conn    int                        // number of the connection
	expiry  []int                      // seconds, as granted last; before it what a crash may bring back
	hazy    bool                       // after a crash: it may be each of expiry
	left    int                        // when it was left, online: when it was left the time before
	ends    [2]int                     // offline: it ends in between
	owed    []*promise
	will    *will              // of the connection, or one that waits
	spent   []*will            // those before, which may still be on disk
	doubted []*will            // after a crash: they may be published at any time
	fresh   bool               // its first CONNACK has not come
	greets  []*subscription    // which may still be on the way to their retained messages
	last    map[string]arrival // the latest that came, by publisher, topic and QoS
}

type subscription struct {
	filter            string
	qos               packet.QoS
	noLocal           bool
	retainAsPublished bool
	handling          byte
	id                uint32
}

// will is published when its connection has ended without DISCONNECT.
type will struct {
	m     *post
	delay int
	at    int // 0 = its connection is there
}

// promise is a message that a session is to get.
type promise struct {
	m        *post
	forms    []form        // each of them is right
	orders   []int         // since when
	times    int           // how often m was published for it
	all      bool          // each time for certain
	must     bool          // it has to arrive
	dues     []int         // when it expires
	begun    bool          // it may have left before that
	zero     int           // copies at QoS 0 that may come in this step
	zeroMust bool          // they have to
	zeroTurn int           // when they were published
	first    int           // the first connection on which it may have left, 0 = none yet
	crashed  bool          // since it arrived
	greets   *subscription // retained: for whom; otherwise nil
	arrived  int
	on       int  // connection it arrived on last
	tooLarge bool // for a connection that it may have left on
	unsaved  bool // nobody was told that it is on disk
	twos     int  // how often at QoS 2
	onTimes  int  // how often on that
	acked    bool
}

// arrival is the order of a message, and of the form in which it has come.
type arrival struct{ message, form int }

// form is how a message arrives.
type form struct {
	qos    packet.QoS
	retain bool
	ids    string
}

// kept is what may be retained for a topic.
type kept struct {
	now  []*value // by the broker that lives
	disk []*value // by one that comes after a crash
}

type value struct {
	m   *post // nil = none
	due int
}

func newModel() *model {
	return &model{sessions: map[string]*session{}, ghosts: map[string]*session{}, retained: map[string]*kept{}}
}

func (w *model) all() []*session {
	var all []*session
	for _, id := range slices.Sorted(maps.Keys(w.sessions)) {
		all = append(all, w.sessions[id])
	}
	return all
}

// matches is MQTT5 §4.7.
func matches(filter, topic string) bool {
	f, rest, _ := strings.Cut(filter, "/")
	if f == "#" {
		return true
	}
	t, deeper, more := strings.Cut(topic, "/")
	switch {
	case f != "+" && f != t:
		return false
	case more != strings.Contains(filter, "/"):
		return rest == "#" && !more // a/# matches a
	}
	return !more || matches(rest, deeper)
}

// receives says in which forms a session may get a message, and whether it gets it for certain.
func (s *session) receives(m *post) (forms []form, sure bool) {
	sure = s.sure
	worlds := [][]*subscription{nil}
	for _, filter := range slices.Sorted(maps.Keys(s.subs)) {
		if !matches(filter, m.topic) {
			continue
		}
		var next [][]*subscription
		for _, w := range worlds {
			for _, sub := range s.subs[filter] {
				if sub == nil || sub.noLocal && m.from == s.id { // [MQTT-3.8.3-3]
					next = append(next, w)
				} else {
					next = append(next, append(slices.Clone(w), sub))
				}
			}
		}
		worlds = next
	}
	for _, w := range worlds {
		f := form{}
		var ids []string
		for _, sub := range w { // one copy at the highest QoS, with all identifiers [MQTT-3.3.4-2, MQTT-3.3.4-3]
			f.qos = max(f.qos, min(sub.qos, m.qos))
		}
		for _, sub := range w {
			f.retain = f.retain || m.retain && sub.retainAsPublished && sub.qos == highest(w) // [MQTT-3.3.1-12, MQTT-3.3.1-13]
			if sub.id != 0 {
				ids = append(ids, fmt.Sprint(sub.id))
			}
		}
		slices.Sort(ids)
		f.ids = strings.Join(ids, " ")
		if len(w) == 0 || f.qos == 0 && !s.online && !m.will { // what is not acknowledged waits for nobody
			sure = false
			continue
		}
		forms = append(forms, f)
	}
	return forms, sure
}

func highest(subs []*subscription) (q packet.QoS) {
	for _, s := range subs {
		q = max(q, s.qos)
	}
	return q
}

// publish takes a message to everybody.
func (w *model) publish(m *post) {
	m.times++
	w.order++
	if m.times == 1 {
		m.order = w.order
	}
	w.offer(m)
	if m.retain {
		k := w.kept(m.topic)
		v := w.value(m)
		if m.qos < 2 || m.times == 1 { // otherwise it may be known
			k.now = nil
		}
		k.now, k.disk = append(k.now, v), append(k.disk, v)
		w.refresh(m)
	}
}

func (w *model) offer(m *post) {
	for _, s := range w.all() {
		if forms, sure := s.receives(m); len(forms) > 0 {
			p := s.promise(m)
			p.add(w.order, forms...)
			p.times++
			p.all = p.all && sure
			p.due(w.now)
			p.zero, p.zeroTurn = p.zero+1, w.turn
			if m.large && s.limited {
				p.all, p.tooLarge = false, true // [MQTT-3.1.2-24, MQTT-3.1.2-25]
			}
			p.zeroMust = p.all && s.told && m.times == 1 // what comes again may be known
			p.leaves(s)
		}
	}
}

// leaves notes that a message may leave on the connection that there is.
func (p *promise) leaves(s *session) {
	if s.online {
		p.begun = true
		if p.first == 0 {
			p.first = s.conn
		}
	}
}

func (p *promise) due(now int) {
	if p.m.expiry > 0 {
		p.dues = append(p.dues, now+p.m.expiry)
	}
}

func (p *promise) add(order int, forms ...form) {
	for _, f := range forms {
		if !slices.Contains(p.forms, f) {
			p.forms, p.orders = append(p.forms, f), append(p.orders, order)
		}
	}
}

// promise returns the promise of a message.
func (s *session) promise(m *post) *promise {
	for _, p := range s.owed {
		if p.m == m && p.greets == nil {
			return p
		}
	}
	p := &promise{m: m, all: m.times == 1}
	s.owed = append(s.owed, p)
	return p
}

// maybe publishes a message that the broker may publish at any time.
func (w *model) maybe(m *post) {
	if m.times == 0 {
		w.order++
	}
	m.times = 2 // after a crash once more
	for _, s := range w.all() {
		if forms, _ := s.receives(m); len(forms) > 0 {
			p := s.promise(m)
			p.add(w.order, forms...)
			p.times, p.all, p.begun = 2, false, true
			p.zero, p.zeroTurn = 2, w.turn
			p.leaves(s)
		}
	}
	if m.retain {
		k := w.kept(m.topic)
		if !slices.ContainsFunc(k.now, func(v *value) bool { return v.m == m }) {
			k.now = append(k.now, w.value(m))
			k.disk = append(k.disk, w.value(m))
		}
		w.refresh(m)
	}
}

// acknowledged: the publisher was told, so the message has to arrive.
func (w *model) acknowledged(m *post) {
	for _, s := range w.sessions {
		for _, p := range s.owed {
			if p.m == m && p.greets == nil && p.all && p.times == m.times && !slices.ContainsFunc(p.forms, func(f form) bool { return f.qos == 0 }) {
				p.must = true
			}
		}
	}
	if k := w.retained[m.topic]; k != nil && m.retain && !m.will && m.times == 1 {
		k.disk = k.disk[max(0, slices.IndexFunc(k.disk, func(v *value) bool { return v.m == m })):]
	}
}

func (w *model) kept(topic string) *kept {
	k := w.retained[topic]
	if k == nil {
		k = &kept{now: []*value{{}}, disk: []*value{{}}}
		w.retained[topic] = k
	}
	return k
}

func (w *model) value(m *post) *value {
	v := &value{m: m}
	if m.expiry > 0 {
		v.due = w.now + m.expiry
	}
	return v
}

// subscribes: a SUBSCRIBE is on its way. Should its SUBACK be lost, retained messages may follow
// all the same.
func (w *model) subscribes(s *session, sub *subscription) {
	s.subs[sub.filter] = append(slices.Clone(s.filter(sub.filter)), sub)
	if sub.handling < 2 {
		s.greets = append(s.greets, sub)
		w.greetAll(s, sub, false)
	}
}

// subscribed: a SUBACK has come, and retained messages follow (MQTT5 §3.3.1.3). before is what the
// subscription may have been.
func (w *model) subscribed(s *session, sub *subscription, before []*subscription) {
	s.subs[sub.filter] = []*subscription{sub}
	s.greets = slices.DeleteFunc(s.greets, func(g *subscription) bool { return g.filter == sub.filter })
	s.owed = slices.DeleteFunc(s.owed, func(p *promise) bool { return p.greets == sub })
	s.noMust(func(p *promise) bool { return p.greets != nil && p.greets.filter == sub.filter })
	none, some := slices.Contains(before, nil), slices.ContainsFunc(before, func(b *subscription) bool { return b != nil })
	if sub.handling == 2 || sub.handling == 1 && !none { // [MQTT-3.3.1-10, MQTT-3.3.1-11]
		return
	}
	s.greets = append(s.greets, sub)
	w.greetAll(s, sub, sub.handling == 0 || !some)
}

func (w *model) greetAll(s *session, sub *subscription, must bool) {
	for _, topic := range slices.Sorted(maps.Keys(w.retained)) {
		if k := w.retained[topic]; matches(sub.filter, topic) {
			for _, v := range k.now {
				w.greet(s, sub, v, must && len(k.now) == 1)
			}
		}
	}
}

// filter is what a subscription may be.
func (s *session) filter(f string) []*subscription {
	if s.subs[f] == nil {
		return []*subscription{nil}
	}
	return s.subs[f]
}

func (w *model) greet(s *session, sub *subscription, v *value, must bool) {
	if v.m == nil || v.m.payload == "" || v.due > 0 && v.due <= w.now || sub.noLocal && v.m.from == s.id {
		return
	}
	p := &promise{m: v.m, greets: sub, first: s.conn, times: 1, begun: true, zero: 1}
	f := form{qos: min(sub.qos, v.m.qos), retain: true} // [MQTT-3.3.1-8]
	if sub.id != 0 {
		f.ids = fmt.Sprint(sub.id)
	}
	p.add(w.order, f)
	if v.due > 0 {
		p.dues = []int{v.due}
	}
	p.must = must && !(v.m.large && s.limited) && !w.fails // nobody was promised a retained message that does not get to disk
	s.owed = append(s.owed, p)
}

// refresh: who is on the way to its retained messages gets the newest.
func (w *model) refresh(m *post) {
	for _, s := range w.sessions {
		s.noMust(func(p *promise) bool { return p.greets != nil && p.m.topic == m.topic && p.m != m })
		for _, g := range s.greets {
			if matches(g.filter, m.topic) {
				w.greet(s, g, w.value(m), false)
			}
		}
	}
}

func (s *session) noMust(match func(*promise) bool) {
	for _, p := range s.owed {
		if match(p) {
			p.must, p.all = false, false
		}
	}
}

// connects takes a CONNECT. It returns what its CONNACK must say: Session Present or not, or known
// = false if either is right.
func (w *model) connects(id string, clean bool, expiry int, limited bool, wi *will, conn int) (present, known bool) {
	s := w.sessions[id]
	if s != nil && s.online { // [MQTT-3.1.4-3]
		w.leaves(s, false)
		s = w.sessions[id]
	}
	if s != nil && (clean || slices.Max(s.expiry) == 0 || !s.hazy && s.lasts() == 0) { // [MQTT-3.1.2-4]
		w.ends(s)
		s = nil
	}
	if s == nil {
		s = &session{id: id, fresh: true, durable: expiry > 0, subs: map[string][]*subscription{}, last: map[string]arrival{}, left: w.now}
		w.sessions[id] = s
		present, known = false, true
	} else {
		if s.hazy && slices.Min(s.expiry) == 0 {
			s.doubt()
		}
		present, known = true, s.sure
	}
	s.online, s.told, s.conn, s.limited = true, false, conn, limited
	s.expiry, s.hazy = append(s.expiry, expiry), false
	s.spends()
	s.will = wi // one that waited is dropped [MQTT-3.1.3-9]
	for _, p := range s.owed {
		p.leaves(s)
		if !p.m.will && p.greets == nil {
			p.zero = 0
		}
		p.tooLarge = p.tooLarge || p.m.large && limited
		if p.greets != nil || p.tooLarge {
			p.must, p.all = false, false
		}
	}
	return present, known
}

// accepted: the CONNACK has come.
func (w *model) accepted(s *session, present bool) {
	delete(w.ghosts, s.id)
	if !present { // what it might have had is gone
		s.owed, s.subs, s.last = nil, map[string][]*subscription{}, map[string]arrival{}
	}
	s.sure, s.told, s.fresh = true, true, false
	s.expiry = []int{s.lasts()}
	s.spent, s.doubted = append(s.spent, s.doubted...), nil
}

// lasts is how long the session outlives its connection, in seconds.
func (s *session) lasts() int { return s.expiry[len(s.expiry)-1] }

// leaves is the end of a connection; clean is a DISCONNECT with reason code 0.
func (w *model) leaves(s *session, clean bool) {
	switch {
	case clean:
		s.spends() // [MQTT-3.14.4-3]
	case !s.told: // its CONNACK may have come or not
		s.sure = s.sure && !s.fresh
		s.hazy = true
		if s.will != nil {
			s.doubted, s.will = append(s.doubted, s.will), nil
		}
	}
	s.online, s.told, s.left = false, false, w.now
	s.ends = [2]int{w.now + s.lasts(), w.now + s.lasts()}
	if s.hazy {
		s.ends = [2]int{w.now + slices.Min(s.expiry), w.now + slices.Max(s.expiry)}
		s.sure = s.sure && s.ends[0] > w.now
	}
	for _, p := range s.owed {
		if p.greets == nil {
			p.zero = 0
		}
		if p.greets != nil {
			p.must = false
		}
	}
	switch {
	case s.ends[1] == w.now:
		w.ends(s)
	case s.will != nil && s.will.delay == 0:
		w.releases(s)
	case s.will != nil:
		s.will.at = w.now + s.will.delay
	}
}

// ends ends a session; its will is published at the latest then [MQTT-3.1.2-8].
func (w *model) ends(s *session) {
	if w.sessions[s.id] != s {
		return
	}
	delete(w.sessions, s.id)
	switch g := w.ghosts[s.id]; {
	case !s.durable && s.will == nil && s.spent == nil:
	case g == nil:
		w.ghosts[s.id] = s
	case s.durable && !g.durable:
		s.joins(g)
		w.ghosts[s.id] = s
	default:
		g.joins(s)
	}
	w.releases(s)
}

// joins: a crash may bring back either of them.
func (s *session) joins(other *session) {
	s.expiry = append(s.expiry, other.expiry...)
	s.doubted = append(append(s.doubted, other.doubted...), other.spent...)
	if other.will != nil {
		s.doubted = append(s.doubted, other.will)
	}
}

func (w *model) releases(s *session) {
	if wi := s.will; wi != nil {
		s.spends()
		w.publish(wi.m)
		w.acknowledged(wi.m)
		for _, s := range w.sessions {
			for _, p := range s.owed {
				p.unsaved = p.unsaved || p.m == wi.m
			}
		}
	}
	for _, wi := range s.doubted {
		w.maybe(wi.m)
	}
}

// spends: the will is none any more.
func (s *session) spends() {
	if s.will != nil {
		s.spent, s.will = append(s.spent, s.will), nil
	}
}

// tick lets a second pass, in which everything is committed.
func (w *model) tick() {
	w.now++
	clear(w.ghosts)
	for _, s := range w.all() {
		s.spent = nil
		if !s.hazy {
			s.expiry = []int{s.lasts()}
		}
		if s.online {
			s.left = w.now
		}
		if wi := s.will; wi != nil && wi.at != 0 && wi.at <= w.now {
			w.releases(s)
			s.noMust(func(p *promise) bool { return p.m == wi.m }) // it may have ended in the same second
		}
		if !s.online && w.now >= s.ends[0] {
			s.sure = false
		}
		if !s.online && w.now >= s.ends[1] {
			w.ends(s)
		}
	}
	for _, k := range w.retained {
		if !w.fails {
			k.disk = slices.Clone(k.now)
		}
	}
	for _, s := range w.all() {
		for _, p := range s.owed {
			p.unsaved = false
		}
		s.noMust(func(p *promise) bool {
			return slices.ContainsFunc(p.dues, func(due int) bool { return due <= w.now }) // [MQTT-3.3.2-5]
		})
	}
}

// grace is how long wills and their sessions are kept at least after a restart, in seconds.
const grace = 60

// crash is the end of the process, and the start of another one.
func (w *model) crash() {
	for id, g := range w.ghosts {
		if s := w.sessions[id]; s == nil || !s.sure {
			if s != nil {
				g.joins(s)
			}
			w.sessions[id] = g
			g.doubt()
			g.online, g.told = false, false
		}
	}
	clear(w.ghosts)
	for id, s := range w.sessions {
		s.spends()
		s.doubted, s.spent = append(s.doubted, s.spent...), nil
		if slices.Max(s.expiry) == 0 && s.doubted == nil {
			delete(w.sessions, id)
			continue
		}
		if !s.durable { // only its will is left
			s.owed, s.subs, s.last = nil, map[string][]*subscription{}, map[string]arrival{}
		}
		if s.fresh {
			s.doubt()
		}
		from := s.left + slices.Min(s.expiry)
		if !s.online {
			from = min(from, s.ends[0])
		}
		s.ends = [2]int{from, w.now + max(slices.Max(s.expiry), grace)}
		s.hazy = len(s.expiry) > 1
		if s.ends[0] <= w.now {
			s.sure = false
		}
		s.online, s.told, s.fresh, s.greets = false, false, false, nil
		for _, p := range s.owed {
			p.zero, p.acked, p.crashed = 0, false, true
			if p.greets != nil || p.unsaved {
				p.must = false
			}
		}
	}
	for _, k := range w.retained {
		k.now = slices.Clone(k.disk)
	}
}

// doubt takes back everything that is certain about a session.
func (s *session) doubt() {
	s.sure = false
	s.noMust(func(*promise) bool { return true })
	for f := range s.subs {
		s.subs[f] = append(s.subs[f], nil)
	}
}

// begin begins a step: what is sent without acknowledgement comes in it or never.
func (w *model) begin() {
	for _, s := range w.all() {
		for _, p := range s.owed {
			if p.greets == nil && p.zeroTurn < w.turn {
				p.zero, p.zeroMust = 0, false
			}
		}
	}
	w.wills()
}

// wills may be published at any time after a crash.
func (w *model) wills() {
	for _, s := range w.all() {
		if !s.told {
			for _, wi := range s.doubted {
				w.maybe(wi.m)
			}
		}
	}
}

// arrives takes a PUBLISH that is no repetition of QoS 2. It returns the promise that it keeps.
func (w *model) arrives(s *session, p *packet.Publish, topic string, v packet.Version, ids string) (*promise, error) {
	var why []string
	var same []*promise // more than one if it was retained, too: nothing tells which of them it is
	for _, o := range s.owed {
		if o.m.payload == string(p.Payload) && o.m.topic == topic {
			same = append(same, o)
		}
	}
	for pass := range 3 { // first what has to arrive, then what may, then what comes again
		for _, o := range same {
			if o.pass() != pass {
				continue
			}
			if err := w.fits(s, o, p, v, ids, len(same) == 1); err != nil {
				why = append(why, err.Error())
				continue
			}
			if err := w.take(s, o, p.QoS, len(same) == 1); err != nil {
				return nil, err
			}
			return o, nil
		}
	}
	if why == nil {
		return nil, fmt.Errorf("it is not for this session")
	}
	return nil, fmt.Errorf("%s", strings.Join(why, "; "))
}

func (p *promise) pass() int {
	switch {
	case p.arrived > 0:
		return 2
	case p.must:
		return 0
	}
	return 1
}

func (w *model) fits(s *session, o *promise, p *packet.Publish, v packet.Version, ids string, alone bool) error {
	if !slices.ContainsFunc(o.forms, func(f form) bool {
		return f.qos == p.QoS && (f.retain == p.Retain || w.fails) && (v < packet.V5 || f.ids == ids)
	}) {
		return fmt.Errorf("want one of %+v", o.forms)
	}
	if o.on != s.conn {
		o.on, o.onTimes = s.conn, 0
	}
	switch {
	case p.QoS == 0 && o.zero == 0:
		return fmt.Errorf("no copy at QoS 0 is under way")
	case p.QoS > 0 && alone && o.onTimes >= o.times && (p.QoS == 2 || !w.fails): // a commit that failed is repeated
		return fmt.Errorf("it has come %d times on this connection", o.onTimes)
	case p.QoS == 1 && alone && o.acked && o.onTimes == 0 && o.times == 1:
		return fmt.Errorf("it was acknowledged on an earlier connection")
	case p.QoS == 2 && o.twos > 0 && !(o.m.will && o.times > o.twos):
		return fmt.Errorf("it has come at QoS 2 before")
	case p.Dup && o.first == s.conn && !(o.crashed && p.QoS == 1) && !w.fails: // nobody knows whether that had left; or it is repeated
		return fmt.Errorf("DUP, and it has never left before")
	case !p.Dup && p.QoS == 1 && alone && o.arrived > 0 && o.onTimes == 0 && o.times == 1 && !o.crashed: // [MQTT-3.3.1-1]
		return fmt.Errorf("it comes again without DUP")
	}
	if v < packet.V5 || o.m.will {
		if late := !o.begun && !slices.ContainsFunc(o.dues, func(due int) bool { return due > w.now }); late && len(o.dues) > 0 {
			return fmt.Errorf("it has expired")
		}
		return nil
	}
	switch {
	case p.HasExpiry != (o.m.expiry > 0):
		return fmt.Errorf("want an expiry: %v", o.m.expiry > 0)
	case p.HasExpiry && !slices.ContainsFunc(o.dues, func(due int) bool { return int(p.Expiry) == max(0, due-w.now) }): // [MQTT-3.3.2-6]
		return fmt.Errorf("it expires in %d seconds, not %d", o.dues[len(o.dues)-1]-w.now, p.Expiry)
	case p.HasExpiry && p.Expiry == 0 && !o.begun:
		return fmt.Errorf("it has expired")
	}
	return nil
}

func (w *model) take(s *session, o *promise, qos packet.QoS, alone bool) error {
	switch qos {
	case 0:
		o.zero--
	case 2:
		o.twos++
	}
	o.arrived++
	o.onTimes++
	expired := slices.ContainsFunc(o.dues, func(due int) bool { return due <= w.now }) // a copy, and another has come since
	if !alone || o.arrived > 1 || o.tooLarge || expired || o.greets != nil || o.m.will || w.fails {
		return nil
	}
	key := fmt.Sprint(o.m.from, " ", o.m.topic, " ", o.m.qos, " ", qos)
	now, last := arrival{o.m.order, o.orders[slices.IndexFunc(o.forms, func(f form) bool { return f.qos == qos })]}, s.last[key]
	if now.message < last.message && now.form < last.form { // [MQTT-4.6.0-6]
		return fmt.Errorf("it comes behind a later message of its publisher and topic")
	}
	if now.message > last.message {
		s.last[key] = now
	}
	return nil
}

// missing is what a session must have got by now, if all is quiet.
func (s *session) missing() error {
	for _, p := range s.owed {
		if p.must && p.arrived == 0 {
			return fmt.Errorf("%s never got %q on %s", s.id, p.m.payload, p.m.topic)
		}
	}
	return nil
}

// lost is what a session must have got at QoS 0 in this step.
func (w *model) lost(s *session) error {
	for _, p := range s.owed {
		if s.told && p.zeroMust && p.zeroTurn < w.turn && p.zero > 0 && !slices.ContainsFunc(p.forms, func(f form) bool { return f.qos > 0 }) {
			return fmt.Errorf("%s did not get %q on %s at QoS 0", s.id, p.m.payload, p.m.topic)
		}
	}
	return nil
}
