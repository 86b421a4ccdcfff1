package fleet

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

// Shelf sets and removes retained messages and knows what must be there.
type Shelf struct {
	Options client.Options
	Prefix  string // of the topics, which are Prefix/N

	mu      sync.Mutex    // guards what follows
	barred  chan struct{} // closed by Look; nil = not barred
	items   [shelfItems]item
	refused int
	strange error // the first thing that a reader should not have seen
}

const (
	shelfItems  = 64
	shelfWindow = 8 // less than items: each has at most one in flight
	// removal: each so many operations on an item remove it.
	removal = 5
)

// item is one topic. Its operations are numbered from 1; the payload is the number.
type item struct{ sent, acked uint64 }

// holds reports whether an operation leaves something on the shelf.
func holds(n uint64) bool { return n > 0 && n%removal != 0 }

// Operations returns how many operations were acknowledged.
func (s *Shelf) Operations() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.items {
		n += s.items[i].acked
	}
	return n
}

// Run sets and removes until stop is closed, over any number of lost connections, then waits
// until all is acknowledged. It returns an error as Publisher.Run does.
func (s *Shelf) Run(ctx context.Context, stop <-chan struct{}) error {
	o := s.Options
	o.Window = shelfWindow
	c := client.New(o)
	defer c.Close()
	known := false
	reconnect := func(err error) error {
		if !client.Lost(err) {
			return s.wrap(err)
		}
		present, err := s.connect(ctx, c)
		if err == nil && known && !present {
			err = ErrForgotten
		}
		known = true
		if err != nil {
			return s.wrap(err)
		}
		return nil
	}
	if err := reconnect(client.ErrNotConnected); err != nil {
		return err
	}
	for i := 0; ; i = (i + 1) % shelfItems {
		select {
		case <-stop:
			for {
				err := c.Drain(ctx)
				if err == nil {
					return s.fault()
				}
				if err := reconnect(err); err != nil {
					return err
				}
			}
		default:
		}
		p, ok := s.next(i)
		for ok {
			err := c.Publish(ctx, p)
			if err == nil {
				break
			}
			if err := reconnect(err); err != nil {
				return err
			}
		}
	}
}

// connect connects once nobody looks.
func (s *Shelf) connect(ctx context.Context, c *client.Client) (present bool, err error) {
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for {
		s.mu.Lock()
		barred := s.barred
		s.mu.Unlock()
		if barred != nil {
			select {
			case <-barred:
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
		connack, err := c.Connect(ctx)
		if err == nil || !client.Lost(err) {
			return connack.SessionPresent, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false, errors.Join(ctx.Err(), err)
		}
	}
}

// Bar keeps Run from coming back to a broker that has just died, until the next Look: what is in
// flight would cover what was lost.
func (s *Shelf) Bar() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.barred == nil {
		s.barred = make(chan struct{})
	}
}

func (s *Shelf) unbar() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.barred != nil {
		close(s.barred)
		s.barred = nil
	}
}

// next returns the next operation on item i, unless one is in flight.
func (s *Shelf) next(i int) (p client.Publish, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := &s.items[i]
	if it.sent != it.acked {
		return p, false
	}
	it.sent++
	n := it.sent
	p = client.Publish{
		Topic: s.Prefix + "/" + strconv.Itoa(i), QoS: packet.QoS(1 + n%2), Retain: true,
		Acked: func(code packet.ReasonCode) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if code >= packet.UnspecifiedError {
				s.refused++
			}
			s.items[i].acked = n
		},
	}
	if holds(n) {
		p.Payload = strconv.AppendUint(nil, n, 10)
	}
	return p, true
}

// Look subscribes with a session of its own, and waits until it has seen everything that must be
// on the shelf, for 20 s at most. It returns an error for something that is not there, or is older
// than what was acknowledged.
func (s *Shelf) Look(ctx context.Context) error {
	defer s.unbar()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s.mu.Lock()
	before := s.items
	s.mu.Unlock()
	var mu sync.Mutex
	seen := make(map[int]bool)
	c := client.New(client.Options{Address: s.Options.Address, Deliver: func(m client.Message) {
		mu.Lock()
		defer mu.Unlock()
		if i, ok := s.examine(m, &before); ok {
			seen[i] = true
		}
	}})
	defer c.Close()
	if _, err := connect(ctx, c, nil); err != nil {
		return s.wrap(err)
	}
	if _, err := c.Subscribe(ctx, client.Filter{Filter: s.Prefix + "/#"}); err != nil {
		return s.wrap(err)
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		mu.Lock()
		missing := s.missing(seen, &before)
		mu.Unlock()
		if missing < 0 || s.fault() != nil {
			return s.fault()
		}
		select {
		case <-ticker.C:
		case <-c.Done():
			return s.wrap(c.Err())
		case <-ctx.Done():
			return s.wrap(fmt.Errorf("%s/%d was acknowledged and is not there: %w", s.Prefix, missing, ctx.Err()))
		}
	}
}

// examine looks at an arrival.
func (s *Shelf) examine(m client.Message, before *[shelfItems]item) (i int, retained bool) {
	if !m.Retain {
		return 0, false // was published just now
	}
	i, err := strconv.Atoi(m.Topic[len(s.Prefix)+1:])
	n, bad := strconv.ParseUint(string(m.Payload), 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil || bad != nil || i >= shelfItems || !holds(n) || n > s.items[i].sent:
		s.strange = fmt.Errorf("%s %.20q was never there", m.Topic, m.Payload)
	case n < before[i].acked:
		s.strange = fmt.Errorf("%s is at %d, but %d was acknowledged", m.Topic, n, before[i].acked)
	}
	return i, true
}

// missing returns an item that must be there and was not seen, -1 if there is none.
func (s *Shelf) missing(seen map[int]bool, before *[shelfItems]item) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, it := range s.items {
		empty := before[i].acked == 0 // it may be as it was at first
		for n := before[i].acked; n <= it.sent; n++ {
			empty = empty || !holds(n)
		}
		if !empty && !seen[i] {
			return i
		}
	}
	return -1
}

func (s *Shelf) fault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.strange
	if s.refused > 0 {
		err = errors.Join(err, fmt.Errorf("%d operations were refused", s.refused))
	}
	if err != nil {
		return s.wrap(err)
	}
	return nil
}

func (s *Shelf) wrap(err error) error {
	return fmt.Errorf("fleet: shelf %s: %w", s.Options.ClientID, err)
}
