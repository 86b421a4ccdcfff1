// Package archive writes what the files of a data folder hold as text that people, scripts and other
// machines can read, and makes files of it again. It is the form of dumps, exports and backups.
//
// An archive is one JSON object per line with one key, the kind of the line. FORMAT.md has the kinds:
//
//	archive                    the first line
//	file                       what follows is of this file
//	boot, delayed, session, cursor, retained, gone, total, counters, message    of sessions.db
//	spooled, spool             of the spool of an uplink
//	damaged                    a value that cannot be read, as it is
//	end                        the last line: how many there were, and their checksum
//
// It is written and read as a stream: neither end has more than a step of it in memory.
package archive
