package broker

import (
	"log/slog"
	"time"

	"dunlin/core/packet"
)

// bucket bounds a rate: a token bucket, written down as the time at which it will be full again. The
// zero value is full. Its clock is that of the loop.
type bucket struct{ full time.Duration }

// take takes a token, if there is one: one comes back every each, and depth/each of them, at least
// one, are there after a rest. Who takes with less depth leaves some to the others.
func (k *bucket) take(now, each, depth time.Duration) bool {
	full := max(k.full, now) + each
	if full > now+max(depth, each) {
		return false
	}
	k.full = full
	return true
}

// connectDepth is the burst of CONNECT packets that a listener takes: those of so long.
const connectDepth = time.Second

// strangerDepth is the part of it that clients may use who have no session here. After an outage
// those who are known come back first, whoever else knocks.
const strangerDepth = connectDepth * 3 / 4

// depthFor is the burst that the client may be a part of. A name is proof enough: who lies about it
// gets to the password a little sooner.
func (b *Broker) depthFor(p *packet.Connect) time.Duration {
	if !p.CleanStart && b.members[string(p.ClientID)] != nil {
		return connectDepth
	}
	return strangerDepth
}

// admits bounds the rate of CONNECT packets of a listener: before anybody asks who the client is,
// since a password costs more than anything that a CONNECT may be used to exhaust. One that is
// refused takes nothing from the others.
func (b *Broker) admits(c *client, p *packet.Connect) bool {
	ln := c.listener
	rate := c.maxConnectRate()
	if rate == 0 {
		return true
	}
	now := b.loop.Now()
	quiet := ln.connects.full <= now
	if ln.connects.take(now, time.Second/time.Duration(rate), b.depthFor(p)) {
		if quiet {
			ln.crowded.over(b, "listener", ln.Name)
		}
		return true
	}
	b.counters.RefusedConnects++
	b.counters.RefusedRate++
	ln.crowded.what = "clients connect too fast, some are refused"
	ln.crowded.report(b, slog.LevelWarn, "listener", ln.Name, "client_id", string(p.ClientID), "max_connect_rate", rate)
	b.sendConnack(c, &packet.Connack{Code: packet.ConnectionRateExceeded, Reason: c.reason("too many clients connect at a time: come back later")})
	b.end(c, abnormal)
	return false
}

// A pace bounds the rate of PUBLISH packets of one client. While we do not read it the client goes on
// sending, and is not to blame for what then comes at once: for a while it may use the time of the
// rest, too, up to maxRest of it.
type pace struct {
	bucket
	since time.Duration // when the rest began
	until time.Duration // when that is forgotten
}

// rested notes that nothing was read from since to now.
func (p *pace) rested(since, now time.Duration) {
	if now < p.until {
		since = min(since, p.since) // of what came in that rest something may still be unread
	}
	p.since, p.until = max(since, now-maxRest), now+maxRest
}

// take is that of the bucket.
func (p *pace) take(now, each, depth time.Duration) bool {
	if now < p.until {
		p.full = max(p.full, p.since)
		if p.full < now {
			// As if the message had come as soon as the bucket was full.
			p.full += each
			return true
		}
	}
	return p.bucket.take(now, each, depth)
}

// setPace gives a client that was let in its bound; what it has sent behind its CONNECT was not read
// until now.
func (b *Broker) setPace(c *client) {
	if b.paces != nil {
		p := &pace{}
		p.rested(c.seen, b.loop.Now())
		b.paces[c] = p
	}
}

// restEnds is called before a client is read again after a rest of ours, since it was last seen: what
// it sent meanwhile was not read.
func (b *Broker) restEnds(c *client) {
	now := b.loop.Now()
	if p := b.paces[c]; p != nil {
		p.rested(c.seen, now)
	}
	c.seen = now
}

// inPace says whether the client may publish one more message now. Its burst is that of a second, and
// at least its Receive Maximum: who comes back may have as many to send again, and if the last of
// them were one too many, it would come back with the same for ever.
func (b *Broker) inPace(c *client) bool {
	each := time.Second / time.Duration(b.limits.MaxMessageRate)
	depth := max(time.Second, each*time.Duration(c.receiveMaximum()))
	return b.paces[c].take(b.loop.Now(), each, depth)
}

// outpaced ends the connection of a client that publishes too fast. The message is dropped and not
// acknowledged.
func (b *Broker) outpaced(c *client, p *packet.Publish) {
	b.drop(DropRate, c.member.clientID, string(p.Topic))
	b.log.Info("client publishes too fast", "client_id", c.id(), "remote", c.conn.Remote(), "max_message_rate", b.limits.MaxMessageRate)
	b.disconnect(c, packet.MessageRateTooHigh, "the client publishes more messages a second than it may")
}
