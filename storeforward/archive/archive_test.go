package archive

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dunlin/core/durable"
	"dunlin/storeforward/sessionstore"
)

var update = flag.Bool("update", false, "rewrite testdata/v1.ndjson")

// golden makes a data folder of the golden files of version 1: every kind of value is in them.
func golden(t testing.TB) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, packed := range map[string]string{SessionsFile: "../sessionstore/testdata/v1.db.gz", "uplink-cloud.db": "../spool/testdata/v1.db.gz"} {
		f, err := os.Open(packed)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(folder, name), data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// archived is the archive of a folder that nobody uses.
func archived(t testing.TB, folder string) string {
	t.Helper()
	from, done, err := Folder(folder)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := errors.Join(Write(t.Context(), &text, from, "test", "2026-11-20T12:00:00Z"), done()); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// body is an archive without its end. The spool of the golden files has taken messages over up to 100,
// behind which numbers go on after a restore.
func body(text string) string {
	text, _, _ = strings.Cut(text, `{"end":`)
	return strings.Replace(text, `{"counters":{"seq":6,`, `{"counters":{"seq":100,`, 1)
}

func TestArchiveOfVersion1IsWrittenAndRead(t *testing.T) {
	const name = "testdata/v1.ndjson"
	got := archived(t, golden(t))
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	folder := t.TempDir()
	r, err := Restore(folder, bytes.NewReader(want), false)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(r.Files, " ") != "sessions.db uplink-cloud.db" || r.Mismatch != 0 || r.Lines["damaged"] != 0 || r.Header.By != "test" {
		t.Errorf("got %+v", r)
	}
	if again := archived(t, folder); body(again) != body(got) {
		t.Errorf("after a round trip\n%s\nwant\n%s", again, got)
	}
	if server, err := os.ReadFile(filepath.Join(folder, "uplink-cloud.server")); err != nil || string(server) != restoredServer {
		t.Errorf("the uplink would go on with its old session: %q, %v", server, err)
	}
}

func TestArchiveThatIsNotWholeChangesNothing(t *testing.T) {
	whole := archived(t, golden(t))
	for cut := 0; cut < len(whole); cut += 97 {
		folder := t.TempDir()
		if _, err := Restore(folder, strings.NewReader(whole[:cut]), false); err == nil {
			t.Fatalf("%d bytes of %d were restored", cut, len(whole))
		}
		unchanged(t, folder)
	}
	for at := 0; at < len(whole); at += 89 {
		folder := t.TempDir()
		bad := []byte(whole)
		bad[at] ^= 4
		if _, err := Restore(folder, bytes.NewReader(bad), false); err == nil {
			t.Fatalf("a damaged byte at %d (%q) was not seen", at, whole[max(0, at-20):at+1])
		}
		unchanged(t, folder)
	}
}

func unchanged(t *testing.T, folder string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) > 0 {
		t.Fatalf("the folder has %v, %v", entries, err)
	}
}

// signed makes a whole archive of lines.
func signed(lines ...string) string {
	var c Checker
	text := strings.Join(lines, "\n") + "\n"
	_, _ = c.Write([]byte(text))
	return text + fmt.Sprintf(`{"end":{"lines":%d,"checksum":"%08x"}}`+"\n", c.lines, c.sum)
}

func TestWhatABrokerCouldNotTrustIsRefused(t *testing.T) {
	const (
		head    = `{"archive":{"version":1,"by":"x"}}`
		file    = `{"file":{"name":"sessions.db","format":"dunlin.sessions","version":1}}`
		up      = `{"file":{"name":"uplink-a.db","format":"dunlin.uplink","version":1}}`
		message = `"message":{"topic":"a","qos":1,"received":{}}`
	)
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"no archive", []string{`{"counters":{"seq":1,"session":1}}`}, "line 1: it is no archive of dunlin"},
		{"something else", []string{"hello"}, "line 1: it is no JSON"},
		{"newer", []string{`{"archive":{"version":2,"by":"9.9"}}`}, `of version 2, this program reads up to 1; use the dunlin that made it ("9.9")`},
		{"version 0", []string{`{"archive":{"version":0,"by":"x"}}`}, "no version 0"},
		{"nothing in it", []string{head}, "holds no file"},
		{"twice", []string{head, head}, "line 2: another archive begins"},
		{"newer file", []string{head, `{"file":{"name":"sessions.db","format":"dunlin.sessions","version":7}}`}, "format version 7, this program knows up to 1"},
		{"other kind", []string{head, `{"file":{"name":"sessions.db","format":"dunlin.uplink","version":1}}`}, `holds "dunlin.uplink"`},
		{"path", []string{head, `{"file":{"name":"../x.db","format":"dunlin.uplink","version":1}}`}, "no file of a data folder"},
		{"path of an uplink", []string{head, `{"file":{"name":"uplink-../../x.db","format":"dunlin.uplink","version":1}}`}, "no file of a data folder"},
		{"file twice", []string{head, file, file}, "is there twice"},
		{"unknown key", []string{head, file, `{"surprise":1}`}, `unknown field "surprise"`},
		{"two kinds", []string{head, file, `{"counters":{"seq":1,"session":1},"gone":{"session":1}}`}, "line 3: it is of 2 kinds"},
		{"no kind", []string{head, file, `{}`}, "line 3: it is of 0 kinds"},
		{"two values", []string{head, file, `{"gone":{"session":1}} {}`}, "something behind"},
		{"no file yet", []string{head, `{"counters":{"seq":1,"session":1}}`}, "has not begun"},
		{"of another file", []string{head, file, up, `{"counters":{"seq":1,"session":1}}`}, "has ended"},
		{"spooled without a spool", []string{head, file, `{"spooled":{"seq":1,"qos":1,` + message + `}}`}, "no such file has begun"},
		{"session 0", []string{head, file, `{"session":{"number":0,"client_id":"c","version":5,"expiry":1,"left":{}}}`}, "number 0"},
		{"client identifier", []string{head, file, `{"session":{"number":1,"client_id":"a\u0000","version":5,"expiry":1,"left":{}}}`}, "no string of MQTT"},
		{"filter", []string{head, file, `{"session":{"number":1,"client_id":"c","version":5,"expiry":1,"left":{},"subscriptions":[{"filter":"a/#/b","qos":1}]}}`}, `"a/#/b" is no topic filter`},
		{"QoS of a subscription", []string{head, file, `{"session":{"number":1,"client_id":"c","version":5,"expiry":1,"left":{},"subscriptions":[{"filter":"a","qos":3}]}}`}, "does not exist"},
		{"will", []string{head, file, `{"session":{"number":1,"client_id":"c","version":5,"expiry":1,"left":{},"will":{` + strings.Replace(message, `"a"`, `"+"`, 1) + `}}}`}, "will: topic"},
		{"cursor", []string{head, file, `{"cursor":{"session":1,"as_of":3,"high":4,"accepted":0}}`}, "do not fit"},
		{"open of a cursor", []string{head, file, `{"cursor":{"session":1,"as_of":9,"high":8,"open":[3,2],"accepted":0}}`}, "do not fit"},
		{"open twice", []string{head, file, `{"cursor":{"session":1,"as_of":9,"high":8,"open":[3,3],"accepted":0}}`}, "do not fit"},
		{"outcome", []string{head, file, `{"cursor":{"session":1,"as_of":9,"high":8,"accepted":1,"left":{"eaten":1}}}`}, `by "eaten"`},
		{"number of outcome 0", []string{head, file, `{"total":{"accepted":1,"left":{"":1}}}`}, `by ""`},
		{"packet identifier", []string{head, file, `{"cursor":{"session":1,"as_of":9,"high":8,"incoming":[0],"accepted":0}}`}, "packet identifier 0"},
		{"outgoing", []string{head, file, `{"cursor":{"session":1,"as_of":9,"high":8,"outgoing":[{"id":1,"seq":10}],"accepted":0}}`}, "cannot be"},
		{"topic", []string{head, file, `{"retained":{"topic":"a/+","qos":0,"received":{}}}`}, "wildcard"},
		{"QoS", []string{head, file, `{"retained":{"topic":"a","qos":3,"received":{}}}`}, "no QoS above 2"},
		{"properties", []string{head, file, `{"retained":{"topic":"a","properties":"/w==","qos":0,"received":{}}}`}, "properties"},
		{"two payloads", []string{head, file, `{"retained":{"topic":"a","payload":"x","bytes":"eA==","qos":0,"received":{}}}`}, "payload and bytes"},
		{"receivers", []string{head, file, `{"message":{"seq":1,"receivers":[{"session":2,"qos":1},{"session":2,"qos":1}],` + message + `}}`}, "do not ascend"},
		{"share", []string{head, file, `{"message":{"seq":1,"receivers":[{"session":2,"qos":1,"share":"a/b"}],` + message + `}}`}, "no shared subscription"},
		{"subscription identifier", []string{head, file, `{"message":{"seq":1,"receivers":[{"session":2,"qos":1,"ids":[0]}],` + message + `}}`}, "no subscription identifier 0"},
		{"boot 0", []string{head, file, `{"boot":{"number":0,"id":"x","last_millis":1}}`}, "no boot 0"},
		{"last boot", []string{head, file, `{"boot":{"number":4294967295,"id":"x","last_millis":1}}`}, "no boot 4294967295"},
		{"last number", []string{head, file, `{"counters":{"seq":18446744073709551615,"session":1}}`}, "which leaves none"},
		{"last number of a spool", []string{head, up, `{"spool":{"last":18446744073709551615,"floor":1,"limit":1,"pending":0,"pending_bytes":0,"accepted":0}}`}, "which leaves none"},
		{"message 0", []string{head, file, `{"message":{"seq":0,"receivers":[],` + message + `}}`}, "number 0"},
		{"order in a spool", []string{head, up, `{"spooled":{"seq":2,"qos":1,` + message + `}}`, `{"spooled":{"seq":2,"qos":1,` + message + `}}`}, "does not follow"},
		{"QoS 0 in a spool", []string{head, up, `{"spooled":{"seq":2,"qos":0,` + message + `}}`}, "QoS of 0"},
		{"spool without its state", []string{head, up, `{"spooled":{"seq":2,"qos":1,` + message + `}}`}, "state of the spool is missing"},
		{"last of a spool", []string{head, up, `{"spooled":{"seq":2,"qos":1,` + message + `}}`, `{"spool":{"last":1,"floor":0,"limit":0,"pending":0,"pending_bytes":0,"accepted":0}}`}, "there is message 2"},
		{"spans of a spool", []string{head, up, `{"spool":{"last":9,"floor":3,"limit":0,"done":[[3,4]],"pending":0,"pending_bytes":0,"accepted":0}}`}, "do not ascend"},
		{"outcome of a spool", []string{head, up, `{"spool":{"last":9,"floor":3,"limit":0,"pending":0,"pending_bytes":0,"accepted":0,"left":{"eaten":1}}}`}, `by "eaten"`},
		{"behind the state", []string{head, up, `{"spool":{"last":1,"floor":0,"limit":0,"pending":0,"pending_bytes":0,"accepted":0}}`, `{"spool":{"last":1,"floor":0,"limit":0,"pending":0,"pending_bytes":0,"accepted":0}}`}, "behind the state"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			folder := t.TempDir()
			_, err := Restore(folder, strings.NewReader(signed(tt.lines...)), false)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "close") {
				t.Errorf("it could not be abandoned: %v", err)
			}
			unchanged(t, folder)
		})
	}
}

