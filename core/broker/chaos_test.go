package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"dunlin/core/packet"
)

// chaos is a broker between publishers and subscribers that keep their state, with a store that
// commits when it likes, or fails, and connections that are cut and taken over.
type chaos struct {
	*bench
	rng  *rand.Rand
	seed uint64
	pubs []*publisher
	subs []*subscriber
	n    int // messages
}

// peer is what publishers and subscribers have in common.
type peer struct {
	x    *chaos
	id   string
	v    packet.Version
	w    *wire // nil while it is away
	take func(h packet.Header, body []byte)
}

// link connects, or takes its own session over.
func (p *peer) link() {
	p.w, _ = p.x.connect(p.v, p.id, lasting, func(c *packet.Connect) { c.ReceiveMaximum = uint16(1 + p.x.rng.IntN(8)) })
}

// sync takes everything that the broker has sent up to now; false if the connection has ended.
func (p *peer) sync() bool {
	if _, err := p.w.net.Write(packet.AppendPingreq(nil)); err != nil {
		p.w = nil
		return false
	}
	for {
		h, body, err := p.w.next()
		switch {
		case err != nil:
			p.w.net.Close()
			p.w = nil
			return false
		case h.Type == packet.PINGRESP:
			return true
		case h.Type != packet.DISCONNECT:
			p.take(h, body)
		}
	}
}

func (p *peer) send(b []byte) { p.w.net.Write(b) } // if it fails, sync finds out

func (p *peer) ack(t packet.Type, id packet.ID) {
	p.send(packet.AppendAck(nil, &packet.Ack{Type: t, ID: id}, p.v))
}

// outgoing is a message that a publisher has sent.
type outgoing struct {
	id       packet.ID
	qos      packet.QoS
	payload  string
	received bool // PUBREC
}

type publisher struct {
	peer
	next     packet.ID
	flight   []outgoing
	accepted map[string]packet.QoS
	refused  map[string]bool
}

func (p *publisher) publish() {
	if p.w == nil || len(p.flight) >= 20 {
		return
	}
	p.next = p.next%1000 + 1
	if slices.ContainsFunc(p.flight, func(o outgoing) bool { return o.id == p.next }) {
		return
	}
	p.x.n++
	o := outgoing{id: p.next, qos: packet.QoS(1 + p.x.rng.IntN(2)), payload: fmt.Sprint(p.id, " ", p.x.n)}
	p.flight = append(p.flight, o)
	p.sendPublish(&o, false)
}

func (p *publisher) sendPublish(o *outgoing, dup bool) {
	b, at := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t/" + p.id), Payload: []byte(o.payload), QoS: o.qos, ID: o.id, Dup: dup}, p.v)
	b[at], b[at+1] = byte(o.id>>8), byte(o.id)
	p.send(b)
}

// resume connects and sends again what is open, in order [MQTT-4.4.0-1].
func (p *publisher) resume() {
	p.link()
	for i := range p.flight {
		if o := &p.flight[i]; o.received {
			p.ack(packet.PUBREL, o.id)
		} else {
			p.sendPublish(o, true)
		}
	}
}

func (p *publisher) taken(h packet.Header, body []byte) {
	a, err := packet.ParseAck(h.Type, body, p.v)
	if err != nil {
		p.x.t.Fatalf("seed %d: %s got %v: %v", p.x.seed, p.id, h.Type, err)
	}
	i := slices.IndexFunc(p.flight, func(o outgoing) bool { return o.id == a.ID })
	if i < 0 {
		if h.Type == packet.PUBCOMP {
			return // of a PUBREL that was sent twice
		}
		p.x.t.Fatalf("seed %d: %s got %v %d, which is not in flight", p.x.seed, p.id, h.Type, a.ID)
	}
	o := &p.flight[i]
	switch {
	case h.Type == packet.PUBACK && o.qos == 1, h.Type == packet.PUBREC && o.qos == 2 && !o.received:
		if a.Code >= packet.UnspecifiedError {
			p.refused[o.payload] = true
			p.flight = slices.Delete(p.flight, i, i+1)
			return
		}
		p.accepted[o.payload] = o.qos
		if o.received = true; o.qos == 2 {
			p.ack(packet.PUBREL, o.id)
			return
		}
	case h.Type == packet.PUBREC && o.qos == 2: // of a repetition
		p.ack(packet.PUBREL, o.id)
		return
	case h.Type == packet.PUBCOMP && o.qos == 2 && o.received:
	default:
		p.x.t.Fatalf("seed %d: %s got %v for %+v", p.x.seed, p.id, h.Type, *o)
	}
	p.flight = slices.Delete(p.flight, i, i+1)
}

type subscriber struct {
	peer
	qos   packet.QoS
	known map[packet.ID]string // QoS 2, between PUBREC and PUBCOMP
	got   []string             // payloads in order, with repetitions at QoS 1
	at    map[string]packet.QoS
	mute  bool // answers are lost
}

func (s *subscriber) taken(h packet.Header, body []byte) {
	switch h.Type {
	case packet.PUBLISH:
		m, err := packet.ParsePublish(body, h.Flags, s.v)
		if err != nil {
			s.x.t.Fatal(err)
		}
		payload := string(m.Payload)
		answer := packet.PUBACK
		if m.QoS == 2 {
			answer = packet.PUBREC
			if held, ok := s.known[m.ID]; ok && held != payload {
				s.x.t.Fatalf("seed %d: %s holds %q under %d and gets %q", s.x.seed, s.id, held, m.ID, payload)
			} else if ok {
				payload = ""
			} else {
				s.known[m.ID] = payload
			}
		}
		if payload != "" {
			s.got = append(s.got, payload)
			s.at[payload] = m.QoS
		}
		if !s.mute {
			s.ack(answer, m.ID)
		}
	case packet.PUBREL:
		a, err := packet.ParseAck(h.Type, body, s.v)
		if err != nil {
			s.x.t.Fatal(err)
		}
		delete(s.known, a.ID)
		if !s.mute {
			s.ack(packet.PUBCOMP, a.ID)
		}
	default:
		s.x.t.Fatalf("seed %d: %s got %v", s.x.seed, s.id, h.Type)
	}
}

