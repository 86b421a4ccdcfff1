package runner

import (
	"context"
	"syscall"
	"testing"
	"time"

	"dunlin/core/message"
	"dunlin/core/rule"
	"dunlin/testbench/process"
	"dunlin/uplink/forward"
)

// BenchmarkCatchUp sends a backlog of 200,000 messages of 100 bytes at QoS 1 into mosquitto, from
// a spool with fsync. Sketch: each message is read, decoded, encoded and acknowledged once; one
// commit for 4,096 acknowledgements, which deletes as many records.
func BenchmarkCatchUp(b *testing.B) {
	const messages = 200_000
	server, err := process.Mosquitto(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer server.Kill()
	var spent, cpu time.Duration
	b.StopTimer()
	for range b.N {
		u, err := Open(Options{
			Name: "cloud", Endpoint: "mqtt://" + server.Spec.Address, ClientID: "gateway", Folder: b.TempDir(),
			Rules: rule.Set{{From: "#", QoS: 1}}, Backoff: forward.Backoff{Min: time.Millisecond, Max: time.Second, Stable: time.Second},
		})
		if err != nil {
			b.Fatal(err)
		}
		backlog(b, u, messages)
		begin, used := time.Now(), cpuTime(b)
		b.StartTimer()
		u.Start(nil)
		for u.Status().Ledger.Pending > 0 {
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		spent += time.Since(begin)
		cpu += cpuTime(b) - used
		u.Close(context.Background())
	}
	b.ReportMetric(float64(b.N*messages)/spent.Seconds(), "messages/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N*messages), "cpu-ns/message")
}

// backlog appends n messages.
func backlog(b *testing.B, u *Uplink, n int) {
	answers := make(chan error, 4096)
	for i, answered := 0, 0; answered < n; answered++ {
		for i < n && i-answered < cap(answers) {
			u.Append(&message.Message{Topic: "plant/line/7/temperature", Payload: make([]byte, 100), QoS: 1}, 0, func(err error) { answers <- err })
			i++
		}
		u.Flush()
		if err := <-answers; err != nil {
			b.Fatal(err)
		}
	}
}

// cpuTime returns what the process has used.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
