package access

import "strings"

// Covers reports whether every Topic Name that asked matches is matched by allowed, too. Both
// are valid Topic Filters. It is exact, with the rule of [MQTT-4.7.2-1] that wildcards do not
// match a first level that begins with $. It costs one pass through both.
func Covers(allowed, asked string) bool {
	switch asked {
	case "#", "/#":
		// "#" also matches the level above it, but there is no Topic Name without a level, nor
		// an empty one: these match the same names with a level in between.
		asked = strings.TrimSuffix(asked, "#") + "+/#"
	}
	for first := true; ; first = false {
		a, allowedRest, allowedMore := strings.Cut(allowed, "/")
		q, askedRest, askedMore := strings.Cut(asked, "/")
		hidden := first && strings.HasPrefix(q, "$") // from wildcards
		switch {
		case a == "#":
			return !hidden
		case q == "#":
			return false // also matches the level above, and any number of levels
		case a == "+":
			if hidden {
				return false
			}
		case a != q:
			return false
		}
		switch {
		case !askedMore:
			return !allowedMore || allowedRest == "#"
		case !allowedMore:
			return false
		}
		allowed, asked = allowedRest, askedRest
	}
}
