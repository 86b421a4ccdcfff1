package broker

import (
	"time"

	"dunlin/core/durable"
	"dunlin/core/loop"
	"dunlin/core/packet"
)

// movement takes what a session has in the store of shared subscriptions to other members of the
// groups (MQTT5 §4.8.2). There are two kinds:
//
//   - Its connection has ended: what is queued, or in flight at QoS 1, goes to members that are
//     connected and outlive their connections. What nobody takes stays.
//   - The session has ended: it goes to anybody, first to those who keep it on disk. What nobody takes
//     is dropped with the session. Until then the store has the session without a client
//     identifier, so that the next process goes on with it.
//
// A message leaves one queue for the other in one transaction. QoS 2 that has an identifier is not
// moved [MQTT-4.8.2-4, MQTT-4.8.2-5].
//
// One movement is under way at a time, and of it one read: the others wait. It ends early when its
// client is back. Behind one that has written a lot, what its session has stays for moveRest: members
// that come and go would else write a long queue again and again.
type movement struct {
	loop.Place // of the next try, or of the end of its rest
	b          *Broker
	m          *member // nil: of an earlier process
	clientID   string
	number     durable.SessionNumber
	epoch      uint32 // of m
	ended      bool   // the session has ended

	after  durable.Seq // everything up to it was looked at
	more   bool        // the store has entries behind it
	under  int         // messages under way
	failed bool        // one of them could not be moved
	bytes  int         // of what was moved
	rests  bool
}

const (
	// moveEntries is how many messages of one session are on their way to others.
	moveEntries = 256
	// moveAgain is how long after a failure an ended session is tried again.
	moveAgain = 5 * time.Second
	// moveRest is how long a session keeps what it has after restBytes of it were moved.
	moveRest  = 5 * time.Minute
	restBytes = 256 << 10
)

// moveFrom begins to move what a session has whose connection has ended.
func (b *Broker) moveFrom(m *member) {
	switch {
	case !m.shares:
	case m.state.Pending() == 0:
		m.shares = false
	case m.movement != nil && m.movement.rests:
		m.movement.epoch = m.epoch
	case !b.hasHeirs(m, func(s *share) bool { return s.m.online() && s.m.state.Durable() }):
	case m.movement != nil && m.movement != b.movements[0]: // it has not begun
		m.movement.epoch = m.epoch
	default:
		m.movement = &movement{b: b, m: m, clientID: m.clientID, number: m.state.Number(), epoch: m.epoch}
		b.move(m.movement)
	}
}

// moveAll begins to move what a session has that has ended.
func (b *Broker) moveAll(m *member) {
	m.emptied = true
	b.move(&movement{b: b, m: m, clientID: m.clientID, number: m.state.Number(), ended: true})
}

// hasHeirs says whether there is another member, such that is answers true, in a group of m.
func (b *Broker) hasHeirs(m *member, is func(*share) bool) bool {
	for _, sub := range m.subs {
		if sub.flags&flagShared == 0 {
			continue
		}
		g := b.receivers[sub.filter].group
		for k := range g.shares {
			if s := &g.shares[k]; s.m != m && is(s) {
				return true
			}
		}
	}
	return false
}

// leavesToOthers says whether a session that ends has something that others may get.
func (b *Broker) leavesToOthers(m *member) bool {
	// What is on its way may come back. m.movement may be a later one already.
	moving := len(b.movements) > 0 && b.movements[0].m == m && b.movements[0].under > 0
	if !m.shares && !moving || !m.state.Durable() || !b.hasHeirs(m, func(*share) bool { return true }) {
		return false
	}
	n, _ := b.store.Queued(m.state.Number())
	return n > 0 || moving
}

func (b *Broker) move(v *movement) {
	b.movements = append(b.movements, v)
	if len(b.movements) == 1 {
		b.moveNext()
	}
}

// moveNext begins the first movement that still has a reason.
func (b *Broker) moveNext() {
	for len(b.movements) > 0 {
		v := b.movements[0]
		if v.holds() {
			v.after, v.failed = 0, false
			v.read()
			return
		}
		v.leave()
	}
}

