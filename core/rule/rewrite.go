package rule

import (
	"fmt"
	"slices"
	"strings"

	"dunlin/core/topic"
)

// Rewrite replaces topics that clients use by others. It has the form of a Rule, and a level $1, $2 …
// of To stands for what the first, second … "+" of From matched:
//
//	from               to                 topic or filter       becomes
//	old/+/temp         new/$1/temp        old/7/temp            new/7/temp
//	old/+/temp         new/$1/temp        old/+/temp            new/+/temp
//	+/dev/+/#          dev/$2/$1/#        a/dev/b/c/d           dev/b/a/c/d
//	cmd/#              sites/a/cmd/#      cmd/#                 sites/a/cmd/#
//
// What is captured is always a whole level, so that a Topic Filter stays one.
type Rewrite struct {
	From      string // Topic Filter (MQTT5 §4.7)
	To        string
	Publish   bool // for the topics of messages and wills
	Subscribe bool // for the filters of SUBSCRIBE and UNSUBSCRIBE
}

// reservedLevels are first levels that the broker understands by itself; nothing can be rewritten to it.
var reservedLevels = []string{"$SYS", "$share", "$queue", "$delayed"}

// Reserved says whether a topic or filter begins with a level that the broker understands by itself.
func Reserved(name string) bool {
	return slices.Contains(reservedLevels, firstLevel(name))
}

// Validate reports what is wrong with a rule, and what to do about it. Apply may be called only on
// one for which it returned nil.
func (r Rewrite) Validate() error {
	switch {
	case r.To == "":
		return fmt.Errorf(`rewrite: to is missing: name the topic to use instead, for example "new/$1/#"`)
	case !r.Publish && !r.Subscribe:
		return fmt.Errorf("rewrite: from %q is for nothing: it must be for publish, subscribe or both", r.From)
	case Reserved(r.From):
		return fmt.Errorf("rewrite: from %q: topics that the broker understands by itself ($SYS, $share, $queue, $delayed) are not rewritten; "+
			"rules see the topic behind $delayed/SECONDS and behind a share name", r.From)
	case Reserved(r.To):
		return fmt.Errorf("rewrite: to %q: nothing can be rewritten to $SYS, $share, $queue or $delayed", r.To)
	}
	plain := strings.Split(r.To, "/")
	captures := 0
	for level := range topic.Levels(r.From) {
		if level == "+" {
			captures++
		}
	}
	for i, level := range plain {
		n, ok := capture(level)
		if !ok {
			if looksLikeCapture(level) {
				return fmt.Errorf("rewrite: to %q has %q: $1, $2 … stand for whole levels, from $1 on, and have nothing beside them", r.To, level)
			}
			continue
		}
		if n > captures {
			return fmt.Errorf(`rewrite: to %q has $%d, but from %q has %d "+"`, r.To, n, r.From, captures)
		}
		plain[i] = "x"
	}
	if strings.Contains(r.To, "+") {
		return fmt.Errorf(`rewrite: to %q has a "+": write $1 for what the first "+" of from matched, $2 for the second`, r.To)
	}
	return Rule{From: r.From, To: strings.Join(plain, "/")}.Validate()
}

// looksLikeCapture says whether a level has a $1 inside, or a $0, which nobody means as text.
func looksLikeCapture(level string) bool {
	for i := 1; i < len(level); i++ {
		if level[i-1] == '$' && level[i] >= '0' && level[i] <= '9' {
			return true
		}
	}
	return false
}

// capture returns the number of a level such as $1.
func capture(level string) (n int, ok bool) {
	if len(level) < 2 || level[0] != '$' {
		return 0, false
	}
	for _, c := range []byte(level[1:]) {
		if c < '0' || c > '9' || n > topic.MaxLength {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, n > 0
}

// Apply returns what a Topic Name or Topic Filter becomes; ok is false if the rule does not take it.
// A filter is taken if the rule takes every topic that it matches, so a wildcard of it must stand
// where From has one. A rule takes nothing that would become no topic, or one that begins with "$"
// where To does not: what a client sends must not turn into a topic of the broker's.
func (r Rewrite) Apply(name string) (newName string, ok bool) {
	if name[0] == '$' && (r.From[0] == '+' || r.From[0] == '#') {
		return "", false // [MQTT-4.7.2-1]
	}
	var captured []string
	rest, some := name, true // what is left of name; whether a level is
	for level := range topic.Levels(r.From) {
		if level == "#" {
			return r.build(captured, rest, some)
		}
		if !some {
			return "", false
		}
		var have string
		have, rest, some = strings.Cut(rest, "/")
		switch {
		case level == "+" && have != "#":
			captured = append(captured, have)
		case level != have:
			return "", false
		}
	}
	if some {
		return "", false
	}
	return r.build(captured, "", false)
}

// build puts together what To says; rest is what "#" stands for, if some says that it does for anything.
func (r Rewrite) build(captured []string, rest string, some bool) (string, bool) {
	var b strings.Builder
	first := true
	add := func(level string) {
		if !first {
			b.WriteByte('/')
		}
		first = false
		b.WriteString(level)
	}
	for level := range topic.Levels(r.To) {
		n, isCapture := capture(level)
		switch {
		case isCapture:
			add(captured[n-1])
		case level == "#":
			if some {
				add(rest)
			}
		default:
			add(level)
		}
	}
	s := b.String()
	if s == "" || len(s) > topic.MaxLength {
		return "", false
	}
	if _, captured := capture(firstLevel(r.To)); s[0] == '$' && (r.To[0] != '$' || captured) {
		return "", false // what the client sent has made it so
	}
	return s, true
}

func firstLevel(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// Rewrites is an ordered list of rules. The first one that takes a topic decides, and what it makes
// of it is not looked at again: there are no loops.
type Rewrites []Rewrite

// Validate reports the first rule that is wrong, with its number counted from 1.
func (s Rewrites) Validate() error {
	for i, r := range s {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("rewrite rule %d: %w", i+1, err)
		}
	}
	return nil
}

// Publish returns what the topic of a message becomes; ok is false if no rule takes it.
func (s Rewrites) Publish(name string) (newName string, ok bool) {
	for i := range s {
		if s[i].Publish {
			if newName, ok := s[i].Apply(name); ok {
				return newName, true
			}
		}
	}
	return "", false
}

// Subscribe returns what the Topic Filter of a subscription becomes; ok is false if no rule takes it.
func (s Rewrites) Subscribe(filter string) (newFilter string, ok bool) {
	for i := range s {
		if s[i].Subscribe {
			if newFilter, ok := s[i].Apply(filter); ok {
				return newFilter, true
			}
		}
	}
	return "", false
}
