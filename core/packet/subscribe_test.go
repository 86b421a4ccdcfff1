package packet

import (
	"reflect"
	"testing"
)

// filtersOf collects what a Subscribe yields, nil if nothing.
func filtersOf(s Subscribe) (filters []Subscription) {
	for filter, options := range s.Filters() {
		filters = append(filters, Subscription{string(filter), options})
	}
	return filters
}

func TestSubscribeIsParsedAndAppended(t *testing.T) {
	for _, tt := range []struct {
		name    string
		v       Version
		body    string
		subID   uint32
		filters []Subscription
	}{
		{"MQTT 3.1", V31, "\x12\x34" + str("a/#") + "\x01", 0, []Subscription{{"a/#", SubscribeOptions{QoS: 1}}}},
		{
			"3.1.1 with several", V311, "\x12\x34" + str("a") + "\x00" + str("+/b") + "\x02" + str("a") + "\x01", 0,
			[]Subscription{{"a", SubscribeOptions{}}, {"+/b", SubscribeOptions{QoS: 2}}, {"a", SubscribeOptions{QoS: 1}}},
		},
		{"5.0", V5, "\x12\x34\x00" + str("a") + "\x02", 0, []Subscription{{"a", SubscribeOptions{QoS: 2}}}},
		{
			"5.0 with everything", V5, "\x12\x34" + sized("\x0B\xFF\xFF\xFF\x7F") + str("a") + "\x2E" + str("b") + "\x10" + str("c") + "\x08", MaxRemaining,
			[]Subscription{
				{"a", SubscribeOptions{QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}},
				{"b", SubscribeOptions{RetainHandling: 1}},
				{"c", SubscribeOptions{RetainAsPublished: true}},
			},
		},
		{"filters are the caller's to check", V5, "\x12\x34\x00" + str("") + "\x00" + str("a#") + "\x00", 0, []Subscription{{"", SubscribeOptions{}}, {"a#", SubscribeOptions{}}}},
		{"no local beside a shared subscription", V5, "\x12\x34\x00" + str("$share/g/a") + "\x01" + str("a") + "\x04", 0, []Subscription{{"$share/g/a", SubscribeOptions{QoS: 1}}, {"a", SubscribeOptions{NoLocal: true}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseSubscribe([]byte(tt.body), tt.v)
			if err != nil || s.ID != 0x1234 || s.SubscriptionID != tt.subID || s.Version != tt.v || s.UserProperties != nil {
				t.Errorf("parsed %+v, %v", s, err)
			}
			if got := filtersOf(s); !reflect.DeepEqual(got, tt.filters) {
				t.Errorf("filters are %+v, want %+v", got, tt.filters)
			}
			packet := AppendSubscribe([]byte("before"), 0x1234, tt.subID, tt.filters, tt.v)
			if string(packet) != "before\x82"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\x82"+sized(tt.body))
			}
		})
	}
}

func TestFiltersStopWhenTheCallerDoes(t *testing.T) {
	s, err := ParseSubscribe([]byte("\x00\x01"+str("a")+"\x00"+str("b")+"\x00"), V311)
	if err != nil {
		t.Fatal(err)
	}
	for filter := range s.Filters() {
		if string(filter) != "a" {
			t.Errorf("went on to %q", filter)
		}
		break
	}
}

func TestSubscribeKeepsUserProperties(t *testing.T) {
	s, err := ParseSubscribe([]byte("\x00\x01"+sized(user("a", "b"))+str("f")+"\x00"), V5)
	if err != nil || string(s.UserProperties) != user("a", "b") {
		t.Errorf("user properties are %q, %v", s.UserProperties, err)
	}
}

