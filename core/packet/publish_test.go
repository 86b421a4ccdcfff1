package packet

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestPublishIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name     string
		v        Version
		first    byte
		body     string
		want     Publish
		idOffset int
	}{
		{
			"qos 0", V311, 0x30, str("a/b") + "hi",
			Publish{Topic: []byte("a/b"), Payload: []byte("hi")},
			0,
		},
		{
			"MQTT 3.1 at qos 1", V31, 0x32, str("a/b") + "\x12\x34hi",
			Publish{Topic: []byte("a/b"), Payload: []byte("hi"), ID: 0x1234, QoS: 1},
			7,
		},
		{
			"qos 2 with all flags and no payload", V311, 0x3D, str("a/b") + "\xFF\xFF",
			Publish{Topic: []byte("a/b"), Payload: []byte{}, ID: 0xFFFF, QoS: 2, Retain: true, Dup: true},
			7,
		},
		{
			"5.0 without properties", V5, 0x32, str("a/b") + "\x00\x01\x00hi",
			Publish{Topic: []byte("a/b"), Payload: []byte("hi"), ID: 1, QoS: 1, Raw: []byte{}},
			7,
		},
		{
			"5.0 without properties and payload", V5, 0x30, str("a/b") + "\x00",
			Publish{Topic: []byte("a/b"), Payload: []byte{}, Raw: []byte{}},
			0,
		},
		{
			"5.0 with everything in our order", V5, 0x31,
			str("a/b") + sized("\x01\x01\x03"+str("text")+"\x08"+str("r/1")+"\x09"+str("\x00c")+user("k", "v")+"\x02\x00\x00\x00\x3C\x23\x00\x09") + "hi",
			Publish{
				Topic: []byte("a/b"), Payload: []byte("hi"), Retain: true,
				Raw:        []byte("\x01\x01\x03" + str("text") + "\x08" + str("r/1") + "\x09" + str("\x00c") + user("k", "v") + "\x02\x00\x00\x00\x3C\x23\x00\x09"),
				Properties: []byte("\x01\x01\x03" + str("text") + "\x08" + str("r/1") + "\x09" + str("\x00c") + user("k", "v")),
				Expiry:     60, HasExpiry: true, TopicAlias: 9, HasTopicAlias: true,
				ResponseTopic: []byte("r/1"), PayloadFormat: 1,
			},
			0,
		},
		{
			"5.0 with an alias and no topic", V5, 0x30, str("") + sized("\x23\x00\x09") + "hi",
			Publish{Topic: []byte{}, Payload: []byte("hi"), Raw: []byte("\x23\x00\x09"), TopicAlias: 9, HasTopicAlias: true},
			0,
		},
		{
			"5.0 with a long block", V5, 0x30, str("a") + sized("\x03"+str(strings.Repeat("x", 200))) + "hi",
			Publish{
				Topic: []byte("a"), Payload: []byte("hi"),
				Raw:        []byte("\x03" + str(strings.Repeat("x", 200))),
				Properties: []byte("\x03" + str(strings.Repeat("x", 200))),
			},
			0,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePublish([]byte(tt.body), tt.first&0x0F, tt.v)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			want := string(tt.first) + sized(tt.body)
			again, idOffset := AppendPublish([]byte("before"), &tt.want, tt.v)
			if string(again) != "before"+want || idOffset != tt.idOffset {
				t.Errorf("appended %q with the identifier at %d, want %q and %d", again, idOffset, want, tt.idOffset)
			}
			if size := PublishSize(&tt.want, tt.v); size != len(want) {
				t.Errorf("size is %d, want %d", size, len(want))
			}
		})
	}
}

