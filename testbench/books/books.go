// Package books reads the files of a broker that does not run: whether they are whole, and what they
// say that it has taken and passed on, to compare with what its clients say.
package books

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dunlin/core/durable"
	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
	"dunlin/storeforward/spool"
)

// Account is the ledger of one queue.
type Account struct {
	Accepted  uint64 // entries that came in
	Delivered uint64
	Lost      uint64 // left by any other outcome: expired, dropped, moved
	Pending   uint64 // counted by walking the records
}

// balance returns an error if the account does not add up.
func (a Account) balance(name string) error {
	if a.Accepted != a.Delivered+a.Lost+a.Pending {
		return fmt.Errorf("the books of %s do not add up: %d accepted, %d delivered, %d left otherwise, %d pending",
			name, a.Accepted, a.Delivered, a.Lost, a.Pending)
	}
	return nil
}

// Books are the accounts of one broker.
type Books struct {
	Sessions map[string]Account // by client identifier
	Uplinks  map[string]Account // by name
}

// Read copies the files of a data folder to scratch, a folder, reads them there and removes them.
// It returns an error if a page or a checksum of a file is wrong, or an account does not add up.
func Read(folder, scratch string) (*Books, error) {
	b := &Books{Sessions: make(map[string]Account), Uplinks: make(map[string]Account)}
	dir, err := os.MkdirTemp(scratch, "books-")
	if err != nil {
		return nil, fmt.Errorf("books: %w", err)
	}
	defer os.RemoveAll(dir)
	files, err := filepath.Glob(filepath.Join(folder, "*.db"))
	if err != nil {
		return nil, fmt.Errorf("books: %w", err)
	}
	var faults []error
	for _, file := range files {
		name := filepath.Base(file)
		copied := filepath.Join(dir, name)
		if err := duplicate(copied, file); err != nil {
			return nil, err
		}
		uplink, ok := strings.CutPrefix(strings.TrimSuffix(name, ".db"), "uplink-")
		switch {
		case ok:
			if err = whole(copied, spool.Kind()); err == nil {
				err = b.spool(uplink, copied)
			}
		case name == "sessions.db":
			if err = whole(copied, sessionstore.Kind()); err == nil {
				err = b.sessions(copied)
			}
		default:
			continue
		}
		faults = append(faults, err)
	}
	return b, errors.Join(faults...)
}

func duplicate(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("books: %w", err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		return fmt.Errorf("books: %w", err)
	}
	return nil
}

// whole returns an error if something is wrong with a file. A commit that was cut off is not.
func whole(path string, kind boltfile.Kind) error {
	report, err := boltfile.Inspect(path, kind, nil)
	if err != nil {
		return fmt.Errorf("books: %w", err)
	}
	if report.Faults > 0 || report.BadValues > 0 {
		return fmt.Errorf("books: %s: %d faults, %d bad values: %s",
			filepath.Base(path), report.Faults, report.BadValues, strings.Join(report.Words, "; "))
	}
	return nil
}

func (b *Books) sessions(path string) (err error) {
	store, err := sessionstore.Open(path, sessionstore.Options{})
	if err != nil {
		return fmt.Errorf("books: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close(context.Background())) }()
	var faults []error
	for _, s := range store.Sessions() {
		l, ok := store.LedgerOf(s.Session.Number)
		if !ok {
			return fmt.Errorf("books: session %q has no ledger", s.Session.ClientID)
		}
		a := Account{Accepted: l.Accepted, Delivered: l.Left[durable.Delivered], Pending: l.Pending}
		a.Lost = l.Gone() - a.Delivered
		faults = append(faults, a.balance("session "+s.Session.ClientID))
		b.Sessions[s.Session.ClientID] = a
	}
	l := store.Ledger()
	all := Account{Accepted: l.Accepted, Delivered: l.Left[durable.Delivered], Pending: l.Pending}
	all.Lost = l.Gone() - all.Delivered
	return errors.Join(append(faults, all.balance("all sessions"))...)
}

func (b *Books) spool(name, path string) (err error) {
	s, err := spool.Open(path, spool.Options{})
	if err != nil {
		return fmt.Errorf("books: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close(context.Background())) }()
	pending, _, l, err := s.CountPending()
	if err != nil {
		return fmt.Errorf("books: %w", err)
	}
	a := Account{Accepted: l.Accepted, Delivered: l.Delivered(), Lost: l.Expired() + l.Dropped(), Pending: pending}
	b.Uplinks[name] = a
	return a.balance("uplink " + name)
}
