package main

import (
	"strings"
	"testing"
)

func TestAFlashBudgetThatIsUsedUpIsTold(t *testing.T) {
	at := startBroker(t, "store.flash.budget=100MiB", "store.flash.burst=1MiB")
	for range 6 {
		dunlin(t, strings.Repeat("x", 200_000), args("pub", at, "-t", "a", "-r", "-q", "1", "-s")...).check(t, 0, "", "")
	}
	r := dunlin(t, "", args("sub", at, "-v", "-t", "$SYS/broker/alarm/flash", "-t", "$SYS/broker/store/flash/left", "-C", "2")...)
	for _, want := range []string{
		"$SYS/broker/alarm/flash the flash budget of 0.1 GB a day is used up, commits are put off by up to 100ms",
		"$SYS/broker/store/flash/left -",
	} {
		if !strings.Contains(r.out, want) {
			t.Errorf("exit code %d, %q; want %q", r.code, r.out, want)
		}
	}
}

func TestAFlashBudgetThatSufficesRaisesNoAlarm(t *testing.T) {
	at := startBroker(t)
	dunlin(t, "", args("sub", at, "-t", "$SYS/broker/alarm/flash", "-C", "1")...).check(t, 0, "none\n", "")
}
