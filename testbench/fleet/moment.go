package fleet

import (
	"dunlin/testbench/client"
	"dunlin/testbench/tally"
)

// Moment is the state of a fleet between two packets: what each device has in flight and what
// each receiver has got. A fleet can go on from it, as devices do whose broker has lost its
// power and comes back.
type Moment struct {
	publishers []client.State
	receivers  []client.State
	got        []*tally.Got
	want       *tally.Snapshot
}

// Freeze takes the state of running publishers and receivers of one tally. during is called
// while nothing moves.
func Freeze(t *tally.Tally, publishers []*Publisher, receivers []*Receiver, during func()) *Moment {
	var clients []*client.Client
	for _, p := range publishers {
		clients = append(clients, p.client)
	}
	for _, r := range receivers {
		clients = append(clients, r.client)
	}
	m := &Moment{}
	states := client.Freeze(clients, func() {
		for _, r := range receivers {
			m.got = append(m.got, r.Got.Clone())
		}
		m.want = t.Snapshot()
		during()
	})
	m.publishers, m.receivers = states[:len(publishers)], states[len(publishers):]
	for _, s := range m.publishers {
		for _, p := range s.InFlight() {
			m.want.Include(p.Payload)
		}
	}
	return m
}

// Want returns what each receiver must have once the publishers have finished what was in
// flight.
func (m *Moment) Want() *tally.Snapshot { return m.want }

// Publisher returns publisher i as it was, given as it is, to go on at address.
func (m *Moment) Publisher(i int, p *Publisher, address string) *Publisher {
	again := &Publisher{Options: p.Options, Lines: p.Lines, Size: p.Size, known: true}
	again.Options.Address = address
	again.client = client.Resume(again.Options, m.publishers[i])
	return again
}

// Receiver returns receiver i as it was, given as it is, to go on at address, with its list.
func (m *Moment) Receiver(i int, r *Receiver, address string) *Receiver {
	again := &Receiver{Options: r.Options, Filters: r.Filters, Got: m.got[i].Clone(), Joined: true}
	again.Options.Address = address
	again.client = client.Resume(again.options(), m.receivers[i])
	return again
}
