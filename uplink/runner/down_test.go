package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"dunlin/core/message"
	"dunlin/core/rule"
	"dunlin/testbench/client"
)

// broker is an Ingest that keeps what comes down and answers when the test says so.
type broker struct {
	mu       sync.Mutex
	messages []*message.Message
	answers  []func(error)
	fail     int  // injections to refuse
	hold     bool // answers wait
	changed  chan struct{}
}

func newBroker() *broker { return &broker{changed: make(chan struct{}, 1)} }

func (b *broker) Inject(m *message.Message, done func(error)) {
	b.mu.Lock()
	var err error
	switch {
	case b.fail > 0:
		b.fail--
		err = errors.New("store full")
	case b.hold:
		b.messages = append(b.messages, m)
		b.answers = append(b.answers, done)
		b.mu.Unlock()
		return
	default:
		b.messages = append(b.messages, m)
	}
	b.mu.Unlock()
	done(err)
}

func (b *broker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.messages)
}

func (b *broker) topics() (topics []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.messages {
		topics = append(topics, m.Topic)
	}
	return topics
}

func downOptions(t *testing.T, c *cloud) Options {
	o := c.options(t)
	o.Down = rule.Set{{From: "site/a/cmd/#", To: "cmd/#", QoS: 1}}
	return o
}

func (b *broker) payloads() (payloads []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.messages {
		payloads = append(payloads, string(m.Payload))
	}
	return payloads
}

// publish sends messages in the cloud and waits until it has them.
func publish(t *testing.T, cl *client.Client, p client.Publish, n int) {
	t.Helper()
	for i := range n {
		p.Payload = fmt.Appendf(nil, "%d", i)
		if err := cl.Publish(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCommandsComeDownAlsoThoseOfTheTimeWithoutALink(t *testing.T) {
	c := startCloud(t)
	b := newBroker()
	u := openUplink(t, downOptions(t, c))
	u.Start(b)
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	cl := c.client("office")
	publish(t, cl, client.Publish{Topic: "site/a/cmd/valve", QoS: 1}, 3)
	eventually(t, "three messages", func() bool { return b.count() == 3 })
	m := b.messages[0]
	if m.Topic != "cmd/valve" || m.QoS != 1 || m.Source != "cloud" || string(m.Payload) != "0" {
		t.Errorf("got %+v", m)
	}
	c.net.Down()
	eventually(t, "down", func() bool { return !u.Status().Connected })
	publish(t, cl, client.Publish{Topic: "site/a/cmd/valve", QoS: 1}, 100)
	c.net.Up()
	eventually(t, "all messages", func() bool { return slices.Contains(b.payloads(), "99") })
	// The acknowledgements of the first ones may have been cut: those come again.
	all := b.payloads()
	for i := range 100 {
		if got := all[len(all)-100+i]; got != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
}

func TestACommandIsAcknowledgedAfterTheLocalCommit(t *testing.T) {
	c := startCloud(t)
	b := newBroker()
	b.hold = true
	o := downOptions(t, c)
	u := openUplink(t, o)
	u.Start(b)
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	publish(t, c.client("office"), client.Publish{Topic: "site/a/cmd/valve", QoS: 1}, 40)
	eventually(t, "as many as may wait", func() bool { return b.count() >= 16 })
	// The gateway stops before its commit: the server still has them all.
	u.Close(t.Context())
	b2 := newBroker()
	u = openUplink(t, o)
	u.Start(b2)
	eventually(t, "all messages again", func() bool { return slices.Contains(b2.payloads(), "39") })
	// They were acknowledged: the server does not send them a third time.
	u.Close(t.Context())
	b3 := newBroker()
	u = openUplink(t, o)
	u.Start(b3)
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	publish(t, c.client("office"), client.Publish{Topic: "site/a/cmd/last", QoS: 1}, 1)
	eventually(t, "the last", func() bool { return b3.count() > 0 })
	if got := b3.topics(); len(got) != 1 || got[0] != "cmd/last" {
		t.Errorf("got %q", got)
	}
}

func TestAcknowledgementsGoInOrderWhateverTheCommitsDo(t *testing.T) {
	c := startCloud(t)
	b := newBroker()
	b.hold = true
	u := openUplink(t, downOptions(t, c))
	u.Start(b)
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	publish(t, c.client("office"), client.Publish{Topic: "site/a/cmd/valve", QoS: 1}, 16)
	eventually(t, "all", func() bool { return b.count() == 16 })
	b.mu.Lock()
	answers := b.answers
	b.mu.Unlock()
	for i := len(answers) - 1; i >= 0; i-- {
		answers[i](nil)
	}
	publish(t, c.client("office2"), client.Publish{Topic: "site/a/cmd/next", QoS: 1}, 16)
	eventually(t, "room for the next", func() bool { return b.count() == 32 })
	if s := u.Status(); !s.Connected || s.Dials != 1 {
		t.Errorf("%+v", s)
	}
}

func TestACommandThatCannotBeStoredIsTriedAgain(t *testing.T) {
	c := startCloud(t)
	b := newBroker()
	b.fail = 2
	u := openUplink(t, downOptions(t, c))
	u.Start(b)
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	publish(t, c.client("office"), client.Publish{Topic: "site/a/cmd/valve", QoS: 1}, 2)
	eventually(t, "both", func() bool { return b.count() == 2 })
	if s := u.Status(); s.DownHeld != 2 || s.Down != 2 || s.Dials != 1 {
		t.Errorf("%+v", s)
	}
}

func TestWhatGoesUpDoesNotComeBack(t *testing.T) {
	c := startCloud(t)
	c.receive("up/#")
	b := newBroker()
	o := c.options(t)
	o.Rules = rule.Set{{From: "#", QoS: 1}}
	o.Down = rule.Set{{From: "#", QoS: 1}}
	u := openUplink(t, o)
	u.Start(b)
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	feed(t, u, 1, 10, 1)
	c.got.wait(t, 10)
	publish(t, c.client("office"), client.Publish{Topic: "site/a/cmd/last", QoS: 0}, 1)
	eventually(t, "the last", func() bool { return b.count() > 0 })
	if got := b.topics(); len(got) != 1 || got[0] != "site/a/cmd/last" {
		t.Errorf("came down: %q", got)
	}
}

func TestASubscriptionOfAnEarlierConfigurationDoesNotBlock(t *testing.T) {
	c := startCloud(t)
	o := downOptions(t, c)
	u := openUplink(t, o)
	u.Start(newBroker())
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	u.Close(t.Context())
	publish(t, c.client("office"), client.Publish{Topic: "site/a/cmd/valve", QoS: 1}, 40)
	o.Down = rule.Set{{From: "site/a/new/#", To: "new/#", QoS: 1}}
	b := newBroker()
	u = openUplink(t, o)
	u.Start(b)
	eventually(t, "subscribed", func() bool { return u.Status().Subscribed })
	publish(t, c.client("office2"), client.Publish{Topic: "site/a/new/x", QoS: 1}, 1)
	eventually(t, "the new one", func() bool { return b.count() == 1 })
	if s := u.Status(); s.DownUnmatched != 40 {
		t.Errorf("%d messages that no rule takes, want 40", s.DownUnmatched)
	}
	u.Close(context.Background())
}
