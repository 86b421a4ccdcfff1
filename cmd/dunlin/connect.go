package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/packet"
	"dunlin/core/topic"
)

// connectHelp is the part of the help that pub and sub have in common.
const connectHelp = `
Connection (more of it, session, TLS and will: "dunlin help connection"):
  -L, --url URL          mqtt://[USER@]HOST[:PORT][/TOPIC], mqtts://... for TLS,
                         unix:/PATH; or -h HOST and -p PORT (127.0.0.1, 1883)
  -u, --username NAME    password: -P, or unseen the variable DUNLIN_PASSWORD
  -i, --id ID            client identifier (chosen by the broker)
  -V, --protocol-version 5, 311 or 31 (5)
  -W, --timeout SECONDS  give up after that long (0 = never)
`

const connectionHelp = `Options of "dunlin pub" and "dunlin sub" for the connection.

Broker:
  -L, --url URL          mqtt://[USER[:PASSWORD]@]HOST[:PORT][/TOPIC],
                         mqtts://... with TLS, unix:/PATH for a unix socket
  -h, --host HOST        name, address or unix:/path (127.0.0.1)
  -p, --port PORT        (1883, with TLS 8883)
  -V, --protocol-version 5, 311 for 3.1.1, or 31 for 3.1 (5)
  -k, --keepalive SECONDS
                         (60; 0 = off)
  -W, --timeout SECONDS  give up after that long (0 = never)
  --reconnect            connect again when the connection is lost, at growing
                         intervals; pub sends again what is not acknowledged,
                         sub subscribes again; in 3.1.1 -c and -i keep what
                         the broker has for us meanwhile; 3.1 may lose or repeat
  --max-packet BYTES     the largest packet that we take *
  --receive-maximum N    how many messages may wait for our acknowledgement *
  --connect-property NAME=VALUE, --disconnect-property NAME=VALUE
                         user property of CONNECT, of DISCONNECT, repeatable *
  --request-response     ask which topics the broker keeps for responses to us,
                         and say so on standard error *
  --no-reasons           ask the broker not to explain what it refuses *
User and session:
  -i, --id ID            client identifier (chosen by the broker)
  -u, --username NAME
  -P, --pw PASSWORD      other users of this machine can see it; the variable
                         DUNLIN_PASSWORD does the same unseen
  -c, --disable-clean-session
                         continue the session of the last time; needs -i
  -x, --session-expiry SECONDS
                         how long the broker keeps the session when we are gone;
                         needs -i; with -c: 4294967295, never to expire *
TLS, which each of these options turns on:
  --tls                  with the authorities that this machine trusts
  --ca FILE              trust these authorities instead
  --cert FILE            certificate that shows who we are, and
  --key FILE             its key
  --server-name NAME     expected in the broker's certificate (the host)
  --alpn NAME            application protocol, "mqtt" for some clouds
  --insecure             do not check the broker's certificate: no protection
Will, which the broker publishes should the connection break:
  --will-topic TOPIC, --will-payload TEXT, --will-qos 0|1|2, --will-retain,
  --will-delay SECONDS *, and as of pub: --will-expiry, --will-content-type,
  --will-response-topic, --will-correlation, --will-property,
  --will-payload-format *
                                                       * MQTT 5.0 only
`

// connection is what the options of pub and sub say about the connection.
type connection struct {
	url, host, id, username, password, version string
	port, keepAlive                            int
	timeout                                    float64
	keep, reconnect                            bool
	expiry, receiveMaximum, maxPacket          uint64
	user, userEnd                              pairs
	requestResponse, noReasons                 bool
	will                                       client.Message
	willPayload                                string
	willQoS                                    int
	willDelay                                  uint64
	willProperties                             *properties
	tls                                        tlsOptions
	fs                                         *flag.FlagSet

	topic string // of the URL, "" = none
}

