// Package fleet is a simulated fleet of devices: publishers and receivers which reconnect after
// each loss of the connection, resume what was in flight, and keep the lists of package tally.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/tally"
)

// retry is how long a device waits before it tries to connect again.
const retry = 5 * time.Millisecond

// ErrForgotten means that the broker no longer knew a session that it had confirmed: what was
// queued or half way is lost.
var ErrForgotten = errors.New("fleet: the broker has forgotten the session")

// Line is one of the streams of a publisher.
type Line struct {
	Topic  string
	Stream *tally.Stream
	Retain bool
}

// Publisher publishes to its lines in turn.
type Publisher struct {
	Options client.Options
	Lines   []Line
	Size    int // of a payload, bytes; the least that holds its number if 0
	Rate    int // messages per second; 0 = as many as the window lets through
	Limit   int // messages to publish before Run returns; 0 = until stop

	// OnAcked is called for each acknowledgement of success, from the reader; nil is allowed.
	OnAcked func(s *tally.Stream, seq uint64)

	// Refused counts acknowledgements with a code of failure.
	Refused atomic.Uint64

	client *client.Client
	known  bool // the broker has confirmed the session
}

// Run connects and publishes until stop is closed or Limit is reached, over any number of lost
// connections. Then it waits until nothing is in flight and disconnects. Run may be called
// again and goes on with the same session.
//
// It returns an error if ctx ends first, if the broker breaks the protocol, or ErrForgotten.
func (p *Publisher) Run(ctx context.Context, stop <-chan struct{}) error {
	if p.client == nil {
		p.client = client.New(p.Options)
	}
	defer p.client.Close()
	if err := p.connect(ctx); err != nil {
		return err
	}
	if err := p.publish(ctx, stop); err != nil {
		return err
	}
	for {
		err := p.client.Drain(ctx)
		if err == nil {
			break
		}
		if err := p.reconnect(ctx, err); err != nil {
			return err
		}
	}
	if err := p.client.Disconnect(ctx); err != nil && !client.Lost(err) {
		return p.wrap(err)
	}
	return nil
}

// publish sends messages until stop or Limit.
func (p *Publisher) publish(ctx context.Context, stop <-chan struct{}) error {
	start := time.Now()
	for n := 0; p.Limit == 0 || n < p.Limit; n++ {
		var due <-chan time.Time
		if p.Rate > 0 {
			due = time.After(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(p.Rate))))
		} else {
			due = alreadyDue
		}
		select {
		case <-stop: // before anything that is due
			return nil
		default:
		}
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return p.wrap(ctx.Err())
		case <-due:
		}
		if err := p.send(ctx, p.Lines[n%len(p.Lines)]); err != nil {
			return err
		}
	}
	return nil
}

// alreadyDue is closed: it never waits.
var alreadyDue = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// send publishes the next message of a line, over lost connections.
func (p *Publisher) send(ctx context.Context, l Line) error {
	seq := l.Stream.Next()
	m := client.Publish{
		Topic: l.Topic, QoS: packet.QoS(l.Stream.QoS), Retain: l.Retain,
		Payload: l.Stream.AppendPayload(make([]byte, 0, p.Size), seq, p.Size),
		Acked: func(code packet.ReasonCode) {
			if code >= packet.UnspecifiedError {
				p.Refused.Add(1)
				return
			}
			l.Stream.Acked(seq)
			if p.OnAcked != nil {
				p.OnAcked(l.Stream, seq)
			}
		},
	}
	for {
		err := p.client.Publish(ctx, m)
		if err == nil {
			return nil
		}
		if err := p.reconnect(ctx, err); err != nil {
			return err
		}
	}
}

// reconnect connects again if cause is a lost connection; every other cause is returned.
func (p *Publisher) reconnect(ctx context.Context, cause error) error {
	if !client.Lost(cause) {
		return p.wrap(cause)
	}
	// Why the connection ended says more than that there is none.
	if err := p.client.Err(); err != nil && !client.Lost(err) {
		return p.wrap(err)
	}
	return p.connect(ctx)
}

func (p *Publisher) connect(ctx context.Context) error {
	present, err := connect(ctx, p.client, nil)
	if err != nil {
		return p.wrap(err)
	}
	if p.known && !present && !p.Options.CleanStart {
		return p.wrap(ErrForgotten)
	}
	p.known = true
	return nil
}

func (p *Publisher) wrap(err error) error {
	return fmt.Errorf("fleet: publisher %s: %w", p.Options.ClientID, err)
}

// errStopped ends the attempts to connect when stop is closed.
var errStopped = errors.New("stopped")

// connect connects, as often as it takes. It returns errStopped if stop is closed first.
func connect(ctx context.Context, c *client.Client, stop <-chan struct{}) (present bool, err error) {
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for {
		connack, err := c.Connect(ctx)
		if err == nil {
			return connack.SessionPresent, nil
		}
		if !client.Lost(err) {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("cannot connect: %w", errors.Join(ctx.Err(), err))
		case <-stop:
			return false, errStopped
		case <-ticker.C:
		}
	}
}
