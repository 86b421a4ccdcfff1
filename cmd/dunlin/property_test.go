package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

// startMosquitto runs mosquitto and returns the options that lead to it.
func startMosquitto(t *testing.T, more ...string) []string {
	t.Helper()
	p, err := process.Mosquitto(t.Context(), t.TempDir(), more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	host, port, err := net.SplitHostPort(p.Spec.Address)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-h", host, "-p", port, "-W", "30"}
}

// eachBroker runs a test against our broker and against mosquitto.
func eachBroker(t *testing.T, test func(t *testing.T, at []string)) {
	t.Run("dunlin", func(t *testing.T) { test(t, startBroker(t)) })
	t.Run("mosquitto", func(t *testing.T) { test(t, startMosquitto(t)) })
}

func TestPropertiesGoThrough(t *testing.T) {
	eachBroker(t, func(t *testing.T, at []string) {
		dunlin(t, "", args("pub", at, "-t", "a/b", "-m", "21.5", "-q", "1", "-r", "--expiry", "600", "--content-type", "text/plain",
			"--response-topic", "reply/here", "--correlation", "c1", "--property", "k=v", "--property", "k=w=x", "--property", "j=",
			"--payload-format", "utf-8")...).check(t, 0, "", "")
		dunlin(t, "", args("sub", at, "-t", "a/+", "--subscription-id", "7", "-q", "1", "-C", "1", "-F",
			"%t %p %q %r %C %R %D %F %S %P")...).check(t, 0, "a/b 21.5 1 1 text/plain reply/here c1 1 7 k:v k:w=x j:\n", "")
		got := dunlin(t, "", args("sub", at, "-t", "a/+", "-C", "1", "-F", "%E")...)
		if left, err := strconv.Atoi(strings.TrimSpace(got.out)); err != nil || left < 1 || left > 600 {
			t.Errorf("remaining expiry %q", got.out)
		}
	})
}

func TestMessagesGoThroughMosquitto(t *testing.T) {
	at := startMosquitto(t)
	for _, v := range versions {
		for qos := range 3 {
			name := fmt.Sprintf("t/%s/%d", v, qos)
			session := args("sub", at, "-V", v, "-i", "s"+name, "-c", "-q", "2", "-t", name)
			dunlin(t, "", append(session, "-E")...).check(t, 0, "", "")
			dunlin(t, "", args("pub", at, "-V", v, "-t", name, "-q", "2", "-m", "x", "--repeat", "3", "--interval", "1ms")...).check(t, 0, "", "")
			dunlin(t, "", append(session, "-C", "3", "-v")...).check(t, 0, strings.Repeat(name+" x\n", 3), "")
		}
	}
}

func TestSubscriptionEndsWhenItIsUnsubscribed(t *testing.T) {
	eachBroker(t, func(t *testing.T, at []string) {
		for _, v := range versions {
			session := args("sub", at, "-V", v, "-i", "leaver"+v, "-c", "-q", "1")
			pub := args("pub", at, "-V", v, "-q", "1")
			dunlin(t, "", append(session, "-t", "one", "-t", "two", "-E")...).check(t, 0, "", "")
			dunlin(t, "", append(session, "-U", "one", "-E")...).check(t, 0, "", "")
			dunlin(t, "", append(pub, "-t", "one", "-m", "1")...).check(t, 0, "", "")
			dunlin(t, "", append(pub, "-t", "two", "-m", "2")...).check(t, 0, "", "")
			dunlin(t, "", append(session, "-t", "two", "-C", "1")...).check(t, 0, "2\n", "")
		}
	})
}

func TestSubLeavesOutWhatIsNotWanted(t *testing.T) {
	eachBroker(t, func(t *testing.T, at []string) {
		for _, v := range versions {
			pub := args("pub", at, "-V", v, "-q", "1", "-r", "-m", "x")
			for _, name := range []string{"/a", "/a/b", "/c"} {
				dunlin(t, "", append(pub, "-t", v+name)...).check(t, 0, "", "")
			}
			sub := args("sub", at, "-V", v, "-v", "-q", "1")
			dunlin(t, "", append(sub, "-t", v+"/#", "-T", v+"/a/#", "-C", "1")...).check(t, 0, v+"/c x\n", "")

			// With -R only what is published afterwards comes. Who keeps a session is subscribed
			// for sure when -E has exited.
			session := append(sub, "-i", "fresh"+v, "-c", "-t", v+"/+", "-R")
			dunlin(t, "", append(session, "-E")...).check(t, 0, "", "")
			dunlin(t, "", append(pub, "-t", v+"/d")...).check(t, 0, "", "")
			dunlin(t, "", append(session, "-C", "1")...).check(t, 0, v+"/d x\n", "")
		}
	})
}

// [MQTT-3.8.3-3], [MQTT-3.3.1-12], [MQTT-3.3.1-13], as a client asks for it.
func TestSubscriptionOptionsReachTheBroker(t *testing.T) {
	eachBroker(t, func(t *testing.T, at []string) {
		dunlin(t, "", args("pub", at, "-t", "kept", "-m", "k", "-r", "-q", "1")...).check(t, 0, "", "")
		session := args("sub", at, "-i", "me", "-c", "-q", "1", "-t", "a", "-t", "kept",
			"--no-local", "--retain-as-published", "--retain-handling", "2", "-F", "%p %r")
		dunlin(t, "", append(session, "-E")...).check(t, 0, "", "")
		dunlin(t, "", args("pub", at, "-i", "me", "-c", "-t", "a", "-m", "mine", "-q", "1")...).check(t, 0, "", "")
		dunlin(t, "", args("pub", at, "-t", "a", "-m", "theirs", "-r", "-q", "1")...).check(t, 0, "", "")
		dunlin(t, "", append(session, "-C", "1")...).check(t, 0, "theirs 1\n", "")
	})
}

func TestTopicAliasSavesTheTopic(t *testing.T) {
	at := startMosquitto(t)
	session := args("sub", at, "-i", "s", "-c", "-q", "1", "-t", "long/topic", "-v")
	dunlin(t, "", append(session, "-E")...).check(t, 0, "", "")
	dunlin(t, "one\ntwo\n", args("pub", at, "-t", "long/topic", "-l", "-q", "1", "--topic-alias", "2")...).check(t, 0, "", "")
	dunlin(t, "", append(session, "-C", "2", "--topic-alias-max", "5")...).check(t, 0, "long/topic one\nlong/topic two\n", "")
	dunlin(t, "", args("pub", at, "-t", "a", "-m", "x", "--topic-alias", "60000")...).check(t, 1, "",
		"dunlin pub: the broker takes no topic alias above 10\n")
}

func TestConnectOptionsReachTheBroker(t *testing.T) {
	connects := make(chan packet.Connect, 1)
	address := fakeBroker(t, "tcp", "127.0.0.1:0", func(h packet.Header, body []byte) []byte {
		if h.Type != packet.CONNECT {
			return nil
		}
		c, err := packet.ParseConnect(body)
		if err != nil {
			t.Errorf("CONNECT: %v", err)
		}
		connects <- c
		return packet.AppendConnack(nil, &packet.Connack{}, c.Version)
	})
	dunlin(t, "", "pub", "-L", "mqtt://ann:s%40@"+address+"/a/b", "-m", "x", "-i", "me", "-x", "90", "--receive-maximum", "5",
		"--max-packet", "1000", "--connect-property", "a=b", "--will-topic", "w", "--will-payload", "gone", "--will-delay", "4",
		"--will-expiry", "9", "--will-content-type", "text/plain", "--will-response-topic", "r", "--will-correlation", "c",
		"--will-property", "k=v", "--will-payload-format", "1").check(t, 0, "", "")
	c := <-connects
	if string(c.Username) != "ann" || string(c.Password) != "s@" || !c.CleanStart || c.SessionExpiry != 90 ||
		c.ReceiveMaximum != 5 || c.MaximumPacketSize != 1000 || !strings.Contains(string(c.UserProperties), "\x01a\x00\x01b") {
		t.Errorf("CONNECT %+v", c)
	}
	properties, err := packet.ParseTravelling(c.Will.AppendTravelling(nil))
	if err != nil || c.Will.Delay != 4 || !c.Will.HasExpiry || c.Will.Expiry != 9 || string(properties.ContentType) != "text/plain" ||
		string(properties.ResponseTopic) != "r" || string(properties.CorrelationData) != "c" || properties.PayloadFormat != 1 ||
		!strings.Contains(string(properties.UserProperties), "\x01k\x00\x01v") {
		t.Errorf("will %+v with %+v, %v", c.Will, properties, err)
	}
}

func TestLineThatIsNoTextIsRefused(t *testing.T) {
	at := startBroker(t)
	dunlin(t, "good\n\xff\n", args("pub", at, "-t", "a", "-l", "--payload-format", "1", "-q", "1")...).check(t, 1, "",
		"dunlin pub: the message to a is no UTF-8, which its payload format says it is\n")
}

func TestJSONIsOneObjectPerLine(t *testing.T) {
	at := startBroker(t)
	dunlin(t, "\xff\x00", args("pub", at, "-t", "a", "-s", "-r", "-q", "1")...).check(t, 0, "", "")
	sub, out := startSub(t, args("sub", at, "-t", "a", "--json", "-C", "2")...)
	line, err := out.ReadString('\n')
	if err != nil || !matches(`{"time":"…","topic":"a","qos":0,"retain":true,"payload":"/wA=","base64":true}`+"\n", line) {
		t.Errorf("sub printed %q, %v", line, err)
	}
	dunlin(t, "", args("pub", at, "-t", "a", "-m", "two\nlines")...).check(t, 0, "", "")
	rest, err := io.ReadAll(out)
	if err != nil || !matches(`{…"payload":"two\nlines"}`+"\n", string(rest)) {
		t.Errorf("sub printed %q, %v", rest, err)
	}
	if err := sub.Wait(); err != nil {
		t.Errorf("sub: %v", err)
	}
}

func TestRequestsHaveTheirUserProperties(t *testing.T) { // §3.1.2.11.8, §3.8.2.1.3, §3.10.2.1.2, §3.14.2.2.4
	pair := func(name, value string) []byte { return packet.AppendUserProperty(nil, name, value) }
	got := make(chan string, 10)
	fake := fakeBroker(t, "tcp", "127.0.0.1:0", func(h packet.Header, body []byte) []byte {
		for name, encoded := range map[string][]byte{
			"connect": append(pair("c", "1"), pair("c", "2")...), "subscribe": pair("s", "1"),
			"unsubscribe": pair("u", "1"), "disconnect": pair("d", ""),
		} {
			if bytes.Contains(body, encoded) {
				got <- fmt.Sprint(h.Type, " ", name)
			}
		}
		switch h.Type {
		case packet.CONNECT:
			c, err := packet.ParseConnect(body)
			if err != nil || !c.RequestResponse || c.RequestProblem {
				t.Errorf("CONNECT asks for responses %v, for problems %v, %v", c.RequestResponse, c.RequestProblem, err)
			}
			return packet.AppendConnack(nil, &packet.Connack{ResponseInformation: []byte("replies/x")}, packet.V5)
		case packet.UNSUBSCRIBE:
			return packet.AppendUnsuback(nil, &packet.Suback{ID: 1, Codes: make([]packet.ReasonCode, 1)}, packet.V5)
		case packet.SUBSCRIBE:
			return packet.AppendSuback(nil, &packet.Suback{ID: 2, Codes: make([]packet.ReasonCode, 1)}, packet.V5)
		}
		return nil
	})
	host, port, _ := net.SplitHostPort(fake)
	dunlin(t, "", "sub", "-h", host, "-p", port, "-t", "a", "-U", "b", "-E", "--request-response", "--no-reasons",
		"--connect-property", "c=1", "--connect-property", "c=2", "--subscribe-property", "s=1",
		"--unsubscribe-property", "u=1", "--disconnect-property", "d=").check(t, 0, "",
		"dunlin sub: the broker keeps \"replies/x\" for responses to us\n")
	for _, want := range []string{"CONNECT connect", "UNSUBSCRIBE unsubscribe", "SUBSCRIBE subscribe", "DISCONNECT disconnect"} {
		select {
		case g := <-got:
			if g != want {
				t.Errorf("got %s, want %s", g, want)
			}
		case <-time.After(hang):
			t.Fatalf("%s does not come", want)
		}
	}
}

func TestBrokersTakeTheUserPropertiesOfRequests(t *testing.T) {
	eachBroker(t, func(t *testing.T, at []string) {
		dunlin(t, "", args("sub", at, "-t", "a", "-U", "b", "-E", "--request-response", "--connect-property", "c=1",
			"--subscribe-property", "s=1", "--unsubscribe-property", "u=1", "--disconnect-property", "d=1")...).check(t, 0, "",
			"dunlin sub: the broker keeps no topics for responses to us\n")
	})
	at := startBroker(t, "sessions.response_information=replies")
	dunlin(t, "", args("sub", at, "-i", "me", "-t", "a", "-E", "--request-response")...).check(t, 0, "",
		"dunlin sub: the broker keeps \"replies/me\" for responses to us\n")
}

func TestClientOfMQTT31HasAnIdentifier(t *testing.T) { // MQTT 3.1 §3.1: 1 to 23 characters
	ids := make(chan string, 1)
	fake := fakeBroker(t, "tcp", "127.0.0.1:0", func(h packet.Header, body []byte) []byte {
		if h.Type != packet.CONNECT {
			return nil
		}
		c, err := packet.ParseConnect(body)
		if err != nil || c.Version != packet.V31 {
			t.Errorf("version %d, %v", c.Version, err)
		}
		ids <- string(c.ClientID)
		return []byte{0x20, 2, 0, 0}
	})
	host, port, _ := net.SplitHostPort(fake)
	for _, v := range []string{"31", "mqttv31"} {
		dunlin(t, "", "pub", "-h", host, "-p", port, "-V", v, "-t", "a", "-n").check(t, 0, "", "")
		if id := <-ids; len(id) < 1 || len(id) > 23 {
			t.Errorf("the identifier is %q", id)
		}
	}
}
