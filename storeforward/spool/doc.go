// Package spool keeps the messages of one uplink on disk until the uplink says that they are
// done: a bounded durable queue in a bbolt file of its own. It stores Application Messages,
// never packets.
//
// A message is accepted when its commit is on disk, or when the remote end has it before that was
// necessary (see linger.go). It gets the next Seq, and leaves the queue by exactly one outcome. The
// ledger counts both ends:
//
//	accepted = delivered + expired + dropped{reason} + pending
//
// Accepted is counted as messages are stored, pending can be counted by walking the records
// (CountPending). A message that Append refuses was never accepted.
//
// # File
//
// The file uplink-NAME.db holds two buckets. Numbers are unsigned varints unless said otherwise.
//
//	messages: key = Seq (8 B, big endian)
//
//	+---------+-------+---------+------+--------+--------+-------+-----------+------------+---------+-------+
//	| version | flags | expiry* | boot | millis | wall** | topic | publisher | properties | payload | CRC   |
//	+---------+-------+---------+------+--------+--------+-------+-----------+------------+---------+-------+
//	   1 B       1 B     seconds                  zigzag   <-------- length, bytes -------->  rest     4 B
//
// The CRC-32C covers the key and everything before it. Flags: bits 0-1 QoS with which the
// message goes up, bit 2 RETAIN, bit 3 expiry is present (*), bit 4 wall is present (**), bits
// 5-6 QoS as published.
//
//	state: key "cursor" = one record, written with every commit; see state.go
//
// Acknowledgements move the cursor in memory and reach the disk with the next commit, after
// Options.SaveAfter at the latest or at 4,096 of them. Records that are done are deleted in the order of
// their keys, riding on those commits.
//
// # QoS 2
//
// The packet identifier of a message is a function of its Seq, so that it is on disk with the
// message: nothing needs to be written between the commit and the PUBLISH. What is written is
// that the PUBREC was seen, before the PUBREL leaves (Received), and that all of this became void
// because the remote end lost its session, before anything leaves again (Forget).
//
// After a crash nobody knows what was sent. So the state says how far Next may go, some thousand
// records ahead, and nothing is handed out beyond what is on disk. What an earlier process may
// have sent so is marked as a possible repetition; at QoS 2 it neither expires nor gives way when
// the spool is full, because another message with its packet identifier would be taken for it.
//
// On the way in, a source number (that of the message in the broker's own store) is taken over
// once only: the highest one is kept in the commit that stores its message.
//
// # Files without an uplink
//
// Removing an uplink from the configuration does not touch its file. It stays with what is in
// it, and an uplink of the same name takes it up again; whoever wants it gone removes the file.
package spool
