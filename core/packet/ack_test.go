package packet

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

var ackTypes = []Type{PUBACK, PUBREC, PUBREL, PUBCOMP}

// checkCodes fails t unless parse takes the codes of the list and no others.
func checkCodes(t *testing.T, list string, parse func(code byte) error) {
	t.Helper()
	for code := range 256 {
		err := parse(byte(code))
		if strings.Contains(list, fmt.Sprintf("0x%02X", code)) {
			if err != nil {
				t.Errorf("code 0x%02X is refused: %v", code, err)
			}
		} else if err != errReason {
			t.Errorf("code 0x%02X gives %v, want %v", code, err, errReason)
		}
	}
}

func TestAckIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Version
		head string // type and flags
		body string
		want Ack
	}{
		{"MQTT 3.1", V31, "\x40", "\x12\x34", Ack{Type: PUBACK, ID: 0x1234}},
		{"3.1.1", V311, "\x62", "\xFF\xFF", Ack{Type: PUBREL, ID: 0xFFFF}},
		{"5.0 at its shortest", V5, "\x50", "\x00\x01", Ack{Type: PUBREC, ID: 1}},
		{"5.0 with a code", V5, "\x70", "\x00\x01\x92", Ack{Type: PUBCOMP, ID: 1, Code: PacketIDNotFound}},
		{
			"5.0 with a reason", V5, "\x40", "\x00\x01\x97" + sized("\x1F"+str("full")),
			Ack{Type: PUBACK, ID: 1, Code: QuotaExceeded, Reason: []byte("full")},
		},
		{
			"5.0 with success and something to say", V5, "\x62", "\x00\x01\x00" + sized("\x1F"+str("")+user("a", "b")+user("a", "b")),
			Ack{Type: PUBREL, ID: 1, Reason: []byte{}, UserProperties: []byte(user("a", "b") + user("a", "b"))},
		},
		{
			"5.0 with a long reason", V5, "\x40", "\x00\x01\x80" + sized("\x1F"+str(strings.Repeat("x", 300))),
			Ack{Type: PUBACK, ID: 1, Code: UnspecifiedError, Reason: []byte(strings.Repeat("x", 300))},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseAck(tt.want.Type, []byte(tt.body), tt.v)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			if packet := AppendAck([]byte("before"), &tt.want, tt.v); string(packet) != "before"+tt.head+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, tt.head+sized(tt.body))
			}
		})
	}
}

func TestAckMaySayMoreThanItMust(t *testing.T) {
	for _, typ := range ackTypes {
		for _, body := range []string{"\x00\x07\x00", "\x00\x07\x00\x00"} {
			a, err := ParseAck(typ, []byte(body), V5)
			if want := (Ack{Type: typ, ID: 7}); err != nil || !reflect.DeepEqual(a, want) {
				t.Errorf("%v with %X is %+v, %v, want %+v", typ, body, a, err, want)
			}
		}
	}
}

func TestAckOfOlderVersionsSaysNothingMore(t *testing.T) {
	a := Ack{Type: PUBACK, ID: 7, Code: QuotaExceeded, Reason: []byte("full")}
	checkPacket(t, func(dst []byte) []byte { return AppendAck(dst, &a, V311) }, "40 02 00 07")
}

func TestAckIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		versions []Version
		body     string
		code     ReasonCode
		want     *Error
	}{
		{"empty", versions, "", MalformedPacket, errTruncated},
		{"half an identifier", versions, "\x01", MalformedPacket, errTruncated},
		{"identifier 0 [MQTT-2.2.1-5]", versions, "\x00\x00", ProtocolError, errPacketID},
		{"bytes behind the identifier", []Version{V31, V311}, "\x00\x01\x00", MalformedPacket, errTrailing},
		{"bytes behind the properties", []Version{V5}, "\x00\x01\x00\x00\x00", MalformedPacket, errTrailing},
		{"code of another packet", []Version{V5}, "\x00\x01\x18", ProtocolError, errReason},
		{"properties are cut", []Version{V5}, "\x00\x01\x00\x05\x1F\x00", MalformedPacket, errTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, typ := range ackTypes {
				each(t, tt.versions, func(t *testing.T, v Version) {
					a, err := ParseAck(typ, []byte(tt.body), v)
					checkFault(t, err, tt.code, tt.want)
					if !reflect.DeepEqual(a, Ack{}) {
						t.Errorf("%+v beside the error", a)
					}
				})
			}
		})
	}
}

func TestAckCodesOfTheTables(t *testing.T) {
	for _, tt := range []struct {
		statement string
		typ       Type
		codes     string
	}{
		{"[MQTT-3.4.2-1]", PUBACK, "0x00 0x10 0x80 0x83 0x87 0x90 0x91 0x97 0x99"},
		{"[MQTT-3.5.2-1]", PUBREC, "0x00 0x10 0x80 0x83 0x87 0x90 0x91 0x97 0x99"},
		{"[MQTT-3.6.2-1]", PUBREL, "0x00 0x92"},
		{"[MQTT-3.7.2-1]", PUBCOMP, "0x00 0x92"},
	} {
		t.Run(tt.typ.String()+" "+tt.statement, func(t *testing.T) {
			checkCodes(t, tt.codes, func(c byte) error { _, err := ParseAck(tt.typ, []byte{0, 1, c}, V5); return err })
		})
	}
}

