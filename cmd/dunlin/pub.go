package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/topic"
)

const pubHelp = `Usage: dunlin pub -t TOPIC (-m TEXT | -f FILE | -s | -l | -n) [OPTION]...

Publishes messages, and exits with 0 when the broker has acknowledged them all.

  dunlin pub -t plant/7/temp -m 21.5 -q 1
  tail -f log | dunlin pub -L mqtts://broker.example/site/log -l -q 1

Message:
  -t, --topic TOPIC
  -m, --message TEXT     TEXT is the message
  -f, --file FILE        the content of FILE is the message
  -s, --stdin-file       what is read from standard input is the message
  -l, --stdin-line       each line of standard input is a message
  -n, --null-message     an empty message; with -r it deletes the retained one
  -q, --qos 0|1|2        (0)
  -r, --retain           the broker keeps it for those who subscribe later
  --repeat N             publish it N times
  --interval DURATION    between two messages, as 500ms or 2s
Properties, MQTT 5.0 only:
  --expiry SECONDS       the broker drops it when it is that old
  --content-type TYPE
  --response-topic TOPIC
  --correlation DATA     for the answer to be recognised by
  --property NAME=VALUE  user property, repeatable
  --payload-format 0|1   0 bytes, 1 UTF-8 text
  --topic-alias N        send the topic once, and then N instead
` + connectHelp

// maxMessage is the largest payload, in bytes: what fits into a packet beside the longest topic.
const maxMessage = 268_435_455 - 65_535 - 16

func pub(c *call) error {
	fs := c.options()
	conn := connectOptions(fs)
	p := publication{repeat: 1}
	m := &p.message
	var text, file string
	var whole, empty bool
	var qos int
	var alias uint64
	both(fs.StringVar, &m.Topic, "t", "topic")
	both(fs.StringVar, &text, "m", "message")
	both(fs.StringVar, &file, "f", "file")
	both(fs.BoolVar, &whole, "s", "stdin-file")
	both(fs.BoolVar, &p.lines, "l", "stdin-line")
	both(fs.BoolVar, &empty, "n", "null-message")
	both(fs.IntVar, &qos, "q", "qos")
	both(fs.BoolVar, &m.Retain, "r", "retain")
	fs.IntVar(&p.repeat, "repeat", p.repeat, "")
	fs.DurationVar(&p.interval, "interval", 0, "")
	fs.Uint64Var(&alias, "topic-alias", 0, "")
	extra := messageOptions(fs, "")
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return usagef("%q is not an option; a message goes behind -m", others[0])
	}
	o, err := conn.options()
	if err != nil {
		return err
	}
	if m.Topic == "" {
		m.Topic = conn.topic
	} else if conn.topic != "" {
		return usagef("the topic is in the URL and behind -t")
	}
	if m.Topic == "" {
		return usagef("the topic (-t) is missing")
	}
	if err := topic.CheckName([]byte(m.Topic)); err != nil {
		return usagef("%.80q cannot be published to: %s", m.Topic, trimTopic(err))
	}
	if m.QoS, err = checkQoS(qos); err != nil {
		return err
	}
	sources := 0
	for _, is := range []bool{given(fs, "m", "message"), given(fs, "f", "file"), whole, p.lines, empty} {
		if is {
			sources++
		}
	}
	switch {
	case sources != 1:
		return usagef("wants exactly one of -m, -f, -s, -l and -n, got %d", sources)
	case p.repeat < 1:
		return usagef("--repeat %d is out of range; allowed: 1 or more", p.repeat)
	case p.lines && given(fs, "repeat"):
		return usagef("--repeat does not go with -l")
	case p.interval < 0:
		return usagef("--interval %v is out of range; allowed: 0 or more", p.interval)
	case given(fs, "topic-alias") && (alias < 1 || alias > math.MaxUint16):
		return usagef("--topic-alias %d is out of range; allowed: 1 to 65535", alias)
	}
	m.TopicAlias = uint16(alias)
	if err := needV5(fs, o.Version, append(extra.names(), "topic-alias")...); err != nil {
		return err
	}
	if err := extra.apply(m); err != nil {
		return err
	}
	switch {
	case file != "":
		m.Payload, err = readMessage(file, nil)
	case whole:
		m.Payload, err = readMessage("standard input", c.in)
	case !empty && !p.lines:
		m.Payload = []byte(text)
	}
	if err == nil {
		err = checkFormat(m)
	}
	if err != nil {
		return err
	}
	ctx, stop := conn.context()
	defer stop()
	l := c.link(conn, o)
	if err = l.open(ctx); err == nil {
		if p.lines {
			err = p.publishLines(ctx, l, c.in)
		} else {
			err = p.publishRepeatedly(ctx, l)
		}
	}
	return finish(ctx, l, err)
}

