package route

import (
	"slices"
	"sort"
)

// list holds two or more subscriptions of one filter, sorted by receiver, in blocks of bounded size: the
// fifteen thousandth subscription of a filter costs about what the second did, growing copies little,
// and a block that was filled in order has no unused place.
type list struct {
	blocks [][]subscription // each sorted, none empty; the receivers of one are above those of the one before
	n      int
}

// blockSize is how many subscriptions a block has at most: 1 KiB of them.
const blockSize = 128

// find returns the block and the place in it where the subscription of r is, or where it belongs.
func (l *list) find(r Receiver) (block, place int, found bool) {
	least := subscription(r) << 32 // below each of r's, and above those of the receivers before r
	block = sort.Search(len(l.blocks), func(i int) bool { return l.blocks[i][len(l.blocks[i])-1] >= least })
	switch {
	case block < len(l.blocks):
		place, _ = slices.BinarySearch(l.blocks[block], least)
		return block, place, l.blocks[block][place].receiver() == r
	case block == 0:
		return 0, 0, false
	}
	return block - 1, len(l.blocks[block-1]), false
}

// put adds s or replaces the subscription of its receiver.
func (l *list) put(s subscription) (replaced bool) {
	i, place, found := l.find(s.receiver())
	if found {
		l.blocks[i][place] = s
		return true
	}
	l.n++
	switch {
	case len(l.blocks) == 0:
		l.blocks = [][]subscription{{s}}
		return false
	case len(l.blocks[i]) < blockSize:
	case place == blockSize: // behind all others: they came in order, and leave no room behind them
		l.blocks = append(l.blocks, []subscription{s})
		return false
	default:
		upper := append(make([]subscription, 0, blockSize), l.blocks[i][blockSize/2:]...)
		l.blocks[i] = l.blocks[i][:blockSize/2]
		l.blocks = slices.Insert(l.blocks, i+1, upper)
		if place > blockSize/2 {
			i, place = i+1, place-blockSize/2
		}
	}
	l.blocks[i] = slices.Insert(l.blocks[i], place, s)
	return false
}

// remove takes out the subscription of r.
func (l *list) remove(r Receiver) (existed bool) {
	i, place, found := l.find(r)
	if !found {
		return false
	}
	l.n--
	l.blocks[i] = slices.Delete(l.blocks[i], place, place+1)
	switch n := len(l.blocks[i]); {
	case n == 0:
		l.blocks = slices.Delete(l.blocks, i, i+1)
	case n >= blockSize/4:
	case i > 0 && len(l.blocks[i-1])+n <= blockSize*3/4:
		l.join(i - 1)
	case i+1 < len(l.blocks) && n+len(l.blocks[i+1]) <= blockSize*3/4:
		l.join(i)
	}
	return true
}

// join puts block i+1 into block i.
func (l *list) join(i int) {
	l.blocks[i] = append(l.blocks[i], l.blocks[i+1]...)
	l.blocks = slices.Delete(l.blocks, i+1, i+2)
}

// first returns the subscription of the first receiver.
func (l *list) first() subscription { return l.blocks[0][0] }