func connectOptions(fs *flag.FlagSet) *connection {
	c := &connection{host: "127.0.0.1", version: "5", keepAlive: 60, fs: fs}
	both(fs.StringVar, &c.url, "L", "url")
	both(fs.StringVar, &c.host, "h", "host")
	both(fs.IntVar, &c.port, "p", "port")
	both(fs.StringVar, &c.id, "i", "id")
	both(fs.StringVar, &c.username, "u", "username")
	both(fs.StringVar, &c.password, "P", "pw")
	both(fs.StringVar, &c.version, "V", "protocol-version")
	both(fs.IntVar, &c.keepAlive, "k", "keepalive")
	both(fs.Float64Var, &c.timeout, "W", "timeout")
	fs.BoolVar(&c.reconnect, "reconnect", false, "")
	both(fs.BoolVar, &c.keep, "c", "disable-clean-session")
	both(fs.Uint64Var, &c.expiry, "x", "session-expiry")
	fs.Uint64Var(&c.expiry, "session-expiry-interval", 0, "") // as mosquitto_sub has it
	fs.Uint64Var(&c.receiveMaximum, "receive-maximum", 0, "")
	fs.Uint64Var(&c.maxPacket, "max-packet", 0, "")
	fs.Var(&c.user, "connect-property", "")
	fs.Var(&c.userEnd, "disconnect-property", "")
	fs.BoolVar(&c.requestResponse, "request-response", false, "")
	fs.BoolVar(&c.noReasons, "no-reasons", false, "")
	fs.StringVar(&c.will.Topic, "will-topic", "", "")
	fs.StringVar(&c.willPayload, "will-payload", "", "")
	fs.IntVar(&c.willQoS, "will-qos", 0, "")
	fs.BoolVar(&c.will.Retain, "will-retain", false, "")
	fs.Uint64Var(&c.willDelay, "will-delay", 0, "")
	c.willProperties = messageOptions(fs, "will-")
	c.tls.define(fs)
	return c
}

// given reports whether one of the options stands on the command line.
func given(fs *flag.FlagSet, names ...string) bool {
	found := false
	fs.Visit(func(f *flag.Flag) {
		for _, n := range names {
			found = found || f.Name == n
		}
	})
	return found
}

// options checks what the command line says and makes the client's options of it.
func (c *connection) options() (client.Options, error) {
	o := client.Options{ClientID: c.id, CleanStart: true}
	switch c.version {
	case "5", "5.0", "v5", "mqttv5":
		o.Version = packet.V5
	case "311", "3.1.1", "v311", "mqttv311":
		o.Version = packet.V311
	case "31", "3.1", "v31", "mqttv31":
		o.Version = packet.V31
	default:
		return o, usagef("%q is no version that it speaks; allowed: 5, 311, 31", c.version)
	}
	if err := needV5(c.fs, o.Version, "receive-maximum", "max-packet", "connect-property", "disconnect-property",
		"request-response", "no-reasons", "will-delay"); err != nil {
		return o, err
	}
	if err := c.locate(&o); err != nil {
		return o, err
	}
	if c.keepAlive < 0 || c.keepAlive > math.MaxUint16 {
		return o, usagef("a keep alive of %d is out of range; allowed: 0 to 65535", c.keepAlive)
	}
	if !(c.timeout >= 0 && c.timeout <= 1e9) {
		return o, usagef("a timeout of %v is out of range; allowed: 0 or more seconds", c.timeout)
	}
	o.KeepAlive = uint16(c.keepAlive)
	switch {
	case given(c.fs, "receive-maximum") && (c.receiveMaximum < 1 || c.receiveMaximum > math.MaxUint16):
		return o, usagef("--receive-maximum %d is out of range; allowed: 1 to 65535", c.receiveMaximum)
	case given(c.fs, "max-packet") && (c.maxPacket < 1 || c.maxPacket > math.MaxUint32):
		return o, usagef("--max-packet %d is out of range; allowed: 1 to 4294967295", c.maxPacket)
	}
	o.ReceiveMaximum, o.MaximumPacketSize = uint16(c.receiveMaximum), uint32(c.maxPacket)
	o.UserProperties, o.DisconnectProperties = c.user.encoded, c.userEnd.encoded
	o.RequestResponse, o.NoProblems = c.requestResponse, c.noReasons
	if err := c.checkSession(&o); err != nil {
		return o, err
	}
	if given(c.fs, "u", "username") {
		o.Username = &c.username
	}
	if o.Password != nil {
		// in the URL
	} else if password, ok := os.LookupEnv("DUNLIN_PASSWORD"); ok && !given(c.fs, "P", "pw") && o.Username != nil {
		o.Password = &password
	} else if given(c.fs, "P", "pw") {
		o.Password = &c.password
	}
	if o.Password != nil && o.Username == nil && o.Version != packet.V5 {
		return o, usagef("a password needs a user name (-u) before MQTT 5.0")
	}
	if err := c.checkWill(&o); err != nil {
		return o, err
	}
	return o, nil
}

