package service

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbageTakesAQuarterOfWhatIsInUseOrALittleRoom(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 125},
		{1 << 20, 125},
		{3 << 20, 80},
		{5 << 20, 48},
		{10 << 20, 25},
		{1 << 30, 25},
		{1 << 62, 25},
	} {
		if got := garbagePercent(c.live); got != c.want {
			t.Errorf("%d bytes in use: %d percent, want %d", c.live, got, c.want)
		}
	}
}

// The percentage is the process's, so a process of its own has it set.
func TestThePercentageFollowsWhatIsInUse(t *testing.T) {
	if want := os.Getenv("DUNLIN_TEST_GARBAGE"); want != "" {
		followUse(t, want == "ours")
		return
	}
	for _, gogc := range []string{"", "70"} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
		owner := "ours"
		if gogc != "" {
			owner = "GOGC"
		}
		cmd.Env = append(os.Environ(), "GOGC="+gogc, "DUNLIN_TEST_GARBAGE="+owner)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("GOGC=%q: %v\n%s", gogc, err, out)
		}
	}
}

// followUse has much memory in use, and then little.
func followUse(t *testing.T, ours bool) {
	LimitGarbage()
	much := make([]byte, 64<<20)
	follow(t, ours, leastGarbage)
	runtime.KeepAlive(much)
	much = nil
	follow(t, ours, mostGarbage)
}

// follow collects garbage until the percentage is what it should be.
func follow(t *testing.T, ours bool, want int) {
	t.Helper()
	if !ours {
		want = 70
	}
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	for began := time.Now(); ; runtime.Gosched() {
		runtime.GC()
		metrics.Read(percent)
		got := percent[0].Value.Uint64()
		if got == uint64(want) {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%d percent, want %d", got, want)
		}
	}
}
