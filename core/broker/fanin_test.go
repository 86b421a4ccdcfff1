package broker

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"

	"dunlin/core/packet"
)

// TestFanInFloodStaysWithinItsBounds has many publishers flood one subscriber that reads nothing, with
// one, two and four threads. There is no queue between threads; all that grows is the arena of a turn,
// the subscriber's output, its queue, and what its socket takes, and each has its bound.
func TestFanInFloodStaysWithinItsBounds(t *testing.T) {
	const (
		publishers, messages = 30, 300
		payload              = 1000
		maxOutput            = 64 << 10
		maxQueued            = 256 << 10
		// A turn encodes a message, sees that the arena is full, and flushes.
		maxArena = 8 * 64 << 10
	)
	for _, threads := range []int{1, 2, 4} {
		for qos := range packet.QoS(3) {
			t.Run(fmt.Sprintf("%d threads/QoS %d", threads, qos), func(t *testing.T) {
				// A unix socket takes little that nobody reads.
				x := startOn(t, "unix", fmt.Sprintf("@dunlin-fanin-%d-%d-%d", os.Getpid(), threads, qos), func(o *Options) {
					o.IOThreads = threads
					o.Limits.MaxOutput, o.Limits.MaxTransientBytes = maxOutput, maxQueued
					o.Limits.MaxInFlight = 65_535 // so that the output fills, too
				})
				slow, _ := x.connect(packet.V311, "slow")
				slow.subscribe("t/#", qos)
				var all sync.WaitGroup
				for i := range publishers {
					w, _ := x.connect(packet.V311, fmt.Sprint("p", i))
					all.Go(func() { floodFrom(t, w, qos, messages, payload) })
				}
				done := make(chan struct{})
				go func() { // ends with the publishers
					all.Wait()
					close(done)
				}()
				for over := false; !over; {
					select {
					case <-done:
						over = true
					default:
					}
					x.do(func() {
						m := x.b.members["slow"]
						// One packet more may go where there was room.
						if n := m.client.conn.Unsent(); n > maxOutput+2*payload {
							t.Errorf("%d bytes of output wait, want at most %d", n, maxOutput)
						}
						if n := m.state.QueuedBytes(); n > maxQueued+2*payload {
							t.Errorf("%d bytes are queued, want at most %d", n, maxQueued)
						}
						if n := x.b.loop.Arena.Size(); n > 2*maxArena {
							t.Errorf("the arena has %d bytes, want at most %d", n, 2*maxArena)
						}
					})
					if t.Failed() {
						break
					}
				}
				<-done
				x.do(func() {
					c := &x.b.counters
					dropped := c.DroppedFull + c.DroppedOutput
					m := x.b.members["slow"]
					waits := uint64(m.state.Pending() - m.state.InFlight())
					if c.Received != publishers*messages || c.Sent+waits+dropped != c.Received || dropped == 0 {
						t.Errorf("of %d messages %d were sent, %d wait and %d were dropped", c.Received, c.Sent, waits, dropped)
					}
				})
			})
		}
	}
}

// floodFrom publishes n messages and waits for their acknowledgements.
func floodFrom(t *testing.T, w *wire, qos packet.QoS, n, payload int) {
	var out bytes.Buffer
	for i := range n {
		p := packet.Publish{Topic: []byte("t/x"), Payload: make([]byte, payload), QoS: qos}
		if qos > 0 {
			p.ID = packet.ID(i + 1)
		}
		b, _ := packet.AppendPublish(nil, &p, w.v)
		out.Write(b)
	}
	w.write(out.Bytes())
	if qos == 0 { // PINGRESP says that all has been taken
		w.write(packet.AppendPingreq(nil))
		n = 1
	}
	for n > 0 {
		h, body, err := w.next()
		if err != nil {
			t.Error(err)
			return
		}
		switch h.Type {
		case packet.PUBREC:
			w.ack(packet.PUBREL, packet.ID(body[0])<<8|packet.ID(body[1]))
		case packet.PUBACK, packet.PUBCOMP, packet.PINGRESP:
			n--
		}
	}
}
