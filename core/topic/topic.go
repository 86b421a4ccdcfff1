// Package topic checks, splits and matches Topic Names and Topic Filters (MQTT5 §4.7, §4.8.2;
// MQTT3 §4.7).
//
// A Topic Name is what a message is published to, a Topic Filter what a subscription asks for;
// both are levels separated by "/", and a level may be empty. Nothing is normalised: "a", "/a"
// and "a/" are three names [MQTT-4.7.3-4].
//
// Every function is linear in the length of its input, whatever the number of levels, and does
// not allocate.
package topic

import (
	"bytes"
	"encoding/binary"
	"iter"
	"strings"
	"unicode/utf8"
)

// MaxLength is the longest Topic Name or Topic Filter, in bytes of UTF-8 [MQTT-4.7.3-3].
const MaxLength = 65535

// Error says why a Topic Name or Topic Filter is not valid. The functions of this package
// return the variables below and no others, so a caller may compare with ==.
type Error struct {
	Detail string // fixed, lower case
}

func (e *Error) Error() string { return "topic: " + e.Detail }

// The faults. In MQTT 5.0 the first two are a Malformed Packet wherever a UTF-8 Encoded String
// stands; the others depend on the packet.
var (
	ErrNotUTF8  = &Error{"not well-formed UTF-8"}                 // [MQTT-1.5.4-1]
	ErrNull     = &Error{"contains the null character"}           // [MQTT-1.5.4-2], [MQTT-4.7.3-2]
	ErrEmpty    = &Error{"empty"}                                 // [MQTT-4.7.3-1]
	ErrTooLong  = &Error{"longer than 65535 bytes"}               // [MQTT-4.7.3-3]
	ErrWildcard = &Error{"wildcard in a topic name"}              // [MQTT-3.3.2-2], [MQTT-4.7.0-1]
	ErrMulti    = &Error{"# is not the last level on its own"}    // [MQTT-4.7.1-1]
	ErrSingle   = &Error{"+ is not a level on its own"}           // [MQTT-4.7.1-2]
	ErrGroup    = &Error{"share name is empty or has a wildcard"} // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
	ErrShared   = &Error{"no topic filter behind the share name"} // [MQTT-4.8.2-2]
)

// sharePrefix begins the Topic Filter of a Shared Subscription. "$share" alone does not.
// "$queue/{rest}" is another way to write "$share/$queue/{rest}".
const (
	sharePrefix = "$share/"
	queueGroup  = "$queue"
)

// CheckName reports whether b is a Topic Name: 1 to 65,535 bytes of well-formed UTF-8 without
// the null character and without a wildcard. It returns nil, ErrEmpty, ErrTooLong, ErrNotUTF8,
// ErrNull or ErrWildcard. Plain ASCII is checked eight bytes at a time.
func CheckName(b []byte) error {
	if len(b) == 0 {
		return ErrEmpty
	}
	if len(b) > MaxLength {
		return ErrTooLong
	}
	if plain(b) {
		return nil
	}
	if err := checkString(b); err != nil {
		return err
	}
	if bytes.IndexByte(b, '+') >= 0 || bytes.IndexByte(b, '#') >= 0 {
		return ErrWildcard
	}
	return nil
}

// CheckFilter reports whether b is a Topic Filter: as CheckName, but with the wildcards + as a
// whole level and # as the whole last level. It returns nil, ErrEmpty, ErrTooLong, ErrNotUTF8,
// ErrNull, ErrMulti or ErrSingle.
//
// It knows nothing of Shared Subscriptions, where "$share" and the share name would pass as
// levels: try Shared first.
func CheckFilter(b []byte) error {
	if len(b) == 0 {
		return ErrEmpty
	}
	if len(b) > MaxLength {
		return ErrTooLong
	}
	if plain(b) {
		return nil
	}
	if err := checkString(b); err != nil {
		return err
	}
	for i, c := range b {
		if c != '+' && c != '#' {
			continue
		}
		first := i == 0 || b[i-1] == '/'
		last := i == len(b)-1
		if c == '#' && (!first || !last) {
			return ErrMulti
		}
		if c == '+' && (!first || !last && b[i+1] != '/') {
			return ErrSingle
		}
	}
	return nil
}

