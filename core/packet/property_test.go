package packet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// propertyHolders are the packets with a property block, and the will with its own: how to parse
// one that has block and is otherwise in order.
var propertyHolders = []struct {
	name  string
	parse func(block string) error
}{
	{"CONNECT", func(block string) error {
		_, err := ParseConnect([]byte(str("MQTT") + "\x05\x02\x00\x00" + sized(block) + str("id")))
		return err
	}},
	{"will", func(block string) error {
		_, err := ParseConnect([]byte(str("MQTT") + "\x05\x06\x00\x00\x00" + str("id") + sized(block) + str("t") + str("p")))
		return err
	}},
	{"CONNACK", func(block string) error {
		_, err := ParseConnack([]byte("\x00\x00"+sized(block)), V5)
		return err
	}},
	{"PUBLISH", func(block string) error {
		_, err := ParsePublish([]byte(str("t")+sized(block)+"p"), 0, V5)
		return err
	}},
	{"PUBACK", ackWith(PUBACK)},
	{"PUBREC", ackWith(PUBREC)},
	{"PUBREL", ackWith(PUBREL)},
	{"PUBCOMP", ackWith(PUBCOMP)},
	{"SUBSCRIBE", func(block string) error {
		_, err := ParseSubscribe([]byte("\x00\x01"+sized(block)+str("f")+"\x00"), V5)
		return err
	}},
	{"SUBACK", func(block string) error {
		_, err := ParseSuback([]byte("\x00\x01"+sized(block)+"\x00"), V5)
		return err
	}},
	{"UNSUBSCRIBE", func(block string) error {
		_, err := ParseUnsubscribe([]byte("\x00\x01"+sized(block)+str("f")), V5)
		return err
	}},
	{"UNSUBACK", func(block string) error {
		_, err := ParseUnsuback([]byte("\x00\x01"+sized(block)+"\x00"), V5)
		return err
	}},
	{"DISCONNECT", func(block string) error {
		_, err := ParseDisconnect([]byte("\x00"+sized(block)), V5)
		return err
	}},
	{"AUTH", func(block string) error {
		_, err := ParseAuth([]byte("\x18" + sized(block)))
		return err
	}},
	{"travelling", func(block string) error {
		_, err := ParseTravelling([]byte(block))
		return err
	}},
}

func ackWith(typ Type) func(block string) error {
	return func(block string) error {
		_, err := ParseAck(typ, []byte("\x00\x01\x00"+sized(block)), V5)
		return err
	}
}

// propertyTable is table 2-4 of MQTT5 §2.2.2.2 with a valid value for each.
var propertyTable = []struct {
	name    string
	id      byte
	value   string
	holders string
}{
	{"Payload Format Indicator", 0x01, "\x01", "PUBLISH will travelling"},
	{"Message Expiry Interval", 0x02, "\x00\x00\x00\x05", "PUBLISH will"},
	{"Content Type", 0x03, str("text/plain"), "PUBLISH will travelling"},
	{"Response Topic", 0x08, str("a/b"), "PUBLISH will travelling"},
	{"Correlation Data", 0x09, str("\x00\xFF"), "PUBLISH will travelling"},
	{"Subscription Identifier", 0x0B, "\x80\x01", "PUBLISH SUBSCRIBE"},
	{"Session Expiry Interval", 0x11, "\xFF\xFF\xFF\xFF", "CONNECT CONNACK DISCONNECT"},
	{"Assigned Client Identifier", 0x12, str("auto-1"), "CONNACK"},
	{"Server Keep Alive", 0x13, "\x00\x3C", "CONNACK"},
	{"Authentication Method", 0x15, str("SCRAM-SHA-256"), "CONNECT CONNACK AUTH"},
	{"Authentication Data", 0x16, str("\x00\xFF"), "CONNECT CONNACK AUTH"},
	{"Request Problem Information", 0x17, "\x00", "CONNECT"},
	{"Will Delay Interval", 0x18, "\x00\x00\x00\x00", "will"},
	{"Request Response Information", 0x19, "\x01", "CONNECT"},
	{"Response Information", 0x1A, str("r"), "CONNACK"},
	{"Server Reference", 0x1C, str("other:1883"), "CONNACK DISCONNECT"},
	{"Reason String", 0x1F, str("because"), "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"},
	{"Receive Maximum", 0x21, "\x00\x01", "CONNECT CONNACK"},
	{"Topic Alias Maximum", 0x22, "\x00\x00", "CONNECT CONNACK"},
	{"Topic Alias", 0x23, "\x00\x01", "PUBLISH"},
	{"Maximum QoS", 0x24, "\x01", "CONNACK"},
	{"Retain Available", 0x25, "\x00", "CONNACK"},
	{"User Property", 0x26, str("name") + str("value"), "CONNECT CONNACK PUBLISH will PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH travelling"},
	{"Maximum Packet Size", 0x27, "\x00\x00\x00\x01", "CONNECT CONNACK"},
	{"Wildcard Subscription Available", 0x28, "\x00", "CONNACK"},
	{"Subscription Identifier Available", 0x29, "\x00", "CONNACK"},
	{"Shared Subscription Available", 0x2A, "\x01", "CONNACK"},
}

