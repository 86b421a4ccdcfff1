package broker

import (
	"context"
	"log/slog"

	"dunlin/core/durable"
	"dunlin/core/packet"
)

// subscribeAtConnect enters the subscriptions that the configuration gives to every client, in the
// session of a CONNECT and before its record is written. A session that has one to the same filter
// keeps its own: that is the later word of its client, or the same. What the client may not subscribe
// to is left out, which the log says.
func (b *Broker) subscribeAtConnect(e *entering) {
	m := e.m
	for i := range b.autoSubscribe {
		a := &b.autoSubscribe[i]
		filter, ok := a.Topic.Fill(m.user, m.clientID)
		if !ok {
			b.leftOut(m, "", "its client identifier or user name cannot stand in the topic")
			continue
		}
		filter = string(b.rewriteFilter([]byte(filter))) // as its UNSUBSCRIBE would be
		if i := b.subscription(m, filter); i >= 0 {
			if a.RetainHandling == 0 {
				e.greetings = append(e.greetings, greetingOf(new(m.subs[i].with(filter))))
			}
			continue
		}
		sub := durable.Subscription{
			Filter:            filter,
			QoS:               min(a.QoS, b.limits.MaxQoS),
			NoLocal:           a.NoLocal,
			RetainAsPublished: a.RetainAsPublished,
			RetainHandling:    a.RetainHandling,
		}
		switch {
		case b.checkFilter([]byte(filter)) != packet.Success:
			b.leftOut(m, filter, "the topic is too long or has too many levels")
		case b.limits.NoWildcards && hasWildcard(filter):
			b.leftOut(m, filter, "wildcards are not offered")
		case !m.grant.MaySubscribe(filter):
			b.leftOut(m, filter, "the access rules do not allow it")
		default:
			if _, ok := b.enterSubscription(m, sub); !ok {
				b.leftOut(m, filter, "the client has as many subscriptions as it may")
				continue
			}
			e.added = append(e.added, sub)
			if a.RetainHandling < 2 {
				e.greetings = append(e.greetings, greetingOf(&sub))
			}
		}
	}
}

// leftOut logs a subscription that a client does not get: for those without a user name, whom some
// are not meant for, at level debug only.
func (b *Broker) leftOut(m *member, filter, why string) {
	level := slog.LevelInfo
	if m.anonymous {
		level = slog.LevelDebug
	}
	b.log.Log(context.Background(), level, "automatic subscription left out", "client_id", m.clientID, "user", m.user, "topic", filter, "reason", why)
}
