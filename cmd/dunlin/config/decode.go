package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"dunlin/core/topic"
)

// decoder carries values from a tree of YAML nodes into a Config and collects what is wrong.
// The tree is walked by hand because only the nodes know their place in the file.
type decoder struct {
	file   string // name for messages
	folder string // relative paths of the file are taken from here, "" = leave them
	disk   bool   // look at the files that are named, too

	origins map[*yaml.Node]string // nodes that an override made, by the override
	path    []string              // where the walk is: "uplinks", "0", "name"

	errs     Errors
	warnings Errors
	checks   []func() // what can be judged only when everything is read
}

// field is a key that a group may have, and what reads its value.
type field struct {
	key    string
	read   func(n *yaml.Node)
	hidden bool // not named among what is allowed
}

// group is a mapping of the file that has been read.
type group struct {
	node   *yaml.Node
	values map[string]*yaml.Node // what is given
}

func (g group) has(key string) bool { return g.values[key] != nil }

// fail reports a fault at n, which belongs to the setting that the walk is at.
func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.errs = append(d.errs, d.place(n, format, args...))
}

// warn reports what is legal but doubtful.
func (d *decoder) warn(n *yaml.Node, format string, args ...any) {
	d.warnings = append(d.warnings, d.place(n, format, args...))
}

// failAt reports a fault of the value of key, or of the group if key is not given.
func (d *decoder) failAt(g group, key, format string, args ...any) {
	d.at(g, key, func(n *yaml.Node) { d.fail(n, format, args...) })
}

// warnAt is failAt for a warning.
func (d *decoder) warnAt(g group, key, format string, args ...any) {
	d.at(g, key, func(n *yaml.Node) { d.warn(n, format, args...) })
}

func (d *decoder) at(g group, key string, f func(n *yaml.Node)) {
	if n := g.values[key]; n != nil {
		d.below(key, func() { f(n) })
		return
	}
	f(g.node)
}

func (d *decoder) place(n *yaml.Node, format string, args ...any) *Error {
	text := fmt.Sprintf(format, args...)
	if len(d.path) > 0 {
		text = strings.Join(d.path, ".") + ": " + text
	}
	e := &Error{Text: text}
	if origin := d.origins[n]; origin != "" {
		e.Origin = origin
		return e
	}
	e.File, e.Line, e.Column = d.file, n.Line, n.Column
	return e
}

// later runs check when everything is read, with the walk back where it is now.
func (d *decoder) later(check func()) {
	path := slices.Clone(d.path)
	d.checks = append(d.checks, func() {
		d.path = path
		check()
	})
}

// below runs f with the walk one level deeper.
func (d *decoder) below(key string, f func()) {
	d.path = append(d.path, key)
	f()
	d.path = d.path[:len(d.path)-1]
}

// group reads a mapping with the given keys. A key without a value counts as absent, so that a
// section whose lines are all commented out is no error. ok is false if n is no mapping, which
// has been reported then.
func (d *decoder) group(n *yaml.Node, fields ...field) (g group, ok bool) {
	g = group{node: n, values: map[string]*yaml.Node{}}
	if null(n) {
		return g, true
	}
	if !d.wants(n, yaml.MappingNode, `a group of "key: value" lines`) {
		return g, false
	}
	d.pairs(n, func(key string, k, v *yaml.Node) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			d.unknown(k, key, fields)
			return
		}
		if null(v) {
			return
		}
		g.values[key] = v
		d.below(key, func() { fields[i].read(v) })
	})
	return g, true
}

// pairs calls f for each key of a mapping and reports keys that are no text or repeated.
func (d *decoder) pairs(n *yaml.Node, f func(key string, k, v *yaml.Node)) {
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			d.fail(k, "a key cannot be %s; allowed: text", kindName(k))
			continue
		}
		if other := first[k.Value]; other != nil {
			d.fail(k, "the key %.80q is repeated; it stands in line %d already", k.Value, other.Line)
			continue
		}
		first[k.Value] = k
		f(k.Value, k, v)
	}
}

// unknown reports a key that a group does not have.
func (d *decoder) unknown(k *yaml.Node, key string, fields []field) {
	var names []string
	for _, f := range fields {
		if !f.hidden {
			names = append(names, f.key)
		}
	}
	if near := nearest(key, names); near != "" {
		d.fail(k, "unknown key %.80q; did you mean %q?", key, near)
		return
	}
	d.fail(k, "unknown key %.80q; allowed: %s", key, strings.Join(names, ", "))
}

