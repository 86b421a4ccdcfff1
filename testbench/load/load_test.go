package load

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// small are options that do a little of everything, quickly. How quick it was is no matter.
func small(scenario, address string) Options {
	o := Find(scenario).Options()
	o.Address = address
	o.Publishers, o.Subscribers, o.Topics, o.Window = min(o.Publishers, 4), min(o.Subscribers, 20), min(o.Topics, 8), 16
	o.Pairs, o.Connections, o.Messages, o.Rate = min(o.Pairs, 5), min(o.Connections, 300), min(o.Messages, 2000), min(o.Rate, 500)
	o.Warmup, o.Measure, o.Settle = 50*time.Millisecond, 200*time.Millisecond, guard
	if scenario == "idle" {
		o.Messages, o.Settle, o.Rest = 2, 10*time.Second, time.Second // Settle also bounds the wait for the memory to rest
	}
	return o
}

// serve starts the real broker.
func serve(t *testing.T) string {
	t.Helper()
	p, err := process.Dunlin(t.Context(), t.TempDir(), process.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	return p.Spec.Address
}

// serveBare serves the fan-out without a broker, in this process.
func serveBare(t *testing.T) string {
	t.Helper()
	b, err := NewBare("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { // ends with ctx
		if err := b.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wait.Wait() })
	return b.Address().String()
}

func TestEveryScenarioRunsAgainstTheBroker(t *testing.T) {
	address := serve(t)
	for _, s := range Scenarios {
		for _, version := range []packet.Version{packet.V311, packet.V5} {
			for qos := range byte(3) {
				if s.Name == "offline" && qos == 0 {
					continue // nothing is kept at QoS 0
				}
				if s.Name == "idle" && (qos == 2) != (version == packet.V5) {
					continue // it waits for the memory to settle
				}
				name := s.Name + "/" + map[packet.Version]string{packet.V311: "3.1.1", packet.V5: "5.0"}[version] + "/qos" + string('0'+rune(qos))
				t.Run(name, func(t *testing.T) {
					o := small(s.Name, address)
					o.Version, o.PubQoS, o.SubQoS, o.Loops = version, qos, qos, 2
					r, err := s.Run(t.Context(), o)
					if err != nil {
						t.Fatal(err)
					}
					sound(t, r)
				})
			}
		}
	}
}

// sound checks that r has figures and nothing is wrong.
func sound(t *testing.T, r *Result) {
	t.Helper()
	if !r.OK() {
		t.Errorf("wrong: %s", strings.Join(r.Faults, "; "))
	}
	if r.Scenario != "storm" && r.Total == 0 {
		t.Error("nothing was delivered")
	}
	if r.Broker == nil || r.Broker.RSS == 0 {
		t.Errorf("the broker's process was not looked at: %+v", r.Broker)
	}
	var table, text bytes.Buffer
	if err := r.Table(&table); err != nil || !strings.Contains(table.String(), "verdict") {
		t.Errorf("the table is %q, error %v", table.String(), err)
	}
	if err := r.JSON(&text); err != nil || !json.Valid(text.Bytes()) {
		t.Errorf("the JSON is %q, error %v", text.String(), err)
	}
}

func TestAnOpenLoopRunsAgainstTheBroker(t *testing.T) {
	address := serve(t)
	for _, scenario := range []string{"fanout", "fanin"} {
		for qos := range byte(3) {
			o := small(scenario, address)
			o.PubQoS, o.SubQoS, o.Every, o.Burst, o.Wildcard = qos, qos, 10*time.Millisecond, 2, true
			r, err := Find(scenario).Run(t.Context(), o)
			if err != nil {
				t.Fatalf("%s at QoS %d: %v", scenario, qos, err)
			}
			sound(t, r)
		}
	}
}

func TestTheBareFanOutPassesEverythingToEverybody(t *testing.T) {
	for _, version := range []packet.Version{packet.V311, packet.V5} {
		o := small("fanout", serveBare(t))
		o.Version = version
		r, err := Find("fanout").Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		sound(t, r)
		if r.Broker.PID != os.Getpid() {
			t.Errorf("found process %d listening, want this one, %d", r.Broker.PID, os.Getpid())
		}
	}
}

func TestASampleSeesWhatAProcessUses(t *testing.T) {
	self := &Process{os.Getpid()}
	from, err := self.Sample()
	if err != nil {
		t.Fatal(err)
	}
	for ownCPU()-from.CPU < 20*time.Millisecond {
	}
	to, err := self.Sample()
	if err != nil {
		t.Fatal(err)
	}
	if to.CPU-from.CPU < 20*time.Millisecond {
		t.Errorf("%v of CPU time are used, the sample says %v", 20*time.Millisecond, to.CPU-from.CPU)
	}
	if to.RSS < 1<<20 || to.Peak < 1<<20 || to.Threads < 2 {
		t.Errorf("the sample is %+v", to)
	}
	if m := ThisMachine(); m.Kernel == "" || m.CPUs < 1 || m.MemoryKiB == 0 {
		t.Errorf("this machine is %+v", m)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for name, set := range map[string]func(o *Options){
		"size":    func(o *Options) { o.Size = headerSize - 1 },
		"loops":   func(o *Options) { o.Loops = 0 },
		"QoS":     func(o *Options) { o.PubQoS = 3 },
		"version": func(o *Options) { o.Version = 7 },
		"burst":   func(o *Options) { o.Every, o.Burst = time.Second, 0 },
		"HOST":    func(o *Options) { o.Address = "nowhere" },
	} {
		o := small("fanout", "127.0.0.1:1")
		set(&o)
		if _, err := Find("fanout").Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v, want one that names it", name, err)
		}
	}
}