// needs is what must stand before a property for it to be judged on its own.
func needs(holder string, id byte) string {
	method := "\x15" + str("m")
	if id == propAuthData || holder == "AUTH" && id != propAuthMethod {
		return method
	}
	return ""
}

func TestPropertiesStandOnlyWhereTheTableHasThem(t *testing.T) {
	for _, tt := range propertyTable {
		allowed := strings.Fields(tt.holders)
		for _, holder := range propertyHolders {
			t.Run(tt.name+" in "+holder.name, func(t *testing.T) {
				property := string(tt.id) + tt.value
				before := needs(holder.name, tt.id)
				err := holder.parse(before + property)
				if !slices.Contains(allowed, holder.name) {
					if before == "" || holder.name == "AUTH" {
						checkFault(t, err, MalformedPacket, errProperty)
					} else if err == nil {
						t.Error("is taken")
					}
					return
				}
				if err != nil {
					t.Fatalf("is refused: %v", err)
				}
				err = holder.parse(before + property + property)
				if tt.id == propUserProperty || tt.id == propSubscriptionID && holder.name == "PUBLISH" {
					if err != nil {
						t.Errorf("may stand twice, but is refused: %v", err)
					}
				} else {
					checkFault(t, err, ProtocolError, errPropertyTwice)
				}
				for n := range len(property) {
					if n == 0 && before == "" {
						continue
					}
					if err := holder.parse(before + property[:n]); n > 0 && err != errTruncated {
						t.Errorf("cut to %d bytes it gives %v, want %v", n, err, errTruncated)
					}
				}
			})
		}
	}
}

func TestUnknownPropertiesAreMalformed(t *testing.T) {
	known := map[byte]bool{}
	for _, p := range propertyTable {
		known[p.id] = true
	}
	for _, holder := range propertyHolders {
		t.Run(holder.name, func(t *testing.T) {
			for id := range 256 {
				if known[byte(id)] {
					continue
				}
				// Whatever form one would guess, there are bytes enough for it.
				err := holder.parse(string([]byte{byte(id), 0, 0, 0, 0, 0, 0, 0, 0}))
				if err != errProperty {
					t.Errorf("identifier 0x%02X gives %v, want %v", id, err, errProperty)
				}
			}
			// The identifier of a User Property in two bytes is not minimal [MQTT-1.5.5-1].
			checkFault(t, holder.parse("\xA6\x00"+str("a")+str("b")), MalformedPacket, errProperty)
		})
	}
}

func TestPropertyValuesAreJudgedWhereverTheyStand(t *testing.T) {
	type row struct {
		name  string
		id    byte
		value string
		code  ReasonCode
		want  *Error
	}
	rows := []row{
		{"Receive Maximum 0", propReceiveMaximum, "\x00\x00", ProtocolError, errPropertyZero},
		{"Maximum Packet Size 0", propMaximumPacketSize, "\x00\x00\x00\x00", ProtocolError, errPropertyZero},
		{"Subscription Identifier 0", propSubscriptionID, "\x00", ProtocolError, errPropertyZero},
		{"Subscription Identifier not minimal [MQTT-1.5.5-1]", propSubscriptionID, "\x81\x00", MalformedPacket, errVarint},
		{"Subscription Identifier of five bytes", propSubscriptionID, "\x80\x80\x80\x80\x01", MalformedPacket, errVarint},
		{"Response Topic empty [MQTT-4.7.3-1]", propResponseTopic, str(""), ProtocolError, errResponseTopic},
		{"Response Topic with + [MQTT-3.3.2-14]", propResponseTopic, str("a/+"), ProtocolError, errResponseTopic},
		{"Response Topic with # [MQTT-3.3.2-14]", propResponseTopic, str("#"), ProtocolError, errResponseTopic},
	}
	for _, p := range propertyTable {
		switch kinds[p.id] {
		case flag:
			rows = append(rows,
				row{p.name + " 2", p.id, "\x02", ProtocolError, errPropertyFlag},
				row{p.name + " 255", p.id, "\xFF", ProtocolError, errPropertyFlag})
		case text:
			for _, bad := range badStrings {
				rows = append(rows, row{p.name + " with " + bad.name, p.id, str(bad.s), MalformedPacket, errUTF8})
			}
		case textPair:
			for _, bad := range badStrings {
				rows = append(rows,
					row{p.name + " name with " + bad.name + " [MQTT-1.5.7-1]", p.id, str(bad.s) + str("v"), MalformedPacket, errUTF8},
					row{p.name + " value with " + bad.name + " [MQTT-1.5.7-1]", p.id, str("n") + str(bad.s), MalformedPacket, errUTF8})
			}
		}
	}
	for _, tt := range rows {
		i := slices.IndexFunc(propertyTable, func(p struct {
			name    string
			id      byte
			value   string
			holders string
		},
		) bool {
			return p.id == tt.id
		})
		for _, holder := range propertyHolders {
			if !slices.Contains(strings.Fields(propertyTable[i].holders), holder.name) {
				continue
			}
			t.Run(tt.name+" in "+holder.name, func(t *testing.T) {
				checkFault(t, holder.parse(needs(holder.name, tt.id)+string(tt.id)+tt.value), tt.code, tt.want)
			})
		}
	}
}

