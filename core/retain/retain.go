// Package retain keeps the retained messages (MQTT5 §3.3.1.3), one for each topic.
//
// A Store belongs to one goroutine, the loop.
package retain

import "dunlin/core/message"

// Options bound a Store.
type Options struct {
	MaxMessages int   // 0 = DefaultMaxMessages
	MaxBytes    int64 // memory, overhead included; 0 = DefaultMaxBytes
}

// Defaults of Options.
const (
	DefaultMaxMessages       = 100_000
	DefaultMaxBytes    int64 = 16 << 20
)

// Store holds the retained messages.
type Store struct{}

// New returns an empty store.
func New(o Options) *Store { return &Store{} }

// Set makes m the retained message of its topic; an empty payload removes it. It returns false,
// and keeps what was there, when a bound refuses it.
func (s *Store) Set(m *message.Message) (ok bool) { return true }

// Delete removes the retained message of topic.
func (s *Store) Delete(topic string) (existed bool) { return false }

// Get returns the retained message of topic, nil if there is none.
func (s *Store) Get(topic string) *message.Message { return nil }

// Match calls fn for the retained messages whose topics match filter until it returns false.
func (s *Store) Match(filter string, fn func(*message.Message) bool) {}

// Len returns the number of messages.
func (s *Store) Len() int { return 0 }

// Bytes returns the memory that is charged, in bytes.
func (s *Store) Bytes() int64 { return 0 }

// Refused counts what Set refused.
func (s *Store) Refused() uint64 { return 0 }

// Expiring returns how many messages have a Message Expiry Interval: with 0 Sweep has no work.
func (s *Store) Expiring() int { return 0 }

// Sweep asks expired about at most max messages that have an expiry, resuming where it stopped,
// and removes and returns those for which it is true.
func (s *Store) Sweep(expired func(*message.Message) bool, max int) (removed []*message.Message) {
	return nil
}
