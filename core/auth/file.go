package auth

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFile is the longest password file in bytes, some 100,000 users.
const maxFile = 16 << 20

// PasswordFile is a list of users with the hashes of their passwords, one on a line:
//
//	# comments and empty lines are kept
//	user:$argon2id$v=19$m=8192,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$…
//
// It is a document to read, edit and write. The zero value is an empty file.
type PasswordFile struct {
	lines []line
	users map[string]int // index in lines
}

// line is one line of the file with its end.
type line struct {
	text   string
	user   string  // "" if it is not about a user
	secret *secret // nil if it is not about a user
}

// ParsePasswordFile reads a password file. An error carries the number of its line and says what
// to do; it does not quote passwords or hashes.
func ParsePasswordFile(r io.Reader) (*PasswordFile, error) {
	all, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("auth: read password file: %w", err)
	}
	if len(all) > maxFile {
		return nil, fmt.Errorf("auth: password file is larger than %d bytes", maxFile)
	}
	f := &PasswordFile{users: map[string]int{}}
	for text := range strings.Lines(string(all)) {
		l, err := parseLine(text)
		if err == nil && l.secret != nil {
			if first, ok := f.users[l.user]; ok {
				err = fmt.Errorf("user %q is on line %d already", l.user, first+1)
			}
			f.users[l.user] = len(f.lines)
		}
		if err != nil {
			return nil, fmt.Errorf("auth: line %d: %w", len(f.lines)+1, err)
		}
		f.lines = append(f.lines, l)
	}
	return f, nil
}

// ReadPasswordFile reads the password file at path. A file that does not exist is an error that
// errors.Is reports as fs.ErrNotExist.
func ReadPasswordFile(path string) (*PasswordFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("auth: password file: %w", err)
	}
	defer file.Close()
	f, err := ParsePasswordFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func parseLine(text string) (line, error) {
	l := line{text: text}
	content := strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if strings.TrimSpace(content) == "" || strings.HasPrefix(content, "#") {
		return l, nil
	}
	user, hash, ok := strings.Cut(content, ":")
	if !ok {
		return l, errors.New("no colon: a line is user:hash")
	}
	err := checkUser(user)
	if err != nil {
		return l, err
	}
	if l.secret, err = parseSecret(hash); err != nil {
		return l, fmt.Errorf("user %q: %w", user, err)
	}
	l.user = user
	return l, nil
}

// checkUser reports whether a user name can stand in the file.
func checkUser(user string) error {
	switch {
	case user == "":
		return errors.New("the user name is empty")
	case !utf8.ValidString(user):
		return errors.New("the user name is not UTF-8")
	case strings.HasPrefix(user, "\ufeff"):
		return errors.New("there is a byte order mark: save the file as UTF-8 without it")
	case strings.TrimSpace(user) != user:
		return fmt.Errorf("user name %q begins or ends with a space", user)
	case strings.HasPrefix(user, "#"):
		return fmt.Errorf("user name %q begins with #, as comments do", user)
	case strings.Contains(user, ":"):
		return fmt.Errorf("user name %q has a colon", user)
	case strings.ContainsFunc(user, unicode.IsControl):
		return fmt.Errorf("user name %q has a control character", user)
	}
	return nil
}

// Len returns the number of users.
func (f *PasswordFile) Len() int { return len(f.users) }

// Has reports whether user is in the file.
func (f *PasswordFile) Has(user string) bool {
	_, ok := f.users[user]
	return ok
}

// Users returns the user names in the order of their lines.
func (f *PasswordFile) Users() []string {
	users := make([]string, 0, len(f.users))
	for _, l := range f.lines {
		if l.secret != nil {
			users = append(users, l.user)
		}
	}
	return users
}

// Set gives user a password. The line of a user who exists is replaced where it stands, a new
// one comes last. It is an error if the user name cannot stand in the file, or if the password
// is empty or over 1,024 bytes.
func (f *PasswordFile) Set(user, password string) error {
	if err := checkUser(user); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	if password == "" || len(password) > maxPassword {
		return fmt.Errorf("auth: the password has %d bytes, allowed are 1 to %d", len(password), maxPassword)
	}
	s := newSecret(password)
	l := line{text: user + ":" + s.text + "\n", user: user, secret: s}
	if i, ok := f.users[user]; ok {
		f.lines[i] = l
		return nil
	}
	if n := len(f.lines); n > 0 && !strings.HasSuffix(f.lines[n-1].text, "\n") {
		f.lines[n-1].text += "\n"
	}
	if f.users == nil {
		f.users = map[string]int{}
	}
	f.users[user] = len(f.lines)
	f.lines = append(f.lines, l)
	return nil
}

// Delete removes the line of user.
func (f *PasswordFile) Delete(user string) (existed bool) {
	i, ok := f.users[user]
	if !ok {
		return false
	}
	f.lines = slices.Delete(f.lines, i, i+1)
	delete(f.users, user)
	for u, at := range f.users {
		if at > i {
			f.users[u] = at - 1
		}
	}
	return true
}

// Bytes returns the content of the file. Lines that were not edited are as they were read.
func (f *PasswordFile) Bytes() []byte {
	var b []byte
	for _, l := range f.lines {
		b = append(b, l.text...)
	}
	return b
}

// WriteFile replaces the file at path: whoever reads it, and whatever a crash leaves, is the old
// file or the new one. A new file has mode 0600. One that exists keeps its owner and group, so
// that a service still can read what root has edited, and of its mode at most 0640; a symbolic
// link keeps pointing to it. Of two at the same time the last wins.
func (f *PasswordFile) WriteFile(path string) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("auth: write password file: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(temp.Name())
			err = fmt.Errorf("auth: write password file: %w", err)
		}
	}()
	if _, err = temp.Write(f.Bytes()); err == nil {
		err = inherit(temp, path)
	}
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err = os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncFolder(dir)
}

// inherit gives temp the owner and mode of the file at path, if there is one.
func inherit(temp *os.File, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := chownAs(temp, info); err != nil {
		return err
	}
	return temp.Chmod(info.Mode().Perm() & 0o640)
}

// syncFolder makes a rename durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