func TestDataThatIsThereIsReplacedOnlyWhenToldTo(t *testing.T) {
	folder, text := golden(t), archived(t, golden(t))
	before := archived(t, folder)
	if _, err := Restore(folder, strings.NewReader(text), false); !errors.Is(err, ErrNotEmpty) || archived(t, folder) != before {
		t.Fatalf("got %v", err)
	}
	small := signed(`{"archive":{"version":1,"by":"x"}}`, `{"file":{"name":"sessions.db","format":"dunlin.sessions","version":1}}`, `{"counters":{"seq":9,"session":3}}`)
	if _, err := Restore(folder, strings.NewReader(small), true); err != nil {
		t.Fatal(err)
	}
	if got := archived(t, folder); !strings.Contains(got, `{"counters":{"seq":9,"session":3}}`) || strings.Contains(got, "uplink-cloud") {
		t.Errorf("got %s", got)
	}
	if archived(t, filepath.Join(folder, FolderReplaced)) != before {
		t.Error("what was replaced is not kept")
	}
	if _, err := Restore(folder, strings.NewReader(small), true); err == nil || !strings.Contains(err.Error(), "move that away first") {
		t.Errorf("what was replaced before would be lost: %v", err)
	}
}

// A crash leaves what a restore has done up to then: whoever comes next completes it or takes it back.
func TestRestoreHappensWholeOrNotAtAll(t *testing.T) {
	text := archived(t, golden(t))
	made := func(t *testing.T, name string) (folder string) {
		folder = golden(t)
		if err := os.WriteFile(filepath.Join(folder, "uplink-old.server"), []byte("x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(folder, "uplink-cloud.db"), filepath.Join(folder, "uplink-old.db")); err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(folder, name)
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := read(at, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		return folder
	}
	t.Run("before it was whole", func(t *testing.T) {
		folder := made(t, folderNew)
		if err := Complete(folder); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(folder, "uplink-old.db")); err != nil || isFolder(filepath.Join(folder, folderNew)) {
			t.Errorf("it was not taken back: %v", err)
		}
	})
	whole := func(t *testing.T, folder string) {
		t.Helper()
		if err := Complete(folder); err != nil {
			t.Fatal(err)
		}
		if body(archived(t, folder)) != body(text) {
			t.Error("it was not completed")
		}
		for _, name := range []string{folderReady, folderLast, "uplink-old.db", "uplink-old.server"} {
			if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
				t.Errorf("there is still %s", name)
			}
		}
		for _, name := range []string{SessionsFile, "uplink-old.db", "uplink-old.server"} {
			if _, err := os.Lstat(filepath.Join(folder, FolderReplaced, name)); err != nil {
				t.Errorf("what was replaced: %v", err)
			}
		}
	}
	t.Run("nothing moved", func(t *testing.T) { whole(t, made(t, folderReady)) })
	t.Run("some moved aside", func(t *testing.T) {
		folder := made(t, folderReady)
		if err := os.Mkdir(filepath.Join(folder, FolderReplaced), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(folder, SessionsFile), filepath.Join(folder, FolderReplaced, SessionsFile)); err != nil {
			t.Fatal(err)
		}
		whole(t, folder)
	})
	t.Run("some moved in", func(t *testing.T) {
		folder := made(t, folderReady)
		if err := moveAside(folder); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(folder, folderReady), filepath.Join(folder, folderLast)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(folder, folderLast, SessionsFile), filepath.Join(folder, SessionsFile)); err != nil {
			t.Fatal(err)
		}
		whole(t, folder)
	})
}

