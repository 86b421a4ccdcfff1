package spool

import (
	"encoding/binary"
	"errors"

	"go.etcd.io/bbolt"

	"dunlin/storeforward/boltfile"
)

// The name and the version of the format of the file.
const (
	format  = "dunlin.uplink"
	version = 1
)

// Kind says what the file of a spool holds, for those who look into one without opening it.
func Kind() boltfile.Kind {
	return boltfile.Kind{
		Format:     format,
		Version:    version,
		Buckets:    buckets(),
		Check:      checkValue,
		Fits:       func(bucket string, key, value []byte) bool { return checkValue(bucket, key, value) == nil },
		Unchanging: []string{string(bucketMessages)},
		Newer:      map[string]func(key, a, b []byte) bool{string(bucketState): newerState},
		Mend:       mend,
	}
}

func buckets() []string { return []string{string(bucketMessages), string(bucketState)} }

var errDamaged = errors.New("spool: damaged value")

func checkValue(bucket string, key, value []byte) error {
	ok := false
	switch bucket {
	case string(bucketMessages):
		ok = len(key) == 8 && checkRecord(Seq(binary.BigEndian.Uint64(key)), value)
	case string(bucketState):
		_, ok = parseState(value)
		ok = ok && string(key) == string(keyCursor)
	}
	if !ok {
		return errDamaged
	}
	return nil
}

func newerState(_, a, b []byte) bool {
	x, _ := parseState(a)
	y, _ := parseState(b)
	if x.last == y.last {
		return x.floor > y.floor
	}
	return x.last > y.last
}

// skipped is how many numbers are left out when others may have been given of which nothing is left:
// more than may be on their way at one time. The remote end takes a message with the packet identifier
// of one that it has at QoS 2 for that one, and the identifier is a function of the number.
const skipped = 2 * reserveMax

// skip leaves numbers out.
func (st *state) skip() {
	st.done(st.last+1, st.last+skipped)
	st.last += skipped
}

// mend brings an old state and the messages that were found together: what the state does not know
// of is pending. How far the one that was lost has let Next go is not known: any of it may have been
// sent.
func mend(tx *bbolt.Tx, lost bool) error {
	if !lost {
		return nil
	}
	b := tx.Bucket(bucketState)
	st, ok := parseState(b.Get(keyCursor))
	if !ok {
		return nil // Open makes one
	}
	c := tx.Bucket(bucketMessages).Cursor()
	for k, v := c.Seek(key(st.last + 1)); len(k) == 8; k, v = c.Next() {
		seq := Seq(binary.BigEndian.Uint64(k))
		if seq > st.last+1 {
			st.done(st.last+1, seq-1) // never there, as far as the ledger knows
		}
		st.last = seq
		st.ledger.Accepted++
		st.ledger.Pending++
		st.ledger.PendingBytes += int64(len(v) + overhead)
	}
	st.skip()
	st.limit = st.last
	return b.Put(keyCursor, st.append(nil))
}
