package packages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scripts are all that a package, make or an operator runs by sh or bash.
func scripts(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{
		"packaging/*.sh", "packaging/deb/p*", "packaging/openwrt/p*", "packaging/openwrt/*.init",
		"testbench/*.sh", "testbench/packages/testdata/*.sh", ".ci/run",
	} {
		found, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			t.Errorf("%s matches nothing", pattern)
		}
		all = append(all, found...)
	}
	return all
}

func TestScriptsAreSound(t *testing.T) {
	for _, script := range scripts(t) {
		t.Run(filepath.Base(script), func(t *testing.T) {
			text, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			shell := "sh"
			if strings.HasPrefix(string(text), "#!/usr/bin/env bash") {
				shell = "bash"
			}
			run(t, shell, "-n", script)
			run(t, "shellcheck", "--shell", shell, script)
		})
	}
}

// The init script of OpenWrt runs here with its functions of procd and UCI replaced by
// ones that print their arguments.
func TestProcdGetsTheService(t *testing.T) {
	want, err := os.ReadFile("testdata/procd.txt")
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	got := run(t, "sh", "testdata/procd.sh", "../../packaging/openwrt/dunlin.init", data)
	got = strings.ReplaceAll(got, data, "DATA") + "\n"
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("what procd was told (-want +got):\n%s", diff)
	}
}

func TestUnitIsUnderstoodAndHardened(t *testing.T) {
	// verify wants the program to be where the unit says.
	root := t.TempDir()
	run(t, "dpkg-deb", "--extract", built(t).native(t), root)
	const unit = "lib/systemd/system/dunlin.service"
	text, err := os.ReadFile(filepath.Join(root, unit))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.ReplaceAll(string(text), "/usr/bin/dunlin", filepath.Join(root, "usr/bin/dunlin"))
	path := filepath.Join(t.TempDir(), "dunlin.service")
	if err := os.WriteFile(path, []byte(here), 0o644); err != nil {
		t.Fatal(err)
	}
	// The example of a socket unit is verified with the service that it is for.
	socket, err := os.ReadFile(filepath.Join(root, "usr/share/doc/dunlin/examples/dunlin.socket"))
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(filepath.Dir(path), "dunlin.socket")
	if err := os.WriteFile(beside, socket, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "systemd-analyze", "verify", "--man=no", path, beside)
	// In tenths: 1.5 of 10, where 9.6 is a service without any sandbox.
	run(t, "systemd-analyze", "security", "--offline=true", "--threshold=15", filepath.Join(root, unit))
}

// The broker reads whether the clock is synchronised (adjtimex) and which boot it is in
// (/proc/sys); without them message expiry trusts a clock that is years off. A container forbids
// adjtimex by itself, so only the text of the unit can tell.
func TestUnitLeavesTheClockReadable(t *testing.T) {
	unit, err := os.ReadFile("../../packaging/dunlin.service")
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]bool{}
	for line := range strings.Lines(string(unit)) {
		settings[strings.TrimSpace(line)] = true
	}
	if !settings["SystemCallFilter=adjtimex clock_adjtime"] {
		t.Error("adjtimex is not allowed")
	}
	for _, hides := range []string{"ProtectClock=yes", "ProcSubset=pid"} {
		if settings[hides] {
			t.Errorf("%s hides the clock", hides)
		}
	}
}