func TestPropertiesKeepTheByteOrderMark(t *testing.T) { // [MQTT-1.5.4-3]
	p, err := ParsePublish([]byte(str("\uFEFFt")+sized("\x08"+str("\uFEFFr"))), 0, V5)
	if err != nil || string(p.Topic) != "\uFEFFt" || string(p.ResponseTopic) != "\uFEFFr" {
		t.Errorf("topic %q, response topic %q, %v", p.Topic, p.ResponseTopic, err)
	}
}

func TestPropertyBlockHasItsLength(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		want        *Error
	}{
		{"missing [MQTT-2.2.2-1]", "", errTruncated},
		{"cut", "\x80", errTruncated},
		{"beyond the packet", "\x05\x01\x00", errTruncated},
		{"not minimal [MQTT-1.5.5-1]", "\x80\x00", errVarint},
		{"five bytes", "\x80\x80\x80\x80\x01", errVarint},
		{"ends inside a property", "\x01\x01\x01", errTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParsePublish([]byte(str("t")+tt.bytes), 0, V5)
			checkFault(t, err, MalformedPacket, tt.want)
		})
	}
}

func TestUserPropertiesKeepOrderAndRepetitions(t *testing.T) { // [MQTT-3.3.2-18]
	block := "\x01\x01" + user("b", "1") + "\x03" + str("type") + user("a", "2") + user("b", "1") + user("", "")
	want := []string{"b=1", "a=2", "b=1", "="}
	var got []string
	for name, value := range UserProperties([]byte(block)) {
		got = append(got, name+"="+value)
	}
	if !slices.Equal(got, want) {
		t.Errorf("user properties are %q, want %q", got, want)
	}
	for name := range UserProperties([]byte(block)) {
		if name != "b" {
			t.Errorf("went on to %q after the caller had stopped", name)
		}
		break
	}
	if b := AppendUserProperty(AppendUserProperty(nil, "b", "1"), "a", "2"); string(b) != user("b", "1")+user("a", "2") {
		t.Errorf("appended %q", b)
	}
}

func TestUserPropertiesEndAtWhatIsNone(t *testing.T) {
	for _, tail := range []string{"\x26", "\x26\x00", "\x00", "\xFF", "\x26\x00\x01a\x00\x05b"} {
		t.Run(fmt.Sprintf("%X", tail), func(t *testing.T) {
			n := 0
			for range UserProperties([]byte(user("a", "b") + tail)) {
				n++
			}
			if n != 1 {
				t.Errorf("%d user properties, want 1", n)
			}
		})
	}
}

// What stands between User Properties is not theirs: an Append that takes a Parse's result must
// not write it twice.
func TestUserPropertiesAloneAreAppended(t *testing.T) {
	block := user("a", "1") + "\x1F" + str("why") + user("b", "2")
	a, err := ParseAck(PUBACK, []byte("\x00\x07\x10"+sized(block)), V5)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for name, value := range UserProperties(a.UserProperties) {
		got = append(got, name+"="+value)
	}
	if want := []string{"a=1", "b=2"}; !slices.Equal(got, want) {
		t.Errorf("user properties are %q, want %q", got, want)
	}
	want := "\x00\x07\x10" + sized("\x1F"+str("why")+user("a", "1")+user("b", "2"))
	if body, _ := bodyOf(t, AppendAck(nil, &a, V5), PUBACK); string(body) != want {
		t.Errorf("appended %q, want %q", body, want)
	}
}

func FuzzUserProperties(f *testing.F) {
	f.Add([]byte(user("a", "b") + user("", "")))
	f.Add([]byte("\x01\x01" + user("a", "b") + "\x26\x00"))
	f.Add([]byte("\x0B\xFF\xFF\xFF\xFF"))
	f.Fuzz(func(t *testing.T, block []byte) {
		var again []byte
		for name, value := range UserProperties(block) {
			again = AppendUserProperty(again, name, value)
		}
		if only := appendOnly(nil, block, userSet); string(only) != string(again) || sizeOnly(block, userSet) != len(only) {
			t.Fatalf("of %X, %X was copied and %X decoded; size %d", block, only, again, sizeOnly(block, userSet))
		}
		cutEverywhere(block, func(b []byte) error {
			for range UserProperties(b) {
			}
			return nil
		})
	})
}
