package packet

import (
	"reflect"
	"slices"
	"testing"
)

// namesOf collects what an Unsubscribe yields, nil if nothing.
func namesOf(u Unsubscribe) (filters []string) {
	for filter := range u.Filters() {
		filters = append(filters, string(filter))
	}
	return filters
}

func TestUnsubscribeIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name    string
		v       Version
		body    string
		filters []string
	}{
		{"MQTT 3.1", V31, "\x12\x34" + str("a/#"), []string{"a/#"}},
		{"3.1.1 with several", V311, "\x12\x34" + str("a") + str("+/b") + str("a"), []string{"a", "+/b", "a"}},
		{"5.0", V5, "\x12\x34\x00" + str("a") + str("b"), []string{"a", "b"}},
		{"filters are the caller's to check", V5, "\x12\x34\x00" + str("") + str("a#"), []string{"", "a#"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := ParseUnsubscribe([]byte(tt.body), tt.v)
			if err != nil || u.ID != 0x1234 || u.UserProperties != nil {
				t.Errorf("parsed %+v, %v", u, err)
			}
			if got := namesOf(u); !slices.Equal(got, tt.filters) {
				t.Errorf("filters are %q, want %q", got, tt.filters)
			}
			for filter := range u.Filters() {
				if string(filter) != tt.filters[0] {
					t.Errorf("went on to %q after the caller had stopped", filter)
				}
				break
			}
			packet := AppendUnsubscribe([]byte("before"), 0x1234, tt.filters, tt.v)
			if string(packet) != "before\xA2"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\xA2"+sized(tt.body))
			}
		})
	}
}

func TestUnsubscribeKeepsUserProperties(t *testing.T) {
	u, err := ParseUnsubscribe([]byte("\x00\x01"+sized(user("a", "b")+user("a", "b"))+str("f")), V5)
	if err != nil || string(u.UserProperties) != user("a", "b")+user("a", "b") {
		t.Errorf("user properties are %q, %v", u.UserProperties, err)
	}
}

func TestUnsubscribeIsRefused(t *testing.T) {
	all, old, v5 := versions, versions[:2], versions[2:]
	type row struct {
		name     string
		versions []Version
		body     string
		code     ReasonCode
		want     *Error
	}
	rows := []row{
		{"empty", all, "", MalformedPacket, errTruncated},
		{"half an identifier", all, "\x01", MalformedPacket, errTruncated},
		{"identifier 0 [MQTT-2.2.1-3]", all, "\x00\x00\x00" + str("a"), ProtocolError, errPacketID},
		{"no filter in 3.1.1 [MQTT-3.10.3-2]", old, "\x00\x01", ProtocolError, errNoFilters},
		{"no filter in 5.0 [MQTT-3.10.3-2]", v5, "\x00\x01\x00", ProtocolError, errNoFilters},
		{"no property length [MQTT-2.2.2-1]", v5, "\x00\x01", MalformedPacket, errTruncated},
		{"filter is cut", old, "\x00\x01\x00\x02a", MalformedPacket, errTruncated},
		{"second filter is cut", v5, "\x00\x01\x00" + str("a") + "\x00", MalformedPacket, errTruncated},
	}
	for _, bad := range badStrings {
		rows = append(rows, row{"filter with " + bad.name + " [MQTT-3.10.3-1]", old, "\x00\x01" + str(bad.s), MalformedPacket, errUTF8})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			each(t, tt.versions, func(t *testing.T, v Version) {
				u, err := ParseUnsubscribe([]byte(tt.body), v)
				checkFault(t, err, tt.code, tt.want)
				if !reflect.DeepEqual(u, Unsubscribe{}) {
					t.Errorf("%+v beside the error", u)
				}
			})
		})
	}
}

func FuzzParseUnsubscribe(f *testing.F) {
	f.Add([]byte("\x00\x01"+str("a")+str("+/b")), byte(V311))
	f.Add([]byte("\x00\x01"+sized(user("a", "b"))+str("a")), byte(V5))
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		v := versions[int(version)%len(versions)]
		cutEverywhere(body, func(b []byte) error { _, err := ParseUnsubscribe(b, v); return err })
		u, err := ParseUnsubscribe(body, v)
		if err != nil {
			return
		}
		filters := namesOf(u)
		again, _ := bodyOf(t, AppendUnsubscribe(nil, u.ID, filters, v), UNSUBSCRIBE)
		r, err := ParseUnsubscribe(again, v)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		u.UserProperties = nil // not sent
		if len(filters) == 0 || !reflect.DeepEqual(u, r) {
			t.Fatalf("%X is %+v with %q and then %+v", body, u, filters, r)
		}
	})
}
