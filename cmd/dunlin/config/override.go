package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Overrides are settings from the command line. They replace what the file says, in the order
// of the fields.
type Overrides struct {
	Listen []string // addresses that replace the listeners
	Data   string   // replaces data, "" = leave it
	// Set holds key.path=value, in order: "limits.max_packet=1MiB". Items of a list have their
	// index as key, counted from 0; the index behind the last one adds an item. The value stands
	// for itself, and is YAML if it begins with [ or { and can be read as YAML.
	Set []string
}

// apply changes the tree and notes which override each new node came from.
func (o Overrides) apply(root *yaml.Node, origins map[*yaml.Node]string) (faults Errors) {
	if root.Kind != yaml.MappingNode && (len(o.Listen) > 0 || o.Data != "" || len(o.Set) > 0) {
		return nil // that the file is no mapping is reported when it is decoded
	}
	e := editor{origins: origins}
	if len(o.Listen) > 0 {
		e.origin = "--listen"
		all := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		origins[all] = e.origin
		for _, address := range o.Listen {
			e.origin = "--listen " + address
			item := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			origins[item] = e.origin
			e.put(item, []string{"address"}, e.value(address))
			all.Content = append(all.Content, item)
		}
		e.put(root, []string{"listeners"}, all)
	}
	if o.Data != "" {
		e.origin = "--data " + o.Data
		e.put(root, []string{"data"}, e.scalar(o.Data))
	}
	for _, set := range o.Set {
		e.origin = "--set " + set
		path, value, ok := strings.Cut(set, "=")
		if !ok || path == "" {
			faults = append(faults, &Error{Origin: e.origin, Text: "is not key.path=value, as in limits.max_packet=1MiB"})
			continue
		}
		if err := e.put(root, strings.Split(path, "."), e.value(value)); err != nil {
			faults = append(faults, &Error{Origin: e.origin, Text: err.Error()})
		}
	}
	return faults
}

// editor makes the changes of one override.
type editor struct {
	origin  string
	origins map[*yaml.Node]string
}

func (e *editor) own(n *yaml.Node) {
	e.origins[n] = e.origin
	for _, c := range n.Content {
		e.own(c)
	}
}

func (e *editor) scalar(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	e.own(n)
	return n
}

// value makes a node of the text behind the "=".
func (e *editor) value(s string) *yaml.Node {
	if strings.HasPrefix(s, "[") || strings.HasPrefix(s, "{") {
		// [::1]:1883 begins with a bracket, too, and is no YAML.
		if n, fault := readTree([]byte(s)); fault == nil {
			e.own(n)
			return n
		}
	}
	return e.scalar(s)
}

// put replaces the node at path below n, and makes the groups and list items on the way that do
// not exist yet.
func (e *editor) put(n *yaml.Node, path []string, value *yaml.Node) error {
	for i, key := range path {
		child, err := e.child(n, key)
		if err != nil {
			return fmt.Errorf("%s %w", strings.Join(path[:i], "."), err)
		}
		if i == len(path)-1 {
			*child = *value
			for _, c := range child.Content {
				e.own(c)
			}
			e.origins[child] = e.origin
			return nil
		}
		if null(child) {
			*child = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			if index(path[i+1]) >= 0 {
				*child = yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			}
			e.origins[child] = e.origin
		}
		n = child
	}
	return nil
}

// child returns the node at key of a mapping or sequence, a new one without value if there is
// none yet.
func (e *editor) child(n *yaml.Node, key string) (*yaml.Node, error) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key && n.Content[i].Kind == yaml.ScalarNode {
				return n.Content[i+1], nil
			}
		}
		v := e.scalar("")
		v.Tag = "!!null"
		n.Content = append(slices.Clip(n.Content), e.scalar(key), v)
		return v, nil
	case yaml.SequenceNode:
		i := index(key)
		switch {
		case i < 0:
			return nil, fmt.Errorf("is a list, and %q is no index; allowed: 0 to %d", key, len(n.Content))
		case i > len(n.Content):
			return nil, fmt.Errorf("has %d items; allowed: index 0 to %[1]d", len(n.Content))
		case i == len(n.Content):
			v := e.scalar("")
			v.Tag = "!!null"
			n.Content = append(slices.Clip(n.Content), v)
		}
		return n.Content[i], nil
	}
	return nil, fmt.Errorf("is %s, there is nothing below it", kindName(n))
}

// index returns key as the index of a list, -1 if it is none.
func index(key string) int {
	i, err := strconv.Atoi(key)
	if err != nil || i < 0 || i > 1_000_000 || key[0] == '+' {
		return -1
	}
	return i
}
