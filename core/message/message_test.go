package message

import (
	"bytes"
	"testing"
)

func TestNewCopiesWhatItIsGiven(t *testing.T) {
	for n := range 600 {
		for _, properties := range []int{0, 1, n / 2, n} {
			want := bytes.Repeat([]byte("p"), n)
			more := bytes.Repeat([]byte("x"), properties)
			payload, given := bytes.Clone(want), bytes.Clone(more)
			m := New(payload, given)
			clear(payload)
			clear(given)
			if !bytes.Equal(m.Payload, want) || !bytes.Equal(m.Properties, more) || m.Size() != len(want)+len(more) {
				t.Fatalf("%d and %d bytes: got %q, %q", len(want), len(more), m.Payload, m.Properties)
			}
			if _ = append(m.Payload, 'y'); !bytes.Equal(m.Properties, more) { // one does not grow into the other
				t.Fatalf("%d and %d bytes: properties %q", len(want), len(more), m.Properties)
			}
		}
	}
}

func TestSmallMessageIsOnePieceOfMemory(t *testing.T) {
	var m *Message
	payload := make([]byte, 200)
	for _, n := range []int{0, 1, 32, 128, 200} {
		if got := testing.AllocsPerRun(100, func() { m = New(payload[:n], nil) }); got != 1 {
			t.Errorf("%d bytes: %v allocations", n, got)
		}
	}
	_ = m
}
