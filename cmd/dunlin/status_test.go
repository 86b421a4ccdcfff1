package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dunlin/cmd/dunlin/console"
	"dunlin/testbench/process"
)

// startIn runs a broker on a data folder, and returns how pub and sub reach it.
func startIn(t *testing.T, data string, settings ...string) (p *process.Process, at []string) {
	t.Helper()
	p, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{Data: data, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	host, port, _ := strings.Cut(p.Spec.Address, ":")
	return p, []string{"-h", host, "-p", port, "-W", "30"}
}

// shortFolder is a folder whose path leaves room for that of a socket.
func shortFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

// keep makes a queue of n messages for a client that is away.
func keep(t *testing.T, at []string, id string, n int) {
	t.Helper()
	dunlin(t, "", args("sub", at, "-i", id, "-c", "-x", "3600", "-q", "1", "-t", "plant/#", "-E")...).check(t, 0, "", "")
	dunlin(t, strings.Repeat("message\n", n), args("pub", at, "-q", "1", "-t", "plant/a", "-l")...).check(t, 0, "", "")
}

func TestStatusAndLedgerTellOfARunningBroker(t *testing.T) {
	data := filepath.Join(shortFolder(t), "data")
	_, at := startIn(t, data)
	keep(t, at, "away", 7)
	dunlin(t, "", "status", "--data", data).check(t, 0,
		"version …state     listening on …data      …clients   0 connected, 1 sessions, 1 subscriptions\n…"+
			"queues    7 pending (98 B), 7 accepted, 0 delivered, 0 expired, 0 dropped\n", "")
	dunlin(t, "", "ledger", "--walk", "--data", data).check(t, 0,
		"QUEUE …ON DISK…away … 7 … 0 … 0 … 0 … 0 … 0 … 7 … 98 … 7 …", "")
	var l console.Ledger
	r := dunlin(t, "", "ledger", "--json", "--data", data)
	if err := json.Unmarshal([]byte(r.out), &l); err != nil || len(l.Queues) != 1 || l.Queues[0].Pending != 7 || l.Mismatches != 0 {
		t.Errorf("got %s, %v", r.out, err)
	}
	var s console.Status
	r = dunlin(t, "", "status", "--json", "--socket", filepath.Join(data, "admin.sock"))
	if err := json.Unmarshal([]byte(r.out), &s); err != nil || s.Queues.Pending != 7 {
		t.Errorf("got %s, %v", r.out, err)
	}
}

func TestLedgerCountsOnInTheNextProcess(t *testing.T) {
	data := filepath.Join(shortFolder(t), "data")
	p, at := startIn(t, data)
	keep(t, at, "away", 5)
	dunlin(t, "", args("sub", at, "-i", "away", "-c", "-x", "3600", "-q", "1", "-t", "plant/#", "-C", "2")...).check(t, 0, "message\nmessage\n", "")
	p.Kill()
	_, _ = startIn(t, data)
	r := dunlin(t, "", "ledger", "--walk", "--json", "--data", data)
	var l console.Ledger
	if err := json.Unmarshal([]byte(r.out), &l); err != nil || r.code != 0 || len(l.Queues) != 1 {
		t.Fatalf("got %s, %v", r.out, err)
	}
	if q := l.Queues[0]; q.Accepted != 5 || q.Delivered+q.Pending != 5 || q.Walked == nil || q.Walked.Pending != q.Pending {
		t.Errorf("got %s", r.out)
	}
}

func TestSysHasTheLedger(t *testing.T) {
	_, at := startIn(t, filepath.Join(shortFolder(t), "data"), "sys.interval=1s")
	keep(t, at, "a/b", 3)
	dunlin(t, "", args("sub", at, "-t", "$SYS/broker/ledger/pending", "-C", "1")...).check(t, 0, "3\n", "")
	dunlin(t, "", args("sub", at, "-t", "$SYS/broker/ledger/mismatch", "-C", "1")...).check(t, 0, "0\n", "")
	dunlin(t, "", args("sub", at, "-v", "-t", "$SYS/broker/ledger/session/+", "-C", "1")...).check(t, 0,
		`$SYS/broker/ledger/session/a%2Fb {"accepted":3,"delivered":0,"expired":0,"dropped":{…},"moved":0,"dead":0,"pending":3,"pending_bytes":42,"mismatch":0}`+"\n", "")
}

func TestSocketCanBeLeftOut(t *testing.T) {
	folder := shortFolder(t)
	data := filepath.Join(folder, "data")
	_, _ = startIn(t, data, "admin.socket=none")
	dunlin(t, "", "status", "--data", data).check(t, 1, "",
		"dunlin status: no broker runs on the data folder "+data+", or it has no admin socket; name it with --data, --config or --socket\n")
	dunlin(t, "", "status", "--socket", filepath.Join(folder, "s")).check(t, 1, "", "…no broker listens there…")
}

func TestSocketIsFoundByTheConfiguration(t *testing.T) {
	folder := shortFolder(t)
	data, socket := filepath.Join(folder, "data"), filepath.Join(folder, "s")
	_, _ = startIn(t, data, "admin.socket="+socket)
	file := filepath.Join(folder, "c.yaml")
	if err := os.WriteFile(file, []byte("data: "+data+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dunlin(t, "", "status", "--config", file).check(t, 0, "version …", "")
	dunlin(t, "", "status", "--config", file, "--data", data).check(t, 2, "", "dunlin status: --data and --config say two things\n…")
	dunlin(t, "", "status", "--socket", socket, "--data", data).check(t, 2, "", "…do not go with it\n…")
}
