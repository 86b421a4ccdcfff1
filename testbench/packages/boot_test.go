package packages

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// debian returns a tar of a minimal Debian 12 with systemd, made once and kept in the user's cache.
func debian(t *testing.T, arch string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "dunlin-test")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	// Whoever comes second waits for the first and finds the tar.
	lock, err := os.Create(filepath.Join(cache, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	tar := filepath.Join(cache, "debian-bookworm-"+arch+".tar")
	if _, err := os.Stat(tar); err == nil {
		return tar
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	// The name at the end says the format; under another name it is not taken for whole.
	part := strings.TrimSuffix(tar, ".tar") + ".part.tar"
	run(t, "mmdebstrap", "--mode=root", "--variant=minbase", "--architectures="+arch,
		"--include=systemd,systemd-sysv,dbus,adduser",
		"--aptopt=APT::Sandbox::User \"root\"", "--dpkgopt=force-unsafe-io",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"bookworm", part)
	if err := os.Rename(part, tar); err != nil {
		t.Fatal(err)
	}
	return tar
}

// boot extracts the Debian, has it run the script as its only job, and returns what the script
// wrote to /root/out, and to /root/journal.
func boot(t *testing.T, deb, script string) (out, journal string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("a container with an init of its own needs root: run this test by sudo")
	}
	root := t.TempDir()
	run(t, "tar", "-C", root, "-xf", debian(t, run(t, "dpkg", "--print-architecture")))
	run(t, "cp", deb, filepath.Join(root, "root/dunlin.deb"))
	run(t, "cp", script, filepath.Join(root, "root/job.sh"))
	unit := filepath.Join(root, "etc/systemd/system/job.service")
	const job = "[Service]\nType=exec\nExecStart=/bin/sh /root/job.sh\n"
	if err := os.WriteFile(unit, []byte(job), 0o644); err != nil {
		t.Fatal(err)
	}
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../job.service", filepath.Join(wants, "job.service")); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // only against a hang
	defer cancel()
	// --register=no: there is no systemd on the machine that could know of containers.
	cmd := exec.CommandContext(ctx, "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--directory="+root,
		"--private-network", "--boot", "systemd.show_status=0")
	console, err := cmd.CombinedOutput()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, "root", name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
	out, journal = read("out"), read("journal")
	if err != nil {
		t.Fatalf("systemd-nspawn: %v\n%s\n%s", err, console, out)
	}
	return out, journal
}

func TestServiceInABootedDebian(t *testing.T) {
	out, journal := boot(t, built(t).native(t), "testdata/boot.sh")
	want, err := os.ReadFile("testdata/boot.txt")
	if err != nil {
		t.Fatal(err)
	}
	// The one line whose text is the broker's affair; that there is one is ours.
	out = regexp.MustCompile(`(?m)^status=\D.*$`).ReplaceAllString(out, "status=TEXT")
	if diff := cmp.Diff(string(want), out); diff != "" {
		t.Errorf("what the service went through (-want +got):\n%s\njournal:\n%s", diff, journal)
	}
}