func newChaos(t *testing.T, seed uint64) *chaos {
	x := &chaos{
		bench: start(t, func(o *Options) { o.Limits.MaxInFlight, o.Limits.ReceiveMaximum = 5, 30 }),
		rng:   rand.New(rand.NewPCG(seed, 9)),
		seed:  seed,
	}
	for i, v := range versions {
		s := &subscriber{qos: packet.QoS(2 - i%2), known: map[packet.ID]string{}, at: map[string]packet.QoS{}}
		s.peer = peer{x: x, id: fmt.Sprint("s", i), v: v, take: s.taken}
		s.link()
		s.w.subscribe("t/#", s.qos)
		x.subs = append(x.subs, s)
		p := &publisher{accepted: map[string]packet.QoS{}, refused: map[string]bool{}}
		p.peer = peer{x: x, id: fmt.Sprint("p", i), v: v, take: p.taken}
		p.link()
		x.pubs = append(x.pubs, p)
	}
	x.store.hold()
	return x
}

// fails says whether commits fail in this run. A message that failed comes again behind those
// that did not, so that there is no order then.
func (x *chaos) fails() bool { return x.seed%2 == 1 }

// step does one thing.
func (x *chaos) step() {
	p, s := x.pubs[x.rng.IntN(len(x.pubs))], x.subs[x.rng.IntN(len(x.subs))]
	switch n := x.rng.IntN(100); {
	case n < 30:
		p.publish()
	case n < 50:
		x.store.step(nil)
	case n < 53:
		if x.fails() {
			x.store.step(errDisk)
		}
	case n < 70:
		if p.w != nil {
			p.sync()
		}
	case n < 88:
		if s.w != nil {
			s.mute = x.rng.IntN(8) == 0
			s.sync()
			if s.mute && s.w != nil { // what is not answered on a connection is answered on the next
				s.w.net.Close()
				s.w = nil
			}
		}
	case n < 91:
		if p.w != nil && x.rng.IntN(2) == 0 {
			p.w.net.Close()
			p.w = nil
		}
	case n < 94:
		if s.w != nil && x.rng.IntN(2) == 0 {
			s.w.net.Close()
			s.w = nil
		}
	case n < 97: // or takes over
		p.resume()
	default:
		s.link()
	}
}

// drain lets everything come to its end.
func (x *chaos) drain() {
	for range 2000 {
		x.store.step(nil)
		open := 0
		for _, p := range x.pubs {
			if p.w == nil {
				p.resume()
			}
			p.sync()
			open += len(p.flight)
		}
		for _, s := range x.subs {
			s.mute = false
			if s.w == nil {
				s.link()
			}
			s.sync()
			open += len(s.known)
		}
		if open == 0 && x.store.open() == 0 {
			return
		}
	}
	x.t.Fatalf("seed %d: it does not come to an end: %d entries in the store", x.seed, x.store.open())
}

func (x *chaos) check() {
	for _, s := range x.subs {
		times := map[string]int{}
		last := map[string]int{} // number of the last message by publisher and QoS
		for _, payload := range s.got {
			times[payload]++
			qos := s.at[payload]
			if times[payload] > 1 {
				if qos == 2 {
					x.t.Fatalf("seed %d: %s got %q %d times at QoS 2", x.seed, s.id, payload, times[payload])
				}
				continue
			}
			id, number, _ := strings.Cut(payload, " ")
			var n int
			fmt.Sscan(number, &n)
			var published packet.QoS
			for _, p := range x.pubs {
				if p.id != id {
					continue
				}
				published = p.accepted[payload]
				if p.refused[payload] && qos == 2 {
					x.t.Fatalf("seed %d: %s got %q, which was refused", x.seed, s.id, payload)
				}
			}
			if published == 0 {
				continue // refused at QoS 1, after it was sent
			}
			key := fmt.Sprint(id, published, qos)
			if n < last[key] && !x.fails() {
				x.t.Fatalf("seed %d: %s got %q after %d", x.seed, s.id, payload, last[key])
			}
			last[key] = n
		}
		for _, p := range x.pubs {
			for _, payload := range slices.Sorted(maps.Keys(p.accepted)) {
				if times[payload] == 0 {
					x.t.Fatalf("seed %d: %s never got %q, which was acknowledged", x.seed, s.id, payload)
				}
			}
		}
		x.queues(s.id, 0, 0)
	}
	x.do(func() {
		if len(x.b.waiting) != 0 || x.b.undecided != 0 {
			x.t.Errorf("seed %d: %d publishes wait, of %d bytes", x.seed, len(x.b.waiting), x.b.undecided)
		}
		if free, all := len(x.b.ops.free), len(x.b.ops.places); free != all {
			x.t.Errorf("seed %d: %d operations are open", x.seed, all-free)
		}
		for _, p := range x.pubs {
			if n := x.b.members[p.id].state.IncomingCount(); n != 0 {
				x.t.Errorf("seed %d: %d identifiers of %s are in use", x.seed, n, p.id)
			}
		}
	})
}

func TestAcknowledgedMessagesArriveWhateverHappens(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			x := newChaos(t, seed)
			for range 400 {
				x.step()
			}
			x.drain()
			x.check()
		})
	}
}
