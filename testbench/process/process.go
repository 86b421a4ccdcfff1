// Package process runs brokers as real processes, so that they can be killed: the dunlin binary
// of this source tree, and mosquitto beside it.
package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startGuard is how long a broker may take until it accepts connections. It is a guard against
// hanging, not a figure that is measured.
const startGuard = 30 * time.Second

// Spec says what to run.
type Spec struct {
	Path string
	Args []string
	Dir  string   // working directory, "" = the caller's
	Env  []string // added to the caller's environment
	// Log is the file that takes what the process writes, appended over restarts.
	Log string
	// Network and Address are where it accepts connections when it is up.
	Network, Address string
}

// Process is a running broker. Kill, Stop and Start may follow each other on one Process; its
// methods are called from one goroutine.
type Process struct {
	Spec   Spec
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has been waited for
	err    error         // of Wait, valid after exited
}

// Start runs a process and waits until it accepts connections. If it ends before that, the
// error has the end of its log.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	p := &Process{Spec: spec}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Start runs the process again after Kill or Stop and waits until it accepts connections.
func (p *Process) Start(ctx context.Context) error {
	if err := p.Launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startGuard)
	defer cancel()
	if err := p.accepts(ctx); err != nil {
		p.Kill()
		return fmt.Errorf("process: %s: %w\n%s", p.Spec.Path, err, p.Tail(2000))
	}
	return nil
}

// Launch runs the process again after Kill or Stop without waiting, to kill it while it starts.
func (p *Process) Launch() error {
	log, err := os.OpenFile(p.Spec.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("process: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(p.Spec.Path, p.Spec.Args...)
	cmd.Dir, cmd.Env = p.Spec.Dir, append(os.Environ(), p.Spec.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A test that dies leaves no broker behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("process: %w", err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	// Owner: the Process. It ends with the process, which Kill or Stop wait for.
	var wait sync.WaitGroup
	wait.Go(func() {
		p.err = cmd.Wait()
		close(exited)
	})
	return nil
}

// accepts dials until somebody answers or the process ends.
func (p *Process) accepts(ctx context.Context) error {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, p.Spec.Network, p.Spec.Address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.exited:
			return fmt.Errorf("ended before it accepted connections: %v", p.err)
		case <-ctx.Done():
			return fmt.Errorf("does not accept connections: %w", err)
		case <-ticker.C:
		}
	}
}

// Kill ends the process by SIGKILL and waits for its end. On one that has ended it does nothing.
func (p *Process) Kill() error {
	return p.end(context.Background(), syscall.SIGKILL)
}

// Stop ends the process by SIGTERM and waits for its end. It returns an error if it did not
// exit with code 0 before ctx ended; it is killed then.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.end(ctx, syscall.SIGTERM); err != nil {
		return errors.Join(err, p.Kill())
	}
	if p.err != nil {
		return fmt.Errorf("process: %s after SIGTERM: %w\n%s", p.Spec.Path, p.err, p.Tail(2000))
	}
	return nil
}

func (p *Process) end(ctx context.Context, sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("process: %w", err)
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process: %s lives on after %v: %w", p.Spec.Path, sig, ctx.Err())
	}
}

// Signal sends a signal.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Exited returns a channel that is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// PID returns its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Tail returns the last n bytes of its log.
func (p *Process) Tail(n int) string {
	b, err := os.ReadFile(p.Spec.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// Resident returns its resident memory in bytes, file pages included.
func (p *Process) Resident() (int64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/smaps_rollup")
	if err != nil {
		return 0, fmt.Errorf("process: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Rss:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("process: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, errors.New("process: smaps_rollup has no Rss")
}

// FreeAddress returns a loopback address with a port that nobody listens on now. The port is
// below the range from which the kernel takes ports for outgoing connections, so that a
// restarted broker gets it back.
func FreeAddress() (string, error) {
	for range 200 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
			return address, nil
		}
	}
	return "", errors.New("process: no free port between 12000 and 32000")
}
