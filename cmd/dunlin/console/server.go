package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxConnections = 16
	maxHeader      = 8 << 10
	maxBody        = 64 << 10
	headerTime     = 5 * time.Second
	idleTime       = 30 * time.Second
	// answerTime is how long the broker may take for a short answer, stepTime how long who asks may
	// take for a step of a long one.
	answerTime = 10 * time.Second
	stepTime   = 30 * time.Second
)

// Options says where a Server listens and whom it lets in.
type Options struct {
	Path  string // of the socket
	Group string // whose members may come in beside root and the user of the broker, "" = none
	Log   *slog.Logger
}

// Server is the console of a running broker.
type Server struct {
	o    Options
	b    Broker
	gid  int // of Group, -1 = none
	http *http.Server
	ln   *net.UnixListener
	mux  *http.ServeMux
	busy chan struct{} // full while somebody keeps the disk busy

	serving sync.WaitGroup
	gate    sync.RWMutex // held by each request for reading, by Close for good
}

// Listen opens the socket and serves. Close ends it.
func Listen(o Options, b Broker) (*Server, error) {
	ln, err := listen(o.Path, o.Group)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, b: b, gid: -1, ln: ln, mux: http.NewServeMux(), busy: make(chan struct{}, 1)}
	if o.Group != "" {
		if s.gid, err = groupID(o.Group); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
	}
	s.routes()
	s.dataRoutes()
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, whoIs(c))
		},
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	// Owned by s; ends by Close, which waits.
	s.serving.Go(func() {
		if err := s.http.Serve(&bounded{ln, make(chan struct{}, maxConnections)}); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("the admin socket has failed", "path", o.Path, "err", err)
		}
	})
	return s, nil
}

// Path is where the socket is.
func (s *Server) Path() string { return s.o.Path }

// Close ends what is under way, removes the socket and returns when everything has ended. It is called
// once.
func (s *Server) Close() error {
	err := s.http.Close() // ends the contexts of the requests
	s.serving.Wait()
	s.gate.Lock() // no request comes in any more
	return err
}

type callerKey struct{}

// serve lets in who may come in, and hands the request to its handler.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !s.gate.TryRLock() {
		return // it is closed
	}
	defer s.gate.RUnlock()
	who, _ := r.Context().Value(callerKey{}).(caller)
	if !s.mayEnter(who) {
		remedy := "use sudo, or set admin.group in the configuration to a group that you are in"
		s.o.Log.Warn("somebody was turned away at the admin socket", "uid", who.uid, "pid", who.pid)
		w.Header().Set("Connection", "close")
		fail(w, http.StatusForbidden, fmt.Sprintf("the admin socket is not for user %d", who.uid), remedy)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	_, pattern := s.mux.Handler(r)
	if pattern == "" {
		s.unknown(w, r)
		return
	}
	if r.Method == http.MethodPost {
		s.o.Log.Info("administrator changes something", "path", r.URL.Path, "uid", who.uid, "pid", who.pid)
	}
	s.mux.ServeHTTP(w, r)
}

// unknown answers what is not there.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); pattern != "" {
			w.Header().Set("Allow", method)
			fail(w, http.StatusMethodNotAllowed, r.URL.Path+" does not take "+r.Method, "use "+method)
			return
		}
	}
	fail(w, http.StatusNotFound, "there is no "+r.URL.Path, "use the same version of dunlin for both ends; paths begin with /v1/")
}

func (s *Server) routes() {
	s.mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, s.b.Status)
	})
	s.mux.HandleFunc("GET /v1/ledger", func(w http.ResponseWriter, r *http.Request) {
		walk, err := flagOf(r, "walk")
		if err != nil {
			fail(w, http.StatusBadRequest, err.Error(), "write walk=1")
			return
		}
		if walk {
			s.work(w, r, func(ctx context.Context) error {
				return encode(ctx, w, func(ctx context.Context) (Ledger, error) { return s.b.Ledger(ctx, true) })
			})
			return
		}
		answer(w, r, func(ctx context.Context) (Ledger, error) { return s.b.Ledger(ctx, false) })
	})
}

func (s *Server) dataRoutes() {
	s.mux.HandleFunc("GET /v1/db/check", func(w http.ResponseWriter, r *http.Request) {
		s.work(w, r, func(ctx context.Context) error { return encode(ctx, w, s.b.Check) })
	})
	s.mux.HandleFunc("POST /v1/db/compact", func(w http.ResponseWriter, r *http.Request) {
		s.work(w, r, func(ctx context.Context) error { return encode(ctx, w, s.b.Compact) })
	})
	s.mux.HandleFunc("GET /v1/db/dump", func(w http.ResponseWriter, r *http.Request) {
		var only []string
		if text := r.URL.Query().Get("only"); text != "" {
			only = strings.Split(text, ",")
		}
		s.work(w, r, func(ctx context.Context) error { return s.b.Dump(ctx, steps{w}, only) })
	})
	s.mux.HandleFunc("GET /v1/db/export", func(w http.ResponseWriter, r *http.Request) {
		s.work(w, r, func(ctx context.Context) error { return s.b.Export(ctx, steps{w}) })
	})
}

// workTime bounds what takes its time: nothing is deleted from the store during an export.
const workTime = 30 * time.Minute

// work is a long answer that keeps the disk busy: one at a time.
func (s *Server) work(w http.ResponseWriter, r *http.Request, write func(context.Context) error) {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		fail(w, http.StatusConflict, "the broker is reading or compacting its files for somebody else", "try again when that is done")
		return
	}
	long(w, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, workTime)
		defer cancel()
		return write(ctx)
	}, r)
}

func encode[T any](ctx context.Context, w http.ResponseWriter, find func(context.Context) (T, error)) error {
	v, err := find(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(steps{w}).Encode(v)
}

// steps writes the steps of a long answer: who asked must take each in time.
type steps struct{ http.ResponseWriter }

func (s steps) Write(b []byte) (int, error) {
	k := http.NewResponseController(s.ResponseWriter)
	if err := k.SetWriteDeadline(time.Now().Add(stepTime)); err != nil {
		return 0, err
	}
	n, err := s.ResponseWriter.Write(b)
	if err == nil {
		err = k.Flush()
	}
	return n, err
}

// flagOf reads a parameter that is 0 or 1.
func flagOf(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s=%.20q is neither 0 nor 1", name, text)
	}
	return on, nil
}

// answer writes a short answer.
func answer[T any](w http.ResponseWriter, r *http.Request, find func(context.Context) (T, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	v, err := find(ctx)
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error(), "look at the log of the broker, and try again")
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(stepTime))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}

// long writes an answer that takes its time. What goes wrong after it has begun is its last line.
func long(w http.ResponseWriter, write func(context.Context) error, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	if err := write(r.Context()); err != nil && r.Context().Err() == nil {
		fail(w, http.StatusInternalServerError, err.Error(), "look at the log of the broker, and try again")
	}
}

// Error is what the console answers when it cannot do what was asked.
type Error struct {
	Text   string `json:"error"`
	Remedy string `json:"remedy,omitempty"`
}

func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Text
	}
	return e.Text + "; " + e.Remedy
}

func fail(w http.ResponseWriter, code int, text, remedy string) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(stepTime))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(Error{text, remedy})
}