// locate finds out where the broker is, and with the URL who we are there.
func (c *connection) locate(o *client.Options) error {
	host, port, secure, plain := c.host, c.port, c.tls.given(c.fs), false
	ported := given(c.fs, "p", "port")
	if ported && (port < 1 || port > math.MaxUint16) {
		return usagef("the port %d is out of range; allowed: 1 to 65535", port)
	}
	switch {
	case c.url == "" && given(c.fs, "L", "url"):
		return usagef("the URL is empty")
	case strings.HasPrefix(c.url, "unix:"):
		host = c.url
	case c.url != "":
		u, err := parseURL(c.url)
		if err != nil {
			return err
		}
		host = u.Hostname()
		secure, plain = secure || u.Scheme == "mqtts", u.Scheme == "mqtt"
		if p := u.Port(); p != "" {
			if port, err = strconv.Atoi(p); err != nil || port < 1 || port > math.MaxUint16 {
				return usagef("the port %s is out of range; allowed: 1 to 65535", p)
			}
			ported = true
		}
		if u.User != nil {
			if given(c.fs, "u", "username") {
				return usagef("the user is in the URL and behind -u")
			}
			o.Username = new(u.User.Username())
			if password, ok := u.User.Password(); ok {
				if given(c.fs, "P", "pw") {
					return usagef("the password is in the URL and behind -P")
				}
				o.Password = &password
			}
		}
		c.topic = strings.TrimPrefix(u.Path, "/")
	}
	if c.url != "" && given(c.fs, "h", "host", "p", "port") {
		return usagef("-L says where the broker is; -h and -p do not go with it")
	}
	if host == "" {
		return usagef("the host is empty")
	}
	if strings.HasPrefix(host, "unix:") {
		if secure {
			return usagef("there is no TLS on a unix socket")
		}
		o.Address = host
		return nil
	}
	if secure && plain {
		return usagef("mqtt:// is a connection without TLS, the other options want TLS; use mqtts://")
	}
	host = strings.Trim(host, "[]")
	if !ported {
		port = 1883
		if secure {
			port = 8883
		}
	}
	o.Address = net.JoinHostPort(host, strconv.Itoa(port))
	var err error
	if secure {
		o.TLS, err = c.tls.config(host)
	}
	return err
}

// parseURL takes a URL of a broker apart. Its faults are told without the URL, in which there
// may be a password.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if fault, ok := errors.AsType[*url.Error](err); ok {
		return nil, usagef("the URL is none: %v", fault.Err)
	}
	switch {
	case err != nil:
		return nil, usagef("the URL is none")
	case u.Scheme == "":
		return nil, usagef("the URL has nothing before its host; allowed: mqtt://, mqtts://, unix:")
	case u.Scheme != "mqtt" && u.Scheme != "mqtts":
		return nil, usagef("the URL begins with %.20q; allowed: mqtt://, mqtts://, unix:", u.Scheme)
	case u.Hostname() == "":
		return nil, usagef("the URL names no host")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, usagef("the URL has a part behind ? or #; write %%3F and %%23 where a topic has them")
	}
	return u, nil
}

// lasting reports whether the command line says how long the session lasts.
func (c *connection) lasting() bool {
	return c.keep || given(c.fs, "x", "session-expiry", "session-expiry-interval")
}

