package packet

import (
	"strings"
	"testing"
)

// longReason makes a packet whose length takes more than the one byte that is left for it.
const longReason = 300

func TestParseDoesNotAllocate(t *testing.T) {
	block := "\x02\x00\x00\x00\x05\x01\x01\x08" + str("r/1") + "\x23\x00\x01" + user("größe", "x") + "\x09" + str("c")
	connect := []byte(connectHead("MQTT", V5, 0xF6) + sized("\x11\x00\x00\x0E\x10"+user("a", "b")+"\x15"+str("S")+"\x16"+str("\x01")) +
		str("id") + sized("\x01\x01\x18\x00\x00\x00\x05\x03"+str("t")) + str("t") + str("p") + str("u") + str("s"))
	connect3 := []byte(connectHead("MQTT", V311, 0xEE) + str("id") + str("t") + str("p") + str("u") + str("s"))
	publish, publish3 := []byte(str("a/b")+"\x00\x01"+sized(block)+"hi"), []byte(str("a/b")+"hi")
	ack := []byte("\x00\x01\x97" + sized("\x1F"+str("full")+user("a", "b")))
	subscribe := []byte("\x00\x01" + sized("\x0B\x01"+user("a", "b")) + str("a/#") + "\x01" + str("größe") + "\x2A")
	unsubscribe := []byte("\x00\x01\x00" + str("a/#") + str("b"))
	disconnect := []byte("\x04" + sized("\x11\x00\x00\x00\x3C\x1F"+str("why")))
	auth := []byte("\x18" + sized("\x15"+str("S")+"\x16"+str("\x01")))
	travelling := []byte("\x01\x01\x08" + str("r/1") + user("größe", "x"))

	var scratch [256]byte
	n := 0
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"header", func() error { _, _, err := ParseHeader(append(scratch[:0], 0x30, 0x80, 0x01)); return err }},
		{"connect", func() error {
			c, err := ParseConnect(connect)
			n += len(c.Will.AppendTravelling(scratch[:0]))
			return err
		}},
		{"connect of 3.1.1", func() error { _, err := ParseConnect(connect3); return err }},
		{"publish", func() error {
			p, err := ParsePublish(publish, 0x02, V5)
			n += len(p.AppendTravelling(scratch[:0]))
			return err
		}},
		{"publish of 3.1.1", func() error { _, err := ParsePublish(publish3, 0x01, V311); return err }},
		{"publish in place", func() error { var p Publish; return p.Parse(publish, 0x02, V5) }},
		{"travelling", func() error { _, err := ParseTravelling(travelling); return err }},
		{"acknowledgements", func() error { AckRun(AppendAckRun(scratch[:0], PUBREC, 7, 9)); return nil }},
		{"acknowledgement", func() error { _, err := ParseAck(PUBACK, ack, V5); return err }},
		{"subscribe", func() error {
			s, err := ParseSubscribe(subscribe, V5)
			for filter, options := range s.Filters() {
				n += len(filter) + int(options.QoS)
			}
			return err
		}},
		{"unsubscribe", func() error {
			u, err := ParseUnsubscribe(unsubscribe, V5)
			for filter := range u.Filters() {
				n += len(filter)
			}
			return err
		}},
		{"disconnect", func() error { _, err := ParseDisconnect(disconnect, V5); return err }},
		{"auth", func() error { _, err := ParseAuth(auth); return err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			allocs := testing.AllocsPerRun(100, func() {
				if err := tt.do(); err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%v allocations, want 0", allocs)
			}
		})
	}
}

func TestRefusalDoesNotAllocate(t *testing.T) {
	header, connect, subscribe := []byte{0x36, 0}, []byte(str("HTTP")), []byte("\x00\x01")
	wildcard, notUTF8 := []byte(str("a/#")), []byte(str("a/\xFF"))
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"header", func() error { _, _, err := ParseHeader(header); return err }},
		{"connect", func() error { _, err := ParseConnect(connect); return err }},
		{"publish with a wildcard", func() error { _, err := ParsePublish(wildcard, 0, V311); return err }},
		{"publish that is not UTF-8", func() error { _, err := ParsePublish(notUTF8, 0, V311); return err }},
		{"subscribe", func() error { _, err := ParseSubscribe(subscribe, V311); return err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			allocs := testing.AllocsPerRun(100, func() {
				if tt.do() == nil {
					t.Fatal("was taken")
				}
			})
			if allocs != 0 {
				t.Errorf("%v allocations, want 0", allocs)
			}
		})
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	users := []byte(user("a", "b"))
	reason := []byte(strings.Repeat("x", longReason))
	connect := Connect{Version: V5, ClientID: []byte("id"), HasWill: true, Will: Will{Topic: []byte("t"), Payload: reason, Properties: users}, UserProperties: users, AuthData: reason}
	connack := Connack{AssignedClientID: []byte("auto"), Reason: reason, UserProperties: users}
	publish := Publish{Topic: []byte("a/b"), Payload: reason, QoS: 1, ID: 7, Properties: users, HasExpiry: true, TopicAlias: 1, SubscriptionIDs: []uint32{1, 200}}
	scattered, err := ParsePublish([]byte(str("a")+sized(user("a", "b")+"\x23\x00\x01"+user("c", "d"))), 0, V5)
	if err != nil {
		t.Fatal(err)
	}
	ack := Ack{Type: PUBACK, ID: 7, Code: QuotaExceeded, Reason: reason, UserProperties: users}
	suback := Suback{ID: 7, Codes: []ReasonCode{0, 0x80}, Reason: reason}
	subscriptions, filters := []Subscription{{Filter: "a/#"}}, []string{"a/#", "b"}
	disconnect := Disconnect{Code: ServerBusy, Reason: reason, UserProperties: users}
	auth := Auth{Code: ContinueAuthentication, Method: []byte("S"), Data: reason}

	dst := make([]byte, 0, 2048)
	for _, tt := range []struct {
		name string
		do   func(v Version)
	}{
		{"connect", func(Version) { AppendConnect(dst, &connect) }},
		{"connack", func(v Version) { AppendConnack(dst, &connack, v) }},
		{"publish", func(v Version) { AppendPublish(dst, &publish, v) }},
		{"scattered publish", func(v Version) { AppendPublish(dst, &scattered, v) }},
		{"size of a publish", func(v Version) { PublishSize(&scattered, v) }},
		{"acknowledgement", func(v Version) { AppendAck(dst, &ack, v) }},
		{"subscribe", func(v Version) { AppendSubscribe(dst, 7, 200, subscriptions, v) }},
		{"suback", func(v Version) { AppendSuback(dst, &suback, v) }},
		{"unsubscribe", func(v Version) { AppendUnsubscribe(dst, 7, filters, v) }},
		{"unsuback", func(v Version) { AppendUnsuback(dst, &suback, v) }},
		{"pings", func(Version) { AppendPingresp(AppendPingreq(dst)) }},
		{"disconnect", func(v Version) { AppendDisconnect(dst, &disconnect, v) }},
		{"auth", func(Version) { AppendAuth(dst, &auth) }},
		{"user property", func(Version) { AppendUserProperty(dst, "name", "value") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, versions, func(t *testing.T, v Version) {
				if allocs := testing.AllocsPerRun(100, func() { tt.do(v) }); allocs != 0 {
					t.Errorf("%v allocations, want 0", allocs)
				}
			})
		})
	}
}
