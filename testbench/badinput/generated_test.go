package badinput

import (
	"fmt"
	"slices"
	"strings"

	"dunlin/core/packet"
)

// generated are the attacks that hold for every packet type, every property and every string.
// mosquitto lets many of them pass, so they are for our broker alone.
func generated(v packet.Version) []attack {
	all := slices.Concat(flags(v), misplaced(v), doubled(v), texts(v))
	for i := range all {
		all[i].passes = true
	}
	return all
}

// body is a packet that would be right but for what is done to it: its first byte, what stands in
// front of its properties, and behind them.
type body struct {
	name   string
	first  byte
	before string
	after  string
	will   bool // the properties are those of the will
}

// bodies are the packets of a client.
func bodies(v packet.Version) []body {
	connect := str("MQTT") + string([]byte{byte(v), 0x02, 0, 60})
	willed := str("MQTT") + string([]byte{byte(v), 0x06, 0, 60})
	reason := ""
	if v == packet.V5 {
		reason = "\x00"
	}
	return []body{
		{"CONNECT", 0x10, connect, str("x"), false},
		{"will", 0x10, willed + props(v, "") + str("x"), str("w") + str("p"), true},
		{"PUBLISH", 0x32, str("a") + "\x00\x01", "hi", false},
		{"PUBACK", 0x40, "\x00\x01" + reason, "", false},
		{"PUBREC", 0x50, "\x00\x01" + reason, "", false},
		{"PUBREL", 0x62, "\x00\x01" + reason, "", false},
		{"PUBCOMP", 0x70, "\x00\x01" + reason, "", false},
		{"SUBSCRIBE", 0x82, "\x00\x01", str("a") + "\x01", false},
		{"UNSUBSCRIBE", 0xA2, "\x00\x01", str("a"), false},
		{"DISCONNECT", 0xE0, reason, "", false},
	}
}

// with is the packet with a block of properties of at most 127 bytes.
func (b *body) with(v packet.Version, block string) []byte {
	return frame(b.first, b.before+props(v, block)+b.after)
}

func (b *body) attack(v packet.Version, name, block string, code packet.ReasonCode) attack {
	return attack{name: b.name + " " + name, first: b.first == 0x10, bytes: b.with(v, block), code: code}
}

// flags puts every wrong value into the flags of every packet type [MQTT-2.1.3-1]. Those of PUBLISH
// mean something: its wrong ones are QoS 3, and DUP at QoS 0.
func flags(v packet.Version) (all []attack) {
	for _, b := range append(bodies(v), body{name: "PINGREQ", first: 0xC0}, body{name: "CONNACK", first: 0x20, before: "\x00\x00"},
		body{name: "SUBACK", first: 0x90, before: "\x00\x01", after: "\x00"}, body{name: "UNSUBACK", first: 0xB0, before: "\x00\x01", after: "\x00"},
		body{name: "PINGRESP", first: 0xD0}, body{name: "AUTH", first: 0xF0, before: "\x18"}) {
		if b.will || b.name == "PUBLISH" {
			continue
		}
		right := b.with(v, "")
		for low := range byte(16) {
			if b.first&0x0F == low {
				continue
			}
			wrong := slices.Clone(right)
			wrong[0] = b.first&0xF0 | low
			all = append(all, attack{name: fmt.Sprintf("%s with flags %04b", b.name, low), first: b.first == 0x10, bytes: wrong, code: packet.MalformedPacket})
		}
	}
	for _, low := range []byte{0x6, 0x7, 0xE, 0xF, 0x8, 0x9} {
		all = append(all, attack{name: fmt.Sprintf("PUBLISH with flags %04b", low), bytes: frame(0x30|low, str("a")+"\x00\x01"+props(v, "")), code: packet.MalformedPacket})
	}
	return all
}

// property is a row of the table of MQTT5 §2.2.2.2.
type property struct {
	id    byte
	value string // one that is right
	in    string // the packets of a client that may have it
}

