// Package packages tests what packaging/build.sh makes: the files, modes and fields of the
// packages, their scripts and units, and the service in a Debian that really boots.
package packages

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// distribution is what the packages of this run were built from and into.
type distribution struct {
	version string
	date    time.Time // of the commit; every file of a package carries it
	dir     string    // the packages
	again   string    // the packages of a second build, elsewhere
}

// tmp is where both builds take place.
var tmp string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if tmp, err = os.MkdirTemp("", "dunlin-packages-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(tmp)
		return m.Run()
	}())
}

var buildOnce = sync.OnceValues(build)

// built returns the packages, which the first test that asks builds.
func built(t *testing.T) *distribution {
	t.Helper()
	d, err := buildOnce()
	if err != nil {
		t.Fatalf("packages do not build: %v", err)
	}
	return d
}

// build builds the packages twice, from two copies of the checkout in different places, with
// different dates of the files and another umask, so that a difference in what comes out shows
// what must not have an influence.
func build() (*distribution, error) {
	const checkout = "../.."
	version, err := output(exec.Command(checkout + "/packaging/version.sh"))
	if err != nil {
		return nil, err
	}
	epoch, err := output(exec.Command("git", "-C", checkout, "log", "-1", "--format=%ct"))
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return nil, err
	}
	d := &distribution{
		version: version,
		date:    time.Unix(seconds, 0),
		dir:     filepath.Join(tmp, "dist"),
		again:   filepath.Join(tmp, "again"),
	}

	// One copy of the checkout and a copy of that, so that editing in the meantime is no difference.
	first, second := filepath.Join(tmp, "first", "dunlin"), filepath.Join(tmp, "the second place")
	if err := copyCheckout(checkout, first); err != nil {
		return nil, err
	}
	if err := os.CopyFS(second, os.DirFS(first)); err != nil {
		return nil, err
	}
	longAgo := time.Unix(1e9, 0)
	err = filepath.WalkDir(second, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, longAgo, longAgo)
	})
	if err != nil {
		return nil, err
	}
	for _, b := range []struct{ tree, dir, umask string }{
		{first, d.dir, "022"},
		{second, d.again, "077"},
	} {
		cmd := exec.Command("sh", "-c", `umask "$1"; exec packaging/build.sh "$2"`, "sh", b.umask, b.dir)
		cmd.Dir = b.tree
		cmd.Env = append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH="+epoch)
		if _, err := output(cmd); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// copyCheckout copies what git tracks or would track.
func copyCheckout(from, to string) error {
	list, err := output(exec.Command("git", "-C", from, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."))
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		src, dst := filepath.Join(from, name), filepath.Join(to, name)
		info, err := os.Lstat(src)
		if err != nil || !info.Mode().IsRegular() {
			continue // deleted since the index was written
		}
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		content, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dst, content, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

// output runs cmd and returns what it prints, without the last newline; the error has its stderr.
func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// run is output for a test, which fails with it.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := output(exec.CommandContext(t.Context(), name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// packages returns the path of the package for an architecture, and of its second build.
func (d *distribution) packages(arch, suffix string) (first, second string) {
	name := fmt.Sprintf("dunlin_%s_%s.%s", d.version, arch, suffix)
	return filepath.Join(d.dir, name), filepath.Join(d.again, name)
}

// native returns the path of the .deb for this machine.
func (d *distribution) native(t *testing.T) string {
	t.Helper()
	deb, _ := d.packages(run(t, "dpkg", "--print-architecture"), "deb")
	return deb
}

// architectures of each format, with the compilation that its binary must come from.
var architectures = []struct{ format, arch, target string }{
	{"deb", "amd64", "linux-amd64"},
	{"deb", "arm64", "linux-arm64"},
	{"deb", "armhf", "linux-armv6"},
	{"ipk", "aarch64_cortex-a53", "linux-arm64"},
	{"ipk", "arm_cortex-a7_neon-vfpv4", "linux-armv7"},
}

func TestBuildIsReproducible(t *testing.T) {
	for _, a := range architectures {
		t.Run(a.arch, func(t *testing.T) {
			first, second := built(t).packages(a.arch, a.format)
			one, err := os.ReadFile(first)
			if err != nil {
				t.Fatal(err)
			}
			other, err := os.ReadFile(second)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(one, other) {
				t.Errorf("two builds of one commit differ (%d and %d bytes)", len(one), len(other))
			}
		})
	}
}

func TestBuildMakesNothingElse(t *testing.T) {
	files, err := os.ReadDir(built(t).dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(architectures) {
		t.Errorf("%d files, want %d: %v", len(files), len(architectures), files)
	}
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
