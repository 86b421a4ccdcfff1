package packet

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// The tests write bodies as strings, put together by the following.

// str is a UTF-8 Encoded String or Binary Data.
func str(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// sized is s behind its length as a Variable Byte Integer: a property block.
func sized(s string) string { return string(appendVarint(nil, len(s))) + s }

// user is a User Property.
func user(name, value string) string { return "\x26" + str(name) + str(value) }

// versions are all that packets are parsed for.
var versions = []Version{V31, V311, V5}

// checkFault fails t unless err is the fault want, with the code that the row states.
func checkFault(t *testing.T, err error, code ReasonCode, want *Error) {
	t.Helper()
	got, ok := err.(*Error)
	if !ok || got != want {
		t.Fatalf("error is %v, want %v", err, want)
	}
	if got.Code != code {
		t.Errorf("code is %v, want %v", got.Code, code)
	}
}

// checkPacket fails t unless an Append has written want, hexadecimal with spaces, behind what
// was in dst.
func checkPacket(t *testing.T, appended func(dst []byte) []byte, want string) {
	t.Helper()
	got := appended([]byte("before"))
	if behind, ok := strings.CutPrefix(string(got), "before"); !ok {
		t.Errorf("the bytes before are %q now", got)
	} else if want = strings.ReplaceAll(want, " ", ""); hex.EncodeToString([]byte(behind)) != strings.ToLower(want) {
		t.Errorf("wrote %X, want %s", behind, want)
	}
}

// bodyOf fails t unless packet is one whole packet of type want, and returns its body and flags.
func bodyOf(t *testing.T, packet []byte, want Type) (body []byte, flags byte) {
	t.Helper()
	h, n, err := ParseHeader(packet)
	if err != nil || n == 0 || n+h.Remaining != len(packet) || h.Type != want {
		t.Fatalf("header of the %d bytes %X is %+v, %d, %v, want one %v", len(packet), packet, h, n, err, want)
	}
	return packet[n:], h.Flags
}

// cutEverywhere parses strict prefixes of body: none may panic. Of a long one it tries the first
// and the last, so that fuzzing stays fast.
func cutEverywhere(body []byte, parse func([]byte) error) {
	for n := range len(body) {
		if n < 200 || n > len(body)-20 {
			_ = parse(body[:n:n])
		}
	}
}

// each names the subtests of versions.
func each(t *testing.T, versions []Version, test func(t *testing.T, v Version)) {
	for _, v := range versions {
		t.Run(fmt.Sprintf("version %d", v), func(t *testing.T) { test(t, v) })
	}
}

// badStrings are what no UTF-8 Encoded String may be.
var badStrings = []struct{ name, s string }{
	{"null [MQTT-1.5.4-2]", "a\x00b"},
	{"null in two bytes [MQTT-1.5.4-1]", "a\xC0\x80"},
	{"surrogate [MQTT-1.5.4-1]", "\xED\xA0\x80"},
	{"surrogate pair [MQTT-1.5.4-1]", "\xED\xA0\x81\xED\xB0\x80"},
	{"overlong [MQTT-1.5.4-1]", "\xC1\xA1"},
	{"stray continuation [MQTT-1.5.4-1]", "a\x80"},
	{"cut character [MQTT-1.5.4-1]", "a\xE2\x82"},
	{"beyond U+10FFFF [MQTT-1.5.4-1]", "\xF4\x90\x80\x80"},
}
