package sessionstore

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/bbolt"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/boltfile"
)

// Kind says what a sessions.db holds, for those who look into one without opening it.
func Kind() boltfile.Kind {
	return boltfile.Kind{
		Format:     Format,
		Version:    Version,
		Buckets:    buckets(),
		Check:      checkValue,
		Fits:       fits,
		Unchanging: []string{string(bucketMessages)},
		Newer: map[string]func(key, a, b []byte) bool{
			string(bucketSessions): newerSession,
			string(bucketCursors):  newerCursor,
			string(bucketRetained): newerRetained,
			string(bucketBoots):    newerBoot,
			string(bucketLedgers):  newerTotal,
			string(bucketMeta):     newerCounters,
			// It never changes, but it leaves: from where nothing leads it is only taken if there is
			// nothing better to know it by. Rather twice than never.
			string(bucketDue): func(_, _, _ []byte) bool { return false },
		},
		Mend: mend,
	}
}

// buckets are the names of all buckets but meta.
func buckets() (names []string) {
	for _, b := range [...][]byte{bucketMessages, bucketSessions, bucketCursors, bucketRetained, bucketBoots, bucketLedgers, bucketDue} {
		names = append(names, string(b))
	}
	return names
}

func checkValue(_ string, key, value []byte) error {
	_, err := openValue(key, value)
	return err
}

// fits reports whether a value can be parsed as one of that bucket.
func fits(bucket string, key, value []byte) bool {
	var err error
	switch bucket {
	case string(bucketMessages):
		var d decoder
		if d, err = openValue(key, value); err == nil {
			d.receivers(false, func(*durable.Receiver) {})
			d.messageSize()
			err = d.end()
		}
		return err == nil && len(key) == 8
	case string(bucketSessions):
		var s durable.Session
		s, err = parseSession(key, value)
		return err == nil && s.Version <= 5
	case string(bucketCursors):
		_, err = parseCursor(key, value)
		return err == nil && len(key) == 8
	case string(bucketRetained):
		var m *message.Message
		m, err = parseRetained(key, value)
		return err == nil && slices.Equal(key, retainedKey(m.Topic))
	case string(bucketBoots):
		_, err = parseBoot(key, value)
	case string(bucketLedgers):
		_, err = parseTotal(value)
		return err == nil && string(key) == string(keyTotal)
	case string(bucketDue):
		_, err = parseDelayed(key, value)
	case string(bucketMeta):
		_, _, err = parseCounters(value)
		return err == nil && string(key) == string(keyCounters)
	default:
		return false
	}
	return err == nil
}

// later compares stamps of a machine; wall clocks order nothing.
func later(a, b message.Stamp) bool {
	return a.Boot > b.Boot || a.Boot == b.Boot && a.Millis > b.Millis
}

func newerSession(key, a, b []byte) bool {
	x, _ := parseSession(key, a)
	y, _ := parseSession(key, b)
	if x.Left == y.Left {
		return len(x.Subscriptions) > len(y.Subscriptions)
	}
	return later(x.Left, y.Left)
}

func newerCursor(key, a, b []byte) bool {
	x, _ := parseCursor(key, a)
	y, _ := parseCursor(key, b)
	if x.asOf == y.asOf {
		return x.ledger.Gone() > y.ledger.Gone()
	}
	return x.asOf > y.asOf
}

func newerRetained(key, a, b []byte) bool {
	x, _ := parseRetained(key, a)
	y, _ := parseRetained(key, b)
	return later(x.Received, y.Received)
}

func newerBoot(key, a, b []byte) bool {
	x, _ := parseBoot(key, a)
	y, _ := parseBoot(key, b)
	return x.LastMillis > y.LastMillis
}

func newerTotal(_, a, b []byte) bool {
	x, _ := parseTotal(a)
	y, _ := parseTotal(b)
	return x.Accepted > y.Accepted
}

func newerCounters(_, a, b []byte) bool {
	x, _, _ := parseCounters(a)
	y, _, _ := parseCounters(b)
	return x > y
}

// skipped is how many numbers are left out behind the last one that is known when others may have
// been given: more than a process gives. An uplink that has taken over one of those would take a new
// message with its number for known.
const (
	skipped         = 1 << 32
	skippedSessions = 1 << 16
)

// mend has the numbers go on behind all that may have been given.
func mend(tx *bbolt.Tx, lost bool) error {
	if !lost {
		return nil
	}
	seq, session, _ := parseCounters(tx.Bucket(bucketMeta).Get(keyCounters))
	for _, name := range [...][]byte{bucketMessages, bucketDue} {
		if k, _ := tx.Bucket(name).Cursor().Last(); len(k) == 8 {
			seq = max(seq, durable.Seq(binary.BigEndian.Uint64(k)))
		}
	}
	err := tx.Bucket(bucketCursors).ForEach(func(k, v []byte) error {
		if c, err := parseCursor(k, v); err == nil {
			seq = max(seq, c.asOf)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range [...][]byte{bucketSessions, bucketCursors} {
		if k, _ := tx.Bucket(name).Cursor().Last(); len(k) == 8 {
			session = max(session, durable.SessionNumber(binary.BigEndian.Uint64(k)))
		}
	}
	return tx.Bucket(bucketMeta).Put(keyCounters, appendCounters(nil, seq+skipped, session+skippedSessions))
}
