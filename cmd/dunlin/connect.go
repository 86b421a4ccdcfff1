package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
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
Connection:
  -h, --host HOST        name, address or unix:/path (127.0.0.1)
  -p, --port PORT        (1883)
  -i, --id ID            client identifier (chosen by the broker)
  -u, --username NAME
  -P, --pw PASSWORD      other users of this machine can see it; the variable
                         DUNLIN_PASSWORD does the same unseen
  -V, --protocol-version 5 or 311 (5)
  -k, --keepalive SECONDS
                         (60; 0 = off)
  -W, --timeout SECONDS  give up after that long (0 = never)
  --will-topic TOPIC     what the broker publishes should the connection break
  --will-payload TEXT
  --will-qos 0|1|2
  --will-retain
`

// connection is what the options of pub and sub say about the connection.
type connection struct {
	host, id, username, password, version string
	port, keepAlive                       int
	timeout                               float64
	will                                  client.Message
	willPayload                           string
	willQoS                               int
	fs                                    *flag.FlagSet
}

func connectOptions(fs *flag.FlagSet) *connection {
	c := &connection{host: "127.0.0.1", port: 1883, version: "5", keepAlive: 60, fs: fs}
	both(fs.StringVar, &c.host, "h", "host")
	both(fs.IntVar, &c.port, "p", "port")
	both(fs.StringVar, &c.id, "i", "id")
	both(fs.StringVar, &c.username, "u", "username")
	both(fs.StringVar, &c.password, "P", "pw")
	both(fs.StringVar, &c.version, "V", "protocol-version")
	both(fs.IntVar, &c.keepAlive, "k", "keepalive")
	both(fs.Float64Var, &c.timeout, "W", "timeout")
	fs.StringVar(&c.will.Topic, "will-topic", "", "")
	fs.StringVar(&c.willPayload, "will-payload", "", "")
	fs.IntVar(&c.willQoS, "will-qos", 0, "")
	fs.BoolVar(&c.will.Retain, "will-retain", false, "")
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
	default:
		return o, usagef("%q is no version that it speaks; allowed: 5, 311", c.version)
	}
	if c.host == "" {
		return o, usagef("the host is empty")
	}
	if c.port < 1 || c.port > math.MaxUint16 {
		return o, usagef("the port %d is out of range; allowed: 1 to 65535", c.port)
	}
	o.Address = c.host
	if !strings.HasPrefix(c.host, "unix:") {
		o.Address = net.JoinHostPort(strings.Trim(c.host, "[]"), strconv.Itoa(c.port))
	}
	if c.keepAlive < 0 || c.keepAlive > math.MaxUint16 {
		return o, usagef("a keep alive of %d is out of range; allowed: 0 to 65535", c.keepAlive)
	}
	if !(c.timeout >= 0 && c.timeout <= 1e9) {
		return o, usagef("a timeout of %v is out of range; allowed: 0 or more seconds", c.timeout)
	}
	o.KeepAlive = uint16(c.keepAlive)
	if given(c.fs, "u", "username") {
		o.Username = &c.username
	}
	if password, ok := os.LookupEnv("DUNLIN_PASSWORD"); ok && !given(c.fs, "P", "pw") && o.Username != nil {
		o.Password = &password
	} else if given(c.fs, "P", "pw") {
		o.Password = &c.password
	}
	if o.Password != nil && o.Username == nil && o.Version != packet.V5 {
		return o, usagef("a password needs a user name (-u) in MQTT 3.1.1")
	}
	if err := c.checkWill(&o); err != nil {
		return o, err
	}
	return o, nil
}

func (c *connection) checkWill(o *client.Options) error {
	if c.will.Topic == "" {
		if given(c.fs, "will-payload", "will-qos", "will-retain") {
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
	o.Will = &c.will
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

// dial connects, and says what to do where that is known.
func dial(ctx context.Context, o client.Options) (*client.Client, error) {
	c, err := client.Dial(ctx, o)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx) // and not how the dialer felt about it
	}
	if refused, ok := errors.AsType[*client.Refused](err); ok && refused.Code == packet.UnsupportedProtocolVersion && o.Version == packet.V5 {
		return nil, fmt.Errorf("%w; it may speak 3.1.1: try -V 311", err)
	}
	return c, err
}
