// Package order looks at the system calls of the broker, to see that no acknowledgement leaves
// before what it promises is on disk: not as the program tells it, but as the kernel was asked.
package order

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// call is one system call, with where it began and ended among the lines of a trace.
type call struct {
	name  string
	args  string // of the line where it began
	began int
	ended int // 0 = never
	ok    bool
}

// parse reads what strace -f -y -xx -o writes: a line for a call, or two if others came between.
// Paths and data are in hexadecimal, \x2f\x64 and so on.
//
//	4711 fdatasync(7</data/sessions.db>) = 0
//	4711 fdatasync(7</data/sessions.db> <unfinished ...>
//	4711 <... fdatasync resumed>)     = 0
func parse(r io.Reader) ([]call, error) {
	var calls []call
	open := make(map[string]int) // by thread, the call that is not finished
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<24)
	for n := 1; lines.Scan(); n++ {
		thread, rest, _ := strings.Cut(lines.Text(), " ")
		rest = strings.TrimLeft(rest, " ")
		if tail, ok := strings.CutPrefix(rest, "<... "); ok {
			if i, ok := open[thread]; ok {
				calls[i].end(n, tail)
				delete(open, thread)
			}
			continue
		}
		name, args, ok := strings.Cut(rest, "(")
		if !ok || strings.HasPrefix(rest, "+++") || strings.HasPrefix(rest, "---") {
			continue // the end of a thread, or a signal
		}
		c := call{name: name, args: args, began: n}
		if strings.HasSuffix(args, "<unfinished ...>") {
			open[thread] = len(calls)
		} else {
			c.end(n, args)
		}
		calls = append(calls, c)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	return calls, nil
}

// end notes the line where a call has ended.
func (c *call) end(line int, rest string) {
	i := strings.LastIndex(rest, " = ")
	if i < 0 {
		return // the process was killed within it
	}
	c.ended, c.ok = line, !strings.HasPrefix(rest[i+3:], "-")
}

// is reports whether it is a call of that name on a file whose path has that ending.
func (c *call) is(name, file string) bool {
	fd, _, ok := strings.Cut(c.args, ">")
	return ok && c.name == name && strings.HasSuffix(fd, escape(file))
}

// answers reports whether it sends a packet to a client that begins with these bytes.
func (c *call) answers(packet []byte) bool {
	if c.name != "write" || !strings.Contains(c.args, "<"+escape("socket:[")) {
		return false
	}
	return strings.Contains(c.args, `, "`+escape(string(packet)))
}

// message is one that was published with nothing else on its way.
type message struct {
	text   string // occurs in no other message
	answer []byte // how its acknowledgement begins
}

// hold returns an error unless each message was on disk before it was acknowledged: written, then
// synced, then the meta page that makes it count written, and that synced, before the
// acknowledgement was handed to the kernel.
func hold(calls []call, file string, messages []message) error {
	at := 0 // the first call that belongs to the message
	for _, m := range messages {
		answered := -1
		for i := at; i < len(calls) && answered < 0; i++ {
			if calls[i].answers(m.answer) {
				answered = i
			}
		}
		if answered < 0 {
			return fmt.Errorf("%s: no acknowledgement % x in the trace", m.text, m.answer)
		}
		limit := calls[answered].began
		line := calls[at].began - 1
		for _, step := range []struct {
			what string
			is   func(c *call) bool
		}{
			{"written", func(c *call) bool { return c.is("pwrite64", file) && strings.Contains(c.args, escape(m.text)) }},
			{"synced", func(c *call) bool { return c.is("fdatasync", file) }},
			{"made to count by a meta page", func(c *call) bool { return c.is("pwrite64", file) && meta(c.args) }},
			{"synced with its meta page", func(c *call) bool { return c.is("fdatasync", file) }},
		} {
			if line = after(calls[at:answered], line, step.is); line == 0 || line > limit {
				return fmt.Errorf("%s: acknowledged at line %d of the trace, and was not %s before", m.text, limit, step.what)
			}
		}
		at = answered + 1
	}
	return nil
}

// after returns the line at which the first call ended that began behind a line, worked, and is the
// one, 0 if there is none.
func after(calls []call, line int, is func(*call) bool) int {
	for i := range calls {
		c := &calls[i]
		if c.began > line && c.ok && is(c) {
			return c.ended
		}
	}
	return 0
}

// meta reports whether a pwrite64 with these arguments goes to one of the two meta pages.
func meta(args string) bool {
	where := args[strings.LastIndex(args, `"`)+1:] // , 4096, 0) = 4096, or without an end
	if i := strings.IndexAny(where, ")<"); i >= 0 {
		where = strings.TrimRight(where[:i], " ")
	}
	return where == ", 4096, 0" || where == ", 4096, 4096"
}

// escape returns a text as strace -xx prints it.
func escape(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}
