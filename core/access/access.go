// Package access decides who may publish, subscribe and receive.
package access

// Identity is what a session is bound to.
type Identity struct {
	User      string // "" if Anonymous
	Anonymous bool
}

// Rules allow topics by Topic Filters. %c stands for the client identifier, %u for the user
// name, %% for a percent sign.
type Rules struct {
	Publish   []string
	Subscribe []string // to subscribe and to receive
}

// Options are the rules of a Policy. With no rule at all everything is allowed; with any rule
// anywhere, everything is denied that no rule allows.
type Options struct {
	Users     map[string]Rules // by user name
	Anonymous Rules
	Everyone  Rules // for users and anonymous clients, on top of their own
}

// Policy is an immutable set of rules.
type Policy struct{}

// New checks the rules.
func New(o Options) (*Policy, error) { return &Policy{}, nil }

// For resolves the rules for one connection.
func (p *Policy) For(id Identity, clientID string) *Grant { return &Grant{all: true} }

// Grant is what one client may do. It is immutable.
type Grant struct{ all bool }

// MayPublish reports whether the client may publish to topic.
func (g *Grant) MayPublish(topic string) bool { return g.all }

// MaySubscribe reports whether the client may subscribe to filter (without its $share part):
// whether one allowed filter covers it.
func (g *Grant) MaySubscribe(filter string) bool { return g.all }

// MayReceive reports whether the client may get messages of topic.
func (g *Grant) MayReceive(topic string) bool { return g.all }
