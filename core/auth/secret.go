package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// What Hash uses: 8 MiB and two passes, 13 ms on a server and about 100 ms on a small ARM board.
const (
	hashMemory  = 8 << 10 // KiB
	hashTime    = 2       // passes
	hashThreads = 1
	saltLength  = 16 // bytes
	keyLength   = 32 // bytes
)

// The most that a hash in a file may ask for: it has to fit beside everything else into the
// 64 MiB of the process, and one client must not keep the others waiting for seconds.
const (
	maxMemory  = 32 << 10 // KiB
	maxTime    = 16
	maxThreads = 4
)

// secret is a password hash: argon2id (RFC 9106) in its usual text form.
type secret struct {
	text         string // $argon2id$v=19$m=8192,t=2,p=1$salt$key, the last two in base64
	memory, time uint32 // KiB, passes
	threads      uint8
	salt, key    []byte
}

// Hash returns the argon2id hash of password with a new salt, as it stands in a password file.
// It takes 8 MiB and, on purpose, a while.
func Hash(password string) string { return newSecret(password).text }

func newSecret(password string) *secret {
	s := &secret{memory: hashMemory, time: hashTime, threads: hashThreads, salt: make([]byte, saltLength)}
	rand.Read(s.salt) // does not fail
	s.key = argon2.IDKey([]byte(password), s.salt, s.time, s.memory, s.threads, keyLength)
	base := base64.RawStdEncoding
	s.text = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		s.memory, s.time, s.threads, base.EncodeToString(s.salt), base.EncodeToString(s.key))
	return s
}

// check reports whether password is the right one. Its time tells nothing but the parameters.
func (s *secret) check(password []byte) bool {
	key := argon2.IDKey(password, s.salt, s.time, s.memory, s.threads, uint32(len(s.key)))
	return subtle.ConstantTimeCompare(key, s.key) == 1
}

// parseSecret reads the text form of a hash. Its errors never quote the text: it may be a
// password that somebody has written where its hash belongs.
func parseSecret(text string) (*secret, error) {
	fields := strings.Split(text, "$")
	if fields[0] != "" || len(fields) < 3 {
		return nil, errors.New("there is no password hash behind the colon: set the password with dunlin passwd")
	}
	if fields[1] != "argon2id" {
		return nil, errors.New("only argon2id hashes are understood: set the password with dunlin passwd")
	}
	if len(fields) != 6 {
		return nil, fmt.Errorf("hash has %d parts, want the five of $argon2id$v=19$m=8192,t=2,p=1$salt$hash", len(fields)-1)
	}
	if fields[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("hash is not of argon2 version v=%d", argon2.Version)
	}
	s := &secret{text: text}
	costs := strings.Split(fields[3], ",")
	if len(costs) != 3 {
		return nil, errors.New("hash parameters are not of the form m=8192,t=2,p=1")
	}
	var threads uint32
	for i, c := range []struct {
		name     string
		to       *uint32
		min, max uint32
	}{
		{"m", &s.memory, 8, maxMemory},
		{"t", &s.time, 1, maxTime},
		{"p", &threads, 1, maxThreads},
	} {
		digits, ok := strings.CutPrefix(costs[i], c.name+"=")
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			return nil, errors.New("hash parameters are not of the form m=8192,t=2,p=1")
		}
		if uint32(n) < c.min || uint32(n) > c.max {
			return nil, fmt.Errorf("hash parameter %s is %d, allowed are %d to %d", c.name, n, c.min, c.max)
		}
		*c.to = uint32(n)
	}
	s.threads = uint8(threads)
	var err error
	if s.salt, err = parseBase64(fields[4], 8, 64); err != nil {
		return nil, fmt.Errorf("salt of the hash: %w", err)
	}
	if s.key, err = parseBase64(fields[5], 16, 64); err != nil {
		return nil, fmt.Errorf("end of the hash: %w", err)
	}
	return s, nil
}

func parseBase64(text string, shortest, longest int) ([]byte, error) {
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which DecodeString skips
		return nil, errors.New("not base64 without padding")
	}
	if len(b) < shortest || len(b) > longest {
		return nil, fmt.Errorf("%d bytes, allowed are %d to %d", len(b), shortest, longest)
	}
	return b, nil
}

// secrets are the users at one moment.
type secrets struct {
	absent bool // no password file is set
	users  map[string]*secret
	nobody *secret // stands in for users who do not exist
}

func newSecrets(f *PasswordFile) secrets {
	// The password of nobody is not known to anybody; what counts is what it costs to check.
	nobody := &secret{
		memory: hashMemory, time: hashTime, threads: hashThreads,
		salt: make([]byte, saltLength), key: make([]byte, keyLength),
	}
	rand.Read(nobody.key) // does not fail
	if f == nil {
		return secrets{absent: true, nobody: nobody}
	}
	s := secrets{users: make(map[string]*secret, len(f.users)), nobody: nobody}
	for i := range f.lines {
		l := &f.lines[i]
		if l.secret == nil {
			continue
		}
		if len(s.users) == 0 { // files with several kinds of hashes are rare
			nobody.memory, nobody.time, nobody.threads = l.secret.memory, l.secret.time, l.secret.threads
		}
		s.users[l.user] = l.secret
	}
	return s
}

// of returns the hash of user's password, or that of nobody.
func (s *secrets) of(user string) (secret *secret, known bool) {
	if secret, known = s.users[user]; known {
		return secret, true
	}
	return s.nobody, false
}
