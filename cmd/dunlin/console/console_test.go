package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hang is a guard: no test takes nearly that long.
const hang = time.Minute

// fake is a broker with one session.
type fake struct{ err error }

func (f fake) Status(context.Context) (Status, error) {
	return Status{Version: "v", Connected: 1}, f.err
}

func (f fake) Ledger(_ context.Context, walk bool) (Ledger, error) {
	return Ledger{Walked: walk, Queues: []Queue{{Name: "c", Account: Account{Accepted: 3, Pending: 3}}}}, f.err
}

func (f fake) Check(context.Context) ([]File, error) { return []File{{Name: "sessions.db"}}, f.err }

func (f fake) Compact(context.Context) ([]Compacted, error) {
	return []Compacted{{Name: "sessions.db", Before: 2, After: 1}}, f.err
}

func (f fake) Export(ctx context.Context, w io.Writer) error { return f.Dump(ctx, w, nil) }

func (f fake) Dump(_ context.Context, w io.Writer, only []string) error {
	for range 3 {
		if _, err := fmt.Fprintf(w, "{%q:{}}\n", strings.Join(only, "+")); err != nil {
			return err
		}
	}
	return f.err
}

func start(t *testing.T, o Options, b Broker) (*Server, *Client) {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "s")
	}
	o.Log = slog.New(slog.DiscardHandler)
	s, err := Listen(o, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s, NewClient(o.Path)
}

