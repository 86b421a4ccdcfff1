package packet

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestVarintTakesTheFewestBytes(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want string
	}{
		{0, "\x00"},
		{127, "\x7F"},
		{128, "\x80\x01"},
		{16_383, "\xFF\x7F"},
		{16_384, "\x80\x80\x01"},
		{2_097_151, "\xFF\xFF\x7F"},
		{2_097_152, "\x80\x80\x80\x01"},
		{MaxRemaining, "\xFF\xFF\xFF\x7F"},
	} {
		t.Run(fmt.Sprint(tt.n), func(t *testing.T) {
			if got := string(appendVarint(nil, tt.n)); got != tt.want || varintSize(tt.n) != len(got) {
				t.Errorf("%d is %X of size %d, want %X", tt.n, got, varintSize(tt.n), tt.want)
			}
			n, rest, err := cutVarint([]byte(tt.want + "rest"))
			if n != tt.n || string(rest) != "rest" || err != nil {
				t.Errorf("%X is %d with %q behind and %v, want %d", tt.want, n, rest, err, tt.n)
			}
		})
	}
}

func TestVarintIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		want        *Error
	}{
		{"0 in two bytes [MQTT-1.5.5-1]", "\x80\x00", errVarint},
		{"127 in two bytes [MQTT-1.5.5-1]", "\xFF\x00", errVarint},
		{"127 in four bytes [MQTT-1.5.5-1]", "\xFF\x80\x80\x00", errVarint},
		{"five bytes", "\x80\x80\x80\x80\x01", errVarint},
		{"four bytes that go on", "\xFF\xFF\xFF\xFF", errVarint},
		{"nothing", "", errTruncated},
		{"cut", "\xFF\xFF\xFF", errTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := cutVarint([]byte(tt.bytes))
			if err != tt.want || err.Code != MalformedPacket {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
}

func TestLengthMakesRoomForItself(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			body := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
			dst, at := openLength([]byte("before"))
			dst = closeLength(append(dst, body...), at)
			if want := "before" + string(appendVarint(nil, n)) + string(body); string(dst) != want {
				t.Errorf("a length of %d came out as %.20q and %d bytes, want %.20q and %d", n, dst, len(dst), want, len(want))
			}
		})
	}
}

func TestPartsHaveNoSpareCapacity(t *testing.T) {
	b := []byte(str("name") + "behind")
	name, rest, err := cutBinary(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(name, '!')
	if string(rest) != "behind" {
		t.Errorf("an append to a part wrote over what follows: %q", rest)
	}
}

func TestWhatDoesNotFitPanics(t *testing.T) {
	long := strings.Repeat("a", maxString+1)
	for _, tt := range []struct {
		name string
		do   func()
	}{
		{"user property name", func() { AppendUserProperty(nil, long, "") }},
		{"user property value", func() { AppendUserProperty(nil, "", long) }},
		{"topic", func() { AppendPublish(nil, &Publish{Topic: []byte(long)}, V311) }},
		{"subscription identifier", func() {
			AppendPublish(nil, &Publish{Topic: []byte("a"), SubscriptionIDs: []uint32{MaxRemaining + 1}}, V5)
		}},
		{"subscription identifier of 32 bits", func() {
			AppendPublish(nil, &Publish{Topic: []byte("a"), SubscriptionIDs: []uint32{0xFFFFFFFF}}, V5)
		}},
		{"filter to subscribe to", func() { AppendSubscribe(nil, 1, 0, []Subscription{{Filter: long}}, V5) }},
		{"filter to unsubscribe from", func() { AppendUnsubscribe(nil, 1, []string{long}, V5) }},
		{"client identifier", func() { AppendConnect(nil, &Connect{Version: V5, ClientID: []byte(long)}) }},
		{"reason string", func() { AppendAck(nil, &Ack{Type: PUBACK, ID: 1, Reason: []byte(long)}, V5) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if s, ok := recover().(string); !ok || !strings.HasPrefix(s, "packet: internal error: ") {
					t.Errorf("panic value is %q, want an internal error", s)
				}
			}()
			tt.do()
		})
	}
}
