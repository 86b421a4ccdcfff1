package broker

import (
	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// greeting is a subscription that is to get the retained messages (MQTT5 §3.3.1.3).
type greeting struct {
	filter  string
	qos     packet.QoS
	noLocal bool
	subID   uint32

	begun    bool
	messages []*message.Message // still to be sent, since it began
	next     *greeting
}

func greetingOf(s *durable.Subscription) greeting {
	return greeting{filter: s.Filter, qos: s.QoS, noLocal: s.NoLocal, subID: s.ID}
}

// addGreeting adds a greeting. One for the same filter begins anew: there is one for each
// subscription at most.
func (m *member) addGreeting(g greeting) {
	m.dropGreeting(g.filter)
	last := &m.greetings
	for *last != nil {
		last = &(*last).next
	}
	*last = &g
}

func (m *member) dropGreeting(filter string) {
	for link := &m.greetings; *link != nil; link = &(*link).next {
		if (*link).filter == filter {
			*link = (*link).next
			return
		}
	}
}

// greet sends retained messages to a session as far as it takes them now: while its output and
// its queue are short and the disk keeps up. However many there are, none is dropped for a bound.
func (b *Broker) greet(m *member) {
	for m.greetings != nil {
		g := m.greetings
		retained := b.retained
		if isSys(g.filter) {
			retained = b.sys.current()
		}
		if !g.begun {
			g.begun = true
			retained.Match(g.filter, func(msg *message.Message) bool {
				g.messages = append(g.messages, msg)
				return true
			})
		}
		for len(g.messages) > 0 {
			if !b.greetable(m, g.qos) {
				return
			}
			// What has been published since was delivered as it came, and is newer.
			msg := retained.Get(g.messages[0].Topic)
			g.messages = g.messages[1:]
			if msg != nil && !b.expired(msg) && !(g.noLocal && msg.Publisher == m.clientID) {
				b.sendRetained(m, msg, g)
			}
		}
		m.dropGreeting(g.filter)
	}
}

// greetable says whether a session takes a retained message now. If not, what makes it so calls
// greet: its output, an acknowledgement, or the disk.
func (b *Broker) greetable(m *member, qos packet.QoS) bool {
	switch {
	case !m.online() || !b.ready(m):
		return false
	case qos == 0:
		return true
	case m.state.Pending() >= b.limits.MaxInFlight:
		return false
	case m.state.Durable() && b.queueLong(m):
		return false
	case m.state.Durable() && b.undecided >= maxUndecided:
		if !m.greeter {
			m.greeter = true
			b.greeters = append(b.greeters, m)
		}
		return false
	}
	return true
}

// sendRetained takes one retained message to one session, in the way of any other message.
func (b *Broker) sendRetained(m *member, msg *message.Message, g *greeting) {
	pub := publication{Publish: packetOf(msg), topic: msg.Topic, publisher: msg.Publisher, source: msg.Source, msg: msg}
	if pub.HasExpiry {
		pub.Expiry = b.remaining(msg)
	}
	var ids []uint32
	if g.subID != 0 {
		ids = []uint32{g.subID}
	}
	b.offerOne(&pub, target{m: m, qos: min(pub.QoS, g.qos), retain: true, subIDs: ids}, b.publishing()) // [MQTT-3.3.1-8]
}
