package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// write puts a file into folder and returns its path.
func write(t *testing.T, folder, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPathsAreTakenFromTheFolderOfTheFile(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "pw", "", 0o600)
	file := write(t, folder, "dunlin.yaml", "listeners: [{address: unix:s}]\nauth: {passwords: ./pw}\n", 0o644)
	c, err := Load(file, Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(folder, "pw"); c.Auth.Passwords != want {
		t.Errorf("passwords %q, want %q", c.Auth.Passwords, want)
	}
	if want := "unix:" + filepath.Join(folder, "s"); c.Listeners[0].Address != want {
		t.Errorf("address %q, want %q", c.Listeners[0].Address, want)
	}
	if want := filepath.Join(folder, "dunlin-data"); c.Data != want {
		t.Errorf("data %q, want %q", c.Data, want)
	}
	c, err = Load(file, Overrides{Data: "d", Listen: []string{"unix:x"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "d" || c.Listeners[0].Address != "unix:x" {
		t.Errorf("overrides: data %q, address %q; want them as given", c.Data, c.Listeners[0].Address)
	}
}

func TestDefaultsNeedNoFile(t *testing.T) {
	c, err := Load("", Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMissingFilesAreAllReported(t *testing.T) {
	folder := t.TempDir()
	cert, key := certificate(t, folder, "one")
	_, other := certificate(t, folder, "two")
	write(t, folder, "junk.pem", "junk", 0o644)
	file := write(t, folder, "dunlin.yaml", `auth: {passwords: nowhere}
uplinks:
  - name: a
    endpoints: [mqtts://h]
    client_id: c
    username: u
    password_file: .
    tls: {ca: junk.pem, cert: `+cert+`, key: `+other+`}
    rules: [{from: "#"}]
  - name: b
    endpoints: [mqtts://h]
    client_id: c
    tls: {ca: `+cert+`, cert: `+cert+`, key: `+key+`}
    rules: [{from: "#"}]
`, 0o644)
	_, err := Load(file, Overrides{})
	compare(t, err, []string{
		file + ":1:19: auth.passwords: cannot be read: stat " + folder + "/nowhere: no such file or directory",
		file + ":7:20: uplinks.0.password_file: " + folder + " is not a file but a folder",
		file + ":8:15: uplinks.0.tls.ca: " + folder + "/junk.pem holds no certificate; allowed: certificates in PEM form",
		file + ":8:31: uplinks.0.tls.cert: cert and key cannot be used: tls: private key does not match public key",
	})
}

func TestSecretsThatEverybodyCanReadAreWarnedOf(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "pw", "", 0o644)
	file := write(t, folder, "dunlin.yaml", "auth: {passwords: pw}\nlisteners: [{address: \":1883\", open: true}]\n", 0o644)
	c, err := Load(file, Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		file + ":1:19: auth.passwords: " + folder + "/pw is a secret that everybody on this machine can read; remedy: chmod o= " + folder + "/pw",
		file + ":2:38: listeners.0.open: :1883 lets in everybody who can reach it, without a password",
	}
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPasswordOfAnUplinkIsTheFirstLine(t *testing.T) {
	folder := t.TempDir()
	for _, tt := range []struct{ name, text, want, err string }{
		{"one line", "secret\n", "secret", ""},
		{"no line break", " s p ", " s p ", ""},
		{"written on Windows", "secret\r\nnotes\n", "secret", ""},
		{"longest", strings.Repeat("x", maxPassword) + "\n", strings.Repeat("x", maxPassword), ""},
		{"too long", strings.Repeat("x", maxPassword+1), "", "the password of uplink a is too long: the first line of " + folder + "/p has more than 65535 bytes"},
		{"empty", "\nsecret\n", "", "the password of uplink a is missing: the first line of " + folder + "/p is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := Uplink{Name: "a", PasswordFile: write(t, folder, "p", tt.text, 0o600)}
			got, err := u.Password()
			if string(got) != tt.want || err == nil != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("got %.20q, %v; want %.20q, %s", got, err, tt.want, tt.err)
			}
		})
	}
	if got, err := (&Uplink{}).Password(); got != nil || err != nil {
		t.Errorf("without a file: %q, %v", got, err)
	}
	if _, err := (&Uplink{Name: "a", PasswordFile: folder + "/none"}).Password(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestWhoMustBeAbleToReadAFileIsSaid(t *testing.T) {
	err := &fs.PathError{Op: "open", Path: "/etc/dunlin/passwords", Err: fs.ErrPermission}
	if got, want := readRemedy(err), fmt.Sprintf("; user %d must be able to read it, and to enter its folder", os.Geteuid()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := readRemedy(fs.ErrNotExist); got != "" {
		t.Errorf("a file that is missing: %q", got)
	}
}

func TestDataIsAFolder(t *testing.T) {
	folder := t.TempDir()
	file := write(t, folder, "x.yaml", "data: x.yaml\n", 0o644)
	_, err := Load(file, Overrides{})
	compare(t, err, []string{file + ":1:7: data: " + file + " is a file; allowed: the path of a folder"})
	if _, err := Load(file, Overrides{Data: folder}); err != nil {
		t.Error(err)
	}
	if _, err := Load(file, Overrides{Data: filepath.Join(folder, "new")}); err != nil {
		t.Error(err)
	}
}

func TestGroupThatIsMissingIsDoubtful(t *testing.T) {
	file := write(t, t.TempDir(), "x.yaml", "listeners:\n  - {address: \"unix:/s\", group: no-such-group}\n  - {address: \"unix:/t\", group: root}\n", 0o644)
	c, err := Load(file, Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{file + `:2:33: listeners.0.group: this machine has no group "no-such-group"; until it has, the listener cannot be opened`}
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListenersCollideOnlyOnOnePortOfOneAddress(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{":1", "127.0.0.1:1", true},
		{":1", "[::1]:1", true},
		{":1", "0.0.0.0:1", true},
		{"0.0.0.0:1", "192.0.2.1:1", true},
		{"[::]:1", "[2001:db8::1]:1", true},
		{"localhost:1", "127.0.0.1:1", true},
		{":1", ":1", true},
		{":1", "127.0.0.1:2", false},
		{"0.0.0.0:1", "[::]:1", false},
		{"0.0.0.0:1", "[::1]:1", false},
		{"[::]:1", "192.0.2.1:1", false},
		{"127.0.0.1:1", "127.0.0.2:1", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
		{":0", "127.0.0.1:0", false},
		{":1", "unix:/1", false},
		{"unix:/1", "unix:/1", true},
		{"systemd:a", "systemd:b", false},
	} {
		a, b := Listener{Address: tt.a}, Listener{Address: tt.b}
		if got := a.collides(b); got != tt.want || b.collides(a) != got {
			t.Errorf("%s and %s: %v and %v, want %v", tt.a, tt.b, got, b.collides(a), tt.want)
		}
	}
}

func TestListenerTakesWhatEndsAtIt(t *testing.T) {
	for _, tt := range []struct {
		listener, endpoint string
		want               bool
	}{
		{":1883", "mqtt://127.0.0.1:1883", true},
		{":1883", "mqtt://[::1]:1883", true},
		{"0.0.0.0:1883", "mqtt://localhost:1883", true},
		{"127.0.0.1:1883", "mqtts://127.0.0.1:1883", true},
		{"192.0.2.1:1883", "mqtt://192.0.2.1:1883", true},
		{"0.0.0.0:1883", "mqtt://[::1]:1883", false},
		{"127.0.0.1:1883", "mqtt://127.0.0.1:1884", false},
		{"192.0.2.1:1883", "mqtt://127.0.0.1:1883", false},
		{":1883", "mqtt://192.0.2.1:1883", false}, // another machine, as far as the file tells
		{":1883", "mqtt://broker.example:1883", false},
		{"unix:/s", "mqtt://127.0.0.1:1883", false},
	} {
		if got := (Listener{Address: tt.listener}).takes(tt.endpoint); got != tt.want {
			t.Errorf("%s of %s: %v, want %v", tt.listener, tt.endpoint, got, tt.want)
		}
	}
}

func TestUnreadableFileIsSaidInWords(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "x.yaml"), Overrides{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "the configuration cannot be read: open ") {
		t.Errorf("missing: %v", err)
	}
	if _, err = Load(t.TempDir(), Overrides{}); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("folder: %v", err)
	}
	huge := write(t, t.TempDir(), "x.yaml", strings.Repeat("# long\n", maxFile/7+1), 0o644)
	if _, err = Load(huge, Overrides{}); err == nil || err.Error() != huge+": the file is larger than 1MiB" {
		t.Errorf("huge: %v", err)
	}
}

func TestOverridesReplaceTheFile(t *testing.T) {
	listener := func(change func(l *Listener)) Listener {
		l := defaultListener
		change(&l)
		return l
	}
	const file = "data: here\nlisteners:\n  - address: 127.0.0.1:1\n    max_connections: 5\nlimits: {max_packet: 2KiB}\n"
	for _, tt := range []struct {
		name string
		text string
		o    Overrides
		want func(c *Config)
	}{
		{"a value", file, Overrides{Set: []string{"limits.max_packet=4KiB"}}, func(c *Config) { c.Limits.MaxPacket = 4 * KiB }},
		{"the last of two", file, Overrides{Set: []string{"log.level=warn", "log.level=debug"}}, func(c *Config) { c.Log.Level = "debug" }},
		{"an item of a list", file, Overrides{Set: []string{"listeners.0.address=[::1]:2"}}, func(c *Config) { c.Listeners[0].Address = "[::1]:2" }},
		{"a new item", file, Overrides{Set: []string{"listeners.1.address=unix:/s"}}, func(c *Config) {
			c.Listeners = append(c.Listeners, listener(func(l *Listener) { l.Address = "unix:/s" }))
		}},
		{"a list that is not in the file", "", Overrides{Set: []string{"listeners.0.open=true"}}, func(c *Config) { c.Listeners[0].Open = true }},
		{"a section that is empty in the file", "auth:\n", Overrides{Set: []string{"auth.passwords=x=y"}}, func(c *Config) { c.Auth.Passwords = "x=y" }},
		{"a list as YAML", file, Overrides{Set: []string{`listeners=[{address: "unix:/s", max_connections: 7}]`}}, func(c *Config) {
			c.Listeners = []Listener{listener(func(l *Listener) { l.Address, l.MaxConnections = "unix:/s", 7 })}
		}},
		{"text that looks like a comment", file, Overrides{Set: []string{"access.everyone.publish.0=#"}}, func(c *Config) { c.Access.Everyone.Publish = []string{"#"} }},
		{"the hidden one", file, Overrides{Set: []string{"store.unsafe_no_sync=true"}}, func(c *Config) {
			c.Store.UnsafeNoSync = true
			c.Warnings = []string{"--set store.unsafe_no_sync=true: store.unsafe_no_sync: nothing is synced to the disk: a power cut loses acknowledged messages"}
		}},
		{"data", file, Overrides{Data: "there"}, func(c *Config) { c.Data = "there" }},
		{"addresses replace the listeners", file, Overrides{Listen: []string{"127.0.0.1:8", "[::1]:9"}}, func(c *Config) {
			c.Listeners = []Listener{
				listener(func(l *Listener) { l.Address = "127.0.0.1:8" }),
				listener(func(l *Listener) { l.Address = "[::1]:9" }),
			}
		}},
		{"set after listen", file, Overrides{Listen: []string{":8"}, Set: []string{"listeners.0.open=true"}}, func(c *Config) {
			c.Listeners = []Listener{listener(func(l *Listener) { l.Address, l.Open = ":8", true })}
			c.Warnings = []string{"--set listeners.0.open=true: listeners.0.open: :8 lets in everybody who can reach it, without a password"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want, err := Parse("f", []byte(tt.text), Overrides{})
			if err != nil {
				t.Fatal(err)
			}
			tt.want(want)
			got, err := Parse("f", []byte(tt.text), tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOverridesAreCheckedLikeTheFile(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Overrides
		want string
	}{
		{"unknown key", Overrides{Set: []string{"limits.max_pakcet=1KiB"}}, `--set limits.max_pakcet=1KiB: limits: unknown key "max_pakcet"; did you mean "max_packet"?`},
		{"wrong value", Overrides{Set: []string{"log.level=loud"}}, `--set log.level=loud: log.level: "loud" is not known; allowed: debug, info, warn, error`},
		{"no value", Overrides{Set: []string{"log.level"}}, `--set log.level: is not key.path=value, as in limits.max_packet=1MiB`},
		{"below a value", Overrides{Set: []string{"data.x=1"}}, `--set data.x=1: data is "here", there is nothing below it`},
		{"name in a list", Overrides{Set: []string{"listeners.first.open=true"}}, `--set listeners.first.open=true: listeners is a list, and "first" is no index; allowed: 0 to 1`},
		{"index behind the end", Overrides{Set: []string{"listeners.2.open=true"}}, `--set listeners.2.open=true: listeners has 1 items; allowed: index 0 to 1`},
		{"open to the network", Overrides{Listen: []string{":1884"}}, `--listen :1884: listeners.0.address: :1884 can be reached from the network, and clients need no password; allowed: with auth.passwords set, or with open: true if everybody may come in`},
		{"address", Overrides{Listen: []string{"1884"}}, `--listen 1884: listeners.0.address: "1884" is not an address with a port; allowed: 127.0.0.1:1883, [::1]:1883, :1883 for all addresses, unix:/path or systemd:NAME`},
		{"value in a list given as YAML", Overrides{Set: []string{"listeners=[{adress: x}]"}}, `--set listeners=[{adress: x}]: listeners.0: unknown key "adress"; did you mean "address"?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("f", []byte("data: here\nlisteners: [{address: \":1883\", open: true}]\n"), tt.o)
			compare(t, err, []string{tt.want})
		})
	}
}

// certificate writes a self-signed certificate and its key.
func certificate(t *testing.T, folder, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = write(t, folder, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	key = write(t, folder, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), 0o600)
	return cert, key
}
