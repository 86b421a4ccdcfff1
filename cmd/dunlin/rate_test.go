package main

import (
	"context"
	"strconv"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

func TestConnectsAboveTheConfiguredRateAreRefused(t *testing.T) { // 0x9F, MQTT5 §3.2.2.2
	const n = 100
	address := mustFree(t)
	startGateway(t, "listeners.1.address="+address, "listeners.1.max_connect_rate=1")
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	reachable(t, address)
	// All CONNECT packets are on their way before any answer is read.
	var all []*client.Raw
	for i := range n {
		c, err := client.Dial(ctx, "tcp", address, packet.V5)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(packet.AppendConnect(nil, &packet.Connect{Version: packet.V5, ClientID: []byte(strconv.Itoa(i)), CleanStart: true})); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	codes := map[packet.ReasonCode]int{}
	for _, c := range all {
		h, body, err := c.Packet(ctx)
		if err != nil || h.Type != packet.CONNACK {
			t.Fatalf("got %v, %v, want CONNACK", h.Type, err)
		}
		a, err := packet.ParseConnack(body, packet.V5)
		if err != nil {
			t.Fatal(err)
		}
		codes[a.Code]++
	}
	if in, out := codes[packet.Success], codes[packet.ConnectionRateExceeded]; in == 0 || out == 0 || in+out != n {
		t.Errorf("got %v, want some let in and the others told 0x9F", codes)
	}
}

func TestMessagesAboveTheConfiguredRateEndTheConnection(t *testing.T) { // 0x96, MQTT5 §3.14.2.1
	broker := startGateway(t, "limits.max_message_rate=1", "limits.receive_maximum=1")
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		c, err := client.Dial(ctx, "tcp", broker.Spec.Address, v)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := packet.AppendConnect(nil, &packet.Connect{Version: v, ClientID: []byte("c"), CleanStart: true, RequestProblem: true})
		for range 100 {
			b, _ = packet.AppendPublish(b, &packet.Publish{Topic: []byte("a"), Payload: []byte("x")}, v)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		code, said, err := c.Closed(ctx)
		if err != nil || said != (v == packet.V5) || said && code != packet.MessageRateTooHigh {
			t.Errorf("version %d is told %v (%v), %v; want 0x96 in 5.0", v, code, said, err)
		}
	}
}
