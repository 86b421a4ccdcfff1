package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dunlin/core/auth"
)

const passwdHelp = `Usage: dunlin passwd FILE USER
       dunlin passwd FILE USER --delete

Sets the password of USER in FILE, which is made if it does not exist, or
deletes the user. At a terminal the password is asked for, twice; otherwise it
is the first line of standard input. The configuration names FILE as
auth.passwords; the broker reads it when it starts.

  --delete   delete USER
`

func passwd(c *call) error {
	options := c.options()
	remove := options.Bool("delete", false, "")
	others, err := c.parse(options)
	if err != nil {
		return err
	}
	if len(others) != 2 {
		return usagef("wants a file and a user, got %d arguments", len(others))
	}
	path, user := others[0], others[1]
	file, err := auth.ReadPasswordFile(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh && !*remove {
		file, err = auth.ParsePasswordFile(strings.NewReader(""))
	}
	if err != nil {
		return err
	}
	done := "deleted"
	if *remove {
		if !file.Delete(user) {
			return fmt.Errorf("there is no user %q in %s", user, path)
		}
	} else {
		done = "added"
		if file.Has(user) {
			done = "changed"
		}
		password, err := askPassword(c, user)
		if err != nil {
			return err
		}
		if err := file.Set(user, password); err != nil {
			return err
		}
	}
	if err := file.WriteFile(path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "user %s %s, %s has %d\n", user, done, path, file.Len())
	return err
}

// askPassword gets a new password: twice and unseen from a person, once from a program.
func askPassword(c *call, user string) (string, error) {
	if !terminal(c.in) {
		line, err := bufio.NewReader(io.LimitReader(c.in, 64*1024)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("the password cannot be read: %w", err)
		}
		return notEmpty(strings.TrimRight(line, "\r\n"))
	}
	restore, err := echoOff(c.in)
	if err != nil {
		return "", err
	}
	defer restore()
	in := bufio.NewReader(c.in)
	ask := func(what string) (string, error) {
		fmt.Fprintf(c.err, "%s: ", what)
		line, err := in.ReadString('\n')
		fmt.Fprintln(c.err) // the one that was not echoed
		if err != nil {
			return "", fmt.Errorf("the password cannot be read: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	first, err := ask("Password for " + user)
	if err != nil {
		return "", err
	}
	if first, err = notEmpty(first); err != nil {
		return "", err
	}
	second, err := ask("Once more")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two are not the same, nothing is changed")
	}
	return first, nil
}

func notEmpty(password string) (string, error) {
	if password == "" {
		return "", errors.New("the password is empty, nothing is changed")
	}
	return password, nil
}

// echoOff hides what is typed until restore is called, or until a signal ends the process.
func echoOff(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("the terminal cannot hide the password: %w", err)
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return nil, fmt.Errorf("the terminal cannot hide the password: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() { // ended by restore, which waits for it
		defer close(ended)
		select {
		case <-signals:
			unix.IoctlSetTermios(fd, unix.TCSETS, before)
			fmt.Fprintln(os.Stderr)
			os.Exit(exitFailure)
		case <-over:
			unix.IoctlSetTermios(fd, unix.TCSETS, before)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(over)
		<-ended
	}, nil
}
