package client

import (
	"maps"

	"dunlin/core/packet"
)

// State is a copy of a client's part of its session at one moment (MQTT5 §4.1): what it has
// published and not finished, and the QoS 2 packet ids that it has received.
type State struct {
	flights  []flight // in order
	serial   uint64
	lastID   packet.ID
	incoming map[packet.ID]bool
}

// Freeze stops all the clients at once, calls during, and returns their states of that moment.
// What they had sent by then may still be on its way; nothing else leaves until during returns.
func Freeze(clients []*Client, during func()) []State {
	for _, c := range clients {
		c.mu.Lock()
		defer c.mu.Unlock()
	}
	states := make([]State, len(clients))
	for i, c := range clients {
		states[i] = State{serial: c.serial, lastID: c.lastID, incoming: maps.Clone(c.incoming)}
		for _, f := range c.inOrder() {
			states[i].flights = append(states[i].flights, *f)
		}
	}
	during()
	return states
}

// InFlight returns the messages that were published and not finished, in order.
func (s State) InFlight() []Publish {
	all := make([]Publish, len(s.flights))
	for i, f := range s.flights {
		all[i] = f.p
	}
	return all
}

// Resume returns a Client that is not connected and goes on from a state.
func Resume(o Options, s State) *Client {
	c := New(o)
	c.serial, c.lastID, c.incoming = s.serial, s.lastID, maps.Clone(s.incoming)
	for _, f := range s.flights {
		c.flights[f.id] = &f
	}
	return c
}