func TestSubscribeIsRefused(t *testing.T) {
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
		{"identifier 0 [MQTT-2.2.1-3]", all, "\x00\x00\x00" + str("a") + "\x00", ProtocolError, errPacketID},
		{"no filter in 3.1.1 [MQTT-3.8.3-3]", old, "\x00\x01", ProtocolError, errNoFilters},
		{"no filter in 5.0 [MQTT-3.8.3-2]", v5, "\x00\x01\x00", ProtocolError, errNoFilters},
		{"no property length [MQTT-2.2.2-1]", v5, "\x00\x01", MalformedPacket, errTruncated},
		{"properties are cut", v5, "\x00\x01\x02\x0B", MalformedPacket, errTruncated},
		{"filter is cut", old, "\x00\x01\x00\x02a", MalformedPacket, errTruncated},
		{"filter without options", old, "\x00\x01" + str("a"), MalformedPacket, errTruncated},
		{"second filter without options", v5, "\x00\x01\x00" + str("a") + "\x00" + str("b"), MalformedPacket, errTruncated},
		{"stray byte behind the options", v5, "\x00\x01\x00" + str("a") + "\x00\x00", MalformedPacket, errTruncated},
		{"qos 3 in 3.1.1 [MQTT-3-8.3-4]", old, "\x00\x01" + str("a") + "\x03", MalformedPacket, errOptionsReserved},
		{"reserved bit 2 in 3.1.1 [MQTT-3-8.3-4]", old, "\x00\x01" + str("a") + "\x04", MalformedPacket, errOptionsReserved},
		{"reserved bit 7 in 3.1.1 [MQTT-3-8.3-4]", old, "\x00\x01" + str("a") + "\x80", MalformedPacket, errOptionsReserved},
		{"reserved bit 6 [MQTT-3.8.3-5]", v5, "\x00\x01\x00" + str("a") + "\x40", MalformedPacket, errOptionsReserved},
		{"reserved bit 7 [MQTT-3.8.3-5]", v5, "\x00\x01\x00" + str("a") + "\x81", MalformedPacket, errOptionsReserved},
		{"qos 3 (MQTT5 §3.8.3.1)", v5, "\x00\x01\x00" + str("a") + "\x03", ProtocolError, errOptionsQoS},
		{"retain handling 3 (MQTT5 §3.8.3.1)", v5, "\x00\x01\x00" + str("a") + "\x30", ProtocolError, errOptionsRetain},
		{"no local on a shared subscription [MQTT-3.8.3-4]", v5, "\x00\x01\x00" + str("$share/g/a") + "\x04", ProtocolError, errNoLocalShared},
		{"fault in the second filter", v5, "\x00\x01\x00" + str("a") + "\x00" + str("b") + "\x03", ProtocolError, errOptionsQoS},
	}
	for _, bad := range badStrings {
		rows = append(rows, row{"filter with " + bad.name + " [MQTT-3.8.3-1]", v5, "\x00\x01\x00" + str(bad.s) + "\x00", MalformedPacket, errUTF8})
		rows = append(rows, row{"filter with " + bad.name + " [MQTT-3.8.3-1]", old, "\x00\x01" + str(bad.s) + "\x00", MalformedPacket, errUTF8})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			each(t, tt.versions, func(t *testing.T, v Version) {
				s, err := ParseSubscribe([]byte(tt.body), v)
				checkFault(t, err, tt.code, tt.want)
				if !reflect.DeepEqual(s, Subscribe{}) {
					t.Errorf("%+v beside the error", s)
				}
			})
		})
	}
}

func FuzzParseSubscribe(f *testing.F) {
	f.Add([]byte("\x00\x01"+str("a")+"\x00"+str("+/b")+"\x02"), byte(V311))
	f.Add([]byte("\x00\x01"+sized("\x0B\x80\x01"+user("a", "b"))+str("a")+"\x2E"+str("$share/g/b")+"\x01"), byte(V5))
	f.Add([]byte("\x00\x01\x00"+str("$share/g/b")+"\x04"), byte(V5))
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		v := versions[int(version)%len(versions)]
		cutEverywhere(body, func(b []byte) error { _, err := ParseSubscribe(b, v); return err })
		s, err := ParseSubscribe(body, v)
		if err != nil {
			return
		}
		filters := filtersOf(s)
		again, _ := bodyOf(t, AppendSubscribe(nil, s.ID, s.SubscriptionID, filters, v), SUBSCRIBE)
		r, err := ParseSubscribe(again, v)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		if got := filtersOf(r); len(filters) == 0 || !reflect.DeepEqual(got, filters) {
			t.Fatalf("%X has the filters %+v and then %+v", body, filters, got)
		}
		s.UserProperties = nil // not sent
		if !reflect.DeepEqual(s, r) {
			t.Fatalf("%X is %+v and then %+v", body, s, r)
		}
	})
}