// leave takes the movement that is under way from the list.
func (v *movement) leave() {
	b := v.b
	b.movements[0] = nil
	b.movements = b.movements[1:]
	if v.m != nil && v.m.movement == v {
		v.m.movement = nil
	}
}

// holds says whether the messages are still to be moved.
func (v *movement) holds() bool { return v.ended || v.m.epoch == v.epoch }

func (v *movement) read() {
	v.b.store.Read(v.number, v.after, moveEntries, readBytes, v.b.ops.add(v))
}

func (*movement) complete(*Broker, durable.Completion) {
	panic("broker: internal error: the store answered a read with a completion")
}

// arrived takes what was read.
func (v *movement) arrived(_ *Broker, batch *durable.Batch) {
	v.after, v.more = batch.Last, batch.More
	if batch.Err != nil {
		v.failed = true
	} else if v.holds() {
		for i := range batch.Entries {
			v.give(&batch.Entries[i])
		}
	}
	v.step()
}

// step goes on when nothing is under way.
func (v *movement) step() {
	b := v.b
	switch {
	case v.under > 0:
		return
	case v.failed && v.ended:
		v.leave()
		b.loop.At(b.loop.Now()+moveAgain, v)
	case v.more && !v.failed && v.holds():
		v.read()
		return
	case v.ended:
		v.leave()
		if n, _ := b.store.Queued(v.number); n > 0 {
			b.dropAll(DropSessionEnded, v.clientID, "", n)
		}
		if v.m != nil {
			v.m.emptied = false
		}
		b.store.EndSession(v.number, 0)
	default:
		rests := v.m.movement == v && v.bytes > restBytes && !v.m.ended
		v.leave()
		if rests {
			v.rests, v.m.movement = true, v
			b.loop.At(b.loop.Now()+moveRest, v)
		}
	}
	b.moveNext()
}

// Fire tries again, or ends the rest.
func (v *movement) Fire(time.Duration) time.Duration {
	switch {
	case !v.rests:
		v.b.move(v)
	default:
		v.m.movement = nil
		if v.holds() && v.m.client == nil {
			v.b.moveFrom(v.m)
		}
	}
	return 0
}

// give moves one message, if it may be moved and there is somebody to take it.
func (v *movement) give(e *durable.Entry) {
	b, msg := v.b, e.Message
	g := b.groups[e.Share]
	if g == nil || e.PacketID != 0 || b.expired(msg) {
		return
	}
	pub := b.again(msg)
	s := v.heir(g, &pub)
	if s == nil || !v.ended && !v.m.state.Take(e.Seq) {
		return
	}
	v.bytes += overhead + pub.size()
	t := g.give(&pub, s)
	if t.qos == 0 || !t.m.state.Durable() {
		b.offerOne(&pub, t, b.publishing())
		b.store.Done(v.number, e.Seq, durable.Moved)
		return
	}
	seq := e.Seq
	pub.from, pub.fromSeq = v.number, seq
	op := b.publishing()
	op.kept = true
	op.done = func(err error) { v.moved(seq, err) }
	v.under++
	b.offerOne(&pub, t, op)
}

// heir returns who takes a message over, nil if there is nobody.
func (v *movement) heir(g *group, pub *publication) *share {
	b := v.b
	takes := func(s *share) bool {
		qos := min(pub.QoS, s.qos)
		return s.m != v.m && s.m.grant.MayReceive(pub.topic) && (qos == 0 || !b.noRoom(s.m, pub.size()))
	}
	s := g.choose(b, pub, func(s *share) bool {
		return (v.ended || s.m.online()) && s.qos > 0 && s.m.state.Durable() && takes(s)
	})
	if s == nil && v.ended {
		s = g.choose(b, pub, takes)
	}
	return s
}

// moved is the answer of the store.
func (v *movement) moved(seq durable.Seq, err error) {
	v.under--
	if m := v.m; err != nil {
		v.failed = true
		if !v.ended && m.client != nil { // it has read past the message
			v.b.disconnect(m.client, packet.UnspecifiedError, "the session could not be stored")
		}
		if !v.ended {
			m.state.Returned(seq)
			m.shares = true
		}
	}
	v.step()
}
