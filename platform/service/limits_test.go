package service

import (
	"runtime/debug"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

func TestCgroupMemoryLimitIsTheLeastOnTheWayUp(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  int64 // 0: none
	}{
		{"no control groups", nil, 0},
		{"version 2, own limit", map[string]string{
			"proc/self/cgroup": "0::/system.slice/dunlin.service\n",
			"sys/fs/cgroup/system.slice/dunlin.service/memory.max":  "67108864\n",
			"sys/fs/cgroup/system.slice/dunlin.service/memory.high": "max\n",
		}, 64 << 20},
		{"version 2, a group above has less", map[string]string{
			"proc/self/cgroup": "0::/system.slice/dunlin.service\n",
			"sys/fs/cgroup/system.slice/dunlin.service/memory.max": "67108864\n",
			"sys/fs/cgroup/system.slice/memory.max":                "33554432\n",
		}, 32 << 20},
		{"version 2, memory.high slows before memory.max kills", map[string]string{
			"proc/self/cgroup":            "0::/d\n",
			"sys/fs/cgroup/d/memory.max":  "67108864\n",
			"sys/fs/cgroup/d/memory.high": "50331648\n",
		}, 48 << 20},
		{"version 2, no limit", map[string]string{
			"proc/self/cgroup":           "0::/d\n",
			"sys/fs/cgroup/d/memory.max": "max\n",
		}, 0},
		{"version 2, path outside of the container", map[string]string{
			"proc/self/cgroup":         "0::/../../x\n",
			"sys/fs/cgroup/memory.max": "16777216\n",
		}, 16 << 20},
		{"version 1", map[string]string{
			"proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/d\n0::/\n",
			"sys/fs/cgroup/memory/d/memory.limit_in_bytes": "67108864\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
		}, 64 << 20},
		{"version 1 beside others in one line", map[string]string{
			"proc/self/cgroup": "4:cpu,memory:/d:e\n",
			"sys/fs/cgroup/memory/d:e/memory.limit_in_bytes": "67108864\n",
		}, 64 << 20},
		{"version 1, no limit with pages of 4 KiB", map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 0},
		{"version 1, no limit with pages of 64 KiB", map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854710272\n",
		}, 0},
		{"lines of no known form", map[string]string{
			"proc/self/cgroup": "memory\n\n0:\n",
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, text := range tt.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, ok := cgroupMemoryLimit(root)
			if got != tt.want || ok != (tt.want != 0) {
				t.Errorf("got %d, %v; want %d", got, ok, tt.want)
			}
		})
	}
}

func TestHeapIsLimitedBelowTheControlGroup(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	t.Setenv("GOMEMLIMIT", "")
	group, ok := CgroupMemoryLimit()
	got := LimitHeap()
	if !ok {
		if got != 0 || debug.SetMemoryLimit(-1) != before {
			t.Errorf("limited to %d without a limit of the control group", got)
		}
		return
	}
	if got >= group || got < group/2 || debug.SetMemoryLimit(-1) != got {
		t.Errorf("limited to %d (in force %d) in a group of %d", got, debug.SetMemoryLimit(-1), group)
	}
}

func TestHeapLimitOfTheEnvironmentStays(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Setenv("GOMEMLIMIT", "20MiB")
	if got := LimitHeap(); got != 0 || debug.SetMemoryLimit(-1) != before {
		t.Errorf("limited to %d (in force %d), want %d to stay", got, debug.SetMemoryLimit(-1), before)
	}
}

func TestSoftLimitOfFilesIsRaisedToTheHardOne(t *testing.T) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &l) })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: l.Max - 1, Max: l.Max}); err != nil {
		t.Fatal(err)
	}
	got, err := RaiseNoFile()
	if err != nil {
		t.Fatal(err)
	}
	if got != uint64(l.Max) {
		t.Errorf("got %d, want %d", got, l.Max)
	}
	if again, err := RaiseNoFile(); again != got || err != nil {
		t.Errorf("a second call returns %d, %v", again, err)
	}
}