func TestAnswersAreJSON(t *testing.T) {
	_, c := start(t, Options{}, fake{})
	var s Status
	if err := c.Get(t.Context(), "/v1/status", nil, &s); err != nil || s.Version != "v" || s.Connected != 1 {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, walk := range []string{"0", "1"} {
		var l Ledger
		if err := c.Get(t.Context(), "/v1/ledger", url.Values{"walk": {walk}}, &l); err != nil || l.Walked != (walk == "1") || len(l.Queues) != 1 {
			t.Errorf("got %+v, %v", l, err)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	_, c := start(t, Options{}, fake{errors.New("the loop has ended")})
	for _, tt := range []struct {
		method, path string
		query        url.Values
		want, remedy string
	}{
		{"GET", "/v1/status", nil, "the loop has ended", "log"},
		{"GET", "/v1/nothing", nil, "there is no /v1/nothing", "same version"},
		{"GET", "/", nil, "there is no /", "/v1/"},
		{"POST", "/v1/status", nil, "does not take POST", "use GET"},
		{"DELETE", "/v1/status", nil, "does not take DELETE", "use GET"},
		{"GET", "/v1/ledger", url.Values{"walk": {"perhaps"}}, "neither 0 nor 1", "walk=1"},
		{"GET", "/v1/ledger", url.Values{"walk": {"1"}}, "the loop has ended", "log"},
	} {
		_, err := c.Open(t.Context(), tt.method, tt.path, tt.query)
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(e.Text, tt.want) || !strings.Contains(e.Remedy, tt.remedy) {
			t.Errorf("%s %s: got %v, want %q and %q", tt.method, tt.path, err, tt.want, tt.remedy)
		}
	}
}

func TestOnlyRootOwnUserAndGroupMayEnter(t *testing.T) {
	own := uint32(os.Geteuid())
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	stranger := uint32(id)
	for _, tt := range []struct {
		name string
		gid  int
		who  caller
		want bool
	}{
		{"root", -1, caller{uid: 0}, true},
		{"own user", -1, caller{uid: own, gid: 9}, true},
		{"stranger", -1, caller{uid: stranger, gid: stranger}, false},
		{"stranger without a group of the configuration", -1, caller{uid: stranger, gid: 0xFFFFFFFF}, false},
		{"of the group by its process", 4242, caller{uid: stranger, gid: 4242}, true},
		{"of another group", 4242, caller{uid: stranger, gid: 4243}, false},
		{"user that does not exist", 4242, caller{uid: 123456789, gid: 1}, false},
		{"nobody knows who", -1, caller{uid: 0, err: errors.New("x")}, false},
	} {
		if got := (&Server{gid: tt.gid}).mayEnter(tt.who); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

func TestWhoConnectsIsAskedFromTheKernel(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	who := whoIs(s)
	if who.err != nil || who.uid != uint32(os.Geteuid()) || who.pid != int32(os.Getpid()) {
		t.Errorf("got %+v", who)
	}
}

func TestStrangersAreTurnedAwayWithWords(t *testing.T) {
	s := &Server{gid: -1, o: Options{Log: slog.New(slog.DiscardHandler)}, b: fake{}, mux: http.NewServeMux()}
	s.routes()
	w := &recorder{header: http.Header{}}
	r, err := http.NewRequestWithContext(context.WithValue(t.Context(), callerKey{}, caller{uid: 123456789}), "GET", "http://x/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.serve(w, r)
	var e Error
	if err := json.Unmarshal([]byte(w.body.String()), &e); err != nil || w.code != http.StatusForbidden || !strings.Contains(e.Remedy, "sudo") {
		t.Errorf("got %d %s, %v", w.code, w.body.String(), err)
	}
}

type recorder struct {
	header http.Header
	code   int
	body   strings.Builder
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

func TestSocketOfAProcessThatIsGoneIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	s, c := start(t, Options{Path: path}, fake{})
	if err := c.Get(t.Context(), "/v1/status", nil, new(Status)); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("got %v, %v", info, err)
	}
	if _, err := Listen(s.o, fake{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
}

func TestSocketThatCannotBeIsRefusedWithWords(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, group, want string }{
		{"a file", file, "", "is no socket; remove it"},
		{"too long", filepath.Join(folder, strings.Repeat("x", 108)), "", "set admin.socket to a shorter one"},
		{"no folder", filepath.Join(folder, "none", "s"), "", "the folder must exist"},
		{"no such group", filepath.Join(folder, "s"), "no-such-group", "admin.group"},
	} {
		_, err := Listen(Options{Path: tt.path, Group: tt.group, Log: slog.New(slog.DiscardHandler)}, fake{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestConnectionsBeyondTheBoundWait(t *testing.T) {
	s, c := start(t, Options{}, fake{})
	var open []net.Conn
	for range maxConnections {
		k, err := net.Dial("unix", s.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		// A whole request, so that the server has it for sure; then it stays open.
		if _, err := io.WriteString(k, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		open = append(open, k)
	}
	answered := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	go func() { answered <- c.Get(ctx, "/v1/status", nil, new(Status)) }() // ends by ctx; read below
	open[0].Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestRequestThatIsTooLargeIsRefused(t *testing.T) {
	s, _ := start(t, Options{}, fake{})
	k, err := net.Dial("unix", s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.SetDeadline(time.Now().Add(hang)); err != nil {
		t.Fatal(err)
	}
	go io.WriteString(k, "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n") // ends when the server closes
	text, _ := io.ReadAll(k)
	if !strings.HasPrefix(string(text), "HTTP/1.1 431 ") {
		t.Errorf("got %q", text)
	}
}

func TestNobodyThereIsAnErrorOfItsOwn(t *testing.T) {
	err := NewClient(filepath.Join(t.TempDir(), "s")).Get(t.Context(), "/v1/status", nil, new(Status))
	if !errors.Is(err, ErrAbsent) {
		t.Errorf("got %v", err)
	}
}

func TestAccountThatDoesNotAddUpSaysSo(t *testing.T) {
	a := Account{Accepted: 10, Delivered: 3, Expired: 1, Dropped: map[string]uint64{"full": 2, "denied": 1}, Moved: 1, Dead: 1, Pending: 1}
	if a.Mismatch() != 0 {
		t.Errorf("off by %d", a.Mismatch())
	}
	q := Queue{Account: a, Walked: &Walked{Accepted: 10, Gone: 9, Pending: 0}}
	if q.Mismatches() != 1 {
		t.Errorf("got %d, want 1: a record is missing on disk", q.Mismatches())
	}
	q.Pending = 3
	if q.Mismatches() != 2 {
		t.Errorf("got %d, want 2", q.Mismatches())
	}
}

func TestFaultInTheMiddleOfALongAnswerIsItsLastLine(t *testing.T) {
	_, c := start(t, Options{}, fake{errors.New("the disk is gone")})
	body, err := c.Open(t.Context(), "GET", "/v1/db/dump", url.Values{"only": {"session,cursor"}})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	var out strings.Builder
	err = CopyLines(&out, body)
	if e, ok := errors.AsType[*Error](err); !ok || e.Text != "the disk is gone" || out.String() != strings.Repeat("{\"session+cursor\":{}}\n", 3) {
		t.Errorf("got %v after %q", err, out.String())
	}
}

func TestWhatChangesSomethingIsPosted(t *testing.T) {
	_, c := start(t, Options{}, fake{})
	var done []Compacted
	if err := c.Post(t.Context(), "/v1/db/compact", nil, &done); err != nil || len(done) != 1 || done[0].After != 1 {
		t.Errorf("got %+v, %v", done, err)
	}
	if err := c.Get(t.Context(), "/v1/db/compact", nil, &done); err == nil || !strings.Contains(err.Error(), "use POST") {
		t.Errorf("got %v", err)
	}
}

// slow is a broker whose check takes until it is let go, or given up.
type slow struct {
	fake
	began, end, ended chan struct{}
}

func (s slow) Check(ctx context.Context) ([]File, error) {
	close(s.began)
	select {
	case <-s.end:
	case <-ctx.Done():
	}
	close(s.ended)
	return nil, ctx.Err()
}

func TestCloseEndsWhatIsUnderWayAndWaitsForIt(t *testing.T) {
	b := slow{began: make(chan struct{}), ended: make(chan struct{})}
	path := filepath.Join(t.TempDir(), "s")
	s, err := Listen(Options{Path: path, Log: slog.New(slog.DiscardHandler)}, b)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- NewClient(path).Get(t.Context(), "/v1/db/check", nil, new([]File)) }() // ends by Close; read below
	<-b.began
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-b.ended:
	default:
		t.Error("Close has returned before the request had ended")
	}
	if err := <-answered; err == nil {
		t.Error("the request was answered as if nothing were")
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is still there")
	}
}

func TestOneAtATimeKeepsTheDiskBusy(t *testing.T) {
	b := slow{began: make(chan struct{}), end: make(chan struct{}), ended: make(chan struct{})}
	_, c := start(t, Options{}, b)
	first := make(chan error, 1)
	go func() { first <- c.Get(t.Context(), "/v1/db/check", nil, new([]File)) }() // ends by b.end; read below
	<-b.began
	for _, path := range []string{"/v1/db/check", "/v1/db/dump", "/v1/db/export"} {
		err := c.Get(t.Context(), path, nil, new([]File))
		if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Remedy, "try again") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	close(b.end)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// unread is an answer that nobody reads: it must have been given a deadline.
type unread struct {
	*httptest.ResponseRecorder
	bounded bool
}

func (u *unread) SetWriteDeadline(time.Time) error {
	u.bounded = true
	return nil
}

func (u *unread) Write(b []byte) (int, error) {
	if !u.bounded {
		return 0, errors.New("it would wait for ever")
	}
	return u.ResponseRecorder.Write(b)
}

func TestNoAnswerWaitsForEverForWhoDoesNotReadIt(t *testing.T) {
	s, _ := start(t, Options{}, fake{})
	for _, request := range []string{"GET /v1/status", "GET /v1/ledger", "GET /v1/ledger?walk=1", "GET /v1/db/check", "POST /v1/db/compact", "GET /v1/db/dump"} {
		method, path, _ := strings.Cut(request, " ")
		w := &unread{ResponseRecorder: httptest.NewRecorder()}
		s.mux.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != http.StatusOK || w.Body.Len() == 0 || strings.Contains(w.Body.String(), "for ever") {
			t.Errorf("%s: got %d %q", request, w.Code, w.Body)
		}
	}
}
