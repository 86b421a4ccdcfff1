package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/packet"
	"dunlin/uplink/forward"
)

// sessionOfReconnect is how long, in seconds, the broker keeps the session of --reconnect while
// the connection is lost, unless -x or -c say otherwise.
const sessionOfReconnect = 3600

// pace is how --reconnect waits between two attempts.
var pace = forward.Backoff{Min: 250 * time.Millisecond, Max: time.Minute, Stable: 10 * time.Second}

// link is the connection of pub or sub: one, or with --reconnect one after the other.
type link struct {
	*client.Client
	call  *call
	o     client.Options
	again bool
	// ready prepares a new connection; nil = nothing to do.
	ready func(ctx context.Context, cl *client.Client) error

	wait  time.Duration // before the last attempt
	since time.Time     // the connection stands
}

// open connects for the first time.
func (l *link) open(ctx context.Context) error {
	if l.o.TLS != nil && l.o.TLS.InsecureSkipVerify {
		fmt.Fprintf(l.call.err, "dunlin %s: --insecure: the certificate of the broker is NOT CHECKED; whoever stands in between\n"+
			"can read the password and every message, and change them\n", l.call.name)
	}
	err := l.connect(ctx)
	if err == nil || !l.again {
		return err
	}
	return l.retry(ctx, err)
}

// restore is told of an error of the connection. It returns nil when there is a new one, on which
// to try again what failed, and the error if that would not help.
func (l *link) restore(ctx context.Context, err error) error {
	lost := l.Err()
	if err == nil || !l.again || lost == nil || !errors.Is(err, lost) || errors.Is(err, client.ErrClosed) {
		return err
	}
	if time.Since(l.since) >= pace.Stable {
		l.wait = 0
	}
	return l.retry(ctx, err)
}

// retry connects until it succeeds, or until there is no sense in it or ctx ends.
func (l *link) retry(ctx context.Context, err error) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !passing(err) {
			return err
		}
		l.wait = pace.Next(l.wait, rand.Float64())
		fmt.Fprintf(l.call.err, "dunlin %s: %v; again in %v\n", l.call.name, err, l.wait.Round(100*time.Millisecond))
		select {
		case <-time.After(l.wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err = l.connect(ctx); err == nil {
			fmt.Fprintf(l.call.err, "dunlin %s: connected\n", l.call.name)
			return nil
		}
	}
}

// connect makes a connection which goes on where the last one ended.
func (l *link) connect(ctx context.Context) error {
	o := l.o
	if last := l.Client; last != nil {
		last.Abandon()
		o.Resume = last
		if o.Version == packet.V5 {
			// The session is ours, also if the first connection began a new one.
			o.ClientID, o.CleanStart = last.ClientID(), false
		}
	}
	cl, err := client.Dial(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx) // and not how the dialer felt about it
		}
		return advise(err, o)
	}
	l.Client, l.since = cl, time.Now()
	if o.RequestResponse && o.Resume == nil {
		if topics := cl.ResponseInformation(); topics != "" {
			fmt.Fprintf(l.call.err, "dunlin %s: the broker keeps %.200q for responses to us\n", l.call.name, topics)
		} else {
			fmt.Fprintf(l.call.err, "dunlin %s: the broker keeps no topics for responses to us\n", l.call.name)
		}
	}
	if o.Resume != nil {
		if err := cl.Resend(ctx); err != nil {
			return err
		}
	}
	if l.ready != nil {
		return l.ready(ctx, cl)
	}
	return nil
}

// passing reports whether it may be better the next time: the broker cannot be reached, or says
// that it is the moment that is bad, and not we.
func passing(err error) bool {
	bad := []packet.ReasonCode{
		packet.UnspecifiedError, packet.ServerUnavailable, packet.ServerBusy, packet.ServerShuttingDown,
		packet.KeepAliveTimeout, packet.MessageRateTooHigh, packet.QuotaExceeded, packet.AdministrativeAction,
		packet.ConnectionRateExceeded, packet.MaximumConnectTime,
	}
	if said, ok := errors.AsType[*client.Disconnected](err); ok {
		return slices.Contains(bad, said.Code)
	}
	if refused, ok := errors.AsType[*client.Refused](err); ok {
		return refused.What == client.Connection && slices.Contains(bad, refused.Code)
	}
	if _, ok := errors.AsType[*client.Limit](err); ok {
		return false
	}
	return true
}
