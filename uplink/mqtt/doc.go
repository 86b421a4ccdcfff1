// Package mqtt is the sink that carries messages to an MQTT 5 server, by paho.golang.
//
// The library keeps the connection: CONNECT, keep alive, SUBSCRIBE, reading and parsing. The
// session is ours: conn.go writes each PUBLISH and PUBREL itself and gives the acknowledgements
// to the forwarder, whose window is on disk; nothing is queued or stored a second time.
//
// What has to be known about the library, version 0.23:
//
//   - It takes every code below 0x80 in a CONNACK for success. A server that speaks only
//     MQTT 3.1.1 answers 0x01: session.ConAckReceived refuses it. Without properties, as 3.1.1
//     has it, it is an unexpected end of file for the library: link.go knows better.
//   - It reads nothing between CONNACK and the return of ConAckReceived: the window is resent
//     after Dial, not in there.
//   - It makes room for the length that a packet claims before its bytes came, and does not know
//     the Maximum Packet Size that it announced. A property length of five bytes is a negative
//     number on 32-bit machines and ends the process. link.go checks both before it reads on.
//   - It ignores the error of PacketReceived: the connection is closed here.
//   - It writes a packet in pieces unless the connection is a sync.Locker: link is one, collects
//     the pieces and flushes in Unlock.
//   - It calls the AuthHandler without looking whether there is one when a CONNACK names an
//     authentication method.
//   - It announces up to 65,535 incoming messages and makes a channel of that size, unless a
//     Receive Maximum is given.
package mqtt
