package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// unit is a unit of a size or a duration and what it is in bytes or nanoseconds.
type unit struct {
	name  string
	value int64
}

// From small to large. The first name of equal values is the one that is written.
var (
	durationUnits = []unit{
		{"ms", int64(time.Millisecond)},
		{"s", int64(time.Second)},
		{"m", int64(time.Minute)},
		{"h", int64(time.Hour)},
		{"d", 24 * int64(time.Hour)},
		{"w", 7 * 24 * int64(time.Hour)},
	}
	sizeUnits = []unit{
		{"B", 1},
		{"kB", 1000},
		{"KB", 1000},
		{"KiB", KiB},
		{"MB", 1000 * 1000},
		{"MiB", MiB},
		{"GB", 1000 * 1000 * 1000},
		{"GiB", GiB},
	}
	// writtenSizes are the units that sizes are written in.
	writtenSizes = []unit{{"B", 1}, {"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}}
)

var (
	errNoUnit      = errors.New("the unit is missing")
	errUnknownUnit = errors.New("the unit is unknown")
	errNoNumber    = errors.New("it does not start with a whole number")
	errTooLarge    = errors.New("it is too large")
)

// ParseDuration reads "10s", "7d" or "1h30m". The units are ms, s, m, h, d (24 hours) and w; a
// bare 0 needs none.
func ParseDuration(s string) (time.Duration, error) {
	n, err := parseUnits(s, durationUnits, true)
	return time.Duration(n), err
}

// ParseSize reads "512B", "256KiB" or "1GiB" and returns bytes. KB, MB and GB are powers of 1000,
// KiB, MiB and GiB of 1024; a bare 0 needs no unit.
func ParseSize(s string) (int64, error) {
	return parseUnits(s, sizeUnits, false)
}

// parseUnits reads a number with its unit, and several in a row if sum is set.
func parseUnits(s string, units []unit, sum bool) (int64, error) {
	if s == "0" {
		return 0, nil
	}
	var total int64
	for first := true; s != "" || first; first = false {
		digits := 0
		for digits < len(s) && '0' <= s[digits] && s[digits] <= '9' {
			digits++
		}
		if digits == 0 {
			return 0, errNoNumber
		}
		n, err := strconv.ParseInt(s[:digits], 10, 64)
		if err != nil {
			return 0, errTooLarge
		}
		s = strings.TrimLeft(s[digits:], " ")
		name := s
		if sum {
			name = s[:len(s)-len(strings.TrimLeft(s, "abcdefghijklmnopqrstuvwxyz"))]
		}
		s = s[len(name):]
		if name == "" {
			return 0, errNoUnit
		}
		u, ok := find(units, name)
		if !ok {
			return 0, errUnknownUnit
		}
		if n > (math.MaxInt64-1-total)/u.value { // MaxInt64 itself is Never
			return 0, errTooLarge
		}
		total += n * u.value
	}
	return total, nil
}

func find(units []unit, name string) (unit, bool) {
	for _, u := range units {
		if u.name == name {
			return u, true
		}
	}
	return unit{}, false
}

// FormatDuration writes a duration as ParseDuration reads it, in the largest unit that fits.
func FormatDuration(d time.Duration) string {
	if d == Never {
		return "never"
	}
	return format(int64(d), durationUnits[:5]) // nobody thinks of 14d as 2w
}

// FormatSize writes a size as ParseSize reads it, in the largest unit that fits.
func FormatSize(n int64) string {
	return format(n, writtenSizes)
}

func format(n int64, units []unit) string {
	if n == 0 {
		return "0"
	}
	for i := len(units) - 1; i > 0; i-- {
		if n%units[i].value == 0 {
			return strconv.FormatInt(n/units[i].value, 10) + units[i].name
		}
	}
	return strconv.FormatInt(n/units[0].value, 10) + units[0].name
}
