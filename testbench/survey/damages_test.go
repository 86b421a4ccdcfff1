package survey

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

const (
	pageSize = 4096
	sector   = 512
)

// damage is one way in which a file can be wrong. It changes the file in place or returns another, and
// says where.
type damage struct {
	name string
	do   func(r *rand.Rand, file []byte) ([]byte, string)
}

// used returns how many pages of a file have ever been written: the rest of it is room to grow.
func used(file []byte) int {
	n := 0
	for meta := range 2 {
		n = max(n, int(binary.NativeEndian.Uint64(file[meta*pageSize+56:])))
	}
	return min(n, len(file)/pageSize)
}

// onPage changes one page, any but more often one of those at the begin, where meta pages and roots
// are.
func onPage(name string, do func(r *rand.Rand, page []byte)) damage {
	return damage{name, func(r *rand.Rand, file []byte) ([]byte, string) {
		n := r.IntN(used(file))
		if r.IntN(4) == 0 {
			n = r.IntN(min(12, used(file)))
		}
		do(r, file[n*pageSize:][:pageSize])
		return file, fmt.Sprint("of page ", n)
	}}
}

var damages = []damage{
	onPage("a bit flipped", func(r *rand.Rand, p []byte) { p[r.IntN(len(p))] ^= 1 << r.IntN(8) }),
	onPage("a bit flipped in the header", func(r *rand.Rand, p []byte) { p[r.IntN(64)] ^= 1 << r.IntN(8) }),
	onPage("zeroed", func(_ *rand.Rand, p []byte) { clear(p) }),
	onPage("random", func(r *rand.Rand, p []byte) { scramble(r, p) }),
	onPage("torn, its end lost", func(r *rand.Rand, p []byte) { clear(p[sector*(1+r.IntN(7)):]) }),
	onPage("torn, a sector of something else", func(r *rand.Rand, p []byte) { scramble(r, p[sector*r.IntN(8):][:sector]) }),
	{"a page in the place of another", func(r *rand.Rand, file []byte) ([]byte, string) {
		a, b := r.IntN(used(file)), r.IntN(used(file))
		copy(file[a*pageSize:][:pageSize], file[b*pageSize:][:pageSize])
		return file, fmt.Sprint("page ", b, " at ", a)
	}},
	{"truncated", func(r *rand.Rand, file []byte) ([]byte, string) {
		n := r.IntN(used(file) * pageSize)
		return file[:n], fmt.Sprint("to ", n, " bytes of ", len(file))
	}},
	{"many bits flipped", func(r *rand.Rand, file []byte) ([]byte, string) {
		n := 2 + r.IntN(60)
		for range n {
			file[r.IntN(used(file)*pageSize)] ^= 1 << r.IntN(8)
		}
		return file, fmt.Sprint(n, " of them")
	}},
	{"an erase block gone", func(r *rand.Rand, file []byte) ([]byte, string) {
		at := r.IntN(used(file)) * pageSize
		block := file[at:min(at+128<<10, len(file))]
		for i := range block {
			block[i] = 0xFF
		}
		return file, fmt.Sprint("from page ", at/pageSize)
	}},
	{"a tenth of the pages zeroed", func(r *rand.Rand, file []byte) ([]byte, string) {
		for n := range used(file) {
			if r.IntN(10) == 0 {
				clear(file[n*pageSize:][:pageSize])
			}
		}
		return file, ""
	}},
	{"both meta pages gone", func(_ *rand.Rand, file []byte) ([]byte, string) {
		clear(file[:2*pageSize])
		return file, ""
	}},
	{"emptied", func(_ *rand.Rand, file []byte) ([]byte, string) { return file[:0], "" }},
}

func scramble(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}
