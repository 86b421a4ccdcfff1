package packet

import (
	"testing"
)

func TestHeaderIsCutOffTheStream(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		want        Header
		n           int
	}{
		{"nothing yet", "", Header{}, 0},
		{"first byte only", "\x10", Header{}, 0},
		{"length not whole", "\x30\x80", Header{}, 0},
		{"length not whole after four bytes", "\x30\xFF\xFF\xFF", Header{}, 0},
		{"ping", "\xC0\x00", Header{PINGREQ, 0, 0}, 2},
		{"ping answer and more behind it", "\xD0\x00\x30\x04", Header{PINGRESP, 0, 0}, 2},
		{"connect", "\x10\x0C", Header{CONNECT, 0, 12}, 2},
		{"publish with all flags", "\x3D\x7F", Header{PUBLISH, 0x0D, 127}, 2},
		{"publish at qos 1", "\x32\x80\x01", Header{PUBLISH, 0x02, 128}, 3},
		{"three bytes of length", "\x30\x80\x80\x01", Header{PUBLISH, 0, 16_384}, 4},
		{"longest", "\x30\xFF\xFF\xFF\x7F", Header{PUBLISH, 0, MaxRemaining}, 5},
		{"length in more bytes than needed", "\x30\x85\x00", Header{PUBLISH, 0, 5}, 3},
		{"subscribe", "\x82\x05", Header{SUBSCRIBE, 2, 5}, 2},
		{"auth", "\xF0\x00", Header{AUTH, 0, 0}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, n, err := ParseHeader([]byte(tt.bytes))
			if h != tt.want || n != tt.n || err != nil {
				t.Errorf("header is %+v, %d, %v, want %+v, %d", h, n, err, tt.want, tt.n)
			}
		})
	}
}

func TestHeaderIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		want        *Error
	}{
		{"type 0", "\x00\x00", errReservedType},
		{"type 0 before its length", "\x0F", errReservedType},
		{"publish with qos 3 [MQTT-3.3.1-4]", "\x36\x05", errQoS3},
		{"publish with dup and qos 3 [MQTT-3.3.1-4]", "\x3E\x05", errQoS3},
		{"publish with dup at qos 0 [MQTT-3.3.1-2]", "\x38\x05", errDupQoS0},
		{"length of five bytes", "\x30\x80\x80\x80\x80\x01", errRemainingLength},
		{"length that does not end with its fourth byte", "\x30\xFF\xFF\xFF\xFF", errRemainingLength},
		{"ping with a body", "\xC0\x01", errPingBody},
		{"ping answer with a body", "\xD0\x01", errPingBody},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, n, err := ParseHeader([]byte(tt.bytes))
			checkFault(t, err, MalformedPacket, tt.want)
			if h != (Header{}) || n != 0 {
				t.Errorf("header is %+v, %d beside the error", h, n)
			}
		})
	}
}

// Each type is tried with all its flags (MQTT5 §2.1.3).
func TestReservedFlagsAreAsTheTypeWantsThem(t *testing.T) {
	for _, tt := range []struct {
		statement string
		typ       Type
		want      byte
		want31    []byte // what MQTT 3.1 allows besides
	}{
		{"[MQTT-2.1.3-1]", CONNECT, 0, nil},
		{"[MQTT-2.1.3-1]", CONNACK, 0, nil},
		{"[MQTT-2.1.3-1]", PUBACK, 0, nil},
		{"[MQTT-2.1.3-1]", PUBREC, 0, nil},
		{"[MQTT-3.6.1-1]", PUBREL, 2, []byte{0x0A}},
		{"[MQTT-2.1.3-1]", PUBCOMP, 0, nil},
		{"[MQTT-3.8.1-1]", SUBSCRIBE, 2, []byte{0x0A}},
		{"[MQTT-2.1.3-1]", SUBACK, 0, nil},
		{"[MQTT-3.10.1-1]", UNSUBSCRIBE, 2, []byte{0x0A}},
		{"[MQTT-2.1.3-1]", UNSUBACK, 0, nil},
		{"[MQTT-2.1.3-1]", PINGREQ, 0, nil},
		{"[MQTT-2.1.3-1]", PINGRESP, 0, nil},
		{"[MQTT-3.14.1-1]", DISCONNECT, 0, nil},
		{"[MQTT-3.15.1-1]", AUTH, 0, nil},
	} {
		t.Run(tt.typ.String()+" "+tt.statement, func(t *testing.T) {
			for flags := range byte(16) {
				b := []byte{byte(tt.typ)<<4 | flags, 0}
				fault := errReservedFlags
				switch b[0] {
				case 0x15, 0x16:
					fault = errTLS
				case 'G':
					fault = errHTTP
				}
				_, _, err := ParseHeader(b)
				if flags == tt.want {
					if err != nil {
						t.Errorf("flags %04b are refused: %v", flags, err)
					}
				} else {
					checkFault(t, err, MalformedPacket, fault)
				}
				_, _, err = ParseHeader31(b)
				if flags == tt.want || len(tt.want31) > 0 && flags == tt.want31[0] {
					if err != nil {
						t.Errorf("flags %04b are refused in MQTT 3.1: %v", flags, err)
					}
				} else {
					checkFault(t, err, MalformedPacket, fault)
				}
			}
		})
	}
}

