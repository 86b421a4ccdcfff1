package console

import (
	"context"
	"io"
	"time"
)

// Broker is what the console asks the running broker.
type Broker interface {
	// Status is what the broker is and does.
	Status(ctx context.Context) (Status, error)
	// Ledger is the account of every queue. With walk, what is pending is counted on disk, too, in
	// slices that hold up nobody.
	Ledger(ctx context.Context, walk bool) (Ledger, error)
	// Check says what the files hold and which values are damaged.
	Check(ctx context.Context) ([]File, error)
	// Dump writes what the files hold, one value per line, of these kinds; nil = all.
	Dump(ctx context.Context, w io.Writer, only []string) error
	// Export writes an archive of everything that is kept.
	Export(ctx context.Context, w io.Writer) error
	// Compact gives free pages back to the disk.
	Compact(ctx context.Context) ([]Compacted, error)
}

// File is a file of the data folder.
type File struct {
	Name    string `json:"name"`
	Format  string `json:"format"`
	Version uint32 `json:"version"`
	// State is "open" while it is in use and after a crash, "clean" after an orderly stop.
	State     string            `json:"state"`
	TxID      uint64            `json:"transaction"`
	Bytes     int64             `json:"bytes"`
	Free      int64             `json:"free_bytes"` // -1 = not known: the list of free pages was not written
	Values    map[string]uint64 `json:"values"`     // by bucket
	Whole     bool              `json:"whole"`      // the tree was checked, too
	Faults    uint64            `json:"faults"`     // of the structure
	BadValues uint64            `json:"bad_values"`
	FellBack  bool              `json:"last_transaction_lost,omitempty"`
	Words     []string          `json:"found,omitempty"` // the first of them
	// Refused says why nobody can look into it: it is of another kind or of a newer version.
	Refused string `json:"refused,omitempty"`
}

// Damaged says whether the file is not what was written to it.
func (f *File) Damaged() bool { return f.Faults > 0 || f.BadValues > 0 || f.FellBack }

// Compacted is a file that was compacted.
type Compacted struct {
	Name   string `json:"name"`
	Before int64  `json:"bytes_before"`
	After  int64  `json:"bytes_after"`
	Error  string `json:"error,omitempty"` // it was left as it is
}

// Status is what a broker is and does.
type Status struct {
	Version       string   `json:"version"`
	PID           int      `json:"pid"`
	UptimeSeconds int64    `json:"uptime_seconds"`
	Data          string   `json:"data"`
	Listening     string   `json:"listening"`
	Connected     int      `json:"connected"` // clients
	Sessions      int      `json:"sessions"`  // those of clients that are away included
	Subscriptions int      `json:"subscriptions"`
	Retained      int      `json:"retained"`
	Delayed       int      `json:"delayed"`
	StoreBytes    int64    `json:"store_bytes"` // size of sessions.db
	Queues        Account  `json:"queues"`      // of all sessions, ended ones included
	Uplinks       []Uplink `json:"uplinks"`
}

// Account is what has become of the entries of a queue since it began, each counted once when it came
// and once when it went: Accepted = what went + Pending.
type Account struct {
	Accepted  uint64            `json:"accepted"`
	Delivered uint64            `json:"delivered"`
	Expired   uint64            `json:"expired"`
	Dropped   map[string]uint64 `json:"dropped"`
	Moved     uint64            `json:"moved"`
	Dead      uint64            `json:"dead"`
	Pending   uint64            `json:"pending"`
	Bytes     int64             `json:"pending_bytes"`
}

// AllDropped is the sum over all reasons.
func (a *Account) AllDropped() (n uint64) {
	for _, k := range a.Dropped {
		n += k
	}
	return n
}

// Mismatch is by how much the account does not add up.
func (a *Account) Mismatch() int64 {
	return int64(a.Accepted - a.Delivered - a.Expired - a.Moved - a.Dead - a.AllDropped() - a.Pending)
}

// Uplink is an uplink as of one moment.
type Uplink struct {
	Name      string    `json:"name"`
	Endpoint  string    `json:"endpoint"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	NextDial  time.Time `json:"next_dial,omitzero"`
	InFlight  int       `json:"in_flight"`
	Spool     Account   `json:"spool"`
}

// Ledger is the account of every queue that is on disk.
type Ledger struct {
	Total   Account `json:"total"` // of the queues of sessions, ended ones included
	Queues  []Queue `json:"queues"`
	Uplinks []Queue `json:"uplinks"`
	// Mismatches are by how many entries the accounts do not add up, or what was counted on disk is
	// something else: 0, or there is a fault.
	Mismatches uint64 `json:"mismatches"`
	Walked     bool   `json:"walked"` // what is pending was counted on disk, too
}

// Queue is a queue with its account.
type Queue struct {
	Name      string `json:"name"` // client identifier, or name of the uplink
	Session   uint64 `json:"session,omitempty"`
	Connected bool   `json:"connected"`
	Account
	// Walked is what was found pending on disk, shortly before or after: the broker goes on.
	Walked *Walked `json:"walked,omitempty"`
}

// Walked is what was found on disk, all of it as of one state of the queue.
type Walked struct {
	Accepted uint64 `json:"accepted"`
	Gone     uint64 `json:"gone"`
	Pending  uint64 `json:"pending"` // counted one by one
	Missing  uint64 `json:"missing"` // counted in memory, and not among them
}

// Mismatch is by how much what was found does not add up.
func (w *Walked) Mismatch() int64 { return int64(w.Accepted - w.Gone - w.Pending) }

// Mismatches is by how many entries the account of a queue does not add up.
func (q *Queue) Mismatches() uint64 {
	n := q.Mismatch()
	if q.Walked != nil && n == 0 {
		n = q.Walked.Mismatch()
		if n == 0 {
			return q.Walked.Missing
		}
	}
	return uint64(max(n, -n))
}
