// Package runner drives one uplink: it takes what the broker hands over, remaps it, keeps it in
// a spool, gives it to the forwarder and the forwarder's decisions to a sink; and it hands what
// comes down to the broker.
//
//	broker ─ Append ─▶ rules ─▶ spool ─▶ forward.Forwarder ─▶ mqtt.Conn ═▶ cloud
//	                              ▲              │  ▲             │
//	                              └── Done ──────┘  └─ Outcome ───┤
//	broker ◀─ Ingest.Inject ◀─ rules of the way down ◀─ Incoming ─┘
//
// One goroutine per uplink owns the forwarder, the connection and everything else that changes;
// others post to its inbox. A second one exists while it dials.
//
// A message at QoS 0 is sent at once if the uplink is connected, otherwise dropped and counted:
// it never reaches the disk. A message that came down from any uplink is not sent up.
package runner
