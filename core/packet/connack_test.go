package packet

import (
	"fmt"
	"reflect"
	"testing"
)

func TestConnackIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Version
		body string
		want Connack
	}{
		{"MQTT 3.1", V31, "\x00\x00", Connack{}},
		{"3.1.1", V311, "\x00\x00", Connack{}},
		{"3.1.1 with a session", V311, "\x01\x00", Connack{SessionPresent: true}},
		{"3.1.1 refuses the version", V311, "\x00\x01", Connack{Code: UnsupportedProtocolVersion}},
		{"3.1.1 refuses the identifier", V311, "\x00\x02", Connack{Code: ClientIdentifierNotValid}},
		{"3.1.1 is unavailable", V311, "\x00\x03", Connack{Code: ServerUnavailable}},
		{"3.1.1 refuses the password", V311, "\x00\x04", Connack{Code: BadUserNameOrPassword}},
		{"MQTT 3.1 does not authorize", V31, "\x00\x05", Connack{Code: NotAuthorized}},
		{"5.0", V5, "\x01\x00\x00", Connack{SessionPresent: true}},
		{"5.0 refuses with a reason", V5, "\x00\x87" + sized("\x1F"+str("no")), Connack{Code: NotAuthorized, Reason: []byte("no")}},
		{
			"5.0 with everything in our order", V5,
			"\x00\x00" + sized("\x11\x00\x00\x0E\x10\x21\x00\x14\x24\x01\x25\x00\x27\x00\x01\x00\x00\x12"+str("auto")+"\x22\x00\x0A\x1F"+str("why")+
				user("a", "b")+"\x28\x00\x29\x00\x2A\x00\x13\x00\x1E\x1A"+str("info")+"\x1C"+str("other")+"\x15"+str("SCRAM")+"\x16"+str("\x01")),
			Connack{
				SessionExpiry: 3600, HasSessionExpiry: true, ReceiveMaximum: 20, MaximumQoS: 1, HasMaximumQoS: true,
				RetainUnavailable: true, MaximumPacketSize: 65536, AssignedClientID: []byte("auto"), TopicAliasMaximum: 10,
				Reason: []byte("why"), UserProperties: []byte(user("a", "b")), WildcardUnavailable: true,
				SubIDUnavailable: true, SharedUnavailable: true, ServerKeepAlive: 30, HasServerKeepAlive: true,
				ResponseInformation: []byte("info"), ServerReference: []byte("other"), AuthMethod: []byte("SCRAM"), AuthData: []byte{1},
			},
		},
		{
			"5.0 with zeros that say something", V5, "\x00\x00" + sized("\x11\x00\x00\x00\x00\x24\x00\x13\x00\x00"),
			Connack{HasSessionExpiry: true, HasMaximumQoS: true, HasServerKeepAlive: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConnack([]byte(tt.body), tt.v)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			if packet := AppendConnack([]byte("before"), &tt.want, tt.v); string(packet) != "before\x20"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\x20"+sized(tt.body))
			}
		})
	}
}

func TestConnackIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		versions []Version
		body     string
		code     ReasonCode
		want     *Error
	}{
		{"empty", versions, "", MalformedPacket, errTruncated},
		{"no code", versions, "\x00", MalformedPacket, errTruncated},
		{"reserved bits [MQTT-3.2.2-1]", []Version{V311, V5}, "\x02\x00\x00", MalformedPacket, errConnackReserved},
		{"unknown return code", []Version{V31, V311}, "\x00\x06", ProtocolError, errReason},
		{"unknown reason code [MQTT-3.2.2-8]", []Version{V5}, "\x00\x01\x00", ProtocolError, errReason},
		{"session present with a refusal in 3.1.1 [MQTT-3.2.2-4]", []Version{V311}, "\x01\x05", ProtocolError, errSessionPresent},
		{"session present with a refusal in 5.0 [MQTT-3.2.2-6]", []Version{V5}, "\x01\x87\x00", ProtocolError, errSessionPresent},
		{"no property length [MQTT-2.2.2-1]", []Version{V5}, "\x00\x00", MalformedPacket, errTruncated},
		{"bytes behind the code", []Version{V31, V311}, "\x00\x00\x00", MalformedPacket, errTrailing},
		{"bytes behind the properties", []Version{V5}, "\x00\x00\x00\x00", MalformedPacket, errTrailing},
		{"authentication data without a method", []Version{V5}, "\x00\x00" + sized("\x16"+str("d")), ProtocolError, errAuthDataAlone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, tt.versions, func(t *testing.T, v Version) {
				c, err := ParseConnack([]byte(tt.body), v)
				checkFault(t, err, tt.code, tt.want)
				if !reflect.DeepEqual(c, Connack{}) {
					t.Errorf("%+v beside the error", c)
				}
			})
		})
	}
}

