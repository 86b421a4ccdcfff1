package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"dunlin/core/rule"
	"dunlin/core/topic"
)

// Uplink is a way to a broker above this gateway.
type Uplink struct {
	Name          string // a to z, 0 to 9 and -; names the file of its spool
	Endpoints     []string
	ClientID      string
	Username      string // "" = none
	PasswordFile  string // its first line is the password; "" = none
	TLS           TLS
	KeepAlive     time.Duration
	SessionExpiry time.Duration // how long the broker above keeps our session; Never = for ever
	Spool         Spool
	Rules         []rule.Rule // up; the first that matches decides
	Down          []rule.Rule
	MaxInFlight   int // messages sent and not acknowledged
	Backoff       Backoff
}

// TLS says how an mqtts endpoint is trusted, and how we are.
type TLS struct {
	CA         string // PEM file; "" = those of the system
	Cert       string // PEM file of the client certificate; "" = none
	Key        string // PEM file; "" if Cert is
	ServerName string // the name that the certificate must have; "" = that of the endpoint
}

// Spool bounds what waits for an uplink.
type Spool struct {
	MaxBytes int64  // 0 = auto, see Bound
	WhenFull string // drop_oldest, drop_newest or reject
}

// Backoff spaces attempts to connect.
type Backoff struct {
	Min, Max time.Duration
	Stable   time.Duration // a connection that lasted this long starts over at Min
}

// uplinkDefaults is an uplink that says only what it must.
func uplinkDefaults() Uplink {
	return Uplink{
		KeepAlive:     time.Minute,
		SessionExpiry: 7 * 24 * time.Hour,
		Spool:         Spool{WhenFull: "drop_oldest"},
		MaxInFlight:   64,
		Backoff:       Backoff{Min: time.Second, Max: time.Minute, Stable: 10 * time.Second},
	}
}

// Password returns the first line of PasswordFile, nil if there is none.
func (u *Uplink) Password() ([]byte, error) {
	if u.PasswordFile == "" {
		return nil, nil
	}
	f, err := os.Open(u.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("the password of uplink %s cannot be read: %w", u.Name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPassword+2))
	if err != nil {
		return nil, fmt.Errorf("the password of uplink %s cannot be read: %w", u.Name, err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("the password of uplink %s is missing: the first line of %s is empty", u.Name, u.PasswordFile)
	case len(line) > maxPassword:
		return nil, fmt.Errorf("the password of uplink %s is too long: the first line of %s has more than %d bytes", u.Name, u.PasswordFile, maxPassword)
	}
	return line, nil
}

// maxPassword is the longest password that a CONNECT can carry, in bytes (MQTT5 §1.5.6).
const maxPassword = math.MaxUint16

// maxInFlight bounds what comes twice after a cut; a larger window is no faster.
const maxInFlight = 1000

func (d *decoder) uplinks(n *yaml.Node, c *Config) {
	list(d, n, &c.Uplinks, func(n *yaml.Node, u *Uplink) { d.uplink(n, c, u) })
}

func (d *decoder) uplink(n *yaml.Node, c *Config, u *Uplink) {
	*u = uplinkDefaults()
	g, ok := d.group(n,
		field{key: "name", read: func(n *yaml.Node) { d.uplinkName(n, &u.Name) }},
		field{key: "endpoints", read: func(n *yaml.Node) { d.endpoints(n, &u.Endpoints) }},
		field{key: "client_id", read: func(n *yaml.Node) { d.uplinkClientID(n, &u.ClientID) }},
		field{key: "username", read: d.literal(&u.Username)},
		field{key: "password_file", read: d.existing(&u.PasswordFile, true)},
		field{key: "tls", read: func(n *yaml.Node) { d.tls(n, &u.TLS) }},
		field{key: "keep_alive", read: d.duration(&u.KeepAlive, 5*time.Second, math.MaxUint16*time.Second)},
		field{key: "session_expiry", read: d.duration(&u.SessionExpiry, time.Minute, Never)},
		field{key: "spool", read: func(n *yaml.Node) {
			d.group(n,
				field{key: "max_bytes", read: d.size(&u.Spool.MaxBytes, minSpool, 1024*GiB, true)},
				field{key: "when_full", read: d.oneOf(&u.Spool.WhenFull, "drop_oldest", "drop_newest", "reject")},
			)
		}},
		field{key: "rules", read: func(n *yaml.Node) { list(d, n, &u.Rules, d.ruleUp) }},
		field{key: "down", read: func(n *yaml.Node) { list(d, n, &u.Down, d.ruleDown) }},
		field{key: "limits", read: func(n *yaml.Node) {
			d.group(n, field{key: "max_in_flight", read: d.whole(&u.MaxInFlight, 1, maxInFlight)})
		}},
		field{key: "backoff", read: func(n *yaml.Node) { d.backoff(n, &u.Backoff) }},
	)
	if !ok {
		return
	}
	for _, must := range []struct{ key, example string }{
		{"name", "name: cloud"},
		{"endpoints", "endpoints: [mqtts://broker.example.com:8883]"},
		{"client_id", "client_id: gateway-17"},
	} {
		if !g.has(must.key) {
			d.fail(n, "%s is missing; write it like %s", must.key, must.example)
		}
	}
	if !g.has("rules") && !g.has("down") {
		d.fail(n, `there are neither rules nor down, nothing would pass; write one like rules: [{from: "#"}]`)
	}
	if u.PasswordFile != "" && u.Username == "" {
		d.failAt(g, "password_file", "is given without username; allowed: both, or neither")
	}
	encrypted := false
	for _, e := range u.Endpoints {
		encrypted = encrypted || strings.HasPrefix(e, "mqtts:")
	}
	if g.has("tls") && u.TLS != (TLS{}) && len(u.Endpoints) > 0 && !encrypted {
		d.failAt(g, "tls", "no endpoint uses it; allowed: with an endpoint that starts with mqtts://")
	}
	if u.PasswordFile != "" && len(u.Endpoints) > 0 && !encrypted {
		d.warnAt(g, "password_file", "the password travels unencrypted; remedy: an endpoint that starts with mqtts://")
	}
	d.later(func() {
		for _, e := range u.Endpoints {
			if i := slices.IndexFunc(c.Listeners, func(l Listener) bool { return l.takes(e) }); i >= 0 {
				d.failAt(g, "endpoints", "%s is this broker itself (listeners.%d), its messages would go round for ever; allowed: another broker", e, i)
			}
		}
		for i := range c.Uplinks {
			o := &c.Uplinks[i]
			if o == u {
				return
			}
			if o.Name != "" && o.Name == u.Name {
				d.failAt(g, "name", "the name %q belongs to uplinks.%d already", u.Name, i)
				return
			}
		}
	})
}

func (d *decoder) uplinkName(n *yaml.Node, dst *string) {
	const allowed = "1 to 32 characters of a to z, 0 to 9 and -"
	s, ok := d.scalar(n, allowed)
	if !ok {
		return
	}
	if s == "" || len(s) > 32 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		d.fail(n, "%.80q is not the name of an uplink; allowed: %s", s, allowed)
		return
	}
	*dst = s
}

