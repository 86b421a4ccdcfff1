package service

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Watchdog keeps systemd's watchdog quiet for as long as every check answers, and returns when
// ctx ends. Without WatchdogSec= in the unit it returns at once.
//
// A round takes place three times per WatchdogSec: each check is called in turn, in the caller's
// goroutine, and only if all returned nil the watchdog is told. Together they have a third of
// WatchdogSec, after which their context is done. So the longest time between two ticks of a
// healthy process is two thirds of it, and a part which stays silent gets the process aborted
// and restarted by systemd; the stacks of all goroutines are then in the journal.
//
// A check asks the part to answer, for instance by a message through the inbox of an event loop
// or a no-op through the queue of a writer; a check that only reads a variable hides a hang. Its
// error names the part. A check which ignores its context holds back the tick, and the return,
// until it comes back.
//
// The first failed round and the recovery are logged, not the rounds between them. A
// notification that cannot be sent counts as a failed round.
//
// It returns an error if WATCHDOG_USEC is not a positive number (on 32-bit machines: of at most
// 35 minutes).
func Watchdog(ctx context.Context, log *slog.Logger, checks ...func(context.Context) error) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("service: watchdog: %w", err)
	}
	if limit == 0 {
		return nil
	}
	tick := func() error { return notify(daemon.SdNotifyWatchdog) }
	return watch(ctx, log, limit/3, tick, checks)
}

// watch is Watchdog with the interval and the way to tick given.
func watch(ctx context.Context, log *slog.Logger, interval time.Duration, tick func() error, checks []func(context.Context) error) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	failed := 0 // rounds without a tick since the last one with
	for {
		err := round(ctx, interval, checks)
		if err == nil {
			err = tick()
		}
		switch {
		case err == nil && failed > 0:
			log.Info("all parts answer again", "rounds", failed)
			failed = 0
		case err != nil && ctx.Err() == nil:
			if failed == 0 {
				log.Error("a part does not answer, the watchdog is not told", "err", err)
			}
			failed++
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// round calls the checks until one fails.
func round(ctx context.Context, limit time.Duration, checks []func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, answers := range checks {
		if err := answers(ctx); err != nil {
			return err
		}
	}
	return nil
}