// ValidString reports whether b may stand in a UTF-8 Encoded String of any kind (MQTT5 §1.5.4):
// well-formed, no surrogates, no overlong forms, no null character. A byte order mark is a
// character like others [MQTT-1.5.4-3], and control characters, which the specification only
// advises against, pass.
func ValidString(b []byte) bool {
	return len(b) == 0 || plain(b) || checkString(b) == nil
}

// Shared takes the Topic Filter of a Shared Subscription apart (MQTT5 §4.8.2):
// "$share/{group}/{rest}", or "$queue/{rest}", which is the group "$queue". ok says whether filter
// begins with "$share/" or "$queue/"; if it does not, group,
// rest and err are empty and filter is to be checked as any other. Otherwise err is nil if group
// is a share name and rest passes CheckFilter, or else ErrGroup, ErrShared or what CheckFilter
// found, ErrTooLong for the whole included.
func Shared(filter string) (group, rest string, ok bool, err error) {
	tail, ok := strings.CutPrefix(filter, sharePrefix)
	if !ok {
		if !strings.HasPrefix(filter, queueGroup+"/") {
			return "", "", false, nil
		}
		tail = filter
	}
	if len(filter) > MaxLength {
		return "", "", true, ErrTooLong
	}
	group, rest, _ = strings.Cut(tail, "/")
	if err := checkString([]byte(group)); err != nil {
		return "", "", true, err
	}
	if group == "" || strings.ContainsAny(group, "+#") {
		return "", "", true, ErrGroup
	}
	if rest == "" {
		return "", "", true, ErrShared
	}
	if err := CheckFilter([]byte(rest)); err != nil {
		return "", "", true, err
	}
	return group, rest, true, nil
}

// Matches reports whether the Topic Filter matches the Topic Name, level by level (MQTT5 §4.7).
// "a/#" matches "a", too. A filter that begins with a wildcard matches no name that begins with
// "$" [MQTT-4.7.2-1]. Both must have passed their check, and a shared filter must have been
// taken apart; if not, the answer means nothing, but it comes.
func Matches(filter, name string) bool {
	if filter == "" || name == "" {
		return false
	}
	if name[0] == '$' && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	at := 0 // in name
	for i := 0; i < len(filter); i++ {
		switch c := filter[i]; {
		case c == '#':
			return true
		case c == '+':
			for at < len(name) && name[at] != '/' {
				at++
			}
		case at == len(name):
			return filter[i:] == "/#" // the parent level
		case c != name[at]:
			return false
		default:
			at++
		}
	}
	return at == len(name)
}

// Levels yields the levels of a Topic Name or Topic Filter in order, empty ones included: at
// least one, and one more than there are separators.
func Levels(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			level, rest, more := strings.Cut(name, "/")
			if !yield(level) || !more {
				return
			}
			name = rest
		}
	}
}

func checkString(b []byte) error {
	if bytes.IndexByte(b, 0) >= 0 {
		return ErrNull
	}
	if !utf8.Valid(b) {
		return ErrNotUTF8
	}
	return nil
}

// plain reports whether b is ASCII without the null character, + and #, eight bytes at a time.
// Nearly every topic is, and then nothing else needs a look. b is not empty.
func plain(b []byte) bool {
	switch n := len(b); {
	case n < 4: // first, middle and last byte are all there are
		const filling = 'a' << 24 * (1 + 1<<8 + 1<<16 + 1<<24 + 1<<32)
		return suspicion(filling|uint64(b[n-1])<<16|uint64(b[n/2])<<8|uint64(b[0])) == 0
	case n < 8:
		return suspicion(uint64(binary.LittleEndian.Uint32(b))<<32|uint64(binary.LittleEndian.Uint32(b[n-4:]))) == 0
	}
	// The tail first, with some bytes that are seen again, and then whole words.
	bad := suspicion(binary.LittleEndian.Uint64(b[len(b)-8:]))
	for len(b) > 8 {
		bad |= suspicion(binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	return bad == 0
}

// suspicion is not 0 if one of eight bytes is 0, +, # or not ASCII. (x-ones)&^x has the high bit
// of a byte set if it is the lowest zero byte of x; + and # differ in bit 3 only, so with that
// bit set one comparison finds both.
func suspicion(x uint64) uint64 {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	wild := (x | 0x08*ones) ^ '+'*ones
	return (x | (x-ones)&^x | (wild-ones)&^wild) & highs
}
