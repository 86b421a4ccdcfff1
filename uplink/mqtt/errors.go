package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// ErrOldProtocol says that the server speaks MQTT 3.1.1 only. Trying again soon is of no use.
var ErrOldProtocol = errors.New("mqtt: the server does not speak MQTT 5, which this uplink needs: enable MQTT 5 there, or choose another endpoint")

// ErrQoS0Only says that the server takes QoS 0 only: nothing could be acknowledged.
var ErrQoS0Only = errors.New("mqtt: the server takes QoS 0 only, so that nothing would be acknowledged: raise its maximum QoS")

// errSessionPresent says that the server goes on with a session that was to end, of which nothing is
// known here.
var errSessionPresent = errors.New("mqtt: the server was asked for a new session and says that it has an old one")

// handshakeRemedy says what to look at when a TLS handshake failed, "" if the error does.
func handshakeRemedy(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "; tls.ca names the authority to trust"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "; tls.server_name is the name to expect, if the certificate has another one than the endpoint"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "; is the clock of this machine right?" // x509 says so of what is not valid yet, too
	}
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	if noTLS || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return "; the server may expect no TLS on that port (mqtt instead of mqtts)"
	}
	return ""
}

// RefusedError is a CONNACK with a reason code (MQTT5 §3.2.2.2).
type RefusedError struct {
	Code    byte
	Reason  string // Reason String of the server, "" if none
	Servers string // Server Reference: where to go instead, "" if it does not say; see Redirected
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("mqtt: the server refused the connection: %s (0x%02X)", codeName(e.Code), e.Code)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Servers != "" {
		s += "; it names " + printable(e.Servers)
	}
	return s
}

// DisconnectedError is a DISCONNECT of the server (MQTT5 §3.14).
type DisconnectedError struct {
	Code    byte
	Reason  string // Reason String of the server, "" if none
	Servers string // Server Reference: where to go instead, "" if it does not say; see Redirected
}

func (e *DisconnectedError) Error() string {
	s := fmt.Sprintf("mqtt: the server closed the connection: %s (0x%02X)", codeName(e.Code), e.Code)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Servers != "" {
		s += "; it names " + printable(e.Servers)
	}
	return s
}

// TakenOver is the reason code of a DISCONNECT: another client uses our client id.
const TakenOver = 0x8E

// codeName puts reason codes into words that say what to look at.
func codeName(code byte) string {
	switch code {
	case 0x00:
		return "normal disconnection"
	case 0x80:
		return "unspecified error"
	case 0x81:
		return "malformed packet"
	case 0x82:
		return "protocol error"
	case 0x83:
		return "implementation specific error"
	case 0x84:
		return "unsupported protocol version"
	case 0x85:
		return "client identifier not valid"
	case 0x86:
		return "bad user name or password"
	case 0x87:
		return "not authorized"
	case 0x88:
		return "server unavailable"
	case 0x89:
		return "server busy"
	case 0x8A:
		return "banned"
	case 0x8B:
		return "server shutting down"
	case 0x8C:
		return "bad authentication method"
	case 0x8D:
		return "keep alive timeout"
	case TakenOver:
		return "session taken over: another client uses the same client id"
	case 0x90:
		return "topic name invalid"
	case 0x93:
		return "receive maximum exceeded"
	case 0x95:
		return "packet too large"
	case 0x96:
		return "message rate too high"
	case 0x97:
		return "quota exceeded"
	case 0x98:
		return "administrative action"
	case 0x99:
		return "payload format invalid"
	case 0x9C:
		return "use another server"
	case 0x9D:
		return "server moved"
	case 0x9F:
		return "connection rate exceeded"
	case 0xA0:
		return "maximum connect time"
	}
	return "reason code"
}
