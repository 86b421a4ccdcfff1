package boltfile

import (
	"log/slog"
	"sync"
	"time"
)

// BudgetOptions says how much may be written.
type BudgetOptions struct {
	PerDay int64 // bytes; 0 = any number
	Burst  int64 // bytes that may be written at once, after a time of rest
	// MaxDelay bounds by how much a commit is put off when the budget is used up.
	MaxDelay time.Duration
	Log      *slog.Logger // nil = none
}

// Budget is how much may be written to flash, by all files that share it: a bucket of bytes that
// fills up by the day. When it is empty, commits are put off, so that more goes into each: what a
// commit costs hardly depends on what is in it. Nothing is ever refused.
//
// The zero of it, and nil, only counts. Its methods may be called from any goroutine.
type Budget struct {
	o BudgetOptions

	mu    sync.Mutex // guards what follows
	left  float64    // bytes; below 0 when more was written
	at    time.Time  // as of when
	usage Usage
}

// Usage is what has become of a budget since the start.
type Usage struct {
	Written int64 // bytes
	Commits int64
	PutOff  int64 // commits that had to wait
	Left    int64 // bytes that may be written at once; below 0: more was written
	Over    bool  // the budget is used up: an alarm
}

// recovered is the part of the burst that must be there again until the alarm ends.
const recovered = 0.1

// NewBudget returns a budget of which nothing is used.
func NewBudget(o BudgetOptions) *Budget {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Budget{o: o, left: float64(o.Burst), at: time.Now()}
}

// fill brings the bucket up to now; the caller holds mu.
func (b *Budget) fill() {
	now := time.Now()
	b.left = min(b.left+b.rate()*now.Sub(b.at).Seconds(), float64(b.o.Burst))
	b.at = now
	if b.usage.Over && b.left >= recovered*float64(b.o.Burst) {
		b.usage.Over = false
		b.o.Log.Info("flash budget suffices again", "written", b.usage.Written, "commits_put_off", b.usage.PutOff)
	}
}

// rate is how many bytes a second may be written in the long run.
func (b *Budget) rate() float64 { return float64(b.o.PerDay) / (24 * time.Hour).Seconds() }

// spend notes a commit.
func (b *Budget) spend(bytes int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.usage.Written += bytes
	b.usage.Commits++
	if b.o.PerDay == 0 {
		return
	}
	b.fill()
	// What is owed is bounded, so that a day of too much is not paid for by months.
	b.left = max(b.left-float64(bytes), -float64(b.o.Burst))
	if b.left < 0 && !b.usage.Over {
		b.usage.Over = true
		b.o.Log.Warn("flash budget is used up, commits are put off", "budget_per_day", b.o.PerDay, "burst", b.o.Burst,
			"max_delay", b.o.MaxDelay, "written", b.usage.Written)
	}
}

// delay is by how much the next commit is to be put off: until the budget suffices, MaxDelay at most.
func (b *Budget) delay() time.Duration {
	if b == nil || b.o.PerDay == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	if b.left >= 0 {
		return 0
	}
	return min(time.Duration(-b.left/b.rate()*float64(time.Second)), b.o.MaxDelay)
}

// putOff counts a commit that had to wait.
func (b *Budget) putOff() {
	b.mu.Lock()
	b.usage.PutOff++
	b.mu.Unlock()
}

// Usage returns what has become of it.
func (b *Budget) Usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.o.PerDay > 0 {
		b.fill()
	}
	u := b.usage
	u.Left = int64(b.left)
	return u
}
