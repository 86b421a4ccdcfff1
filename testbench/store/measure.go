package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/testbench/load"
	"dunlin/testbench/process"
)

// point is what was measured with so many messages in flight.
type point struct {
	Publishers int     `json:"publishers"`
	InFlight   int     `json:"in_flight"`
	Rate       float64 `json:"messages_per_s"`
	AckP50     float64 `json:"puback_p50_us"`
	AckP99     float64 `json:"puback_p99_us"`
	Written    float64 `json:"written_bytes_each"`
	Group      float64 `json:"messages_per_commit"` // at least: the commits of the drain count, too
	CPU        float64 `json:"cpu_us_each"`
	Bare       float64 `json:"bare_fdatasync_us"` // p50, measured before and after
	PerSync    float64 `json:"messages_per_bare_fdatasync"`
}

// traffic is what was measured of messages whose receivers are online.
type traffic struct {
	What    string  `json:"what"`
	Rate    float64 `json:"messages_per_s"`
	AckP50  float64 `json:"puback_p50_us"`
	AckP99  float64 `json:"puback_p99_us"`
	Written int64   `json:"written_bytes"`
	CPU     float64 `json:"cpu_us_each"`
}

// queue is what a long queue costs.
type queue struct {
	Messages  int     `json:"messages"`
	Sessions  int     `json:"sessions"`
	Size      int     `json:"payload_bytes"`
	Memory    int64   `json:"memory_above_idle"` // bytes resident, when it has settled
	File      int64   `json:"file_bytes"`
	Clean     float64 `json:"start_clean_s"`
	Crash     float64 `json:"start_crash_s"`
	ColdClean float64 `json:"start_clean_cold_s,omitempty"` // nothing of the file in memory; 0 = not root
	ColdCrash float64 `json:"start_crash_cold_s,omitempty"`
}

// broker runs one in a folder of its own.
func broker(ctx context.Context, dir, name string, settings ...string) (*process.Process, error) {
	folder := filepath.Join(dir, name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, err
	}
	return process.Dunlin(ctx, folder, process.Gateway{Settings: settings})
}

// scenario runs a scenario of package load. Anything lost or out of order is an error.
func scenario(ctx context.Context, name string, p *process.Process, change func(o *load.Options)) (*load.Result, error) {
	s := load.Find(name)
	o := s.Options()
	o.Address, o.PID, o.Loops = p.Spec.Address, p.PID(), 1
	o.PubQoS, o.SubQoS, o.Size = 1, 1, 128
	o.Timeout = 5 * time.Minute
	change(&o)
	r, err := s.Run(ctx, o)
	if err == nil && !r.OK() {
		err = fmt.Errorf("load: %v", r.Faults)
	}
	return r, err
}

// speed queues for a session that is away: four publishers with 50 in flight each, then the curve.
func speed(ctx context.Context, dir string, s scale, r *report) error {
	p, err := broker(ctx, dir, "speed", "store.flash.budget=0", "sys.interval=1s")
	if err != nil {
		return err
	}
	defer p.Kill()
	// The first of all has the file grow to the size that it keeps, which costs blocks of the file
	// system, too.
	if _, err := scenario(ctx, "offline", p, func(o *load.Options) { o.Window, o.Messages = 1000, s.many }); err != nil {
		return err
	}
	for _, c := range []struct{ publishers, window int }{
		{4, 200}, {1, 1}, {1, 4}, {1, 16}, {4, 64}, {4, 128}, {4, 500}, {4, 1000},
	} {
		before, err := bareSync(dir)
		if err != nil {
			return err
		}
		n := max(s.few, min(s.many, s.few*c.window))
		commits, err := commits(ctx, p)
		if err != nil {
			return err
		}
		l, err := scenario(ctx, "offline", p, func(o *load.Options) {
			o.Publishers, o.Window, o.Messages = c.publishers, c.window, n
		})
		if err != nil {
			return err
		}
		groups, err := commitsSince(ctx, p, commits)
		if err != nil {
			return err
		}
		after, err := bareSync(dir)
		if err != nil {
			return err
		}
		bare := (before + after) / 2
		r.Speed = append(r.Speed, point{
			Publishers: c.publishers, InFlight: c.window, Rate: l.Offline.QueueRate,
			AckP50: l.Ack.P50, AckP99: l.Ack.P99, Written: l.Offline.Written, Group: float64(n) / float64(groups), CPU: l.Offline.QueueCPU,
			Bare: micros(bare), PerSync: l.Offline.QueueRate * bare.Seconds(),
		})
	}
	return p.Stop(ctx)
}

