// Package auth finds out who a client is.
package auth

import (
	"errors"
	"io"

	"dunlin/core/access"
)

// What an Answer says when a client is not let in.
var (
	// ErrBadCredentials: unknown user or wrong password. CONNACK 0x86, in 3.1.1 code 4.
	ErrBadCredentials = errors.New("bad user name or password")
	// ErrNotAuthorized: no credentials, and the listener wants some. CONNACK 0x87, in 3.1.1 code 5.
	ErrNotAuthorized = errors.New("not authorized")
	// ErrBusy: too many clients wait to be checked, or the broker stops. CONNACK 0x89, in 3.1.1 code 3.
	ErrBusy = errors.New("authentication is busy")
)

// Request is what a CONNECT offers.
type Request struct {
	ClientID       string
	Username       string
	Password       []byte // only read during the call of Authenticate
	HasUsername    bool
	HasPassword    bool
	Remote         string
	AllowAnonymous bool // by the listener
}

// Answer is the outcome: with a nil Err the client is in.
type Answer struct {
	Identity access.Identity
	Err      error // ErrBadCredentials, ErrNotAuthorized or ErrBusy
}

// Options set up an Authenticator.
type Options struct {
	Passwords *PasswordFile // nil = there are no users
	Workers   int           // password hashes at once; 0 = 1
	CacheSize int           // successes remembered; 0 = 1024
}

// Authenticator checks credentials.
type Authenticator struct{}

// New returns an authenticator.
func New(o Options) *Authenticator { return &Authenticator{} }

// Authenticate calls done once, at once or later from another goroutine; it never blocks.
func (a *Authenticator) Authenticate(r Request, done func(Answer)) { done(Answer{Err: ErrBusy}) }

// SetPasswords replaces the password file.
func (a *Authenticator) SetPasswords(f *PasswordFile) {}

// Close answers what waits with ErrBusy and returns when nothing runs any more.
func (a *Authenticator) Close() {}

// PasswordFile is a list of users and their password hashes.
type PasswordFile struct{}

// ParsePasswordFile reads a password file; errors carry the line.
func ParsePasswordFile(r io.Reader) (*PasswordFile, error) { return &PasswordFile{}, nil }

// ReadPasswordFile reads the password file at path; errors carry path and line.
func ReadPasswordFile(path string) (*PasswordFile, error) { return &PasswordFile{}, nil }

// Len returns the number of users.
func (f *PasswordFile) Len() int { return 0 }

// Has reports whether user is in the file.
func (f *PasswordFile) Has(user string) bool { return false }

// Set gives user a password, new or changed.
func (f *PasswordFile) Set(user, password string) error { return nil }

// Delete removes user.
func (f *PasswordFile) Delete(user string) (existed bool) { return false }

// WriteFile replaces the file at path atomically; other lines stay as they were.
func (f *PasswordFile) WriteFile(path string) error { return nil }

// Hash returns the argon2id hash of password as it stands in a password file.
func Hash(password string) string { return "" }
