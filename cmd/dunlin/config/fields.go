package config

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"dunlin/core/access"
	"dunlin/core/packet"
	"dunlin/core/rule"
)

// maxSocketPath is the longest path of a unix socket: sun_path is 108 bytes with its final NUL.
const maxSocketPath = 107

// maxIOThreads is more than there is to do side by side.
const maxIOThreads = 16

// config reads the whole file.
func (d *decoder) config(n *yaml.Node, c *Config) {
	g, ok := d.group(n,
		field{key: "data", read: func(n *yaml.Node) {
			d.location(&c.Data)(n)
			if c.Data == "" {
				d.fail(n, "is empty; allowed: the path of a folder")
				return
			}
			if info, err := os.Stat(c.Data); d.disk && err == nil && !info.IsDir() {
				d.fail(n, "%s is a %s; allowed: the path of a folder", c.Data, typeName(info.Mode()))
			}
		}},
		field{key: "listeners", read: func(n *yaml.Node) { d.listeners(n, c) }},
		field{key: "limits", read: func(n *yaml.Node) { d.limits(n, &c.Limits) }},
		field{key: "sessions", read: func(n *yaml.Node) { d.sessions(n, &c.Sessions) }},
		field{key: "retained", read: func(n *yaml.Node) { d.retained(n, &c.Retained) }},
		field{key: "delayed", read: func(n *yaml.Node) { d.delayed(n, &c.Delayed) }},
		field{key: "rewrite", read: func(n *yaml.Node) { list(d, n, (*[]rule.Rewrite)(&c.Rewrite), d.rewrite) }},
		field{key: "auto_subscribe", read: func(n *yaml.Node) {
			list(d, n, &c.AutoSubscribe, func(n *yaml.Node, a *AutoSubscription) { d.autoSubscription(n, c, a) })
		}},
		field{key: "sys", read: func(n *yaml.Node) { d.sys(n, &c.Sys) }},
		field{key: "store", read: func(n *yaml.Node) { d.store(n, &c.Store) }},
		field{key: "auth", read: func(n *yaml.Node) { d.auth(n, &c.Auth) }},
		field{key: "access", read: func(n *yaml.Node) { d.access(n, c) }},
		field{key: "uplinks", read: func(n *yaml.Node) { d.uplinks(n, c) }},
		field{key: "io_threads", read: d.whole(&c.IOThreads, 0, maxIOThreads)},
		field{key: "log", read: func(n *yaml.Node) { d.log(n, &c.Log) }},
		field{key: "admin", read: func(n *yaml.Node) { d.admin(n, &c.Admin) }},
	)
	if ok && !g.has("data") {
		c.Data = d.resolve(n, c.Data)
	}
}

func (d *decoder) listeners(n *yaml.Node, c *Config) {
	if !list(d, n, &c.Listeners, func(n *yaml.Node, l *Listener) { d.listener(n, c, l) }) {
		return
	}
	if len(c.Listeners) == 0 {
		d.fail(n, "the list is empty, nobody could connect; allowed: one address or more")
	}
}