func (d *decoder) uplinkClientID(n *yaml.Node, dst *string) {
	before := len(d.errs)
	d.literal(dst)(n)
	// A name that the broker above makes up is another one at each connection, and then it would
	// keep a session for each.
	if s := *dst; len(d.errs) == before && (s == "" || len(s) > math.MaxUint16 || strings.ContainsRune(s, 0)) {
		d.fail(n, "%.80q is not a client identifier; allowed: 1 to 65535 bytes of text", s)
	}
}

func (d *decoder) endpoints(n *yaml.Node, dst *[]string) {
	if !list(d, n, dst, d.endpoint) {
		return
	}
	switch len(*dst) {
	case 0:
		d.fail(n, "the list is empty; write one like mqtts://broker.example.com:8883")
	case 1:
	default:
		d.fail(n, "%d endpoints are given, and this version has no failover; allowed: one endpoint", len(*dst))
	}
}

// endpoint reads "mqtt://host:port" or "mqtts://host:port" and completes the port.
func (d *decoder) endpoint(n *yaml.Node, dst *string) {
	const allowed = "mqtt://host:port or mqtts://host:port"
	s, ok := d.scalar(n, allowed)
	if !ok {
		return
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		d.fail(n, "%.200q is not an endpoint; allowed: %s", s, allowed)
		return
	case u.Scheme != "mqtt" && u.Scheme != "mqtts":
		d.fail(n, "%.80q is not a protocol that an uplink speaks; allowed: %s", u.Scheme, allowed)
		return
	case u.User != nil:
		// It would end up in logs. The password is not repeated for the same reason.
		d.fail(n, "a user name or password does not belong here; allowed: %s, with username and password_file beside it", allowed)
		return
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		d.fail(n, "%.200q has something behind the port; allowed: %s", s, allowed)
		return
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"mqtt": "1883", "mqtts": "8883"}[u.Scheme]
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		d.fail(n, "the port %q is out of range; allowed: 1 to 65535", port)
		return
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	*dst = u.Scheme + "://" + host + ":" + port
}