var properties = []property{
	{0x01, "\x01", "PUBLISH will"},
	{0x02, "\x00\x00\x00\x09", "PUBLISH will"},
	{0x03, str("t"), "PUBLISH will"},
	{0x08, str("r"), "PUBLISH will"},
	{0x09, str("c"), "PUBLISH will"},
	{0x0B, "\x01", "SUBSCRIBE PUBLISH"}, // in PUBLISH it is for the server, which has a row of its own
	{0x11, "\x00\x00\x00\x00", "CONNECT DISCONNECT"},
	{0x12, str("x"), ""},
	{0x13, "\x00\x09", ""},
	{0x15, str("m"), "CONNECT"},
	{0x16, str("d"), "CONNECT"},
	{0x17, "\x01", "CONNECT"},
	{0x18, "\x00\x00\x00\x09", "will"},
	{0x19, "\x01", "CONNECT"},
	{0x1A, str("i"), ""},
	{0x1C, str("s"), "DISCONNECT"}, // for the server, which has a row of its own
	{0x1F, str("why"), "PUBACK PUBREC PUBREL PUBCOMP DISCONNECT"},
	{0x21, "\x00\x09", "CONNECT"},
	{0x22, "\x00\x09", "CONNECT"},
	{0x23, "\x00\x01", "PUBLISH"},
	{0x24, "\x01", ""},
	{0x25, "\x01", ""},
	{0x27, "\x00\x00\x10\x00", "CONNECT"},
	{0x28, "\x01", ""},
	{0x29, "\x01", ""},
	{0x2A, "\x01", ""},
}

func (p *property) allowed(b *body) bool { return slices.Contains(strings.Fields(p.in), b.name) }

func (p *property) encoded() string { return string(p.id) + p.value }

// misplaced puts every property into every packet that may not have it (§2.2.2.2).
func misplaced(v packet.Version) (all []attack) {
	if v != packet.V5 {
		return nil
	}
	for _, b := range bodies(v) {
		for _, p := range properties {
			if !p.allowed(&b) {
				all = append(all, b.attack(v, fmt.Sprintf("with property 0x%02X", p.id), p.encoded(), packet.MalformedPacket))
			}
		}
	}
	return all
}

// doubled puts every property twice into every packet that may have it once. User properties alone
// may stand there more often; a Subscription Identifier from a client is wrong the first time.
func doubled(v packet.Version) (all []attack) {
	if v != packet.V5 {
		return nil
	}
	for _, b := range bodies(v) {
		for _, p := range properties {
			if p.allowed(&b) {
				all = append(all, b.attack(v, fmt.Sprintf("with property 0x%02X twice", p.id), p.encoded()+p.encoded(), packet.ProtocolError))
			}
		}
	}
	return all
}

// faults are what is not UTF-8, or must not be in a string [MQTT-1.5.4-1, MQTT-1.5.4-2].
var faults = []struct{ name, text string }{
	{"NUL", "a\x00b"},
	{"a surrogate", "a\xED\xA0\x80"},
	{"half a pair of surrogates", "\xED\xBF\xBF"},
	{"an overlong character of two bytes", "\xC0\xAFa"},
	{"an overlong character of three bytes", "\xE0\x80\xAF"},
	{"an overlong NUL", "\xC0\x80"},
	{"a character above U+10FFFF", "\xF4\x90\x80\x80"},
	{"half a character", "a\xE2\x82"},
	{"a continuation byte alone", "\x80"},
	{"a byte that is never there", "\xFF"},
}

// texts puts every fault into every string.
func texts(v packet.Version) (all []attack) {
	none := props(v, "")
	head := func(flags byte) string { return str("MQTT") + string([]byte{byte(v), flags, 0, 60}) + none }
	for _, f := range faults {
		bad := str(f.text)
		places := map[string][]byte{
			"client id":   frame(0x10, head(0x02)+bad),
			"user name":   frame(0x10, head(0x82)+str("x")+bad),
			"will topic":  frame(0x10, head(0x06)+str("x")+none+bad+str("p")),
			"topic":       frame(0x30, bad+none+"hi"),
			"filter":      frame(0x82, "\x00\x01"+none+bad+"\x01"),
			"2nd filter":  frame(0x82, "\x00\x01"+none+str("a")+"\x01"+bad+"\x01"),
			"filter gone": frame(0xA2, "\x00\x01"+none+bad),
		}
		for where, b := range places {
			all = append(all, attack{name: where + " with " + f.name, first: b[0] == 0x10, bytes: b, code: packet.MalformedPacket})
		}
		if v != packet.V5 {
			continue
		}
		for _, b := range bodies(v) {
			blocks := map[string]string{
				"with " + f.name + " in the name of a user property":  "\x26" + bad + str("v"),
				"with " + f.name + " in the value of a user property": "\x26" + str("n") + bad,
			}
			for _, p := range properties {
				if strings.ContainsRune("\x03\x08\x15\x1F", rune(p.id)) && p.allowed(&b) {
					blocks[fmt.Sprintf("with %s in property 0x%02X", f.name, p.id)] = string(p.id) + bad
				}
			}
			for name, block := range blocks {
				all = append(all, b.attack(v, name, block, packet.MalformedPacket))
			}
		}
	}
	slices.SortFunc(all, func(a, b attack) int { return strings.Compare(a.name, b.name) })
	return all
}
