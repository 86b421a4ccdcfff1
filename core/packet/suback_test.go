package packet

import (
	"reflect"
	"testing"
)

func TestSubackIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Version
		body string
		want Suback
	}{
		{"MQTT 3.1", V31, "\x00\x01\x02", Suback{ID: 1, Codes: []ReasonCode{GrantedQoS2}}},
		{"3.1.1 in order [MQTT-3.8.4-5]", V311, "\x00\x01\x00\x80\x01", Suback{ID: 1, Codes: []ReasonCode{Success, UnspecifiedError, GrantedQoS1}}},
		{"5.0", V5, "\x00\x01\x00\x8F\x02", Suback{ID: 1, Codes: []ReasonCode{TopicFilterInvalid, GrantedQoS2}}},
		{
			"5.0 with a reason", V5, "\x00\x01" + sized("\x1F"+str("why")+user("a", "b")) + "\x87",
			Suback{ID: 1, Codes: []ReasonCode{NotAuthorized}, Reason: []byte("why"), UserProperties: []byte(user("a", "b"))},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseSuback([]byte(tt.body), tt.v)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			if packet := AppendSuback([]byte("before"), &tt.want, tt.v); string(packet) != "before\x90"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\x90"+sized(tt.body))
			}
		})
	}
}

func TestUnsubackIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Version
		body string
		want Suback
	}{
		{"MQTT 3.1", V31, "\x00\x01", Suback{ID: 1}},
		{"3.1.1", V311, "\x00\x01", Suback{ID: 1}},
		{"5.0 in order [MQTT-3.11.3-1]", V5, "\x00\x01\x00\x11\x00\x87", Suback{ID: 1, Codes: []ReasonCode{NoSubscriptionExisted, Success, NotAuthorized}}},
		{
			"5.0 with a reason", V5, "\x00\x01" + sized("\x1F"+str("why")+user("a", "b")) + "\x80",
			Suback{ID: 1, Codes: []ReasonCode{UnspecifiedError}, Reason: []byte("why"), UserProperties: []byte(user("a", "b"))},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseUnsuback([]byte(tt.body), tt.v)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			if packet := AppendUnsuback([]byte("before"), &tt.want, tt.v); string(packet) != "before\xB0"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\xB0"+sized(tt.body))
			}
		})
	}
}

func TestOlderVersionsHaveOneCodeForFailure(t *testing.T) {
	s := Suback{ID: 1, Codes: []ReasonCode{GrantedQoS1, NotAuthorized, TopicFilterInvalid}, Reason: []byte("left out")}
	checkPacket(t, func(dst []byte) []byte { return AppendSuback(dst, &s, V311) }, "90 05 00 01 01 80 80")
	checkPacket(t, func(dst []byte) []byte { return AppendUnsuback(dst, &s, V311) }, "B0 02 00 01")
}

func TestSubackIsRefused(t *testing.T) {
	suback, unsuback := ParseSuback, ParseUnsuback
	old, v5 := versions[:2], versions[2:]
	for _, tt := range []struct {
		name     string
		parse    func([]byte, Version) (Suback, error)
		versions []Version
		body     string
		code     ReasonCode
		want     *Error
	}{
		{"empty suback", suback, versions, "", MalformedPacket, errTruncated},
		{"empty unsuback", unsuback, versions, "", MalformedPacket, errTruncated},
		{"identifier 0 in suback [MQTT-2.2.1-6]", suback, versions, "\x00\x00\x00\x00", ProtocolError, errPacketID},
		{"identifier 0 in unsuback [MQTT-2.2.1-6]", unsuback, versions, "\x00\x00\x00\x00", ProtocolError, errPacketID},
		{"no code in suback of 3.1.1", suback, old, "\x00\x01", ProtocolError, errNoCodes},
		{"no code in suback [MQTT-3.8.4-6]", suback, v5, "\x00\x01\x00", ProtocolError, errNoCodes},
		{"no code in unsuback", unsuback, v5, "\x00\x01\x00", ProtocolError, errNoCodes},
		{"code in unsuback of 3.1.1", unsuback, old, "\x00\x01\x00", MalformedPacket, errTrailing},
		{"no property length in suback [MQTT-2.2.2-1]", suback, v5, "\x00\x01", MalformedPacket, errTruncated},
		{"no property length in unsuback [MQTT-2.2.2-1]", unsuback, v5, "\x00\x01", MalformedPacket, errTruncated},
		{"bad second code", suback, v5, "\x00\x01\x00\x00\x03", ProtocolError, errReason},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, tt.versions, func(t *testing.T, v Version) {
				s, err := tt.parse([]byte(tt.body), v)
				checkFault(t, err, tt.code, tt.want)
				if !reflect.DeepEqual(s, Suback{}) {
					t.Errorf("%+v beside the error", s)
				}
			})
		})
	}
}

func TestSubackCodesOfTheTables(t *testing.T) {
	t.Run("SUBACK [MQTT-3.9.3-2]", func(t *testing.T) {
		checkCodes(t, "0x00 0x01 0x02 0x80 0x83 0x87 0x8F 0x91 0x97 0x9E 0xA1 0xA2",
			func(c byte) error { _, err := ParseSuback([]byte{0, 1, 0, c}, V5); return err })
	})
	t.Run("SUBACK of 3.1.1 [MQTT-3.9.3-2]", func(t *testing.T) {
		checkCodes(t, "0x00 0x01 0x02 0x80",
			func(c byte) error { _, err := ParseSuback([]byte{0, 1, c}, V311); return err })
	})
	t.Run("UNSUBACK [MQTT-3.11.3-2]", func(t *testing.T) {
		checkCodes(t, "0x00 0x11 0x80 0x83 0x87 0x8F 0x91",
			func(c byte) error { _, err := ParseUnsuback([]byte{0, 1, 0, c}, V5); return err })
	})
}

func fuzzSuback(f *testing.F, typ Type, parse func([]byte, Version) (Suback, error), appendTo func([]byte, *Suback, Version) []byte) {
	f.Add([]byte("\x00\x01"), byte(V311))
	f.Add([]byte("\x00\x01\x00\x80"), byte(V311))
	f.Add([]byte("\x00\x01\x00\x00\x8F"), byte(V5))
	f.Add([]byte("\x00\x01"+sized("\x1F"+str("why")+user("a", "b"))+"\x00\x87"), byte(V5))
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		v := versions[int(version)%len(versions)]
		cutEverywhere(body, func(b []byte) error { _, err := parse(b, v); return err })
		s, err := parse(body, v)
		if err != nil {
			return
		}
		again, _ := bodyOf(t, appendTo(nil, &s, v), typ)
		r, err := parse(again, v)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		onlyUser(&s.UserProperties)
		if !reflect.DeepEqual(s, r) {
			t.Fatalf("%X is %+v and then %+v", body, s, r)
		}
	})
}

func FuzzParseSuback(f *testing.F)   { fuzzSuback(f, SUBACK, ParseSuback, AppendSuback) }
func FuzzParseUnsuback(f *testing.F) { fuzzSuback(f, UNSUBACK, ParseUnsuback, AppendUnsuback) }
