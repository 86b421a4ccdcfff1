package runner

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dunlin/testbench/process"
	"dunlin/uplink/mqtt"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// authority makes certificates in a folder.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.make("ca", nil)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// make writes NAME.pem and NAME.key, signed by the authority, or by itself if it is the first.
func (a *authority) make(name string, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"cloud.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(c)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.DNSNames, c.IPAddresses = true, true, nil, nil
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, a.path(name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(a.t, a.path(name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func TestTLSWithClientCertificate(t *testing.T) {
	a := newAuthority(t)
	a.make("server", nil)
	a.make("gateway", nil)
	other := newAuthority(t)
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	c := startCloud(t,
		fmt.Sprintf("listener %s 127.0.0.1", port),
		"cafile "+a.path("ca.pem"), "certfile "+a.path("server.pem"), "keyfile "+a.path("server.key"), "require_certificate true",
	)
	c.receive("site/a/#")
	good := mqtt.TLS{CA: a.path("ca.pem"), Cert: a.path("gateway.pem"), Key: a.path("gateway.key")}
	tests := []struct {
		name   string
		change func(*mqtt.TLS)
		want   string // in the error; "" = it connects
	}{
		{"as it should be", func(*mqtt.TLS) {}, ""},
		{"another name in the certificate", func(o *mqtt.TLS) { o.ServerName = "cloud.example" }, ""},
		{"a name that is not in it", func(o *mqtt.TLS) { o.ServerName = "elsewhere.example" }, "tls.server_name is the name to expect"},
		{"no client certificate", func(o *mqtt.TLS) { o.Cert, o.Key = "", "" }, "certificate required"},
		{"an authority that did not sign it", func(o *mqtt.TLS) { o.CA = other.path("ca.pem") }, "; tls.ca names the authority to trust"},
		{"a file that is not there", func(o *mqtt.TLS) { o.CA = "/nowhere/ca.pem" }, "no such file"},
		{"a file that is no certificate", func(o *mqtt.TLS) { o.CA = a.path("ca.key") }, "it must be PEM"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := c.options(t)
			o.Endpoint, o.TLS, o.ClientID = "mqtts://"+address, good, fmt.Sprintf("gateway%d", i)
			tt.change(&o.TLS)
			u := openUplink(t, o)
			u.Start(nil)
			if tt.want != "" {
				eventually(t, "an error", func() bool { return strings.Contains(u.Status().LastError, tt.want) })
				return
			}
			feed(t, u, 1, 100, 2)
			drained(t, u, 100)
		})
	}
}

// mosquittoHash writes a password as mosquitto_passwd does: PBKDF2 with SHA-512.
func mosquittoHash(password string) string {
	salt := []byte("twelve bytes")
	const rounds = 101
	key, err := pbkdf2.Key(sha512.New, password, salt, rounds, sha512.Size)
	if err != nil {
		panic(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("$7$%d$%s$%s", rounds, b64(salt), b64(key))
}

func TestAPasswordIsGivenAndAWrongOneIsNamed(t *testing.T) {
	passwords := filepath.Join(t.TempDir(), "passwords")
	write(t, passwords, "gw:"+mosquittoHash("secret")+"\n")
	c := startCloud(t, "allow_anonymous false", "password_file "+passwords)
	o := c.options(t)
	o.Username, o.Password = "gw", "wrong"
	u := openUplink(t, o)
	u.Start(nil)
	eventually(t, "an error", func() bool { return u.Status().LastError != "" })
	if got := u.Status().LastError; !strings.Contains(got, "0x87") && !strings.Contains(got, "0x86") || strings.Contains(got, "wrong") {
		t.Errorf("got %q", got)
	}
	u.Close(t.Context())
	o.Password = "secret"
	u = openUplink(t, o)
	u.Start(nil)
	eventually(t, "connected", func() bool { return u.Status().Connected })
}
