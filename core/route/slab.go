package route

// places is how many places of a slab are allocated at a time: 12 KB of nodes.
const places = 512

// slab hands out numbered places for values of one type. It grows by a chunk at a time, so
// growing copies nothing, and uses freed places first. Number 0 is never handed out: it means
// none.
type slab[T any] struct {
	chunks []*[places]T
	used   uint32   // places ever handed out, place 0 counted
	free   []uint32 // given back
}

// take returns the number of a place that holds the zero value.
func (s *slab[T]) take() uint32 {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i
	}
	if s.used == 0 {
		s.used = 1
	}
	if int(s.used/places) >= len(s.chunks) {
		s.chunks = append(s.chunks, new([places]T))
	}
	i := s.used
	s.used++
	return i
}

// give clears place i and keeps it for the next take.
func (s *slab[T]) give(i uint32) {
	var zero T
	*s.at(i) = zero
	s.free = append(s.free, i)
}

// at returns place i. The pointer stays good until the place is given back.
func (s *slab[T]) at(i uint32) *T { return &s.chunks[i/places][i%places] }

// len returns the number of places that are handed out.
func (s *slab[T]) len() int {
	if s.used == 0 {
		return 0
	}
	return int(s.used) - 1 - len(s.free)
}
