package route

import (
	"fmt"
	"testing"
)

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		for _, s := range shapes {
			if s.topic == nil && s.name != "tree" {
				continue
			}
			name := s.filter
			if s.topic != nil {
				name = s.topic
			}
			x := New()
			for i := range n {
				x.Subscribe(s.filter(i), Receiver(i), Options{})
			}
			topics := make([][]byte, 4096)
			for i := range topics {
				topics[i] = []byte(name(i * 7919 % n))
			}
			prefix := fmt.Sprintf("%dk_filters/%s", n/1000, s.name)
			b.Run(prefix+"/uncached", func(b *testing.B) {
				b.ReportAllocs()
				var dst []Match
				i := 0
				for b.Loop() {
					dst = x.Match(topics[i&4095], dst[:0])
					i++
				}
				if len(dst) != 1 {
					b.Fatalf("%d matches", len(dst))
				}
			})
			b.Run(prefix+"/cached", func(b *testing.B) {
				b.ReportAllocs()
				c := NewCache(x, 256<<10)
				topics := topics[:1024]
				i := 0
				for b.Loop() {
					c.Match(topics[i&1023])
					i++
				}
			})
		}
	}
}

func BenchmarkMatchOverlapping(b *testing.B) {
	for _, receivers := range []int{1, 100, 2000} {
		x := New()
		for i := range receivers {
			x.Subscribe("a/b/c", Receiver(i), Options{})
			x.Subscribe("a/+/c", Receiver(i), Options{})
			x.Subscribe("#", Receiver(i), Options{})
		}
		b.Run(fmt.Sprintf("%d_receivers", receivers), func(b *testing.B) {
			b.ReportAllocs()
			var dst []Match
			for b.Loop() {
				dst = x.Match([]byte("a/b/c"), dst[:0])
			}
			if len(dst) != receivers {
				b.Fatalf("%d matches", len(dst))
			}
		})
	}
}

func BenchmarkSubscribe(b *testing.B) {
	for _, there := range []int{100, 15_000} {
		b.Run(fmt.Sprintf("to_a_filter_with_%d_receivers", there), func(b *testing.B) {
			b.ReportAllocs()
			x := New()
			for i := range there {
				x.Subscribe("a/b", Receiver(i), Options{})
			}
			for b.Loop() {
				x.Subscribe("a/b", 1<<20, Options{})
				x.Unsubscribe("a/b", 1<<20)
			}
		})
	}
}
