package durable

import "slices"

// Account is what has become of the entries of a queue since it began, each counted once when it
// came and once when it went: Accepted = what went + Pending.
type Account struct {
	Accepted  uint64            `json:"accepted"`
	Delivered uint64            `json:"delivered"`
	Expired   uint64            `json:"expired"`
	Dropped   map[string]uint64 `json:"dropped"` // by reason
	Moved     uint64            `json:"moved"`   // to the queue of another member of a shared subscription
	Dead      uint64            `json:"dead"`    // kept aside, because nobody will ever take them
	Pending   uint64            `json:"pending"`
	Bytes     int64             `json:"pending_bytes"`
}

// Mismatch is by how much an account does not add up. Anything but 0 is a fault of the program or of
// the medium.
func (a *Account) Mismatch() int64 {
	gone := a.Delivered + a.Expired + a.Moved + a.Dead
	for _, n := range a.Dropped {
		gone += n
	}
	return int64(a.Accepted - gone - a.Pending)
}

// Add adds the counts of another account.
func (a *Account) Add(o *Account) {
	a.Accepted += o.Accepted
	a.Delivered += o.Delivered
	a.Expired += o.Expired
	a.Moved += o.Moved
	a.Dead += o.Dead
	a.Pending += o.Pending
	a.Bytes += o.Bytes
	for why, n := range o.Dropped {
		if a.Dropped == nil {
			a.Dropped = make(map[string]uint64)
		}
		a.Dropped[why] += n
	}
}

// outcomeNames are the outcomes as accounts and archives call them.
var outcomeNames = [...]string{
	Delivered:       "delivered",
	Expired:         "expired",
	DroppedTooLarge: "too_large",
	DroppedFull:     "full",
	DroppedDenied:   "denied",
	DroppedEnded:    "session_ended",
	DroppedDamaged:  "damaged",
	Moved:           "moved",
}

// String is the outcome as one word; of those that are drops it is the reason.
func (o Outcome) String() string {
	if int(o) >= len(outcomeNames) {
		return ""
	}
	return outcomeNames[o]
}

// ParseOutcome returns the outcome of that name, 0 if there is none.
func ParseOutcome(name string) Outcome {
	return Outcome(max(0, slices.Index(outcomeNames[:], name)))
}

// Count counts n entries that left by an outcome.
func (a *Account) Count(o Outcome, n uint64) {
	switch o {
	case Delivered:
		a.Delivered += n
	case Expired:
		a.Expired += n
	case Moved:
		a.Moved += n
	default:
		if a.Dropped == nil {
			a.Dropped = make(map[string]uint64)
		}
		a.Dropped[o.String()] += n
	}
}
