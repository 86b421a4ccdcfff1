package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dunlin/testbench/process"
)

// startGateway runs the broker with further settings.
func startGateway(t *testing.T, settings ...string) *process.Process {
	t.Helper()
	broker, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	return broker
}

// reachable waits until something listens on the address: the first of a broker's listeners is there
// before the others.
func reachable(t *testing.T, address string) {
	t.Helper()
	until(t, "something listens on "+address, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// says waits until the log has the text.
func says(t *testing.T, broker *process.Process, text string) {
	t.Helper()
	until(t, "the log says "+text, func() bool { return strings.Contains(broker.Tail(1<<20), text) })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if err := ask(t.Context(), ok); err != nil {
		t.Fatalf("it never comes that %s: %v", what, err)
	}
}

// ask asks again and again until the answer is yes.
func ask(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, hang)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func TestPortInUseIsTakenOnceItIsFree(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	broker := startGateway(t, "listeners.1.address="+other.Addr().String())
	says(t, broker, "cannot listen, will try again")
	if log := broker.Tail(1 << 20); !strings.Contains(log, "is another broker running there?") {
		t.Errorf("the log does not say what to do:\n%s", log)
	}
	other.Close()
	says(t, broker, "listening at last")
	host, port, _ := net.SplitHostPort(other.Addr().String())
	dunlin(t, "", "pub", "-h", host, "-p", port, "-t", "a", "-n", "-q", "1").check(t, 0, "", "")
	if n := strings.Count(broker.Tail(1<<20), "cannot listen"); n != 1 {
		t.Errorf("the failure is logged %d times", n)
	}
}

func TestBrokerStartsWithoutAnyAddress(t *testing.T) {
	// Nothing but an address that is not there: it waits instead of giving up.
	dir := t.TempDir()
	socket := filepath.Join(dir, "later", "s")
	other := startGateway(t)
	spec := other.Spec
	spec.Args = []string{"serve", "--data", filepath.Join(dir, "data"), "--listen", "unix:" + socket}
	spec.Log = filepath.Join(dir, "log")
	spec.Network, spec.Address = "unix", socket
	made := make(chan error, 1)
	go func() { // ends when the folder is made; waited for below
		err := ask(t.Context(), func() bool {
			log, _ := os.ReadFile(spec.Log)
			return strings.Contains(string(log), "cannot listen")
		})
		made <- errors.Join(err, os.Mkdir(filepath.Dir(socket), 0o755))
	}()
	broker, err := process.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	says(t, broker, "listening=none")
	dunlin(t, "", "pub", "-h", "unix:"+socket, "-t", "a", "-n", "-q", "1").check(t, 0, "", "")
	if err := broker.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestFaultyConfigurationOfAllListenersEndsTheBroker(t *testing.T) {
	file := writeFile(t, "s", "no socket")
	dunlin(t, "", "serve", "--data", t.TempDir(), "--listen", "unix:"+file).check(t, 1, "",
		"…dunlin serve: listener unix:"+file+": there is a file of that name that is no socket; remove it or choose another path\n")
	if b, err := os.ReadFile(file); string(b) != "no socket" {
		t.Errorf("the file has %q, %v", b, err)
	}
	// Where another listener works, it is in the log.
	broker := startGateway(t, "listeners.1.address=unix:"+file)
	says(t, broker, "there is a file of that name that is no socket")
}

// listening returns the local addresses of /proc/net/tcp that are listened on, in its words.
func listening(t *testing.T) (all []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" {
			all = append(all, f[1])
		}
	}
	return all
}

func TestAddressThatIsNotThereYetIsListenedOn(t *testing.T) {
	// 192.0.2.0/24 is nobody's.
	_, port, _ := net.SplitHostPort(mustFree(t))
	broker := startGateway(t, "listeners.1.address=192.0.2.77:"+port, "listeners.1.open=true",
		"listeners.2.address=192.0.2.78:"+port, "listeners.2.open=true", "listeners.2.freebind=false")
	says(t, broker, "listening on an address that this machine does not have yet")
	says(t, broker, "this machine does not have that address (now)")
	n, _ := strconv.Atoi(port)
	hex := func(last byte) string { // /proc has addresses in the byte order of the machine
		address := binary.NativeEndian.Uint32([]byte{192, 0, 2, last})
		return fmt.Sprintf("%08X:%04X", address, n)
	}
	if all := listening(t); !slices.Contains(all, hex(77)) || slices.Contains(all, hex(78)) {
		t.Errorf("listened on are %v, want %s and not %s", all, hex(77), hex(78))
	}
}

func TestBothVersionsOfIPCanHaveTheirListeners(t *testing.T) {
	_, port, _ := net.SplitHostPort(mustFree(t))
	startGateway(t, "listeners.1.address=0.0.0.0:"+port, "listeners.1.open=true",
		"listeners.2.address=[::]:"+port, "listeners.2.open=true")
	for _, host := range []string{"127.0.0.1", "::1"} {
		until(t, host+" accepts", func() bool {
			return dunlin(t, "", "pub", "-h", host, "-p", port, "-t", "a", "-n", "-q", "1").code == 0
		})
	}
}

func TestListenerOfBothVersionsIsNamedAsInTheFile(t *testing.T) {
	broker := startGateway(t, "listeners.1.address=:0", "listeners.1.open=true")
	says(t, broker, ", :") // behind the first one
	if log := broker.Tail(1 << 20); strings.Contains(log, "[::]") {
		t.Errorf("[::] is IPv6 only in the configuration, and the log says\n%s", log)
	}
}

func mustFree(t *testing.T) string {
	t.Helper()
	a, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestUnixSocketIsForThoseWhoAreMeant(t *testing.T) {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plain, shared := filepath.Join(dir, "plain"), filepath.Join(dir, "shared")
	startGateway(t, "listeners.1.address=unix:"+plain, "listeners.2.address=unix:"+shared,
		"listeners.2.mode=0666", "listeners.2.group="+group.Name)
	for path, want := range map[string]os.FileMode{plain: 0o660, shared: 0o666} {
		until(t, path+" has its mode", func() bool {
			info, err := os.Stat(path)
			return err == nil && info.Mode().Perm() == want && fmt.Sprint(info.Sys().(*syscall.Stat_t).Gid) == u.Gid
		})
	}
}

func TestSocketsOfSystemdAreUsed(t *testing.T) {
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var files []*os.File
	var ports []string
	pass := func(ln net.Listener, err error) {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
			ports = append(ports, strconv.Itoa(tcp.Port))
		}
	}
	socket := filepath.Join(dir, "s")
	for range 3 {
		pass(net.Listen("tcp", "127.0.0.1:0"))
	}
	pass(net.Listen("unix", socket))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// The shell becomes the broker, so that its number is that of the broker.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", binary, "serve", "--data", filepath.Join(dir, "data"),
		"--listen", "systemd:mqtt", "--set", "listeners.0.open=true", "--listen", "systemd:local", "--set", "listeners.1.open=true",
		"--listen", "systemd:none", "--set", "listeners.2.open=true")
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "LISTEN_FDS=4", "LISTEN_FDNAMES=mqtt:mqtt:unnamed:local")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	read := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
	until(t, "the broker is ready", func() bool { return strings.Contains(read(), "dunlin is ready") })
	for _, where := range [][]string{{"-h", "127.0.0.1", "-p", ports[0]}, {"-h", "127.0.0.1", "-p", ports[1]}, {"-h", "unix:" + socket}} {
		dunlin(t, "", append([]string{"pub", "-t", "a", "-n", "-q", "1"}, where...)...).check(t, 0, "", "")
	}
	for _, want := range []string{"systemd:none: systemd has passed no socket of that name", "systemd passes a socket that no listener names"} {
		if !strings.Contains(read(), want) {
			t.Errorf("the log does not say %q:\n%s", want, read())
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, read())
	}
	// The sockets are systemd's: who connects meanwhile waits for the next start.
	for _, to := range []string{"127.0.0.1:" + ports[0], socket} {
		network := "tcp"
		if to == socket {
			network = "unix"
		}
		c, err := net.Dial(network, to)
		if err != nil {
			t.Errorf("%s is closed: %v", to, err)
			continue
		}
		c.Close()
	}
}

