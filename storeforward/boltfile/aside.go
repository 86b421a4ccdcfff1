package boltfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MaxAside is how many damaged files of one name are kept: NAME.damaged-N, the highest N is the
// newest. When one more comes, the oldest goes.
const MaxAside = 3

const asideInfix = ".damaged-"

// Aside are the damaged files that are kept of path, the oldest first.
func Aside(path string) []string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	var numbers []int
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+asideInfix)
		if n, err := strconv.Atoi(text); ok && err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var paths []string
	for _, n := range numbers {
		paths = append(paths, path+asideInfix+strconv.Itoa(n))
	}
	return paths
}

// nextAside is the name for one more.
func nextAside(path string) string {
	n := 0
	if all := Aside(path); len(all) > 0 {
		_, text, _ := strings.Cut(filepath.Base(all[len(all)-1]), asideInfix)
		n, _ = strconv.Atoi(text)
	}
	return path + asideInfix + strconv.Itoa(n+1)
}

// PutAside renames what is at path, whatever it is, to a name that says that it is damaged, and
// returns that. What nobody looks at must not fill the disk: of the files that were put aside before
// the oldest are removed beyond MaxAside, and returned.
func PutAside(path string) (kept string, removed []string, err error) {
	kept = nextAside(path)
	if err := os.Rename(path, kept); err != nil {
		return "", nil, fmt.Errorf("boltfile: put aside: %w", err)
	}
	removed, err = trimAside(path)
	return kept, removed, errors.Join(err, SyncFolder(filepath.Dir(path), false))
}

// Replace puts the file at path aside, as PutAside does, and what Salvage has written at with in its
// place. There is no moment at which a crash leaves nothing at path, where the file system has hard
// links.
func Replace(path, with string) (kept string, removed []string, err error) {
	kept = nextAside(path)
	if os.Link(path, kept) != nil {
		if err := os.Rename(path, kept); err != nil {
			return "", nil, fmt.Errorf("boltfile: replace: %w", err)
		}
	}
	if err := os.Rename(with, path); err != nil {
		return kept, nil, fmt.Errorf("boltfile: replace: %w", err)
	}
	removed, err = trimAside(path)
	return kept, removed, errors.Join(err, SyncFolder(filepath.Dir(path), false))
}

// trimAside removes the oldest beyond MaxAside. A folder among them is somebody's, and stays.
func trimAside(path string) (removed []string, err error) {
	all := Aside(path)
	for len(all) > MaxAside {
		if e := os.Remove(all[0]); e != nil {
			err = errors.Join(err, e)
		} else {
			removed = append(removed, all[0])
		}
		all = all[1:]
	}
	return removed, err
}
