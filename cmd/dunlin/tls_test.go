package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dunlin/testbench/process"
)

// authority makes certificates in a folder.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.make("ca")
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// make writes NAME.pem and NAME.key, signed by the authority, or by itself if it is the first.
func (a *authority) make(name string) (*x509.Certificate, *ecdsa.PrivateKey) {
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
		DNSNames:    []string{"broker.example"},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.DNSNames = true, true, nil
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
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func TestMessagesGoThroughTLS(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.make("server")
	a.make("client")
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(address)
	plain := startMosquitto(t, "listener "+port+" 127.0.0.1", "cafile "+a.path("ca.pem"), "certfile "+a.path("server.pem"),
		"keyfile "+a.path("server.key"), "require_certificate true")
	ca, name := []string{"--ca", a.path("ca.pem")}, []string{"--server-name", "broker.example"}
	cert := []string{"--cert", a.path("client.pem"), "--key", a.path("client.key")}
	join := func(all ...[]string) (joined []string) {
		for _, s := range all {
			joined = append(joined, s...)
		}
		return joined
	}
	const noTLS, noVerify = "dunlin pub: no TLS connection: ", "dunlin pub: no TLS connection: tls: failed to verify certificate: x509: "
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"as it should be", join(ca, name, cert), 0, ""},
		{"with an application protocol", join(ca, name, cert, []string{"--alpn", "mqtt"}), 0, ""},
		{"without a look at the certificate", join(cert, []string{"--insecure"}), 0, "dunlin pub: --insecure: the certificate of the broker is NOT CHECKED; …"},
		{"authority that did not sign it", join(name, cert, []string{"--ca", other.path("ca.pem")}), 1, noVerify + "certificate signed by unknown authority…; --ca FILE says whom else to trust\n"},
		{"authorities of this machine", join(name, cert, []string{"--tls"}), 1, noVerify + "certificate signed by unknown authority…"},
		{"name that is not in it", join(ca, cert), 1, noVerify + "cannot validate certificate for 127.0.0.1…; --server-name NAME says which name to expect\n"},
		{"no client certificate", join(ca, name), 1, "dunlin pub: …; the broker may expect no TLS on that port, or a certificate of its clients: --cert and --key\n"},
		{"file that is not there", join(name, cert, []string{"--ca", "/nowhere/ca.pem"}), 1, "dunlin pub: --ca: open /nowhere/ca.pem: no such file or directory\n"},
		{"file that is no certificate", join(name, cert, []string{"--ca", a.path("ca.key")}), 1, "dunlin pub: --ca: " + a.path("ca.key") + " has no certificate; it must be PEM\n"},
		{"key of another certificate", join(ca, name, []string{"--cert", a.path("client.pem"), "--key", a.path("server.key")}), 1, "dunlin pub: --cert, --key: tls: private key does not match public key\n"},
		{"no TLS at the broker", join(plain, ca), 1, noTLS + "…; the broker may expect no TLS on that port…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := []string{"-h", host, "-p", port, "-W", "30"}
			dunlin(t, "", args("pub", at, append(tt.args, "-t", "a", "-m", "x", "-q", "1")...)...).check(t, tt.code, "", tt.want)
		})
	}
	for _, v := range versions {
		url := []string{"-V", v, "-L", "mqtts://" + address + "/" + v, "-W", "30", "-q", "2"}
		with := join(url, ca, name, cert)
		dunlin(t, "", args("pub", with, "-m", "kept", "-r")...).check(t, 0, "", "")
		dunlin(t, "", args("sub", with, "-C", "1")...).check(t, 0, "kept\n", "")
		dunlin(t, "", args("sub", plain, "-t", v, "-C", "1")...).check(t, 0, "kept\n", "")
	}
}

func TestApplicationProtocolIsOffered(t *testing.T) {
	a := newAuthority(t)
	a.make("server")
	pair, err := tls.LoadX509KeyPair(a.path("server.pem"), a.path("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	proto := make(chan string, 1)
	go func() { // ends with its connection, or with the listener; the test waits for what it sends
		conn, err := l.Accept()
		if err != nil {
			proto <- err.Error()
			return
		}
		defer conn.Close()
		secure := conn.(*tls.Conn)
		err = secure.HandshakeContext(t.Context())
		if err != nil {
			proto <- err.Error()
			return
		}
		proto <- secure.ConnectionState().NegotiatedProtocol
	}()
	dunlin(t, "", "pub", "-L", "mqtts://"+l.Addr().String(), "-t", "a", "-m", "x", "-W", "30", "--alpn", "mqtt",
		"--ca", a.path("ca.pem"), "--server-name", "broker.example").check(t, 1, "", "dunlin pub: the broker closed the connection…")
	if got := <-proto; got != "mqtt" {
		t.Errorf("the client offered %q, want mqtt", got)
	}
}
