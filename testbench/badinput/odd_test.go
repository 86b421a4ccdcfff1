package badinput

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"dunlin/core/packet"
	"dunlin/testbench/client"
)

// odd is what a client may send, or what costs it an answer and not always its connection.
type odd struct {
	name    string
	version packet.Version
	connect func(*packet.Connect) // nil = a clean start, nothing special
	send    []byte                // behind the CONNACK, in one piece
	// want is what comes back until the answer to a PINGREQ behind it: types and their codes, "closed"
	// for the end of the connection.
	want string
}

// subscribe5 and the like are packets of MQTT 5.0 without properties, of one filter each.
func subscribe5(filter string) []byte   { return frame(0x82, "\x00\x01\x00"+str(filter)+"\x01") }
func subscribe311(filter string) []byte { return frame(0x82, "\x00\x01"+str(filter)+"\x01") }
func unsubscribe5(filter string) []byte { return frame(0xA2, "\x00\x01\x00"+str(filter)) }
func publish5(first byte, topic string, id byte) []byte {
	return frame(first, str(topic)+string([]byte{0, id})+"\x00hi")
}

func publish311(first byte, topic string, id byte) []byte {
	return frame(first, str(topic)+string([]byte{0, id})+"hi")
}

// slashes is the longest topic: 65,536 levels, all empty.
var slashes = strings.Repeat("/", 65535)

// badFilters are none [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-1].
var badFilters = []string{"a+", "+a", "a/b#", "#/a", "a/#/b", "##", "a/++/b", "a/+b", slashes, slashes[:65533] + "/#"}

// badShares name no share, or no filter behind it [MQTT-4.8.2-1, MQTT-4.8.2-2].
var badShares = []string{"$share/", "$share//a", "$share/g", "$share/g/", "$share/+/a", "$share/#", "$share/#/a", "$share/g+/a", "$share/g/a+", "$share/g/a#/b", "$share/g/" + slashes[:65526], "$share/a#/x", "$share", "$queue", "$queue/", "$queue/a+", "$queue/#/a"}

