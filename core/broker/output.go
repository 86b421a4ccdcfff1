package broker

import "dunlin/core/conn"

// A client that does not take its output makes wait what can wait: messages of QoS 1 and 2 stay in
// its queue from MaxOutput on, messages of QoS 0 are dropped. What must be answered comes on top;
// from chokeAt times MaxOutput on nothing more is read from it, so that it cannot ask for more.
const chokeAt = 2

// choke lets the reading rest until the output has gone.
func (b *Broker) choke(c *client) error {
	c.choked, c.unsent = true, int32(c.conn.Unsent())
	b.awaitOutput(c)
	return conn.ErrPaused
}

// awaitOutput notes that something waits until there is room for more output, or all has gone. What the socket
// does not take in this turn is announced by Drained when it does; what it takes is found by checkOutput.
func (b *Broker) awaitOutput(c *client) {
	if !c.awaiting {
		c.awaiting, c.slow = true, true
		b.full = append(b.full, c)
	}
}

// checkOutput goes on with the clients whose output went with the last flush: in the next turn,
// so that one that takes much does not keep the others waiting.
func (b *Broker) checkOutput() {
	if len(b.full) == 0 {
		return
	}
	all := b.full
	b.full = nil
	for _, c := range all {
		switch {
		case c.ended, !c.awaiting:
		case c.conn.Blocked():
		case c.conn.Unsent() > b.limits.MaxOutput:
			b.full = append(b.full, c) // not flushed yet
		default:
			b.loop.Post(func() {
				if c.awaiting && !c.ended {
					b.drained(c)
				}
			})
		}
	}
}

// drained goes on with what waited for the client's output, which may have to wait again.
func (b *Broker) drained(c *client) {
	c.awaiting = false
	if c.choked {
		c.choked = false
		b.restEnds(c)
		b.loop.Resume(c.conn)
	}
	if !c.ended && c.accepted {
		b.pump(c.member)
		b.greet(c.member)
	}
}