func TestNumbersGoOnBehindWhatASpoolHasTaken(t *testing.T) {
	folder := t.TempDir()
	text := signed(`{"archive":{"version":1,"by":"x"}}`,
		`{"file":{"name":"sessions.db","format":"dunlin.sessions","version":1}}`, `{"counters":{"seq":9,"session":3}}`,
		`{"file":{"name":"uplink-a.db","format":"dunlin.uplink","version":1}}`,
		`{"spool":{"last":1,"floor":1,"limit":1,"source":70,"pending":0,"pending_bytes":0,"accepted":0}}`)
	if _, err := Restore(folder, strings.NewReader(text), false); err != nil {
		t.Fatal(err)
	}
	if got := archived(t, folder); !strings.Contains(got, `{"counters":{"seq":70,"session":3}}`) {
		t.Errorf("the spool would leave out messages up to 70: %s", got)
	}
}

func TestWhatEndedDuringAVisitIsNotRestored(t *testing.T) {
	folder := t.TempDir()
	text := signed(`{"archive":{"version":1,"by":"x"}}`,
		`{"file":{"name":"sessions.db","format":"dunlin.sessions","version":1}}`,
		`{"delayed":{"seq":5,"delay":60,"message":{"topic":"a","qos":1,"received":{}}}}`,
		`{"session":{"number":1,"client_id":"c","version":5,"expiry":1,"left":{}}}`,
		`{"cursor":{"session":1,"as_of":9,"high":9,"accepted":0}}`,
		`{"gone":{"session":1}}`, `{"gone":{"delayed":5}}`, `{"counters":{"seq":9,"session":3}}`)
	if _, err := Restore(folder, strings.NewReader(text), false); err != nil {
		t.Fatal(err)
	}
	got := archived(t, folder)
	for _, kind := range []string{"delayed", "session", "cursor"} {
		if strings.Contains(got, `{"`+kind+`":{`) {
			t.Errorf("there is a %s: %s", kind, got)
		}
	}
}

