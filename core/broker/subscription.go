package broker

import (
	"slices"

	"dunlin/core/durable"
	"dunlin/core/packet"
	"dunlin/core/route"
)

// subscription is a durable.Subscription as a session keeps it. There may be hundreds of thousands, so
// it has a number in place of the text, which is in the index already: 12 bytes without any pointer.
type subscription struct {
	filter         uint32 // a route.Filter; of a Shared Subscription the route.Receiver of its group
	id             uint32
	qos            packet.QoS
	retainHandling byte
	flags          subscriptionFlags
}

type subscriptionFlags uint8

const (
	flagNoLocal subscriptionFlags = 1 << iota
	flagRetainAsPublished
	flagShared
)

// compact returns s as a session keeps it; s is in the index.
func (b *Broker) compact(s *durable.Subscription) subscription {
	c := subscription{id: s.ID, qos: s.QoS, retainHandling: s.RetainHandling}
	c.filter, c.flags = b.filterNumber(s.Filter)
	if s.NoLocal {
		c.flags |= flagNoLocal
	}
	if s.RetainAsPublished {
		c.flags |= flagRetainAsPublished
	}
	return c
}

// filterNumber returns what a subscription to filter has in place of it: if nobody has one, 0.
func (b *Broker) filterNumber(filter string) (uint32, subscriptionFlags) {
	if !isShared(filter) {
		return uint32(b.index.Filter(filter)), 0
	}
	if g := b.groups[filter]; g != nil {
		return uint32(g.receiver), flagShared
	}
	return 0, 0
}

// subscription returns where m has its subscription to filter, -1 if it has none.
func (b *Broker) subscription(m *member, filter string) int {
	number, shared := b.filterNumber(filter)
	if number == 0 && shared == 0 {
		return -1
	}
	return slices.IndexFunc(m.subs, func(s subscription) bool {
		return s.filter == number && s.flags&flagShared == shared
	})
}

// subscriptionsOf returns all subscriptions of m in full. Their texts share one allocation.
func (b *Broker) subscriptionsOf(m *member) []durable.Subscription {
	if len(m.subs) == 0 {
		return nil
	}
	all := make([]durable.Subscription, len(m.subs))
	var text []byte
	ends := make([]int, len(m.subs)) // of the filters in text
	for i, s := range m.subs {
		text = b.appendFilter(text, s)
		ends[i] = len(text)
	}
	from, filters := 0, string(text)
	for i, s := range m.subs {
		all[i] = s.with(filters[from:ends[i]])
		from = ends[i]
	}
	return all
}

// appendFilter appends the filter of a subscription to dst.
func (b *Broker) appendFilter(dst []byte, s subscription) []byte {
	if s.flags&flagShared != 0 {
		return append(dst, b.receivers[s.filter].group.filter...)
	}
	return b.index.AppendText(dst, route.Filter(s.filter))
}

// with returns s in full; filter is its text.
func (s subscription) with(filter string) durable.Subscription {
	return durable.Subscription{
		Filter:            filter,
		QoS:               s.qos,
		NoLocal:           s.flags&flagNoLocal != 0,
		RetainAsPublished: s.flags&flagRetainAsPublished != 0,
		RetainHandling:    s.retainHandling,
		ID:                s.id,
	}
}
