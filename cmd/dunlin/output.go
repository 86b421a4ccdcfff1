package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/packet"
)

// output is what the options of sub say about the form of a message.
type output struct {
	verbose, pretty, json, hex bool
	format                     string
	fs                         *flag.FlagSet
}

func outputOptions(fs *flag.FlagSet) *output {
	o := &output{fs: fs}
	both(fs.BoolVar, &o.verbose, "v", "verbose")
	fs.BoolVar(&o.pretty, "pretty", false, "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.BoolVar(&o.hex, "hex", false, "")
	both(fs.StringVar, &o.format, "F", "format")
	return o
}

// printer writes messages in one form.
type printer struct {
	w    *bufio.Writer
	form func(b []byte, m *client.Message, now time.Time) []byte // appends a message
	buf  []byte
}

// printer checks the options.
func (o *output) printer(w *bufio.Writer) (*printer, error) {
	forms := 0
	for _, is := range []bool{o.verbose || o.hex, o.pretty, o.json, given(o.fs, "F", "format")} {
		if is {
			forms++
		}
	}
	if forms > 1 {
		return nil, usagef("the messages can have one form: -v and --hex, --pretty, --json or -F")
	}
	p := &printer{w: w, form: o.plain}
	switch {
	case o.pretty:
		p.form = appendPretty
	case o.json:
		p.form = appendJSON
	case given(o.fs, "F", "format"):
		f, err := parseFormat(o.format)
		if err != nil {
			return nil, err
		}
		p.form = f.append
	}
	return p, nil
}

func (p *printer) print(m *client.Message) {
	p.buf = p.form(p.buf[:0], m, time.Now())
	p.w.Write(p.buf) // flush tells of its error
}

func (p *printer) flush() error {
	if err := p.w.Flush(); err != nil {
		return fmt.Errorf("the message cannot be printed: %w", err)
	}
	return nil
}

// timeForm is RFC 3339 with milliseconds.
const timeForm = "2006-01-02T15:04:05.000Z07:00"

func (o *output) plain(b []byte, m *client.Message, _ time.Time) []byte {
	if o.verbose {
		b = append(append(b, m.Topic...), ' ')
	}
	if o.hex {
		b = hex.AppendEncode(b, m.Payload)
	} else {
		b = append(b, m.Payload...)
	}
	return append(b, '\n')
}

// jsonMessage is a message in --json. Bytes that are no UTF-8 are in base64, and a second field
// says so. User properties may repeat and have an order, so they are pairs.
type jsonMessage struct {
	Time              string      `json:"time"` // of reception
	Topic             string      `json:"topic"`
	QoS               packet.QoS  `json:"qos"`
	Retain            bool        `json:"retain"`
	Dup               bool        `json:"dup,omitzero"`
	Payload           string      `json:"payload"`
	Base64            bool        `json:"base64,omitzero"`
	PayloadFormat     *byte       `json:"payload_format,omitzero"`
	ContentType       *string     `json:"content_type,omitzero"`
	ResponseTopic     *string     `json:"response_topic,omitzero"`
	Correlation       *string     `json:"correlation,omitzero"`
	CorrelationBase64 bool        `json:"correlation_base64,omitzero"`
	Expiry            *uint32     `json:"expiry,omitzero"` // seconds
	SubscriptionIDs   []uint32    `json:"subscription_ids,omitzero"`
	Properties        [][2]string `json:"properties,omitzero"`
}

func appendJSON(b []byte, m *client.Message, now time.Time) []byte {
	t := &m.Properties
	j := jsonMessage{
		Time: now.Format(timeForm), Topic: m.Topic, QoS: m.QoS, Retain: m.Retain, Dup: m.Dup,
		ContentType: optional(t.ContentType), ResponseTopic: optional(t.ResponseTopic),
		SubscriptionIDs: m.SubscriptionIDs,
	}
	j.Payload, j.Base64 = textOrBase64(m.Payload)
	if t.CorrelationData != nil {
		var data string
		data, j.CorrelationBase64 = textOrBase64(t.CorrelationData)
		j.Correlation = &data
	}
	if t.HasPayloadFormat {
		j.PayloadFormat = &t.PayloadFormat
	}
	if m.HasExpiry {
		j.Expiry = &m.Expiry
	}
	for name, value := range packet.UserProperties(t.UserProperties) {
		j.Properties = append(j.Properties, [2]string{name, value})
	}
	w := bytes.NewBuffer(b)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(&j); err != nil {
		panic("sub: internal error: a message has no JSON: " + err.Error())
	}
	return w.Bytes()
}

func optional(b []byte) *string {
	if b == nil {
		return nil
	}
	return new(string(b))
}

func textOrBase64(b []byte) (s string, is64 bool) {
	if utf8.Valid(b) {
		return string(b), false
	}
	return base64.StdEncoding.EncodeToString(b), true
}

// appendPretty writes a message for a person: nothing in it reaches the terminal as a control
// character.
func appendPretty(b []byte, m *client.Message, now time.Time) []byte {
	t := &m.Properties
	field := func(name, value string) { b = fmt.Appendf(b, "  %-15s %s\n", name, value) }
	b = fmt.Appendf(b, "%s\n", readable(m.Topic))
	field("time", now.Format(timeForm))
	flags := fmt.Sprintf("%d", m.QoS)
	if m.Retain {
		flags += ", retained"
	}
	if m.Dup {
		flags += ", maybe not for the first time"
	}
	field("qos", flags)
	if t.HasPayloadFormat {
		field("payload format", [2]string{"bytes", "UTF-8"}[t.PayloadFormat])
	}
	if t.ContentType != nil {
		field("content type", readable(string(t.ContentType)))
	}
	if t.ResponseTopic != nil {
		field("response topic", readable(string(t.ResponseTopic)))
	}
	if t.CorrelationData != nil {
		field("correlation", readable(string(t.CorrelationData)))
	}
	if m.HasExpiry {
		field("expires in", fmt.Sprintf("%d s", m.Expiry))
	}
	if len(m.SubscriptionIDs) > 0 {
		field("subscriptions", joined(m.SubscriptionIDs))
	}
	for name, value := range packet.UserProperties(t.UserProperties) {
		field("property", readable(name)+" = "+readable(value))
	}
	field("payload", fmt.Sprintf("%d bytes", len(m.Payload)))
	return append(appendIndented(b, m.Payload), '\n')
}

// appendIndented writes a payload: JSON indented, text by lines, anything else as a hex dump.
func appendIndented(b, payload []byte) []byte {
	if len(payload) == 0 {
		return b
	}
	text := string(payload)
	var indented bytes.Buffer
	if json.Indent(&indented, payload, "", "  ") == nil {
		text = indented.String()
	}
	if !printable(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\t", " "), true) {
		text = hex.Dump(payload)
	}
	for line := range strings.Lines(text) {
		b = append(b, "    "...)
		b = append(append(b, strings.TrimRight(line, "\r\n")...), '\n')
	}
	return b
}

// readable quotes what is not printable.
func readable(s string) string {
	if printable(s, false) {
		return s
	}
	return strconv.Quote(s)
}

func printable(s string, lines bool) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool {
		return !unicode.IsPrint(r) && !(lines && r == '\n')
	}) < 0
}