func TestConnackCodesOfTheTable(t *testing.T) { // MQTT5 §3.2.2.2
	checkCodes(t, "0x00 0x80 0x81 0x82 0x83 0x84 0x85 0x86 0x87 0x88 0x89 0x8A 0x8C 0x90 0x95 0x97 0x99 0x9A 0x9B 0x9C 0x9D 0x9F",
		func(c byte) error { _, err := ParseConnack([]byte{0, c, 0}, V5); return err })
}

func TestConnackCodesBecomeReturnCodes(t *testing.T) {
	for code := range 256 {
		if !connackCode(ReasonCode(code)) {
			continue
		}
		t.Run(ReasonCode(code).String(), func(t *testing.T) {
			want := byte(5)
			switch code {
			case 0x00:
				want = 0
			case 0x84:
				want = 1
			case 0x85:
				want = 2
			case 0x80, 0x83, 0x88, 0x89, 0x97, 0x9C, 0x9D, 0x9F:
				want = 3
			case 0x86, 0x8C:
				want = 4
			}
			for _, v := range []Version{0, V31, V311, V311 | 0x80} {
				c := Connack{Code: ReasonCode(code), Reason: []byte("left out")}
				checkPacket(t, func(dst []byte) []byte { return AppendConnack(dst, &c, v) }, fmt.Sprintf("20 02 00 %02X", want))
			}
		})
	}
}

func TestConnackHasTheFormThatTheVersionReads(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Version
		c    Connack
		want string
	}{
		{"version 6 [MQTT-3.1.2-2]", 6, Connack{Code: UnsupportedProtocolVersion}, "20 03 00 84 00"},
		{"version 5 marked by a bridge", V5 | 0x80, Connack{Code: UnsupportedProtocolVersion}, "20 03 00 84 00"},
		{"MQTT 3.1 has no session present", V31, Connack{SessionPresent: true}, "20 02 00 00"},
		{"no session present with a refusal [MQTT-3.2.2-6]", V5, Connack{SessionPresent: true, Code: ServerBusy}, "20 03 00 89 00"},
		{"no session present with a refusal [MQTT-3.2.2-4]", V311, Connack{SessionPresent: true, Code: ServerBusy}, "20 02 00 03"},
		{"what absence means is not written", V5, Connack{ReceiveMaximum: 65535, MaximumQoS: 2, HasMaximumQoS: true}, "20 03 00 00 00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkPacket(t, func(dst []byte) []byte { return AppendConnack(dst, &tt.c, tt.v) }, tt.want)
		})
	}
}

func FuzzParseConnack(f *testing.F) {
	f.Add([]byte("\x01\x00"), byte(V311))
	f.Add([]byte("\x00\x05"), byte(V31))
	f.Add([]byte("\x00\x00"+sized("\x11\x00\x00\x0E\x10\x21\x00\x14\x24\x01\x25\x00\x27\x00\x01\x00\x00\x12"+str("auto")+"\x22\x00\x0A"+user("a", "b")+"\x1F"+str("why"))), byte(V5))
	f.Add([]byte("\x00\x8C"+sized("\x28\x00\x29\x01\x2A\x00\x13\x00\x1E\x1A"+str("info")+"\x1C"+str("other")+"\x15"+str("SCRAM")+"\x16"+str("\x01"))), byte(V5))
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		v := versions[int(version)%len(versions)]
		cutEverywhere(body, func(b []byte) error { _, err := ParseConnack(b, v); return err })
		c, err := ParseConnack(body, v)
		if err != nil {
			return
		}
		again, _ := bodyOf(t, AppendConnack(nil, &c, v), CONNACK)
		d, err := ParseConnack(again, v)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		onlyUser(&c.UserProperties)
		if c.ReceiveMaximum == 65535 {
			c.ReceiveMaximum = 0 // absent means that
		}
		if !reflect.DeepEqual(c, d) {
			t.Fatalf("%X is %+v and then %+v", body, c, d)
		}
	})
}
