package fleet

import (
	"strings"
	"testing"

	"dunlin/testbench/tally"
)

// TestAChangerKnowsWhatItIsOwed lets messages come by hand: 1 to 3 before the first subscription,
// 4 to 6 with it, 7 to 9 without, 10 to 12 with the second one.
func TestAChangerKnowsWhatItIsOwed(t *testing.T) {
	for _, test := range []struct {
		name    string
		arrive  []uint64
		wantErr string // "" = none
	}{
		{"what is owed", []uint64{4, 5, 6, 10, 11, 12}, ""},
		{"one is missing", []uint64{4, 6, 10, 11, 12}, "acknowledged and lost 1: a 5"},
		{"one came without a subscription", []uint64{4, 5, 6, 8, 10, 11, 12}, "a 8 came without a subscription"},
		{"one came twice", []uint64{4, 5, 5, 6, 10, 11, 12}, "came twice 1: a 5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list := tally.New()
			stream := list.Stream("a", 2)
			publish := func() {
				for range 3 {
					stream.Acked(stream.Next())
				}
			}
			c := &Changer{Streams: []*tally.Stream{stream}, Tally: list, Got: list.Receiver()}
			c.Filter.QoS = 2
			for range 2 {
				publish()
				s := span{asked: list.Snapshot(), granted: c.last()}
				publish()
				s.leaving, s.left = list.Snapshot(), c.last()
				c.spans = append(c.spans, s)
			}
			for _, seq := range test.arrive {
				c.Got.Add(stream.AppendPayload(nil, seq, 0))
			}
			err := c.compare(list.SnapshotIf(c.owed))
			switch {
			case err == nil && test.wantErr != "":
				t.Errorf("got no error, want %q", test.wantErr)
			case err != nil && (test.wantErr == "" || !strings.Contains(err.Error(), test.wantErr)):
				t.Errorf("got %v, want %q", err, test.wantErr)
			}
		})
	}
}
