package main

import (
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
