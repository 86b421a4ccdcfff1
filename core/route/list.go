package route

// list holds two or more subscriptions of one filter: an open-addressed table by receiver, so
// that the fifteen thousandth subscription of a filter costs what the second did. Unused slots
// are 0.
type list struct {
	slots []subscription // a power of two, at most three quarters used
	n     int
}

const minSlots = 4

// slot returns where a search for r begins. Receivers are numbered densely; the multiplication
// spreads them.
func (l *list) slot(r Receiver) uint32 {
	return uint32(r) * 0x9E3779B1 >> 7 & uint32(len(l.slots)-1)
}

// find returns the slot of r, or the unused one where its search ended.
func (l *list) find(r Receiver) uint32 {
	mask := uint32(len(l.slots) - 1)
	i := l.slot(r)
	for l.slots[i] != 0 && l.slots[i].receiver() != r {
		i = (i + 1) & mask
	}
	return i
}

// put adds s or replaces the subscription of its receiver.
func (l *list) put(s subscription) (replaced bool) {
	if (l.n+1)*4 > len(l.slots)*3 {
		l.resize(max(minSlots, 2*len(l.slots)))
	}
	i := l.find(s.receiver())
	replaced = l.slots[i] != 0
	l.slots[i] = s
	if !replaced {
		l.n++
	}
	return replaced
}

// remove takes out the subscription of r.
func (l *list) remove(r Receiver) (existed bool) {
	i := l.find(r)
	if l.slots[i] == 0 {
		return false
	}
	// Close the gap: every later subscription of the run that may stand at the gap moves
	// there, so that searches still end at the first unused slot.
	mask := uint32(len(l.slots) - 1)
	gap := i
	for j := (i + 1) & mask; l.slots[j] != 0; j = (j + 1) & mask {
		home := l.slot(l.slots[j].receiver())
		if (j-home)&mask >= (j-gap)&mask {
			l.slots[gap] = l.slots[j]
			gap = j
		}
	}
	l.slots[gap] = 0
	l.n--
	if len(l.slots) > minSlots && l.n*8 < len(l.slots) {
		l.resize(len(l.slots) / 2)
	}
	return true
}

// last returns the only subscription that is left.
func (l *list) last() subscription {
	for _, s := range l.slots {
		if s != 0 {
			return s
		}
	}
	panic("route: internal error: empty list")
}

func (l *list) resize(slots int) {
	old := l.slots
	l.slots = make([]subscription, slots)
	for _, s := range old {
		if s != 0 {
			l.slots[l.find(s.receiver())] = s
		}
	}
}
