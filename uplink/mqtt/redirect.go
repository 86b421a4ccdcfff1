package mqtt

import (
	"errors"
	"strings"
)

// maxServers is how many of the servers that a server names are looked at.
const maxServers = 8

// The reason codes that send a client on (MQTT5 §4.11).
const (
	useAnotherServer = 0x9C
	serverMoved      = 0x9D
)

// Redirected returns the endpoints that the server has named in the CONNACK or DISCONNECT that err
// tells of, in its order; permanent if they are to be used from now on. What is none is left out.
// They are as encrypted as Endpoint, and a certificate of theirs must have the name that TLS asks
// for, or that of the host.
func (o *Options) Redirected(err error) (endpoints []string, permanent bool) {
	var code byte
	var servers string
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		code, servers = refused.Code, refused.Servers
	} else if ended, ok := errors.AsType[*DisconnectedError](err); ok {
		code, servers = ended.Code, ended.Servers
	}
	if code != useAnotherServer && code != serverMoved {
		return nil, false
	}
	scheme, _, _ := strings.Cut(o.Endpoint, "://")
	for s := range strings.FieldsSeq(servers) {
		there := Options{Endpoint: scheme + "://" + s}
		if _, _, err := there.address(); err == nil && len(endpoints) < maxServers {
			endpoints = append(endpoints, there.Endpoint)
		}
	}
	return endpoints, code == serverMoved
}
