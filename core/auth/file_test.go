package auth

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPasswordFileErrorsNameTheLine(t *testing.T) {
	good := cheap("alice", "secret")
	hash := strings.TrimSuffix(strings.TrimPrefix(good, "alice:"), "\n")
	edit := func(old, new string) string { return "bob:" + strings.Replace(hash, old, new, 1) }
	for _, c := range []struct {
		name, line, want string
	}{
		{"no colon", "secret", "no colon"},
		{"no user", ":" + hash, "user name is empty"},
		{"no hash", "bob:", "dunlin passwd"},
		{"a password", "bob:hunter2", "dunlin passwd"},
		{"a password with dollars", "bob:hunter$2$x", "dunlin passwd"},
		{"mosquitto", "bob:$7$101$c2FsdA==$aGFzaA==", "only argon2id"},
		{"argon2i", edit("argon2id", "argon2i"), "only argon2id"},
		{"twice", good[:len(good)-1], `user "alice" is on line 2 already`},
		{"version", edit("v=19", "v=16"), "version"},
		{"parts", "bob:" + hash + "$x", "6 parts"},
		{"parameters", edit("m=8,t=1,p=1", "m=8,p=1"), "of the form m="},
		{"parameters in another order", edit("m=8,t=1", "t=1,m=8"), "of the form m="},
		{"parameter is not a number", edit("t=1", "t=-1"), "of the form m="},
		{"too much memory", edit("m=8", "m=32769"), "allowed are 8 to 32768"},
		{"no passes", edit("t=1", "t=0"), "allowed are 1 to 16"},
		{"too many threads", edit("p=1", "p=255"), "allowed are 1 to 4"},
		{"salt is not base64", edit("MDEy", "****"), "salt of the hash: not base64"},
		{"salt has a carriage return", edit("MDEy", "MD\rEy"), "salt of the hash: not base64"},
		{"salt is short", edit("MDEyMzQ1Njc4OWFiY2RlZg", "MDEy"), "allowed are 8 to 64"},
		{"end is missing", "bob:" + hash[:strings.LastIndex(hash, "$")+1], "allowed are 16 to 64"},
		{"space before the name", " bob:" + hash, "begins or ends with a space"},
		{"space behind the hash", "bob:" + hash + " ", "end of the hash"},
		{"control character", "b\x01b:" + hash, "control character"},
		{"not UTF-8", "b\xffb:" + hash, "not UTF-8"},
		{"byte order mark", "\ufeffbob:" + hash, "byte order mark"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParsePasswordFile(strings.NewReader("# first\n" + good + "\n" + c.line + "\n" + cheap("last", "x")))
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), "line 4: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want line 4 and %q", err, c.want)
			}
			for _, hidden := range []string{"hunter", hash[len(hash)-20:]} {
				if strings.Contains(err.Error(), hidden) {
					t.Errorf("error %q shows what is secret", err)
				}
			}
		})
	}
}

func TestPasswordFileKeepsOtherLines(t *testing.T) {
	alice, bob := cheap("alice", "secret"), cheap("bob", "x")
	before := "# users of site 7\r\n\n" + alice + "  \n" + strings.TrimSuffix(bob, "\n") + "\r\n# end, without a newline"
	f := parse(t, before)
	if got := string(f.Bytes()); got != before {
		t.Fatalf("reading changed it to\n%q\nfrom\n%q", got, before)
	}
	if got := f.Users(); !slices.Equal(got, []string{"alice", "bob"}) || f.Len() != 2 {
		t.Errorf("users are %q", got)
	}
	for _, user := range []string{"carol", "alice"} {
		if err := f.Set(user, "new of "+user); err != nil {
			t.Fatal(err)
		}
	}
	if !f.Delete("bob") || f.Delete("bob") || f.Has("bob") {
		t.Error("bob was not deleted once")
	}
	lines := strings.SplitAfter(string(f.Bytes()), "\n")
	want := []string{"# users of site 7\r\n", "\n", "alice:", "  \n", "# end, without a newline\n", "carol:", ""}
	if len(lines) != len(want) {
		t.Fatalf("lines are %q", lines)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) || !strings.HasSuffix(want[i], ":") && lines[i] != want[i] {
			t.Errorf("line %d is %q, want %q", i+1, lines[i], want[i])
		}
	}
	a := New(Options{Passwords: parse(t, string(f.Bytes()))})
	defer a.Close()
	for _, user := range []string{"carol", "alice"} {
		if got, _ := ask(a, login(user, "new of "+user)); got.Err != nil {
			t.Errorf("%s gets %v", user, got.Err)
		}
	}
}

