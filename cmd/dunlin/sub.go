package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"slices"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/packet"
	"dunlin/core/topic"
)

const subHelp = `Usage: dunlin sub -t FILTER... [OPTION]...

Subscribes, and prints the payload of each message on a line of its own, until
it is interrupted. A message is acknowledged after it is printed.

  dunlin sub -t 'plant/#' -v
  dunlin sub -L mqtt://broker.example -t 'plant/+/temp' --json | jq .payload

Subscription:
  -t, --topic FILTER     topic with + and #; repeatable
  -q, --qos 0|1|2        (0)
  -T, --filter-out FILTER  do not print what matches; repeatable
  -R, --no-retained      no messages that the broker has kept
  -U, --unsubscribe FILTER  end this subscription of the session; repeatable
  -E, --exit             exit when that is done, without -t, too
  -C, --count N          exit with 0 after N messages
Subscription, MQTT 5.0 only:
  --subscription-id N    comes back with the messages
  --no-local             nothing that this client has published
  --retain-as-published  do not clear the retain flag of messages
  --retain-handling N    retained messages: 0 always, 1 if the subscription is
                         new, 2 never
  --topic-alias-max N    let the broker shorten up to N topics
  --subscribe-property NAME=VALUE, --unsubscribe-property NAME=VALUE
                         user property of the request, repeatable
Output:
  -v, --verbose          the topic before the payload
  --pretty               several lines, with all properties
  --json                 an object on a line
  --hex                  the payload as hexadecimal digits
  -F, --format FORMAT    %t topic, %p payload, %x hex, %l length, %q QoS,
                         %r retain, %d dup, %U and %I time, %P properties,
                         %C content type, %R response topic, %D correlation,
                         %E expiry, %F payload format, %S subscription ids, \n
` + connectHelp

// subscription is what sub asks for, and which messages it prints.
type subscription struct {
	filters     []packet.Subscription
	unsubscribe []string
	id          uint32
	out         []string // filters of what is not printed
	fresh       bool     // retained messages are not printed; 3.1.1 cannot ask for that
	count       int      // 0 = no end

	subscribed bool // once, in this session
}

func sub(c *call) error {
	fs := c.options()
	conn := connectOptions(fs)
	var s subscription
	var filters []string
	var qos, handling int
	var id, aliases uint64
	var noRetained, exit bool
	var options packet.SubscribeOptions
	list(fs, &filters, "t", "topic")
	list(fs, &s.out, "T", "filter-out")
	list(fs, &s.unsubscribe, "U", "unsubscribe")
	both(fs.IntVar, &qos, "q", "qos")
	both(fs.IntVar, &s.count, "C", "count")
	both(fs.BoolVar, &noRetained, "R", "no-retained")
	both(fs.BoolVar, &exit, "E", "exit")
	fs.Uint64Var(&id, "subscription-id", 0, "")
	fs.BoolVar(&options.NoLocal, "no-local", false, "")
	fs.BoolVar(&options.RetainAsPublished, "retain-as-published", false, "")
	fs.IntVar(&handling, "retain-handling", 0, "")
	fs.Uint64Var(&aliases, "topic-alias-max", 0, "")
	var subscribing, unsubscribing pairs
	fs.Var(&subscribing, "subscribe-property", "")
	fs.Var(&unsubscribing, "unsubscribe-property", "")
	form := outputOptions(fs)
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return usagef("%q is not an option; a filter goes behind -t", others[0])
	}
	o, err := conn.options()
	if err != nil {
		return err
	}
	if conn.topic != "" {
		filters = append(filters, conn.topic)
	}
	if len(filters) == 0 && !exit {
		return usagef("a filter (-t) is missing")
	}
	for _, f := range slices.Concat(filters, s.unsubscribe) {
		if err := checkFilter(f); err != nil {
			return err
		}
	}
	for _, f := range s.out {
		if err := topic.CheckFilter([]byte(f)); err != nil {
			return usagef("%.80q is not a topic filter: %s", f, trimTopic(err))
		}
	}
	if options.QoS, err = checkQoS(qos); err != nil {
		return err
	}
	if err := needV5(fs, o.Version, "subscription-id", "no-local", "retain-as-published", "retain-handling", "topic-alias-max",
		"subscribe-property", "unsubscribe-property"); err != nil {
		return err
	}
	switch {
	case s.count < 0:
		return usagef("a count of %d is out of range; allowed: 1 or more", s.count)
	case exit && s.count > 0:
		return usagef("-E exits before the first message, -C counts them")
	case given(fs, "subscription-id") && (id < 1 || id > packet.MaxRemaining):
		return usagef("--subscription-id %d is out of range; allowed: 1 to %d", id, packet.MaxRemaining)
	case handling < 0 || handling > 2:
		return usagef("--retain-handling %d is none; allowed: 0, 1, 2", handling)
	case noRetained && given(fs, "retain-handling"):
		return usagef("-R is --retain-handling 2; give one of them")
	case aliases > 65535:
		return usagef("--topic-alias-max %d is out of range; allowed: 0 to 65535", aliases)
	}
	s.id, options.RetainHandling, o.TopicAliasMaximum = uint32(id), byte(handling), uint16(aliases)
	o.SubscribeProperties, o.UnsubscribeProperties = subscribing.encoded, unsubscribing.encoded
	if noRetained {
		options.RetainHandling = 2
		s.fresh = o.Version < packet.V5
	}
	for _, f := range filters {
		s.filters = append(s.filters, packet.Subscription{Filter: f, Options: options})
	}
	p, err := form.printer(bufio.NewWriter(c.out))
	if err != nil {
		return err
	}
	ctx, stop := conn.context()
	defer stop()
	l := c.link(conn, o)
	l.ready = s.subscribe
	err = l.open(ctx)
	if err == nil && !exit {
		err = s.print(ctx, l, p)
	}
	if l.Client == nil {
		return err // there was no connection
	}
	closed := l.Close()
	switch {
	case errors.Is(err, errInterrupted) && s.count == 0:
		return nil // what was asked for
	case err == nil && !errors.Is(closed, client.ErrClosed):
		return closed
	}
	return err
}

