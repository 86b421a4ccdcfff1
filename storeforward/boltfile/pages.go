package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// This file reads the pages of a bbolt file without bbolt and without trust: whatever is in them,
// it returns errors, it does not panic, fault or run in circles. It reads with read(2), so that a
// medium that does not answer is an error of that page.
//
//	page:    id u64 | flags u16 | count u16 | overflow u32 | elements | keys and values
//	leaf:    flags u32 | pos u32 | key size u32 | value size u32      (pos: from the element on)
//	branch:  pos u32 | key size u32 | page u64
//	bucket:  root page u64 | sequence u64 | page, if root is 0        (a value whose flag 1 is set)
//	meta:    magic u32 | version u32 | page size u32 | flags u32 | root bucket | free list u64 |
//	         pages u64 | transaction u64 | FNV-1a u64
//
// Numbers are in the byte order of the machine.
const (
	pageHeader  = 16
	elementSize = 16
	bucketSize  = 16
	metaSize    = 64

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageMeta     = 0x04
	pageFreelist = 0x10

	elementBucket = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	noFreelist  = ^uint64(0)

	// maxDepth is more levels than a tree can have.
	maxDepth = 32
	// maxTable is how many more pages a page may have whose table of elements does not fit into its
	// first one.
	maxTable = 1024
)

var native = binary.NativeEndian

// pages reads the pages of a file.
type pages struct {
	file  *os.File
	size  int64           // of the file
	count uint64          // whole pages in it
	read  func(bytes int) // told of each read that has ended; nil = nobody is
}

func openPages(path string, read func(bytes int)) (*pages, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &pages{file: f, size: st.Size(), count: uint64(st.Size()) / PageSize, read: read}, nil
}

func (p *pages) close() { p.file.Close() }

// at fills buf with what is in the file from page id on.
func (p *pages) at(id uint64, buf []byte) error {
	n, err := p.file.ReadAt(buf, int64(id)*PageSize)
	if p.read != nil {
		p.read(n)
	}
	if err == io.EOF {
		err = fmt.Errorf("the file ends in it")
	}
	return err
}

// metaPage is what one of the two meta pages says.
type metaPage struct {
	root     uint64
	freelist uint64
	high     uint64 // pages of the file that the transaction knows of
	txid     uint64
	whole    bool // magic, version and checksum are right
}

func parseMeta(page []byte) (m metaPage) {
	b := page[pageHeader : pageHeader+metaSize]
	m = metaPage{root: native.Uint64(b[16:]), freelist: native.Uint64(b[32:]), high: native.Uint64(b[40:]), txid: native.Uint64(b[48:])}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	m.whole = native.Uint32(b) == metaMagic && native.Uint32(b[4:]) == metaVersion &&
		native.Uint32(b[8:]) == PageSize && sum.Sum64() == native.Uint64(b[56:])
	return m
}

// metas reads both meta pages, the one that bbolt would use first. fellBack says that it is not
// certain that this is of the last transaction: the other page is damaged, and may have been of a
// later one.
func (p *pages) metas() (newest, older metaPage, fellBack bool) {
	var m [2]metaPage
	var buf [PageSize]byte
	for i := range m {
		if p.at(uint64(i), buf[:]) == nil {
			m[i] = parseMeta(buf[:])
		}
	}
	a, b := m[0], m[1]
	if b.whole && (!a.whole || b.txid > a.txid) {
		a, b = b, a
	}
	// What is left of the damaged one may tell that it was the older one all the same.
	return a, b, a.whole && !b.whole && b.txid != a.txid-1
}

// element is one element of a leaf or branch page. Its slices alias the page.
type element struct {
	key, value []byte
	bucket     bool   // of a leaf: value is a bucket
	child      uint64 // of a branch
}

// content is a page that was found to be one.
type content struct {
	id    uint64
	leaf  bool
	count int
	data  []byte // from its header on, with what overflows
}

// pages returns how many pages it takes.
func (c *content) pages() uint64 { return uint64(len(c.data)) / PageSize }

// content reads page id, which must end below high, into buf or a larger slice.
func (p *pages) content(id, high uint64, buf []byte) (content, error) {
	if id < 2 || id >= min(high, p.count) {
		return content{}, fmt.Errorf("it is outside of the file")
	}
	buf = append(buf[:0], make([]byte, PageSize)...)
	if err := p.at(id, buf); err != nil {
		return content{}, err
	}
	if got := native.Uint64(buf); got != id {
		return content{}, fmt.Errorf("it says that it is page %d", got)
	}
	more := uint64(native.Uint32(buf[12:]))
	// What a damaged header says must not decide how much memory that takes.
	if more >= min(high, p.count)-id || more > needs(buf) {
		return content{}, fmt.Errorf("it says that it has %d more pages", more)
	}
	if more > 0 {
		buf = append(buf, make([]byte, more*PageSize)...)
		if err := p.at(id+1, buf[PageSize:]); err != nil {
			return content{}, err
		}
	}
	return parseContent(id, buf)
}

