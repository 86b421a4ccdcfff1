package runner

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"dunlin/core/message"
	"dunlin/core/rule"
	"dunlin/storeforward/spool"
	"dunlin/uplink/forward"
	"dunlin/uplink/mqtt"
)

// DefaultMaxInFlight is the window of an uplink.
const DefaultMaxInFlight = 64

// Options of an Uplink. The zero value of a field means its default.
type Options struct {
	Name     string // unique among the uplinks; a-z, 0-9 and "-"; part of the name of its file
	Endpoint string // mqtt://host[:1883] or mqtts://host[:8883]
	ClientID string // unique in the server
	Username string // "" = none
	Password string // "" = none
	TLS      mqtt.TLS

	KeepAlive     time.Duration // default mqtt.DefaultKeepAlive
	SessionExpiry time.Duration // default mqtt.DefaultSessionExpiry

	Rules rule.Set // what goes up; the first that takes a message decides
	// Down is what comes down: From is a filter in the server, To where its messages are
	// published here. QoS is 0 or 1.
	Down rule.Set

	MaxInFlight   int             // messages in flight; default DefaultMaxInFlight
	Backoff       forward.Backoff // between connections; default forward.DefaultBackoff
	Reserve       *spool.Reserve  // see spool.Options; nil = none
	SpoolMaxBytes int64           // default spool.DefaultMaxBytes
	SpoolAbsent   error           // if not nil, why its file cannot be used: QoS 0 goes up, the rest is refused
	SpoolDamaged  func(err error) // told of damage in it; nil = nobody is
	SpoolWarm     bool            // its file was read just now; see boltfile.Options.Warm
	WhenFull      spool.Policy    // default spool.DropOldest

	Folder    string        // of the spool's file; required
	Clock     spool.Clock   // for Message Expiry; nil: messages do not expire while they wait
	SaveAfter time.Duration // see spool.Options; 0 = its default
	Linger    time.Duration // see spool.Options; 0 = not at all
	Budget    *spool.Budget // see spool.Options; nil = none
	NoSync    bool          // see boltfile.Options.NoSync
	Log       *slog.Logger  // nil = none
}

// Ingest takes what comes down. The broker implements it.
type Ingest interface {
	// Inject publishes m as if a client had. Topic, QoS, Source and what came with the message
	// are set; Received and Publisher are for the callee to set, whose m is from then on. done is
	// called once, from any goroutine: with nil when every durable receiver has the message on
	// disk, or with an error if nothing of it was published, after which it is handed over again
	// later. At QoS 0 nobody waits for it.
	Inject(m *message.Message, done func(error))
}

// Validate reports what is wrong, and what to do about it. It reads no files.
func (o *Options) Validate() error {
	if err := o.validate(); err != nil {
		return fmt.Errorf("uplink %q: %w", o.Name, err)
	}
	return nil
}

func (o *Options) validate() error {
	if o.Name == "" || strings.Trim(o.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return errors.New("the name must consist of a-z, 0-9 and -")
	}
	if len(o.Rules) == 0 && len(o.Down) == 0 {
		return errors.New("it has no rules: say under rules what goes up, or under down what comes down")
	}
	if err := o.Rules.Validate(); err != nil {
		return err
	}
	if err := o.Down.Validate(); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	for i, r := range o.Down {
		if r.QoS > 1 {
			return fmt.Errorf("down: rule %d: qos is %d: it must be 0 or 1", i+1, r.QoS)
		}
	}
	if o.MaxInFlight < 0 || o.MaxInFlight > 1000 {
		return fmt.Errorf("max_in_flight is %d: it must be 1 to 1000", o.MaxInFlight)
	}
	if o.SpoolMaxBytes < 0 {
		return fmt.Errorf("spool max_bytes is %d: it must be positive", o.SpoolMaxBytes)
	}
	if o.Backoff != (forward.Backoff{}) {
		if err := o.Backoff.Validate(); err != nil {
			return err
		}
	}
	m := o.mqtt()
	return m.Validate()
}

func (o Options) withDefaults() Options {
	if o.MaxInFlight == 0 {
		o.MaxInFlight = DefaultMaxInFlight
	}
	if o.Backoff == (forward.Backoff{}) {
		o.Backoff = forward.DefaultBackoff
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("uplink", o.Name)
	return o
}

// mqtt returns the options of the sink.
func (o *Options) mqtt() mqtt.Options {
	m := mqtt.Options{
		Endpoint: o.Endpoint, ClientID: o.ClientID, Username: o.Username, Password: o.Password, TLS: o.TLS,
		KeepAlive: o.KeepAlive, SessionExpiry: o.SessionExpiry,
		SpoolID: o.Name, Log: o.Log,
	}
	for _, r := range o.Down {
		m.Subscriptions = append(m.Subscriptions, mqtt.Subscription{Filter: r.From, QoS: r.QoS})
	}
	return m
}

// SpoolPath returns the file of the uplink of that name.
func SpoolPath(folder, name string) string {
	return filepath.Join(folder, "uplink-"+name+".db")
}
