package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"dunlin/storeforward/archive"
)

// errOtherBroker says that another broker has the data folder. There is nothing to serve then.
var errOtherBroker = errors.New("another broker")

// lockData makes the data folder if it is not there and keeps other brokers out of it until
// unlock is called.
func lockData(folder string) (unlock func(), err error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, fmt.Errorf("data folder: %w; choose another with --data or the data setting", err)
	}
	path := filepath.Join(folder, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w; user %d must be able to write to the folder, or choose another with --data or the data setting", err, os.Geteuid())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data folder %s: %w%s uses it; stop it, or choose another folder with --data", folder, errOtherBroker, holder(f))
		}
		return nil, fmt.Errorf("data folder: lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid()) // only for the message above
	}
	if err := archive.Complete(folder); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// holder names the process that wrote itself into the lock file.
func holder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	if pid, _, _ := strings.Cut(string(b[:n]), "\n"); pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}

// noteSocket writes down, behind our process number, where our admin socket is, for those who know
// the data folder.
func noteSocket(folder, socket string) error {
	text := fmt.Sprintf("%d\n%s\n", os.Getpid(), socket)
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	return errors.Join(err, f.Close())
}

// notedSocket is the admin socket of the broker that runs on a data folder, or ran last; "" = it has
// none.
func notedSocket(folder string) string {
	text, err := os.ReadFile(filepath.Join(folder, "lock"))
	if err != nil {
		return ""
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 3 {
		return ""
	}
	return lines[1]
}
