package packet

import (
	"reflect"
	"testing"
)

// connectHead is a CONNECT up to the Keep Alive.
func connectHead(name string, v Version, flags byte) string {
	return str(name) + string([]byte{byte(v), flags, 0, 60})
}

// defaults is c with what a Parse sets for absent properties.
func defaults(c Connect) Connect {
	c.KeepAlive = 60
	c.ReceiveMaximum = 65535
	c.RequestProblem = true
	return c
}

func TestConnectIsParsedAndAppended(t *testing.T) {
	full := Connect{
		Version: V5, CleanStart: true, KeepAlive: 60, ClientID: []byte("gateway-7"),
		Username: []byte("user"), HasUsername: true, Password: []byte{0, 0xFF}, HasPassword: true,
		HasWill: true,
		Will: Will{
			Topic: []byte("gateway/7/state"), Payload: []byte("gone"), QoS: 2, Retain: true,
			Delay: 5, Expiry: 600, HasExpiry: true,
			Raw:           []byte("\x18\x00\x00\x00\x05\x01\x01\x08" + str("r/1") + user("k", "v") + "\x02\x00\x00\x02\x58"),
			Properties:    []byte("\x01\x01\x08" + str("r/1") + user("k", "v")),
			PayloadFormat: 1,
		},
		SessionExpiry: 3600, ReceiveMaximum: 20, MaximumPacketSize: 65536, TopicAliasMaximum: 10,
		RequestResponse: true, RequestProblem: false,
		AuthMethod: []byte("SCRAM"), AuthData: []byte{1}, UserProperties: []byte(user("a", "b") + user("a", "c")),
	}
	for _, tt := range []struct {
		name string
		body string
		want Connect
	}{
		{"MQTT 3.1", connectHead("MQIsdp", V31, 0x02) + str("id"), defaults(Connect{Version: V31, CleanStart: true, ClientID: []byte("id")})},
		{"3.1.1", connectHead("MQTT", V311, 0x00) + str("id"), defaults(Connect{Version: V311, ClientID: []byte("id")})},
		{"3.1.1 without a client identifier", connectHead("MQTT", V311, 0x02) + str(""), defaults(Connect{Version: V311, CleanStart: true, ClientID: []byte{}})},
		{
			"3.1.1 with a will and credentials", connectHead("MQTT", V311, 0xEE) + str("id") + str("t") + str("p") + str("u") + str("s"),
			defaults(Connect{
				Version: V311, CleanStart: true, ClientID: []byte("id"),
				HasWill: true, Will: Will{Topic: []byte("t"), Payload: []byte("p"), QoS: 1, Retain: true},
				Username: []byte("u"), HasUsername: true, Password: []byte("s"), HasPassword: true,
			}),
		},
		{
			"3.1.1 with empty user name and password [MQTT-3.1.2-19] [MQTT-3.1.2-21]", connectHead("MQTT", V311, 0xC2) + str("id") + str("") + str(""),
			defaults(Connect{Version: V311, CleanStart: true, ClientID: []byte("id"), Username: []byte{}, HasUsername: true, Password: []byte{}, HasPassword: true}),
		},
		{
			"3.1.1 with an empty will payload", connectHead("MQTT", V311, 0x04) + str("id") + str("t") + str(""),
			defaults(Connect{Version: V311, ClientID: []byte("id"), HasWill: true, Will: Will{Topic: []byte("t"), Payload: []byte{}}}),
		},
		{"5.0", connectHead("MQTT", V5, 0x02) + "\x00" + str("id"), defaults(Connect{Version: V5, CleanStart: true, ClientID: []byte("id")})},
		{
			"5.0 with a password alone (MQTT5 §3.1.2.9)", connectHead("MQTT", V5, 0x42) + "\x00" + str("id") + str("token"),
			defaults(Connect{Version: V5, CleanStart: true, ClientID: []byte("id"), Password: []byte("token"), HasPassword: true}),
		},
		{
			"5.0 with everything in our order", connectHead("MQTT", V5, 0xF6) +
				sized("\x11\x00\x00\x0E\x10\x21\x00\x14\x27\x00\x01\x00\x00\x22\x00\x0A\x19\x01\x17\x00\x15"+str("SCRAM")+"\x16"+str("\x01")+user("a", "b")+user("a", "c")) +
				str("gateway-7") +
				sized("\x18\x00\x00\x00\x05\x01\x01\x08"+str("r/1")+user("k", "v")+"\x02\x00\x00\x02\x58") +
				str("gateway/7/state") + str("gone") + str("user") + str("\x00\xFF"),
			full,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConnect([]byte(tt.body))
			if err == nil && tt.want.Version == V5 && got.HasWill && tt.want.Will.Raw == nil {
				got.Will.Raw = nil
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.want)
			}
			if packet := AppendConnect([]byte("before"), &tt.want); string(packet) != "before\x10"+sized(tt.body) {
				t.Errorf("appended %q, want %q", packet, "\x10"+sized(tt.body))
			}
		})
	}
}

