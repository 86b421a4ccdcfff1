package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// uplinked is a configuration with an uplink that leads nowhere.
const uplinked = `uplinks=[{name: cloud, endpoints: ["mqtt://127.0.0.1:1"], client_id: g, rules: [{from: "plant/#", qos: 1}]}]`

func TestBackupOfARunningBrokerIsRestored(t *testing.T) {
	data, at := kept(t, true, uplinked)
	folder := shortFolder(t)
	for _, name := range []string{"b", "b.gz"} {
		t.Run(name, func(t *testing.T) {
			file, to := filepath.Join(folder, name), filepath.Join(folder, "data-"+name)
			dunlin(t, "", "backup", "--data", data, file).check(t, 0, "", "")
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("got %v, %v", info, err)
			}
			dunlin(t, "", "restore", "--data", to, file).check(t, 0,
				to+": sessions.db, uplink-cloud.db; 2 sessions, 5 messages in queues, 1 retained, 1 delayed, 5 in spools\n", "")
			dunlin(t, "", "db", "check", "--data", to).check(t, 0, "…pages and values are whole\n…pages and values are whole\n", "")
			_, back := startIn(t, to, uplinked)
			dunlin(t, "", args("sub", back, "-i", "away", "-c", "-x", "3600", "-q", "1", "-t", "plant/#", "-C", "5")...).check(t, 0,
				strings.Repeat("message\n", 5), "")
			dunlin(t, "", args("sub", back, "-t", "state/#", "-C", "1", "--hex")...).check(t, 0, "ff00\n", "")
			dunlin(t, "", "ledger", "--walk", "--data", to).check(t, 0, "…spool of cloud … 5 …", "")
		})
	}
	// What was saved goes on, and is not disturbed by it.
	dunlin(t, "", args("sub", at, "-i", "away", "-c", "-x", "3600", "-q", "1", "-t", "plant/#", "-C", "5")...).check(t, 0,
		strings.Repeat("message\n", 5), "")
}

func TestExportAndImportKeepEverything(t *testing.T) {
	data, _ := kept(t, false, uplinked)
	to := filepath.Join(shortFolder(t), "data")
	export := dunlin(t, "", "db", "export", "--data", data)
	if export.code != 0 {
		t.Fatal(export.errors)
	}
	dunlin(t, export.out, "db", "import", "--data", to).check(t, 0, to+": sessions.db, uplink-cloud.db; …", "")
	want := dunlin(t, "", "db", "dump", "--data", data)
	if got := dunlin(t, "", "db", "dump", "--data", to); got != want || want.out == "" {
		t.Errorf("got %+v, want %+v", got, want)
	}
	dunlin(t, export.out, "db", "import", "--data", to).check(t, 1, "",
		"dunlin db: archive: "+to+": there is data in it already (sessions.db, uplink-cloud.db, uplink-cloud.server); choose an empty folder with --data, or use dunlin restore --replace\n")
	dunlin(t, export.out[:len(export.out)/2], "db", "import", "--data", to+"2").check(t, 1, "", "dunlin db: archive: line …missing\n")
	dunlin(t, "", "db", "info", "--data", to+"2").check(t, 0, "there is nothing in it yet\n", "")
}

func TestRestoreLeavesARunningBrokerAlone(t *testing.T) {
	data, _ := kept(t, true)
	file := filepath.Join(shortFolder(t), "b")
	dunlin(t, "", "backup", "--data", data, file).check(t, 0, "", "")
	dunlin(t, "", "restore", "--replace", "--data", data, file).check(t, 1, "", "dunlin restore: data folder "+data+": another broker (process …) uses it; stop it…")
	dunlin(t, "", "db", "import", "--socket", filepath.Join(data, "admin.sock")).check(t, 2, "", "dunlin db: a broker that runs imports nothing; …")
}

func TestRestoreReplacesOnlyWhatItIsToldTo(t *testing.T) {
	data, _ := kept(t, false)
	file := filepath.Join(shortFolder(t), "b")
	dunlin(t, "", "backup", "--data", data, file).check(t, 0, "", "")
	dunlin(t, "", "restore", "--data", data, file).check(t, 1, "", "…there is data in it already (sessions.db); choose an empty folder with --data, or add --replace to have it moved away\n")
	dunlin(t, "", "restore", "--data", data, "--replace", file).check(t, 0, data+": sessions.db; …", "")
	if _, err := os.Stat(filepath.Join(data, "replaced", "sessions.db")); err != nil {
		t.Error(err)
	}
}

func TestBackupThatIsNoneLeavesEverythingAsItIs(t *testing.T) {
	folder := shortFolder(t)
	file := filepath.Join(folder, "b")
	if err := os.WriteFile(file, []byte("\x1f\x8bno gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(folder, "data")
	dunlin(t, "", "restore", "--data", data, file).check(t, 1, "", "dunlin restore: it is compressed, and damaged: …")
	dunlin(t, "", "restore", "--data", data, filepath.Join(folder, "none")).check(t, 1, "", "…no such file or directory\n")
	dunlin(t, "", "restore", "--data", data).check(t, 2, "", "dunlin restore: wants one file, got 0\n…")
	dunlin(t, "", "backup", "--data", folder, file).check(t, 1, "", "dunlin backup: there is nothing in "+folder+" yet\n")
	if text, err := os.ReadFile(file); err != nil || !bytes.HasSuffix(text, []byte("no gzip")) {
		t.Error("a backup that failed has taken the place of the last one")
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 2 {
		t.Errorf("there is something left: %v, %v", entries, err)
	}
}

func TestBrokerCompletesARestoreThatWasInterrupted(t *testing.T) {
	data, _ := kept(t, false)
	other, _ := kept(t, false)
	ready := filepath.Join(data, "restore.ready")
	if err := os.Mkdir(ready, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(other, "sessions.db"), filepath.Join(ready, "sessions.db")); err != nil {
		t.Fatal(err)
	}
	_, at := startIn(t, data)
	dunlin(t, "", args("sub", at, "-i", "away", "-c", "-x", "3600", "-q", "1", "-t", "plant/#", "-C", "5")...).check(t, 0, strings.Repeat("message\n", 5), "")
	if _, err := os.Stat(filepath.Join(data, "replaced", "sessions.db")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(ready); err == nil {
		t.Error("it was not completed")
	}
}
