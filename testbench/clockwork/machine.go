// Package clockwork runs the real binary on a machine whose clocks a test sets: it boots in 1970, is
// switched off for a year, suspended, told the time. The program is not changed and does not know.
//
// What it asks the kernel is answered by the test: adjtimex (the wall clock, and whether it is
// synchronised) and clock_gettime(CLOCK_BOOTTIME), by a seccomp filter with a listener. The identifier
// of the boot is a file that is mounted over the kernel's. Both need root. CLOCK_MONOTONIC is left alone,
// so its timers run as they do.
//
//	machine := clockwork.New(t, noon)
//	broker, err := process.Dunlin(ctx, dir, machine.On(process.Gateway{}))
//	machine.Off(2*time.Hour) // between Kill and Start
package clockwork

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dunlin/testbench/process"
)

// Machine is a machine with clocks of its own. Its methods may be called while the broker runs.
type Machine struct {
	t      testing.TB
	dir    string
	server *server

	mu     sync.Mutex // guards what follows
	start  time.Time  // of the test
	epoch  time.Time  // what time it truly was then
	passed time.Duration
	booted time.Duration // of now
	slept  time.Duration // since it booted
	wrong  time.Duration // by which the wall clock differs from the truth
	synced bool
}

// New returns a machine that has just booted at a moment, which it knows.
func New(t testing.TB, at time.Time) *Machine {
	t.Helper()
	m := &Machine{t: t, dir: t.TempDir(), start: time.Now(), epoch: at, synced: true}
	m.newBoot()
	var err error
	if m.server, err = listen(m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.server.close)
	return m
}

// On returns a gateway that runs on the machine.
func (m *Machine) On(g process.Gateway) process.Gateway {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	g.Via = []string{self}
	g.Env = []string{launchVariable + "=" + m.dir}
	return g
}

func (m *Machine) newBoot() {
	if err := os.WriteFile(filepath.Join(m.dir, bootFile), []byte(rand.Text()+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// now is the true time since the start of the test, with what was skipped.
func (m *Machine) now() time.Duration { return time.Since(m.start) + m.passed }

// Off switches the machine off for a while, and on again. The broker must not run.
func (m *Machine) Off(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.passed += d
	m.booted, m.slept = m.now(), 0
	m.newBoot()
}

// Suspend lets it sleep for a while, all that runs with it.
func (m *Machine) Suspend(d time.Duration) {
	m.mu.Lock()
	m.passed += d
	m.slept += d
	m.mu.Unlock()
	m.stepped()
}

// Pass lets time pass while it runs, without anybody's waiting: what runs by CLOCK_MONOTONIC stands
// still, and nobody is told.
func (m *Machine) Pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.passed += d
}

// Forget sets the wall clock to 1970, as if there were no battery.
func (m *Machine) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrong = time.Unix(m.seconds(), 0).Sub(m.epoch.Add(m.now()))
	m.synced = false
}

func (m *Machine) seconds() int64 { return int64((m.now() - m.booted) / time.Second) }

// Step sets the wall clock off by so much more; synced says whether somebody vouches for it.
func (m *Machine) Step(d time.Duration, synced bool) {
	m.mu.Lock()
	m.wrong += d
	m.synced = synced
	m.mu.Unlock()
	m.stepped()
}

// Sync sets the wall clock right, as a time server does.
func (m *Machine) Sync() {
	m.Correct()
	m.stepped()
}

// Correct is Sync while no broker runs.
func (m *Machine) Correct() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrong, m.synced = 0, true
}

// stepped tells the broker what the kernel tells when the clock is set.
func (m *Machine) stepped() {
	m.t.Helper()
	if err := m.server.cancelTimers(); err != nil {
		m.t.Fatal(err)
	}
}

// bootTime is CLOCK_BOOTTIME.
func (m *Machine) bootTime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now() - m.booted + time.Second // nothing runs in the first moment
}

// wall is the wall clock, and whether it is synchronised.
func (m *Machine) wall() (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch.Add(m.now() + m.wrong), m.synced
}

func (m *Machine) String() string {
	wall, synced := m.wall()
	return fmt.Sprintf("up %v, %s, synchronised %v", m.bootTime(), wall.UTC().Format(time.DateTime), synced)
}
