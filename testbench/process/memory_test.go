package process

import (
	"os/exec"
	"testing"
)

func TestALimitOfMemoryIsKept(t *testing.T) {
	group, err := LimitMemory(16 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	}()
	run := func(bytes string) error {
		via := append(group.Via(), "/bin/sh", "-c", "x=$(head -c "+bytes+" /dev/zero | tr '\\0' x)")
		return exec.Command(via[0], via[1:]...).Run()
	}
	if err := run("1000000"); err != nil {
		t.Errorf("with 1 MB: %v", err)
	}
	if n, err := group.Kills(); n != 0 || err != nil {
		t.Errorf("%d kills, %v", n, err)
	}
	if err := run("64000000"); err == nil {
		t.Error("64 MB fit into 16 MiB")
	}
	if n, err := group.Kills(); n == 0 || err != nil {
		t.Errorf("%d kills, %v", n, err)
	}
	if peak, err := group.Peak(); peak == 0 || peak > 16<<20 || err != nil {
		t.Errorf("a peak of %d, %v", peak, err)
	}
}