// commits asks the broker how often it has committed.
func commits(ctx context.Context, p *process.Process) (int, error) {
	binary, err := process.Binary()
	if err != nil {
		return 0, err
	}
	host, port, err := net.SplitHostPort(p.Spec.Address)
	if err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, binary, "sub", "-h", host, "-p", port, "-t", "$SYS/broker/store/flash/commits", "-C", "1").Output()
	if err != nil {
		return 0, fmt.Errorf("how often it has committed: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

// commitsSince returns how many more they are by now.
func commitsSince(ctx context.Context, p *process.Process, before int) (int, error) {
	const fresh = 1500 * time.Millisecond // values may be a second old
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(fresh):
	}
	now, err := commits(ctx, p)
	return max(now-before, 1), err
}

// online sends to persistent sessions that are there.
func online(ctx context.Context, dir string, s scale, r *report) error {
	p, err := broker(ctx, dir, "online")
	if err != nil {
		return err
	}
	defer p.Kill()
	for _, c := range []struct {
		what, scenario string
		set            func(o *load.Options)
	}{
		{"10 pairs, 1,000 messages/s", "pairs", func(o *load.Options) { o.Pairs, o.Rate = 10, 1000 }},
		{"4 publishers, 200 in flight, 2 subscribers", "fanout", func(o *load.Options) {
			o.Publishers, o.Window, o.Subscribers, o.Topics = 4, 200, 2, 4
		}},
	} {
		l, err := scenario(ctx, c.scenario, p, func(o *load.Options) {
			c.set(o)
			// What the sessions themselves have cost is on disk within a second or two.
			o.Persistent, o.Warmup, o.Measure = true, 3*time.Second, s.measure
		})
		if err != nil {
			return err
		}
		r.Online = append(r.Online, traffic{
			What: c.what, Rate: float64(l.Published) / l.Seconds, AckP50: l.Ack.P50, AckP99: l.Ack.P99,
			Written: l.Broker.Written, CPU: l.Broker.PerPublish,
		})
	}
	return p.Stop(ctx)
}

// queues fills queues, and starts the broker with them.
func queues(ctx context.Context, dir string, s scale, r *report) error {
	for i, q := range []queue{
		{Messages: s.queued, Sessions: 1, Size: 128},
		{Messages: s.queued, Sessions: 10, Size: 128},
		{Messages: s.queued, Sessions: 1, Size: 1024},
	} {
		if err := q.measure(ctx, dir, fmt.Sprintf("queue%d", i)); err != nil {
			return fmt.Errorf("%d × %d messages of %d B: %w", q.Sessions, q.Messages, q.Size, err)
		}
		r.Queues = append(r.Queues, q)
	}
	return nil
}

func (q *queue) measure(ctx context.Context, dir, name string) error {
	p, err := broker(ctx, dir, name, "store.flash.budget=0")
	if err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(dir, name))
	defer p.Kill()
	idle, err := settled(ctx, p)
	if err != nil {
		return err
	}
	if _, err := scenario(ctx, "offline", p, func(o *load.Options) {
		o.Messages, o.Subscribers, o.Size, o.Keep = q.Messages, q.Sessions, q.Size, true
	}); err != nil {
		return err
	}
	full, err := settled(ctx, p)
	if err != nil {
		return err
	}
	q.Memory = full - idle
	file := filepath.Join(dir, name, "data", "sessions.db")
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	q.File = st.Size()
	root := os.Geteuid() == 0
	for _, start := range []struct {
		took        *float64
		crash, cold bool
	}{{&q.Clean, false, false}, {&q.Crash, true, false}, {&q.ColdClean, false, true}, {&q.ColdCrash, true, true}} {
		if start.cold && !root {
			continue
		}
		if start.crash { // with what a clean stop has written gone again
			if err := touch(ctx, p); err != nil {
				return err
			}
			err = p.Kill()
		} else {
			err = p.Stop(ctx)
		}
		if err == nil && start.cold {
			err = dropCaches()
		}
		if err != nil {
			return err
		}
		at := time.Now()
		if err := p.Start(ctx); err != nil {
			return err
		}
		*start.took = time.Since(at).Seconds()
	}
	return p.Stop(ctx)
}

// touch has the broker write something, so that its end without a stop is one after a write.
func touch(ctx context.Context, p *process.Process) error {
	_, err := scenario(ctx, "offline", p, func(o *load.Options) { o.Messages, o.Window, o.Publishers = 10, 1, 1 })
	return err
}

// settled waits until the broker gives no memory back any more, and returns what it has.
func settled(ctx context.Context, p *process.Process) (int64, error) {
	const still = 5 * time.Second // it gives memory back some seconds after a burst
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	least, since := int64(1)<<62, time.Now()
	for time.Since(since) < still {
		n, err := p.Resident()
		if err != nil {
			return 0, err
		}
		if n < least-64<<10 {
			least, since = n, time.Now()
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-ticker.C:
		}
	}
	return least, nil
}

// dropCaches has the kernel forget what it has of files.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// bareSync returns the median of 4 KiB writes with fdatasync to a file in dir.
func bareSync(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "bare"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	const pages = 256
	if _, err := f.Write(make([]byte, pages*len(page))); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	var took []time.Duration
	for i := range 500 {
		at := time.Now()
		if _, err := f.WriteAt(page, int64(i%pages*len(page))); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// fileSystem names the file system of a folder, by its magic number if it is none that we know.
func fileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return ""
	}
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	}
	return fmt.Sprintf("%#x", st.Type)
}
