package restart

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

// peer is a client that stops in the middle of what it does.
type peer struct {
	*client.Raw
	g *gateway
}

// dial connects with a session that outlives its connection.
func (g *gateway) dial(id string) peer {
	g.Helper()
	raw, err := client.Dial(g.Context(), "tcp", g.broker.Spec.Address, packet.V5)
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { raw.Close() })
	p := peer{raw, g}
	p.write(packet.AppendConnect(nil, &packet.Connect{
		Version: packet.V5, ClientID: []byte(id), SessionExpiry: 3600, RequestProblem: true, ReceiveMaximum: 65535,
	}))
	p.expect(packet.CONNACK)
	return p
}

func (p peer) write(b []byte) {
	p.g.Helper()
	if _, err := p.Write(b); err != nil {
		p.g.Fatal(err)
	}
}

// next is the next packet.
func (p peer) next() (packet.Header, []byte) {
	p.g.Helper()
	ctx, cancel := context.WithTimeout(p.g.Context(), guard)
	defer cancel()
	h, body, err := p.Packet(ctx)
	if err != nil {
		p.g.Fatal(err)
	}
	return h, body
}

func (p peer) expect(want packet.Type) []byte {
	p.g.Helper()
	h, body := p.next()
	if h.Type != want {
		p.g.Fatalf("got %v, want %v", h.Type, want)
	}
	return body
}

func (p peer) ack(kind packet.Type, id packet.ID) {
	p.g.Helper()
	p.write(packet.AppendAck(nil, &packet.Ack{Type: kind, ID: id}, packet.V5))
}

// acked expects an acknowledgement of id and returns its code.
func (p peer) acked(kind packet.Type, id packet.ID) packet.ReasonCode {
	p.g.Helper()
	a, err := packet.ParseAck(kind, p.expect(kind), packet.V5)
	if err != nil || a.ID != id {
		p.g.Fatalf("%v of %d, %v; want %d", kind, a.ID, err, id)
	}
	return a.Code
}

func (p peer) publish(topic string, id packet.ID, dup bool) {
	p.g.Helper()
	b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte(topic), Payload: []byte(topic), QoS: 2, ID: id, Dup: dup}, packet.V5)
	b[at], b[at+1] = byte(id>>8), byte(id)
	p.write(b)
}

// Row 22, from a client: the broker ends behind each step. [MQTT-4.3.3-8] to [MQTT-4.3.3-12]
func TestQoS2FromAClientIsTakenOnceOverARestartAtEachStep(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		receiver, _ := g.connect(lasting("receiver"))
		g.subscribe(receiver, "a/#")
		g.leave(receiver)
		const id = 7
		var want []string
		for step := range 4 {
			topic := fmt.Sprint("a/", step)
			want = append(want, topic)
			p := g.dial("sender")
			p.publish(topic, id, false)
			if step >= 1 {
				p.acked(packet.PUBREC, id)
			}
			if step >= 2 {
				p.ack(packet.PUBREL, id)
			}
			if step >= 3 {
				p.acked(packet.PUBCOMP, id)
			}
			g.restart()
			p = g.dial("sender")
			if step < 2 { // [MQTT-4.4.0-1]
				p.publish(topic, id, true)
				p.acked(packet.PUBREC, id)
			}
			p.ack(packet.PUBREL, id)
			if code := p.acked(packet.PUBCOMP, id); step < 2 && code != packet.Success {
				g.Errorf("step %d: PUBCOMP says %v", step, code)
			}
			p.Close()
		}
		g.resume(receiver)
		if got := g.got(receiver); !slices.Equal(got, want) {
			g.Errorf("got %q, want %q", got, want)
		}
	})
}

