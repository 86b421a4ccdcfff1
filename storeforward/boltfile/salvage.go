package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"
)

// Salvaged is what Salvage has brought over.
type Salvaged struct {
	Values map[string]uint64 // of each bucket
	// Older are those of them that the newest state did not lead to: of the state before the last
	// transaction, or out of pages that nothing leads to.
	Older uint64
	Holes int // parts of the newest state that could not be read, single values among them
}

// All is the sum of Values.
func (s *Salvaged) All() (n uint64) {
	for _, k := range s.Values {
		n += k
	}
	return n
}

const (
	// salvageBatch is how many bytes go into a transaction of the new file.
	salvageBatch = 1 << 20
	// maxSplinter bounds what a damaged element may claim to be long.
	maxSplinter = 16 << 20
)

// Salvage writes what can be read of the file at path into a new one at to, and makes that durable;
// path is only read. What is written, in this order, and nothing that Check and Fits do not accept:
//
//  1. what the newest meta page leads to, page by page; of a damaged leaf each element that is whole;
//  2. for the keys that this leaves out, what the older meta page leads to: the state before the
//     last transaction, whose pages were not written over yet;
//  3. for those keys, what is in the leaves that nothing leads to. If the list of free pages tells
//     that one is in use, it is of the newest state. Others may be of any time: of an unchanging
//     bucket any value will do, of one with Newer the newest is taken unless the state before says
//     that there is none, of the others none.
//
// If the newer meta page is damaged, the newest state is the one before the last transaction, whose
// pages are those that nothing leads to: what is new or newer there is taken, too.
//
// An error of Salvage says that the new file could not be written. read is as for Inspect.
func Salvage(path, to string, k Kind, read func(bytes int)) (*Salvaged, error) {
	p, err := openPages(path, read)
	if err != nil {
		return nil, fmt.Errorf("boltfile: salvage: %w", err)
	}
	defer p.close()
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("boltfile: salvage: %w", err)
	}
	f := &File{path: to, opts: Options{Format: k.Format, Version: k.Version, NoSync: true}}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("boltfile: salvage: %w", err)
	}
	s := &salvage{kind: k, pages: p, db: f.db, result: &Salvaged{Values: make(map[string]uint64)}}
	err = guard(to, s.run)
	if err == nil {
		err = f.db.Sync()
	}
	if s.tx != nil {
		rollback(to, s.tx)
	}
	if err = errors.Join(err, f.db.Close()); err == nil {
		err = SyncFolder(filepath.Dir(to), false)
	}
	if err != nil {
		os.Remove(to)
		return nil, fmt.Errorf("boltfile: salvage %s: %w", path, err)
	}
	return s.result, nil
}

// salvage is a Salvage under way.
type salvage struct {
	kind   Kind
	pages  *pages
	result *Salvaged

	db    *bbolt.DB
	tx    *bbolt.Tx // nil = none is open
	bytes int       // in tx

	holes holes // of the newest state
	older holes // of the state before
	lost  bool  // a transaction
}

func (s *salvage) run() error {
	if err := s.begin(); err != nil {
		return err
	}
	newest, older, fellBack := s.pages.metas()
	s.lost = fellBack || !newest.whole
	seen, err := s.state(newest, &s.holes, s.current)
	if err != nil {
		return err
	}
	s.result.Holes = s.holes.count
	var before pageSet
	switch {
	case fellBack:
		err = s.ahead()
	case s.result.Holes > 0:
		before, err = s.state(older, &s.older, s.before)
	default:
		return s.end()
	}
	if err == nil {
		err = s.scan(newest, seen, before)
	}
	if err != nil {
		return err
	}
	return s.end()
}

// ahead has what the lost transaction wrote looked for: its pages are there, nothing leads to them,
// and the state that was read is the one before. Of an unchanging bucket that is what lies behind its
// last key, of one with Newer what is newer.
func (s *salvage) ahead() error {
	s.older = s.holes.clone()
	err := s.update(0, func(tx *bbolt.Tx) error {
		for _, name := range s.kind.Unchanging {
			h := hole{bucket: name}
			if last, _ := tx.Bucket([]byte(name)).Cursor().Last(); last != nil {
				h.keys.lo = after(last)
			}
			s.holes.add(h)
		}
		return nil
	})
	for name := range s.kind.Newer {
		s.holes.add(hole{bucket: name})
	}
	s.holes.join()
	return err
}

