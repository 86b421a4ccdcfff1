package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// watched runs watch with an interval of three seconds in a bubble and returns the seconds at
// which it ticked within d, and the log.
func watched(t *testing.T, d time.Duration, checks ...func(context.Context) error) (ticks []int, log string) {
	t.Helper()
	var lines bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		tick := func() error {
			ticks = append(ticks, int(time.Since(start)/time.Second))
			return nil
		}
		if err := watch(ctx, slog.New(slog.NewTextHandler(&lines, nil)), 3*time.Second, tick, checks); err != nil {
			t.Error(err)
		}
	})
	return ticks, lines.String()
}

func alive(context.Context) error { return nil }

func TestWatchdogTicksOnceAnIntervalWhileAllAnswer(t *testing.T) {
	ticks, log := watched(t, 10*time.Second, alive, alive)
	if want := []int{0, 3, 6, 9}; !slices.Equal(ticks, want) {
		t.Errorf("ticks at %v s, want %v", ticks, want)
	}
	if log != "" {
		t.Errorf("logged %q", log)
	}
}

func TestWatchdogIsNotToldWhileAPartIsSilent(t *testing.T) {
	start, rounds := time.Time{}, 0
	silent := func(ctx context.Context) error {
		if rounds++; rounds == 1 {
			start = time.Now()
		}
		if at := time.Since(start); at >= 3*time.Second && at < 12*time.Second {
			<-ctx.Done()
			return errors.New("loop 0 does not answer")
		}
		return nil
	}
	ticks, log := watched(t, 20*time.Second, alive, silent)
	if want := []int{0, 12, 15, 18}; !slices.Equal(ticks, want) {
		t.Errorf("ticks at %v s, want %v", ticks, want)
	}
	if n := strings.Count(log, "loop 0 does not answer"); n != 1 {
		t.Errorf("the failure was logged %d times, want once:\n%s", n, log)
	}
	if !strings.Contains(log, "all parts answer again") || !strings.Contains(log, "rounds=3") {
		t.Errorf("the recovery from 3 rounds was not logged:\n%s", log)
	}
}

func TestWatchdogIsNotToldAfterAnErrorOfAnyCheck(t *testing.T) {
	fails := func(context.Context) error { return errors.New("store: closed") }
	for name, checks := range map[string][]func(context.Context) error{
		"the first": {fails, alive},
		"the last":  {alive, fails},
	} {
		t.Run(name, func(t *testing.T) {
			if ticks, _ := watched(t, 10*time.Second, checks...); len(ticks) != 0 {
				t.Errorf("ticks at %v s", ticks)
			}
		})
	}
}

func TestWatchdogEndsWithItsContextDuringACheck(t *testing.T) {
	ticks, log := watched(t, 1*time.Second, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if len(ticks) != 0 || log != "" {
		t.Errorf("ticks at %v s, log %q; want neither at the end", ticks, log)
	}
}

func TestWatchdogReachesTheSocket(t *testing.T) {
	next := listen(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Watchdog(ctx, slog.New(slog.DiscardHandler), alive) }() // ends with ctx; waited for below
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWatchdogReturnsAtOnceIfNobodyAsksForIt(t *testing.T) {
	for _, tt := range []struct{ name, usec, pid string }{
		{"not set", "", ""},
		{"meant for another process", "10000000", "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("WATCHDOG_USEC", tt.usec)
			t.Setenv("WATCHDOG_PID", tt.pid)
			if err := Watchdog(t.Context(), slog.New(slog.DiscardHandler), alive); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWatchdogRefusesAnIntervalThatIsNoNumber(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := Watchdog(t.Context(), slog.New(slog.DiscardHandler), alive); err == nil {
		t.Error("no error")
	}
}
