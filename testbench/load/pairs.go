package load

import (
	"context"
	"fmt"
	"time"
)

// pairs: each publisher has a topic and a subscriber of its own. At a given rate it shows how long
// a message takes, and what one costs that comes alone.
func pairs(ctx context.Context, o *Options) (*Result, error) {
	if o.Pairs < 1 {
		return nil, fmt.Errorf("load: pairs is %d, must be at least 1", o.Pairs)
	}
	if o.Rate > 0 {
		o.Every, o.Burst = time.Second*time.Duration(o.Pairs)/time.Duration(o.Rate), 1
	}
	return o.flow(ctx, func(e *engine) {
		for i := range o.Pairs {
			c := e.client(fmt.Sprintf("s%d", i))
			c.filters, c.qos, c.persistent = []string{e.topic(i)}, o.SubQoS, o.Persistent
			c.tracks, c.base = make([]track, 1), uint32(i)
		}
		for i := range o.Pairs {
			window := share(o.Window, o.Pairs, i)
			p := e.publisher(e.client(fmt.Sprintf("p%d", i)), []string{e.topic(i)}, o.ring(window), 1)
			if window == 0 && !e.open {
				p.limit = 0
			}
		}
	}, bySubscribers(1))
}