func TestAcksThatCountUpAreOneRun(t *testing.T) {
	for _, tt := range []struct {
		name  string
		b     string
		t     Type
		first ID
		n     int
	}{
		{"nothing", "", 0, 0, 0},
		{"cut", "\x40\x02\x00", 0, 0, 0},
		{"one", "\x40\x02\x00\x05", PUBACK, 5, 1},
		{"two and a half", "\x50\x02\x00\xFF\x50\x02\x01\x00\x50\x02\x01", PUBREC, 0xFF, 2},
		{"PUBREL", "\x62\x02\x00\x05\x62\x02\x00\x06", PUBREL, 5, 2},
		{"PUBREL sent again, as 3.1 has it", "\x6A\x02\x00\x05", 0, 0, 0},
		{"PUBREL without its flags [MQTT-3.6.1-1]", "\x60\x02\x00\x05", 0, 0, 0},
		{"PUBACK with flags", "\x42\x02\x00\x05", 0, 0, 0},
		{"another type", "\x70\x02\x00\x05\x40\x02\x00\x06", PUBCOMP, 5, 1},
		{"the same again", "\x40\x02\x00\x05\x40\x02\x00\x05", PUBACK, 5, 1},
		{"a gap", "\x40\x02\x00\x05\x40\x02\x00\x07", PUBACK, 5, 1},
		{"a reason code", "\x40\x02\x00\x05\x40\x03\x00\x06\x10", PUBACK, 5, 1},
		{"the length in two bytes", "\x40\x82\x00\x00\x05", 0, 0, 0},
		{"the last identifier", "\x40\x02\xFF\xFE\x40\x02\xFF\xFF\x40\x02\x00\x01", PUBACK, 0xFFFE, 2},
		{"a length behind the last identifier", "\x40\x02\xFF\xFF\x40\x03\x00\x00", PUBACK, 0xFFFF, 1},
		{"identifier 0 [MQTT-2.2.1-5]", "\x40\x02\x00\x00\x40\x02\x00\x01", 0, 0, 0},
		{"another packet", "\xC0\x00\x40\x02", 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			typ, first, n := AckRun([]byte(tt.b))
			if typ != tt.t || first != tt.first || n != tt.n {
				t.Fatalf("got %d of %v from %d on, want %d of %v from %d on", n, typ, first, tt.n, tt.t, tt.first)
			}
			checkRun(t, []byte(tt.b))
		})
	}
}

// checkRun fails t unless AckRun says of b what ParseHeader and ParseAck say of each packet.
func checkRun(t *testing.T, b []byte) {
	typ, first, n := AckRun(b)
	if n == 0 {
		return
	}
	if again := AppendAckRun(nil, typ, first, n); string(again) != string(b[:4*n]) {
		t.Fatalf("%X is written as %X", b[:4*n], again)
	}
	for i := range n {
		h, head, err := ParseHeader5(b)
		if err != nil || h.Type != typ {
			t.Fatalf("packet %d: header %+v, %v", i, h, err)
		}
		a, err := ParseAck(typ, b[head:head+h.Remaining], V5)
		if want := (Ack{Type: typ, ID: first + ID(i)}); err != nil || !reflect.DeepEqual(a, want) {
			t.Fatalf("packet %d: %+v, %v, want %+v", i, a, err, want)
		}
		b = b[head+h.Remaining:]
	}
}

func FuzzAckRun(f *testing.F) {
	f.Add([]byte("\x40\x02\x00\x05\x40\x02\x00\x06"))
	f.Add([]byte("\x62\x02\xFF\xFF\x62\x03\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) { checkRun(t, b) })
}

func BenchmarkAckRun(b *testing.B) {
	buf := AppendAckRun(nil, PUBREC, 1000, 100)
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, _, n := AckRun(buf); n != 100 {
			b.Fatal(n)
		}
	}
}

func FuzzParseAck(f *testing.F) {
	f.Add([]byte("\x00\x01"), byte(0), byte(V311))
	f.Add([]byte("\x00\x01\x00"), byte(1), byte(V5))
	f.Add([]byte("\x00\x01\x92\x00"), byte(2), byte(V5))
	f.Add([]byte("\x00\x01\x97"+sized(user("c", "d")+"\x1F"+str("full")+user("a", "b"))), byte(0), byte(V5))
	f.Fuzz(func(t *testing.T, body []byte, which, version byte) {
		v, typ := versions[int(version)%len(versions)], ackTypes[int(which)%len(ackTypes)]
		cutEverywhere(body, func(b []byte) error { _, err := ParseAck(typ, b, v); return err })
		a, err := ParseAck(typ, body, v)
		if err != nil {
			return
		}
		again, _ := bodyOf(t, AppendAck(nil, &a, v), typ)
		b, err := ParseAck(typ, again, v)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		onlyUser(&a.UserProperties)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("%X is %+v and then %+v", body, a, b)
		}
	})
}
