package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dunlin/testbench/client"
	"dunlin/testbench/tally"
)

// Changer subscribes and unsubscribes, again and again, within one persistent session. What is
// published between a SUBACK and the next UNSUBSCRIBE must come; what is published between an
// UNSUBACK and the next SUBSCRIBE must not.
type Changer struct {
	Options client.Options
	Filter  client.Filter
	Streams []*tally.Stream      // those that the filter matches
	Tally   *tally.Tally         // that they belong to
	Rest    func() time.Duration // how long it stays with what it is
	Got     *tally.Got

	client *client.Client
	known  bool
	spans  []span
}

// span is one subscription of a Changer. Between two of its moments nobody can say what comes.
type span struct {
	asked   *tally.Snapshot // acknowledged when the SUBSCRIBE left
	granted []uint64        // the last numbers sent when the SUBACK came, by stream
	leaving *tally.Snapshot // acknowledged when the UNSUBSCRIBE left
	left    []uint64        // the last numbers sent when the UNSUBACK came, by stream
}

// Run subscribes and unsubscribes until stop is closed, over any number of lost connections. It
// leaves no subscription, and the connection open. It returns an error as Receiver.Run does.
func (c *Changer) Run(ctx context.Context, stop <-chan struct{}) error {
	o := c.Options
	o.Deliver = func(m client.Message) { c.Got.Add(m.Payload) }
	c.client = client.New(o)
	for {
		s := span{asked: c.Tally.Snapshot()}
		if err := c.insist(ctx, func() error {
			codes, err := c.client.Subscribe(ctx, c.Filter)
			if err == nil && codes[0] != 0 && codes[0] != 1 && codes[0] != 2 {
				return fmt.Errorf("%s was refused with 0x%02X", c.Filter.Filter, byte(codes[0]))
			}
			return err
		}); err != nil {
			return err
		}
		s.granted = c.last()
		c.rest(ctx, stop)
		s.leaving = c.Tally.Snapshot()
		if err := c.insist(ctx, func() error {
			_, err := c.client.Unsubscribe(ctx, c.Filter.Filter)
			return err
		}); err != nil {
			return err
		}
		s.left = c.last()
		c.spans = append(c.spans, s)
		select {
		case <-stop:
			return nil
		default:
			c.rest(ctx, stop)
		}
	}
}

// Spans returns how often it has subscribed.
func (c *Changer) Spans() int { return len(c.spans) }

// Check waits for what must have come, and compares. Nothing is published meanwhile.
func (c *Changer) Check(ctx context.Context) error {
	defer c.client.Close()
	want := c.Tally.SnapshotIf(c.owed)
	for {
		changed := c.Got.Changed()
		if c.Got.Missing(want, c.matches) == 0 {
			return c.compare(want)
		}
		select {
		case <-changed:
		case <-c.client.Done():
			if err := c.connect(ctx); err != nil {
				return c.wrap(err)
			}
		case <-ctx.Done():
			return errors.Join(ctx.Err(), c.compare(want))
		}
	}
}

// compare returns an error if something is missing, came twice, or came without a subscription.
func (c *Changer) compare(want *tally.Snapshot) error {
	err := c.Got.Check(want, tally.Rules{ExactlyOnce: c.Filter.QoS == 2, JoinedLate: true, Only: c.matches})
	for i := range c.spans {
		err = errors.Join(err, c.uncalled(i))
	}
	if err != nil {
		return c.wrap(err)
	}
	return nil
}

// owed reports whether a message was published while it was subscribed for certain.
func (c *Changer) owed(stream *tally.Stream, seq uint64) bool {
	for n, mine := range c.Streams {
		if mine != stream {
			continue
		}
		for _, s := range c.spans {
			if seq > s.granted[n] && s.leaving.Has(stream, seq) {
				return true
			}
		}
	}
	return false
}

// uncalled returns an error if something has come that was published between span i and the next.
func (c *Changer) uncalled(i int) error {
	if i+1 == len(c.spans) {
		return nil
	}
	next := c.spans[i+1].asked
	for n, stream := range c.Streams {
		for seq := c.spans[i].left[n] + 1; seq <= stream.Last(); seq++ {
			if next.Has(stream, seq) && c.Got.Has(stream, seq) {
				return fmt.Errorf("%s %d came without a subscription", stream.Name, seq)
			}
		}
	}
	return nil
}

func (c *Changer) matches(s *tally.Stream) bool { return slices.Contains(c.Streams, s) }

// last returns the numbers of the last messages sent.
func (c *Changer) last() (all []uint64) {
	for _, s := range c.Streams {
		all = append(all, s.Last())
	}
	return all
}

func (c *Changer) rest(ctx context.Context, stop <-chan struct{}) {
	select {
	case <-time.After(c.Rest()):
	case <-stop:
	case <-ctx.Done():
	}
}

// insist repeats a request until it is answered, over lost connections.
func (c *Changer) insist(ctx context.Context, request func() error) error {
	for {
		err := client.ErrNotConnected
		if c.known {
			err = request()
		}
		if err == nil {
			return nil
		}
		if !client.Lost(err) {
			return c.wrap(err)
		}
		if err := c.connect(ctx); err != nil {
			return c.wrap(err)
		}
	}
}

func (c *Changer) connect(ctx context.Context) error {
	present, err := connect(ctx, c.client, nil)
	if err != nil {
		return err
	}
	if c.known && !present {
		return ErrForgotten
	}
	c.known = true
	return nil
}

func (c *Changer) wrap(err error) error {
	return fmt.Errorf("fleet: changer %s: %w", c.Options.ClientID, err)
}
