package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxErrors is how many errors are reported of one file: somebody who feeds us a file of another
// program wants to hear so, not all of it.
const maxErrors = 50

// Error is one fault of a configuration.
type Error struct {
	File   string // as it was named; "" for an override
	Line   int    // counted from 1; 0 = the file as a whole
	Column int    // counted from 1, in characters
	Origin string // the override at fault as it was given, "--set a.b=c"; "" = the file
	Text   string // what is wrong, and what is allowed
}

// Error returns "file:line:column: text" or "override: text".
func (e *Error) Error() string {
	switch {
	case e.Origin != "":
		return e.Origin + ": " + e.Text
	case e.Line == 0 && e.File == "":
		return e.Text
	case e.Line == 0:
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// Errors are all faults of a configuration in the order in which they stand in the file, those
// of overrides behind. It is never empty.
type Errors []*Error

// Error returns one line for each error.
func (e Errors) Error() string {
	var b strings.Builder
	for i, one := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(one.Error())
	}
	return b.String()
}

// sorted brings errors into the order of the file and cuts what is too much.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(
			strings.Compare(a.Origin, b.Origin),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
		)
	})
	if len(e) > maxErrors {
		more := len(e) - maxErrors
		e = append(e[:maxErrors:maxErrors], &Error{
			File: e[0].File, Text: fmt.Sprintf("and %d more errors", more),
		})
	}
	return e
}

// nearest returns the candidate that word is a slip of, "" if none is close.
func nearest(word string, candidates []string) string {
	best, distance := "", 1+len(word)/3 // one slip in a short word, more in a long one
	for _, c := range candidates {
		if d := slips(word, c); d <= distance && d < len(c) {
			if best == "" || d < distance {
				best, distance = c, d
			}
		}
	}
	return best
}

// slips is the number of typing errors between a and b: a byte too many, missing, wrong, or two
// swapped (the optimal string alignment distance).
func slips(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b) // no key is that long
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			wrong := 1
			if a[i-1] == b[j-1] {
				wrong = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+wrong)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
