package config

import (
	"math/bits"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dunlin/core/access"
	"dunlin/core/packet"
	"dunlin/core/rule"
	"dunlin/packaging"
)

func TestSampleSpellsOutTheDefaults(t *testing.T) {
	c, err := Parse("dunlin.yaml", packaging.Sample, Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Uplinks = []Uplink{}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("the sample differs from Default (-want +got):\n%s", diff)
	}
}

func TestSampleNamesEveryDefault(t *testing.T) {
	// Taking any line of the sample away must not be the only way to see that a default is there:
	// each is asked for by its key.
	for _, key := range []string{
		"freebind",
		"data", "address", "open", "max_connections", "max_packet", "receive_maximum", "max_in_flight",
		"connect_timeout", "max_topic_levels", "max_subscriptions", "max_output", "max_wills", "max_keep_alive", "max_connect_rate", "max_message_rate", "resend_after", "topic_aliases", "max_qos", "retain",
		"wildcards", "subscription_ids", "shared_subscriptions", "check_payload_format", "max_expiry", "will_grace",
		"max_queued_messages", "max_queued_bytes", "when_full", "max_messages", "max_bytes", "max_delay", "interval", "level", "wear", "linger", "save_after", "budget", "burst", "format",
	} {
		if !regexp.MustCompile(`(?m)^[ -]*` + key + `: \S`).Match(packaging.Sample) {
			t.Errorf("packaging/dunlin.yaml does not say %s", key)
		}
	}
}

// examples is the sample with what is commented out switched on.
func examples() string {
	head, rest, _ := strings.Cut(string(packaging.Sample), "\ndata:")
	rest = strings.Replace(rest, "\nuplinks: []", "\nuplinks:", 1)
	return head + "\ndata:" + regexp.MustCompile(`(?m)^#(access:|rewrite:|auto_subscribe:|  )`).ReplaceAllString(rest, "$1")
}

func TestExamplesInTheSampleAreValid(t *testing.T) {
	c, err := Parse("dunlin.yaml", []byte(examples()), Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Auth.Passwords != "/etc/dunlin/passwords" || len(c.Warnings) > 0 {
		t.Errorf("passwords %q, warnings %q", c.Auth.Passwords, c.Warnings)
	}
	socket := defaultListener
	socket.Address, socket.Group = "unix:/run/dunlin/mqtt.sock", "dunlin"
	socket.Versions = []packet.Version{packet.V5}
	socket.Redirect = Redirect{To: "broker.example.com:1883", AtStop: true}
	socket.MaxPacket, socket.ReceiveMaximum, socket.MaxInFlight, socket.MaxConnectRate = MiB, 64, 64, 20
	if diff := cmp.Diff([]Listener{defaultListener, socket}, c.Listeners); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
	wantAccess := access.Options{
		Everyone:  access.Rules{Subscribe: []string{"status/#"}},
		Anonymous: access.Rules{Publish: []string{"public/%c/#"}},
		Users: map[string]access.Rules{
			"meter":    {Publish: []string{"meters/%c/#"}},
			"operator": {Publish: []string{"commands/#"}, Subscribe: []string{"#"}},
		},
	}
	if diff := cmp.Diff(wantAccess, c.Access); diff != "" {
		t.Errorf("access (-want +got):\n%s", diff)
	}
	wantRewrite := rule.Rewrites{
		{From: "old/+/temp/#", To: "new/$1/#", Publish: true, Subscribe: true},
		{From: "cmd/#", To: "sites/a/cmd/#", Subscribe: true},
	}
	if diff := cmp.Diff(wantRewrite, c.Rewrite); diff != "" {
		t.Errorf("rewrite (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Durability{{"alarms/#", "sync"}}, c.Store.Durability); diff != "" {
		t.Errorf("durability (-want +got):\n%s", diff)
	}
	wantAuto := []AutoSubscription{{Topic: "commands/%c/#", QoS: 1, RetainHandling: 1}, {Topic: "news/%u", QoS: 1, RetainHandling: 1}}
	if diff := cmp.Diff(wantAuto, c.AutoSubscribe); diff != "" {
		t.Errorf("auto_subscribe (-want +got):\n%s", diff)
	}
	want := uplinkDefaults() // the example shows the defaults, too
	want.Name = "cloud"
	want.Endpoints = []string{"mqtts://broker.example.com:8883"}
	want.ClientID = "gateway-17"
	want.Username = "gateway-17"
	want.PasswordFile = "/etc/dunlin/cloud-password"
	want.TLS = TLS{
		CA: "/etc/dunlin/ca.pem", Cert: "/etc/dunlin/gateway.pem", Key: "/etc/dunlin/gateway.key",
		ServerName: "broker.example.com",
	}
	want.Rules = []rule.Rule{{From: "plant/#", To: "sites/a/plant/#", QoS: 1}}
	want.Down = []rule.Rule{{From: "sites/a/commands/#", To: "commands/#", QoS: 1}}
	if diff := cmp.Diff([]Uplink{want}, c.Uplinks); diff != "" {
		t.Errorf("uplinks (-want +got):\n%s", diff)
	}
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":               "",
		"only comments":         "# nothing\n",
		"only null":             "---\n~\n",
		"sections with nothing": "listeners:\nlimits:\nauth:\n  # passwords: x\naccess:\nuplinks:\nlog:\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("f", []byte(text), Overrides{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(Default(), c); diff != "" {
				t.Errorf("(-default +got):\n%s", diff)
			}
		})
	}
}