func TestConnectIsRefused(t *testing.T) {
	type row struct {
		name    string
		body    string
		version Version // that came with the error
		code    ReasonCode
		want    *Error
	}
	old := func(flags byte) string { return connectHead("MQTT", V311, flags) }
	v5 := func(flags byte) string { return connectHead("MQTT", V5, flags) + "\x00" }
	rows := []row{
		{"empty", "", 0, MalformedPacket, errTruncated},
		{"name is cut", "\x00\x04MQT", 0, MalformedPacket, errTruncated},
		{"another name [MQTT-3.1.2-1]", connectHead("HTTP", V5, 0x02) + "\x00" + str("id"), 0, UnsupportedProtocolVersion, errProtocolName},
		{"name in lower case [MQTT-3.1.2-1]", connectHead("mqtt", V5, 0x02) + "\x00" + str("id"), 0, UnsupportedProtocolVersion, errProtocolName},
		{"empty name [MQTT-3.1.2-1]", connectHead("", V5, 0x02) + "\x00" + str("id"), 0, UnsupportedProtocolVersion, errProtocolName},
		{"no version", str("MQTT"), 0, MalformedPacket, errTruncated},
		{"version 6 [MQTT-3.1.2-2]", connectHead("MQTT", 6, 0x02) + "\x00" + str("id"), 6, UnsupportedProtocolVersion, errVersion},
		{"version 0 [MQTT-3.1.2-2]", connectHead("MQTT", 0, 0x02) + str("id"), 0, UnsupportedProtocolVersion, errVersion},
		{"version 3 with the new name [MQTT-3.1.2-2]", connectHead("MQTT", V31, 0x02) + str("id"), V31, UnsupportedProtocolVersion, errVersion},
		{"version 4 with the old name [MQTT-3.1.2-2]", connectHead("MQIsdp", V311, 0x02) + str("id"), V311, UnsupportedProtocolVersion, errVersion},
		{"version 5 with the old name [MQTT-3.1.2-2]", connectHead("MQIsdp", V5, 0x02) + "\x00" + str("id"), V5, UnsupportedProtocolVersion, errVersion},
		{"version 4 marked by a bridge", connectHead("MQTT", V311|0x80, 0x02) + str("id"), V311 | 0x80, UnsupportedProtocolVersion, errVersion},
		{"no flags", str("MQTT") + "\x05", V5, MalformedPacket, errTruncated},
		{"reserved flag in 3.1.1 [MQTT-3.1.2-3]", old(0x03) + str("id"), V311, MalformedPacket, errConnectReserved},
		{"reserved flag in 5.0 [MQTT-3.1.2-3]", v5(0x03) + str("id"), V5, MalformedPacket, errConnectReserved},
		{"will qos 3 in 3.1.1 [MQTT-3.1.2-14]", old(0x1E) + str("id") + str("t") + str("p"), V311, MalformedPacket, errWillQoS3},
		{"will qos 3 in 5.0 [MQTT-3.1.2-12]", v5(0x1E) + str("id") + "\x00" + str("t") + str("p"), V5, MalformedPacket, errWillQoS3},
		{"will qos 3 without a will", v5(0x1A) + str("id"), V5, MalformedPacket, errWillQoS3},
		{"will qos 1 without a will [MQTT-3.1.2-11]", v5(0x0A) + str("id"), V5, ProtocolError, errWillFlags},
		{"will qos 2 without a will [MQTT-3.1.2-11]", old(0x12) + str("id"), V311, ProtocolError, errWillFlags},
		{"will retain without a will [MQTT-3.1.2-13]", v5(0x22) + str("id"), V5, ProtocolError, errWillFlags},
		{"password without a user name in 3.1.1 [MQTT-3.1.2-22]", old(0x42) + str("id") + str("p"), V311, ProtocolError, errPasswordAlone},
		{"password without a user name in MQTT 3.1", connectHead("MQIsdp", V31, 0x42) + str("id") + str("p"), V31, ProtocolError, errPasswordAlone},
		{"half a keep alive", str("MQTT") + "\x05\x02\x00", V5, MalformedPacket, errTruncated},
		{"no property length [MQTT-2.2.2-1]", connectHead("MQTT", V5, 0x02), V5, MalformedPacket, errTruncated},
		{"authentication data without a method (MQTT5 §3.1.2.11.10)", connectHead("MQTT", V5, 0x02) + sized("\x16"+str("d")) + str("id"), V5, ProtocolError, errAuthDataAlone},
		{"no client identifier [MQTT-3.1.3-3]", old(0x02), V311, MalformedPacket, errTruncated},
		{"client identifier is cut", v5(0x02) + "\x00\x03id", V5, MalformedPacket, errTruncated},
		{"no will properties [MQTT-2.2.2-1]", v5(0x06) + str("id"), V5, MalformedPacket, errTruncated},
		{"will properties are cut", v5(0x06) + str("id") + "\x05\x01\x01", V5, MalformedPacket, errTruncated},
		{"no will topic [MQTT-3.1.2-9]", old(0x06) + str("id"), V311, MalformedPacket, errTruncated},
		{"no will payload [MQTT-3.1.2-9]", old(0x06) + str("id") + str("t"), V311, MalformedPacket, errTruncated},
		{"empty will topic in 3.1.1 [MQTT-4.7.3-1]", old(0x06) + str("id") + str("") + str("p"), V311, ProtocolError, errWillTopic},
		{"will topic with a wildcard [MQTT-3.3.2-2]", v5(0x06) + str("id") + "\x00" + str("a/#") + str("p"), V5, ProtocolError, errWillTopic},
		{"will with a bad response topic [MQTT-3.3.2-14]", v5(0x06) + str("id") + sized("\x08"+str("+")) + str("a") + str("p"), V5, ProtocolError, errResponseTopic},
		{"no user name [MQTT-3.1.2-19]", old(0x82) + str("id"), V311, MalformedPacket, errTruncated},
		{"no password [MQTT-3.1.2-19]", v5(0xC2) + str("id") + str("u"), V5, MalformedPacket, errTruncated},
		{"half a user name in MQTT 3.1", connectHead("MQIsdp", V31, 0x82) + str("id") + "\x00\x04use", V31, MalformedPacket, errTruncated},
		{"bytes behind the payload in 3.1.1", old(0x02) + str("id") + "x", V311, MalformedPacket, errTrailing},
		{"bytes behind the payload in 5.0", v5(0x82) + str("id") + str("u") + "\x00", V5, MalformedPacket, errTrailing},
		{"user name without its flag [MQTT-3.1.2-16]", v5(0x02) + str("id") + str("u"), V5, MalformedPacket, errTrailing},
	}
	for _, bad := range badStrings {
		rows = append(rows,
			row{"client identifier with " + bad.name + " [MQTT-3.1.3-4]", old(0x02) + str(bad.s), V311, MalformedPacket, errUTF8},
			row{"will topic with " + bad.name + " [MQTT-3.1.3-11]", v5(0x06) + str("id") + "\x00" + str(bad.s) + str("p"), V5, MalformedPacket, errUTF8},
			row{"user name with " + bad.name + " [MQTT-3.1.3-12]", v5(0x82) + str("id") + str(bad.s), V5, MalformedPacket, errUTF8})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConnect([]byte(tt.body))
			checkFault(t, err, tt.code, tt.want)
			if want := (Connect{Version: tt.version}); !reflect.DeepEqual(c, want) {
				t.Errorf("%+v beside the error, want %+v", c, want)
			}
		})
	}
}