func TestSetRefusesWhatCannotStandInTheFile(t *testing.T) {
	for _, c := range []struct{ name, user, password string }{
		{"empty user", "", "x"},
		{"colon", "a:b", "x"},
		{"newline", "a\nb", "x"},
		{"comment", "#a", "x"},
		{"space", "a ", "x"},
		{"empty password", "a", ""},
		{"long password", "a", strings.Repeat("x", maxPassword+1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f PasswordFile
			if err := f.Set(c.user, c.password); err == nil || f.Len() != 0 || len(f.Bytes()) != 0 {
				t.Errorf("Set = %v, %d users", err, f.Len())
			}
		})
	}
}

func TestHashesOfOnePasswordDiffer(t *testing.T) {
	one, two := Hash("secret"), Hash("secret")
	if one == two {
		t.Error("two hashes are equal: the salt is not random")
	}
	s, err := parseSecret(one)
	if err != nil {
		t.Fatal(err)
	}
	if !s.check([]byte("secret")) || s.check([]byte("Secret")) {
		t.Error("the hash does not tell the password from another")
	}
	if !strings.HasPrefix(one, "$argon2id$v=19$m=8192,t=2,p=1$") {
		t.Errorf("hash is %s", one)
	}
}

func TestReadPasswordFileNamesThePath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "passwords")
	if _, err := ReadPasswordFile(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("\nbad\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPasswordFile(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("bad file: %v", err)
	}
}

func TestWriteFileReplacesAtomically(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "passwords")
	f := parse(t, cheap("alice", "secret"))
	write := func(to string) {
		t.Helper()
		if err := f.WriteFile(to); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, f.Bytes()) {
			t.Fatalf("file is %q, %v", got, err)
		}
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	}
	mode := func() fs.FileMode {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	write(path)
	if mode() != 0o600 {
		t.Errorf("mode of a new file is %o", mode())
	}
	for _, c := range []struct{ before, after fs.FileMode }{{0o644, 0o640}, {0o640, 0o640}, {0o600, 0o600}, {0o666, 0o640}} {
		if err := os.Chmod(path, c.before); err != nil {
			t.Fatal(err)
		}
		f.Delete("bob")
		write(path)
		if mode() != c.after {
			t.Errorf("mode %o became %o, want %o", c.before, mode(), c.after)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	f.lines = append(f.lines, line{text: "# through the link\n"})
	write(link)
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	if err := f.WriteFile(filepath.Join(dir, "missing", "passwords")); err == nil {
		t.Error("no error for a folder that does not exist")
	}
	// A rename that fails leaves nothing behind.
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile(filepath.Join(dir, "folder")); err == nil {
		t.Error("no error for a folder in place of the file")
	}
	write(path)
}

func TestAHugeFileIsRefused(t *testing.T) {
	if _, err := ParsePasswordFile(endless{}); err == nil {
		t.Error("no error")
	}
}

// endless is a reader of newlines.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '\n'
	}
	return len(b), nil
}

// FuzzParsePasswordFile: what parses is written back to the same bytes, its hashes stay within
// their bounds, and a file that was edited parses again.
func FuzzParsePasswordFile(f *testing.F) {
	alice := cheap("alice", "secret")
	f.Add([]byte(alice))
	f.Add([]byte("# comment\r\n\n" + alice + cheap("bob", "x")))
	f.Add([]byte(strings.TrimSuffix(alice, "\n")))
	f.Add([]byte("a:$7$101$c2FsdA==$aGFzaA==\n"))
	f.Add([]byte("a:b\n:\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		file, err := ParsePasswordFile(bytes.NewReader(in))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "auth: line ") {
				t.Fatalf("error without a line: %v", err)
			}
			return
		}
		if got := file.Bytes(); !bytes.Equal(got, in) {
			t.Fatalf("written back as %q", got)
		}
		users := file.Users()
		if len(users) != file.Len() {
			t.Fatalf("%d users, Len is %d", len(users), file.Len())
		}
		for i, user := range users {
			s := file.lines[file.users[user]].secret
			if s.memory > maxMemory || s.time > maxTime || s.threads > maxThreads || s.threads == 0 {
				t.Fatalf("user %q: m=%d t=%d p=%d", user, s.memory, s.time, s.threads)
			}
			if i%2 == 0 && !file.Delete(user) {
				t.Fatalf("user %q cannot be deleted", user)
			}
		}
		again, err := ParsePasswordFile(bytes.NewReader(file.Bytes()))
		if err != nil {
			t.Fatalf("does not parse after edits: %v", err)
		}
		if !slices.Equal(again.Users(), file.Users()) {
			t.Fatalf("users are %q after edits, want %q", again.Users(), file.Users())
		}
	})
}