// list reads a sequence into dst, which it replaces; read gets a node and the item to fill.
func list[T any](d *decoder, n *yaml.Node, dst *[]T, read func(n *yaml.Node, item *T)) bool {
	if !d.wants(n, yaml.SequenceNode, "a list") {
		return false
	}
	*dst = make([]T, len(n.Content))
	for i, item := range n.Content {
		d.below(strconv.Itoa(i), func() { read(item, &(*dst)[i]) })
	}
	return true
}

// wants reports whether n is of the kind, and the fault if it is not.
func (d *decoder) wants(n *yaml.Node, kind yaml.Kind, allowed string) bool {
	if n.Kind == kind {
		return true
	}
	if n.Kind == yaml.AliasNode {
		d.fail(n, "an alias (*%s) is not allowed; write the value out", n.Value)
	} else {
		d.fail(n, "got %s; allowed: %s", kindName(n), allowed)
	}
	return false
}

// kindName says what a node is.
func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of settings"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	if null(n) {
		return "nothing"
	}
	return fmt.Sprintf("%.80q", n.Value)
}

func null(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// scalar returns the text of a single value as it stands in the file, whatever type YAML gives
// it: a client identifier 007 is no number.
func (d *decoder) scalar(n *yaml.Node, allowed string) (string, bool) {
	if null(n) { // an empty item of a list: a null value of a key never gets here
		d.fail(n, "got nothing; allowed: %s", allowed)
		return "", false
	}
	if !d.wants(n, yaml.ScalarNode, allowed) {
		return "", false
	}
	return n.Value, true
}

// The readers below return what goes into field.read: they parse a node into dst, or report what
// is wrong with it and leave dst alone.

func (d *decoder) text(dst *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if s, ok := d.scalar(n, "text"); ok {
			*dst = s
		}
	}
}

func (d *decoder) flag(dst *bool) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "true, false")
		switch {
		case !ok:
		case s == "true" || s == "false":
			*dst = s == "true"
		default:
			d.fail(n, "%.80q is neither true nor false; allowed: true, false", s)
		}
	}
}

func (d *decoder) oneOf(dst *string, words ...string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		allowed := strings.Join(words, ", ")
		s, ok := d.scalar(n, allowed)
		switch {
		case !ok:
		case slices.Contains(words, s):
			*dst = s
		default:
			d.fail(n, "%.80q is not known; allowed: %s", s, allowed)
		}
	}
}

// whole reads a whole number from low to high.
func (d *decoder) whole(dst *int, low, high int) func(*yaml.Node) {
	return func(n *yaml.Node) {
		allowed := fmt.Sprintf("%d to %d", low, high)
		if high == math.MaxInt32 {
			allowed = fmt.Sprintf("%d or more", low)
		}
		s, ok := d.scalar(n, allowed)
		if !ok {
			return
		}
		i, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
		if err != nil {
			d.fail(n, "%.80q is not a whole number; allowed: %s", s, allowed)
			return
		}
		if i < int64(low) || i > int64(high) {
			d.fail(n, "%d is out of range; allowed: %s", i, allowed)
			return
		}
		*dst = int(i)
	}
}

// mode reads the permissions of a socket.
func (d *decoder) mode(dst *os.FileMode) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const allowed = "three octal digits as of chmod, 0600 to 0777"
		s, ok := d.scalar(n, allowed)
		if !ok {
			return
		}
		m, err := strconv.ParseUint(s, 8, 16)
		if err != nil || m&^0o777 != 0 || m&0o600 != 0o600 {
			d.fail(n, "%.80q is not a mode of a socket that the broker can use; allowed: %s", s, allowed)
			return
		}
		*dst = os.FileMode(m)
	}
}

// duration reads a duration from low to high; if high is Never, the word "never" too.
func (d *decoder) duration(dst *time.Duration, low, high time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		allowed := fmt.Sprintf("%s to %s", FormatDuration(low), FormatDuration(high))
		s, ok := d.scalar(n, allowed)
		if !ok {
			return
		}
		if s == "never" && high == Never {
			*dst = Never
			return
		}
		v, err := ParseDuration(s)
		if err != nil {
			d.fail(n, "%.80q is not a duration, %v; allowed: %s, written like 500ms, 10s, 5m, 2h or 7d",
				s, err, allowed)
			return
		}
		if v < low || v > high {
			d.fail(n, "%s is out of range; allowed: %s", s, allowed)
			return
		}
		*dst = v
	}
}