func TestHeaderOfMQTT31ReportsTheFlagsAsReceived(t *testing.T) {
	h, n, err := ParseHeader31([]byte("\x8A\x05"))
	if want := (Header{SUBSCRIBE, 0x0A, 5}); h != want || n != 2 || err != nil {
		t.Errorf("header is %+v, %d, %v, want %+v", h, n, err, want)
	}
	if h, n, err := ParseHeader31(nil); h != (Header{}) || n != 0 || err != nil {
		t.Errorf("header of nothing is %+v, %d, %v", h, n, err)
	}
}

func TestPingsAreAllHeader(t *testing.T) {
	checkPacket(t, AppendPingreq, "C0 00")
	checkPacket(t, AppendPingresp, "D0 00")
}

// FuzzParseHeader: a header that parses says nothing else when its length is written in the
// fewest bytes, and is not there while one of its bytes is missing.
func FuzzParseHeader(f *testing.F) {
	for _, s := range []string{"", "\x10\x0C", "\x30\xFF\xFF\xFF\x7F", "\x30\x80\x80\x80\x80", "\x82\x80\x00", "\xC0\x01", "\x8A\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := ParseHeader(b)
		h31, n31, err31 := ParseHeader31(b)
		if err == nil && (h != h31 || n != n31 || err31 != nil) {
			t.Fatalf("ParseHeader of %X is %+v, %d, ParseHeader31 is %+v, %d, %v", b, h, n, h31, n31, err31)
		}
		if err != nil || n == 0 {
			if h != (Header{}) || n != 0 {
				t.Fatalf("ParseHeader of %X is %+v, %d beside %v", b, h, n, err)
			}
			return
		}
		for cut := range n {
			if h, n, err := ParseHeader(b[:cut]); h != (Header{}) || n != 0 || err != nil {
				t.Fatalf("ParseHeader of %X is %+v, %d, %v, want nothing yet", b[:cut], h, n, err)
			}
		}
		again := appendVarint([]byte{byte(h.Type)<<4 | h.Flags}, h.Remaining)
		if got, _, err := ParseHeader(again); got != h || err != nil || len(again) > n {
			t.Fatalf("ParseHeader of %X is %+v, of %X it is %+v, %v", b, h, again, got, err)
		}
	})
}

func BenchmarkParseHeader(b *testing.B) {
	packet := []byte("\x30\x80\x01")
	b.ReportAllocs()
	for b.Loop() {
		if _, n, err := ParseHeader(packet); n != 3 || err != nil {
			b.Fatal(n, err)
		}
	}
}

// In MQTT 5.0 alone a Remaining Length must be as short as it can be [MQTT-1.5.5-1].
func TestPaddedRemainingLengthIsRefusedIn50(t *testing.T) {
	for _, tt := range []struct {
		bytes  string
		padded bool
	}{
		{"\x40\x02", false},
		{"\x40\x80\x01", false},
		{"\x40\x80\x80\x01", false},
		{"\x40\x80\x80\x80\x01", false},
		{"\x40\x82\x00", true},
		{"\x40\xFF\x00", true},
		{"\x40\x82\x80\x00", true},
		{"\x40\xFF\xFF\x00", true},
		{"\x40\x82\x80\x80\x00", true},
		{"\x40\x82", false}, // not whole yet
	} {
		before, n, err := ParseHeader([]byte(tt.bytes))
		if err != nil {
			t.Fatalf("%q: %v", tt.bytes, err)
		}
		h, n5, err := ParseHeader5([]byte(tt.bytes))
		if tt.padded {
			checkFault(t, err, MalformedPacket, errVarint)
		} else if h != before || n5 != n || err != nil {
			t.Errorf("%q: %+v, %d, %v; want %+v, %d", tt.bytes, h, n5, err, before, n)
		}
	}
}
