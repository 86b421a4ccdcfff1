// Package retain keeps the retained messages (MQTT5 §3.3.1.3), one for each topic, as a tree of
// topic levels.
//
// Children are found through one hash table keyed (parent, level) and linked as siblings, so a
// walk needs no memory and no recursion, however deep a topic is. All memory a message takes,
// its nodes included, is charged against a bound.
//
// A Store belongs to one goroutine, the loop. It does not know the time: whether a message has
// expired is for its caller to say.
package retain

import (
	"unsafe"

	"dunlin/core/message"
)

// Options bound a Store.
type Options struct {
	MaxMessages int   // 0 = DefaultMaxMessages
	MaxBytes    int64 // of memory, overhead included; 0 = DefaultMaxBytes
}

// The defaults of Options: what a gateway of some thousand devices needs, within a quarter of
// the 64 MiB that the process may have.
const (
	DefaultMaxMessages       = 50_000
	DefaultMaxBytes    int64 = 16 << 20
)

// What a message and a level of a topic cost besides their bytes, with their share of the
// tables and of the allocator's rounding.
const (
	messageOverhead = int64(unsafe.Sizeof(message.Message{})) + 64
	nodeOverhead    = int64(unsafe.Sizeof(node{})) + 3*int64(unsafe.Sizeof(uintptr(0)))
)

// Store holds the retained messages.
type Store struct {
	options Options
	tree    tree
	bytes   int64 // charged for messages; nodes come on top
	n       int
	refused uint64

	// The nodes of messages that have an expiry, in the order in which they came until one
	// goes and the last takes its place. sweep is how many of them Sweep has not asked about
	// in this round: it goes from the end to the start, so what moves was asked about already
	// or, at worst, is asked about again.
	expiring []*node
	sweep    int
}

// New returns an empty store.
func New(o Options) *Store {
	if o.MaxMessages == 0 {
		o.MaxMessages = DefaultMaxMessages
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	s := &Store{options: o}
	s.tree.init()
	return s
}

// Set makes m the retained message of its topic; one with an empty payload removes it
// [MQTT-3.3.1-6]. m must not change any more.
//
// It returns false and keeps what was there when m would take the store over a bound. What
// replaces a message without needing more memory is always taken.
func (s *Store) Set(m *message.Message) (ok bool) {
	if len(m.Payload) == 0 {
		s.Delete(m.Topic)
		return true
	}
	n := s.tree.find(m.Topic)
	had := n != nil && n.message != nil
	grows := cost(m)
	if had {
		grows -= cost(n.message)
	} else {
		grows += s.tree.missing(m.Topic)
	}
	if grows > 0 && s.Bytes()+grows > s.options.MaxBytes || !had && s.n >= s.options.MaxMessages {
		s.refused++
		return false
	}
	if n == nil {
		n = s.tree.make(m.Topic)
	}
	if had {
		s.drop(n)
	}
	n.message = m
	s.n++
	s.bytes += cost(m)
	if m.HasExpiry {
		n.expiring = len(s.expiring) + 1
		s.expiring = append(s.expiring, n)
	}
	return true
}

// Delete removes the retained message of topic.
func (s *Store) Delete(topic string) (existed bool) {
	n := s.tree.find(topic)
	if n == nil || n.message == nil {
		return false
	}
	s.drop(n)
	s.tree.prune(n)
	return true
}

// drop takes the message from n.
func (s *Store) drop(n *node) {
	s.n--
	s.bytes -= cost(n.message)
	n.message = nil
	if n.expiring == 0 {
		return
	}
	i, end := n.expiring-1, len(s.expiring)-1
	last := s.expiring[end]
	s.expiring[i], last.expiring = last, i+1
	s.expiring[end] = nil
	s.expiring = s.expiring[:end]
	n.expiring = 0
	s.sweep = min(s.sweep, end)
}

// Get returns the retained message of topic, nil if there is none. It must not be changed.
func (s *Store) Get(topic string) *message.Message {
	if n := s.tree.find(topic); n != nil {
		return n.message
	}
	return nil
}

// Len returns the number of messages.
func (s *Store) Len() int { return s.n }

// Bytes returns the memory that is charged, overhead included.
func (s *Store) Bytes() int64 { return s.bytes + s.tree.bytes }

// Size returns the bytes of the messages themselves, without what it costs to keep them.
func (s *Store) Size() int64 { return s.bytes - int64(s.n)*messageOverhead }

// Refused returns how many messages Set has refused.
func (s *Store) Refused() uint64 { return s.refused }

// Expiring returns how many messages have a Message Expiry Interval. While it is 0 there is
// nothing to sweep.
func (s *Store) Expiring() int { return len(s.expiring) }

// Sweep asks expired about at most max messages that have a Message Expiry Interval, removes
// those for which it is true and returns them. The next call goes on where this one stopped: a
// message that stays is asked about in each round. expired must not call the store.
func (s *Store) Sweep(expired func(*message.Message) bool, max int) (removed []*message.Message) {
	for range min(max, len(s.expiring)) {
		if s.sweep == 0 {
			s.sweep = len(s.expiring)
		}
		s.sweep--
		n := s.expiring[s.sweep]
		if m := n.message; expired(m) {
			s.drop(n)
			s.tree.prune(n)
			removed = append(removed, m)
		}
	}
	return removed
}

// cost returns what m is charged, in bytes, without its nodes.
func cost(m *message.Message) int64 {
	return messageOverhead + int64(len(m.Topic)+len(m.Payload)+len(m.Properties)+len(m.Publisher)+len(m.Source))
}