func TestMQTT31MayLeaveOutCredentials(t *testing.T) {
	for _, tt := range []struct {
		name               string
		body               string
		username, password bool
	}{
		{"both missing", connectHead("MQIsdp", V31, 0xC2) + str("id"), false, false},
		{"password missing", connectHead("MQIsdp", V31, 0xC2) + str("id") + str("u"), true, false},
		{"user name missing", connectHead("MQIsdp", V31, 0x82) + str("id"), false, false},
		{"both there", connectHead("MQIsdp", V31, 0xC2) + str("id") + str("u") + str("p"), true, true},
		{"reserved flag is not looked at", connectHead("MQIsdp", V31, 0x83) + str("id") + str("u"), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConnect([]byte(tt.body))
			if err != nil || c.HasUsername != tt.username || c.HasPassword != tt.password {
				t.Errorf("user name %v, password %v, %v, want %v, %v", c.HasUsername, c.HasPassword, err, tt.username, tt.password)
			}
		})
	}
}

func TestWillPropertiesSurviveWhatStandsBetween(t *testing.T) {
	block := "\x01\x01\x18\x00\x00\x00\x05" + "\x03" + str("type") + "\x02\x00\x00\x00\x09" + user("k", "v")
	const want = "\x01\x01\x03\x00\x04type\x26\x00\x01k\x00\x01v"
	c, err := ParseConnect([]byte(connectHead("MQTT", V5, 0x06) + "\x00" + str("id") + sized(block) + str("t") + str("p")))
	if err != nil || !c.Will.Scattered || c.Will.Properties != nil || c.Will.Delay != 5 || c.Will.Expiry != 9 || !c.Will.HasExpiry {
		t.Fatalf("will is %+v, %v", c.Will, err)
	}
	if got := string(c.Will.AppendTravelling([]byte("before"))); got != "before"+want {
		t.Errorf("travelling are %q, want %q", got, want)
	}
}

