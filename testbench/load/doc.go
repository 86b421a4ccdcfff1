// Package load drives a broker, ours or any other, as hard as it goes, and says what came of it:
// throughput, latency, what the broker's process spent on it, and whether anything was lost,
// duplicated or misordered.
//
// A few loops on epoll own all clients; there is no goroutine for a connection and no allocation
// for a message. Each payload begins with who published it, its number and when:
//
//	+---------+---------------+------------+-------------------+---------
//	| run 4 B | publisher 4 B | number 4 B | sent at, ns, 8 B  | filling
//	+---------+---------------+------------+-------------------+---------
//
// A subscriber compares the number with the one that it expects next of that publisher. In a
// closed loop a message is in flight until every subscriber has it and, at QoS 1 and 2, the
// broker has acknowledged it; a publisher has a ring of slots, one for each message that it may
// have in flight, and the next message waits for its slot. The packet identifier is the slot.
// In an open loop messages leave by the clock; what cannot leave, because the socket is full or
// the identifiers are used up, is counted as held back.
package load
