// Package service is Dunlin's side of the contract with whoever runs it: the notifications and
// the watchdog of systemd, signals, and the limits that the system has set for the process.
//
// Nothing here needs systemd. Without it (a terminal, procd, a container) the notifications and
// the watchdog do nothing and report no error, so that callers need not ask.
//
// The order at start is: RaiseNoFile and LimitHeap, open everything, Ready, then Watchdog until
// the end; at the end Stopping before the first thing is closed.
package service

import (
	"fmt"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells systemd that the service is up, with a line for `systemctl status`. Units which are
// ordered after ours start now and the watchdog's clock begins: call it when every listener
// accepts and every restored session would receive.
//
// The error says that the notification could not be sent; systemd will then stop the service
// after TimeoutStartSec, so it is worth a log line.
func Ready(status string) error {
	return notify(daemon.SdNotifyReady + "\n" + statusLine(status))
}

// Stopping tells systemd that the service is ending by its own will and why.
func Stopping(status string) error {
	return notify(daemon.SdNotifyStopping + "\n" + statusLine(status))
}

// Status replaces the line that `systemctl status` shows.
func Status(status string) error {
	return notify(statusLine(status))
}

// statusLine keeps the text within its assignment: a newline would begin the next one.
func statusLine(status string) string {
	return "STATUS=" + strings.ReplaceAll(status, "\n", " ")
}

func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("service: notify systemd: %w", err)
	}
	return nil
}