// Row 22, to a client: the broker ends behind each step. [MQTT-4.3.3-1] to [MQTT-4.3.3-6], row 23: [MQTT-4.4.0-1]
func TestQoS2ToAClientComesOnceOverARestartAtEachStep(t *testing.T) {
	t.Parallel()
	over(t, func(g *gateway) {
		p := g.dial("receiver")
		p.write(packet.AppendSubscribe(nil, 1, 0, []packet.Subscription{{Filter: "a/#", Options: packet.SubscribeOptions{QoS: 2}}}, packet.V5))
		p.expect(packet.SUBACK)
		for step := range 5 {
			topic := fmt.Sprint("a/", step)
			g.publish(client.Publish{Topic: topic, QoS: 2})
			taken := map[packet.ID]int{} // messages by identifiers that are not released
			times := 0
			released := packet.ID(0)
			// take goes on with the flow up to a step: 1 PUBLISH, 2 PUBREC, 3 PUBREL, 4 PUBCOMP.
			take := func(upTo int) {
				for {
					h, body := p.next()
					switch h.Type {
					case packet.PUBLISH:
						m, err := packet.ParsePublish(body, h.Flags, packet.V5)
						if err != nil || string(m.Payload) != topic {
							g.Fatalf("got %q, %v", m.Payload, err)
						}
						if taken[m.ID] == 0 {
							times++
						} else if !m.Dup {
							g.Errorf("step %d: the same PUBLISH without DUP", step)
						}
						taken[m.ID]++
						if upTo == 1 {
							return
						}
						p.ack(packet.PUBREC, m.ID)
						if upTo == 2 {
							return
						}
					case packet.PUBREL:
						a, err := packet.ParseAck(packet.PUBREL, body, packet.V5)
						if err != nil {
							g.Fatal(err)
						}
						released = a.ID
						if upTo == 3 {
							return
						}
						p.ack(packet.PUBCOMP, a.ID)
						return
					default:
						g.Fatalf("got %v", h.Type)
					}
				}
			}
			if step > 0 {
				take(step)
			}
			g.restart()
			p = g.dial("receiver")
			// Whether a PUBCOMP was on disk shows in what comes: PUBREL once more, or nothing.
			if step < 4 {
				take(4)
			}
			p.write(packet.AppendPingreq(nil))
			for h, body := p.next(); h.Type != packet.PINGRESP; h, body = p.next() {
				a, err := packet.ParseAck(packet.PUBREL, body, packet.V5)
				if step != 4 || h.Type != packet.PUBREL || err != nil || a.ID != released {
					g.Fatalf("step %d: got %v", step, h.Type)
				}
				p.ack(packet.PUBCOMP, a.ID)
			}
			if times != 1 {
				g.Errorf("step %d: the message has come %d times", step, times)
			}
		}
	})
}

// What waited comes before what is published meanwhile, in the order of each publisher, also if the
// broker ends in between (MQTT5 §4.6). [MQTT-4.6.0-1], [MQTT-4.6.0-5]
func TestABacklogComesInOrderWhileMoreIsPublished(t *testing.T) {
	t.Parallel()
	const publishers, waiting, meanwhile = 3, 1500, 1500
	over(t, func(g *gateway) {
		o := lasting("receiver")
		o.ReceiveMaximum = 20
		receiver, _ := g.connect(o)
		g.subscribe(receiver, "load/#")
		receiver.Close()
		var all []*client.Client
		for i := range publishers {
			c, _ := g.connect(lasting(fmt.Sprint("p", i)))
			all = append(all, c)
		}
		send := func(from, n int) {
			for k := from; k < from+n; k++ {
				for i, c := range all {
					p := client.Publish{Topic: fmt.Sprint("load/", i, "/", k%2+1), Payload: fmt.Append(nil, k), QoS: packet.QoS(k%2 + 1)}
					if err := c.Publish(g.Context(), p); err != nil {
						g.Error(err)
						return
					}
				}
			}
			for _, c := range all {
				if err := c.Drain(g.Context()); err != nil {
					g.Error(err)
				}
			}
		}
		send(0, waiting)
		g.resume(receiver)
		sent := make(chan struct{})
		go func() { // ends when all are acknowledged; waited for below
			defer close(sent)
			send(waiting, meanwhile)
		}()
		last := map[string]int{}
		times := map[string]int{}
		take := func(n int) {
			for len(times) < n {
				m := g.receive(receiver)
				k, err := strconv.Atoi(string(m.Payload))
				if err != nil {
					g.Fatal(err)
				}
				key := m.Topic + " " + string(m.Payload)
				times[key]++
				switch before, known := last[m.Topic]; {
				case times[key] > 1 && (m.QoS == 2 || !m.Dup): // [MQTT-3.3.1-1]
					g.Fatalf("%s comes again, at QoS %d", key, m.QoS)
				case times[key] > 1: // QoS 1, as it may after a restart
				case known && k <= before:
					g.Fatalf("%s comes behind %d", key, before)
				default:
					last[m.Topic] = k
				}
			}
		}
		take(publishers * waiting / 2)
		<-sent
		g.restart()
		for _, c := range append(all, receiver) {
			g.resume(c)
		}
		send(waiting+meanwhile, 100)
		take(publishers * (waiting + meanwhile + 100))
		for topic, k := range last {
			even, odd := waiting+meanwhile+98, waiting+meanwhile+99
			if want := map[bool]int{true: even, false: odd}[strings.HasSuffix(topic, "/1")]; k != want {
				g.Errorf("%s ends with %d, want %d", topic, k, want)
			}
		}
	})
}
