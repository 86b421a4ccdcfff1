package runner

import (
	"testing"

	"dunlin/core/message"
	"dunlin/core/rule"
	"dunlin/storeforward/spool"
)

func TestAMessageTooLargeForTheServerDoesNotBlockTheQueue(t *testing.T) {
	c := startCloud(t, "max_packet_size 1000")
	c.receive("site/a/#")
	o := c.options(t)
	o.Rules = rule.Set{{From: "up/#", To: "site/a/#", QoS: 1}}
	u := openUplink(t, o)
	u.Start(nil)
	eventually(t, "connected", func() bool { return u.Status().Connected })
	u.Append(&message.Message{Topic: "up/big", Payload: make([]byte, 2000), QoS: 1}, 0, nil)
	feed(t, u, 1, 3, 1)
	c.got.wait(t, 3)
	eventually(t, "the spool is empty", func() bool { return u.Status().Ledger.Pending == 0 })
	if l := u.Status().Ledger; l.Out[spool.TooLarge] != 1 || l.Delivered() != 3 {
		t.Errorf("%+v", l)
	}
}

func TestAMessageTheServerForbidsDoesNotBlockTheQueue(t *testing.T) {
	dir := t.TempDir()
	acl := dir + "/acl"
	write(t, acl, "topic write site/a/t1\ntopic read site/a/#\n")
	c := startCloud(t, "acl_file "+acl)
	c.receive("site/a/#")
	u := openUplink(t, c.options(t))
	u.Start(nil)
	feed(t, u, 1, 40, 1) // on four topics
	c.got.wait(t, 10)
	eventually(t, "the spool is empty", func() bool { return u.Status().Ledger.Pending == 0 })
	if l := u.Status().Ledger; l.Out[spool.Refused] != 30 || l.Delivered() != 10 {
		t.Errorf("%+v", l)
	}
}