// needs returns how many pages a leaf or branch page needs besides its first, given that one, at most.
func needs(first []byte) uint64 {
	n := int(native.Uint16(first[10:]))
	end := pageHeader + n*elementSize
	switch {
	case n == 0:
		return 1
	case end > len(first):
		return maxTable
	}
	at := end - elementSize
	b := first[at:end]
	if native.Uint16(first[8:]) == pageBranch {
		return (uint64(at) + uint64(native.Uint32(b)) + uint64(native.Uint32(b[4:]))) / PageSize
	}
	return (uint64(at) + uint64(native.Uint32(b[4:])) + uint64(native.Uint32(b[8:])) + uint64(native.Uint32(b[12:]))) / PageSize
}

// parseContent checks the header and the elements of a page.
func parseContent(id uint64, data []byte) (content, error) {
	flags := native.Uint16(data[8:])
	c := content{id: id, leaf: flags == pageLeaf, count: int(native.Uint16(data[10:])), data: data}
	if flags != pageLeaf && flags != pageBranch {
		return c, fmt.Errorf("it is of kind %#x", flags)
	}
	if c.count == 0 && !c.leaf || pageHeader+c.count*elementSize > len(data) {
		return c, fmt.Errorf("it says that it has %d elements", c.count)
	}
	// bbolt writes keys and values one behind the other, and the first behind the elements.
	end := pageHeader + c.count*elementSize
	for i := range c.count {
		from, until, ok := c.bounds(i)
		if _, keyed := c.element(i); !ok || !keyed {
			return c, fmt.Errorf("element %d is outside of it", i)
		}
		if from != end {
			return c, fmt.Errorf("element %d does not begin where it should", i)
		}
		end = until
	}
	return c, nil
}

// bounds returns where key and value of element i begin and end; ok is false if that is not within the
// page.
func (c *content) bounds(i int) (from, until int, ok bool) {
	at := pageHeader + i*elementSize
	b := c.data[at : at+elementSize]
	var pos, size uint64
	if c.leaf {
		if native.Uint32(b) > elementBucket {
			return 0, 0, false
		}
		pos, size = uint64(native.Uint32(b[4:])), uint64(native.Uint32(b[8:]))+uint64(native.Uint32(b[12:]))
	} else {
		pos, size = uint64(native.Uint32(b)), uint64(native.Uint32(b[4:]))
	}
	begin := uint64(at) + pos
	if begin < uint64(pageHeader+c.count*elementSize) || begin+size > uint64(len(c.data)) {
		return 0, 0, false
	}
	return int(begin), int(begin + size), true
}

// element returns element i; ok is false if it does not lie within the page or has no key.
func (c *content) element(i int) (e element, ok bool) {
	from, until, ok := c.bounds(i)
	if !ok {
		return e, false
	}
	b := c.data[pageHeader+i*elementSize:]
	split := until
	if c.leaf {
		e.bucket = native.Uint32(b) == elementBucket
		split = from + int(native.Uint32(b[8:]))
	} else {
		e.child = native.Uint64(b[8:])
	}
	e.key, e.value = c.data[from:split:split], c.data[split:until:until]
	return e, split > from
}

// freelist reads the list of free pages that m names; nil and no error if it names none.
func (p *pages) freelist(m metaPage) (ids []uint64, own uint64, err error) {
	if m.freelist == noFreelist {
		return nil, 0, nil
	}
	if m.freelist < 2 || m.freelist >= min(m.high, p.count) {
		return nil, 0, fmt.Errorf("it is outside of the file")
	}
	buf := make([]byte, PageSize)
	if err := p.at(m.freelist, buf); err != nil {
		return nil, 0, err
	}
	more := uint64(native.Uint32(buf[12:]))
	if native.Uint64(buf) != m.freelist || native.Uint16(buf[8:]) != pageFreelist || more >= min(m.high, p.count)-m.freelist {
		return nil, 0, fmt.Errorf("it is no list of free pages")
	}
	n := uint64(native.Uint16(buf[10:]))
	if n == 0xFFFF { // does not fit: the first one is the number
		n = native.Uint64(buf[pageHeader:])
	}
	// What a damaged header says must not decide how much memory that takes. When it was made, the pages that
	// it is in may have been among those that it lists.
	if n > m.high || more > (pageHeader+8*(n+more+2))/PageSize {
		return nil, 0, fmt.Errorf("it says that it has %d pages, and takes %d more itself", n, more)
	}
	if more > 0 {
		buf = append(buf, make([]byte, more*PageSize)...)
		if err := p.at(m.freelist+1, buf[PageSize:]); err != nil {
			return nil, 0, err
		}
	}
	list := buf[pageHeader:]
	if native.Uint16(buf[10:]) == 0xFFFF {
		list = list[8:]
	}
	if n > uint64(len(list))/8 {
		return nil, 0, fmt.Errorf("it says that it has %d pages", n)
	}
	for i := range n {
		id := native.Uint64(list[8*i:])
		if id < 2 || id >= m.high || len(ids) > 0 && id <= ids[len(ids)-1] {
			return nil, 0, fmt.Errorf("it lists page %d", id)
		}
		ids = append(ids, id)
	}
	return ids, more + 1, nil
}

