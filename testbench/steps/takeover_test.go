package steps

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"dunlin/core/packet"
)

// publishAll publishes n messages, one at a time, each to its end.
func (w *wire) publishAll(n int, qos packet.QoS) error {
	for i := range n {
		id := packet.ID(i + 1)
		out := w.appendPublish(fmt.Sprint(i), qos, id, false)
		for out != nil {
			if _, err := w.net.Write(out); err != nil {
				return err
			}
			h, _, err := w.next()
			switch {
			case err != nil:
				return err
			case h.Type == packet.PUBREC:
				out = packet.AppendAck(nil, &packet.Ack{Type: packet.PUBREL, ID: id}, w.v)
			case h.Type == packet.PUBACK, h.Type == packet.PUBCOMP:
				out = nil
			default:
				return fmt.Errorf("message %d: got %v", i, h.Type)
			}
		}
	}
	return nil
}

func TestTakeoversUnderLoadLoseAndRepeatNothing(t *testing.T) { // [MQTT-3.1.4-3]
	const n = 1500
	for _, v := range versions {
		for qos := packet.QoS(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("version %d QoS %d", v, qos), func(t *testing.T) {
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				rng := rand.New(rand.NewPCG(seed, 0))
				g := begin(t, nil)
				s, _ := g.connect(v, "s")
				s.subscribe()
				p, _ := g.connect(v, "p")
				published := make(chan error, 1)
				go func() { published <- p.publishAll(n, qos) }() // ends with the last message or the connection; waited for below
				known := map[packet.ID]bool{}                     // QoS 2, as in subscriber
				next, repeated, takeovers := 0, 0, 0
				for next < n || len(known) > 0 {
					h, body := s.read()
					mute := rng.IntN(20) == 0 // this one is not answered on its connection
					if h.Type == packet.PUBREL {
						a, err := packet.ParseAck(packet.PUBREL, body, v)
						if err != nil {
							t.Fatal(err)
						}
						delete(known, a.ID)
						if !mute {
							s.ack(packet.PUBCOMP, a.ID)
						}
					} else {
						m, err := packet.ParsePublish(body, h.Flags, v)
						if h.Type != packet.PUBLISH || err != nil || m.QoS != qos {
							t.Fatalf("got %v at QoS %d, %v", h.Type, m.QoS, err)
						}
						switch got := string(m.Payload); {
						case qos == 2 && known[m.ID], qos == 1 && m.Dup && got != fmt.Sprint(next):
							repeated++
							if !m.Dup {
								t.Fatalf("%q comes again without DUP", got)
							}
						case got != fmt.Sprint(next):
							t.Fatalf("got %q, want %d", got, next)
						default:
							next++
						}
						answer := packet.PUBACK
						if qos == 2 {
							known[m.ID] = true
							answer = packet.PUBREC
						}
						if !mute {
							s.ack(answer, m.ID)
						}
					}
					if mute {
						takeovers++
						// The old connection stays open on this side.
						var present bool
						if s, present = g.connect(v, "s"); !present {
							t.Fatal("the session is gone")
						}
					}
				}
				if err := <-published; err != nil {
					t.Fatal(err)
				}
				if repeated == 0 {
					t.Error("nothing was repeated: the test tests nothing")
				}
				t.Logf("%d takeovers, %d messages repeated with DUP", takeovers, repeated)
			})
		}
	}
}
