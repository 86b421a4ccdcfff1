package fleet

import (
	"strings"
	"testing"

	"dunlin/testbench/client"
)

// TestAShelfKnowsWhatMayBeOnIt looks at arrivals by hand: of the seven operations on the item the
// fifth removed it, six are acknowledged and the seventh is on its way.
func TestAShelfKnowsWhatMayBeOnIt(t *testing.T) {
	for _, test := range []struct {
		name, payload, wantErr string
	}{
		{"what was acknowledged", "6", ""},
		{"what is on its way", "7", ""},
		{"what was acknowledged is lost", "4", "but 6 was acknowledged"},
		{"what was removed", "5", "was never there"},
		{"what was not published yet", "8", "was never there"},
		{"something else", "x", "was never there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &Shelf{Prefix: "kept"}
			s.items[3] = item{sent: 7, acked: 6}
			before := s.items
			if i := s.missing(map[int]bool{}, &before); i != 3 {
				t.Errorf("item %d is missed, want 3", i)
			}
			i, ok := s.examine(client.Message{Topic: "kept/3", Payload: []byte(test.payload), Retain: true}, &before)
			if i != 3 || !ok {
				t.Errorf("item %d, %v", i, ok)
			}
			err := s.fault()
			switch {
			case err == nil && test.wantErr != "":
				t.Errorf("got no error, want %q", test.wantErr)
			case err != nil && (test.wantErr == "" || !strings.Contains(err.Error(), test.wantErr)):
				t.Errorf("got %v, want %q", err, test.wantErr)
			}
			if i := s.missing(map[int]bool{3: true}, &before); i != -1 {
				t.Errorf("item %d is missed", i)
			}
		})
	}
}
