package load

import (
	"math/rand/v2"
	"testing"
)

func TestTrackTellsWhatIsWrong(t *testing.T) {
	// Numbers topics apart are on the same topic.
	const topics = 4
	for _, test := range []struct {
		name    string
		numbers []uint32
		sent    uint32
		want    faults
		missing uint64
	}{
		{"all in order", []uint32{0, 1, 2, 3, 4, 5}, 6, faults{}, 0},
		{"none of what was sent", nil, 3, faults{}, 3},
		{"the end is missing", []uint32{0, 1}, 5, faults{}, 3},
		{"a gap", []uint32{0, 1, 4, 5}, 6, faults{}, 2},
		{"two gaps", []uint32{1, 3, 5}, 6, faults{}, 3},
		{"the same again", []uint32{0, 1, 1, 0, 2}, 3, faults{duplicated: 2}, 0},
		{"late on another topic", []uint32{0, 2, 1, 3}, 4, faults{crossed: 1}, 0},
		{"late on the same topic", []uint32{0, 5, 1, 2, 3, 4}, 6, faults{misordered: 1, crossed: 3}, 0},
		{"late twice", []uint32{0, 2, 1, 1}, 3, faults{crossed: 1, duplicated: 1}, 0},
		{"backwards", []uint32{5, 4, 3, 2, 1, 0}, 6, faults{crossed: 3, misordered: 2}, 0},
		{"the middle of a gap", []uint32{4, 2, 2}, 5, faults{crossed: 1, duplicated: 1}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			var tr track
			var got faults
			for _, n := range test.numbers {
				tr.accept(n, topics, &got)
			}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if m := tr.missing(test.sent); m != test.missing {
				t.Errorf("%d are missing, want %d", m, test.missing)
			}
		})
	}
}

// TestTrackAgreesWithAList compares it with the obvious way to do it, which is too slow.
func TestTrackAgreesWithAList(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		topics := uint32(1 + random.IntN(5))
		var tr track
		var got, want faults
		came := make(map[uint32]bool)
		const sent = 40
		for range 60 {
			n := uint32(random.IntN(sent))
			fresh := tr.accept(n, topics, &got)
			if fresh == came[n] {
				t.Fatalf("number %d is new: %v", n, fresh)
			}
			if came[n] {
				want.duplicated++
				continue
			}
			came[n] = true
			overtaken, late := false, false
			for other := range came {
				late = late || other > n
				overtaken = overtaken || other > n && (other-n)%topics == 0
			}
			switch {
			case overtaken:
				want.misordered++
			case late:
				want.crossed++
			}
		}
		if got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if m := tr.missing(sent); m != uint64(sent-len(came)) {
			t.Fatalf("%d are missing, want %d", m, sent-len(came))
		}
	}
}

func TestGapsThatAreGivenUpStayMissing(t *testing.T) {
	var tr track
	var f faults
	const gaps = maxHoles + 10
	for i := range uint32(gaps) {
		tr.accept(2*i+1, 1, &f)
	}
	if len(tr.holes) != maxHoles {
		t.Errorf("%d gaps are remembered, want %d", len(tr.holes), maxHoles)
	}
	if m := tr.missing(2 * gaps); m != gaps {
		t.Errorf("%d are missing, want %d", m, gaps)
	}
}
