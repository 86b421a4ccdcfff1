package broker

import (
	"strings"

	"dunlin/core/packet"
)

// noted is what the broker remembers of a topic with its route: the topic that the rewrite rules
// give to messages on it, nil if they keep it.
type noted struct{ rewritten []byte }

// sameTopic is noted of every topic that no rule takes.
var sameTopic = new(noted)

// rewritePublish gives a PUBLISH, which has passed checkTopic, the topic that the rewrite rules say
// and checks that. Once the topic has its place in the cache it allocates nothing.
func (b *Broker) rewritePublish(p *packet.Publish) packet.ReasonCode {
	if len(b.rewrites) == 0 {
		return packet.Success
	}
	r := b.cache.Lookup(p.Topic)
	n, known := r.Note.(*noted)
	if !known {
		n = sameTopic
		if name, ok := b.rewrites.Publish(r.Topic); ok {
			n = &noted{[]byte(name)}
		}
		r.Note = n
	}
	if n.rewritten == nil {
		return packet.Success
	}
	p.Topic = n.rewritten
	return b.checkTopic(p.Topic)
}

// rewriteFilter returns the filter that stands in the session for one of a SUBSCRIBE or UNSUBSCRIBE.
// Of a shared subscription it is what is behind the share name that is rewritten.
func (b *Broker) rewriteFilter(filter []byte) []byte {
	if len(b.rewrites) == 0 {
		return filter
	}
	prefix := sharePrefix(filter)
	rest := filter[len(prefix):]
	if b.checkFilter(rest) != packet.Success {
		return filter // the checks that follow refuse it
	}
	rewritten, ok := b.rewrites.Subscribe(string(rest))
	if !ok {
		return filter
	}
	return append([]byte(prefix), rewritten...)
}

// sharePrefix returns what a filter has in front of the topics it asks for: $share/NAME/ or $queue/.
func sharePrefix(filter []byte) string {
	s := string(filter)
	if strings.HasPrefix(s, "$queue/") {
		return "$queue/"
	}
	if rest, ok := strings.CutPrefix(s, "$share/"); ok {
		if group, _, ok := strings.Cut(rest, "/"); ok {
			return "$share/" + group + "/"
		}
	}
	return ""
}