// publication is what pub publishes, and how often.
type publication struct {
	message  client.Message
	lines    bool
	repeat   int           // 1 or more
	interval time.Duration // between two messages
	tick     <-chan time.Time
}

func (p *publication) publishRepeatedly(ctx context.Context, l *link) error {
	for range p.repeat {
		if err := p.publish(ctx, l, p.message); err != nil {
			return err
		}
	}
	return nil
}

// publish waits for its time and publishes a message.
func (p *publication) publish(ctx context.Context, l *link, m client.Message) error {
	for waiting := p.tick != nil; waiting; {
		select {
		case <-p.tick:
			waiting = false
		case <-l.Done():
			if err := l.restore(ctx, l.Err()); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if p.interval > 0 {
		p.tick = time.After(p.interval)
	}
	for {
		err := l.Publish(ctx, m)
		if err == nil {
			return nil
		}
		if err = l.restore(ctx, err); err != nil {
			return err
		}
	}
}

// finish waits for the acknowledgements of what was sent, also if something went wrong on the way,
// and closes.
func finish(ctx context.Context, l *link, err error) error {
	if l.Client == nil {
		return err // there was no connection
	}
	for {
		flushed := l.Flush(ctx)
		if err == nil && flushed != nil {
			if flushed = l.restore(ctx, flushed); flushed == nil {
				continue
			}
		}
		if err == nil {
			err = flushed
		}
		break
	}
	switch n := l.Unacknowledged(); {
	case n == 1:
		err = fmt.Errorf("%w; 1 message is not acknowledged", err)
	case n > 1:
		err = fmt.Errorf("%w; %d messages are not acknowledged", err, n)
	}
	if closed := l.Close(); err == nil && closed != nil && !errors.Is(closed, client.ErrClosed) {
		err = closed
	}
	return err
}

// readMessage reads the whole of in, or of the file with that name.
func readMessage(name string, in io.Reader) ([]byte, error) {
	if in == nil {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("the message cannot be read: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("the message cannot be read: %w", err)
	}
	if len(b) > maxMessage {
		return nil, fmt.Errorf("%s is larger than a message can be, %d bytes", name, maxMessage)
	}
	return b, nil
}

// publishLines publishes each line of in until its end, or until the connection or ctx ends.
func (p *publication) publishLines(ctx context.Context, l *link, in io.Reader) error {
	type line struct {
		text []byte
		err  error // io.EOF behind the last
	}
	lines := make(chan line)
	// The reader of in ends at the end of in, or with the process: nothing can interrupt a read
	// from a terminal. It holds one line at most.
	go func() {
		r := bufio.NewReader(in)
		for {
			text, err := readLine(r)
			select {
			case lines <- line{text, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case next := <-lines:
			if errors.Is(next.err, io.EOF) {
				return nil
			}
			if next.err != nil {
				return fmt.Errorf("standard input cannot be read: %w", next.err)
			}
			m := p.message
			m.Payload = next.text
			if err := checkFormat(&m); err != nil {
				return errors.New(err.Error()) // the command line is right
			}
			if err := p.publish(ctx, l, m); err != nil {
				return err
			}
		case <-l.Done():
			if err := l.restore(ctx, l.Err()); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readLine returns the next line without its end, io.EOF if there is none.
func readLine(r *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := r.ReadSlice('\n')
		text = append(text, part...)
		switch {
		case len(text) > maxMessage:
			return nil, fmt.Errorf("a line is larger than a message can be, %d bytes", maxMessage)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(text) > 0:
			return text, nil
		case err != nil:
			return nil, err
		}
		text = text[:len(text)-1]
		if n := len(text); n > 0 && text[n-1] == '\r' {
			text = text[:n-1]
		}
		return text, nil
	}
}
