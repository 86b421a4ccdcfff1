package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// tlsOptions are the options of pub and sub for TLS. Each of them asks for it.
type tlsOptions struct {
	on, insecure               bool
	ca, cert, key, name, proto string
}

func (o *tlsOptions) define(fs *flag.FlagSet) {
	fs.BoolVar(&o.on, "tls", false, "")
	fs.StringVar(&o.ca, "ca", "", "")
	fs.StringVar(&o.cert, "cert", "", "")
	fs.StringVar(&o.key, "key", "", "")
	fs.StringVar(&o.name, "server-name", "", "")
	fs.StringVar(&o.proto, "alpn", "", "")
	fs.BoolVar(&o.insecure, "insecure", false, "")
}

func (o *tlsOptions) given(fs *flag.FlagSet) bool {
	return o.on || o.insecure || given(fs, "ca", "cert", "key", "server-name", "alpn")
}

// config reads the files. host is what the broker's certificate must name unless --server-name
// says otherwise.
func (o *tlsOptions) config(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: o.insecure}
	if o.name != "" {
		c.ServerName = o.name
	}
	if o.proto != "" {
		c.NextProtos = []string{o.proto}
	}
	if (o.cert == "") != (o.key == "") {
		return nil, usagef("--cert and --key go together")
	}
	if o.ca != "" && o.insecure {
		return nil, usagef("--ca says whom to trust, --insecure trusts everybody")
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s has no certificate; it must be PEM", o.ca)
		}
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// adviseTLS adds to the error of a TLS connection what may help.
func adviseTLS(err error, c *tls.Config) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w; --ca FILE says whom else to trust", err)
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("%w; --server-name NAME says which name to expect", err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("%w; the broker may expect no TLS on that port", err)
	}
	// In TLS 1.3 a broker that misses our certificate says so after the handshake, and that can
	// be lost on the way when it closes at once.
	said, ok := errors.AsType[*net.OpError](err)
	ended := ok && said.Op == "remote error" || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	if ended && len(c.Certificates) == 0 {
		return fmt.Errorf("%w; the broker may expect no TLS on that port, or a certificate of its clients: --cert and --key", err)
	}
	return err
}
