package main

import (
	"flag"
	"math"
	"strings"
	"unicode/utf8"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/packet"
	"dunlin/core/topic"
)

// maxText is the length of the longest string of MQTT, in bytes.
const maxText = math.MaxUint16

// properties are the options that give a message its properties (MQTT5 §3.3.2.3): those of pub,
// and with the prefix "will-" those of the will.
type properties struct {
	fs                                       *flag.FlagSet
	prefix                                   string
	expiry                                   uint64
	format, contentType, response, correlate string
	user                                     pairs
}

func messageOptions(fs *flag.FlagSet, prefix string) *properties {
	p := &properties{fs: fs, prefix: prefix}
	fs.Uint64Var(&p.expiry, prefix+"expiry", 0, "")
	fs.StringVar(&p.contentType, prefix+"content-type", "", "")
	fs.StringVar(&p.response, prefix+"response-topic", "", "")
	fs.StringVar(&p.correlate, prefix+"correlation", "", "")
	fs.StringVar(&p.format, prefix+"payload-format", "", "")
	fs.Var(&p.user, prefix+"property", "")
	return p
}

// names returns the options.
func (p *properties) names() []string {
	all := []string{"expiry", "content-type", "response-topic", "correlation", "payload-format", "property"}
	for i := range all {
		all[i] = p.prefix + all[i]
	}
	return all
}

// apply checks the options and gives m the properties.
func (p *properties) apply(m *client.Message) error {
	is := func(name string) bool { return given(p.fs, p.prefix+name) }
	t := &m.Properties
	if is("expiry") {
		if p.expiry > math.MaxUint32 {
			return usagef("--%sexpiry %d is out of range; allowed: 0 to %d", p.prefix, p.expiry, uint32(math.MaxUint32))
		}
		m.Expiry, m.HasExpiry = uint32(p.expiry), true
	}
	if is("content-type") {
		if err := checkText("--"+p.prefix+"content-type", p.contentType); err != nil {
			return err
		}
		t.ContentType = []byte(p.contentType)
	}
	if is("response-topic") {
		if err := topic.CheckName([]byte(p.response)); err != nil {
			return usagef("--%sresponse-topic %.80q cannot be published to: %s", p.prefix, p.response, trimTopic(err))
		}
		t.ResponseTopic = []byte(p.response)
	}
	if is("correlation") {
		if len(p.correlate) > maxText {
			return usagef("--%scorrelation has %d bytes; allowed: up to %d", p.prefix, len(p.correlate), maxText)
		}
		t.CorrelationData = []byte(p.correlate)
	}
	if is("payload-format") {
		t.HasPayloadFormat = true
		switch p.format {
		case "1", "utf-8":
			t.PayloadFormat = 1
		case "0", "bytes":
		default:
			return usagef("--%spayload-format %q is none; allowed: 0 or bytes, 1 or utf-8", p.prefix, p.format)
		}
	}
	t.UserProperties = p.user.encoded
	return nil
}

// checkFormat refuses a payload that is not what its Payload Format Indicator says.
func checkFormat(m *client.Message) error {
	if m.Properties.PayloadFormat == 1 && !utf8.Valid(m.Payload) {
		return usagef("the message to %s is no UTF-8, which its payload format says it is", m.Topic)
	}
	return nil
}

func checkText(what, s string) error {
	if len(s) > maxText {
		return usagef("%s has %d bytes; allowed: up to %d", what, len(s), maxText)
	}
	if !topic.ValidString([]byte(s)) {
		return usagef("%s %.80q is no text that MQTT can carry", what, s)
	}
	return nil
}

// pairs are the User Properties of an option that repeats, each NAME=VALUE.
type pairs struct{ encoded []byte }

func (p *pairs) String() string { return "" }

// Set implements flag.Value.
func (p *pairs) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return usagef("it must be NAME=VALUE")
	}
	for _, part := range []string{name, value} {
		if err := checkText("a part of", part); err != nil {
			return err
		}
	}
	p.encoded = packet.AppendUserProperty(p.encoded, name, value)
	return nil
}

// needV5 refuses options that are given and that the version has not.
func needV5(fs *flag.FlagSet, v packet.Version, names ...string) error {
	if v == packet.V5 {
		return nil
	}
	for _, n := range names {
		if given(fs, n) {
			return usagef("--%s needs MQTT 5.0", n)
		}
	}
	return nil
}