// within runs a program in the network that the broker has for itself.
func within(t *testing.T, broker *process.Process, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	to := []string{"-t", strconv.Itoa(broker.PID()), "-U", "-n", "--preserve-credentials", "--"}
	out, err := exec.CommandContext(ctx, "nsenter", append(to, args...)...).CombinedOutput()
	return string(out), err
}

func TestAddressThatAppearsLaterIsServed(t *testing.T) {
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	// A network of its own, for which nobody needs to be root, and which has a loopback interface and
	// nothing else. Before that is up, the kernel lets every address be bound.
	broker, err := process.Start(t.Context(), process.Spec{
		Path: "unshare", Dir: dir, Log: filepath.Join(dir, "log"), Network: "unix", Address: socket,
		Args: []string{
			"--map-root-user", "--net", "--", "/bin/sh", "-c", `ip link set lo up && exec "$@"`, "sh", binary, "serve", "--data", filepath.Join(dir, "data"), "--listen", "unix:" + socket,
			"--set", "listeners.1.address=192.0.2.77:1883", "--set", "listeners.1.open=true",
			"--set", "listeners.2.address=192.0.2.78:1883", "--set", "listeners.2.open=true", "--set", "listeners.2.freebind=false",
			"--set", "listeners.3.address=[2001:db8::77]:1883", "--set", "listeners.3.open=true",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	says(t, broker, "listening on an address that this machine does not have yet")
	says(t, broker, "this machine does not have that address (now)")
	if out, err := within(t, broker, binary, "pub", "-h", "192.0.2.77", "-t", "a", "-n"); err == nil {
		t.Errorf("there is a way to an address that is not there: %s", out)
	}
	for _, args := range [][]string{
		{"address", "add", "192.0.2.77/32", "dev", "lo"},
		{"address", "add", "192.0.2.78/32", "dev", "lo"},
		{"address", "add", "2001:db8::77/128", "dev", "lo", "nodad"},
	} {
		if out, err := within(t, broker, append([]string{"ip"}, args...)...); err != nil {
			t.Fatalf("ip %q: %v: %s", args, err, out)
		}
	}
	says(t, broker, "listening at last")
	for _, host := range []string{"192.0.2.77", "192.0.2.78", "2001:db8::77"} {
		if out, err := within(t, broker, binary, "pub", "-h", host, "-t", "a", "-n", "-q", "1", "-W", "30"); err != nil {
			t.Errorf("%s: %v: %s", host, err, out)
		}
	}
}

func TestSocketUnitOfTheExampleStartsTheBroker(t *testing.T) {
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile("../../packaging/dunlin.socket")
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	for line := range strings.Lines(string(unit)) {
		if n, ok := strings.CutPrefix(line, "FileDescriptorName="); ok {
			name = strings.TrimSpace(n)
		}
	}
	address := mustFree(t)
	host, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	// It becomes the broker when the first client comes.
	broker := &process.Process{Spec: process.Spec{
		Path: "systemd-socket-activate", Dir: dir, Log: filepath.Join(dir, "log"), Network: "tcp", Address: address,
		Args: []string{"--listen=" + address, "--fdname=" + name, "--setenv=PATH", binary, "serve", "--data", filepath.Join(dir, "data"), "--listen", "systemd:" + name, "--set", "listeners.0.open=true"},
	}}
	if err := broker.Launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Kill() })
	says(t, broker, "Listening on")
	dunlin(t, "", "pub", "-h", host, "-p", port, "-t", "a", "-n", "-q", "1").check(t, 0, "", "")
	says(t, broker, "systemd:"+name)
	if err := broker.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
