package broker

import (
	"slices"
	"strings"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
	"dunlin/core/route"
	"dunlin/core/session"
	"dunlin/core/topic"
)

// group is a Shared Subscription (MQTT5 §4.8.2): the sessions that ask for one Topic Filter under one
// share name. In the index it is one receiver, however many they are; each message is for one of them.
type group struct {
	filter   string // of SUBSCRIBE, share name included
	receiver route.Receiver
	shares   []share // at least one
	next     int     // where the search for the next one to get a message begins
}

// share is one member's part in a group: its own subscription.
type share struct {
	m                 *member
	qos               packet.QoS
	retainAsPublished bool
	ids               []uint32 // its Subscription Identifier, if it has one
}

// queueName is the share name of the group that "$queue/FILTER" asks for.
const queueName = "$queue"

// plainFilter is the filter as it stands in a session: "$queue/FILTER" becomes "$share/$queue/FILTER".
func plainFilter(filter string) string {
	if strings.HasPrefix(filter, queueName+"/") {
		return "$share/" + filter
	}
	return filter
}

// topicsOf is the part of a subscription's filter that is matched: of a Shared Subscription what is
// behind the share name.
func topicsOf(filter string) string {
	if _, topics, shared, _ := topic.Shared(filter); shared {
		return topics
	}
	return filter
}

// isShared says whether a filter asks for a Shared Subscription, well-formed or not.
func isShared(filter string) bool {
	_, _, shared, _ := topic.Shared(filter)
	return shared
}

// enroll enters a subscription of m into the index, or replaces the one of the same filter.
func (b *Broker) enroll(m *member, s *durable.Subscription) {
	if !isShared(s.Filter) {
		b.index.Subscribe(s.Filter, m.receiver, route.Options{
			QoS: byte(s.QoS), NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, ID: s.ID,
		})
		return
	}
	g := b.groups[s.Filter]
	if g == nil {
		g = &group{filter: s.Filter}
		g.receiver = b.addReceiver(receiver{group: g})
		b.groups[s.Filter] = g
		b.index.Subscribe(topicsOf(s.Filter), g.receiver, route.Options{})
	}
	own := share{m: m, qos: s.QoS, retainAsPublished: s.RetainAsPublished}
	if s.ID != 0 {
		own.ids = []uint32{s.ID}
	}
	if i := g.of(m); i >= 0 {
		g.shares[i] = own
		return
	}
	g.shares = append(g.shares, own)
	b.sharers++
}

// withdraw takes a subscription of m out of the index. A group ends with its last member.
func (b *Broker) withdraw(m *member, filter string) {
	if !isShared(filter) {
		b.index.Unsubscribe(filter, m.receiver)
		return
	}
	g := b.groups[filter]
	g.shares = slices.DeleteFunc(g.shares, func(s share) bool { return s.m == m })
	b.sharers--
	if len(g.shares) == 0 {
		b.index.Unsubscribe(topicsOf(filter), g.receiver)
		b.freeReceiver(g.receiver)
		delete(b.groups, filter)
	}
}

// of returns the place of m among the shares, -1 if it has none.
func (g *group) of(m *member) int {
	return slices.IndexFunc(g.shares, func(s share) bool { return s.m == m })
}

// subscriptions is how many there are, those of groups counted by their members.
func (b *Broker) subscriptions() int { return b.index.Len() - len(b.groups) + b.sharers }

// online says whether a member of the group has a connection.
func (g *group) online() bool {
	return slices.ContainsFunc(g.shares, func(s share) bool { return s.m.online() })
}

// maxAsked is how many members that would do are compared before the one is chosen for whom the least
// waits: a group of thousands must not hold the loop up for each message.
const maxAsked = 64

// choose returns who of the group gets a message: in turn one who is connected and has nothing that
// waits; or else the one who is connected for whom the least waits; or else the session for which the
// least waits, of those that outlive their connections. One whose queue is full comes after all
// others. nil = there is nobody. may, if it is not nil, says who comes into question.
func (g *group) choose(b *Broker, pub *publication, may func(*share) bool) *share {
	best, rank, least := -1, rankNone, 0
	for _, online := range [...]bool{true, false} {
		asked := 0
		for k := range g.shares {
			if asked >= maxAsked && !online {
				break
			}
			i := (g.next + k) % len(g.shares)
			s := &g.shares[i]
			if s.m.online() != online || asked >= maxAsked && !s.m.state.Open() || may != nil && !may(s) {
				continue
			}
			r := b.rank(s.m, min(pub.QoS, s.qos), pub.size())
			if r == rankOpen {
				g.next = i + 1
				return s
			}
			if r < rankFull {
				asked++
			}
			if r < rank || r == rank && r != rankNone && s.m.state.Pending() < least {
				best, rank, least = i, r, s.m.state.Pending()
			}
		}
		if rank < rankAway {
			break
		}
	}
	if best < 0 {
		return nil
	}
	g.next = best + 1
	return &g.shares[best]
}