// begin makes the buckets.
func (s *salvage) begin() error {
	return s.update(0, func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		return errors.Join(
			meta.Put(keyFormat, []byte(s.kind.Format)),
			meta.Put(keyVersion, binary.BigEndian.AppendUint32(nil, s.kind.Version)),
			meta.Put(keyState, stateOpen), // it was not a clean stop
			createBuckets(tx, s.kind.Buckets),
		)
	})
}

// end lets the kind complete what there is, and commits.
func (s *salvage) end() error {
	if s.kind.Mend != nil {
		lost := s.lost || s.result.Holes > 0
		if err := s.update(0, func(tx *bbolt.Tx) error { return s.kind.Mend(tx, lost) }); err != nil {
			return err
		}
	}
	s.db.NoFreelistSync = false
	return s.update(0, func(*bbolt.Tx) error { return s.commit() })
}

// update runs fn in the open transaction, of which a value of that many bytes becomes part.
func (s *salvage) update(bytes int, fn func(tx *bbolt.Tx) error) (err error) {
	if s.bytes += bytes; s.bytes > salvageBatch {
		s.bytes = bytes
		if err := s.commit(); err != nil {
			return err
		}
	}
	if s.tx == nil {
		if s.tx, err = s.db.Begin(true); err != nil {
			return err
		}
	}
	return fn(s.tx)
}

func (s *salvage) commit() error {
	tx := s.tx
	s.tx = nil
	if tx == nil {
		return nil
	}
	return tx.Commit()
}

// accepts reports whether a value is whole and belongs to the bucket.
func (s *salvage) accepts(bucket string, key, value []byte) bool {
	return s.kind.Check(bucket, key, value) == nil && s.kind.Fits(bucket, key, value)
}

// put writes a value. One that is there already stays, unless it is older by newer.
func (s *salvage) put(bucket string, key, value []byte, old bool, newer func(key, a, b []byte) bool) error {
	return s.update(len(key)+len(value), func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil // of a later version of this kind
		}
		has := b.Get(key)
		if has != nil && (newer == nil || !newer(key, value, has)) {
			return nil
		}
		if has == nil {
			s.result.Values[bucket]++
			if old {
				s.result.Older++
			}
		}
		// bbolt keeps the value until the commit.
		return Appending(b).Put(key, append([]byte(nil), value...))
	})
}

// current takes a value of the newest state.
func (s *salvage) current(bucket string, key, value []byte) error {
	return s.put(bucket, key, value, false, nil)
}

// before takes a value of the state before, if the newest one cannot be read there.
func (s *salvage) before(bucket string, key, value []byte) error {
	if !s.holes.has(bucket, key) {
		return nil
	}
	return s.put(bucket, key, value, true, nil)
}

// state visits the values that a meta page leads to, and returns the pages that they are in.
func (s *salvage) state(m metaPage, missing *holes, take func(bucket string, key, value []byte) error) (pageSet, error) {
	if !m.whole {
		missing.all(s.kind.Buckets)
		missing.join()
		return nil, nil
	}
	r := reading{s: s, missing: missing, take: take}
	w := walk{pages: s.pages, value: r.value, hole: r.hole, found: func(b string) { r.found = append(r.found, b) }}
	if err := w.run(m); err != nil {
		return nil, err
	}
	r.close(nil)
	for len(r.broken) > 0 { // what it finds may be broken, too
		h := r.broken[0]
		r.broken = r.broken[1:]
		if err := s.splinters(&w, h, &r); err != nil {
			return nil, err
		}
	}
	r.close(nil)
	for _, b := range without(s.kind.Buckets, r.found) {
		missing.add(hole{bucket: b})
	}
	if len(missing.of[""]) > 0 {
		missing.all(s.kind.Buckets)
	}
	missing.join()
	return w.seen, nil
}

// reading takes the values of one state, and notes what of it is missing.
type reading struct {
	s       *salvage
	missing *holes
	take    func(bucket string, key, value []byte) error
	broken  []hole // pages that cannot be read
	found   []string

	bucket string
	before []byte // the last key that was right, nil = none of the bucket was yet
	bad    bool   // values behind it were not
}

