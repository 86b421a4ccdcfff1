package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/packet"
	"dunlin/core/topic"
)

const subHelp = `Usage: dunlin sub -t FILTER... [OPTION]...

Subscribes, and prints the payload of each message on a line of its own, until
it is interrupted. A message is acknowledged after it is printed.

Subscription:
  -t, --topic FILTER     topic with + and #; repeatable
  -q, --qos 0|1|2        (0)
  -C, --count N          exit with 0 after N messages
  -v, --verbose          print the topic before the payload
  -c, --disable-clean-session
                         continue the session of the last time; needs -i
  -x, --session-expiry-interval SECONDS
                         how long the broker keeps the session when we are
                         gone; MQTT 5.0 only, needs -i; with -c and without -x
                         it asks for 4294967295, never to expire
` + connectHelp

func sub(c *call) error {
	fs := c.options()
	conn := connectOptions(fs)
	var filters []string
	var qos, count int
	var verbose, keep bool
	var expiry uint64
	for _, name := range []string{"t", "topic"} {
		fs.Func(name, "", func(s string) error {
			filters = append(filters, s)
			return nil
		})
	}
	both(fs.IntVar, &qos, "q", "qos")
	both(fs.IntVar, &count, "C", "count")
	both(fs.BoolVar, &verbose, "v", "verbose")
	both(fs.BoolVar, &keep, "c", "disable-clean-session")
	both(fs.Uint64Var, &expiry, "x", "session-expiry-interval")
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return usagef("%q is not an option; a filter goes behind -t", others[0])
	}
	if len(filters) == 0 {
		return usagef("a filter (-t) is missing")
	}
	for _, f := range filters {
		if err := checkFilter(f); err != nil {
			return err
		}
	}
	level, err := checkQoS(qos)
	if err != nil {
		return err
	}
	o, err := conn.options()
	if err != nil {
		return err
	}
	timed := given(fs, "x", "session-expiry-interval")
	switch {
	case count < 0:
		return usagef("a count of %d is out of range; allowed: 1 or more", count)
	case (keep || expiry > 0) && o.ClientID == "":
		return usagef("a session that lasts needs a client identifier (-i)")
	case timed && o.Version != packet.V5:
		return usagef("-x needs MQTT 5.0; in 3.1.1 a session with -c has no end")
	case expiry > math.MaxUint32:
		return usagef("a session expiry of %d is out of range; allowed: 0 to 4294967295", expiry)
	}
	o.CleanStart = !keep
	o.SessionExpiry = uint32(expiry)
	if keep && !timed {
		o.SessionExpiry = math.MaxUint32
	}
	ctx, stop := conn.context()
	defer stop()
	cl, err := dial(ctx, o)
	if err != nil {
		return err
	}
	err = subscribe(ctx, cl, filters, level)
	if err == nil {
		err = c.print(ctx, cl, count, verbose)
	}
	closed := cl.Close()
	switch {
	case errors.Is(err, errInterrupted) && count == 0:
		return nil // what was asked for
	case err == nil && !errors.Is(closed, client.ErrClosed):
		return closed
	}
	return err
}

func checkFilter(filter string) error {
	_, rest, shared, err := topic.Shared(filter)
	if err == nil && !shared {
		rest = filter
	}
	if err == nil {
		err = topic.CheckFilter([]byte(rest))
	}
	if err != nil {
		return usagef("%.80q is not a topic filter: %s", filter, trimTopic(err))
	}
	return nil
}

// subscribe asks for the filters. One that is refused is an error, even if others are not:
// somebody who asks for two topics does not want to wait for messages of one.
func subscribe(ctx context.Context, cl *client.Client, filters []string, qos packet.QoS) error {
	codes, err := cl.Subscribe(ctx, filters, qos)
	if err != nil {
		return err
	}
	var refused []error
	for i, code := range codes {
		if code >= packet.UnspecifiedError {
			refused = append(refused, &client.Refused{What: "the subscription to " + filters[i], Code: code})
		}
	}
	return errors.Join(refused...)
}

// print prints count messages, or messages without end if it is 0.
func (c *call) print(ctx context.Context, cl *client.Client, count int, verbose bool) error {
	w := bufio.NewWriter(c.out)
	for n := 0; count == 0 || n < count; n++ {
		m, err := cl.Receive(ctx)
		if err != nil {
			return err
		}
		if verbose {
			w.WriteString(m.Topic)
			w.WriteByte(' ')
		}
		w.Write(m.Payload)
		w.WriteByte('\n')
		// At QoS 0 a line may wait for those that are here already; an acknowledgement may not
		// leave before its message is printed.
		if m.QoS == 0 && cl.Waiting() > 0 && n+1 != count {
			continue
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("the message cannot be printed: %w", err)
		}
	}
	return nil
}
