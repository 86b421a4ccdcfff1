package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"dunlin/cmd/dunlin/client"
	"dunlin/core/topic"
)

const pubHelp = `Usage: dunlin pub -t TOPIC (-m TEXT | -f FILE | -s | -l | -n) [OPTION]...

Publishes messages, and exits with 0 when the broker has acknowledged them all.

Message:
  -t, --topic TOPIC
  -m, --message TEXT     TEXT is the message
  -f, --file FILE        the content of FILE is the message
  -s, --stdin-file       what is read from standard input is the message
  -l, --stdin-line       each line of standard input is a message
  -n, --null-message     an empty message; with -r it deletes the retained one
  -q, --qos 0|1|2        (0)
  -r, --retain           the broker keeps it for those who subscribe later
` + connectHelp

// maxMessage is the largest payload, in bytes: what fits into a packet beside the longest topic.
const maxMessage = 268_435_455 - 65_535 - 16

func pub(c *call) error {
	fs := c.options()
	conn := connectOptions(fs)
	var m client.Message
	var text, file string
	var whole, lines, empty bool
	var qos int
	both(fs.StringVar, &m.Topic, "t", "topic")
	both(fs.StringVar, &text, "m", "message")
	both(fs.StringVar, &file, "f", "file")
	both(fs.BoolVar, &whole, "s", "stdin-file")
	both(fs.BoolVar, &lines, "l", "stdin-line")
	both(fs.BoolVar, &empty, "n", "null-message")
	both(fs.IntVar, &qos, "q", "qos")
	both(fs.BoolVar, &m.Retain, "r", "retain")
	others, err := c.parse(fs)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return usagef("%q is not an option; a message goes behind -m", others[0])
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
	for _, is := range []bool{given(fs, "m", "message"), given(fs, "f", "file"), whole, lines, empty} {
		if is {
			sources++
		}
	}
	if sources != 1 {
		return usagef("wants exactly one of -m, -f, -s, -l and -n, got %d", sources)
	}
	o, err := conn.options()
	if err != nil {
		return err
	}
	switch {
	case file != "":
		m.Payload, err = readMessage(file, nil)
	case whole:
		m.Payload, err = readMessage("standard input", c.in)
	case !empty && !lines:
		m.Payload = []byte(text)
	}
	if err != nil {
		return err
	}
	ctx, stop := conn.context()
	defer stop()
	cl, err := dial(ctx, o)
	if err != nil {
		return err
	}
	if lines {
		err = publishLines(ctx, cl, m, c.in)
	} else {
		err = cl.Publish(ctx, m)
	}
	return finish(ctx, cl, err)
}

// finish waits for the acknowledgements of what was sent, also if something went wrong on the way,
// and closes.
func finish(ctx context.Context, cl *client.Client, err error) error {
	if flushed := cl.Flush(ctx); err == nil {
		err = flushed
	}
	switch n := cl.Unacknowledged(); {
	case n == 1:
		err = fmt.Errorf("%w; 1 message is not acknowledged", err)
	case n > 1:
		err = fmt.Errorf("%w; %d messages are not acknowledged", err, n)
	}
	if closed := cl.Close(); err == nil && closed != nil && !errors.Is(closed, client.ErrClosed) {
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
func publishLines(ctx context.Context, cl *client.Client, m client.Message, in io.Reader) error {
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
		case l := <-lines:
			if errors.Is(l.err, io.EOF) {
				return nil
			}
			if l.err != nil {
				return fmt.Errorf("standard input cannot be read: %w", l.err)
			}
			m.Payload = l.text
			if err := cl.Publish(ctx, m); err != nil {
				return err
			}
		case <-cl.Done():
			return cl.Err()
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