func (r *reading) value(bucket string, key, value []byte) error {
	if bucket == string(metaBucket) && isOurMeta(key) {
		return nil
	}
	if bucket != r.bucket {
		r.close(nil)
		r.bucket, r.before = bucket, nil
	}
	if !r.s.accepts(bucket, key, value) {
		if r.s.kind.Check(bucket, key, value) == nil { // of another bucket: this is not what should be here
			r.missing.add(hole{bucket: bucket})
		}
		r.bad = true
		return nil
	}
	r.close(key)
	r.before = append(r.before[:0], key...)
	return r.take(bucket, key, value)
}

// close ends a run of bad values at the key that follows. The key of each may be what is damaged, so
// that anything between its neighbours is missing.
func (r *reading) close(next []byte) {
	if !r.bad {
		return
	}
	r.bad = false
	h := hole{bucket: r.bucket, keys: span{hi: next}}
	if r.before != nil {
		h.keys.lo = after(r.before)
	}
	r.missing.add(h)
}

func (r *reading) hole(bucket string, keys span, page uint64, _ error) {
	if bucket == r.bucket {
		r.close(keys.lo)
	}
	h := hole{bucket: bucket, keys: keys, page: page}.clone()
	r.missing.add(h)
	if len(r.broken) < maxHoles {
		r.broken = append(r.broken, h)
	}
}

func isOurMeta(key []byte) bool {
	k := string(key)
	return k == string(keyFormat) || k == string(keyVersion) || k == string(keyState)
}