func TestSysCanBeSwitchedOff(t *testing.T) {
	c, err := Parse("f", []byte("sys: {interval: 0}\n"), Overrides{})
	if err != nil || c.Sys.Interval != 0 {
		t.Errorf("%v, %v", c, err)
	}
}

func TestAnonymousIsForThisMachineOrOpenListeners(t *testing.T) {
	for _, tt := range []struct {
		name      string
		listener  Listener
		passwords string
		want      bool
	}{
		{"loopback", Listener{Address: "127.0.0.1:1883"}, "", true},
		{"other loopback", Listener{Address: "127.9.9.9:1883"}, "", true},
		{"mapped loopback", Listener{Address: "[::ffff:127.0.0.1]:1883"}, "", true},
		{"loopback of IPv6", Listener{Address: "[::1]:1883"}, "", true},
		{"localhost", Listener{Address: "localhost:1883"}, "", true},
		{"unix socket", Listener{Address: "unix:/run/x"}, "", true},
		{"loopback with passwords", Listener{Address: "127.0.0.1:1883"}, "p", false},
		{"unix socket with passwords", Listener{Address: "unix:/run/x"}, "p", false},
		{"open with passwords", Listener{Address: "0.0.0.0:1883", Open: true}, "p", true},
		{"network", Listener{Address: "192.0.2.1:1883"}, "", false},
		{"all addresses", Listener{Address: ":1883"}, "", false},
		{"all addresses of IPv6", Listener{Address: "[::]:1883"}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Config{Auth: Auth{Passwords: tt.passwords}}
			if got := c.AllowsAnonymous(tt.listener); got != tt.want {
				t.Errorf("AllowsAnonymous = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestUnspecifiedAddressMeansOneVersionOfIP(t *testing.T) {
	for address, want := range map[string]string{
		":1883": "tcp", "0.0.0.0:1883": "tcp4", "[::]:1883": "tcp6", "127.0.0.1:1883": "tcp", "[::1]:1883": "tcp",
		"[::ffff:127.0.0.1]:1883": "tcp", "unix:/s": "unix",
	} {
		if network, _ := (Listener{Address: address}).Endpoint(); network != want {
			t.Errorf("%s is listened on by %s, want %s", address, network, want)
		}
	}
}

func TestUnitsAreReadAndWritten(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		text, written string
		want          time.Duration
	}{
		{"0", "0", 0},
		{"500ms", "500ms", 500 * time.Millisecond},
		{"10s", "10s", 10 * time.Second},
		{"90s", "90s", 90 * time.Second},
		{"60s", "1m", time.Minute},
		{"1h30m", "90m", 90 * time.Minute},
		{"24h", "1d", day},
		{"2w", "14d", 14 * day},
	} {
		if got, err := ParseDuration(tt.text); err != nil || got != tt.want || FormatDuration(got) != tt.written {
			t.Errorf("duration %s: %v (%s), %v", tt.text, got, FormatDuration(got), err)
		}
	}
	for _, tt := range []struct {
		text, written string
		want          int64
	}{
		{"0", "0", 0},
		{"512B", "512B", 512},
		{"64KB", "64000B", 64000},
		{"256KiB", "256KiB", 256 << 10},
		{"256 KiB", "256KiB", 256 << 10},
		{"1024MiB", "1GiB", 1 << 30},
		{"3GB", "2929687.5KiB", 3e9},
	} {
		got, err := ParseSize(tt.text)
		if tt.want == 3e9 {
			tt.written = "3000000000B" // no unit of 1024 divides it
		}
		if err != nil || got != tt.want || FormatSize(got) != tt.written {
			t.Errorf("size %s: %v (%s), %v", tt.text, got, FormatSize(got), err)
		}
	}
	for text, want := range map[string]error{
		"":                      errNoNumber,
		"s":                     errNoNumber,
		"-1s":                   errNoNumber,
		"1.5h":                  errNoUnit,
		"10":                    errNoUnit,
		"00":                    errNoUnit,
		"10 parsecs":            errUnknownUnit,
		"10S":                   errNoUnit,
		"1h30":                  errNoUnit,
		"99999999999999999999s": errTooLarge,
		"9223372036854775807ms": errTooLarge,
		"106751d1h":             nil,
		"106751d24h":            errTooLarge,
		"1s1s1s":                nil,
		"1h\n":                  errNoNumber,
	} {
		if _, err := ParseDuration(text); err != want {
			t.Errorf("duration %q: %v, want %v", text, err, want)
		}
	}
	for text, want := range map[string]error{
		"":              errNoNumber,
		"10":            errNoUnit,
		"1kib":          errUnknownUnit,
		"1KiB1B":        errUnknownUnit,
		"9999999999GiB": errTooLarge,
	} {
		if _, err := ParseSize(text); err != want {
			t.Errorf("size %q: %v, want %v", text, err, want)
		}
	}
}

func TestFilesGetAShareOfTheDisk(t *testing.T) {
	folder := t.TempDir()
	c := Config{Data: folder, Store: Store{MaxBytes: 7 * MiB}, Uplinks: []Uplink{{Spool: Spool{MaxBytes: 5 * MiB}}, {}, {}, {}}}
	b, err := c.Bounds()
	if err != nil || b.Store != 7*MiB || b.Spools[0] != 5*MiB || len(b.Spools) != 4 {
		t.Errorf("given: %+v, %v", b, err)
	}
	disk, _ := diskSize(folder)
	for _, got := range b.Spools[1:] {
		if got < minSpool || got > max(disk/8, minSpool) || got > 2*GiB {
			t.Errorf("an uplink of four gets %d of %d", got, disk)
		}
	}
	if b.Reserve <= 0 || b.Reserve > disk/reserveShare {
		t.Errorf("the reserve is %d of %d", b.Reserve, disk)
	}
	c = Config{Data: folder}
	if b, err = c.Bounds(); err != nil || b.Store < minStore || b.Store > max(disk/4, minStore) || b.Store > GiB {
		t.Errorf("auto: %+v, %v", b, err)
	}
	if bits.UintSize == 32 && b.Store > allFiles()/4 {
		t.Errorf("auto: %d of %d bytes that can be mapped", b.Store, allFiles())
	}
	c.Data += "/missing"
	if _, err := c.Bounds(); err == nil {
		t.Error("no error for a folder that is not there")
	}
}
