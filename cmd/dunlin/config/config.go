// Package config reads the configuration file of the broker: YAML into plain structs.
//
// The reading is strict. An unknown or repeated key and a wrong value are errors which say file,
// line, column, what is wrong and what is allowed, and all of them are reported at once. What the
// file does not say keeps the value of [Default], which is what packaging/dunlin.yaml spells out.
// Overrides from the command line go through the same checks.
//
// Adding a setting takes a struct field here, its default in Default, a line in the group's
// function in fields.go or uplink.go, and a line in packaging/dunlin.yaml.
package config

import (
	"math"
	"net/netip"
	"os"
	"strings"
	"time"

	"dunlin/core/access"
	"dunlin/core/packet"
	"dunlin/core/rule"
)

// Never is the duration of what does not end: the word "never" in the file.
const Never = time.Duration(math.MaxInt64)

// Sizes in bytes.
const (
	KiB = 1 << 10
	MiB = 1 << 20
	GiB = 1 << 30
)

// Config is a whole configuration. What Load and Parse return has been checked.
type Config struct {
	Data          string     // folder of everything that is kept
	Listeners     []Listener // never empty
	Limits        Limits
	Sessions      Sessions
	Retained      Retained
	Delayed       Delayed
	Rewrite       rule.Rewrites // the first rule that takes a topic decides
	AutoSubscribe []AutoSubscription
	Sys           Sys
	Store         Store
	Auth          Auth
	Access        access.Options // no rules at all: everything is allowed
	Uplinks       []Uplink       // names are unique
	Log           Log
	Admin         Admin

	// IOThreads is how many threads read and write sockets at a time, 0 = by the processors.
	IOThreads int

	// Warnings are legal but doubtful settings, each with its place in the file.
	Warnings []string
}

// Listener is an address that clients connect to.
type Listener struct {
	// Address is "127.0.0.1:1883", "[::1]:1883", "0.0.0.0:1883" for all of IPv4, "[::]:1883" for all
	// of IPv6, ":1883" for both, "unix:/run/dunlin/mqtt.sock", or "systemd:NAME" for the sockets that
	// systemd passes by that name.
	Address        string
	Open           bool // clients without a user name are let in, whatever the address and Auth say
	MaxConnections int  // 0 = as many as there are file descriptors

	// What holds for its clients instead of Limits, 0 = that.
	MaxPacket      int64
	ReceiveMaximum int
	MaxInFlight    int // never above that of Limits
	MaxConnectRate int
	Versions       []packet.Version // of MQTT that may be spoken, nil = all
	Redirect       Redirect

	// FreeBind takes an IP address that the machine does not have yet: connections come in once it has.
	FreeBind bool
	Mode     os.FileMode // of a unix socket
	Group    string      // that a unix socket is given to, "" = the group of the broker
}

// Redirect sends the clients of a listener on to other servers.
type Redirect struct {
	To        string // "" = nobody is sent on; otherwise the servers as MQTT has them, with spaces between
	Permanent bool   // they are not to come back
	AtStop    bool   // they are let in, and sent on when the broker stops
}

// Endpoint returns the network and the address for net.Listen, or "systemd" and a name.
func (l Listener) Endpoint() (network, address string) {
	if path, ok := strings.CutPrefix(l.Address, "unix:"); ok {
		return "unix", path
	}
	if name, ok := strings.CutPrefix(l.Address, "systemd:"); ok {
		return "systemd", name
	}
	// Without an address net.Listen takes both versions, with an unspecified one as well.
	switch host, _, _ := cutPort(l.Address); host {
	case "0.0.0.0":
		return "tcp4", l.Address
	case "::":
		return "tcp6", l.Address
	}
	return "tcp", l.Address
}

