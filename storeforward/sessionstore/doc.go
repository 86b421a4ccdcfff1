// Package sessionstore keeps persistent sessions, their queues and the retained messages in one
// bbolt file, sessions.db. FORMAT.md has the bytes.
//
// A message is written once, with an entry for each receiver, into a bucket that only grows at
// its end. What a receiver is done with moves the receiver's cursor and nothing else; dead
// records are deleted later, in ranges, along with other commits. There are no keys per queue: a
// message to ten sessions costs one record.
//
// The flow of a message:
//
//	Append          into the open transaction, the queues in memory; gets its number
//	Done, Sent, …   in memory; take a receiver out of a record that is not written yet
//	Flush           wakes the writer
//	seal            the transaction is closed: with it goes the state of everything that has
//	                changed up to this call, so each transaction leaves a state on disk that was true
//	apply, commit   on the writer's goroutine: records, cursors, sweeping; fsync
//	done            completions; reads that waited for this commit may go
//	read            on the reader's goroutine, out of the mapping, CRC checked, copied
//
// In memory a queue is the numbers and sizes of its messages, in runs: four bytes each at most (see seqs).
// Payloads are only on disk.
//
// When a commit fails, everything that was handed over and is not on disk yet is answered with the
// error. Messages among it are as if they had never been handed over. The rest (sessions, packet
// ids, what is done) stays true in memory and goes with the next commit that works.
package sessionstore
