package packages

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A file of a package, by its absolute path.
type file struct {
	header  *tar.Header
	content []byte
}

// contents reads a tar, checks what holds for each file of a package, and returns the files.
func contents(t *testing.T, r io.Reader) map[string]file {
	t.Helper()
	files := map[string]file{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(built(t).date) {
			t.Errorf("%s is of %v, want the commit's %v", h.Name, h.ModTime, built(t).date)
		}
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s belongs to %d:%d, want root", h.Name, h.Uid, h.Gid)
		}
		if h.Typeflag == tar.TypeDir {
			if h.Mode != 0o755 {
				t.Errorf("%s has mode %o, want 755", h.Name, h.Mode)
			}
			continue
		}
		files[filepath.Join("/", h.Name)] = file{h, readAll(t, tr)}
	}
}

// checkFiles compares the paths and modes of files with want.
func checkFiles(t *testing.T, files map[string]file, want map[string]int64) {
	t.Helper()
	for name, mode := range want {
		if f, ok := files[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if f.header.Mode != mode || f.header.Typeflag != tar.TypeReg {
			t.Errorf("%s has mode %o and type %c, want %o and a file", name, f.header.Mode, f.header.Typeflag, mode)
		}
	}
	for name := range files {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is not expected", name)
		}
	}
}

// fields parses a control file; lines of a long description are left out.
func fields(control []byte) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(string(control)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, " ") {
			m[key] = value
		}
	}
	return m
}

func checkFields(t *testing.T, control []byte, want map[string]string) {
	t.Helper()
	got := fields(control)
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %q, want %q", key, got[key], value)
		}
	}
}

func checkConffiles(t *testing.T, got []byte, files map[string]file, want ...string) {
	t.Helper()
	names := strings.Fields(string(got))
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("conffiles are %q, want %q", names, want)
	}
	for _, name := range names {
		if _, ok := files[name]; !ok {
			t.Errorf("conffile %s is not in the package", name)
		}
	}
}

func TestDebHoldsTheService(t *testing.T) {
	for _, a := range architectures {
		if a.format != "deb" {
			continue
		}
		t.Run(a.arch, func(t *testing.T) {
			deb, _ := built(t).packages(a.arch, "deb")
			files := contents(t, strings.NewReader(run(t, "dpkg-deb", "--fsys-tarfile", deb)))
			checkFiles(t, files, map[string]int64{
				"/usr/bin/dunlin":                     0o755,
				"/etc/dunlin/dunlin.yaml":             0o644,
				"/lib/systemd/system/dunlin.service":  0o644,
				"/usr/lib/sysusers.d/dunlin.conf":     0o644,
				"/usr/share/man/man8/dunlin.8.gz":     0o644,
				"/usr/share/doc/dunlin/changelog.gz":  0o644,
				"/usr/share/doc/dunlin/copyright":     0o644,
				"/usr/share/lintian/overrides/dunlin": 0o644,

				"/usr/share/doc/dunlin/examples/dunlin.socket": 0o644,
			})
			checkSize(t, "the package", fileSize(t, deb), 5<<20)
			checkBinary(t, a.target, files["/usr/bin/dunlin"].content)

			control := contents(t, strings.NewReader(run(t, "dpkg-deb", "--ctrl-tarfile", deb)))
			checkFiles(t, control, map[string]int64{
				"/control": 0o644, "/md5sums": 0o644, "/conffiles": 0o644,
				"/postinst": 0o755, "/prerm": 0o755, "/postrm": 0o755,
			})
			checkFields(t, control["/control"].content, map[string]string{
				"Package": "dunlin", "Version": built(t).version, "Architecture": a.arch, "Section": "net", "Priority": "optional",
				"Depends": "adduser, init-system-helpers (>= 1.51)", "Recommends": "ca-certificates",
			})
			checkConffiles(t, control["/conffiles"].content, files, "/etc/dunlin/dunlin.yaml")
		})
	}
}