func TestCheckerKnowsAWholeArchive(t *testing.T) {
	text := archived(t, golden(t))
	for step := 1; step < 700; step += 37 {
		var c Checker
		for rest := text; rest != ""; {
			n := min(step, len(rest))
			if c.Complete() {
				t.Fatalf("complete before the end, in steps of %d", step)
			}
			_, _ = io.WriteString(&c, rest[:n])
			rest = rest[n:]
		}
		if !c.Complete() {
			t.Errorf("not complete in steps of %d", step)
		}
		_, _ = io.WriteString(&c, "\n")
		if c.Complete() {
			t.Error("complete with something behind the end")
		}
	}
}

func TestEveryOutcomeHasAName(t *testing.T) {
	var counts sessionstore.Counts
	for o := range counts.Left {
		if name := durable.Outcome(o).String(); o > 0 && (name == "" || durable.ParseOutcome(name) != durable.Outcome(o)) {
			t.Errorf("outcome %d is %q", o, name)
		}
	}
}

// small is the archive of the golden files without its long lines, which a fuzzer would be busy with.
func small(t testing.TB) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(archived(t, golden(t))) {
		if len(line) < 500 && !strings.HasPrefix(line, `{"end":`) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return signed(lines...)
}

// FuzzLine reads a line that anybody may write. What is taken is written again and says the same.
func FuzzLine(f *testing.F) {
	for line := range strings.Lines(small(f)) {
		f.Add(strings.TrimSuffix(line, "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		once, ok := rewritten(text)
		if !ok {
			return
		}
		if again, ok := rewritten(once); !ok || again != once {
			t.Errorf("%q, then %q", once, again)
		}
	})
}

// rewritten is a line with a value, taken apart and put together again.
func rewritten(text string) (string, bool) {
	r := &reader{in: bufio.NewReader(strings.NewReader(text + "\n"))}
	l, err := r.next()
	if err != nil || l.Archive != nil || l.File != nil || l.End != nil || l.Damaged != nil {
		return "", false
	}
	var again Line
	if l.Spooled != nil || l.Spool != nil {
		v, err := l.spooled()
		if err != nil {
			return "", false
		}
		again = ofSpool(v)
	} else {
		v, err := l.session()
		if err != nil {
			return "", false
		}
		again = ofSessions(v)
	}
	var out bytes.Buffer
	if err := marshal(&out, &again); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(out.String(), "\n"), true
}

// FuzzRestore reads what anybody may write. What is taken is a data folder whose archive is taken again
// and says the same.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(small(f)))
	f.Add([]byte(signed(`{"archive":{"version":1,"by":"x"}}`, `{"file":{"name":"uplink-a.db","format":"dunlin.uplink","version":1}}`,
		`{"spooled":{"seq":2,"qos":1,"message":{"topic":"a","bytes":"/w==","qos":2,"received":{"boot":1}}}}`,
		`{"spool":{"last":9,"floor":1,"limit":3,"done":[[4,5]],"received":[2],"pending":1,"pending_bytes":10,"accepted":9,"left":{"full":2}}}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Most changes are seen by the checksum: a line of the input is enough to get behind it.
		lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		for _, text := range []string{string(data), signed(lines[:max(1, len(lines)-1)]...)} {
			folder := t.TempDir()
			if _, err := Restore(folder, strings.NewReader(text), false); err != nil {
				unchanged(t, folder)
				continue
			}
			once := archived(t, folder)
			again := t.TempDir()
			if _, err := Restore(again, strings.NewReader(once), false); err != nil {
				t.Fatalf("%v: %s", err, once)
			}
			if got := archived(t, again); got != once {
				t.Errorf("got %s, want %s", got, once)
			}
			s, err := sessionstore.Open(filepath.Join(again, SessionsFile), sessionstore.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
}
