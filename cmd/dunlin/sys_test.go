package main

import (
	"strings"
	"testing"
)

func TestSysIsPublishedAsConfigured(t *testing.T) {
	at := startBroker(t, "sys.interval=1s")
	version := strings.Fields(dunlin(t, "", "version").out)[1]
	dunlin(t, "", args("sub", at, "-v", "-t", "$SYS/broker/version", "-C", "1")...).check(t, 0, "$SYS/broker/version dunlin version "+version+"\n", "")
	// A second value can only come from the timer.
	r := dunlin(t, "", args("sub", at, "-t", "$SYS/broker/uptime", "-C", "2")...)
	if r.code != 0 {
		t.Errorf("exit code %d", r.code)
	}
}

func TestIntervalOf0SwitchesSysOff(t *testing.T) {
	at := startBroker(t, "sys.interval=0")
	dunlin(t, "", args("pub", at, "-t", "end", "-r", "-m", "last", "-q", "1")...).check(t, 0, "", "")
	dunlin(t, "", args("sub", at, "-t", "$SYS/#", "-t", "end", "-C", "1")...).check(t, 0, "last\n", "")
}
