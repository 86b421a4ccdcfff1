package tally

import (
	"strings"
	"testing"
)

// three returns a tally of one stream at the given QoS with three messages, of which the first
// two are acknowledged, and the payloads of all three.
func three(qos byte) (*Tally, [][]byte) {
	t := New()
	s := t.Stream("p1/a", qos)
	var payloads [][]byte
	for range 3 {
		payloads = append(payloads, s.AppendPayload(nil, s.Next(), 32))
	}
	s.Acked(1)
	s.Acked(2)
	return t, payloads
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	tests := []struct {
		name    string
		qos     byte
		arrive  []int // indices of payloads, -1 = a strange one
		rules   Rules
		wantErr string // "" = none
	}{
		{"all arrived", 1, []int{0, 1, 2}, Rules{OnlyOnce: true}, ""},
		{"an unacknowledged one may be missing", 1, []int{0, 1}, Rules{}, ""},
		{"an acknowledged one may not", 1, []int{0, 2}, Rules{}, "acknowledged and lost 1: p1/a 2"},
		{"nothing arrived", 1, nil, Rules{}, "acknowledged and lost 2: p1/a 1, p1/a 2"},
		{"a repeat at QoS 1", 1, []int{0, 1, 0, 1}, Rules{ExactlyOnce: true}, ""},
		{"a repeat where none may be", 1, []int{0, 1, 1}, Rules{OnlyOnce: true}, "came twice 1: p1/a 2 (2 times)"},
		{"a repeat at QoS 2", 2, []int{0, 0, 1}, Rules{ExactlyOnce: true}, "came twice 1: p1/a 1 (2 times)"},
		{"a repeat at QoS 2, granted 1", 2, []int{0, 0, 1}, Rules{}, ""},
		{"a resent window keeps the order", 1, []int{0, 1, 0, 1, 2}, Rules{MaxBack: 2}, ""},
		{"a repeat from too far behind", 1, []int{0, 1, 2, 0}, Rules{MaxBack: 1}, "a repeat lay 2 behind the newest, at most 1 may"},
		{"too many repeats", 1, []int{0, 1, 0, 1}, Rules{MaxRepeats: 1}, "2 repeats, at most 1 may be"},
		{"a first arrival after a later one", 1, []int{1, 0}, Rules{}, "disordered 1: p1/a 1 after 2"},
		{"the same of a receiver that joined late", 1, []int{1, 0}, Rules{JoinedLate: true}, ""},
		{"the same at QoS 2", 2, []int{1, 0}, Rules{JoinedLate: true}, "disordered 1: p1/a 1 after 2"},
		{"the same when the disk failed", 2, []int{1, 0}, Rules{Refused: true}, ""},
		{"a strange payload", 1, []int{0, 1, -1}, Rules{}, "never sent 1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tally, payloads := three(test.qos)
			got := tally.Receiver()
			for _, i := range test.arrive {
				if i < 0 {
					got.Add([]byte("p1/a 4 "))
				} else {
					got.Add(payloads[i])
				}
			}
			err := got.Check(tally.Snapshot(), test.rules)
			switch {
			case err == nil && test.wantErr != "":
				t.Fatalf("got no error, want %q", test.wantErr)
			case err != nil && test.wantErr == "":
				t.Fatalf("got %v, want no error", err)
			case err != nil && !strings.Contains(err.Error(), test.wantErr):
				t.Fatalf("got %v, want %q in it", err, test.wantErr)
			}
		})
	}
}

func TestSnapshotDoesNotSeeLaterAcknowledgements(t *testing.T) {
	tally, payloads := three(1)
	snap := tally.Snapshot()
	tally.Stream("p1/a", 1).Acked(3)
	got := tally.Receiver()
	got.Add(payloads[0])
	got.Add(payloads[1])
	if err := got.Check(snap, Rules{}); err != nil {
		t.Errorf("against the snapshot: %v, want none", err)
	}
	if n := got.Missing(tally.Snapshot(), nil); n != 1 {
		t.Errorf("against now: %d missing, want 1", n)
	}
}

func TestPayloadHasItsSize(t *testing.T) {
	tally := New()
	s := tally.Stream("gateway/temperature", 1)
	if got := s.AppendPayload(nil, s.Next(), 100); len(got) != 100 {
		t.Errorf("%d bytes, want 100: %q", len(got), got)
	}
	got := tally.Receiver()
	if !got.Add(s.AppendPayload(nil, 1, 0)) {
		t.Error("an unpadded payload was not recognised")
	}
}

func TestSnapshotIfLeavesOut(t *testing.T) {
	tally, payloads := three(1)
	snap := tally.SnapshotIf(func(_ *Stream, seq uint64) bool { return seq != 2 })
	got := tally.Receiver()
	got.Add(payloads[0])
	if err := got.Check(snap, Rules{}); err != nil || snap.Count() != 1 {
		t.Errorf("%d messages, %v; want 1, no error", snap.Count(), err)
	}
}

func TestSnapshotIncludesWhatWillBeAcknowledged(t *testing.T) {
	tally, payloads := three(1)
	snap := tally.Snapshot()
	snap.Include(payloads[2])
	snap.Include(payloads[0])
	if snap.Count() != 3 {
		t.Errorf("%d messages, want 3", snap.Count())
	}
	got := tally.Receiver()
	got.Add(payloads[0])
	got.Add(payloads[1])
	if n := got.Missing(snap, nil); n != 1 {
		t.Errorf("%d missing, want 1", n)
	}
}

func TestCloneGoesItsOwnWay(t *testing.T) {
	tally, payloads := three(2)
	got := tally.Receiver()
	got.Add(payloads[0])
	clone := got.Clone()
	got.Add(payloads[0])
	clone.Add(payloads[1])
	if err := clone.Check(tally.Snapshot(), Rules{ExactlyOnce: true}); err != nil {
		t.Errorf("the clone: %v", err)
	}
	if got.Count() != 1 || got.Repeats() != 1 {
		t.Errorf("the original has %d messages and %d repeats, want 1 and 1", got.Count(), got.Repeats())
	}
}