func (d *decoder) listener(n *yaml.Node, c *Config, l *Listener) {
	*l = defaultListener
	g, ok := d.group(n,
		field{key: "address", read: func(n *yaml.Node) { d.address(n, &l.Address) }},
		field{key: "open", read: d.flag(&l.Open)},
		field{key: "max_connections", read: d.whole(&l.MaxConnections, 0, math.MaxInt32)},
		field{key: "max_packet", read: d.size(&l.MaxPacket, KiB, 256*MiB, false)},
		field{key: "receive_maximum", read: d.whole(&l.ReceiveMaximum, 1, math.MaxUint16)},
		field{key: "max_in_flight", read: d.whole(&l.MaxInFlight, 1, math.MaxUint16)},
		field{key: "max_connect_rate", read: d.whole(&l.MaxConnectRate, 1, maxRate)},
		field{key: "versions", read: func(n *yaml.Node) { list(d, n, &l.Versions, d.version) }},
		field{key: "redirect", read: func(n *yaml.Node) { d.redirect(n, &l.Redirect) }},
		field{key: "freebind", read: d.flag(&l.FreeBind)},
		field{key: "mode", read: d.mode(&l.Mode)},
		field{key: "group", read: d.text(&l.Group)},
	)
	if !ok {
		return
	}
	network, _ := l.Endpoint()
	for _, key := range []string{"mode", "group"} {
		if g.has(key) && network != "unix" {
			d.failAt(g, key, "%s is no unix socket; allowed: with unix:/path", l.Address)
		}
	}
	if g.has("group") && l.Group != "" && d.disk {
		if _, err := user.LookupGroup(l.Group); errors.As(err, new(user.UnknownGroupError)) {
			d.warnAt(g, "group", "this machine has no group %.80q; until it has, the listener cannot be opened", l.Group)
		}
	}
	if g.has("freebind") && !strings.HasPrefix(network, "tcp") {
		d.failAt(g, "freebind", "%s is no IP address; allowed: with host:port", l.Address)
	}
	if g.has("versions") && l.Versions != nil && len(l.Versions) == 0 {
		d.failAt(g, "versions", "the list is empty, nobody could connect; allowed: one version or more")
	}
	d.later(func() {
		if l.MaxPacket > c.Limits.MaxOutput {
			d.failAt(g, "max_packet", "is above limits.max_output (%s), so that the largest message could not be delivered; "+
				"allowed: up to that", FormatSize(c.Limits.MaxOutput))
		}
		if l.MaxInFlight > c.Limits.MaxInFlight {
			d.failAt(g, "max_in_flight", "%d is above limits.max_in_flight (%d), which holds for sessions, wherever they connect; "+
				"allowed: up to that", l.MaxInFlight, c.Limits.MaxInFlight)
		}
		for i := range c.Listeners {
			o := &c.Listeners[i]
			if o == l {
				break
			}
			switch {
			case !o.collides(*l):
				continue
			case o.Address == l.Address:
				d.failAt(g, "address", "%s stands in listeners.%d already", l.Address, i)
			default:
				d.failAt(g, "address", "%s and %s (listeners.%d) share a port and an address, only one of them could be opened; "+
					"allowed: another port, or addresses that have nothing in common", l.Address, o.Address, i)
			}
			return
		}
		switch {
		case l.Local(), !l.LetsIn():
		case l.Open:
			d.warnAt(g, "open", "%s lets in everybody who can reach it, without a password", l.Address)
		case !c.Auth.Enabled():
			d.failAt(g, "address", "%s can be reached from the network, and clients need no password; "+
				"allowed: with auth.passwords set, or with open: true if everybody may come in", l.Address)
		}
	})
}

// redirect reads where clients are sent on to.
func (d *decoder) redirect(n *yaml.Node, r *Redirect) {
	g, ok := d.group(n,
		field{key: "to", read: func(n *yaml.Node) { d.servers(n, &r.To) }},
		field{key: "permanent", read: d.flag(&r.Permanent)},
		field{key: "at_stop", read: d.flag(&r.AtStop)},
	)
	if ok && !g.has("to") && len(g.values) > 0 {
		d.fail(n, "to is missing; write it like to: broker.example.com:1883")
	}
}

// maxReference is the longest Server Reference, in bytes: it goes into packets of clients that take
// little.
const maxReference = 1024

// servers reads a Server Reference (MQTT5 §4.11): names or addresses of hosts, each with a port or
// without, with spaces between.
func (d *decoder) servers(n *yaml.Node, dst *string) {
	const allowed = "broker.example.com, broker.example.com:1883, [2001:db8::1]:1883, several with a space between"
	s, ok := d.scalar(n, allowed)
	if !ok {
		return
	}
	all := strings.Fields(s)
	if len(all) == 0 {
		d.fail(n, "is empty; allowed: %s", allowed)
		return
	}
	for _, one := range all {
		host, port, ported := cutPort(one)
		if !ported {
			host, port = one, "1883"
		}
		if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
			host = strings.TrimSuffix(inner, "]")
		}
		p, err := strconv.ParseUint(port, 10, 16)
		_, noAddress := netip.ParseAddr(host)
		plain := host != "" && !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:@[]+#,;", r) })
		v6 := noAddress == nil && strings.Contains(host, ":") && strings.HasPrefix(one, "[")
		if err != nil || p == 0 || !plain && !v6 {
			d.fail(n, "%.80q is not a server; allowed: %s", one, allowed)
			return
		}
	}
	if s = strings.Join(all, " "); len(s) > maxReference {
		d.fail(n, "the servers have %d bytes; allowed: at most %d", len(s), maxReference)
		return
	}
	*dst = s
}