// Local reports whether only this machine can reach the listener. Of what systemd passes nobody
// knows before it is there: it is not taken for local.
func (l Listener) Local() bool {
	network, address := l.Endpoint()
	if network == "unix" || network == "systemd" {
		return network == "unix"
	}
	host, _, ok := cutPort(address)
	if !ok {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// address is the IP address and the port of a listener, with an unspecified address for all of a
// version; ok is false if it has none, as a unix socket, or any free port.
func (l Listener) address() (ip netip.Addr, port string, ok bool) {
	network, address := l.Endpoint()
	host, port, cut := cutPort(address)
	if !strings.HasPrefix(network, "tcp") || !cut || port == "0" {
		return netip.Addr{}, "", false
	}
	return literalAddr(host), port, true
}

// literalAddr is the address that a host is written as, the zero one for all of IPv4 and IPv6, and
// for a name that only a resolver knows.
func literalAddr(host string) netip.Addr {
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, _ := netip.ParseAddr(host)
	return ip.Unmap()
}

// collides reports whether two listeners cannot be open at the same time.
func (l Listener) collides(o Listener) bool {
	if l.Address == o.Address {
		return !strings.HasSuffix(l.Address, ":0")
	}
	a, port, ok := l.address()
	b, other, both := o.address()
	if !ok || !both || port != other {
		return false
	}
	all := func(ip netip.Addr) bool { return !ip.IsValid() || ip.IsUnspecified() }
	return a == b || !a.IsValid() || !b.IsValid() || (all(a) || all(b)) && a.Is4() == b.Is4()
}

// takes reports whether a connection to an endpoint of an uplink would end at the listener. A name
// may stand for any machine: of those only localhost is known.
func (l Listener) takes(endpoint string) bool {
	_, address, _ := strings.Cut(endpoint, "://")
	host, port, _ := cutPort(address)
	to := literalAddr(host)
	at, own, ok := l.address()
	if !ok || own != port || !to.IsValid() {
		return false
	}
	return to == at || to.IsLoopback() && (!at.IsValid() || at.IsUnspecified() && at.Is4() == to.Is4())
}

// LetsIn reports whether anybody can become a client at the listener: who is sent on at once does not.
func (l Listener) LetsIn() bool { return l.Redirect.To == "" || l.Redirect.AtStop }

// AllowsAnonymous reports whether clients without a user name may use the listener: those of
// this machine as long as there is no authentication, and everybody if it is open.
func (c *Config) AllowsAnonymous(l Listener) bool {
	return l.Open || !c.Auth.Enabled() && l.Local()
}

// Limits bound what one client may do. All hold per connection.
type Limits struct {
	MaxPacket        int64         // bytes of a packet from a client, fixed header included; announced as Maximum Packet Size
	ReceiveMaximum   int           // QoS 1 and 2 messages of a client that wait for our acknowledgement
	MaxInFlight      int           // QoS 1 and 2 messages to a client that wait for its acknowledgement
	ConnectTimeout   time.Duration // from accept to a whole CONNECT
	MaxTopicLevels   int           // levels of a Topic Name or Topic Filter
	MaxSubscriptions int           // of one client
	MaxWills         int64         // bytes of the wills of all clients together
	MaxOutput        int64         // bytes that wait to be written to one client; never below MaxPacket
	MaxKeepAlive     time.Duration // longest Keep Alive of MQTT 5.0; Never = any, also none
	MaxConnectRate   int           // CONNECT packets a second, of each listener; 0 = any
	MaxMessageRate   int           // PUBLISH packets a second; 0 = any
	ResendAfter      time.Duration // until MQTT 3 gets again what it has not acknowledged; Never = when it connects again
	TopicAliases     int           // topics that a packet may name by a number, each way; 0 = none

	// What is not offered: announced to MQTT 5.0 and refused when it is used all the same.
	MaxQoS              int // of messages, wills and subscriptions
	Retain              bool
	Wildcards           bool
	SubscriptionIDs     bool
	SharedSubscriptions bool // $share and $queue

	CheckPayloadFormat bool // payloads that claim to be UTF-8 must be
}

// Sessions bound what is kept for clients that are away.
type Sessions struct {
	MaxExpiry         time.Duration // longest Session Expiry Interval that is granted; Never = any
	WillGrace         time.Duration // that clients have to come back after a crash, before their wills are published
	MaxQueuedMessages int           // waiting for one session, in flight included
	MaxQueuedBytes    int64         // of their topics, properties and payloads
	WhenFull          string        // drop_oldest or drop_newest

	// ResponseInformation is the topic below which each client gets one of its own for responses, if
	// it asks for it; "" = none.
	ResponseInformation string
}

// Retained bounds the retained messages.
type Retained struct {
	MaxMessages int
	MaxBytes    int64 // topics, properties and payloads
}

// Delayed bounds the messages that are to be published later.
type Delayed struct {
	MaxMessages int // 0 = none
	MaxBytes    int64
	MaxDelay    time.Duration
}

// AutoSubscription is a subscription that every client has from CONNECT on.
type AutoSubscription struct {
	Topic             string // with %c and %u
	QoS               int
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    int // 0: retained messages at each CONNECT, 1: with a new subscription, 2: never
}

// Sys is about what the broker publishes of itself.
type Sys struct {
	Interval time.Duration // between the values below $SYS/broker, while somebody subscribes; 0 = off
}

// Auth says how clients prove who they are.
type Auth struct {
	Passwords string // file made by "dunlin passwd", "" = none
}

// Enabled reports whether clients can prove who they are at all.
func (a Auth) Enabled() bool { return a.Passwords != "" }

// Log says what is written to standard error and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // auto, text, journal or json
}

// Admin is about the socket by which those who look after the broker ask it.
type Admin struct {
	// Socket is the path, "auto" = /run/dunlin/admin.sock if it can be made, else admin.sock in Data;
	// "none" = there is none.
	Socket string
	Group  string // that may use it beside root and the user of the broker, "" = none
}

// Default returns the configuration of an empty file. Each call returns a new one.
func Default() *Config {
	return &Config{
		Data:      "dunlin-data",
		Listeners: []Listener{defaultListener},
		Limits: Limits{
			MaxPacket:           256 * KiB,
			ReceiveMaximum:      256,
			MaxInFlight:         256,
			ConnectTimeout:      5 * time.Second,
			MaxTopicLevels:      128,
			MaxSubscriptions:    1000,
			MaxWills:            16 * MiB,
			MaxOutput:           MiB,
			MaxKeepAlive:        Never,
			ResendAfter:         Never,
			TopicAliases:        16,
			MaxQoS:              2,
			Retain:              true,
			Wildcards:           true,
			SubscriptionIDs:     true,
			SharedSubscriptions: true,
		},
		Sessions: Sessions{
			MaxExpiry:         30 * 24 * time.Hour,
			WillGrace:         time.Minute,
			MaxQueuedMessages: 100_000,
			MaxQueuedBytes:    64 * MiB,
			WhenFull:          "drop_newest",
		},
		Retained: Retained{
			MaxMessages: 100_000,
			MaxBytes:    16 * MiB,
		},
		Delayed: Delayed{
			MaxMessages: 10_000,
			MaxBytes:    16 * MiB,
			MaxDelay:    7 * 24 * time.Hour,
		},
		Sys:   Sys{Interval: 10 * time.Second},
		Store: stores["normal"],
		Log:   Log{Level: "info", Format: "auto"},

		Admin: Admin{Socket: "auto"},
	}
}

// defaultListener is the listener of a file that names none, and what a listener says that
// leaves something out.
var defaultListener = Listener{Address: "127.0.0.1:1883", FreeBind: true, Mode: 0o660}

// cutPort splits "host:port" and "[host]:port" without looking into either.
func cutPort(address string) (host, port string, ok bool) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = address[:i], address[i+1:]
	if inner, found := strings.CutPrefix(host, "["); found {
		host, ok = strings.CutSuffix(inner, "]")
		return host, port, ok
	}
	return host, port, !strings.ContainsAny(host, ":[]")
}