func TestPublishIsRefused(t *testing.T) {
	all, old, v5 := versions, versions[:2], versions[2:]
	type row struct {
		name     string
		versions []Version
		flags    byte
		body     string
		code     ReasonCode
		want     *Error
	}
	rows := []row{
		{"qos 3 [MQTT-3.3.1-4]", all, 0x06, str("a") + "\x00\x01\x00", MalformedPacket, errQoS3},
		{"dup at qos 0 [MQTT-3.3.1-2]", all, 0x08, str("a") + "\x00", MalformedPacket, errDupQoS0},
		{"empty body", all, 0, "", MalformedPacket, errTruncated},
		{"half a topic length", all, 0, "\x00", MalformedPacket, errTruncated},
		{"topic is cut", all, 0, "\x00\x05abcd", MalformedPacket, errTruncated},
		{"topic with + [MQTT-3.3.2-2]", all, 0, str("a/+/b") + "\x00", ProtocolError, errTopicWildcard},
		{"topic with # [MQTT-3.3.2-2]", all, 0, str("a/long/topic/#") + "\x00", ProtocolError, errTopicWildcard},
		{"no identifier at qos 1", all, 0x02, str("a"), MalformedPacket, errTruncated},
		{"half an identifier at qos 2", all, 0x04, str("a") + "\x00", MalformedPacket, errTruncated},
		{"identifier 0 at qos 1 [MQTT-2.2.1-4]", all, 0x02, str("a") + "\x00\x00\x00", ProtocolError, errPacketID},
		{"identifier 0 at qos 2 [MQTT-2.2.1-4]", all, 0x04, str("a") + "\x00\x00\x00", ProtocolError, errPacketID},
		{"empty topic [MQTT-4.7.3-1]", old, 0, str("") + "\x00", MalformedPacket, errTopicEmpty},
		{"empty topic without an alias (MQTT5 §3.3.2.1)", v5, 0, str("") + "\x00", ProtocolError, errTopicMissing},
		{"empty topic with other properties (MQTT5 §3.3.2.1)", v5, 0, str("") + sized("\x01\x00"), ProtocolError, errTopicMissing},
		{"no property length [MQTT-2.2.2-1]", v5, 0, str("a"), MalformedPacket, errTruncated},
		{"no property length at qos 1 [MQTT-2.2.2-1]", v5, 0x02, str("a") + "\x00\x01", MalformedPacket, errTruncated},
		{"properties are cut", v5, 0, str("a") + "\x03\x01", MalformedPacket, errTruncated},
	}
	for _, bad := range badStrings {
		rows = append(rows, row{"topic with " + bad.name + " [MQTT-3.3.2-1]", all, 0, str("some/"+bad.s) + "\x00", MalformedPacket, errTopicUTF8})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			each(t, tt.versions, func(t *testing.T, v Version) {
				p, err := ParsePublish([]byte(tt.body), tt.flags, v)
				checkFault(t, err, tt.code, tt.want)
				if !reflect.DeepEqual(p, Publish{}) {
					t.Errorf("%+v beside the error", p)
				}
			})
		})
	}
}

func TestPublishParsedInPlaceForgetsTheOneBefore(t *testing.T) {
	var p Publish
	if err := p.Parse([]byte(str("a")+"\x00\x01"+sized("\x08"+str("r")+"\x02\x00\x00\x00\x05"+user("k", "v"))+"hi"), 0x0B, V5); err != nil {
		t.Fatal(err)
	}
	if err := p.Parse([]byte(str("b")), 0, V311); err != nil {
		t.Fatal(err)
	}
	if want := (Publish{Topic: []byte("b"), Payload: []byte{}}); !reflect.DeepEqual(p, want) {
		t.Errorf("parsed %+v, want %+v", p, want)
	}
	if err := p.Parse(nil, 0, V311); err == nil || !reflect.DeepEqual(p, Publish{}) {
		t.Errorf("%+v beside the error %v", p, err)
	}
}

func TestTopicAliasZeroIsReported(t *testing.T) {
	p, err := ParsePublish([]byte(str("a")+sized("\x23\x00\x00")), 0, V5)
	if err != nil || !p.HasTopicAlias || p.TopicAlias != 0 {
		t.Errorf("alias %d, present %v, %v, want a present 0", p.TopicAlias, p.HasTopicAlias, err)
	}
}

