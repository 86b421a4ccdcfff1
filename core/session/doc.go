// Package session is the Session State of one client (MQTT5 §4.1): packet identifiers, the
// flows of QoS 1 and 2 in both directions, the window and the queue behind it. It does no I/O,
// knows no clock and starts no goroutine, and it works without a socket: the broker tells it
// what happened and carries out what it answers.
//
// # Two kinds
//
// A durable session has a number; what waits for it is in the store, and here are only the
// sequence numbers of what is in flight. A session that ends with its connection has no
// number; what waits for it is in memory, bounded.
//
// # Live or behind
//
// A session is live while everything that was appended for it has been sent: a new message
// then goes out at once if the window has room. Otherwise it is behind: new messages stay
// behind what waits, and the broker reads from the store, as the window opens, until nothing
// is left.
//
//	Offer ── live, room ──▶ in flight ──Puback──────────────────────────▶ done
//	  │                        └──Pubrec──▶ received ──▶ released ──Pubcomp──▶ done
//	  └─ behind ──▶ store ──NextRead, Entry──▶ in flight
//
// After a new connection everything that was in flight is read again, in its old order and
// with its old identifiers, before anything else is (MQTT5 §4.4).
package session
