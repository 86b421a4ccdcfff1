package service

import (
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets returns the listening sockets that systemd has opened for the service, by their names:
// FileDescriptorName= of the socket unit, or else the name of the unit. One name can have several.
// They are the caller's to close; systemd keeps its own, so that clients can connect while the
// service restarts. Call it once: the second call returns none.
func Sockets() map[string][]net.Listener {
	all, _ := activation.ListenersWithNames() // has no error to return
	return all
}
