package service

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// listen stands in for systemd: it binds a notification socket, points NOTIFY_SOCKET to it and
// returns a function that reads the next notification.
func listen(t *testing.T) (next func() string) {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	l, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	return func() string {
		t.Helper()
		l.SetReadDeadline(time.Now().Add(time.Minute)) // only against a hang
		b := make([]byte, 4096)
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestNotificationsReachTheSocket(t *testing.T) {
	next := listen(t)
	for _, tt := range []struct {
		name   string
		notify func(string) error
		status string
		want   string
	}{
		{"ready", Ready, "on 127.0.0.1:1883", "READY=1\nSTATUS=on 127.0.0.1:1883"},
		{"stopping", Stopping, "terminated", "STOPPING=1\nSTATUS=terminated"},
		{"status", Status, "3 connections", "STATUS=3 connections"},
		{"a newline starts no assignment", Status, "a\nWATCHDOG=trigger", "STATUS=a WATCHDOG=trigger"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.notify(tt.status); err != nil {
				t.Fatal(err)
			}
			if got := next(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNotifyingNobodyIsNoError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready("up"); err != nil {
		t.Error(err)
	}
}

func TestNotifyingASocketThatIsGoneIsAnError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := Ready("up"); err == nil {
		t.Error("no error")
	}
}
