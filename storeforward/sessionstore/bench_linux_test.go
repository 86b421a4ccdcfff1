package sessionstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/storeforward/boltfile"
)

// A message of 128 B costs about 230 B in its page; a transaction two fdatasync and the pages
// from the root to the end of the messages. So one message at a time is at best half a bare
// fdatasync loop, and 200 in flight some fifty times of one.

// window is a Completer that keeps a number of messages in flight.
type window struct{ free chan struct{} }

func (w window) Completed(done []durable.Completion) {
	for _, c := range done {
		if c.Err != nil {
			panic(c.Err)
		}
		w.free <- struct{}{}
	}
}

func (window) Read(durable.Batch) {}
func (window) Changed()           {}

// bareSync returns the time of a 4 KiB write with fdatasync to the disk that the store is on.
func bareSync(b *testing.B, dir string) time.Duration {
	f, err := os.Create(filepath.Join(dir, "bare"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	f.WriteAt(page, 1<<20)
	f.Sync()
	var took []time.Duration
	for i := range 300 {
		begin := time.Now()
		f.WriteAt(page, int64(i%256)*4096)
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// written returns how many bytes the process has handed to write calls.
func written(b *testing.B) (n int64) {
	raw, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	var read int64
	if _, err := fmt.Sscanf(string(raw), "rchar: %d\nwchar: %d", &read, &n); err != nil {
		b.Fatal(err)
	}
	return n
}

// onDevice returns how many bytes were written to the block device that dir is on, by everybody.
func onDevice(b *testing.B, dir string) (n int64) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		b.Fatal(err)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return 0 // none, as of tmpfs
	}
	const writtenSectors, sector = 6, 512
	if f := strings.Fields(string(raw)); len(f) > writtenSectors {
		n, _ = strconv.ParseInt(f[writtenSectors], 10, 64)
	}
	return n * sector
}

func benchOptions() Options { return Options{Clock: testClock("bench", 1)} }

func BenchmarkDurableAppend(b *testing.B) {
	for _, inFlight := range []int{1, 64, 200, 1000} {
		b.Run(fmt.Sprintf("%d_in_flight", inFlight), func(b *testing.B) {
			dir := b.TempDir()
			bare := bareSync(b, dir)
			o := benchOptions()
			o.Budget = boltfile.NewBudget(boltfile.BudgetOptions{})
			s, err := Open(filepath.Join(dir, "sessions.db"), o)
			if err != nil {
				b.Fatal(err)
			}
			w := window{make(chan struct{}, inFlight)}
			s.Start(w)
			s.PutSession(&durable.Session{Number: 1}, 0)
			for range inFlight {
				w.free <- struct{}{}
			}
			payload := make([]byte, 128)
			to := receivers(1, 1)
			n := 0
			wrote, charged, device := written(b), o.Budget.Usage().Written, onDevice(b, dir)
			b.ReportAllocs()
			for b.Loop() {
				select {
				case <-w.free:
				default:
					s.Flush()
					<-w.free
				}
				n++
				m := &message.Message{Topic: "plant/1/temperature", Payload: payload, QoS: 1, Publisher: "device-17", Received: message.Stamp{Boot: 1, Millis: 1}}
				s.Append(durable.Append{Message: m, Receivers: to}, durable.Token(n))
			}
			s.Flush()
			for range inFlight {
				<-w.free
			}
			rate := float64(n) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "messages/s")
			b.ReportMetric(float64(written(b)-wrote)/float64(n), "B_written/message")
			b.ReportMetric(float64(o.Budget.Usage().Written-charged)/float64(n), "B_charged/message")
			b.ReportMetric(float64(onDevice(b, dir)-device)/float64(n), "B_device/message")
			b.ReportMetric(rate*bare.Seconds(), "messages/bare_fdatasync")
			b.ReportMetric(float64(bare.Microseconds()), "µs/bare_fdatasync")
			if err := s.Close(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkMillionQueued measures what a million queued messages of 128 B cost in memory, on disk
// and at a start.
func BenchmarkMillionQueued(b *testing.B) {
	const n = 1_000_000
	path := filepath.Join(b.TempDir(), "sessions.db")
	o := benchOptions()
	o.NoSync = true
	s, err := Open(path, o)
	if err != nil {
		b.Fatal(err)
	}
	w := window{make(chan struct{}, n+1)}
	s.Start(w)
	s.PutSession(&durable.Session{Number: 1}, 0)
	payload := make([]byte, 128)
	to := receivers(1, 1)
	before := heap()
	for i := range n {
		m := &message.Message{Topic: "plant/1/temperature", Payload: payload, QoS: 1, Publisher: "device-17", Received: message.Stamp{Boot: 1, Millis: uint64(i)}}
		s.Append(durable.Append{Message: m, Receivers: to}, durable.Token(i+1))
		if i%1000 == 999 {
			s.Flush()
			for range 1000 {
				<-w.free
			}
		}
	}
	grown := heap() - before
	if err := s.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	disk := s.file.Size()
	for b.Loop() {
		s, err := Open(path, o)
		if err != nil {
			b.Fatal(err)
		}
		if got := s.Sessions()[0].Pending; got != n {
			b.Fatalf("restored %d messages", got)
		}
		s.Close(context.Background())
	}
	b.ReportMetric(float64(grown)/n, "B_memory/message")
	b.ReportMetric(float64(disk)/n, "B_disk/message")
}

// BenchmarkDrain measures reading and acknowledging a backlog.
func BenchmarkDrain(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "sessions.db"), benchOptions())
	if err != nil {
		b.Fatal(err)
	}
	d := &drainer{s: s, batches: make(chan durable.Batch, 1)}
	s.Start(d)
	s.PutSession(&durable.Session{Number: 1}, 0)
	to := receivers(1, 1)
	const n = 100_000
	rounds := 0
	for b.Loop() {
		b.StopTimer()
		m := note("0123456789012345678901234567890123456789012345678901234567890123456789")
		for range n {
			for s.Append(durable.Append{Message: m, Receivers: to}, 0) == 0 {
				s.Flush()
				runtime.Gosched()
			}
		}
		s.Flush()
		rounds++
		b.StartTimer()
		after := durable.Seq(0)
		for got := 0; got < n; {
			s.Read(1, after, 256, 1<<18, 1)
			s.Flush()
			batch := <-d.batches
			if batch.Err != nil {
				b.Fatal(batch.Err)
			}
			for _, e := range batch.Entries {
				s.Done(1, e.Seq, durable.Delivered)
			}
			got += len(batch.Entries)
			after = batch.Last
		}
	}
	b.ReportMetric(float64(rounds*n)/b.Elapsed().Seconds(), "messages/s")
	s.Close(context.Background())
}

type drainer struct {
	s       *Store
	batches chan durable.Batch
}

func (d *drainer) Completed([]durable.Completion) {}
func (d *drainer) Read(b durable.Batch)           { d.batches <- b }
func (d *drainer) Changed()                       {}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
