// Package auth finds out who a client is, by the user name and password of its CONNECT
// (MQTT5 §3.1.3.5, §3.1.3.6) and a file of argon2id hashes.
//
// Checking a password takes tens of milliseconds and 8 MiB on purpose, so it is not done on the
// loop: Authenticate hands the work to at most Workers goroutines and returns. What was right
// once is remembered and answered at once. Nothing runs while nobody waits.
package auth

import (
	"errors"
	"sync"

	"dunlin/core/access"
)

// What an Answer says when a client is not let in, and what the broker sends then.
var (
	// ErrBadCredentials: unknown user or wrong password, one does not learn which. CONNACK
	// 0x86, in 3.1.1 code 4.
	ErrBadCredentials = errors.New("auth: bad user name or password")
	// ErrNotAuthorized: no user name, and the listener wants one. CONNACK 0x87, in 3.1.1 code 5.
	ErrNotAuthorized = errors.New("auth: the listener takes no anonymous clients")
	// ErrBusy: too many clients wait to be checked, or the broker stops. CONNACK 0x89, in 3.1.1
	// code 3. The client should try again.
	ErrBusy = errors.New("auth: too many clients wait to be checked")
)

// Request is what a CONNECT offers.
type Request struct {
	ClientID       string
	Username       string
	Password       []byte // only read during Authenticate
	HasUsername    bool
	HasPassword    bool
	Remote         string // address of the client
	AllowAnonymous bool   // by the listener
}

// Answer is the outcome: with a nil Err the client is in.
type Answer struct {
	Identity access.Identity // only if Err is nil
	Err      error           // ErrBadCredentials, ErrNotAuthorized or ErrBusy
}

// Options set up an Authenticator.
type Options struct {
	Passwords *PasswordFile // copied; nil = there are no users
	Workers   int           // passwords checked at once, each with 8 MiB and a core; 0 = 1
	CacheSize int           // successes remembered, about 50 bytes each; 0 = 1024
}

const (
	defaultCacheSize = 1024

	// maxWaiting is how many requests wait for a worker, with up to 2 KiB each; more are
	// answered with ErrBusy. It is what a small board gets through in a minute or two, longer
	// than clients wait.
	maxWaiting = 1024

	// maxPassword is the longest password in bytes. Longer ones are wrong: they would fill
	// the queue.
	maxPassword = 1024
)

// Authenticator checks credentials. Its methods may be called from any goroutine.
type Authenticator struct {
	limit int // of workers
	check func(*secret, []byte) bool

	workers sync.WaitGroup

	mu      sync.Mutex // guards what follows
	secrets secrets
	waiting []request // the oldest first
	running int       // workers
	closed  bool
	cache   cache
}

// request waits for a worker.
type request struct {
	user     string // "" if there was none of that name
	password []byte
	done     func(Answer)
}

// New returns an Authenticator.
func New(o Options) *Authenticator {
	a := &Authenticator{limit: max(1, o.Workers), check: (*secret).check}
	if o.CacheSize == 0 {
		o.CacheSize = defaultCacheSize
	}
	a.cache.init(o.CacheSize)
	a.SetPasswords(o.Passwords)
	return a
}

// SetPasswords replaces the users. It copies f; nil means that no password file is set, see
// Authenticate. Who waits is checked against the new users.
func (a *Authenticator) SetPasswords(f *PasswordFile) {
	s := newSecrets(f)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.secrets = s
}

// Authenticate finds out who r is and calls done once: before it returns if that is cheap, else
// from another goroutine. It never blocks; done must not block either, and must not call Close.
//
// Without a user name a client is anonymous or refused, as r.AllowAnonymous says. A user name
// that is given must be right, even where anonymous clients are allowed; only where no password
// file is set, and so none could be right, such a client is anonymous as well.
func (a *Authenticator) Authenticate(r Request, done func(Answer)) {
	if answer, ok := a.decide(&r, done); ok {
		done(answer)
	}
}

// decide answers or, if ok is false, has handed r to the workers.
func (a *Authenticator) decide(r *Request, done func(Answer)) (answer Answer, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return Answer{Err: ErrBusy}, true
	case !r.HasUsername || a.secrets.absent && r.AllowAnonymous:
		if !r.AllowAnonymous {
			return Answer{Err: ErrNotAuthorized}, true
		}
		return Answer{Identity: access.Identity{Anonymous: true}}, true
	case !r.HasPassword, len(r.Password) > maxPassword:
		return Answer{Err: ErrBadCredentials}, true
	}
	s, known := a.secrets.of(r.Username)
	if a.cache.has(r.Username, r.Password, s) {
		return Answer{Identity: access.Identity{User: r.Username}}, true
	}
	if len(a.waiting) >= maxWaiting {
		return Answer{Err: ErrBusy}, true
	}
	q := request{password: append([]byte(nil), r.Password...), done: done}
	if known {
		q.user = r.Username
	}
	a.waiting = append(a.waiting, q)
	if a.running < a.limit {
		a.running++
		a.workers.Go(a.work) // ends when nobody waits; Close waits for it
	}
	return Answer{}, false
}

// work answers requests until none waits.
func (a *Authenticator) work() {
	for {
		a.mu.Lock()
		if len(a.waiting) == 0 {
			a.waiting = nil
			a.running--
			a.mu.Unlock()
			return
		}
		q := a.waiting[0]
		a.waiting[0] = request{}
		a.waiting = a.waiting[1:]
		s, known := a.secrets.of(q.user)
		// After a power cut many devices with one user come at once: only the first is work.
		right := a.cache.has(q.user, q.password, s)
		a.mu.Unlock()

		if !right {
			// An unknown user costs the same as a wrong password.
			right = a.check(s, q.password) && known
			if right {
				a.mu.Lock()
				a.cache.add(q.user, q.password, s)
				a.mu.Unlock()
			}
		}
		clear(q.password)
		if right {
			q.done(Answer{Identity: access.Identity{User: q.user}})
		} else {
			q.done(Answer{Err: ErrBadCredentials})
		}
	}
}

// Close answers who waits with ErrBusy, and everybody from now on. It returns when no worker
// runs any more, within the time of one check.
func (a *Authenticator) Close() {
	a.mu.Lock()
	waiting := a.waiting
	a.waiting = nil
	a.closed = true
	a.mu.Unlock()
	for _, q := range waiting {
		q.done(Answer{Err: ErrBusy})
	}
	a.workers.Wait()
}
