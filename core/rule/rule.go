// Package rule selects Application Messages by topic and says under which topic they go on: up
// an uplink, down from one.
//
// A rule has a Topic Filter and, if the topic changes on the way, what it changes to. A "#" at
// the end of To stands for what the "#" at the end of From matched:
//
//	from           to                 topic          goes on as
//	plant/#                           plant/a/temp   plant/a/temp
//	plant/#        sites/a/plant/#    plant/a/temp   sites/a/plant/a/temp
//	plant/#        sites/a/#          plant          sites/a
//	line/+/alarm   alarms             line/7/alarm   alarms
package rule

import (
	"fmt"
	"strings"

	"dunlin/core/topic"
)

// Rule is one way of messages. It is immutable once it has passed Validate.
type Rule struct {
	From string // Topic Filter (MQTT5 §4.7) that a message's topic must match
	// To is the topic it goes on with; "" keeps the topic. If it ends in the level "#", that
	// stands for what the "#" of From matched. It has no other wildcard.
	To string
	// QoS is the highest quality of service with which it goes on: a message published with a
	// lower one keeps its own.
	QoS byte
}

// Validate reports what is wrong with a rule, and what to do about it. Apply may be called
// only on a rule for which it returned nil.
func (r Rule) Validate() error {
	if r.From == "" {
		return fmt.Errorf(`rule: from is missing: name the topics to take, for example "plant/#"`)
	}
	if _, _, shared, _ := topic.Shared(r.From); shared {
		return fmt.Errorf("rule: from %q is a shared subscription: a rule takes a plain topic filter, leave out $share and the group", r.From)
	}
	if err := topic.CheckFilter([]byte(r.From)); err != nil {
		return fmt.Errorf(`rule: from %q is no topic filter (%w): "+" stands for one whole level, "#" only at the end for all the rest`, r.From, err)
	}
	if r.QoS > 2 {
		return fmt.Errorf("rule: from %q: qos is %d: it must be 0, 1 or 2", r.From, r.QoS)
	}
	if r.To == "" {
		return nil
	}
	prefix, rest := cutRest(r.To)
	if strings.ContainsAny(prefix, "+#") {
		return fmt.Errorf(`rule: to %q has a wildcard inside: only a "#" at the end is replaced, by what the "#" of from matched`, r.To)
	}
	if rest {
		if _, ok := cutRest(r.From); !ok {
			return fmt.Errorf(`rule: to %q ends in "#", but from %q does not: end both in "#", or neither`, r.To, r.From)
		}
	}
	if !rest || prefix != "" {
		if err := topic.CheckName([]byte(prefix)); err != nil {
			return fmt.Errorf("rule: to %q cannot become a topic name (%w)", r.To, err)
		}
	}
	return nil
}

// Apply returns the topic under which a message on name goes on. ok is false if the rule does
// not take it: From does not match, or what remains is no Topic Name, because it is empty or
// longer than 65,535 bytes. It allocates only if the topic changes.
func (r Rule) Apply(name string) (newTopic string, ok bool) {
	if !topic.Matches(r.From, name) {
		return "", false
	}
	if r.To == "" {
		return name, true
	}
	prefix, rest := cutRest(r.To)
	if !rest {
		return r.To, true
	}
	tail, some := behindRest(r.From, name)
	switch {
	case !some:
		newTopic = prefix
	case r.To == "#":
		newTopic = tail
	default:
		newTopic = prefix + "/" + tail
	}
	if newTopic == "" || len(newTopic) > topic.MaxLength {
		return "", false
	}
	return newTopic, true
}

// Set is an ordered list of rules: the first one that takes a message decides.
type Set []Rule

// Validate reports the first rule that is wrong, with its number counted from 1.
func (s Set) Validate() error {
	for i, r := range s {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return nil
}

// Filters returns the Topic Filters of the rules, each once, in order.
func (s Set) Filters() []string {
	filters := make([]string, 0, len(s))
	seen := make(map[string]bool, len(s))
	for _, r := range s {
		if !seen[r.From] {
			seen[r.From] = true
			filters = append(filters, r.From)
		}
	}
	return filters
}

// Apply returns the topic and the highest quality of service that the first matching rule
// gives to a message on name, or false if none takes it.
func (s Set) Apply(name string) (newTopic string, qos byte, ok bool) {
	for _, r := range s {
		if newTopic, ok := r.Apply(name); ok {
			return newTopic, r.QoS, true
		}
	}
	return "", 0, false
}

// cutRest splits the "#" level off a filter: "a/b/#" is "a/b" and true, "#" is "" and true.
func cutRest(filter string) (prefix string, rest bool) {
	if filter == "#" {
		return "", true
	}
	return strings.CutSuffix(filter, "/#")
}

// behindRest returns the part of name that the "#" at the end of filter stands for, which
// matches name. some is false if it stands for nothing: "a/#" matches "a", too (MQTT5 §4.7.1.2).
func behindRest(filter, name string) (tail string, some bool) {
	for range strings.Count(filter, "/") {
		var more bool
		if _, name, more = strings.Cut(name, "/"); !more {
			return "", false
		}
	}
	return name, true
}
