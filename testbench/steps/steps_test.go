package steps

import (
	"fmt"
	"slices"
	"testing"

	"dunlin/core/packet"
)

var versions = []packet.Version{packet.V311, packet.V5}

// knows is how far a publisher has come.
type knows int

const (
	sentPublish knows = iota
	gotPubrec
	sentPubrel
	gotPubcomp
)

func TestPublisherIsTakenExactlyOnce(t *testing.T) {
	for _, tt := range []struct {
		name   string
		client knows
		image  int // how many steps are on disk: 0 nothing, 1 the PUBLISH, 2 its PUBREL
	}{
		{"PUBLISH lost", sentPublish, 0},
		{"PUBLISH stored, PUBREC lost", sentPublish, 1},
		{"PUBREC seen", gotPubrec, 1},
		{"PUBREL lost", sentPubrel, 1},
		{"PUBREL stored, PUBCOMP lost", sentPubrel, 2},
		{"PUBCOMP seen", gotPubcomp, 2},
	} {
		for _, v := range versions {
			for crashes := 1; crashes <= 2; crashes++ {
				t.Run(fmt.Sprintf("%s/version %d/crashes %d", tt.name, v, crashes), func(t *testing.T) {
					const id = 7
					g := begin(t, nil)
					s, _ := g.connect(v, "s")
					s.subscribe()
					s.net.Close()
					p, _ := g.connect(v, "p")
					images := [][]byte{g.image()}
					p.publish("one", 2, id, false)
					p.acked(packet.PUBREC)
					images = append(images, g.image())
					p.ack(packet.PUBREL, id)
					p.acked(packet.PUBCOMP)
					images = append(images, g.image())
					g.stop()

					for range crashes {
						g = begin(t, images[tt.image])
						var present bool
						if p, present = g.connect(v, "p"); !present {
							t.Fatal("the publisher's session is gone")
						}
					}
					switch tt.client {
					case sentPublish:
						p.publish("one", 2, id, true)
						p.acked(packet.PUBREC)
						fallthrough
					case gotPubrec, sentPubrel:
						p.ack(packet.PUBREL, id)
						p.acked(packet.PUBCOMP)
					}
					p.send("two", id) // the identifier is free
					sub := subscriber{known: map[packet.ID]bool{}}
					sub.drain(t, g, v, 2)
					sub.check(t, "one", "two")
				})
			}
		}
	}
}

// subscriber is a client that keeps its state of QoS 2 (MQTT5 §4.1).
type subscriber struct {
	known map[packet.ID]bool // between PUBREC and PUBCOMP
	got   []string
}

// take answers one packet; done says that it has ended a flow.
func (s *subscriber) take(w *wire) (done bool) {
	w.t.Helper()
	switch h, body := w.read(); h.Type {
	case packet.PUBLISH:
		p, err := packet.ParsePublish(body, h.Flags, w.v)
		if err != nil || p.QoS != 2 {
			w.t.Fatalf("PUBLISH at QoS %d, %v", p.QoS, err)
		}
		if !s.known[p.ID] {
			s.known[p.ID] = true
			s.got = append(s.got, string(p.Payload))
		}
		w.ack(packet.PUBREC, p.ID)
	case packet.PUBREL:
		a, err := packet.ParseAck(packet.PUBREL, body, w.v)
		if err != nil {
			w.t.Fatal(err)
		}
		delete(s.known, a.ID)
		w.ack(packet.PUBCOMP, a.ID)
		return true
	default:
		w.t.Fatalf("got %v", h.Type)
	}
	return false
}

// drain connects and takes flows until n messages in all have arrived and no flow is open.
func (s *subscriber) drain(t *testing.T, g *gateway, v packet.Version, n int) {
	t.Helper()
	w, present := g.connect(v, "s")
	if !present {
		t.Fatal("the subscriber's session is gone")
	}
	for len(s.got) < n || len(s.known) > 0 {
		s.take(w)
	}
	// Nothing else comes: a message that is sent now is the next.
	p, _ := g.connect(v, "last")
	p.publish("last", 2, 1, false)
	p.acked(packet.PUBREC)
	for !slices.Contains(s.got, "last") || len(s.known) > 0 {
		s.take(w)
	}
	s.got = slices.DeleteFunc(s.got, func(m string) bool { return m == "last" })
	w.net.Close()
}

