package order

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

// guard bounds a test, so that a broker or strace that hangs fails it.
const guard = 2 * time.Minute

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// record lets a device publish so many messages at each QoS, one at a time, for a session that is
// away, and as many that are retained, all of them for an uplink without a link, and returns the system calls of the broker meanwhile.
func record(t *testing.T, perQoS int, settings ...string) ([]call, []message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	nowhere, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := process.Dunlin(ctx, t.TempDir(), process.Gateway{Settings: settings, Uplinks: []process.Uplink{{
		Name: "cloud", Endpoint: "mqtt://" + nowhere, ClientID: "gateway", Rules: []process.Rule{{From: "#", QoS: 2}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Kill()
	away := client.New(client.Options{Address: gateway.Spec.Address, ClientID: "away", SessionExpiry: 3600})
	if _, err := away.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := away.Subscribe(ctx, client.Filter{Filter: "queued", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	if err := away.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	ended := attach(t, ctx, gateway.PID(), trace)

	device := client.New(client.Options{Address: gateway.Spec.Address, ClientID: "device", SessionExpiry: 3600, Version: packet.V311})
	defer device.Close()
	if _, err := device.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	var messages []message
	for i := range 4 * perQoS {
		qos, retain := packet.QoS(1+i%2), i%4 >= 2
		p := client.Publish{Topic: "queued", QoS: qos, Retain: retain, Payload: fmt.Appendf(nil, "message-%06d", i)}
		if retain {
			p.Topic = "kept/" + strconv.Itoa(i)
		}
		acked := make(chan struct{})
		p.Acked = func(packet.ReasonCode) { close(acked) }
		if err := device.Publish(ctx, p); err != nil {
			t.Fatal(err)
		}
		select {
		case <-acked:
		case <-device.Done():
			t.Fatal(device.Err())
		case <-ctx.Done():
			t.Fatal("no acknowledgement")
		}
		if err := device.Drain(ctx); err != nil { // QoS 2: to its end
			t.Fatal(err)
		}
		answer := []byte{0x40, 2, byte((i + 1) >> 8), byte(i + 1)} // the client counts from 1
		if qos == 2 {
			answer[0] = 0x50
		}
		messages = append(messages, message{string(p.Payload), answer})
	}
	if err := gateway.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("strace goes on without the broker")
	}
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	calls, err := parse(f)
	if err != nil {
		t.Fatal(err)
	}
	return calls, messages
}

// attach traces a process into a file. The channel gets the outcome when the process has ended.
func attach(t *testing.T, ctx context.Context, pid int, file string) <-chan error {
	t.Helper()
	cmd := exec.CommandContext(ctx, "strace", "-f", "-y", "-xx", "-s", "1048576", "-o", file,
		"-e", "trace=write,writev,sendto,sendmsg,pwrite64,pwritev,fdatasync,fsync,sync_file_range,msync",
		"-p", strconv.Itoa(pid))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: install it: apt-get install strace", err)
	}
	attached, ended := make(chan struct{}), make(chan error, 1)
	go func() { // ends with the traced process or the context; record waits for it by the channel
		var said []string
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			said = append(said, lines.Text())
			if len(said) == 1 && strings.Contains(said[0], "attached") {
				close(attached)
			}
		}
		if err := cmd.Wait(); err != nil && !strings.Contains(err.Error(), "signal: killed") {
			ended <- fmt.Errorf("strace: %w: %s", err, said)
			return
		}
		ended <- nil
	}()
	select {
	case <-attached:
	case err := <-ended:
		t.Fatalf("strace does not attach (as root, and where ptrace is allowed, it does): %v", err)
	case <-ctx.Done():
		t.Fatal("strace does not attach")
	}
	return ended
}

// TestNothingIsAcknowledgedBeforeItIsSynced is invariant 1 of ARCHITECTURE.md as the kernel sees it.
func TestNothingIsAcknowledgedBeforeItIsSynced(t *testing.T) {
	calls, messages := record(t, 25)
	if err := hold(calls, "/sessions.db", messages); err != nil {
		t.Error(err)
	}
	// At QoS 2 the spool takes over from sessions.db what is safe there.
	var first []message
	for i, m := range messages {
		if i%2 == 0 {
			first = append(first, m)
		}
	}
	if err := hold(calls, "/uplink-cloud.db", first); err != nil {
		t.Error(err)
	}
	t.Logf("%d messages, %d system calls", len(messages), len(calls))
}

// TestABrokerThatDoesNotSyncIsFoundOut is the test of the test.
func TestABrokerThatDoesNotSyncIsFoundOut(t *testing.T) {
	calls, messages := record(t, 1, "store.unsafe_no_sync=true")
	err := hold(calls, "/sessions.db", messages)
	if err == nil || !strings.Contains(err.Error(), "was not synced before") {
		t.Errorf("got %v, want that a message was not synced", err)
	}
}