// pageSet is a set of page numbers.
type pageSet []uint64

func newPageSet(pages uint64) pageSet { return make(pageSet, (pages+63)/64) }

func (s pageSet) has(id uint64) bool { return id/64 < uint64(len(s)) && s[id/64]&(1<<(id%64)) != 0 }

func (s pageSet) add(id uint64) { s[id/64] |= 1 << (id % 64) }

// span is the keys from lo on and below hi; nil = no bound.
type span struct{ lo, hi []byte }

func (s span) has(key []byte) bool {
	return (s.lo == nil || bytes.Compare(s.lo, key) <= 0) && (s.hi == nil || bytes.Compare(key, s.hi) < 0)
}

// walk visits what a meta page leads to.
type walk struct {
	pages *pages
	high  uint64
	seen  pageSet
	bufs  [maxDepth][]byte // a page for each level

	// value is called with each key and value of a top-level bucket, in their order.
	value func(bucket string, key, value []byte) error
	// found is called with the name of each top-level bucket; nil = nothing is.
	found func(bucket string)
	// hole is called for what cannot be read, and why: the keys within lost; bucket "" are the
	// top-level buckets themselves.
	hole func(bucket string, lost span, page uint64, why error)
}

// run walks the tree of m. The error is that of value.
func (w *walk) run(m metaPage) error {
	w.high = m.high
	w.seen = newPageSet(min(m.high, w.pages.count))
	return w.page("", m.root, span{}, 0)
}

// page visits the page id, whose keys are in within.
func (w *walk) page(bucket string, id uint64, within span, depth int) error {
	c, err := w.take(id, within, depth)
	if err != nil {
		w.hole(bucket, within, id, err)
		return nil
	}
	for i := range c.count {
		e, _ := c.element(i)
		switch {
		case !c.leaf:
			err = w.page(bucket, e.child, c.within(i, within), depth+1)
		case bucket != "" && !e.bucket:
			err = w.value(bucket, e.key, e.value)
		case bucket == "" && e.bucket:
			err = w.bucket(string(e.key), e.value, depth+1)
		default:
			w.hole(bucket, span{e.key, after(e.key)}, id, fmt.Errorf("element %d is of the wrong kind", i))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// after is the key that follows key.
func after(key []byte) []byte { return append(bytes.Clone(key), 0) }

// within is where the keys of child i of a branch are.
func (c *content) within(i int, within span) span {
	e, _ := c.element(i)
	s := span{e.key, within.hi}
	if i == 0 {
		s.lo = within.lo // bbolt looks for smaller keys there, too
	}
	if i+1 < c.count {
		next, _ := c.element(i + 1)
		s.hi = next.key
	}
	return s
}

// take reads a page that nothing else may refer to, with its keys in order and within bounds.
func (w *walk) take(id uint64, within span, depth int) (content, error) {
	if depth >= maxDepth {
		return content{}, fmt.Errorf("it is too deep")
	}
	c, err := w.pages.content(id, w.high, w.bufs[depth])
	if err != nil {
		return c, err
	}
	w.bufs[depth] = c.data
	if err := c.ordered(within); err != nil {
		return c, err
	}
	for i := range c.pages() {
		if w.seen.has(id + i) {
			return c, fmt.Errorf("it is used twice")
		}
	}
	for i := range c.pages() {
		w.seen.add(id + i)
	}
	return c, nil
}

func (c *content) ordered(within span) error {
	var before []byte
	for i := range c.count {
		e, _ := c.element(i)
		if before != nil && bytes.Compare(before, e.key) >= 0 {
			return fmt.Errorf("the key of element %d is not behind the one before", i)
		}
		before = e.key
		if i > 0 && i < c.count-1 { // between others that are checked
			continue
		}
		if !within.has(e.key) {
			return fmt.Errorf("the key of element %d belongs elsewhere", i)
		}
	}
	return nil
}

// bucket visits a top-level bucket.
func (w *walk) bucket(name string, value []byte, depth int) error {
	if w.found != nil {
		w.found(name)
	}
	if len(value) < bucketSize {
		w.hole(name, span{}, 0, fmt.Errorf("its bucket is %d bytes long", len(value)))
		return nil
	}
	if root := native.Uint64(value); root != 0 {
		return w.page(name, root, span{}, depth)
	}
	if len(value) < bucketSize+pageHeader {
		w.hole(name, span{}, 0, fmt.Errorf("its bucket is %d bytes long", len(value)))
		return nil
	}
	c, err := parseContent(0, value[bucketSize:])
	if err == nil && !c.leaf {
		err = fmt.Errorf("it is no leaf")
	}
	if err == nil {
		err = c.ordered(span{})
	}
	if err != nil {
		w.hole(name, span{}, 0, err)
		return nil
	}
	for i := range c.count {
		e, _ := c.element(i)
		if e.bucket {
			w.hole(name, span{e.key, after(e.key)}, 0, fmt.Errorf("element %d is of the wrong kind", i))
			continue
		}
		if err := w.value(name, e.key, e.value); err != nil {
			return err
		}
	}
	return nil
}
