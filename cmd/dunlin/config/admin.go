package config

import (
	"errors"
	"os/user"
	"strings"

	"go.yaml.in/yaml/v3"
)

func (d *decoder) admin(n *yaml.Node, a *Admin) {
	g, ok := d.group(n,
		field{key: "socket", read: func(n *yaml.Node) { d.adminSocket(n, &a.Socket) }},
		field{key: "group", read: d.text(&a.Group)},
	)
	if !ok || !g.has("group") || a.Group == "" || !d.disk {
		return
	}
	if _, err := user.LookupGroup(a.Group); errors.As(err, new(user.UnknownGroupError)) {
		d.warnAt(g, "group", "this machine has no group %.80q; until it has, there is no admin socket", a.Group)
	}
}

// adminSocket reads auto, none or a path.
func (d *decoder) adminSocket(n *yaml.Node, dst *string) {
	const allowed = "auto, none or the path of a socket"
	s, ok := d.scalar(n, allowed)
	switch {
	case !ok:
		return
	case s == "auto", s == "none":
		*dst = s
		return
	}
	path := d.resolve(n, s)
	switch {
	case path == "" || path[0] == '@' || strings.ContainsRune(path, 0):
		d.fail(n, "%.80q is not the path of a socket; allowed: %s", s, allowed)
	case len(path) > maxSocketPath:
		d.fail(n, "the path of the socket has %d bytes; allowed: at most %d", len(path), maxSocketPath)
	default:
		*dst = path
	}
}
