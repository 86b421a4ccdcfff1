package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dunlin/storeforward/boltfile"
)

const (
	// startsName is the file in the data folder that counts the starts since the last one that lasted
	// or was ended in order.
	startsName = "starts"
	// startLasts is how long a start must live to count as one that lasted.
	startLasts = time.Minute
	// suspectAfter is how many starts in a row must have died before files count as damaged whatever
	// their check says.
	suspectAfter = 3
)

// countStart counts a start, and says whether so many before it have died that the files are suspect.
// Then the count begins anew: what is salvaged now gets as many tries.
func countStart(folder string) (suspect bool, err error) {
	path := filepath.Join(folder, startsName)
	n := 0
	if b, err := os.ReadFile(path); err == nil {
		n, _ = strconv.Atoi(strings.TrimSpace(string(b))) // a damaged file counts nothing
	}
	if suspect = n >= suspectAfter; suspect {
		n = 0
	}
	return suspect, writeWhole(path, strconv.Itoa(n+1)+"\n")
}

// writeWhole writes a small file so that a crash leaves the old one or the new one.
func writeWhole(path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return boltfile.SyncFolder(filepath.Dir(path), false)
}

// startLasted forgets the starts that died.
func startLasted(folder string) error {
	if err := os.Remove(filepath.Join(folder, startsName)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// counted counts a start of the broker. When it has lasted, and when over is called because it ended in
// order, it counts as one that did not die.
func counted(folder string, logger *slog.Logger) (suspect bool, over func()) {
	suspect, err := countStart(folder)
	if err != nil {
		logger.Warn("starts are not counted", "err", err)
		return false, func() {}
	}
	lasted := func() {
		if err := startLasted(folder); err != nil {
			logger.Warn(fmt.Sprintf("the count of starts stays, though this one has lasted %v", startLasts), "err", err)
		}
	}
	timer := time.AfterFunc(startLasts, lasted)
	return suspect, func() {
		if timer.Stop() {
			lasted()
		}
	}
}
