package broker

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"dunlin/core/packet"
)

// TestThreadsKeepOrderAndIdentifiers lets many publish to many while a crew reads and writes: every
// subscriber gets the messages of each publisher in order [MQTT-4.6.0-6], at its own QoS.
func TestThreadsKeepOrderAndIdentifiers(t *testing.T) {
	for _, threads := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(threads), func(t *testing.T) {
			x := start(t, func(o *Options) { o.IOThreads = threads })
			const publishers, subscribers, messages = 20, 60, 60
			subs := make([]*wire, subscribers)
			for i := range subs {
				version := []packet.Version{packet.V311, packet.V5}[i%2]
				subs[i], _ = x.connect(version, fmt.Sprint("subscriber ", i))
				subs[i].subscribe("t/#", packet.QoS(i%3))
			}
			var all sync.WaitGroup
			for i, w := range subs {
				all.Go(func() {
					if err := inOrder(w, packet.QoS(i%3), publishers, messages); err != nil {
						t.Errorf("subscriber %d: %v", i, err)
					}
				})
			}
			for from := range publishers {
				w, _ := x.connect(packet.V311, fmt.Sprint("publisher ", from))
				all.Go(func() {
					var out bytes.Buffer
					for n := range messages {
						b, _ := packet.AppendPublish(nil, &packet.Publish{
							Topic: fmt.Appendf(nil, "t/%d", from), Payload: fmt.Appendf(nil, "%d %d", from, n+1), QoS: 2, ID: packet.ID(n + 1),
						}, w.v)
						out.Write(b)
					}
					w.write(out.Bytes())
					for done := 0; done < messages; {
						h, body, err := w.next()
						if err != nil {
							t.Errorf("publisher %d: %v", from, err)
							return
						}
						switch h.Type {
						case packet.PUBREC:
							w.ack(packet.PUBREL, packet.ID(body[0])<<8|packet.ID(body[1]))
						case packet.PUBCOMP:
							done++
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// inOrder reads and answers until all messages of all publishers have come, and their flows are done.
func inOrder(w *wire, qos packet.QoS, publishers, messages int) error {
	last := make([]int, publishers)
	open := 0 // QoS 2 that waits for PUBREL
	for left := publishers * messages; left > 0 || open > 0; {
		h, body, err := w.next()
		if err != nil {
			return err
		}
		switch h.Type {
		case packet.PUBREL:
			open--
			w.ack(packet.PUBCOMP, packet.ID(body[0])<<8|packet.ID(body[1]))
		case packet.PUBLISH:
			p, err := packet.ParsePublish(body, h.Flags, w.v)
			if err != nil {
				return err
			}
			var from, n int
			if _, err := fmt.Sscanf(string(p.Payload), "%d %d", &from, &n); err != nil {
				return fmt.Errorf("payload %q: %w", p.Payload, err)
			}
			if n != last[from]+1 || p.QoS != qos {
				return fmt.Errorf("message %d of publisher %d at QoS %d follows its message %d", n, from, p.QoS, last[from])
			}
			last[from] = n
			left--
			switch qos {
			case 1:
				w.ack(packet.PUBACK, p.ID)
			case 2:
				w.ack(packet.PUBREC, p.ID)
				open++
			}
		}
	}
	return nil
}