func TestIpkHoldsTheService(t *testing.T) {
	for _, a := range architectures {
		if a.format != "ipk" {
			continue
		}
		t.Run(a.arch, func(t *testing.T) {
			ipk, _ := built(t).packages(a.arch, "ipk")
			raw, err := os.ReadFile(ipk)
			if err != nil {
				t.Fatal(err)
			}
			// opkg wants a compressed tar of exactly these, unlike dpkg which wants an ar.
			outer := contents(t, gunzip(t, raw))
			checkFiles(t, outer, map[string]int64{
				"/debian-binary": 0o644, "/control.tar.gz": 0o644, "/data.tar.gz": 0o644,
			})
			if got := string(outer["/debian-binary"].content); got != "2.0\n" {
				t.Errorf("debian-binary is %q", got)
			}

			files := contents(t, gunzip(t, outer["/data.tar.gz"].content))
			checkFiles(t, files, map[string]int64{
				"/usr/bin/dunlin":            0o755,
				"/etc/dunlin/dunlin.yaml":    0o644,
				"/etc/config/dunlin":         0o644,
				"/etc/init.d/dunlin":         0o755,
				"/lib/upgrade/keep.d/dunlin": 0o644,
			})
			checkSize(t, "the package", fileSize(t, ipk), 6<<20)
			checkBinary(t, a.target, files["/usr/bin/dunlin"].content)

			control := contents(t, gunzip(t, outer["/control.tar.gz"].content))
			checkFiles(t, control, map[string]int64{
				"/control": 0o644, "/conffiles": 0o644, "/postinst": 0o755, "/prerm": 0o755,
			})
			checkFields(t, control["/control"].content, map[string]string{
				"Package": "dunlin", "Version": built(t).version, "Architecture": a.arch,
				"Depends": "libc, ca-bundle", "Require-User": "dunlin=883:dunlin=883",
			})
			checkConffiles(t, control["/conffiles"].content, files, "/etc/config/dunlin", "/etc/dunlin/dunlin.yaml")
		})
	}
}

// emulators run the binary of a target; ARMv6 on the oldest processor that its package promises.
var emulators = map[string][]string{
	"linux-amd64": {"qemu-x86_64-static"},
	"linux-arm64": {"qemu-aarch64-static"},
	"linux-armv6": {"qemu-arm-static", "-cpu", "arm1176"},
	"linux-armv7": {"qemu-arm-static", "-cpu", "cortex-a7"},
}

// checkBinary runs the binary on the processor it is for. It must be of this version and small.
func checkBinary(t *testing.T, target string, binary []byte) {
	t.Helper()
	checkSize(t, "the binary", len(binary), 12<<20)
	path := filepath.Join(t.TempDir(), "dunlin")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	emulate := append(slices.Clone(emulators[target]), path, "version")
	got, err := output(exec.CommandContext(t.Context(), emulate[0], emulate[1:]...))
	if err != nil {
		t.Error(err)
	} else if !strings.Contains(got, built(t).version) {
		t.Errorf("says %q, want version %s", got, built(t).version)
	}
}

func checkSize(t *testing.T, what string, got, limit int) {
	t.Helper()
	if got > limit {
		t.Errorf("%s has %d bytes, want at most %d", what, got, limit)
	}
}

func fileSize(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Size())
}

func gunzip(t *testing.T, b []byte) io.Reader {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestPackagedConfigurationIsValid(t *testing.T) {
	root := t.TempDir()
	run(t, "dpkg-deb", "--extract", built(t).native(t), root)
	configuration := filepath.Join(root, "etc/dunlin/dunlin.yaml")
	run(t, filepath.Join(root, "usr/bin/dunlin"), "check", configuration)
	text, err := os.ReadFile(configuration)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\ndata: /var/lib/dunlin\n") {
		t.Error("the data is not in /var/lib/dunlin")
	}
}

func TestLintianFindsNothing(t *testing.T) {
	for _, a := range architectures {
		if a.format != "deb" {
			continue
		}
		t.Run(a.arch, func(t *testing.T) {
			deb, _ := built(t).packages(a.arch, "deb")
			// As root it warns about being root, in the output and not in the status.
			run(t, "lintian", "--fail-on", "error,warning", "--info", deb)
		})
	}
}
