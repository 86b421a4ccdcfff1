package broker

import (
	"testing"

	"dunlin/core/durable"
)

func TestFiltersThatCanMatchAnAccountAreKnown(t *testing.T) {
	for filter, want := range map[string]bool{
		"$SYS/broker/ledger/session/dev-1": true,
		"$SYS/broker/ledger/session/+":     true,
		"$SYS/broker/ledger/session/#":     true,
		"$SYS/broker/ledger/#":             true,
		"$SYS/broker/#":                    true,
		"$SYS/#":                           true,
		"$SYS/+/+/+/+":                     true,
		"$SYS/broker/ledger/+":             false,
		"$SYS/broker/ledger/session":       false,
		"$SYS/broker/ledger/uplink/x":      false,
		"$SYS/broker/ledger/session/a/b":   false,
		"$SYS/broker/uptime":               false,
		"#":                                false, // [MQTT-4.7.2-1]
	} {
		if got := matchesAccount(filter); got != want {
			t.Errorf("%s: got %v", filter, got)
		}
	}
}

func TestAccountThatDoesNotAddUpIsSeen(t *testing.T) {
	a := durable.Account{Accepted: 9, Pending: 2, Dead: 1}
	a.Count(durable.Delivered, 2)
	a.Count(durable.Expired, 1)
	a.Count(durable.Moved, 1)
	a.Count(durable.DroppedFull, 2)
	if a.Mismatch() != 0 {
		t.Errorf("off by %d", a.Mismatch())
	}
	b := durable.Account{Accepted: 1}
	if b.Mismatch() != 1 {
		t.Errorf("off by %d", b.Mismatch())
	}
	b.Add(&a)
	if b.Mismatch() != 1 || b.Dropped["full"] != 2 || b.Accepted != 10 {
		t.Errorf("got %+v", b)
	}
}