func (d *decoder) tls(n *yaml.Node, t *TLS) {
	before := len(d.errs)
	g, ok := d.group(n,
		field{key: "ca", read: d.existing(&t.CA, false)},
		field{key: "cert", read: d.existing(&t.Cert, false)},
		field{key: "key", read: d.existing(&t.Key, true)},
		field{key: "server_name", read: d.text(&t.ServerName)},
	)
	if !ok || len(d.errs) > before {
		return
	}
	if (t.Cert == "") != (t.Key == "") {
		d.fail(n, "cert and key belong together; allowed: both, or neither")
		return
	}
	if !d.disk {
		return
	}
	d.later(func() {
		if t.CA != "" {
			// That it cannot be read has been reported.
			if pem, err := os.ReadFile(t.CA); err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
				d.failAt(g, "ca", "%s holds no certificate; allowed: certificates in PEM form", t.CA)
			}
		}
		if t.Cert != "" && exists(t.Cert) && exists(t.Key) {
			if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
				d.failAt(g, "cert", "cert and key cannot be used: %v", err)
			}
		}
	})
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// ruleUp reads a rule for what goes up.
func (d *decoder) ruleUp(n *yaml.Node, r *rule.Rule) {
	if g, ok := d.rule(n, r); ok && rule.Reserved(r.From) {
		d.failAt(g, "from", "%.80q: nothing below $SYS and $delayed goes up; allowed: what clients subscribe to; "+
			"a delayed message goes up under its own topic when it is due", r.From)
	}
}

// ruleDown reads a rule for what comes down.
func (d *decoder) ruleDown(n *yaml.Node, r *rule.Rule) {
	if g, ok := d.rule(n, r); ok && strings.HasPrefix(r.To+"/", "$SYS/") {
		d.failAt(g, "to", "%.80q: nobody but this broker publishes below $SYS; allowed: another topic", r.To)
	}
}

// rule reads {from, to, qos}; ok is false if it reported a fault.
func (d *decoder) rule(n *yaml.Node, r *rule.Rule) (g group, ok bool) {
	*r = rule.Rule{QoS: 1}
	qos := int(r.QoS)
	before := len(d.errs)
	g, ok = d.group(n,
		field{key: "from", read: func(n *yaml.Node) {
			d.literal(&r.From)(n)
			if r.From != "" {
				d.filter(&r.From)(n)
			}
		}},
		field{key: "to", read: d.literal(&r.To)},
		field{key: "qos", read: d.whole(&qos, 0, 2)},
	)
	r.QoS = byte(qos)
	if !ok || len(d.errs) > before {
		return g, false
	}
	if !g.has("from") {
		d.fail(n, `from is missing; write it like {from: "plant/#"}`)
		return g, false
	}
	if _, _, shared, _ := topic.Shared(r.From); shared {
		d.failAt(g, "from", "%.80q is a shared subscription; allowed: a plain topic filter", r.From)
		return g, false
	}
	if captures.MatchString(r.To) {
		// It would be a level of that name, which nobody means.
		d.failAt(g, "to", "%.80q has a level such as $1, which only rewrite knows; allowed: levels, and # at the end for what the # of from matched", r.To)
		return g, false
	}
	if err := r.Validate(); err != nil {
		d.failAt(g, "to", "%s", strings.TrimPrefix(err.Error(), "rule: "))
		return g, false
	}
	return g, true
}

// captures finds what looks like a level that a rewrite rule captured.
var captures = regexp.MustCompile(`\$[0-9]`)

// literal reads text that other programs of this kind, and our own later on, know variables in:
// sent as it stands, ${site} would only surprise.
func (d *decoder) literal(dst *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "text")
		if ok && strings.Contains(s, "${") {
			d.fail(n, "%.80q has a variable, ${…}, and this version knows none; write the value out", s)
		} else if ok {
			*dst = s
		}
	}
}

func (d *decoder) backoff(n *yaml.Node, b *Backoff) {
	before := len(d.errs)
	g, ok := d.group(n,
		field{key: "min", read: d.duration(&b.Min, 100*time.Millisecond, time.Hour)},
		field{key: "max", read: d.duration(&b.Max, time.Second, 24*time.Hour)},
		field{key: "stable", read: d.duration(&b.Stable, time.Second, time.Hour)},
	)
	if ok && len(d.errs) == before && b.Max < b.Min {
		at := "max"
		if !g.has(at) {
			at = "min"
		}
		d.failAt(g, at, "max (%s) is below min (%s); allowed: max from %[2]s",
			FormatDuration(b.Max), FormatDuration(b.Min))
	}
}