// spoken are the versions of MQTT by the names that they have in the file.
var spoken = []struct {
	name    string
	version packet.Version
}{{"3.1", packet.V31}, {"3.1.1", packet.V311}, {"5.0", packet.V5}}

// version reads a version of MQTT.
func (d *decoder) version(n *yaml.Node, dst *packet.Version) {
	var names []string
	for _, v := range spoken {
		names = append(names, v.name)
	}
	var name string
	d.oneOf(&name, names...)(n)
	for _, v := range spoken {
		if v.name == name {
			*dst = v.version
		}
	}
}

// address reads where to listen: host:port with an IP address, or unix:path.
func (d *decoder) address(n *yaml.Node, dst *string) {
	const allowed = "127.0.0.1:1883, [::1]:1883, :1883 for all addresses, unix:/path or systemd:NAME"
	s, ok := d.scalar(n, allowed)
	if !ok {
		return
	}
	if path, isUnix := strings.CutPrefix(s, "unix:"); isUnix {
		path = d.resolve(n, path)
		switch {
		case path == "" || path[0] == '@' || strings.ContainsRune(path, 0):
			d.fail(n, "%.80q is not the path of a socket; allowed: unix:/path", s)
		case len(path) > maxSocketPath:
			d.fail(n, "the path of the socket has %d bytes; allowed: at most %d", len(path), maxSocketPath)
		default:
			*dst = "unix:" + path
		}
		return
	}
	if name, passed := strings.CutPrefix(s, "systemd:"); passed {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == ':' || r > '~' }) {
			d.fail(n, "%.80q is not a name that systemd gives to a socket; allowed: FileDescriptorName= of the socket unit, "+
				"or the name of the unit", name)
			return
		}
		*dst = s
		return
	}
	host, port, ok := cutPort(s)
	if !ok {
		d.fail(n, "%.80q is not an address with a port; allowed: %s", s, allowed)
		return
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil {
		d.fail(n, "%.80q has no port number; allowed: 1 to 65535, 0 for any free one", s)
		return
	} else {
		port = strconv.FormatUint(p, 10)
	}
	if host != "" && host != "localhost" {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			d.fail(n, "%.80q is not an IP address; allowed: %s", host, allowed)
			return
		}
		if ip.Is6() {
			host = "[" + ip.String() + "]"
		}
	}
	*dst = host + ":" + port
}

// maxRate is the highest rate that can be asked for, in packets a second; more is no bound.
const maxRate = 1_000_000

// Of the bounds below none but topic_aliases, max_qos and rates may be 0: options of the broker mean their default by it.

func (d *decoder) limits(n *yaml.Node, l *Limits) {
	g, ok := d.group(n,
		field{key: "max_packet", read: d.size(&l.MaxPacket, KiB, 256*MiB, false)},
		field{key: "receive_maximum", read: d.whole(&l.ReceiveMaximum, 1, math.MaxUint16)},
		field{key: "max_in_flight", read: d.whole(&l.MaxInFlight, 1, math.MaxUint16)},
		field{key: "connect_timeout", read: d.duration(&l.ConnectTimeout, time.Second, time.Minute)},
		field{key: "max_topic_levels", read: d.whole(&l.MaxTopicLevels, 1, math.MaxUint16)},
		field{key: "max_subscriptions", read: d.whole(&l.MaxSubscriptions, 1, 1_000_000)},
		field{key: "max_output", read: d.size(&l.MaxOutput, 16*KiB, GiB, false)},
		field{key: "max_wills", read: d.size(&l.MaxWills, KiB, GiB, false)},
		field{key: "max_keep_alive", read: d.duration(&l.MaxKeepAlive, time.Second, Never)},
		field{key: "max_connect_rate", read: d.whole(&l.MaxConnectRate, 0, maxRate)},
		field{key: "max_message_rate", read: d.whole(&l.MaxMessageRate, 0, maxRate)},
		field{key: "resend_after", read: func(n *yaml.Node) { d.resendAfter(n, &l.ResendAfter) }},
		field{key: "topic_aliases", read: d.whole(&l.TopicAliases, 0, 1000)},
		field{key: "max_qos", read: d.whole(&l.MaxQoS, 0, 2)},
		field{key: "retain", read: d.flag(&l.Retain)},
		field{key: "wildcards", read: d.flag(&l.Wildcards)},
		field{key: "subscription_ids", read: d.flag(&l.SubscriptionIDs)},
		field{key: "shared_subscriptions", read: d.flag(&l.SharedSubscriptions)},
		field{key: "check_payload_format", read: d.flag(&l.CheckPayloadFormat)},
	)
	if ok && l.MaxOutput < l.MaxPacket {
		at := "max_output"
		if !g.has(at) {
			at = "max_packet"
		}
		d.failAt(g, at, "max_output (%s) is below max_packet (%s), so that the largest message could not be "+
			"delivered; allowed: max_output from %[2]s",
			FormatSize(l.MaxOutput), FormatSize(l.MaxPacket))
	}
}

