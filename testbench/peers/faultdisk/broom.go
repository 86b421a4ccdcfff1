package faultdisk

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// broom is a shell that waits for the end of this process and then takes down what it has left
// behind: a test that panics or is killed runs no cleanup, and mounts outlive it.
type broom struct {
	shell *exec.Cmd
	lines io.WriteCloser
}

// script collects commands, the last one first, until its input ends, and runs them then. An
// empty line makes it forget them.
const script = `all=
while IFS= read -r line; do
	if [ -n "$line" ]; then all="$line; $all"; else all=; fi
done
eval "$all"`

func newBroom() (*broom, error) {
	b := &broom{shell: exec.Command("sh", "-c", script)}
	// A group of its own: an interrupt from the terminal must not end it with the test.
	b.shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	lines, err := b.shell.StdinPipe()
	if err == nil {
		b.lines = lines
		err = b.shell.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("faultdisk: %w", err)
	}
	return b, nil
}

// add adds a command that takes down what was just put up.
func (b *broom) add(command string) { fmt.Fprintln(b.lines, command) }

// close ends the shell. If all is clean, it runs nothing.
func (b *broom) close(clean bool) error {
	if clean {
		fmt.Fprintln(b.lines)
	}
	return errors.Join(b.lines.Close(), b.shell.Wait())
}