// FuzzParseConnect: what parses is the same when it is appended and parsed again, but for where
// properties stand and for what MQTT 3.1 may leave out.
func FuzzParseConnect(f *testing.F) {
	f.Add([]byte(connectHead("MQIsdp", V31, 0xC3) + str("id") + str("u")))
	f.Add([]byte(connectHead("MQTT", V311, 0xEE) + str("id") + str("t") + str("p") + str("u") + str("s")))
	f.Add([]byte(connectHead("MQTT", V5, 0x02) + "\x00" + str("id")))
	f.Add([]byte(connectHead("MQTT", V5, 0xF6) +
		sized("\x11\x00\x00\x0E\x10\x21\x00\x14\x27\x00\x01\x00\x00\x22\x00\x0A\x19\x01\x17\x00\x15"+str("S")+"\x16"+str("\x01")+user("a", "b")) +
		str("id") + sized("\x01\x01\x18\x00\x00\x00\x05\x08"+str("r/1")+"\x02\x00\x00\x02\x58"+user("k", "v")) +
		str("t") + str("p") + str("u") + str("\x00\xFF")))
	f.Add([]byte(connectHead("MQTT", 6, 0x02) + "\x00" + str("id")))
	f.Fuzz(func(t *testing.T, body []byte) {
		cutEverywhere(body, func(b []byte) error { _, err := ParseConnect(b); return err })
		c, err := ParseConnect(body)
		if err != nil {
			return
		}
		again, _ := bodyOf(t, AppendConnect(nil, &c), CONNECT)
		d, err := ParseConnect(again)
		if err != nil {
			t.Fatalf("%X parses, what is written of it does not: %v", body, err)
		}
		if string(c.Will.AppendTravelling(nil)) != string(d.Will.AppendTravelling(nil)) {
			t.Fatalf("%X travelled, then %X", c.Will.AppendTravelling(nil), d.Will.AppendTravelling(nil))
		}
		for _, x := range []*Connect{&c, &d} {
			onlyUser(&x.UserProperties)
			x.Will.Raw, x.Will.Properties, x.Will.Scattered = nil, nil, false
		}
		if !reflect.DeepEqual(c, d) {
			t.Fatalf("%X is %+v and then %+v", body, c, d)
		}
	})
}
