package route

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// check compares l with what it should have, and its shape with what it promises.
func (l *list) check(want map[Receiver]subscription) error {
	var all []subscription
	for i, b := range l.blocks {
		if len(b) == 0 || cap(b) > blockSize {
			return fmt.Errorf("block %d has %d subscriptions and room for %d", i, len(b), cap(b))
		}
		all = append(all, b...)
	}
	var sorted []subscription
	for _, r := range slices.Sorted(maps.Keys(want)) {
		sorted = append(sorted, want[r])
	}
	if !slices.Equal(all, sorted) || l.n != len(want) {
		return fmt.Errorf("%d subscriptions, n is %d, want %d", len(all), l.n, len(want))
	}
	// Two neighbours that are both nearly empty would have been joined.
	if len(l.blocks) > 8*len(all)/blockSize+2 {
		return fmt.Errorf("%d blocks for %d subscriptions", len(l.blocks), len(all))
	}
	return nil
}

func TestAListIsWhatWasPutAndNotRemoved(t *testing.T) {
	for _, receivers := range []int{3, blockSize, 1000, 5000} {
		t.Run(fmt.Sprintf("%d receivers", receivers), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(receivers), 1))
			var l list
			want := make(map[Receiver]subscription)
			for step := range 60_000 {
				r := Receiver(rng.IntN(receivers))
				_, is := want[r]
				// It grows, shrinks nearly to nothing, and grows again.
				if grows := step/10_000%2 == 0; rng.IntN(10) < 8 == grows {
					s := newSubscription(r, Options{ID: uint32(step)})
					if l.put(s) != is {
						t.Fatalf("step %d: put said that it replaced %v", step, !is)
					}
					want[r] = s
				} else {
					if l.remove(r) != is {
						t.Fatalf("step %d: remove said that there was one: %v", step, !is)
					}
					delete(want, r)
				}
				if step%500 == 0 {
					if err := l.check(want); err != nil {
						t.Fatalf("step %d: %v", step, err)
					}
				}
			}
		})
	}
}

func TestReceiversThatComeInOrderLeaveNoRoom(t *testing.T) {
	var l list
	const n = 10 * blockSize
	for r := range Receiver(n) {
		l.put(newSubscription(r, Options{}))
	}
	room := 0
	for _, b := range l.blocks {
		room += cap(b)
	}
	if room != n {
		t.Errorf("room for %d of %d", room, n)
	}
}
