package conn

import (
	"dunlin/core/packet"
	"dunlin/platform/poll"

	"golang.org/x/sys/unix"
)

// Send queues an encoded packet of this turn; id is its packet identifier, if it has one. Packets
// are written in the order in which they were queued, but for SendReleases.
func (c *Conn) Send(a *Arena, s Segment, id packet.ID) {
	if c.closed || c.failed {
		return
	}
	a.Packets++
	a.Bytes += uint64(s.Len())
	if c.out != nil || !c.hold(s, id) {
		c.spill(a, 0)
		c.append(a, s, id)
	}
	if !c.dirty {
		c.dirty = true
		a.dirty = append(a.dirty, c)
	}
}

// SendReleases queues PUBRELs with success for n identifiers that count up from first. They may leave
// before PUBLISH packets of the same turn: both keep their order among themselves [MQTT-4.6.0-4], and
// the client has had the messages that they are about in an earlier turn.
func (c *Conn) SendReleases(a *Arena, first packet.ID, n int) {
	if c.closed || c.failed {
		return
	}
	start := len(a.others)
	a.others = packet.AppendAckRun(a.others, packet.PUBREL, first, n)
	s := a.other(start)
	s.loose = true
	a.Packets += uint64(n - 1) // they are one range
	c.Send(a, s, 0)
}

// hold enters a packet into the ranges that the connection holds; false if it continues none.
func (c *Conn) hold(s Segment, id packet.ID) bool {
	switch {
	case s.other && c.others.len() == 0:
		c.others, c.loose = s.span, s.loose
		c.publishesFirst = c.publishes.len() > 0
	case s.other:
		if c.others.end != s.start || c.publishes.len() > 0 && !c.publishesFirst && !s.loose {
			return false
		}
		c.others.end = s.end
		c.loose = c.loose && s.loose
	case c.publishes.len() == 0:
		c.publishes = s.span
		c.publishesFirst = c.others.len() == 0
		c.nIDs = 0
		c.number(s, id)
	default:
		if c.publishes.end != s.start || c.others.len() > 0 && c.publishesFirst && !c.loose || !c.joins(s, id) {
			return false
		}
		c.publishes.end = s.end
		c.publishesFirst = c.others.len() == 0
		c.number(s, id)
	}
	return true
}

// number adds the packet identifier of s to those of the range.
func (c *Conn) number(s Segment, id packet.ID) {
	if s.id < 0 {
		return
	}
	if c.nIDs == 0 {
		c.firstID, c.baseID = s.id, id
	}
	c.nIDs++
}

// maxIDs is how many packet identifiers a range may have.
const maxIDs = 1<<16 - 1

// joins says whether the id of s continues the run of ids that the range has.
func (c *Conn) joins(s Segment, id packet.ID) bool {
	return s.id < 0 || c.nIDs == 0 ||
		s.id == c.firstID+int32(c.nIDs) && uint16(id) == uint16(c.baseID)+c.nIDs && c.nIDs < maxIDs
}

// append copies a packet into the connection's own buffer.
func (c *Conn) append(a *Arena, s Segment, id packet.ID) {
	c.out = a.grow(c.out, s.Len())
	if s.other {
		c.out = append(c.out, a.others[s.start:s.end]...)
		return
	}
	at := len(c.out)
	c.out = append(c.out, a.publishes[s.start:s.end]...)
	if s.id >= 0 {
		at += int(a.ids[s.id] - s.start)
		c.out[at], c.out[at+1] = byte(id>>8), byte(id)
	}
}

// ranges are the bytes of the arena that the connection holds, in order, with its packet
// identifiers. publishes is the arena's buffer of that name, or a copy of it.
func (c *Conn) ranges(a *Arena, publishes []byte) (first, second []byte) {
	a.patch(publishes, c.firstID, int32(c.nIDs), c.baseID)
	first, second = a.others[c.others.start:c.others.end], publishes[c.publishes.start:c.publishes.end]
	if c.publishesFirst {
		return second, first
	}
	return first, second
}

// held is how many bytes of the arena the connection holds.
func (c *Conn) held() int { return c.others.len() + c.publishes.len() }

// spill moves what the connection holds of the arena, less its first written bytes, to its own
// buffer.
func (c *Conn) spill(a *Arena, written int) {
	if written < c.held() {
		first, second := c.ranges(a, a.publishes)
		skip := min(written, len(first))
		first, second = first[skip:], second[written-skip:]
		c.out = a.grow(c.out, len(first)+len(second))
		c.out = append(append(c.out, first...), second...)
	}
	c.release()
}

// release lets go of the arena.
func (c *Conn) release() {
	c.publishes, c.others, c.nIDs = span{}, span{}, 0
}

// Unsent is how many bytes wait to be written.
func (c *Conn) Unsent() int { return len(c.out) - int(c.off) + c.held() }

// flush writes what there is.
func (c *Conn) flush(a *Arena) {
	if c.held() == 0 {
		c.flushOwn(a)
		return
	}
	n, err := c.write(a, a.publishes)
	c.wrote(a, n, err)
}

// write writes once what the connection holds of the arena, or else of its own. It changes nothing
// but packet identifiers in publishes, which is the arena's buffer of that name or a copy of it.
func (c *Conn) write(a *Arena, publishes []byte) (n int, err error) {
	if c.held() == 0 {
		return poll.Write(int(c.fd), c.out[c.off:])
	}
	first, second := c.ranges(a, publishes)
	switch {
	case len(first) == 0:
		return poll.Write(int(c.fd), second)
	case len(second) == 0:
		return poll.Write(int(c.fd), first)
	}
	return poll.Write2(int(c.fd), first, second)
}

// wrote goes on after write.
func (c *Conn) wrote(a *Arena, n int, err error) {
	switch {
	case err != nil && err != unix.EAGAIN:
		c.fail(a)
	case c.held() == 0:
		c.off += int32(n)
		c.flushOwn(a)
	default:
		c.spill(a, n)
	}
}

func (c *Conn) flushOwn(a *Arena) {
	for int(c.off) < len(c.out) {
		n, err := poll.Write(int(c.fd), c.out[c.off:])
		if err == unix.EAGAIN {
			// The front is given back once it is worth a copy.
			if int(c.off) > len(c.out)/2 {
				c.out = c.out[:copy(c.out, c.out[c.off:])]
				c.off = 0
			}
			return
		}
		if err != nil {
			c.fail(a)
			return
		}
		c.off += int32(n)
	}
	c.dropOutput(a)
}

// Blocked says that the socket did not take all of the output: Writable continues when it does.
func (c *Conn) Blocked() bool { return c.events != detached && c.events&wantWrite != 0 }

// Writable continues an interrupted write.
func (c *Conn) Writable(a *Arena) { c.flushOwn(a) }

// fail ends the output: a write has failed. What the peer has sent before is still read, and
// then comes an end, whatever the error was.
func (c *Conn) fail(a *Arena) {
	c.failed = true
	c.dropOutput(a)
	_ = unix.Shutdown(int(c.fd), unix.SHUT_RDWR) // fails if the peer has reset the connection: it ends by itself
}

func (c *Conn) dropOutput(a *Arena) {
	c.release()
	if c.out != nil {
		a.put(c.out)
		c.out, c.off = nil, 0
	}
}