// checkSession says how long the session lasts.
func (c *connection) checkSession(o *client.Options) error {
	timed := given(c.fs, "x", "session-expiry", "session-expiry-interval")
	switch {
	case (c.keep || c.expiry > 0) && o.ClientID == "":
		return usagef("a session that lasts needs a client identifier (-i)")
	case timed && o.Version != packet.V5:
		return usagef("-x needs MQTT 5.0; before that a session with -c has no end")
	case c.expiry > math.MaxUint32:
		return usagef("a session expiry of %d is out of range; allowed: 0 to 4294967295", c.expiry)
	}
	if o.ClientID == "" && o.Version == packet.V31 {
		o.ClientID = "dunlin-" + rand.Text()[:16] // the broker does not choose one; 23 characters are allowed
	}
	o.CleanStart = !c.keep
	o.SessionExpiry = uint32(c.expiry)
	if c.keep && !timed {
		o.SessionExpiry = math.MaxUint32
	}
	return nil
}

func (c *connection) checkWill(o *client.Options) error {
	if c.will.Topic == "" {
		if given(c.fs, append(c.willProperties.names(), "will-payload", "will-qos", "will-retain", "will-delay")...) {
			return usagef("a will needs --will-topic")
		}
		return nil
	}
	if err := topic.CheckName([]byte(c.will.Topic)); err != nil {
		return usagef("--will-topic %.80q cannot be published to: %s", c.will.Topic, trimTopic(err))
	}
	qos, err := checkQoS(c.willQoS)
	if err != nil {
		return err
	}
	if len(c.willPayload) > math.MaxUint16 {
		return usagef("the payload of the will has %d bytes; allowed: up to 65535", len(c.willPayload))
	}
	c.will.QoS = qos
	c.will.Payload = []byte(c.willPayload)
	if err := needV5(c.fs, o.Version, c.willProperties.names()...); err != nil {
		return err
	}
	if err := c.willProperties.apply(&c.will); err != nil {
		return err
	}
	if err := checkFormat(&c.will); err != nil {
		return err
	}
	if c.willDelay > math.MaxUint32 {
		return usagef("--will-delay %d is out of range; allowed: 0 to 4294967295", c.willDelay)
	}
	o.Will, o.WillDelay = &c.will, uint32(c.willDelay)
	return nil
}

// trimTopic leaves out who found the fault in a topic: the user did not ask.
func trimTopic(err error) string { return strings.TrimPrefix(err.Error(), "topic: ") }

func checkQoS(qos int) (packet.QoS, error) {
	if qos < 0 || qos > 2 {
		return 0, usagef("there is no QoS %d; allowed: 0, 1, 2", qos)
	}
	return packet.QoS(qos), nil
}

var errTimeout = errors.New("the time is up")

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// context returns a context that ends with SIGINT, SIGTERM and the timeout.
func (c *connection) context() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	var timeout <-chan time.Time
	if c.timeout > 0 {
		timeout = time.After(time.Duration(c.timeout * float64(time.Second)))
	}
	go func() { // ended by the returned function, which waits for it
		defer close(ended)
		select {
		case <-signals:
			cancel(errInterrupted)
			signal.Stop(signals) // the second one ends the process
		case <-timeout:
			cancel(errTimeout)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
		signal.Stop(signals)
	}
}

// link returns the connection, which is not opened yet.
func (c *call) link(conn *connection, o client.Options) *link {
	if conn.reconnect && !conn.lasting() && o.Version == packet.V5 {
		// A session that outlasts an outage, and not us.
		o.SessionExpiry, o.EndSession = sessionOfReconnect, true
	}
	return &link{call: c, o: o, again: conn.reconnect}
}

// advise adds to the error of a connection what may help.
func advise(err error, o client.Options) error {
	if refused, ok := errors.AsType[*client.Refused](err); ok {
		if refused.Code == packet.UnsupportedProtocolVersion && o.Version != packet.V311 {
			return fmt.Errorf("%w; it may speak 3.1.1: try -V 311", err)
		}
		return err
	}
	if o.TLS != nil {
		return adviseTLS(err, o.TLS)
	}
	if _, port, _ := net.SplitHostPort(o.Address); port == "8883" && errors.Is(err, io.EOF) {
		return fmt.Errorf("%w; that is the port for TLS: try --tls", err)
	}
	return err
}
