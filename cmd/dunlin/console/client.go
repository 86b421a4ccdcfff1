package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// Client asks the console of a running broker.
type Client struct {
	path string
	http http.Client
}

// dialTime is how long a broker may take to accept.
const dialTime = 5 * time.Second

// maxAnswer is the longest short answer that is read: the accounts of 100,000 sessions.
const maxAnswer = 64 << 20

// NewClient returns a client for the socket at path.
func NewClient(path string) *Client {
	return &Client{path: path, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: dialTime}
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives:  true,
		DisableCompression: true,
	}}}
}

// ErrAbsent says that no broker listens at the socket. The caller looks elsewhere, or says so.
var ErrAbsent = errors.New("no broker listens there")

// Get reads a short answer into v.
func (c *Client) Get(ctx context.Context, path string, query url.Values, v any) error {
	body, err := c.Open(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	return c.read(body, v)
}

// Post changes something, and reads a short answer into v.
func (c *Client) Post(ctx context.Context, path string, query url.Values, v any) error {
	body, err := c.Open(ctx, http.MethodPost, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	return c.read(body, v)
}

func (c *Client) read(body io.Reader, v any) error {
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("answer of the broker at %s: %w; use the same version of dunlin for both ends", c.path, err)
	}
	return nil
}

// Open asks and returns the answer, to be closed by the caller. An answer with an error is one.
func (c *Client) Open(ctx context.Context, method, path string, query url.Values) (io.ReadCloser, error) {
	u := url.URL{Scheme: "http", Host: "dunlin", Path: path, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	a, err := c.http.Do(r)
	if err != nil {
		var fault *url.Error
		if errors.As(err, &fault) {
			err = fault.Err
		}
		switch {
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
			err = fmt.Errorf("%w: %w", ErrAbsent, err)
		case errors.Is(err, syscall.EACCES):
			err = fmt.Errorf("%w; use sudo", err)
		}
		return nil, fmt.Errorf("admin socket %s: %w", c.path, err)
	}
	if a.StatusCode == http.StatusOK {
		return a.Body, nil
	}
	defer a.Body.Close()
	e := new(Error)
	if err := json.NewDecoder(io.LimitReader(a.Body, maxBody)).Decode(e); err != nil || e.Text == "" {
		return nil, fmt.Errorf("admin socket %s: the broker answers %s", c.path, a.Status)
	}
	return nil, e
}

// CopyLines copies a long answer to w, line by line. An error that ends it is returned and not copied.
func CopyLines(w io.Writer, answer io.Reader) error {
	r := bufio.NewReaderSize(answer, 64<<10)
	begin := []byte(`{"error":`)
	for {
		head, err := r.Peek(len(begin))
		if len(head) == 0 {
			if err == io.EOF {
				return nil
			}
			return fmt.Errorf("the answer of the broker has no end: %w", err)
		}
		if bytes.Equal(head, begin) {
			e := new(Error)
			if err := json.NewDecoder(io.LimitReader(r, maxBody)).Decode(e); err != nil {
				return fmt.Errorf("the broker has failed: %w", err)
			}
			return e
		}
		for more := true; more; {
			line, err := r.ReadSlice('\n')
			more = errors.Is(err, bufio.ErrBufferFull)
			if err != nil && !more {
				return fmt.Errorf("the answer of the broker has no end: %w", err)
			}
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	}
}
