package broker

import (
	"strings"
	"testing"
	"time"

	"dunlin/core/packet"
)

func TestKeepAliveIsCappedAndTold(t *testing.T) { // §3.2.2.3.14, [MQTT-3.2.2-22]
	for _, tt := range []struct {
		name    string
		version packet.Version
		cap     time.Duration
		asked   uint16
		told    bool
		kept    time.Duration
	}{
		{"below", packet.V5, time.Minute, 30, false, 30 * time.Second},
		{"equal", packet.V5, time.Minute, 60, false, time.Minute},
		{"above", packet.V5, time.Minute, 61, true, time.Minute},
		{"none", packet.V5, time.Minute, 0, true, time.Minute},
		{"no cap", packet.V5, 0, 0, false, 0},
		{"cap beyond what there is", packet.V5, 1000 * time.Hour, 65535, false, 65535 * time.Second},
		{"3.1.1, which cannot be told", packet.V311, time.Minute, 61, false, 61 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, func(o *Options) { o.Limits.MaxKeepAlive = tt.cap })
			_, k := x.connect(tt.version, "c", func(c *packet.Connect) { c.KeepAlive = tt.asked })
			if k.HasServerKeepAlive != tt.told || tt.told && time.Duration(k.ServerKeepAlive)*time.Second != tt.kept {
				t.Errorf("told %v, %d s", k.HasServerKeepAlive, k.ServerKeepAlive)
			}
			x.do(func() {
				if got := x.b.members["c"].client.interval(); got != tt.kept {
					t.Errorf("kept %v, want %v", got, tt.kept)
				}
			})
		})
	}
}

func TestClientThatAsksForNoKeepAliveIsHeldToOurs(t *testing.T) { // [MQTT-3.1.2-22], §3.2.2.3.14
	x := start(t, func(o *Options) { o.Limits.MaxKeepAlive = time.Second })
	w, _ := x.connect(packet.V5, "c")
	if code := w.disconnected(); code != packet.KeepAliveTimeout {
		t.Errorf("got %v, want 0x8D", code)
	}
}

func TestResponseInformationIsForWhoAsks(t *testing.T) { // [MQTT-3.1.2-28], §3.2.2.3.15
	ask := func(c *packet.Connect) { c.RequestResponse = true }
	for _, tt := range []struct {
		name, prefix, id string
		change           func(*packet.Connect)
		want             string
	}{
		{"asked", "replies", "c", ask, "replies/c"},
		{"not asked", "replies", "c", func(*packet.Connect) {}, ""},
		{"not configured", "", "c", ask, ""},
		{"identifier with a wildcard", "replies", "a+b", ask, ""},
		{"identifier with levels", "replies", "a/b", ask, ""},
		{"no room", strings.Repeat("r", 100), "c", func(c *packet.Connect) { ask(c); c.MaximumPacketSize = 60 }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, func(o *Options) { o.ResponsePrefix = tt.prefix })
			_, k := x.connect(packet.V5, tt.id, tt.change)
			if k.Code != packet.Success || string(k.ResponseInformation) != tt.want {
				t.Errorf("got %v with %q, want %q", k.Code, k.ResponseInformation, tt.want)
			}
		})
	}
}