func odds() (all []odd) {
	const v5, v311 = packet.V5, packet.V311
	all = []odd{
		// Receive Maximum exceeded [MQTT-3.3.4-7]: it is 1 here, and what is retained, or not released,
		// is not acknowledged when the next one comes.
		{"receive maximum at QoS 1", v5, nil, slices.Concat(publish5(0x33, "a", 1), publish5(0x33, "a", 2)), "DISCONNECT 93, closed"},
		{"receive maximum at QoS 2", v5, nil, slices.Concat(publish5(0x34, "a", 1), publish5(0x34, "a", 2)), "PUBREC 10, DISCONNECT 93, closed"},
		{"receive maximum at QoS 2 and 1", v5, nil, slices.Concat(publish5(0x34, "a", 1), publish5(0x32, "a", 2)), "PUBREC 10, DISCONNECT 93, closed"},

		// A topic as long as can be, of nothing but slashes.
		{"slashes at QoS 0", v5, nil, frame(0x30, str(slashes)+"\x00hi"), ""},
		{"slashes at QoS 1", v5, nil, publish5(0x32, slashes, 1), "PUBACK 90"},
		{"slashes at QoS 2", v5, nil, publish5(0x34, slashes, 1), "PUBREC 90"},
		{"slashes at QoS 1, 3.1.1", v311, nil, publish311(0x32, slashes, 1), "PUBACK 00"}, // MQTT3 §3.3.5
		{"slashes to unsubscribe from", v5, nil, unsubscribe5(slashes), "UNSUBACK 11"},
		{"slashes for a will", v5, func(c *packet.Connect) { c.HasWill, c.Will.Topic = true, []byte(slashes[:60000]) }, nil, "CONNACK 90, closed"},

		// What belongs to the broker.
		{"publish to $SYS", v5, nil, publish5(0x32, "$SYS/broker/uptime", 1), "PUBACK 90"},
		{"publish to $SYS itself", v5, nil, publish5(0x34, "$SYS", 1), "PUBREC 90"},
		{"a will on $SYS", v5, func(c *packet.Connect) { c.HasWill, c.Will.Topic = true, []byte("$SYS/broker/version") }, nil, "CONNACK 90, closed"},
		{"a will on $SYS, 3.1.1", v311, func(c *packet.Connect) { c.HasWill, c.Will.Topic = true, []byte("$SYS/broker/version") }, nil, "CONNACK 87, closed"},

		// Topics that mean something of their own.
		{"no local with a share", v5, nil, frame(0x82, "\x00\x01\x00"+str("$share/g/a")+"\x05"), "DISCONNECT 82, closed"}, // [MQTT-3.8.3-4]
		{"no local with $queue", v5, nil, frame(0x82, "\x00\x01\x00"+str("$queue/a")+"\x05"), "DISCONNECT 82, closed"},
		{"$queue without a filter", v5, nil, subscribe5("$queue/"), "SUBACK 8F"},
		{"$queue with a filter that is none", v5, nil, subscribe5("$queue/a+"), "SUBACK 8F"},
		{"a share of a share", v5, nil, slices.Concat(subscribe5("$share/g/$share/g/a"), publish5(0x32, "a", 1)), "SUBACK 01, PUBACK 10"},
		{"publish to a share", v5, nil, slices.Concat(subscribe5("$share/g/a"), publish5(0x32, "$share/g/a", 1)), "SUBACK 01, PUBACK 10"},
		{"a delay that is no number", v5, nil, publish5(0x32, "$delayed/x/a", 1), "PUBACK 90"},
		{"a delay of nothing", v5, nil, publish5(0x32, "$delayed/1/", 1), "PUBACK 90"},
		{"a delay alone", v5, nil, publish5(0x34, "$delayed", 1), "PUBREC 90"},
		{"a negative delay", v5, nil, publish5(0x32, "$delayed/-1/a", 1), "PUBACK 90"},
		{"a delay of more than 32 bits", v5, nil, publish5(0x32, "$delayed/4294967296/a", 1), "PUBACK 90"},
		{"a delay of more than 64 bits", v5, nil, publish5(0x32, "$delayed/18446744073709551617/a", 1), "PUBACK 90"},
		{"a delay of digits without end", v5, nil, publish5(0x32, "$delayed/"+strings.Repeat("0", 60000)+"/a", 1), "PUBACK 90"},
		{"a delay of another script's digits", v5, nil, publish5(0x32, "$delayed/\u0661/a", 1), "PUBACK 90"},
		{"a delay of what belongs to the broker", v5, nil, publish5(0x32, "$delayed/1/$SYS/a", 1), "PUBACK 90"},
		{"a delay of a delay", v5, nil, publish5(0x32, "$delayed/1/$delayed/1/a", 1), "PUBACK 90"},
		{"a delay of slashes", v5, nil, publish5(0x32, "$delayed/1/"+slashes[:65000], 1), "PUBACK 90"},
		{"a delayed will of what belongs to the broker", v5, func(c *packet.Connect) { c.HasWill, c.Will.Topic = true, []byte("$delayed/1/$SYS/a") }, nil, "CONNACK 90, closed"},

		// Client identifiers.
		{"a client id of 257 bytes", v5, func(c *packet.Connect) { c.ClientID = bytes.Repeat([]byte("x"), 257) }, nil, "CONNACK 85, closed"},
		{"a client id of 60,000 bytes", v5, func(c *packet.Connect) { c.ClientID = bytes.Repeat([]byte("x"), 60000) }, nil, "CONNACK 85, closed"},
		{"the client id of an uplink", v5, func(c *packet.Connect) { c.ClientID = []byte("$uplink/cloud") }, nil, "CONNACK 85, closed"},
		{"no client id and a session that lasts", v5, func(c *packet.Connect) { c.ClientID, c.SessionExpiry = nil, 1 }, nil, ""}, // [MQTT-3.1.3-6]
		{"no client id and a session that lasts, 3.1.1", v311, func(c *packet.Connect) { c.ClientID, c.CleanStart = nil, false }, nil, "CONNACK 85, closed"},

		// Acknowledgements of nothing.
		{"PUBACK for nothing", v5, nil, frame(0x40, "\x00\x07"), ""},
		{"PUBREC for nothing", v5, nil, frame(0x50, "\x00\x07"), "PUBREL 92"},
		{"PUBREL for nothing", v5, nil, frame(0x62, "\x00\x07"), "PUBCOMP 92"},
		{"PUBREL for nothing, 3.1.1", v311, nil, frame(0x62, "\x00\x07"), "PUBCOMP 00"}, // MQTT3 §4.3.3 knows no other
		{"PUBCOMP for nothing", v5, nil, frame(0x70, "\x00\x07"), ""},

		// The end.
		{"more behind a DISCONNECT", v5, nil, slices.Concat(frame(0xE0, ""), publish5(0x32, "a", 1), []byte("\xFF\xFF\xFF")), "closed"}, // [MQTT-3.14.4-1]
		{"a session expiry at DISCONNECT where there was none", v5, nil, frame(0xE0, "\x00\x05\x11\x00\x00\x00\x09"), "DISCONNECT 82, closed"},
		{"a session expiry of 0 at DISCONNECT where there was none", v5, nil, frame(0xE0, "\x00\x05\x11\x00\x00\x00\x00"), "closed"},
		{"AUTH out of the blue", v5, nil, frame(0xF0, "\x18\x04\x15"+str("m")), "DISCONNECT 82, closed"},                              // [MQTT-4.12.0-6]
		{"an authentication method", v5, func(c *packet.Connect) { c.AuthMethod = []byte("SCRAM-SHA-1") }, nil, "CONNACK 8C, closed"}, // [MQTT-4.12.0-1]

		// Properties.
		{"Subscription Identifier of five bytes", v5, nil, frame(0x82, "\x00\x01\x06\x0B\xFF\xFF\xFF\xFF\x01"+str("a")+"\x01"), "DISCONNECT 81, closed"},
		{"a property length that is longer than it needs to be", v5, nil, frame(0x30, str("a")+"\x80\x00"+"hi"), "DISCONNECT 81, closed"}, // [MQTT-1.5.5-1]
		{"a Remaining Length that is longer than it needs to be", v5, nil, []byte{0xC0, 0x80, 0x00}, "DISCONNECT 81, closed"},
		{"a Remaining Length that is longer than it needs to be, 3.1.1", v311, nil, []byte{0x40, 0x82, 0x80, 0x00, 0x00, 0x07}, ""}, // MQTT3 §2.2.3 does not forbid it
		{"a user property without a name", v5, nil, frame(0x32, str("a")+"\x00\x01\x05\x26\x00\x00\x00\x00"+"hi"), "PUBACK 10"},
		{"a message that is expired when it comes", v5, nil, frame(0x32, str("a")+"\x00\x01\x05\x02\x00\x00\x00\x00"+"hi"), "PUBACK 10"},
		{"a response topic with +", v5, nil, frame(0x32, str("a")+"\x00\x01\x06\x08"+str("+/r")+"hi"), "DISCONNECT 82, closed"},
		{"an empty response topic", v5, nil, frame(0x32, str("a")+"\x00\x01\x03\x08"+str("")+"hi"), "DISCONNECT 82, closed"},
		{"an alias that is set and used, and one that is not", v5, nil, slices.Concat(
			frame(0x30, str("a")+"\x03\x23\x00\x01"+"hi"), frame(0x30, str("")+"\x03\x23\x00\x01"+"hi"), frame(0x30, str("")+"\x03\x23\x00\x02"+"hi")), "DISCONNECT 82, closed"},
	}
	for _, f := range badFilters {
		what := f[:min(len(f), 12)]
		all = append(all,
			odd{"SUBSCRIBE to " + what, v5, nil, subscribe5(f), "SUBACK 8F"},
			odd{"SUBSCRIBE to " + what + ", 3.1.1", v311, nil, subscribe311(f), "SUBACK 80"},
			odd{"SUBSCRIBE to " + what + " among others", v5, nil, frame(0x82, "\x00\x01\x00"+str("ok")+"\x01"+str(f)+"\x01"+str("fine")+"\x00"), "SUBACK 01 8F 00"},
			odd{"UNSUBSCRIBE from " + what, v5, nil, unsubscribe5(f), "UNSUBACK ??"})
	}
	for _, f := range badShares {
		all = append(all,
			odd{"SUBSCRIBE to " + f[:min(len(f), 16)], v5, nil, subscribe5(f), "SUBACK 8F"},
			odd{"SUBSCRIBE to " + f[:min(len(f), 16)] + ", 3.1.1", v311, nil, subscribe311(f), "SUBACK 80"})
	}
	return all
}

