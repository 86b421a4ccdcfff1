package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// style is how a text looks on a terminal.
type style string

// The styles, as parameters of SGR.
const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

const (
	// plainInterval is how often the state is printed where it cannot be drawn over itself.
	plainInterval = 2 * time.Second
	// history is how many values the curve at the end of the line shows at most.
	history = 36
)

// Screen prints the events one below the other, and on a terminal a line below them that lives.
// Its methods may be called from any goroutine.
type screen struct {
	mu       sync.Mutex // guards what follows
	w        io.Writer
	terminal bool
	columns  int
	start    time.Time
	live     bool      // the last line on the terminal is the living one
	printed  time.Time // when the state was last printed on what is no terminal
	// curve is what has been waiting, a value for each step of time; the last one is of now.
	curve   []uint64
	least   uint64 // value of the highest block, if no other is higher
	step    time.Duration
	stepped time.Time
}

// newScreen returns a screen on a file. Colours and movement are used if it is a terminal that
// can, and the environment does not say NO_COLOR.
func newScreen(f *os.File) *screen {
	s := &screen{w: f, start: time.Now(), columns: 80, step: time.Second, least: 1}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	s.terminal = err == nil && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		s.columns = int(size.Col)
	}
	return s
}

// paint returns text in a style.
func (s *screen) paint(text string, st style) string {
	if !s.terminal || st == plain {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

// title prints a headline.
func (s *screen) title(text, more string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "\n  %s  %s\n\n", s.paint(text, bold), s.paint(more, dim))
}

// event prints a line of the story with its time.
func (s *screen) event(mark string, st style, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	at := fmt.Sprintf("%6.1f s", time.Since(s.start).Seconds())
	fmt.Fprintf(s.w, "  %s  %s %s\n", s.paint(at, dim), s.paint(mark, st), fmt.Sprintf(format, args...))
}

// state is what the living line shows.
type state struct {
	linkUp, gatewayUp            bool
	accepted, delivered, waiting uint64
}

// show draws the state.
func (s *screen) show(st state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.stepped) >= s.step {
		s.stepped = time.Now()
		s.curve = append(s.curve, 0)
		s.curve = s.curve[max(0, len(s.curve)-history):]
	}
	s.curve[len(s.curve)-1] = st.waiting
	if !s.terminal {
		if time.Since(s.printed) < plainInterval {
			return
		}
		s.printed = time.Now()
		fmt.Fprintf(s.w, "  %6.1f s    link %s, gateway %s, accepted %s, delivered %s, waiting %s\n",
			time.Since(s.start).Seconds(), upDown(st.linkUp), upDown(st.gatewayUp),
			number(st.accepted), number(st.delivered), number(st.waiting))
		return
	}
	lamp := func(name string, up bool) string {
		if up {
			return s.paint("●", green) + " " + name
		}
		return s.paint("○", red) + " " + s.paint(name, dim)
	}
	line := fmt.Sprintf("  %s  %s  %s   accepted %s  delivered %s  waiting %s %s",
		s.paint(fmt.Sprintf("%6.1f s", time.Since(s.start).Seconds()), dim),
		lamp("gateway", st.gatewayUp), lamp("link", st.linkUp),
		s.paint(pad(number(st.accepted), 7), bold), s.paint(pad(number(st.delivered), 7), bold),
		s.paint(pad(number(st.waiting), 7), yellow), s.paint(curve(s.curve, s.least), cyan))
	s.clear()
	fmt.Fprint(s.w, cut(line, s.columns-1))
	s.live = true
}

// end removes the living line.
func (s *screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}

// clear removes the living line. s.mu is held.
func (s *screen) clear() {
	if s.live {
		fmt.Fprint(s.w, "\r\x1b[2K")
		s.live = false
	}
}

// table prints rows under a header, numbers to the right.
func (s *screen) table(header []string, rows [][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(row []string, st style) {
		var b strings.Builder
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				b.WriteString("    " + cell + gap)
			} else {
				b.WriteString("   " + gap + cell)
			}
		}
		fmt.Fprintln(s.w, s.paint(b.String(), st))
	}
	total := 4
	for i, w := range widths {
		total += w
		if i > 0 {
			total += 3
		}
	}
	fmt.Fprintln(s.w)
	line(header, dim)
	fmt.Fprintln(s.w, s.paint("    "+strings.Repeat("─", total-4), dim))
	for _, row := range rows {
		line(row, plain)
	}
	fmt.Fprintln(s.w)
}

// verdict prints the last line.
func (s *screen) verdict(ok bool, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	mark, st := "✔", green
	if !ok {
		mark, st = "✘", red
	}
	fmt.Fprintf(s.w, "  %s %s\n\n", s.paint(mark, st), s.paint(text, bold+";"+st))
}

// number writes n with commas.
func number(n uint64) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func pad(text string, width int) string {
	return strings.Repeat(" ", max(0, width-len(text))) + text
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// curve draws values as a line of blocks. The highest block stands for the highest value, or for
// least if that is higher, so that next to nothing looks like it.
func curve(values []uint64, least uint64) string {
	const blocks = "▁▂▃▄▅▆▇█"
	highest := least
	for _, v := range values {
		highest = max(highest, v)
	}
	var b strings.Builder
	for _, v := range values {
		i := int(v * 7 / highest)
		r, _ := utf8.DecodeRuneInString(blocks[i*3:])
		b.WriteRune(r)
	}
	return b.String()
}

// cut shortens a line to columns cells; escape sequences take none, and the style is reset.
func cut(line string, columns int) string {
	var b strings.Builder
	cells, escape := 0, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		case cells == columns:
			return b.String() + "\x1b[0m"
		default:
			cells++
		}
		b.WriteRune(r)
	}
	return b.String()
}
