// Package route finds the receivers of an Application Message: an index of subscriptions by
// Topic Filter (MQTT5 §4.7) and a cache of what it found by Topic Name.
//
// An Index and its caches belong to one goroutine, the loop.
package route

// Receiver is a dense small number for whoever takes messages: a session, an outbox or a peer.
// The broker's table gives it its meaning.
type Receiver uint32

// Options are the options of one subscription (MQTT5 §3.8.3.1) and its Subscription Identifier.
type Options struct {
	QoS               byte // 0, 1 or 2
	NoLocal           bool
	RetainAsPublished bool
	ID                uint32 // Subscription Identifier, 1 to 268,435,455; 0 = none
}

// Match is one receiver of a topic with all its matching subscriptions merged.
type Match struct {
	Receiver          Receiver
	QoS               byte // the highest of the matching subscriptions
	NoLocal           bool // every matching subscription says so
	RetainAsPublished bool // one of the matching subscriptions with the highest QoS says so
	// OwnDiffers: some matching subscriptions are NoLocal, others are not. For a message that
	// the receiver published itself only the others count: ask Index.Own.
	OwnDiffers bool
	IDs        []uint32 // the identifiers of all matching subscriptions that have one; nil if none has
}

// Index holds the subscriptions.
type Index struct{}

// New returns an empty index.
func New() *Index { return &Index{} }

// Subscribe adds a subscription of r or replaces the one with the same filter.
func (x *Index) Subscribe(filter string, r Receiver, o Options) (replaced bool) { return false }

// Unsubscribe removes a subscription.
func (x *Index) Unsubscribe(filter string, r Receiver) (existed bool) { return false }

// Len returns the number of subscriptions.
func (x *Index) Len() int { return 0 }

// Observe has fn called when the first subscription of a filter appears and when its last goes.
func (x *Index) Observe(fn func(filter string, added bool)) {}

// Match appends the receivers of topic to dst, each once.
func (x *Index) Match(topic []byte, dst []Match) []Match { return dst }

// Own returns what holds for a message that r published itself: only subscriptions of r count
// that are not NoLocal [MQTT-3.8.3-3].
func (x *Index) Own(topic []byte, r Receiver) (m Match, ok bool) { return m, false }

// Route is what a Cache knows of a topic.
type Route struct {
	Topic   string  // a copy that may be kept
	Matches []Match // as of now; not to be changed
	// Note is the caller's: what it found out about the topic, such as the result of its checks.
	// It is nil when the topic is new here and again when subscriptions changed.
	Note any
}

// Cache remembers routes by topic.
type Cache struct{ x *Index }

// NewCache returns an empty cache over x.
func NewCache(x *Index, maxReferences int) *Cache { return &Cache{x} }

// Match returns the receivers of topic; the result is valid until the next call.
func (c *Cache) Match(topic []byte) []Match { return c.Lookup(topic).Matches }

// Lookup returns the route of topic; the result is valid until the next call.
func (c *Cache) Lookup(topic []byte) *Route {
	return &Route{Topic: string(topic), Matches: c.x.Match(topic, nil)}
}
