package service

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetProgram gives back what is in memory of the program's own file: code and constants. Much of it
// only the start needs, or a burst, and what is needed again comes back by itself, a few pages at a
// time, from the page cache of the kernel or from the file. Without it an idle broker has nearly its
// whole file in memory.
func ForgetProgram() error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("service: find the program's own file: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("service: read what the program has mapped: %w", err)
	}
	defer f.Close()
	mappings, err := unchanged(f, path)
	if err != nil {
		return err
	}
	for _, m := range mappings {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("service: give back pages of the program: %w", errno)
		}
	}
	return nil
}

// mapping is a range of addresses, up to and not including to.
type mapping struct{ from, to uintptr }

// unchanged finds the mappings of the file path in /proc/self/smaps that nobody can write and of which
// no page differs from the file, as those differ that a loader has relocated: only from these nothing
// is lost. Of each mapping smaps has a line like this, followed by lines of what it takes:
//
//	00400000-007d8000 r-xp 00000000 08:01 1311    /usr/bin/dunlin
//	Rss:                2340 kB
//	Anonymous:             0 kB
func unchanged(smaps io.Reader, path string) (all []mapping, err error) {
	var m mapping // the one that the lines are about, if candidate
	candidate := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if from, to, header := strings.Cut(fields[0], "-"); header {
			candidate = len(fields) == 6 && fields[5] == path && !strings.Contains(fields[1], "w")
			if !candidate {
				continue
			}
			begin, err1 := strconv.ParseUint(from, 16, strconv.IntSize)
			end, err2 := strconv.ParseUint(to, 16, strconv.IntSize)
			if err1 != nil || err2 != nil || begin >= end {
				return nil, fmt.Errorf("service: /proc/self/smaps has the range %q", fields[0])
			}
			m = mapping{uintptr(begin), uintptr(end)}
		} else if candidate && fields[0] == "Anonymous:" && fields[1] == "0" {
			all = append(all, m)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("service: read what the program has mapped: %w", err)
	}
	return all, nil
}
