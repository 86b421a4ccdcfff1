package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"dunlin/core/message"
)

func TestQueueGivesWhatItTookInOrder(t *testing.T) {
	for seed := range uint64(20) {
		dice := rand.New(rand.NewPCG(3, seed))
		var q queue
		var want []string
		next := 0
		for range 300 {
			for range dice.IntN(1 + int(seed)*10) {
				name := fmt.Sprint(next)
				next++
				q.add(Queued{Message: &message.Message{Topic: name}})
				want = append(want, name)
			}
			for range min(len(want), dice.IntN(1+int(seed)*10)) {
				if got := q.take().Message.Topic; got != want[0] {
					t.Fatalf("seed %d: got message %s, want %s", seed, got, want[0])
				}
				want = want[1:]
			}
			var all []string
			for m := range q.all() {
				all = append(all, m.Message.Topic)
			}
			if q.len() != len(want) || !slices.Equal(all, want) {
				t.Fatalf("seed %d: it has %v, %d; want %v", seed, all, q.len(), want)
			}
		}
	}
}

func TestQueueAsLongAsBeforeNeedsNoMemory(t *testing.T) {
	var q queue
	m := Queued{Message: new(message.Message)}
	for range 1000 {
		q.add(m)
	}
	if n := testing.AllocsPerRun(10, func() {
		for range 1000 {
			q.add(m)
			q.take()
		}
	}); n != 0 {
		t.Errorf("%v allocations for 1,000 messages that come and go", n)
	}
}

func TestQueueThatGetsShortGetsSmall(t *testing.T) {
	var q queue
	m := Queued{Message: new(message.Message)}
	for range 10_000 {
		q.add(m)
	}
	for q.len() > 2 {
		q.take()
	}
	for range 1000 { // it stays short
		q.add(m)
		q.take()
	}
	room := 0
	for b := q.first; b != nil; b = b.next {
		room += cap(b.items)
	}
	if q.spare != nil {
		room += cap(q.spare.items)
	}
	if room > 12 {
		t.Errorf("2 messages wait in room for %d", room)
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, n := range []int{1, 100, 20_000} {
		b.Run(fmt.Sprintf("%d wait", n), func(b *testing.B) {
			var q queue
			m := Queued{Message: new(message.Message)}
			for range n {
				q.add(m)
			}
			b.ReportAllocs()
			for b.Loop() {
				q.add(m)
				q.take()
			}
		})
	}
}