func TestTravellingPropertiesSurviveWhatStandsBetween(t *testing.T) {
	const expiry, alias, subID = "\x02\x00\x00\x00\x05", "\x23\x00\x07", "\x0B\x80\x01"
	travels := []string{"\x01\x01", "\x03" + str("type"), user("b", "1"), user("a", "2"), "\x09" + str("c")}
	whole := strings.Join(travels, "")
	for _, tt := range []struct {
		name, block string
		scattered   bool
	}{
		{"alone", whole, false},
		{"in front", whole + expiry + alias + subID, false},
		{"behind", expiry + alias + subID + whole, false},
		{"in the middle", expiry + whole + alias, false},
		{"expiry between", travels[0] + expiry + strings.Join(travels[1:], ""), true},
		{"alias between", strings.Join(travels[:3], "") + alias + strings.Join(travels[3:], ""), true},
		{"subscription identifier between", strings.Join(travels[:4], "") + subID + travels[4], true},
		{"all between", subID + travels[0] + expiry + travels[1] + alias + travels[2] + subID + travels[3] + travels[4], true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePublish([]byte(str("a")+sized(tt.block)+"payload"), 0, V5)
			if err != nil || p.Scattered != tt.scattered {
				t.Fatalf("scattered: %v, %v, want %v", p.Scattered, err, tt.scattered)
			}
			if tt.scattered != (p.Properties == nil) {
				t.Errorf("properties are %q", p.Properties)
			}
			if got := string(p.AppendTravelling([]byte("before"))); got != "before"+whole {
				t.Errorf("travelling are %q, want %q", got, whole)
			}
			// An Append takes them from where they are.
			p.HasExpiry, p.TopicAlias = false, 0
			packet, _ := AppendPublish(nil, &p, V5)
			if body, _ := bodyOf(t, packet, PUBLISH); string(body) != str("a")+sized(whole)+"payload" {
				t.Errorf("appended %q", body)
			}
			if size := PublishSize(&p, V5); size != len(packet) {
				t.Errorf("size is %d, want %d", size, len(packet))
			}
		})
	}
}

func TestSubscriptionIdentifiersGoThroughInOrder(t *testing.T) {
	want := []uint32{1, 127, 128, 16_384, MaxRemaining, 1}
	p := Publish{Topic: []byte("a"), SubscriptionIDs: want}
	packet, _ := AppendPublish(nil, &p, V5)
	if size := PublishSize(&p, V5); size != len(packet) {
		t.Errorf("size is %d, want %d", size, len(packet))
	}
	body, flags := bodyOf(t, packet, PUBLISH)
	got, err := ParsePublish(body, flags, V5)
	if err != nil || !got.HasSubID || got.SubscriptionIDs != nil {
		t.Fatalf("parsed %+v, %v", got, err)
	}
	if ids := slices.Collect(got.ReceivedSubscriptionIDs()); !slices.Equal(ids, want) {
		t.Errorf("identifiers are %d, want %d", ids, want)
	}
	for id := range got.ReceivedSubscriptionIDs() {
		if id != 1 {
			t.Errorf("went on to %d after the caller had stopped", id)
		}
		break
	}
}

func TestOlderVersionsGetNoProperties(t *testing.T) {
	p := Publish{
		Topic: []byte("a/b"), Payload: []byte("hi"),
		Properties: []byte(user("k", "v")), HasExpiry: true, TopicAlias: 1, SubscriptionIDs: []uint32{5},
	}
	for _, v := range versions[:2] {
		packet, _ := AppendPublish(nil, &p, v)
		if body, _ := bodyOf(t, packet, PUBLISH); string(body) != str("a/b")+"hi" || PublishSize(&p, v) != len(packet) {
			t.Errorf("version %d gets %q of size %d", v, body, PublishSize(&p, v))
		}
	}
}

