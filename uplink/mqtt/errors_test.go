package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFailedHandshakeSaysWhatToLookAt(t *testing.T) {
	verification := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"unknown authority", verification(x509.UnknownAuthorityError{}), "tls.ca"},
		{"another name", verification(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}), "tls.server_name"},
		{"not valid at this time", verification(x509.CertificateInvalidError{Reason: x509.Expired}), "the clock of this machine"},
		{"wrong use", verification(x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}), ""},
		{"no TLS", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "no TLS on that port"},
		{"closed", io.EOF, "no TLS on that port"},
		{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, "no TLS on that port"},
		{"too late", context.DeadlineExceeded, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := handshakeRemedy(fmt.Errorf("around it: %w", tt.err))
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPortWithoutTLSIsNamedAsTheCause(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with its connection, or with the listener
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = bufio.NewReader(conn).ReadByte() // of the handshake: enough to be taken aback
	}()
	_, err = dial(t.Context(), &Options{Endpoint: "mqtts://" + l.Addr().String(), Timeout: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "the server may expect no TLS on that port") {
		t.Errorf("got %v", err)
	}
}
