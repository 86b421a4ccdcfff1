// Package access decides who may publish to, subscribe to and receive from which topics. One
// Policy holds the rules, a Grant what they mean for one client; both are immutable and may be
// shared between goroutines.
package access

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"dunlin/core/topic"
)

// Identity is who a client has proven to be; its session is bound to it.
type Identity struct {
	User      string // "" if Anonymous
	Anonymous bool
}

// Rules allow topics by Topic Filters. In a filter %c stands for the client identifier, %u for
// the user name and %% for a percent sign, also as part of a level.
//
// A client for which the value has +, #, / or a control character in it, or is empty, or would
// make the filter begin with $, does not have that rule: no client can name itself into the
// topics of others. Nor does an anonymous client have a rule with %u.
type Rules struct {
	Publish   []string
	Subscribe []string // to subscribe, and to receive
}

// Options are the rules of a Policy.
//
// Without any rule everything is allowed. As soon as there is one rule, for whomever, everything
// is denied that no rule allows.
//
// A rule of "#" does not concern topics that begin with $: they need rules of their own, such as
// "$SYS/#".
type Options struct {
	Users     map[string]Rules // by user name
	Anonymous Rules            // for clients without a user name
	Everyone  Rules            // for both, on top of their own
}

// Policy is a checked set of rules.
type Policy struct {
	open      bool // there are no rules
	users     map[string]*compiled
	anonymous *compiled
	everyone  *compiled // for users who have no rules of their own
}

// compiled are the rules for one user, those for everyone included.
type compiled struct {
	publish, subscribe []Template
	fixed              *Grant // if no rule has a placeholder
}

