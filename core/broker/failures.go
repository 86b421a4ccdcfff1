package broker

import (
	"context"
	"log/slog"
	"time"
)

// reportEvery is how often a failure that goes on is reported again.
const reportEvery = time.Minute

// failures reports one kind of failure that may come a thousand times a second: the first at
// once, then at intervals how many there were, then that it is over.
type failures struct {
	what   string
	count  int           // since it began, 0 = it works
	logged time.Duration // when it was reported last
}

func (f *failures) add(b *Broker, err error, attributes ...any) {
	f.report(b, slog.LevelError, append(attributes, "err", err)...)
}

func (f *failures) report(b *Broker, level slog.Level, attributes ...any) {
	f.count++
	if now := b.loop.Now(); f.count == 1 || now-f.logged >= reportEvery {
		f.logged = now
		b.log.Log(context.Background(), level, f.what, append(attributes, "count", f.count)...)
	}
}

func (f *failures) over(b *Broker, attributes ...any) {
	if f.count > 0 {
		b.log.Info(f.what+": over", append(attributes, "count", f.count)...)
		f.count = 0
	}
}