// rank is how well a member of a group is placed to get a message, the best first.
type rank int

const (
	rankOpen    rank = iota // connected, and it would be sent the message at once
	rankWaiting             // connected, the message would wait
	rankTwice               // connected, and gets the message already, by a subscription of its own
	rankAway                // not connected, the message would wait
	rankFull                // its queue is full
	rankNone                // it would not get the message at all
)

func (b *Broker) rank(m *member, qos packet.QoS, size int) rank {
	online := m.online()
	ready := online && m.client.conn.Unsent() <= b.limits.MaxOutput
	switch {
	case !online && (qos == 0 || !m.state.Durable()):
		return rankNone
	case qos == 0 && ready:
		return rankOpen
	case qos == 0:
		return rankWaiting
	case b.noRoom(m, size):
		return rankFull
	case !online:
		return rankAway
	case b.isTarget(m):
		return rankTwice
	case ready && m.state.Open():
		return rankOpen
	}
	return rankWaiting
}

// noRoom says whether the queue of a session would have to drop something for a message of so many bytes.
func (b *Broker) noRoom(m *member, size int) bool {
	if !m.state.Durable() {
		return m.state.Full()
	}
	messages, bytes := b.excess(m.state.Number(), size)
	return messages > 0 || bytes > 0
}

// isTarget says whether the record of the publish under way names a session.
func (b *Broker) isTarget(m *member) bool { return m.publish == b.publishes }

// give is what a share gets of a message.
func (g *group) give(pub *publication, s *share) target {
	return target{m: s.m, qos: min(pub.QoS, s.qos), retain: s.retainAsPublished && pub.Retain, subIDs: s.ids, share: g.filter}
}

// offerGroups takes the message to one member of each group that matches.
func (b *Broker) offerGroups(pub *publication) (matched bool) {
	for _, g := range b.chosen {
		s := g.choose(b, pub, nil)
		if s == nil {
			continue
		}
		matched = true
		t := g.give(pub, s)
		if t.qos > 0 && b.isTarget(t.m) {
			b.copies = append(b.copies, t)
			continue
		}
		b.offer(pub, t)
	}
	return matched
}

// offerCopies takes the message once more to the sessions that get it by a subscription of their own
// and by a shared one: a record names each session once, so they are records of their own. The last
// one notes the identifier of a QoS 2 message, which makes all of them one transaction.
func (b *Broker) offerCopies(pub *publication, op *publishing) {
	pub.copied = true
	for len(b.copies) > 0 {
		t := b.copies[0]
		b.copies = b.copies[1:]
		more := b.publishing()
		op.waits++
		more.kept = op.kept
		more.done = func(err error) {
			op.hold.unstored = op.hold.unstored || err != nil
			op.settle(err)
		}
		b.offerOne(pub, t, more)
	}
}

// orphan is a message that somebody has left to the other members of a group.
type orphan struct {
	clientID string // whose it was
	session.Queued
}

// orphan takes what a session that ends with its connection leaves to others. The others get it at
// the end of the turn: this may be in the middle of a publish.
func (b *Broker) orphan(m *member) (messages int) {
	left := m.state.Orphans()
	for _, q := range left {
		b.orphans = append(b.orphans, orphan{m.clientID, q})
	}
	return len(left)
}

// again is the publish of a message that somebody has had already.
func (b *Broker) again(msg *message.Message) publication {
	pub := publication{Publish: packetOf(msg), topic: msg.Topic, publisher: msg.Publisher, source: msg.Source, msg: msg}
	if pub.HasExpiry {
		pub.Expiry = b.remaining(msg)
	}
	b.publishes++
	return pub
}

// adopt takes the orphans to other members of their groups, and says whether there were any
// (MQTT5 §4.8.2).
func (b *Broker) adopt() bool {
	all := b.orphans
	b.orphans = nil
	for i := range all {
		o := &all[i]
		msg := o.Message
		if b.expired(msg) {
			b.drop(DropExpired, o.clientID, msg.Topic)
			continue
		}
		pub := b.again(msg)
		var s *share
		g := b.groups[o.Share]
		if g != nil {
			s = g.choose(b, &pub, nil)
		}
		if s == nil {
			b.drop(DropSessionEnded, o.clientID, msg.Topic)
			continue
		}
		b.offerOne(&pub, g.give(&pub, s), b.publishing())
	}
	return len(all) > 0
}