// resendAfter reads an interval in which a client must have been able to answer.
func (d *decoder) resendAfter(n *yaml.Node, dst *time.Duration) {
	v := *dst
	d.duration(&v, time.Second, Never)(n)
	if v > time.Hour && v != Never {
		d.fail(n, "%s is out of range; allowed: 1s to 1h, or never", FormatDuration(v))
		return
	}
	*dst = v
}

func (d *decoder) sessions(n *yaml.Node, s *Sessions) {
	d.group(n,
		field{key: "max_expiry", read: d.duration(&s.MaxExpiry, time.Second, Never)},
		field{key: "will_grace", read: d.duration(&s.WillGrace, time.Second, 24*time.Hour)},
		field{key: "max_queued_messages", read: d.whole(&s.MaxQueuedMessages, 1, math.MaxInt32)},
		field{key: "max_queued_bytes", read: d.size(&s.MaxQueuedBytes, KiB, 1<<40, false)},
		field{key: "when_full", read: d.oneOf(&s.WhenFull, "drop_oldest", "drop_newest")},
		field{key: "response_information", read: func(n *yaml.Node) {
			d.topicName(&s.ResponseInformation)(n)
			if rule.Reserved(s.ResponseInformation) {
				d.fail(n, "%.80q: clients cannot respond there; allowed: a topic that does not begin with $SYS, $share, $queue or $delayed",
					s.ResponseInformation)
			}
		}},
	)
}

func (d *decoder) retained(n *yaml.Node, r *Retained) {
	d.group(n,
		field{key: "max_messages", read: d.whole(&r.MaxMessages, 1, math.MaxInt32)},
		field{key: "max_bytes", read: d.size(&r.MaxBytes, KiB, GiB, false)},
	)
}

func (d *decoder) delayed(n *yaml.Node, m *Delayed) {
	d.group(n,
		field{key: "max_messages", read: d.whole(&m.MaxMessages, 0, math.MaxInt32)},
		field{key: "max_bytes", read: d.size(&m.MaxBytes, KiB, GiB, false)},
		field{key: "max_delay", read: d.duration(&m.MaxDelay, time.Second, maxDelay)},
	)
}

// maxDelay is the longest delay that can be allowed. A topic says it in seconds of 32 bits.
const maxDelay = 10 * 365 * 24 * time.Hour

