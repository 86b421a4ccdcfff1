package load

import (
	"errors"
	"fmt"
	"io"
	"time"

	"dunlin/core/packet"
)

// Options say what to do. Which of them a scenario looks at, and their defaults in it, is in
// Scenarios.
type Options struct {
	Address  string         `json:"address"` // host:port
	Version  packet.Version `json:"version"`
	Username string         `json:"-"`
	Password string         `json:"-"`
	// PID is the broker's process; 0 = the one that listens on Address, if it is on this
	// machine; -1 = do not look at it.
	PID   int `json:"-"`
	Loops int `json:"loops"`

	Publishers  int  `json:"publishers,omitempty"`
	Subscribers int  `json:"subscribers,omitempty"`
	Topics      int  `json:"topics,omitempty"`
	Wildcard    bool `json:"wildcard,omitempty"` // subscribe to all topics by one filter
	Size        int  `json:"size,omitempty"`     // bytes of a payload, at least headerSize
	PubQoS      byte `json:"pub_qos"`
	SubQoS      byte `json:"sub_qos"`
	Persistent  bool `json:"persistent,omitempty"` // sessions of subscribers outlive their connections
	// Window is how many messages are in flight, of all publishers together, in a closed loop.
	Window int `json:"window,omitempty"`
	// Every is the interval of an open loop, 0 = a closed loop. A publisher sends Burst messages in it, or
	// together when as many places are free.
	Every time.Duration `json:"every_ns,omitempty"`
	Burst int           `json:"burst,omitempty"`
	Rate  int           `json:"rate,omitempty"` // messages per second of all publishers together

	Pairs       int `json:"pairs,omitempty"`
	Connections int `json:"connections,omitempty"`
	Messages    int `json:"messages,omitempty"`
	Rounds      int `json:"rounds,omitempty"`
	// Keep leaves what was queued in the broker, with the sessions.
	Keep   bool `json:"keep,omitempty"`
	AtOnce int  `json:"at_once,omitempty"` // connections that are being opened at the same time

	MayLose bool          `json:"may_lose,omitempty"` // lost messages are no reason to fail
	Warmup  time.Duration `json:"warmup_ns,omitempty"`
	Measure time.Duration `json:"measure_ns,omitempty"`
	// Stall is how long nothing may arrive in a closed loop until what is in flight is written off.
	Stall   time.Duration `json:"stall_ns,omitempty"`
	Settle  time.Duration `json:"settle_ns,omitempty"`  // how long nothing comes until a message counts as lost
	Rest    time.Duration `json:"rest_ns,omitempty"`    // how long memory must not have changed to be settled
	Timeout time.Duration `json:"timeout_ns,omitempty"` // for connecting

	// Progress gets a line that overwrites itself; nil = none.
	Progress io.Writer `json:"-"`
}

func (o *Options) validate() error {
	var errs []error
	atLeast := func(name string, value, least int) {
		if value < least {
			errs = append(errs, fmt.Errorf("%s is %d, must be at least %d", name, value, least))
		}
	}
	atLeast("size", o.Size, headerSize)
	atLeast("loops", o.Loops, 1)
	if o.PubQoS > 2 || o.SubQoS > 2 {
		errs = append(errs, errors.New("a QoS is 0, 1 or 2"))
	}
	if o.Every > 0 {
		atLeast("burst", o.Burst, 1)
	}
	if o.Version != packet.V311 && o.Version != packet.V5 {
		errs = append(errs, fmt.Errorf("version %d, must be 3.1.1 or 5", o.Version))
	}
	if len(errs) > 0 {
		return fmt.Errorf("load: %w", errors.Join(errs...))
	}
	return nil
}
