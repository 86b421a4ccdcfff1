package main

import (
	"net"
	"strings"
	"testing"
)

func TestClientsAreSentOnByConfiguration(t *testing.T) { // MQTT5 §4.11
	away, leaving := mustFree(t), mustFree(t)
	broker := startGateway(t,
		"listeners.1.address="+away, "listeners.1.redirect.to=b.example:1884 c.example", "listeners.1.redirect.permanent=true",
		"listeners.2.address="+leaving, "listeners.2.redirect.to=b.example", "listeners.2.redirect.at_stop=true")
	reachable(t, away)
	reachable(t, leaving)
	at := func(address string, args ...string) []string {
		host, port, _ := net.SplitHostPort(address)
		return append(args, "-h", host, "-p", port, "-t", "a")
	}
	dunlin(t, "", at(away, "pub", "-n", "-q", "1")...).check(t, 1, "",
		"dunlin pub: the broker refused the connection: Server moved (0x9D): \"clients are sent on from here\"; it names \"b.example:1884 c.example\"\n")
	dunlin(t, "", at(away, "pub", "-n", "-q", "1", "-V", "311")...).check(t, 1, "",
		"dunlin pub: the broker refused the connection: Server unavailable (0x88)\n")
	dunlin(t, "", at(leaving, "pub", "-m", "there", "-r", "-q", "1")...).check(t, 0, "", "")
	sub := startDunlin(t, at(leaving, "sub")...)
	wantLine(t, sub.out, "there")
	if err := broker.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	_, said := sub.wait(t, 1)
	if want := `Use another server (0x9C): "the broker stops"; it names "b.example"`; !strings.Contains(said, want) {
		t.Errorf("the subscriber is told %q, want %q", said, want)
	}
}