// FuzzParsePublish: what parses is the same when it is appended and parsed again. The bytes may
// differ in the order of properties and in an alias of 0, which no Append writes.
func FuzzParsePublish(f *testing.F) {
	f.Add([]byte(str("a/b")+"hi"), byte(0x01), byte(V311))
	f.Add([]byte(str("a/b")+"\x00\x07hi"), byte(0x0A), byte(V31))
	f.Add([]byte(str("a/b")+"\x00\x07\x00hi"), byte(0x04), byte(V5))
	f.Add([]byte(str("")+sized("\x23\x00\x09")+"hi"), byte(0), byte(V5))
	f.Add([]byte(str("a")+sized("\x01\x01\x02\x00\x00\x00\x05\x08"+str("r")+"\x0B\x01\x0B\x80\x01\x09"+str("c")+user("k", "v"))+"hi"), byte(0), byte(V5))
	f.Add([]byte(str("größe/\uFEFF")+sized("\x03"+str("t")+"\x23\x00\x00")), byte(0), byte(V5))
	f.Fuzz(func(t *testing.T, body []byte, flags, version byte) {
		v := versions[int(version)%len(versions)]
		cutEverywhere(body, func(b []byte) error { _, err := ParsePublish(b, flags, v); return err })
		p, err := ParsePublish(body, flags&0x0F, v)
		if err != nil {
			return
		}
		p.SubscriptionIDs = slices.Collect(p.ReceivedSubscriptionIDs())
		if p.HasTopicAlias && p.TopicAlias == 0 {
			if len(p.Topic) == 0 {
				return // without its alias it would have nothing to go by
			}
			p.HasTopicAlias = false
		}
		packet, idOffset := AppendPublish(nil, &p, v)
		if len(packet) != PublishSize(&p, v) {
			t.Fatalf("%d bytes were appended, size is %d", len(packet), PublishSize(&p, v))
		}
		if idOffset > 0 != (p.QoS > 0) || idOffset > 0 && string(packet[idOffset:idOffset+2]) != string([]byte{byte(p.ID >> 8), byte(p.ID)}) {
			t.Fatalf("identifier %d is not at %d of %X", p.ID, idOffset, packet)
		}
		again, flagsAgain := bodyOf(t, packet, PUBLISH)
		q, err := ParsePublish(again, flagsAgain, v)
		if err != nil || flagsAgain != flags&0x0F {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		q.SubscriptionIDs = slices.Collect(q.ReceivedSubscriptionIDs())
		if string(p.AppendTravelling(nil)) != string(q.AppendTravelling(nil)) {
			t.Fatalf("%X travelled, then %X", p.AppendTravelling(nil), q.AppendTravelling(nil))
		}
		for _, x := range []*Publish{&p, &q} {
			x.Raw, x.Properties, x.Scattered = nil, nil, false
		}
		if !reflect.DeepEqual(p, q) {
			t.Fatalf("%X is %+v and then %+v", body, p, q)
		}
	})
}

// benchmarkPublishes are messages of 128 bytes of payload.
var benchmarkPublishes = []struct {
	name string
	v    Version
	p    Publish
}{
	{"v311_qos0", V311, Publish{QoS: 0}},
	{"v311_qos1", V311, Publish{QoS: 1, ID: 7}},
	{"v5_qos1", V5, Publish{QoS: 1, ID: 7}},
	{"v5_qos1_expiry_and_user_property", V5, Publish{QoS: 1, ID: 7, Expiry: 60, HasExpiry: true, Properties: []byte(user("unit", "celsius"))}},
}

func BenchmarkParsePublish(b *testing.B) {
	for _, bb := range benchmarkPublishes {
		b.Run(fmt.Sprintf("%s/128_B", bb.name), func(b *testing.B) {
			bb.p.Topic, bb.p.Payload = []byte("site/7/line/3/temperature"), bytes.Repeat([]byte("x"), 128)
			packet, _ := AppendPublish(nil, &bb.p, bb.v)
			h, n, _ := ParseHeader(packet)
			body := packet[n:]
			b.ReportAllocs()
			b.SetBytes(int64(len(packet)))
			for b.Loop() {
				p, err := ParsePublish(body, h.Flags, bb.v)
				if err != nil || len(p.Payload) != 128 {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%s/128_B/in_place", bb.name), func(b *testing.B) {
			bb.p.Topic, bb.p.Payload = []byte("site/7/line/3/temperature"), bytes.Repeat([]byte("x"), 128)
			packet, _ := AppendPublish(nil, &bb.p, bb.v)
			h, n, _ := ParseHeader(packet)
			body := packet[n:]
			var p Publish
			b.ReportAllocs()
			b.SetBytes(int64(len(packet)))
			for b.Loop() {
				if err := p.Parse(body, h.Flags, bb.v); err != nil || len(p.Payload) != 128 {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	for _, bb := range benchmarkPublishes {
		b.Run(fmt.Sprintf("%s/128_B", bb.name), func(b *testing.B) {
			bb.p.Topic, bb.p.Payload = []byte("site/7/line/3/temperature"), bytes.Repeat([]byte("x"), 128)
			dst, _ := AppendPublish(nil, &bb.p, bb.v)
			b.ReportAllocs()
			b.SetBytes(int64(len(dst)))
			for b.Loop() {
				dst, _ = AppendPublish(dst[:0], &bb.p, bb.v)
			}
		})
	}
}
