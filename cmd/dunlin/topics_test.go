package main

import (
	"fmt"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
	"dunlin/testbench/process"
)

func TestTopicsAreRewrittenAsConfigured(t *testing.T) {
	at := startBroker(t, "rewrite.0.from=old/+/#", "rewrite.0.to=new/$1/#",
		"rewrite.1.from=cmd", "rewrite.1.to=new/1/cmd", "rewrite.1.for=subscribe")
	for _, v := range versions {
		pub := args("pub", at, "-V", v, "-r", "-q", "1")
		dunlin(t, "", append(pub, "-t", "old/1/cmd", "-m", "x")...).check(t, 0, "", "")
		dunlin(t, "", append(pub, "-t", "cmd", "-m", "elsewhere")...).check(t, 0, "", "")
		for _, filter := range []string{"old/1/#", "new/+/cmd", "cmd"} {
			dunlin(t, "", args("sub", at, "-V", v, "-v", "-t", filter, "-C", "1")...).check(t, 0, "new/1/cmd x\n", "")
		}
	}
}

// join connects a client of the tests; it leaves at the end of the test.
func join(t *testing.T, broker *process.Process, o client.Options) *client.Client {
	t.Helper()
	o.Address = broker.Spec.Address
	c := client.New(o)
	t.Cleanup(c.Close)
	if _, err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// hear takes the next message that a client gets.
func hear(t *testing.T, c *client.Client, topic, payload string) client.Message {
	t.Helper()
	m, err := c.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Topic != topic || string(m.Payload) != payload {
		t.Errorf("got %q on %q, want %q on %q", m.Payload, m.Topic, payload, topic)
	}
	return m
}

func TestClientsAreSubscribedAsConfigured(t *testing.T) {
	broker := startGateway(t, "auto_subscribe.0.topic=commands/%c/#", "auto_subscribe.1.topic=all", "auto_subscribe.1.qos=0",
		"auto_subscribe.1.retain_handling=2")
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		pub := join(t, broker, client.Options{Version: v, ClientID: "pub", CleanStart: true})
		for _, topic := range []string{"all", "commands/dev/1"} {
			if err := pub.Publish(t.Context(), client.Publish{Topic: topic, Payload: []byte("kept"), QoS: 1, Retain: true}); err != nil {
				t.Fatal(err)
			}
		}
		if err := pub.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		dev := join(t, broker, client.Options{Version: v, ClientID: "dev", CleanStart: true})
		if m := hear(t, dev, "commands/dev/1", "kept"); m.QoS != 1 || !m.Retain {
			t.Errorf("got %+v", m)
		}
		if err := pub.Publish(t.Context(), client.Publish{Topic: "all", Payload: []byte("new"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if m := hear(t, dev, "all", "new"); m.QoS != 0 {
			t.Errorf("got %+v", m)
		}
	}
}

// The broker is killed while messages wait, and again when they have just become due: at QoS 2 none is
// lost and none comes twice.
func TestDelayedMessagesComeOnceOverKills(t *testing.T) {
	const n = 20
	broker := startGateway(t)
	ctx := t.Context()
	sub := join(t, broker, client.Options{ClientID: "sub", SessionExpiry: 3600})
	if _, err := sub.Subscribe(ctx, client.Filter{Filter: "a/#", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	if err := sub.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	pub := join(t, broker, client.Options{ClientID: "pub", SessionExpiry: 3600})
	again := func() {
		t.Helper()
		if err := broker.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := broker.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		p := client.Publish{Topic: fmt.Sprintf("$delayed/%d/a/%d", 1+i%3, i), Payload: []byte("x"), QoS: 2}
		if err := pub.Publish(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	again()
	// What is under way while it is killed is sent again by its client, and taken once.
	if _, err := pub.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		p := client.Publish{Topic: fmt.Sprintf("$delayed/1/a/%d", n+i), Payload: []byte("x"), QoS: 2}
		if err := pub.Publish(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	again()
	if _, err := pub.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := pub.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for range n {
		m, err := sub.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got[m.Topic]++
	}
	again() // some are due, some under way
	if _, err := sub.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	for range n {
		m, err := sub.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got[m.Topic]++
	}
	// This one is due after everything that a start could bring back.
	if _, err := pub.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(ctx, client.Publish{Topic: "$delayed/4/a/end", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.Receive(ctx); err != nil || m.Topic != "a/end" {
		t.Errorf("got %+v, %v, want the end", m, err)
	}
	for i := range 2 * n {
		if topic := fmt.Sprint("a/", i); got[topic] != 1 {
			t.Errorf("%s came %d times", topic, got[topic])
		}
	}
}

func TestDelayedMessagesAreBoundedAsConfigured(t *testing.T) {
	at := startBroker(t, "delayed.max_messages=1", "delayed.max_delay=1h")
	pub := args("pub", at, "-m", "x", "-q", "1")
	dunlin(t, "", append(pub, "-t", "$delayed/3600/a")...).check(t, 0, "", "")
	const why = `Quota exceeded (0x97): "the message could not be stored, an uplink takes nothing more for now, or too much is delayed or for too long"`
	dunlin(t, "", append(pub, "-t", "$delayed/5/a")...).check(t, 1, "", "dunlin pub: the broker refused the message to $delayed/5/a: "+why+"\n")
	dunlin(t, "", append(pub, "-t", "$delayed/3601/a")...).check(t, 1, "", "dunlin pub: the broker refused the message to $delayed/3601/a: "+why+"\n")
	off := args("pub", startBroker(t, "delayed.max_messages=0"), "-m", "x", "-q", "1", "-t", "$delayed/1/a")
	dunlin(t, "", off...).check(t, 1, "", "dunlin pub: the broker refused the message to $delayed/1/a: Topic Name invalid (0x90): …\n")
}