func (s *subscriber) check(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(s.got, want) {
		t.Errorf("the subscriber got %q, want %q", s.got, want)
	}
}

func TestSubscriberGetsExactlyOnce(t *testing.T) {
	const (
		queued    = iota // what is on disk
		sent             // the identifier of the PUBLISH
		received         // the PUBREC
		completed        // the PUBCOMP
	)
	for _, tt := range []struct {
		name  string
		got   bool // the client has had the PUBLISH
		open  bool // and not the PUBREL
		image int
	}{
		{"PUBLISH not sent", false, false, queued},
		{"PUBLISH lost", false, false, sent},
		{"PUBLISH seen, PUBREC lost", true, true, sent},
		{"PUBREC stored, PUBREL lost", true, true, received},
		{"PUBREL seen, PUBCOMP lost", true, false, received},
		{"PUBCOMP stored", true, false, completed},
	} {
		for _, v := range versions {
			for crashes := 1; crashes <= 2; crashes++ {
				t.Run(fmt.Sprintf("%s/version %d/crashes %d", tt.name, v, crashes), func(t *testing.T) {
					g := begin(t, nil)
					s, _ := g.connect(v, "s")
					s.subscribe()
					s.net.Close()
					p, _ := g.connect(v, "p")
					p.send("one", 1)
					images := [][]byte{g.image()}
					s, _ = g.connect(v, "s")
					m := s.message()
					images = append(images, g.image())
					s.ack(packet.PUBREC, m.ID)
					s.acked(packet.PUBREL)
					images = append(images, g.image())
					s.ack(packet.PUBCOMP, m.ID)
					s.write(packet.AppendPingreq(nil)) // it has read that
					if h, _ := s.read(); h.Type != packet.PINGRESP {
						t.Fatalf("got %v", h.Type)
					}
					other, _ := g.connect(v, "other") // its commit takes the PUBCOMP along
					other.subscribe()
					images = append(images, g.image())
					g.stop()

					for range crashes {
						g = begin(t, images[tt.image])
						p, _ = g.connect(v, "p")
					}
					p.send("two", 2)
					sub := subscriber{known: map[packet.ID]bool{}}
					if tt.got {
						sub.got = []string{"one"}
					}
					if tt.open {
						sub.known[m.ID] = true
					}
					sub.drain(t, g, v, 2)
					sub.check(t, "one", "two")
				})
			}
		}
	}
}

func TestLiveSubscriberGetsExactlyOnceOverCrashes(t *testing.T) {
	// A crash right behind each packet that the subscriber sees or sends, one after the other.
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			g := begin(t, nil)
			sub := subscriber{known: map[packet.ID]bool{}}
			w, _ := g.connect(v, "s")
			w.subscribe()
			var want []string
			for i := range 12 {
				p, _ := g.connect(v, "p")
				payload := fmt.Sprint(i)
				p.send(payload, packet.ID(i+1))
				want = append(want, payload)
				for range i % 4 { // packets before the crash
					if sub.take(w) {
						break
					}
				}
				g = g.crash()
				w, _ = g.connect(v, "s")
			}
			w.net.Close()
			sub.drain(t, g, v, len(want))
			sub.check(t, want...)
		})
	}
}

func TestRetainedSubscriptionsAndQueuesOutliveACrash(t *testing.T) {
	for _, v := range versions {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			g := begin(t, nil)
			s, _ := g.connect(v, "s")
			s.subscribe()
			s.net.Close()
			p, _ := g.connect(v, "p")
			b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), Payload: []byte("kept"), QoS: 1, ID: 1, Retain: true}, v)
			b[at+1] = 1
			p.write(b)
			p.acked(packet.PUBACK)
			g = g.crash()
			p, _ = g.connect(v, "p")
			p.publish("after", 1, 2, false) // the session is not back yet
			p.acked(packet.PUBACK)
			g = g.crash()
			s, present := g.connect(v, "s")
			if !present {
				t.Fatal("the session is gone")
			}
			for _, want := range []string{"kept", "after"} {
				m := s.message()
				if string(m.Payload) != want {
					t.Fatalf("got %q, want %q", m.Payload, want)
				}
				s.ack(packet.PUBACK, m.ID)
			}
			n, _ := g.connect(v, "new")
			n.subscribe()
			if m := n.message(); string(m.Payload) != "kept" || !m.Retain {
				t.Errorf("got %q, RETAIN %v", m.Payload, m.Retain)
			}
		})
	}
}
