package main

import (
	"bufio"
	"bytes"
	"flag"
	"testing"
	"time"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/packet"
)

// sample is a message with everything.
func sample() *client.Message {
	return &client.Message{
		Topic: "plant/7", Payload: []byte("<21.5>"), QoS: 1, Retain: true, Dup: true,
		Properties: packet.Travelling{
			PayloadFormat: 1, HasPayloadFormat: true, ContentType: []byte("text/plain"), ResponseTopic: []byte("reply"),
			CorrelationData: []byte{0xff, 1}, UserProperties: packet.AppendUserProperty(packet.AppendUserProperty(nil, "a", "1"), "a", "2"),
		},
		Expiry: 60, HasExpiry: true, SubscriptionIDs: []uint32{3, 7},
	}
}

func TestMessageHasTheFormThatWasAskedFor(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 8, 7, 65_000_000, time.UTC)
	for _, tt := range []struct {
		name string
		args []string
		m    *client.Message
		want string
	}{
		{"plain", nil, sample(), "<21.5>\n"},
		{"verbose", []string{"-v"}, sample(), "plant/7 <21.5>\n"},
		{"hex", []string{"--hex"}, sample(), "3c32312e353e\n"},
		{"verbose hex", []string{"-v", "--hex"}, sample(), "plant/7 3c32312e353e\n"},
		{
			"JSON",
			[]string{"--json"},
			sample(),
			`{"time":"2026-11-20T09:08:07.065Z","topic":"plant/7","qos":1,"retain":true,"dup":true,"payload":"<21.5>",` +
				`"payload_format":1,"content_type":"text/plain","response_topic":"reply","correlation":"/wE=","correlation_base64":true,` +
				`"expiry":60,"subscription_ids":[3,7],"properties":[["a","1"],["a","2"]]}` + "\n",
		},
		{
			"JSON of bytes",
			[]string{"--json"},
			&client.Message{Topic: "a", Payload: []byte{0xff, 0}},
			`{"time":"2026-11-20T09:08:07.065Z","topic":"a","qos":0,"retain":false,"payload":"/wA=","base64":true}` + "\n",
		},
		{
			"pretty",
			[]string{"--pretty"},
			sample(),
			`plant/7
  time            2026-11-20T09:08:07.065Z
  qos             1, retained, maybe not for the first time
  payload format  UTF-8
  content type    text/plain
  response topic  reply
  correlation     "\xff\x01"
  expires in      60 s
  subscriptions   3,7
  property        a = 1
  property        a = 2
  payload         6 bytes
    <21.5>

`,
		},
		{
			"pretty JSON",
			[]string{"--pretty"},
			&client.Message{Topic: "a", Payload: []byte(`{"t":[1]}`)},
			"a\n  time            2026-11-20T09:08:07.065Z\n  qos             0\n  payload         9 bytes\n" +
				"    {\n      \"t\": [\n        1\n      ]\n    }\n\n",
		},
		{
			"pretty keeps the terminal safe",
			[]string{"--pretty"},
			&client.Message{Topic: "a\x1b[2J", Payload: []byte("b\x1b[2J")},
			"\"a\\x1b[2J\"\n  time            2026-11-20T09:08:07.065Z\n  qos             0\n  payload         5 bytes\n" +
				"    00000000  62 1b 5b 32 4a                                    |b.[2J|\n\n",
		},
		{
			"format",
			[]string{"-F", `%t %p %x %l %q%r%d %U %I %C %R %E %F %S %P %%\t|`},
			sample(),
			"plant/7 <21.5> 3c32312e353e 6 111 1795165687.065000000 2026-11-20T09:08:07.065Z text/plain reply 60 1 3,7 a:1 a:2 %\t|\n",
		},
		{"format of what is not there", []string{"-F", "[%C%R%D%E%F%S%P]"}, &client.Message{Topic: "a"}, "[]\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs := flag.NewFlagSet("sub", flag.ContinueOnError)
			o := outputOptions(fs)
			if err := fs.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			p, err := o.printer(bufio.NewWriter(&bytes.Buffer{}))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(p.form(nil, tt.m, now)); got != tt.want {
				t.Errorf("\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}
