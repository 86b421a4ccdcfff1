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
