// Package forward decides what an uplink sends next. It knows no protocol, disk, clock or
// goroutine: it is told what happened and asked what to do.
//
// The forwarder owns the window: the messages that were read from the spool and are not done.
// They leave it in one of three ways, Delivered, Expired or Refused, and only what left it so
// may be removed from disk. A message goes through these phases:
//
//	              ┌───────── later, after a pause ◀────────┐
//	Offer ─▶ waiting ─ Send ─▶ sent ─┬─ Accepted ──▶ Delivered
//	              ▲                  ├─ Refused ───▶ Refused
//	              │                  ├─ Later, Failed ────────┘
//	              │                  └─ Received (QoS 2) ─▶ saving ─ Save on disk ─▶ releasing ─ Release ─▶ released ─ Accepted ─▶ Delivered
//	              │
//	              └─ from sent when the link was lost; from everywhere, after Forget on disk, when the remote end lost its session
//
// A release leaves only after the note that the remote end has the message is on disk, and when
// the remote end lost its session nothing is sent before the notes about it are off the disk:
// with the packet identifier stored beside the message this makes QoS 2 exactly once over a
// crash of either side (MQTT5 §4.3.3). One double fault remains: the remote end loses its
// session and we crash before that is written. It says so only once.
//
// After a link cut the window is sent again in order before anything new; within a connection
// nothing is sent twice [MQTT-4.4.0-1], except what the remote end refused for the moment.
package forward