func joined(ids []uint32) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(uint64(id), 10))
	}
	return b.String()
}

// format is the FORMAT of -F, as mosquitto_sub has it: literal text and fields in turn.
type format []piece

// piece is literal text, or a field if verb is not 0.
type piece struct {
	text string
	verb byte
}

// formatVerbs are the fields.
const formatVerbs = "tpxlqrdUICRDEFSP"

// formatEscapes are the characters behind a backslash, and what they stand for.
var formatEscapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", 'e': "\x1b", '0': "\x00", '\\': "\\"}

func parseFormat(s string) (format, error) {
	var f format
	literal := func(text string) { f = append(f, piece{text: text}) }
	for len(s) > 0 {
		n := strings.IndexAny(s, `%\`)
		if n < 0 {
			n = len(s)
		}
		if n > 0 {
			literal(s[:n])
			s = s[n:]
			continue
		}
		if len(s) == 1 {
			return nil, usagef("the format ends with a single %s", s)
		}
		switch c := s[1]; {
		case s[:2] == "%%":
			literal("%")
		case s[0] == '%' && strings.IndexByte(formatVerbs, c) >= 0:
			f = append(f, piece{verb: c})
		case s[0] == '\\' && formatEscapes[c] != "":
			literal(formatEscapes[c])
		default:
			return nil, usagef("the format has %q, which stands for nothing", s[:2])
		}
		s = s[2:]
	}
	return f, nil
}

func (f format) append(b []byte, m *client.Message, now time.Time) []byte {
	t := &m.Properties
	for _, p := range f {
		switch p.verb {
		case 0:
			b = append(b, p.text...)
		case 't':
			b = append(b, m.Topic...)
		case 'p':
			b = append(b, m.Payload...)
		case 'x':
			b = hex.AppendEncode(b, m.Payload)
		case 'l':
			b = strconv.AppendInt(b, int64(len(m.Payload)), 10)
		case 'q':
			b = strconv.AppendInt(b, int64(m.QoS), 10)
		case 'r':
			b = appendBit(b, m.Retain)
		case 'd':
			b = appendBit(b, m.Dup)
		case 'U':
			b = fmt.Appendf(b, "%d.%09d", now.Unix(), now.Nanosecond())
		case 'I':
			b = now.AppendFormat(b, timeForm)
		case 'C':
			b = append(b, t.ContentType...)
		case 'R':
			b = append(b, t.ResponseTopic...)
		case 'D':
			b = append(b, t.CorrelationData...)
		case 'E':
			if m.HasExpiry {
				b = strconv.AppendUint(b, uint64(m.Expiry), 10)
			}
		case 'F':
			if t.HasPayloadFormat {
				b = strconv.AppendUint(b, uint64(t.PayloadFormat), 10)
			}
		case 'S':
			b = append(b, joined(m.SubscriptionIDs)...)
		case 'P':
			separator := ""
			for name, value := range packet.UserProperties(t.UserProperties) {
				b = append(b, separator+name+":"+value...)
				separator = " "
			}
		}
	}
	return append(b, '\n')
}

func appendBit(b []byte, on bool) []byte {
	if on {
		return append(b, '1')
	}
	return append(b, '0')
}
