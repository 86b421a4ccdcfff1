package runner

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dunlin/core/durable"
	"dunlin/core/rule"
	"dunlin/uplink/forward"
)

// childVariable makes the test binary an uplink in a process of its own, which can be killed.
const childVariable = "DUNLIN_TEST_UPLINK"

func TestMain(m *testing.M) {
	if args := os.Getenv(childVariable); args != "" {
		if err := child(strings.Fields(args)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child runs an uplink: folder, endpoint, QoS, first and last number. It prints the highest
// number up to which everything is on disk as it grows, and "drained" when nothing is pending.
// It ends when its input does.
func child(args []string) error {
	var n [3]int
	for i, s := range args[2:] {
		var err error
		if n[i], err = strconv.Atoi(s); err != nil {
			return err
		}
	}
	qos, first, last := byte(n[0]), n[1], n[2]
	u, err := Open(Options{
		Name: "cloud", Endpoint: args[1], ClientID: "gateway", Folder: args[0],
		Rules:   rule.Set{{From: "up/#", To: "site/a/#", QoS: 2}},
		Backoff: forward.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond, Stable: time.Second},
	})
	if err != nil {
		return err
	}
	u.Start(nil)
	answers := make(chan error, 500)
	appended, answered := first-1, first-1
	for answered < last {
		for appended < last && appended-answered < cap(answers) {
			appended++
			source := durable.Seq(0)
			if qos == 2 {
				source = durable.Seq(appended)
			}
			u.Append(number(appended, qos), source, func(err error) { answers <- err })
		}
		u.Flush()
		if err := <-answers; err != nil {
			return err
		}
		answered++
		fmt.Println(answered)
	}
	for u.Status().Ledger.Pending > 0 {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("drained")
	io.Copy(io.Discard, os.Stdin)
	return u.Close(context.Background())
}

// TestKillsAndLinkCutsLoseNothing kills the process of the uplink and cuts its link at random.
func TestKillsAndLinkCutsLoseNothing(t *testing.T) {
	for _, qos := range []int{1, 2} {
		t.Run(fmt.Sprintf("qos %d", qos), func(t *testing.T) {
			const messages, kills = 20000, 12
			c := startCloud(t)
			c.receive("site/a/#")
			random := rand.New(rand.NewPCG(3, uint64(qos)))
			folder, safe := t.TempDir(), 0
			for round := 0; ; round++ {
				// Some kills while it appends, some while it drains.
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				cmd := exec.CommandContext(ctx, os.Args[0])
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s mqtt://%s %d %d %d", childVariable, folder, c.net.Addr(), qos, safe+1, messages))
				in, _ := cmd.StdinPipe()
				out, _ := cmd.StdoutPipe()
				cmd.Stderr = os.Stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				var killed atomic.Bool
				kill := func() {
					killed.Store(true)
					cmd.Process.Kill()
				}
				stop := safe + 1 + random.IntN(3000)
				if round >= kills {
					stop = messages + 1
				}
				if random.IntN(2) == 0 {
					c.net.CutAfter(int64(random.IntN(200_000)))
				}
				drained := false
				lines := bufio.NewScanner(out)
				for lines.Scan() {
					if lines.Text() == "drained" {
						drained = true
						in.Close()
						continue
					}
					n, err := strconv.Atoi(lines.Text())
					if err != nil {
						t.Fatal(lines.Text())
					}
					if safe = n; n == stop {
						kill()
					}
				}
				err := cmd.Wait()
				cancel()
				if !killed.Load() && (err != nil || !drained) {
					t.Fatalf("the child ended: %v, drained %v", err, drained)
				}
				if drained && !killed.Load() {
					break
				}
			}
			c.got.wait(t, messages)
			c.got.complete(t, messages)
			t.Logf("%d arrived again", c.got.repeated)
			if qos == 2 && c.got.repeated > 0 {
				t.Errorf("%d messages at QoS 2 arrived again", c.got.repeated)
			}
		})
	}
}
