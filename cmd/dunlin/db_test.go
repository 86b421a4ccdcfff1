package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"dunlin/cmd/dunlin/console"
)

// kept makes a data folder with a queue of 5 messages, a retained one and a delayed one; nobody uses
// it any more, unless stays.
func kept(t *testing.T, stays bool, settings ...string) (data string, at []string) {
	t.Helper()
	data = filepath.Join(shortFolder(t), "data")
	p, at := startIn(t, data, settings...)
	keep(t, at, "away", 5)
	dunlin(t, "\xff\x00", args("pub", at, "-q", "1", "-r", "-t", "state/a", "-s")...).check(t, 0, "", "")
	dunlin(t, "", args("pub", at, "-q", "1", "-t", "$delayed/3600/x", "-m", "later")...).check(t, 0, "", "")
	if !stays {
		ctx, cancel := context.WithTimeout(t.Context(), hang)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return data, at
}

func TestFilesAreLookedIntoWithAndWithoutTheBroker(t *testing.T) {
	for name, running := range map[string]bool{"running": true, "stopped": false} {
		t.Run(name, func(t *testing.T) {
			data, _ := kept(t, running)
			state, verdict := "closed in order", "pages and values are whole"
			if running {
				state, verdict = "in use", "values are whole; stop the broker to have the tree checked, too"
			}
			info := "sessions.db  dunlin.sessions version 1, " + state + ", transaction …\n… free…\n…boots 1, due 1, messages 5, meta 1, retained 1, sessions 1\n"
			dunlin(t, "", "db", "info", "--data", data).check(t, 0, info, "")
			dunlin(t, "", "db", "check", "--data", data).check(t, 0, info+"…"+verdict+"\n", "")
			var files []console.File
			r := dunlin(t, "", "db", "check", "--json", "--data", data)
			if err := json.Unmarshal([]byte(r.out), &files); err != nil || r.code != 0 || len(files) != 1 || files[0].Whole == running {
				t.Errorf("got %s, %v", r.out, err)
			}
			dump := dunlin(t, "", "db", "dump", "--data", data)
			if dump.code != 0 || strings.Count(dump.out, `{"message":{"seq":`) != 5 ||
				!strings.Contains(dump.out, `{"retained":{"topic":"state/a","bytes":"/wA=","qos":1,"retain":true,`) ||
				!strings.Contains(dump.out, `{"delayed":{"seq":`) || !strings.Contains(dump.out, `"client_id":"away"`) {
				t.Errorf("got %d, %s%s", dump.code, dump.out, dump.errors)
			}
			only := dunlin(t, "", "db", "dump", "--only", "session,counters", "--data", data)
			if n := strings.Count(only.out, "\n"); only.code != 0 || n != 2 || !strings.HasPrefix(only.out, `{"session":`) {
				t.Errorf("got %d, %s%s", only.code, only.out, only.errors)
			}
		})
	}
}

func TestCompactingGivesSpaceBackAndKeepsEverything(t *testing.T) {
	for name, running := range map[string]bool{"running": true, "stopped": false} {
		t.Run(name, func(t *testing.T) {
			data, at := kept(t, running)
			path := filepath.Join(data, "sessions.db")
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			want := dunlin(t, "", "db", "dump", "--only", "session,message,retained,delayed,counters", "--data", data).out
			dunlin(t, "", "db", "compact", "--data", data).check(t, 0, "sessions.db  … -> …\n", "")
			after, err := os.Stat(path)
			if err != nil || after.Size() >= before.Size() {
				t.Errorf("%d bytes before, %d after, %v", before.Size(), after.Size(), err)
			}
			if got := dunlin(t, "", "db", "dump", "--only", "session,message,retained,delayed,counters", "--data", data).out; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if !running {
				_, at = startIn(t, data)
			}
			dunlin(t, "", args("pub", at, "-q", "1", "-t", "plant/b", "-m", "after")...).check(t, 0, "", "")
			dunlin(t, "", args("sub", at, "-i", "away", "-c", "-x", "3600", "-q", "1", "-t", "plant/#", "-C", "6")...).check(t, 0,
				strings.Repeat("message\n", 5)+"after\n", "")
		})
	}
}

func TestDamageIsFoundWithAnExitCodeOfItsOwn(t *testing.T) {
	data, _ := kept(t, false)
	path := filepath.Join(data, "sessions.db")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file = bytes.ReplaceAll(file, []byte("plant/a\x07message"), []byte("plant/a\x07massage"))
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	dunlin(t, "", "db", "check", "--data", data).check(t, 3, "…DAMAGED: …- bucket messages, key …the next start of the broker salvages what it can…", "")
	dunlin(t, "", "db", "compact", "--data", data).check(t, 1, "", "…sessions.db is damaged; start the broker first, which salvages it\n")
	if r := dunlin(t, "", "db", "dump", "--only", "damaged", "--data", data); r.code != 0 || !strings.HasPrefix(r.out, `{"damaged":{"bucket":"messages","key":`) {
		t.Errorf("got %d, %s%s", r.code, r.out, r.errors)
	}
}

// newer makes the sessions.db of a data folder one of a newer version.
func newer(t *testing.T, data string) {
	t.Helper()
	f, err := bbolt.Open(filepath.Join(data, "sessions.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("version"), binary.BigEndian.AppendUint32(nil, 99))
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDataOfANewerVersionIsRefusedAndLeftAlone(t *testing.T) {
	data, _ := kept(t, false)
	newer(t, data)
	path := filepath.Join(data, "sessions.db")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		code int
		args []string
	}{
		{0, []string{"db", "info"}},
		{1, []string{"db", "check"}},
		{1, []string{"db", "dump"}},
		{1, []string{"db", "compact"}},
		{1, []string{"db", "export"}},
		{1, []string{"backup", filepath.Join(shortFolder(t), "b")}},
	} {
		r := dunlin(t, "", append(tt.args, "--data", data)...)
		if r.code != tt.code || !strings.Contains(r.out+r.errors, "version 99") || !strings.Contains(r.out+r.errors, "install the newer program again") {
			t.Errorf("%q: got %d, %s%s", tt.args, r.code, r.out, r.errors)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("the file was written to")
	}
}

func TestDataThatAnotherProcessUsesIsLeftToIt(t *testing.T) {
	data, _ := kept(t, false)
	f, err := os.OpenFile(filepath.Join(data, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f, "4711\n"); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"info", "check", "dump", "compact"} {
		dunlin(t, "", "db", action, "--data", data).check(t, 1, "",
			"dunlin db: data folder "+data+": another process (process 4711) uses it and has no admin socket; stop it first\n")
	}
}

func TestDbSaysWhatItDoesNotUnderstand(t *testing.T) {
	folder := t.TempDir()
	dunlin(t, "", "db").check(t, 2, "", "dunlin db: what is to be done is missing: …")
	dunlin(t, "", "db", "mend").check(t, 2, "", "dunlin db: there is no \"mend\"; …")
	dunlin(t, "", "db", "dump", "--only", "all").check(t, 2, "", "dunlin db: there is no \"all\" in a dump; allowed: boot, …")
	dunlin(t, "", "db", "info", "more").check(t, 2, "", "dunlin db: \"more\" is too much\n…")
	dunlin(t, "", "db", "info", "--data", filepath.Join(folder, "none")).check(t, 1, "", "…no such file or directory; name one with --data or --config\n")
	dunlin(t, "", "db", "info", "--data", folder).check(t, 0, "there is nothing in it yet\n", "")
}
