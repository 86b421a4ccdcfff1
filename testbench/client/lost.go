package client

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Lost reports whether err means no more than that the connection was lost or could not be made,
// as when the broker is killed: Connect again. Everything else is a fault of the broker.
func Lost(err error) bool {
	for _, cause := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, ErrNotConnected,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED,
		os.ErrNotExist, // of a unix socket
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}
