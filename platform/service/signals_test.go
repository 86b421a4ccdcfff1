package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary play the service: it waits for a signal, says so, and then hangs
// as a service does which cannot close.
func TestMain(m *testing.M) {
	if os.Getenv("SERVICE_TEST_HANG") == "" {
		os.Exit(m.Run())
	}
	ctx, _ := Signals(context.Background())
	fmt.Println("up")
	<-ctx.Done()
	fmt.Println(context.Cause(ctx))
	select {}
}

func TestSignalEndsTheContextWithItsName(t *testing.T) {
	ctx, stop := Signals(t.Context())
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if got := context.Cause(ctx).Error(); !strings.Contains(got, "terminated") {
		t.Errorf("cause %q does not name the signal", got)
	}
}

func TestSecondSignalEndsAProcessThatHangs(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "SERVICE_TEST_HANG=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan() // up
	cmd.Process.Signal(syscall.SIGTERM)
	lines.Scan() // the cause: the first one was taken
	// The signal's default effect comes back a moment after the context has ended, so what a
	// person would do at the terminal: again until it helps. Not in a flood, though: the runtime of
	// a process that is hit by signals while it raises its last one dies of a SIGSEGV instead.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process; received below
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case err := <-ended:
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
				t.Errorf("ended by %v, want SIGTERM", err)
			}
			return
		case <-again.C:
			cmd.Process.Signal(syscall.SIGTERM)
		}
	}
}
