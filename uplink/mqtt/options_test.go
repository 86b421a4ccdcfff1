package mqtt

import (
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

var packetPing = packets.NewControlPacket(packets.PINGREQ)

func TestValidateSaysWhatToDo(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Options)
		want   string // "" = valid
	}{
		{"as it is", func(o *Options) {}, ""},
		{"default port", func(o *Options) { o.Endpoint = "mqtts://a.example" }, ""},
		{"address of IPv6", func(o *Options) { o.Endpoint = "mqtt://[::1]:1883" }, ""},
		{"no endpoint", func(o *Options) { o.Endpoint = "" }, "must look like"},
		{"no scheme", func(o *Options) { o.Endpoint = "a.example:1883" }, "must look like"},
		{"unknown scheme", func(o *Options) { o.Endpoint = "http://a.example" }, "it must be mqtt or mqtts"},
		{"path", func(o *Options) { o.Endpoint = "mqtt://a.example/x" }, "must look like"},
		{"password in it", func(o *Options) { o.Endpoint = "mqtt://u:secret@a.example" }, "mqtt://…@a.example"},
		{"no client id", func(o *Options) { o.ClientID = "" }, "client id is missing"},
		{"key without cert", func(o *Options) { o.Endpoint = "mqtts://a"; o.TLS.Key = "k" }, "cert and key together"},
		{"tls without encryption", func(o *Options) { o.TLS.CA = "ca.pem" }, "write mqtts://"},
		{"keep alive in between", func(o *Options) { o.KeepAlive = 1500 * time.Millisecond }, "whole seconds"},
		{"keep alive too long", func(o *Options) { o.KeepAlive = 20 * time.Hour }, "whole seconds up to 65535"},
		{"session expiry negative", func(o *Options) { o.SessionExpiry = -1 }, "session expiry"},
		{"QoS 2 down", func(o *Options) { o.Subscriptions = []Subscription{{"a", 2}} }, "0 or 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Endpoint: "mqtt://127.0.0.1", ClientID: "gateway"}
			tt.change(&o)
			err := o.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate() = %v; want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has a password in it: %v", err)
			}
		})
	}
}

func TestServersThatAreNamedBecomeEndpoints(t *testing.T) { // §4.11
	for _, tt := range []struct {
		name      string
		err       error
		want      string
		permanent bool
	}{
		{"none", &RefusedError{Code: 0x9C}, "", false},
		{"for now", &RefusedError{Code: 0x9C, Servers: "b.example"}, "mqtts://b.example", false},
		{"for good, at the end", &DisconnectedError{Code: 0x9D, Servers: "b:8884 [2001:db8::1] [2001:db8::1]:9"}, "mqtts://b:8884 mqtts://[2001:db8::1] mqtts://[2001:db8::1]:9", true},
		{"another code", &RefusedError{Code: 0x88, Servers: "b"}, "", false},
		{"what is none", &RefusedError{Code: 0x9C, Servers: "u:p@b b/path b?x ok mqtt://b"}, "mqtts://ok", false},
		{"too many", &RefusedError{Code: 0x9C, Servers: strings.Repeat("b ", 100)}, strings.TrimSpace(strings.Repeat("mqtts://b ", maxServers)), false},
		{"another error", ErrOldProtocol, "", false},
	} {
		o := Options{Endpoint: "mqtts://a.example:8883", ClientID: "gateway"}
		got, permanent := o.Redirected(tt.err)
		if strings.Join(got, " ") != tt.want || permanent != (tt.permanent && tt.want != "") {
			t.Errorf("%s: got %q, %v; want %q, %v", tt.name, got, permanent, tt.want, tt.permanent)
		}
	}
}