// splinters takes the whole elements of a damaged leaf, of which its parent tells what it should
// hold. What of a page tells where its elements are counts for each of them alone.
//
// It may be whole, and what its parent tells damaged. A key that does not belong there is missing
// where it does, and looked for with what else is.
func (s *salvage) splinters(w *walk, h hole, r *reading) error {
	if h.page < 2 || h.page >= s.pages.count || w.seen.has(h.page) {
		return nil
	}
	c := content{id: h.page, leaf: true, count: (PageSize - pageHeader) / elementSize, data: make([]byte, PageSize)}
	if s.pages.at(h.page, c.data) != nil {
		return nil
	}
	for i := range c.count {
		s.stretch(&c, i)
		e, ok := c.splinter(i)
		switch {
		case !ok:
		case !h.keys.has(e.key):
			if h.bucket != "" && s.accepts(h.bucket, e.key, e.value) {
				r.missing.add(hole{bucket: h.bucket, keys: span{e.key, after(e.key)}})
			}
		case h.bucket != "":
			if s.accepts(h.bucket, e.key, e.value) {
				if err := r.take(h.bucket, e.key, e.value); err != nil {
					return err
				}
			}
		case s.known(string(e.key)) && len(e.value) >= bucketSize:
			if err := w.bucket(string(e.key), e.value, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *salvage) known(bucket string) bool {
	return bucket == string(metaBucket) || slices.Contains(s.kind.Buckets, bucket)
}

// stretch reads on if element i ends behind what was read.
func (s *salvage) stretch(c *content, i int) {
	b := c.data[pageHeader+i*elementSize:]
	end := int64(pageHeader+i*elementSize) + int64(native.Uint32(b[4:])) + int64(native.Uint32(b[8:])) + int64(native.Uint32(b[12:]))
	if end <= int64(len(c.data)) || end > maxSplinter || native.Uint32(b) > elementBucket || native.Uint32(b[4:]) > 1<<20 {
		return
	}
	data := make([]byte, (end+PageSize-1)/PageSize*PageSize)
	if s.pages.at(c.id, data) == nil {
		c.data = data
	}
}

// splinter is element without a table that can be relied upon: where it ends is not known.
func (c *content) splinter(i int) (element, bool) {
	one := *c
	one.count = i + 1
	return one.element(i)
}

// scan takes what is missing out of the leaves that neither state leads to.
func (s *salvage) scan(newest metaPage, seen, before pageSet) error {
	free, listed := s.free(newest)
	for id := uint64(2); id < s.pages.count; id++ {
		if seen.has(id) || before.has(id) {
			continue
		}
		c, ok := s.leaf(id)
		if !ok {
			continue
		}
		// What overflows from it is looked at, too: it may have been free and used again.
		if err := s.orphan(c, listed && id < newest.high && !free.has(id)); err != nil {
			return err
		}
	}
	return nil
}

// leaf reads a page that says of itself that it is this one, and a leaf. Its elements need not be
// whole.
func (s *salvage) leaf(id uint64) (c content, ok bool) {
	c = content{id: id, leaf: true, data: make([]byte, PageSize)}
	if s.pages.at(id, c.data) != nil || native.Uint64(c.data) != id || native.Uint16(c.data[8:]) != pageLeaf {
		return c, false
	}
	c.count = min(int(native.Uint16(c.data[10:])), (PageSize-pageHeader)/elementSize)
	if more := uint64(native.Uint32(c.data[12:])); more > 0 && more <= needs(c.data) && more < s.pages.count-id {
		c.data = append(c.data, make([]byte, more*PageSize)...)
		if s.pages.at(id+1, c.data[PageSize:]) != nil {
			return c, false
		}
		c.count = min(int(native.Uint16(c.data[10:])), (len(c.data)-pageHeader)/elementSize)
	}
	return c, true
}

// values are the elements of a leaf that are whole, as values of the bucket.
func (s *salvage) values(c content, bucket string) iter.Seq[element] {
	return func(yield func(element) bool) {
		for i := range c.count {
			if e, ok := c.splinter(i); ok && !e.bucket && s.accepts(bucket, e.key, e.value) && !yield(e) {
				return
			}
		}
	}
}

// free returns the pages that were free in the newest state; listed is false if nothing tells.
func (s *salvage) free(newest metaPage) (free pageSet, listed bool) {
	if !newest.whole || newest.freelist == noFreelist {
		return nil, false
	}
	ids, _, err := s.pages.freelist(newest)
	if err != nil {
		return nil, false
	}
	free = newPageSet(s.pages.count)
	for _, id := range ids {
		if id < s.pages.count {
			free.add(id)
		}
	}
	return free, true
}

// orphan takes what is missing out of a leaf that nothing leads to. All its elements are of one
// bucket: that whose form they have.
func (s *salvage) orphan(c content, used bool) error {
	best, most := "", 0
	for _, bucket := range append([]string{string(metaBucket)}, s.kind.Buckets...) {
		n := 0
		for range s.values(c, bucket) {
			n++
		}
		if n > most {
			best, most = bucket, n
		}
	}
	if most == 0 {
		return s.inline(c, used)
	}
	for e := range s.values(c, best) {
		if err := s.stray(best, e, used); err != nil {
			return err
		}
	}
	return nil
}

// stray takes a value that neither state leads to, if it is missing. used says that its page is not
// free: then it is of the newest state, and replaces one of the state before. Otherwise it may be of
// any time: where the state before could be read and has no such key, there is none.
func (s *salvage) stray(bucket string, e element, used bool) error {
	if !s.holes.has(bucket, e.key) {
		return nil
	}
	newer := s.kind.Newer[bucket]
	switch {
	case s.unchanging(bucket):
		newer = nil
	case used:
		newer = func(_, _, _ []byte) bool { return true }
	case newer == nil, !s.older.has(bucket, e.key) && !s.has(bucket, e.key):
		return nil
	}
	return s.put(bucket, e.key, e.value, true, newer)
}

// has reports whether the new file has a value under the key.
func (s *salvage) has(bucket string, key []byte) (is bool) {
	_ = s.update(0, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		is = b != nil && b.Get(key) != nil
		return nil
	})
	return is
}

// inline takes small buckets out of what was a page of buckets.
func (s *salvage) inline(c content, used bool) error {
	for i := range c.count {
		e, ok := c.splinter(i)
		if !ok || !e.bucket || !s.known(string(e.key)) || len(e.value) < bucketSize+pageHeader || native.Uint64(e.value) != 0 {
			continue
		}
		data := e.value[bucketSize:]
		in := content{leaf: true, data: data, count: min(int(native.Uint16(data[10:])), (len(data)-pageHeader)/elementSize)}
		for v := range s.values(in, string(e.key)) {
			if err := s.stray(string(e.key), v, used); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *salvage) unchanging(bucket string) bool {
	return slices.Contains(s.kind.Unchanging, bucket)
}
