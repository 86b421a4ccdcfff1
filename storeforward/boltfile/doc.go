// Package boltfile keeps one bbolt file: it opens and checks it, commits to it in groups, and
// brings it back after an error.
//
// What bbolt does not do by itself, and this package does:
//
//   - A file carries the name and the version of what it holds. Another name or a newer version
//     is refused with words, and not a byte of the file is touched.
//   - A file is made under another name, made durable and renamed: there is no moment at which
//     a crash leaves half a file under the real name.
//   - A damaged page is an error of the transaction that met it, not a crash of the process
//     (faults and panics are caught, see guard.go).
//   - After a failed commit it is known whether the transaction is on disk (see File.Recover).
//   - Writer collects operations and commits them in groups, one transaction after the other.
//
// A transaction costs two fdatasync and 18 to 30 KB of flash whatever is in it; everything here
// follows from that.
package boltfile
