package packet

import (
	"reflect"
	"testing"
)

func TestAuthIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
		want Auth
	}{
		{"at its shortest (MQTT5 §3.15.2.1)", "", Auth{}},
		{"continue", "\x18" + sized("\x15"+str("SCRAM")), Auth{Code: ContinueAuthentication, Method: []byte("SCRAM")}},
		{
			"everything in our order", "\x19" + sized("\x15"+str("SCRAM")+"\x16"+str("\x00\xFF")+"\x1F"+str("why")+user("a", "b")),
			Auth{Code: ReAuthenticate, Method: []byte("SCRAM"), Data: []byte{0, 0xFF}, Reason: []byte("why"), UserProperties: []byte(user("a", "b"))},
		},
		{"success with a method", "\x00" + sized("\x15"+str("")), Auth{Method: []byte{}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseAuth([]byte(tt.body))
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			if packet := AppendAuth([]byte("before"), &tt.want); string(packet) != "before\xF0"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\xF0"+sized(tt.body))
			}
		})
	}
}

func TestAuthIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
		code ReasonCode
		want *Error
	}{
		{"code of another packet [MQTT-3.15.2-1]", "\x80" + sized("\x15"+str("m")), ProtocolError, errReason},
		{"no property length [MQTT-2.2.2-1]", "\x18", MalformedPacket, errTruncated},
		{"properties are cut", "\x18\x05\x15", MalformedPacket, errTruncated},
		{"no method (MQTT5 §3.15.2.2.2)", "\x18\x00", ProtocolError, errAuthMethodMissing},
		{"no method with success (MQTT5 §3.15.2.2.2)", "\x00\x00", ProtocolError, errAuthMethodMissing},
		{"data without a method", "\x18" + sized("\x16"+str("d")), ProtocolError, errAuthMethodMissing},
		{"bytes behind the properties", "\x18" + sized("\x15"+str("m")) + "\x00", MalformedPacket, errTrailing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ParseAuth([]byte(tt.body))
			checkFault(t, err, tt.code, tt.want)
			if !reflect.DeepEqual(a, Auth{}) {
				t.Errorf("%+v beside the error", a)
			}
		})
	}
}

func TestAuthCodesOfTheTable(t *testing.T) { // [MQTT-3.15.2-1]
	checkCodes(t, "0x00 0x18 0x19", func(c byte) error {
		_, err := ParseAuth([]byte(string([]byte{c}) + sized("\x15"+str("m"))))
		return err
	})
}

func FuzzParseAuth(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("\x18" + sized("\x15"+str("SCRAM"))))
	f.Add([]byte("\x19" + sized(user("a", "b")+"\x15"+str("SCRAM")+"\x16"+str("\x00\xFF")+user("c", "d")+"\x1F"+str("why"))))
	f.Fuzz(func(t *testing.T, body []byte) {
		cutEverywhere(body, func(b []byte) error { _, err := ParseAuth(b); return err })
		a, err := ParseAuth(body)
		if err != nil {
			return
		}
		again, _ := bodyOf(t, AppendAuth(nil, &a), AUTH)
		b, err := ParseAuth(again)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		onlyUser(&a.UserProperties)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("%X is %+v and then %+v", body, a, b)
		}
	})
}
