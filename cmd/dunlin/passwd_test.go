package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dunlin/core/auth"
	"dunlin/testbench/process"
)

func TestPasswdKeepsAFileOfUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwords")
	dunlin(t, "one\nignored\n", "passwd", path, "ann").check(t, 0, "user ann added, "+path+" has 1\n", "")
	dunlin(t, "two", "passwd", path, "bob").check(t, 0, "user bob added, "+path+" has 2\n", "")
	dunlin(t, "three\r\n", "passwd", path, "ann").check(t, 0, "user ann changed, "+path+" has 2\n", "")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	letsIn(t, path, "ann", "three", true)
	letsIn(t, path, "ann", "one", false)
	letsIn(t, path, "bob", "two", true)
	dunlin(t, "", "passwd", path, "bob", "--delete").check(t, 0, "user bob deleted, "+path+" has 1\n", "")
	dunlin(t, "", "passwd", "--delete", path, "bob").check(t, 1, "", "dunlin passwd: there is no user \"bob\" in "+path+"\n")
	letsIn(t, path, "ann", "three", true)
}

// letsIn tries a password against the file.
func letsIn(t *testing.T, path, user, password string, want bool) {
	t.Helper()
	f, err := auth.ReadPasswordFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := auth.New(auth.Options{Passwords: f})
	defer a.Close()
	answer := make(chan auth.Answer, 1)
	a.Authenticate(auth.Request{
		Username: user, HasUsername: true, Password: []byte(password), HasPassword: true,
	}, func(got auth.Answer) { answer <- got })
	if got := <-answer; (got.Err == nil) != want {
		t.Errorf("user %s with password %s: %v, want in: %v", user, password, got.Err, want)
	}
}

func TestPasswdChangesNothingOnAnError(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	dunlin(t, "\n", "passwd", missing, "ann").check(t, 1, "", "dunlin passwd: the password is empty, nothing is changed\n")
	dunlin(t, "", "passwd", missing, "ann", "--delete").check(t, 1, "", "dunlin passwd: …no such file or directory\n")
	dunlin(t, "x", "passwd", missing, "a:b").check(t, 1, "", "dunlin passwd: …\n")
	if _, err := os.Stat(missing); err == nil {
		t.Error("a file was made")
	}
	broken := writeFile(t, "passwords", "nonsense\n")
	dunlin(t, "x", "passwd", broken, "ann").check(t, 1, "", "dunlin passwd: …"+broken+"…1…\n")
	if text, _ := os.ReadFile(broken); string(text) != "nonsense\n" {
		t.Errorf("a file that could not be read was changed to %q", text)
	}
}

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func TestPasswdAsksTwiceAndUnseen(t *testing.T) {
	for _, tt := range []struct {
		name          string
		first, second string
		code          int
		want          string
	}{
		{"the same", "s3cret", "s3cret", 0, "user ann added, … has 1"},
		{"a slip", "s3cret", "s3kret", 1, "dunlin passwd: the two are not the same, nothing is changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			person, program := openTerminal(t)
			binary, err := process.Binary()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "passwords")
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "passwd", path, "ann")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			program.Close()
			screen := bufio.NewReader(person)
			seen := ""
			for _, step := range []struct{ prompt, answer string }{
				{"Password for ann: ", tt.first}, {"Once more: ", tt.second},
			} {
				for !strings.HasSuffix(seen, step.prompt) {
					b, err := screen.ReadByte()
					if err != nil {
						t.Fatalf("the terminal shows %q and then %v", seen, err)
					}
					seen += string(b)
				}
				fmt.Fprintln(person, step.answer)
			}
			for { // until the program has closed its end, which reads as EIO
				b, err := screen.ReadByte()
				if err != nil {
					break
				}
				seen += string(b)
			}
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			want := "Password for ann: \r\nOnce more: \r\n" + tt.want + "\r\n"
			if !matches(want, seen) {
				t.Errorf("the terminal shows %q, want %q", seen, want)
			}
		})
	}
}
