package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/argon2"

	"dunlin/core/access"
)

// cheap returns a line with a hash that costs next to nothing.
func cheap(user, password string) string {
	salt := []byte("0123456789abcdef")
	key := argon2.IDKey([]byte(password), salt, 1, 8, 1, keyLength)
	base := base64.RawStdEncoding
	return fmt.Sprintf("%s:$argon2id$v=19$m=8,t=1,p=1$%s$%s\n", user, base.EncodeToString(salt), base.EncodeToString(key))
}

func parse(t testing.TB, text string) *PasswordFile {
	t.Helper()
	f, err := ParsePasswordFile(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func login(user, password string) Request {
	return Request{Username: user, Password: []byte(password), HasUsername: true, HasPassword: true}
}

// ask returns the answer, and whether it came before Authenticate returned.
func ask(a *Authenticator, r Request) (answer Answer, atOnce bool) {
	answers := make(chan Answer, 2)
	a.Authenticate(r, func(answer Answer) { answers <- answer })
	select {
	case answer = <-answers:
		return answer, true
	default:
		return <-answers, false
	}
}

func TestCredentialsDecide(t *testing.T) {
	passwords := parse(t, cheap("alice", "secret")+cheap("bob", "other")+"# end\n")
	alice, anonymous := access.Identity{User: "alice"}, access.Identity{Anonymous: true}
	open := func(r Request) Request { r.AllowAnonymous = true; return r }
	for _, c := range []struct {
		name      string
		passwords *PasswordFile
		request   Request
		want      Answer
	}{
		{"right", passwords, login("alice", "secret"), Answer{Identity: alice}},
		{"wrong", passwords, login("alice", "Secret"), Answer{Err: ErrBadCredentials}},
		{"of somebody else", passwords, login("alice", "other"), Answer{Err: ErrBadCredentials}},
		{"unknown user", passwords, login("carol", "secret"), Answer{Err: ErrBadCredentials}},
		{"empty user", passwords, login("", "secret"), Answer{Err: ErrBadCredentials}},
		{"empty password", passwords, login("alice", ""), Answer{Err: ErrBadCredentials}},
		{"no password", passwords, Request{Username: "alice", HasUsername: true}, Answer{Err: ErrBadCredentials}},
		{"long password", passwords, login("alice", strings.Repeat("x", maxPassword+1)), Answer{Err: ErrBadCredentials}},
		{"nothing", passwords, Request{}, Answer{Err: ErrNotAuthorized}},
		{"only a password", passwords, Request{Password: []byte("secret"), HasPassword: true}, Answer{Err: ErrNotAuthorized}},
		{"nothing, open", passwords, open(Request{}), Answer{Identity: anonymous}},
		{"right, open", passwords, open(login("alice", "secret")), Answer{Identity: alice}},
		{"wrong, open", passwords, open(login("alice", "x")), Answer{Err: ErrBadCredentials}},
		{"unknown user, open", passwords, open(login("carol", "x")), Answer{Err: ErrBadCredentials}},
		{"no file", nil, login("alice", "secret"), Answer{Err: ErrBadCredentials}},
		{"no file, open", nil, open(login("alice", "secret")), Answer{Identity: anonymous}},
		{"no file, nothing", nil, Request{}, Answer{Err: ErrNotAuthorized}},
		{"empty file, open", &PasswordFile{}, open(login("alice", "secret")), Answer{Err: ErrBadCredentials}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := New(Options{Passwords: c.passwords})
			defer a.Close()
			for range 2 { // the second time from the cache, if at all
				if got, _ := ask(a, c.request); got != c.want {
					t.Errorf("answer is %+v, want %+v", got, c.want)
				}
			}
		})
	}
}

func TestSuccessIsRememberedAndFailureIsNot(t *testing.T) {
	a := New(Options{Passwords: parse(t, cheap("alice", "secret"))})
	defer a.Close()
	checks := 0
	check := a.check
	a.check = func(s *secret, password []byte) bool { checks++; return check(s, password) }
	for i, want := range []struct {
		password string
		atOnce   bool
		checks   int
	}{{"secret", false, 1}, {"secret", true, 1}, {"wrong", false, 2}, {"wrong", false, 3}, {"secret", true, 3}} {
		_, atOnce := ask(a, login("alice", want.password))
		if atOnce != want.atOnce || checks != want.checks {
			t.Errorf("attempt %d: at once %v, %d checks; want %v, %d", i, atOnce, checks, want.atOnce, want.checks)
		}
	}
}

func TestAnUnknownUserIsCheckedLikeAWrongPassword(t *testing.T) {
	a := New(Options{Passwords: parse(t, cheap("alice", "secret"))})
	defer a.Close()
	var cost []string
	a.check = func(s *secret, _ []byte) bool {
		cost = append(cost, fmt.Sprint(s.memory, s.time, s.threads, len(s.salt), len(s.key)))
		return true // even a right guess does not let nobody in
	}
	if got, _ := ask(a, login("alice", "wrong")); got.Err != nil {
		t.Fatal(got.Err)
	}
	if got, _ := ask(a, login("nobody", "guess")); got.Err != ErrBadCredentials {
		t.Errorf("an unknown user gets %+v", got)
	}
	if len(cost) != 2 || cost[0] != cost[1] {
		t.Errorf("costs are %q", cost)
	}
}

func TestAChangedPasswordHoldsAtOnce(t *testing.T) {
	a := New(Options{Passwords: parse(t, cheap("alice", "old")+cheap("bob", "same"))})
	defer a.Close()
	ask(a, login("alice", "old"))
	ask(a, login("bob", "same"))
	a.SetPasswords(parse(t, cheap("alice", "new")+cheap("bob", "same")))
	if got, _ := ask(a, login("alice", "old")); got.Err != ErrBadCredentials {
		t.Errorf("the old password gets %+v", got)
	}
	if got, _ := ask(a, login("alice", "new")); got.Err != nil {
		t.Errorf("the new password gets %+v", got)
	}
	if got, atOnce := ask(a, login("bob", "same")); got.Err != nil || !atOnce {
		t.Errorf("who did not change gets %+v, at once %v", got, atOnce)
	}
	a.SetPasswords(parse(t, ""))
	if got, _ := ask(a, login("bob", "same")); got.Err != ErrBadCredentials {
		t.Errorf("a deleted user gets %+v", got)
	}
}

func TestEditingAfterwardsChangesNothing(t *testing.T) {
	f := parse(t, cheap("alice", "secret"))
	a := New(Options{Passwords: f})
	defer a.Close()
	f.Delete("alice")
	if got, _ := ask(a, login("alice", "secret")); got.Err != nil {
		t.Errorf("got %+v", got)
	}
}

func TestCacheForgetsWhatWasNotSeenLately(t *testing.T) {
	var c cache
	c.init(100)
	s := &secret{text: "hash"}
	c.add("hot", nil, s)
	for i := range 10_000 {
		c.add(fmt.Sprint(i), nil, s)
		if i%40 == 0 && !c.has("hot", nil, s) {
			t.Fatalf("the hot entry was forgotten after %d", i)
		}
		if n := len(c.young) + len(c.old); n > 100 {
			t.Fatalf("%d entries, want at most 100", n)
		}
	}
	if c.has("0", nil, s) || !c.has("9999", nil, s) {
		t.Error("the wrong ones were kept")
	}
	c.add("ab", []byte("c"), s)
	if c.has("a", []byte("bc"), s) {
		t.Error("user and password are not told apart")
	}
}

// stalled returns an Authenticator whose checks wait until gate is closed.
func stalled(t *testing.T, workers int) (a *Authenticator, gate chan struct{}) {
	a = New(Options{Passwords: parse(t, cheap("alice", "secret")+cheap("bob", "secret")), Workers: workers})
	gate = make(chan struct{})
	check := a.check
	a.check = func(s *secret, password []byte) bool { <-gate; return check(s, password) }
	return a, gate
}

func TestAFullQueueIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, gate := stalled(t, 2)
		var mu sync.Mutex
		counts := map[error]int{}
		count := func(answer Answer) { mu.Lock(); counts[answer.Err]++; mu.Unlock() }
		for i := range maxWaiting + 10 {
			a.Authenticate(login("alice", fmt.Sprint(i)), count)
			synctest.Wait()
		}
		if counts[ErrBusy] != 8 || len(counts) != 1 || a.running != 2 {
			t.Errorf("answers %v, %d workers; want 8 busy, 2 workers", counts, a.running)
		}
		close(gate)
		synctest.Wait()
		if counts[ErrBadCredentials] != maxWaiting+2 || a.running != 0 {
			t.Errorf("answers %v, %d workers at the end", counts, a.running)
		}
		a.Authenticate(login("alice", "secret"), count)
		synctest.Wait()
		if counts[nil] != 1 {
			t.Errorf("answers %v: nobody gets in after the rush", counts)
		}
		a.Close()
	})
}

func TestOneUserOfManyDevicesIsCheckedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, gate := stalled(t, 1)
		checks := 0
		check := a.check
		a.check = func(s *secret, password []byte) bool { checks++; return check(s, password) }
		in := 0
		for range 500 {
			a.Authenticate(login("alice", "secret"), func(answer Answer) {
				if answer.Err == nil {
					in++
				}
			})
		}
		close(gate)
		synctest.Wait()
		if in != 500 || checks != 1 {
			t.Errorf("%d got in with %d checks, want 500 with 1", in, checks)
		}
		a.Close()
	})
}

func TestCloseAnswersEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, gate := stalled(t, 1)
		answers := make(chan error, 3)
		for range 3 {
			a.Authenticate(login("alice", "secret"), func(answer Answer) { answers <- answer.Err })
			synctest.Wait()
		}
		closed := make(chan struct{})
		go func() { // ends with Close, which this test waits for
			a.Close()
			close(closed)
		}()
		synctest.Wait()
		if len(answers) != 2 {
			t.Errorf("%d answers while one check runs, want 2", len(answers))
		}
		for len(answers) > 0 {
			if err := <-answers; err != ErrBusy {
				t.Errorf("a waiting client gets %v", err)
			}
		}
		select {
		case <-closed:
			t.Error("Close did not wait for the worker")
		default:
		}
		close(gate)
		<-closed
		if len(answers) != 1 {
			t.Fatalf("%d answers of one check", len(answers))
		}
		if err := <-answers; err != nil {
			t.Errorf("the client that was being checked gets %v", err)
		}
		if got, atOnce := ask(a, login("alice", "secret")); got.Err != ErrBusy || !atOnce {
			t.Errorf("after Close: %+v, at once %v", got, atOnce)
		}
		a.Close() // again
	})
}

func TestThePasswordIsReadDuringTheCallOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, gate := stalled(t, 1)
		r := login("alice", "secret")
		var got Answer
		a.Authenticate(r, func(answer Answer) { got = answer })
		copy(r.Password, bytes.Repeat([]byte("x"), len(r.Password)))
		close(gate)
		synctest.Wait()
		if got.Err != nil {
			t.Errorf("got %+v", got)
		}
		a.Close()
	})
}

func TestManyAtOnce(t *testing.T) {
	a := New(Options{Passwords: parse(t, cheap("alice", "secret")+cheap("bob", "other")), Workers: 3, CacheSize: 2})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { // ends after its requests
			for j := range 50 {
				r, want := login("alice", "secret"), error(nil)
				if (i+j)%3 == 0 {
					r, want = login("bob", "wrong"), ErrBadCredentials
				}
				if got, _ := ask(a, r); !errors.Is(got.Err, want) {
					t.Errorf("%s gets %v, want %v", r.Username, got.Err, want)
				}
				if j == 25 {
					a.SetPasswords(parse(t, cheap("alice", "secret")))
				}
			}
		})
	}
	wg.Wait()
	a.Close()
}

func BenchmarkAuthenticate(b *testing.B) {
	f := &PasswordFile{}
	if err := f.Set("alice", "secret"); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, password string }{{"remembered", "secret"}, {"wrong", "wrong"}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			a := New(Options{Passwords: f})
			defer a.Close()
			ask(a, login("alice", "secret"))
			for b.Loop() {
				ask(a, login("alice", c.password))
			}
		})
	}
}