// New checks the rules. Its errors name the user, the list and the filter.
func New(o Options) (*Policy, error) {
	p := &Policy{users: make(map[string]*compiled, len(o.Users))}
	var errs []error
	rules := len(o.Everyone.Publish) + len(o.Everyone.Subscribe)
	add := func(who string, r Rules) *compiled {
		rules += len(r.Publish) + len(r.Subscribe)
		c, err := compile(who, r, o.Everyone)
		errs = append(errs, err)
		return c
	}
	var err error
	p.everyone, err = compile("everyone", o.Everyone, Rules{})
	if err != nil {
		return nil, err // once, not for each user again
	}
	p.anonymous = add("anonymous", o.Anonymous)
	for _, user := range slices.Sorted(maps.Keys(o.Users)) {
		if user == "" {
			errs = append(errs, errors.New("access: a user has an empty name; clients without a name go under anonymous"))
		}
		p.users[user] = add(fmt.Sprintf("user %q", user), o.Users[user])
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p.open = rules == 0
	return p, nil
}

// compile joins r and everyone.
func compile(who string, r, everyone Rules) (*compiled, error) {
	var errs []error
	parse := func(list string, filters ...[]string) (all []Template) {
		for _, filter := range slices.Concat(filters...) {
			t, err := ParseTemplate(filter)
			if err != nil {
				errs = append(errs, fmt.Errorf("access: %s: %s: %q: %w", who, list, filter, err))
			}
			all = append(all, t)
		}
		return all
	}
	c := &compiled{
		publish:   parse("publish", r.Publish, everyone.Publish),
		subscribe: parse("subscribe", r.Subscribe, everyone.Subscribe),
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(slices.Concat(c.publish, c.subscribe), Template.hasPlaceholder) {
		c.fixed = c.resolve("", "")
	}
	return c, nil
}

// allowAll is the Grant of every client where there are no rules.
var allowAll = &Grant{all: true}

// For resolves the rules for one client, once per connection. Clients for whom no rule has a
// placeholder share a Grant.
func (p *Policy) For(id Identity, clientID string) *Grant {
	if p.open {
		return allowAll
	}
	c := p.anonymous
	if !id.Anonymous {
		if c = p.users[id.User]; c == nil {
			c = p.everyone
		}
	}
	if c.fixed != nil {
		return c.fixed
	}
	return c.resolve(id.User, clientID)
}

func (c *compiled) resolve(user, clientID string) *Grant {
	fill := func(templates []Template) (filters []string) {
		for _, t := range templates {
			if filter, ok := t.Fill(user, clientID); ok {
				filters = append(filters, filter)
			}
		}
		return filters
	}
	return &Grant{publish: fill(c.publish), subscribe: fill(c.subscribe)}
}

// Grant is what one client may do. Its methods do not allocate; their cost is linear in the
// client's rules, or one test of a flag where there are no rules at all.
type Grant struct {
	all                bool
	publish, subscribe []string
}

// All reports whether everything is allowed.
func (g *Grant) All() bool { return g.all }

// MayPublish reports whether the client may publish to a Topic Name.
func (g *Grant) MayPublish(name string) bool { return g.all || matches(g.publish, name) }

// MayReceive reports whether the client may get messages of a Topic Name. What MaySubscribe has
// allowed it may, but its rules may have changed since.
func (g *Grant) MayReceive(name string) bool { return g.all || matches(g.subscribe, name) }

// MaySubscribe reports whether the client may subscribe to a Topic Filter: whether one rule
// allows every topic that the filter matches; rules that do so only together do not count. Of a
// shared subscription filter is the part behind the share name.
func (g *Grant) MaySubscribe(filter string) bool {
	if g.all {
		return true
	}
	for _, allowed := range g.subscribe {
		if Covers(allowed, filter) {
			return true
		}
	}
	return false
}

func matches(filters []string, name string) bool {
	for _, filter := range filters {
		if topic.Matches(filter, name) {
			return true
		}
	}
	return false
}

// Template is a Topic Filter with the placeholders %c, the client identifier, and %u, the user name; %%
// is a percent sign. It is cut into what stands around them: parts[0],
// the value of marks[0], parts[1], and so on.
type Template struct {
	parts []string
	marks []byte // 'c' or 'u'
}

// ParseTemplate checks a template. Its errors say what is wrong, not where.
func ParseTemplate(filter string) (Template, error) {
	var t Template
	part := ""
	for rest := filter; ; {
		text, behind, found := strings.Cut(rest, "%")
		part += text
		if !found {
			break
		}
		switch {
		case strings.HasPrefix(behind, "%"):
			part += "%"
		case strings.HasPrefix(behind, "c"), strings.HasPrefix(behind, "u"):
			t.parts, t.marks = append(t.parts, part), append(t.marks, behind[0])
			part = ""
		default:
			return t, errors.New("a percent sign must be %c (client identifier), %u (user name) or %% (itself)")
		}
		rest = behind[1:]
	}
	t.parts = append(t.parts, part)
	sample := strings.Join(t.parts, "x")
	if group, _, shared, err := topic.Shared(sample); shared || err != nil {
		return t, fmt.Errorf("this is for plain topics: leave out $share and the share name %q", group)
	}
	if err := topic.CheckFilter([]byte(sample)); err != nil {
		return t, fmt.Errorf("not a topic filter: %w", err)
	}
	return t, nil
}

func (t Template) hasPlaceholder() bool { return len(t.marks) > 0 }

// Fill puts in the values. ok is false if one of them may not be put in, because it is empty, is more
// than one level or has a wildcard or a control character, or if the result is no Topic Filter: a name
// that a client chose gives it no topic but those of its level.
func (t Template) Fill(user, clientID string) (filter string, ok bool) {
	if len(t.marks) == 0 {
		return t.parts[0], true
	}
	var b strings.Builder
	b.WriteString(t.parts[0])
	for i, mark := range t.marks {
		value := clientID
		if mark == 'u' {
			value = user
		}
		if value == "" || strings.ContainsAny(value, "+#/") || strings.ContainsFunc(value, unicode.IsControl) {
			return "", false
		}
		b.WriteString(value)
		b.WriteString(t.parts[i+1])
	}
	filter = b.String()
	if strings.HasPrefix(filter, "$") && !strings.HasPrefix(t.parts[0], "$") {
		return "", false
	}
	return filter, topic.CheckFilter([]byte(filter)) == nil
}