// size reads a number of bytes from low to high; auto says that the word "auto" is allowed and
// means 0.
func (d *decoder) size(dst *int64, low, high int64, auto bool) func(*yaml.Node) {
	return func(n *yaml.Node) {
		allowed := fmt.Sprintf("%s to %s", FormatSize(low), FormatSize(high))
		if auto {
			allowed = "auto, or " + allowed
		}
		s, ok := d.scalar(n, allowed)
		if !ok {
			return
		}
		if s == "auto" && auto {
			*dst = 0
			return
		}
		v, err := ParseSize(s)
		if err != nil {
			d.fail(n, "%.80q is not a size, %v; allowed: %s, written like 512B, 256KiB, 64MiB or 1GiB",
				s, err, allowed)
			return
		}
		if v < low || v > high {
			d.fail(n, "%s is out of range; allowed: %s", s, allowed)
			return
		}
		*dst = v
	}
}

// filter reads a Topic Filter (MQTT5 §4.7).
func (d *decoder) filter(dst *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "a topic filter")
		if !ok {
			return
		}
		if err := topic.CheckFilter([]byte(s)); err != nil {
			d.fail(n, `%.80q is not a topic filter, %v; allowed: levels with / between them, + for any one level, # at the end for all below`,
				s, strings.TrimPrefix(err.Error(), "topic: "))
			return
		}
		*dst = s
	}
}

// topicName reads a Topic Name (MQTT5 §4.7).
func (d *decoder) topicName(dst *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "a topic without wildcards")
		if !ok {
			return
		}
		if err := topic.CheckName([]byte(s)); err != nil {
			d.fail(n, "%.80q is not a topic, %v; allowed: levels with / between them, without + and #",
				s, strings.TrimPrefix(err.Error(), "topic: "))
			return
		}
		*dst = s
	}
}

// location reads a path. A relative one is taken from the folder of the file, or from the working
// directory if it comes from the command line.
func (d *decoder) location(dst *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s, ok := d.scalar(n, "a path")
		if !ok {
			return
		}
		if strings.ContainsRune(s, 0) {
			d.fail(n, "%.80q is not a path, it has a NUL character", s)
			return
		}
		*dst = d.resolve(n, s)
	}
}

func (d *decoder) resolve(n *yaml.Node, path string) string {
	if path == "" || d.folder == "" || filepath.IsAbs(path) || d.origins[n] != "" {
		return path
	}
	return filepath.Join(d.folder, path)
}

// existing reads the path of a file that must be there and readable. secret warns if others can
// read it, too.
func (d *decoder) existing(dst *string, secret bool) func(*yaml.Node) {
	read := d.location(dst)
	return func(n *yaml.Node) {
		read(n)
		if d.disk && *dst != "" {
			d.later(func() { d.readable(n, *dst, secret) })
		}
	}
}

func (d *decoder) readable(n *yaml.Node, path string, secret bool) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		// Opening a pipe would wait for its writer.
		d.fail(n, "%s is not a file but a %s", path, typeName(info.Mode()))
		return
	}
	if err == nil {
		var f *os.File
		if f, err = os.Open(path); err == nil {
			f.Close()
		}
	}
	switch {
	case err != nil:
		d.fail(n, "cannot be read: %v%s", err, readRemedy(err))
	case secret && info.Mode().Perm()&0o007 != 0:
		d.warn(n, "%s is a secret that everybody on this machine can read; remedy: chmod o= %s", path, path)
	}
}

// readRemedy says what to do about a file that cannot be read, "" if the error does.
func readRemedy(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("; user %d must be able to read it, and to enter its folder", os.Geteuid())
	}
	return ""
}

func typeName(m os.FileMode) string {
	switch {
	case m.IsDir():
		return "folder"
	case m&os.ModeSocket != 0:
		return "socket"
	case m&os.ModeNamedPipe != 0:
		return "pipe"
	case m.IsRegular():
		return "file"
	}
	return "device"
}
