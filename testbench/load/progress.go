package load

import (
	"fmt"
	"time"
)

// progressEvery is how often the line changes.
const progressEvery = 200 * time.Millisecond

// line is what the progress line has said last.
type line struct {
	at     int64
	counts counts
}

// progress shows what goes on, if somebody wants to see it and the last time is a while ago. It
// belongs to the goroutine that waits for the loops.
func (e *engine) progress(what string, c counts) {
	t := now()
	if e.Progress == nil || time.Duration(t-e.line.at) < progressEvery {
		return
	}
	wall := float64(t-e.line.at) / 1e9
	rate := func(now, before uint64) string { return perSecond(now-min(now, before), wall) }
	fmt.Fprintf(e.Progress, "\r\x1b[K%s: %d connected, published %s/s, delivered %s/s", what, c.ready,
		rate(c.published, e.line.counts.published), rate(c.delivered, e.line.counts.delivered))
	e.line = line{t, c}
}

// clear removes the line.
func (e *engine) clear() {
	if e.Progress != nil {
		fmt.Fprint(e.Progress, "\r\x1b[K")
	}
}
