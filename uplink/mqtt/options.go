package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

// MaxSpan is how far apart the sequence numbers in flight may be: the packet identifier of a
// message is its sequence number modulo MaxSpan, plus 1. Identifiers above are for SUBSCRIBE.
const MaxSpan = 64000

// The defaults of Options.
const (
	DefaultKeepAlive      = 30 * time.Second
	DefaultSessionExpiry  = 7 * 24 * time.Hour
	DefaultTimeout        = 10 * time.Second
	DefaultMaxPacketSize  = 1 << 20
	DefaultReceiveMaximum = 16
)

// Subscription is what the server is asked for (MQTT5 §3.8.3). Messages of our own do not come
// back, retained ones come when the subscription is new.
type Subscription struct {
	Filter string
	QoS    byte // 0 or 1
}

// TLS says how to know the server and how to be known by it. Files are read at each Dial, so
// that exchanged certificates are used from the next connection on.
type TLS struct {
	CA         string // file with the certificates of authorities (PEM); "" = those of the system
	Cert, Key  string // files with the client's certificate and key (PEM); "" = none
	ServerName string // name in the server's certificate; "" = the host of the endpoint
}

// Options of a connection. The zero value of a field means its default.
type Options struct {
	Endpoint string // mqtt://host[:1883] or mqtts://host[:8883]; required
	ClientID string // required: the session in the server hangs on it
	// CleanStart ends what the server has as a session of ours: it is not the one that is continued.
	CleanStart bool
	Username   string // "" = none
	Password   string // sent if there is a Username or it is not ""
	TLS        TLS    // of mqtts
	// KeepAlive is the interval of pings, in whole seconds; default DefaultKeepAlive.
	KeepAlive time.Duration
	// SessionExpiry is how long the server is asked to keep the session without a connection;
	// default DefaultSessionExpiry.
	SessionExpiry time.Duration
	Subscriptions []Subscription
	// MaxPacketSize is announced and enforced for packets of the server, in bytes; default
	// DefaultMaxPacketSize.
	MaxPacketSize uint32
	// ReceiveMaximum is announced as how many messages of the server may wait for their local
	// commit; four times as many are taken from a server that ignores it, before reading stops.
	// Default DefaultReceiveMaximum.
	ReceiveMaximum uint16
	// Timeout bounds each of: dialling, the TLS handshake, CONNACK, SUBACK, and a write that does
	// not get on; default DefaultTimeout.
	Timeout time.Duration
	// SpoolID goes in front of the sequence number in the User Property "spool-id", by which a
	// receiver can tell a repetition.
	SpoolID string
	Log     *slog.Logger // nil = none
}

// Validate reports what is wrong, and what to do about it. It reads no files.
func (o *Options) Validate() error {
	if _, _, err := o.address(); err != nil {
		return err
	}
	if o.ClientID == "" {
		return errors.New("mqtt: client id is missing: the server keeps the session of the uplink under it, so it must be set and unique there")
	}
	if (o.TLS.Cert == "") != (o.TLS.Key == "") {
		return errors.New("mqtt: tls needs cert and key together")
	}
	if o.TLS != (TLS{}) && !strings.HasPrefix(o.Endpoint, "mqtts:") {
		return fmt.Errorf("mqtt: tls is set, but %s is not encrypted: write mqtts://", o.Endpoint)
	}
	if o.KeepAlive < 0 || o.KeepAlive > math.MaxUint16*time.Second || o.KeepAlive%time.Second != 0 {
		return fmt.Errorf("mqtt: keep alive is %v: it must be whole seconds up to %d", o.KeepAlive, math.MaxUint16)
	}
	if o.SessionExpiry < 0 || o.SessionExpiry > math.MaxUint32*time.Second {
		return fmt.Errorf("mqtt: session expiry is %v: it must be 0 to %d seconds", o.SessionExpiry, uint32(math.MaxUint32))
	}
	for _, s := range o.Subscriptions {
		if s.QoS > 1 {
			return fmt.Errorf("mqtt: subscription to %q: qos is %d: what comes down is taken with 0 or 1", s.Filter, s.QoS)
		}
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.KeepAlive == 0 {
		o.KeepAlive = DefaultKeepAlive
	}
	if o.SessionExpiry == 0 {
		o.SessionExpiry = DefaultSessionExpiry
	}
	if o.MaxPacketSize == 0 {
		o.MaxPacketSize = DefaultMaxPacketSize
	}
	if o.ReceiveMaximum == 0 {
		o.ReceiveMaximum = DefaultReceiveMaximum
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// address returns host:port and whether TLS is wanted.
func (o *Options) address() (address string, secure bool, err error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return "", false, fmt.Errorf("mqtt: endpoint %q must look like mqtts://host:8883 or mqtt://host:1883", redact(o.Endpoint))
	}
	port := u.Port()
	switch u.Scheme {
	case "mqtt":
		if port == "" {
			port = "1883"
		}
	case "mqtts":
		secure = true
		if port == "" {
			port = "8883"
		}
	default:
		return "", false, fmt.Errorf("mqtt: endpoint %q: unknown scheme %q: it must be mqtt or mqtts", redact(o.Endpoint), u.Scheme)
	}
	return net.JoinHostPort(u.Hostname(), port), secure, nil
}

// redact takes out what may be a password.
func redact(endpoint string) string {
	if at := strings.LastIndexByte(endpoint, '@'); at >= 0 {
		scheme, _, _ := strings.Cut(endpoint, "://")
		return scheme + "://…@" + endpoint[at+1:]
	}
	return endpoint
}

// tls reads the files.
func (o *Options) tls(address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{ServerName: o.TLS.ServerName, MinVersion: tls.VersionTLS12}
	if c.ServerName == "" {
		c.ServerName = host
	}
	if o.TLS.CA != "" {
		pem, err := os.ReadFile(o.TLS.CA)
		if err != nil {
			return nil, fmt.Errorf("mqtt: tls ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("mqtt: tls ca %s: no certificate in it; it must be PEM", o.TLS.CA)
		}
	}
	if o.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(o.TLS.Cert, o.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("mqtt: tls cert %s with key %s: %w", o.TLS.Cert, o.TLS.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