// TestWhatIsOddIsAnswered has the rows in which the Standard, or the broker, leaves a client its
// connection, and those which take more than one packet.
func TestWhatIsOddIsAnswered(t *testing.T) {
	broker := start(t, "limits.receive_maximum=1")
	canary := newCanary(t, broker.Spec.Address)
	for _, o := range odds() {
		t.Run(o.name, func(t *testing.T) {
			got := o.answers(t, broker.Spec.Address)
			if !similar(o.want, got) {
				t.Errorf("got %q, want %q", got, o.want)
			}
			canary.sing(t)
		})
	}
	select {
	case <-broker.Exited():
		t.Fatalf("the broker has ended:\n%s", broker.Tail(4000))
	default:
	}
}

// similar compares transcripts; "??" is any code from 0x80 on, or 0x11.
func similar(want, got string) bool {
	head, tail, any := strings.Cut(want, "??")
	if !any {
		return want == got
	}
	code := strings.TrimSuffix(strings.TrimPrefix(got, head), tail)
	return len(code) == 2 && got == head+code+tail && (code >= "80" || code == "11")
}

// answers sends it and returns the transcript of what comes back.
func (o *odd) answers(t *testing.T, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	raw, err := client.Dial(ctx, "tcp", address, o.version)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := packet.Connect{Version: o.version, ClientID: []byte("odd"), CleanStart: true, RequestProblem: true}
	if o.connect != nil {
		o.connect(&c)
	}
	if _, err := raw.Write(packet.AppendConnect(nil, &c)); err != nil {
		t.Fatal(err)
	}
	var said []string
	h, body, err := raw.Packet(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a, err := packet.ParseConnack(body, o.version)
	if h.Type != packet.CONNACK || err != nil {
		t.Fatalf("got %v, %v; want CONNACK", h.Type, err)
	}
	if a.Code != packet.Success {
		said = append(said, fmt.Sprintf("CONNACK %02X", byte(a.Code)))
	} else if _, err := raw.Write(append(o.send, packet.AppendPingreq(nil)...)); err != nil {
		t.Fatal(err)
	}
	for {
		h, body, err := raw.Packet(ctx)
		switch {
		case ctx.Err() != nil:
			t.Fatalf("nothing comes behind %q: %v", said, err)
		case err != nil:
			return strings.Join(append(said, "closed"), ", ")
		case h.Type == packet.PINGRESP:
			return strings.Join(said, ", ")
		}
		said = append(said, transcribe(t, h, body, o.version))
	}
}

// transcribe puts a packet of the broker into its type and its codes.
func transcribe(t *testing.T, h packet.Header, body []byte, v packet.Version) string {
	t.Helper()
	var codes []packet.ReasonCode
	var err error
	switch h.Type {
	case packet.SUBACK, packet.UNSUBACK:
		parse := packet.ParseSuback
		if h.Type == packet.UNSUBACK {
			parse = packet.ParseUnsuback
		}
		var a packet.Suback
		a, err = parse(body, v)
		codes = a.Codes
	case packet.DISCONNECT:
		var d packet.Disconnect
		d, err = packet.ParseDisconnect(body, v)
		codes = append(codes, d.Code)
	default:
		var a packet.Ack
		a, err = packet.ParseAck(h.Type, body, v)
		codes = append(codes, a.Code)
	}
	if err != nil {
		t.Fatalf("%v: %v", h.Type, err)
	}
	var s strings.Builder
	s.WriteString(h.Type.String())
	for _, c := range codes {
		fmt.Fprintf(&s, " %02X", byte(c))
	}
	return s.String()
}