// list defines an option that repeats.
func list(fs *flag.FlagSet, to *[]string, names ...string) {
	for _, name := range names {
		fs.Func(name, "", func(s string) error {
			*to = append(*to, s)
			return nil
		})
	}
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

// subscribe ends the subscriptions that are not wanted any more and asks for the others. One that
// is refused is an error, even if others are not: somebody who asks for two topics does not want
// to wait for messages of one.
//
// A session that the broker has kept over an outage has its subscriptions: asking again would
// bring the retained messages again.
func (s *subscription) subscribe(ctx context.Context, cl *client.Client) error {
	if s.subscribed && cl.SessionPresent() {
		return nil
	}
	var refused []error
	if len(s.unsubscribe) > 0 {
		codes, reason, err := cl.Unsubscribe(ctx, s.unsubscribe)
		if err != nil {
			return err
		}
		for i, code := range codes {
			if code >= packet.UnspecifiedError {
				refused = append(refused, &client.Refused{What: "to end the subscription to " + s.unsubscribe[i], Code: code, Reason: reason})
				reason = "" // it is one for them all
			}
		}
	}
	if len(s.filters) > 0 {
		codes, reason, err := cl.Subscribe(ctx, s.id, s.filters)
		if err != nil {
			return err
		}
		for i, code := range codes {
			if code >= packet.UnspecifiedError {
				refused = append(refused, &client.Refused{What: "the subscription to " + s.filters[i].Filter, Code: code, Reason: reason})
				reason = ""
			}
		}
	}
	if len(refused) > 0 {
		return errors.Join(refused...)
	}
	s.subscribed = true
	return nil
}

// print prints count messages, or messages without end if it is 0. What it leaves out does not
// count, and is acknowledged all the same.
func (s *subscription) print(ctx context.Context, l *link, p *printer) error {
	for n := 0; s.count == 0 || n < s.count; {
		m, err := l.Receive(ctx)
		if err != nil {
			if err = l.restore(ctx, err); err != nil {
				return err
			}
			continue
		}
		if s.wants(&m) {
			p.print(&m)
			n++
		}
		// At QoS 0 a line may wait for those that are here already; an acknowledgement may not
		// leave before its message is printed.
		if m.QoS == 0 && l.Waiting() > 0 && n != s.count {
			continue
		}
		if err := p.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (s *subscription) wants(m *client.Message) bool {
	if s.fresh && m.Retain {
		return false
	}
	for _, f := range s.out {
		if topic.Matches(f, m.Topic) {
			return false
		}
	}
	return true
}