// rewrite reads {from, to, for}.
func (d *decoder) rewrite(n *yaml.Node, r *rule.Rewrite) {
	before := len(d.errs)
	use := "both"
	g, ok := d.group(n,
		field{key: "from", read: d.filter(&r.From)},
		field{key: "to", read: d.literal(&r.To)},
		field{key: "for", read: d.oneOf(&use, "publish", "subscribe", "both")},
	)
	r.Publish, r.Subscribe = use != "subscribe", use != "publish"
	if !ok || len(d.errs) > before {
		return
	}
	for _, key := range []string{"from", "to"} {
		if !g.has(key) {
			d.fail(n, `%s is missing; write it like {from: "old/+/#", to: "new/$1/#"}`, key)
			return
		}
	}
	if err := r.Validate(); err != nil {
		at := "to"
		if rule.Reserved(r.From) {
			at = "from"
		}
		d.failAt(g, at, "%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "rewrite: "), "rule: "))
	}
}

// autoSubscription reads a topic and its options.
func (d *decoder) autoSubscription(n *yaml.Node, c *Config, a *AutoSubscription) {
	*a = AutoSubscription{QoS: 1, RetainHandling: 1}
	before := len(d.errs)
	g, ok := d.group(n,
		field{key: "topic", read: func(n *yaml.Node) { d.template(n, &a.Topic) }},
		field{key: "qos", read: d.whole(&a.QoS, 0, 2)},
		field{key: "no_local", read: d.flag(&a.NoLocal)},
		field{key: "retain_as_published", read: d.flag(&a.RetainAsPublished)},
		field{key: "retain_handling", read: d.whole(&a.RetainHandling, 0, 2)},
	)
	switch {
	case !ok || len(d.errs) > before:
	case !g.has("topic"):
		d.fail(n, `topic is missing; write it like {topic: "commands/%%c/#"}`)
	case strings.HasPrefix(a.Topic, "$delayed/"):
		d.failAt(g, "topic", "%.80q is no plain topic; allowed: a topic filter", a.Topic)
	default:
		d.later(func() {
			for i := range c.AutoSubscribe {
				o := &c.AutoSubscribe[i]
				if o == a {
					return
				}
				if o.Topic == a.Topic {
					d.failAt(g, "topic", "%.80q stands in auto_subscribe.%d already", a.Topic, i)
					return
				}
			}
		})
	}
}

func (d *decoder) sys(n *yaml.Node, s *Sys) {
	d.group(n, field{key: "interval", read: func(n *yaml.Node) {
		v := s.Interval
		d.duration(&v, 0, time.Hour)(n)
		if v > 0 && v < time.Second {
			d.fail(n, "%s is out of range; allowed: 1s to 1h, or 0 for none", FormatDuration(v))
			return
		}
		s.Interval = v
	}})
}

func (d *decoder) auth(n *yaml.Node, a *Auth) {
	d.group(n, field{key: "passwords", read: d.existing(&a.Passwords, true)})
}

func (d *decoder) access(n *yaml.Node, c *Config) {
	a := &c.Access
	g, ok := d.group(n,
		field{key: "everyone", read: func(n *yaml.Node) { d.rules(n, &a.Everyone) }},
		field{key: "anonymous", read: func(n *yaml.Node) { d.rules(n, &a.Anonymous) }},
		field{key: "users", read: func(n *yaml.Node) { d.users(n, a) }},
	)
	if !ok {
		return
	}
	d.later(func() {
		if g.has("users") && !c.Auth.Enabled() {
			d.warnAt(g, "users", "there are rules for users, but no auth.passwords that would tell who is one")
		}
		// An empty policy allows everything, which is not what somebody wants who writes
		// "publish: []" and nothing else.
		given := len(a.Everyone.Publish) + len(a.Everyone.Subscribe) +
			len(a.Anonymous.Publish) + len(a.Anonymous.Subscribe)
		for _, r := range a.Users {
			given += len(r.Publish) + len(r.Subscribe)
		}
		if given == 0 && len(g.values) > 0 && len(d.errs) == 0 {
			d.fail(n, "no topic is allowed to anybody; allowed: one filter or more, or no access section at all, "+
				"which allows everything")
		}
	})
}

func (d *decoder) users(n *yaml.Node, a *access.Options) {
	if !d.wants(n, yaml.MappingNode, `user names with their rules, "name: {publish: [], subscribe: []}"`) {
		return
	}
	a.Users = make(map[string]access.Rules)
	d.pairs(n, func(name string, k, v *yaml.Node) {
		if name == "" || strings.ContainsAny(name, ":\x00") {
			d.fail(k, "%.80q is not a user name; allowed: text without a colon", name)
			return
		}
		d.below(name, func() {
			var r access.Rules
			d.rules(v, &r)
			a.Users[name] = r
		})
	})
}

// rules reads what somebody may do.
func (d *decoder) rules(n *yaml.Node, r *access.Rules) {
	d.group(n,
		field{key: "publish", read: func(n *yaml.Node) { list(d, n, &r.Publish, d.template) }},
		field{key: "subscribe", read: func(n *yaml.Node) { list(d, n, &r.Subscribe, d.template) }},
	)
}

// template reads a Topic Filter with %c and %u in it.
func (d *decoder) template(n *yaml.Node, dst *string) {
	d.filter(dst)(n)
	if *dst == "" {
		return // reported
	}
	if _, err := access.ParseTemplate(*dst); err != nil {
		d.fail(n, "%.80q: %s", *dst, err)
	}
}

func (d *decoder) log(n *yaml.Node, l *Log) {
	d.group(n,
		field{key: "level", read: d.oneOf(&l.Level, "debug", "info", "warn", "error")},
		field{key: "format", read: d.oneOf(&l.Format, "auto", "text", "journal", "json")},
	)
}
