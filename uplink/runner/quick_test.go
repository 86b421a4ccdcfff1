package runner

import (
	"bytes"
	"os"
	"testing"
	"time"
)

func TestHowQuicklyTheServerAnswersIsSeenFromItsAcknowledgements(t *testing.T) {
	var q quickness
	q.sent(5, time.Second)
	q.sent(6, 2*time.Second) // the first is watched
	if q.acknowledged(6, 3*time.Second) || !q.acknowledged(5, time.Second+8*time.Millisecond) || q.took != 8*time.Millisecond {
		t.Errorf("took %v, want 8 ms", q.took)
	}
	q.sent(7, time.Second)
	q.acknowledged(7, time.Second)
	if q.took != 6*time.Millisecond {
		t.Errorf("took %v, want the mean", q.took)
	}
}

func TestMessagesThatTheServerHasAtOnceAreNotWritten(t *testing.T) {
	c := startCloud(t)
	c.receive("site/a/#")
	o := c.options(t)
	o.Linger = time.Hour // however slow the machine is
	u := openUplink(t, o)
	u.Start(nil)
	eventually(t, "the link is up", func() bool { return u.Status().Connected })
	before := read(t, o)
	feed(t, u, 1, 1000, 1)
	drained(t, u, 1000)
	if !bytes.Equal(before, read(t, o)) {
		t.Error("the file was written to")
	}
	c.got.wait(t, 1000) // the acknowledgement may overtake the message
	c.got.complete(t, 1000)
}

// read returns what is in the spool's file.
func read(t *testing.T, o Options) []byte {
	t.Helper()
	b, err := os.ReadFile(SpoolPath(o.Folder, o.Name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
