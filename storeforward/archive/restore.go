package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dunlin/storeforward/boltfile"
	"dunlin/storeforward/sessionstore"
	"dunlin/storeforward/spool"
)

// A restore makes all files in a folder of its own, restore.new, and looks into them. That this folder
// is called restore.ready, in one step, is the moment at which it has happened: what is left is done
// again after a crash, by whoever uses the data folder next.
//
//	restore.new      being made; removed by the next who comes
//	restore.ready    whole: files that are there already go to the folder replaced
//	restore.last     nothing is in the way any more: its files go to where they belong
const (
	folderNew   = "restore.new"
	folderReady = "restore.ready"
	folderLast  = "restore.last"
	// FolderReplaced is where files are that a restore has replaced.
	FolderReplaced = "replaced"
)

// ErrNotEmpty says that there are files where a restore would make some. The caller says so.
var ErrNotEmpty = errors.New("there is data in it already")

// Restore makes the files of a data folder that nobody uses of an archive. Nothing is changed unless
// the whole archive can be read. Files that are there already are an error, or with replace they go
// to the folder FolderReplaced.
//
// Uplinks begin a new session above: what the one there knows is of another time.
func Restore(folder string, in io.Reader, replace bool) (*Result, error) {
	if err := Complete(folder); err != nil {
		return nil, err
	}
	there, err := dataOf(folder)
	if err != nil {
		return nil, err
	}
	if len(there) > 0 {
		if !replace {
			return nil, fmt.Errorf("archive: %s: %w (%s)", folder, ErrNotEmpty, strings.Join(there, ", "))
		}
		if _, err := os.Lstat(filepath.Join(folder, FolderReplaced)); err == nil {
			return nil, fmt.Errorf("archive: %s has what an earlier restore has replaced in the folder %s; move that away first", folder, FolderReplaced)
		}
	}
	made := filepath.Join(folder, folderNew)
	if err := os.Mkdir(made, 0o700); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	result, err := read(made, in)
	if err == nil {
		err = prepare(folder, made, result.Files)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(made))
	}
	if err := os.Rename(made, filepath.Join(folder, folderReady)); err != nil {
		return nil, errors.Join(fmt.Errorf("archive: %w", err), os.RemoveAll(made))
	}
	return result, Complete(folder)
}

// prepare looks into the files that were made, and gives them to the owner of the data folder.
func prepare(folder, made string, names []string) error {
	for _, name := range names {
		path := filepath.Join(made, name)
		kind := spool.Kind()
		if name == SessionsFile {
			kind = sessionstore.Kind()
		}
		r, err := boltfile.Inspect(path, kind, nil)
		if err != nil {
			return err
		}
		if r.Damaged() || r.Foreign || r.Newer {
			return fmt.Errorf("archive: %s was not written as it should be: %s", name, strings.Join(r.Words, "; "))
		}
		if uplink, ok := strings.CutPrefix(strings.TrimSuffix(name, ".db"), "uplink-"); ok {
			server := filepath.Join(made, "uplink-"+uplink+".server")
			if err := os.WriteFile(server, []byte(restoredServer), 0o600); err != nil {
				return err
			}
			if err := boltfile.SyncFile(server); err != nil {
				return err
			}
		}
	}
	return errors.Join(give(folder, made), boltfile.SyncFolder(made, false))
}

// restoredServer is no server: an uplink begins a new session with any.
const restoredServer = "restored\n"

// give makes the owner of the data folder the owner of what was made, if we may.
func give(folder, made string) error {
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(made, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}

// Complete does what a restore has left to do that was interrupted. Whoever has locked a data folder
// calls it before its files are opened.
func Complete(folder string) error {
	if err := os.RemoveAll(filepath.Join(folder, folderNew)); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	ready, last := filepath.Join(folder, folderReady), filepath.Join(folder, folderLast)
	if isFolder(ready) {
		if err := moveAside(folder); err != nil {
			return fmt.Errorf("archive: complete a restore: %w", err)
		}
		if err := os.Rename(ready, last); err != nil {
			return fmt.Errorf("archive: complete a restore: %w", err)
		}
		if err := boltfile.SyncFolder(folder, false); err != nil {
			return fmt.Errorf("archive: complete a restore: %w", err)
		}
	}
	if !isFolder(last) {
		return nil
	}
	if err := moveIn(folder, last); err != nil {
		return fmt.Errorf("archive: complete a restore: %w", err)
	}
	return nil
}

func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// dataOf are the names in a folder that a restore replaces.
func dataOf(folder string) ([]string, error) {
	names, err := Files(folder)
	if err != nil {
		return nil, err
	}
	servers, err := filepath.Glob(filepath.Join(folder, "uplink-*.server"))
	if err != nil {
		return nil, nil // a name of the folder that is a bad pattern: then they stay
	}
	for _, s := range servers {
		names = append(names, filepath.Base(s))
	}
	return names, nil
}

// moveAside moves the files of a data folder into FolderReplaced.
func moveAside(folder string) error {
	names, err := dataOf(folder)
	if err != nil || len(names) == 0 {
		return err
	}
	to := filepath.Join(folder, FolderReplaced)
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := give(folder, to); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(folder, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return errors.Join(boltfile.SyncFolder(to, false), boltfile.SyncFolder(folder, false))
}

// moveIn moves the files of a restore to where they belong.
func moveIn(folder, last string) error {
	entries, err := os.ReadDir(last)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(last, e.Name()), filepath.Join(folder, e.Name())); err != nil {
			return err
		}
	}
	if err := boltfile.SyncFolder(folder, false); err != nil {
		return err
	}
	return errors.Join(os.Remove(last), boltfile.SyncFolder(folder, false))
}
