package packet

import (
	"reflect"
	"testing"
)

func TestDisconnectIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Version
		body string
		want Disconnect
	}{
		{"MQTT 3.1", V31, "", Disconnect{}},
		{"3.1.1", V311, "", Disconnect{}},
		{"5.0 at its shortest", V5, "", Disconnect{}},
		{"5.0 with a code", V5, "\x8E", Disconnect{Code: SessionTakenOver}},
		{"5.0 with a session expiry of 0", V5, "\x00" + sized("\x11\x00\x00\x00\x00"), Disconnect{HasSessionExpiry: true}},
		{
			"5.0 with everything in our order", V5, "\x04" + sized("\x11\x00\x00\x00\x3C\x1F"+str("why")+user("a", "b")+"\x1C"+str("other:1883")),
			Disconnect{
				Code: DisconnectWithWill, SessionExpiry: 60, HasSessionExpiry: true,
				Reason: []byte("why"), ServerReference: []byte("other:1883"), UserProperties: []byte(user("a", "b")),
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseDisconnect([]byte(tt.body), tt.v)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			if packet := AppendDisconnect([]byte("before"), &tt.want, tt.v); string(packet) != "before\xE0"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\xE0"+sized(tt.body))
			}
		})
	}
}

func TestDisconnectMaySayMoreThanItMust(t *testing.T) {
	for _, body := range []string{"\x00", "\x00\x00"} {
		if d, err := ParseDisconnect([]byte(body), V5); err != nil || !reflect.DeepEqual(d, Disconnect{}) {
			t.Errorf("%X is %+v, %v, want a normal disconnection", body, d, err)
		}
	}
}

func TestDisconnectOfOlderVersionsIsAllHeader(t *testing.T) {
	d := Disconnect{Code: ServerBusy, Reason: []byte("left out")}
	checkPacket(t, func(dst []byte) []byte { return AppendDisconnect(dst, &d, V311) }, "E0 00")
}

func TestDisconnectIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		versions []Version
		body     string
		code     ReasonCode
		want     *Error
	}{
		{"body in 3.1.1", []Version{V31, V311}, "\x00", MalformedPacket, errTrailing},
		{"unknown code", []Version{V5}, "\x01", ProtocolError, errReason},
		{"properties are cut", []Version{V5}, "\x00\x05\x1F", MalformedPacket, errTruncated},
		{"bytes behind the properties", []Version{V5}, "\x00\x00\x00", MalformedPacket, errTrailing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, tt.versions, func(t *testing.T, v Version) {
				d, err := ParseDisconnect([]byte(tt.body), v)
				checkFault(t, err, tt.code, tt.want)
				if !reflect.DeepEqual(d, Disconnect{}) {
					t.Errorf("%+v beside the error", d)
				}
			})
		})
	}
}

func TestDisconnectCodesOfTheTable(t *testing.T) { // MQTT5 §3.14.2.1, and 0x8C of §2.4
	checkCodes(t, "0x00 0x04 0x80 0x81 0x82 0x83 0x87 0x89 0x8B 0x8C 0x8D 0x8E 0x8F 0x90 0x93 0x94 0x95 0x96 0x97 0x98 0x99 0x9A 0x9B 0x9C 0x9D 0x9E 0x9F 0xA0 0xA1 0xA2",
		func(c byte) error { _, err := ParseDisconnect([]byte{c}, V5); return err })
}

func FuzzParseDisconnect(f *testing.F) {
	f.Add([]byte(""), byte(V311))
	f.Add([]byte("\x04"), byte(V5))
	f.Add([]byte("\x00\x00"), byte(V5))
	f.Add([]byte("\x04"+sized("\x11\x00\x00\x00\x3C\x1F"+str("why")+user("a", "b")+"\x1C"+str("other:1883"))), byte(V5))
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		v := versions[int(version)%len(versions)]
		cutEverywhere(body, func(b []byte) error { _, err := ParseDisconnect(b, v); return err })
		d, err := ParseDisconnect(body, v)
		if err != nil {
			return
		}
		again, _ := bodyOf(t, AppendDisconnect(nil, &d, v), DISCONNECT)
		e, err := ParseDisconnect(again, v)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		onlyUser(&d.UserProperties)
		if !reflect.DeepEqual(d, e) {
			t.Fatalf("%X is %+v and then %+v", body, d, e)
		}
	})
}
