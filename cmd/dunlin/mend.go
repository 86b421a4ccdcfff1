package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dunlin/storeforward/boltfile"
)

// mender makes the files of the data folder fit to be opened: the gateway starts, whatever they have
// suffered. It belongs to the goroutine of run.
//
// A file is looked into first, by a process of its own. What is damaged is salvaged into a new
// file; what cannot be salvaged is put aside. The damaged file itself is kept in both cases. A file
// of a newer version, one of another kind, and one that cannot be read are left as they are:
// nothing is wrong with them that we could mend.
type mender struct {
	log   *slog.Logger
	check func(ctx context.Context, path string) (*boltfile.Report, error)
	// suspect: the broker has died so often soon after its start that files count as damaged whatever
	// the check says.
	suspect bool

	damaged []string // what was found in this start, a line for each file
}

func newMender(logger *slog.Logger) *mender { return &mender{log: logger, check: checkApart} }

// prepare looks into the file at path and mends it if need be. warm says that it was just read. An
// error says that there is a file that cannot be used now.
func (m *mender) prepare(ctx context.Context, path string) (warm bool, err error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !st.Mode().IsRegular():
		return false, m.aside(path, "it is no file")
	case st.Size() == 0:
		m.note(path, "it was empty, what was in it is lost")
		m.log.Error("file is empty, beginning anew", "path", path)
		return false, nil
	}
	report, err := m.check(ctx, path)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		m.log.Warn("file could not be checked before it is opened", "path", path, "err", err)
		return false, nil
	case report.Newer, report.Foreign:
		return true, nil // Open says so
	case report.Damaged():
		m.log.Error("file is damaged", "path", path, "faults", report.Faults, "bad_values", report.BadValues,
			"last_transaction_lost", report.FellBack, "found", strings.Join(report.Words, "; "))
	case m.suspect && !report.Clean:
		return m.rewrite(path, report), nil
	default:
		return true, nil
	}
	return false, m.salvage(path, report)
}

// rewrite writes a file anew with which the broker has died, though nothing was found wrong with it. If
// that cannot be done it has to do as it is. warm is as for prepare.
func (m *mender) rewrite(path string, report *boltfile.Report) (warm bool) {
	m.log.Error("file is suspect and is written anew: the broker has died soon after each of its last starts", "path", path, "starts", suspectAfter)
	fresh := path + ".new"
	s, err := boltfile.Salvage(path, fresh, kindOf(path), nil)
	switch {
	case err != nil:
	case s.Holes > 0 || s.All() != report.All(): // the check has overlooked something
		err = m.salvage(path, report)
	default: // what is in both is the same: there is nothing to keep the old one for
		if err = os.Rename(fresh, path); err == nil {
			err = boltfile.SyncFolder(filepath.Dir(path), false)
		}
	}
	if err != nil {
		m.log.Error("suspect file stays as it is", "path", path, "err", err)
	}
	return err != nil
}

// salvage brings what can be read of a damaged file into a new one, in its place. If there is
// nothing, the file is put aside.
func (m *mender) salvage(path string, report *boltfile.Report) error {
	fresh := path + ".new"
	s, err := boltfile.Salvage(path, fresh, kindOf(path), nil)
	switch {
	case isDamage(err):
		return m.aside(path, err.Error())
	case err != nil:
		return err // the damaged file stays, until there is room for what can be read of it
	case s.All() == 0:
		os.Remove(fresh)
		return m.aside(path, "nothing in it could be read")
	}
	kept, removed, err := boltfile.Replace(path, fresh)
	m.reportRemoved(removed)
	if err != nil {
		return fmt.Errorf("%w; see that the data folder can be written to", err)
	}
	lost := 0
	if report != nil && report.FellBack {
		lost = 1
	}
	m.note(path, fmt.Sprintf("salvaged: %s; unreadable parts %d, transactions lost at least %d, damaged file kept as %s",
		counts(s.Values), s.Holes, lost, filepath.Base(kept)))
	m.log.Error("damaged file was salvaged", "path", path, "values", s.All(), "of_older_state", s.Older,
		"unreadable_parts", s.Holes, "transactions_lost_at_least", lost, "buckets", counts(s.Values), "kept", kept)
	return nil
}

// counts lists how many values each bucket has.
func counts(values map[string]uint64) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", name, values[name])
	}
	return b.String()
}

// aside puts a file aside that is of no use.
func (m *mender) aside(path, why string) error {
	kept, removed, err := boltfile.PutAside(path)
	m.reportRemoved(removed)
	if err != nil {
		return fmt.Errorf("%s cannot be used (%s): %w; move it away", path, why, err)
	}
	m.note(path, fmt.Sprintf("put aside as %s, begun anew: %s", filepath.Base(kept), why))
	m.log.Error("file cannot be used, beginning anew", "path", path, "why", why, "kept", kept)
	return nil
}

func (m *mender) reportRemoved(paths []string) {
	for _, p := range paths {
		m.log.Warn("the oldest damaged file was removed", "path", p, "kept", boltfile.MaxAside)
	}
}

// note remembers what was found for the alarm.
func (m *mender) note(path, what string) {
	m.damaged = append(m.damaged, filepath.Base(path)+": "+what)
}

// open prepares a file and opens it. What fails as damaged then, which the check has overlooked, is
// salvaged, and put aside if that does not help.
func (m *mender) open(ctx context.Context, path string, open func(warm bool) error) error {
	warm, err := m.prepare(ctx, path)
	if err != nil {
		return err
	}
	if err = open(warm); !isDamage(err) {
		return err
	}
	m.log.Error("file is damaged", "path", path, "err", err)
	if err := m.salvage(path, nil); err != nil {
		return err
	}
	if err = open(false); !isDamage(err) {
		return err
	}
	if err := m.aside(path, err.Error()); err != nil {
		return err
	}
	return open(false)
}

func isDamage(err error) bool {
	_, is := errors.AsType[*boltfile.DamageError](err)
	return is
}

// alarm is what is told below $SYS about damage: of this start, and which files are still kept. ""
// = nothing.
func (m *mender) alarm(folder string) string {
	lines := m.damaged
	files, err := filepath.Glob(filepath.Join(folder, "*.damaged-*"))
	if err == nil && len(files) > 0 {
		names := make([]string, len(files))
		for i := range files {
			names[i] = filepath.Base(files[i])
		}
		lines = append(lines, "kept until they are removed: "+strings.Join(names, ", "))
	}
	return strings.Join(lines, "\n")
}
