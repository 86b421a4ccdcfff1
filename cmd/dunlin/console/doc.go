// Package console is the way in for those who look after a running broker: JSON over HTTP on a unix
// socket, and the client for it.
//
// Who may come in is decided by the kernel: the socket has a mode, and whoever connects is known by the
// credentials of its process. Root and the broker's own user may, and the members of one configured
// group.
//
// GET reads and changes nothing; POST changes something, and is logged with who asked. Paths begin with
// the version of the interface:
//
//	GET  /v1/status          what the broker is and does
//	GET  /v1/ledger          the account of every queue; ?walk=1 counts what is on disk, too
//	GET  /v1/db/check        what the files in use hold, and which values are damaged
//	GET  /v1/db/dump         what they hold, value by value; ?only=session,cursor
//	GET  /v1/db/export       everything that is kept, as an archive
//	POST /v1/db/compact      give their free pages back to the disk
//
// Answers are one JSON value, or for what may be long one value per line. An error is
//
//	{"error": "what is wrong", "remedy": "what to do"}
//
// and if it happens in the middle of a long answer, it is the last line of it.
//
// Everything is bounded: connections, sizes and times. The console has no state of its own and holds
// up nobody: what it asks of the broker is small, or read from the disk in slices.
package console
