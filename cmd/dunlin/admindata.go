package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dunlin/cmd/dunlin/console"
	"dunlin/storeforward/archive"
	"dunlin/storeforward/boltfile"
	"dunlin/uplink/runner"
)

// Check says what the files in use hold.
func (a *admin) Check(ctx context.Context) (files []console.File, err error) {
	r, err := a.store.Look(ctx)
	if err != nil {
		return nil, err
	}
	files = append(files, fileOf(archive.SessionsFile, r, false))
	for _, u := range a.ups {
		if r, err = u.Spool().Look(ctx); err != nil {
			return nil, err
		}
		files = append(files, fileOf(spoolName(a.cfg.Data, u.Name()), r, false))
	}
	return files, nil
}

func spoolName(folder, uplink string) string { return filepath.Base(runner.SpoolPath(folder, uplink)) }

// fileOf is a file in the words of the console.
func fileOf(name string, r *boltfile.Report, whole bool) console.File {
	f := console.File{
		Name: name, Format: r.Format, Version: r.Version, State: "open", TxID: r.TxID, Bytes: r.Bytes,
		Free: int64(r.Free) * boltfile.PageSize, Values: r.Values, Whole: whole,
		Faults: r.Faults, BadValues: r.BadValues, FellBack: r.FellBack, Words: r.Words,
	}
	if r.Free < 0 {
		f.Free = -1
	}
	if r.Clean {
		f.State = "clean"
	}
	switch {
	case r.Newer:
		f.Refused = fmt.Sprintf("it has format version %d, this program reads up to %d; install the newer program again", r.Version, kindOf(name).Version)
	case r.Foreign:
		f.Refused = fmt.Sprintf("it holds %q, want %q", r.Format, r.Kind)
	}
	return f
}

// sources are the files in use.
func (a *admin) sources() (from archive.Sources) {
	from.Sessions = a.store.Visit
	for _, u := range a.ups {
		from.Spools = append(from.Spools, archive.SpoolSource{File: spoolName(a.cfg.Data, u.Name()), Visit: u.Spool().Visit})
	}
	return from
}

// Dump writes what the files in use hold.
func (a *admin) Dump(ctx context.Context, w io.Writer, only []string) error {
	if err := knownKinds(only); err != nil {
		return err
	}
	return archive.Dump(ctx, w, a.sources(), only)
}

// Export writes an archive of everything that is kept.
func (a *admin) Export(ctx context.Context, w io.Writer) error {
	return archive.Write(ctx, w, a.sources(), version, nowText())
}

// nowText is the time as an archive has it.
func nowText() string { return time.Now().UTC().Format(time.RFC3339) }

// knownKinds refuses kinds of lines that there are not.
func knownKinds(only []string) error {
	for _, kind := range only {
		if !slices.Contains(archive.Kinds, kind) {
			return fmt.Errorf("there is no %.40q in a dump; allowed: %s", kind, strings.Join(archive.Kinds, ", "))
		}
	}
	return nil
}

// Compact gives the free pages of the files in use back to the disk.
func (a *admin) Compact(context.Context) (done []console.Compacted, err error) {
	one := func(name string, compact func() (before, after int64, err error)) {
		before, after, err := compact()
		c := console.Compacted{Name: name, Before: before, After: after}
		if err != nil {
			c.Error = err.Error()
			if errors.Is(err, boltfile.ErrTooLarge) {
				c.Error += "; stop the broker for it"
			}
		}
		done = append(done, c)
	}
	one(archive.SessionsFile, a.store.Compact)
	for _, u := range a.ups {
		one(spoolName(a.cfg.Data, u.Name()), u.Spool().Compact)
	}
	return done, nil
}
