package loop

import (
	"sync/atomic"

	"dunlin/core/conn"
	"dunlin/platform/poll"
)

const (
	// crowd is from how many ready sockets on it is worth while to call a crew.
	crowd = 16
	// share is how many of them one of a crew takes at a time.
	share = 8
	// readerBuffer is what one of a crew reads at most in a turn, and readAtOnce what it reads of one
	// socket, in bytes. What is left is read by the loop, or in the next turn.
	readerBuffer = 128 << 10
	readAtOnce   = 32 << 10
)

// reader reads many sockets with a crew. Then the loop takes what came, in the order of the events.
type reader struct {
	loop    *Loop
	crew    *conn.Crew
	work    func(worker int) // made once
	next    atomic.Int32     // index in reads of the first that nobody has taken
	reads   []read           // by index of the event
	workers []readerWorker
}

// read is what one event is to bring, or has brought.
type read struct {
	conn *conn.Conn // nil = the loop serves the event itself
	data []byte
	err  error
}

type readerWorker struct {
	buf  []byte
	used int
}

func newReader(l *Loop, crew *conn.Crew) *reader {
	r := &reader{loop: l, crew: crew, workers: make([]readerWorker, crew.Workers())}
	r.work = r.share
	return r
}

// serve does what Loop.serve does for each event, if they are so many that it is worth while.
func (r *reader) serve(events []poll.Event) bool {
	if len(events) < crowd || r.prepare(events) < crowd {
		return false
	}
	r.crew.Do(r.work)
	l := r.loop
	for i, ev := range events {
		d := &r.reads[i]
		c := d.conn
		switch {
		case c == nil:
			l.serve(ev)
		case c.Stopped(): // by an earlier event
		case d.err != nil && c.Paused(): // the poller reports it again
		case d.err != nil:
			c.Over()
			l.received(c, d.err)
		case len(d.data) > 0:
			l.received(c, c.Take(d.data, &l.Arena, l.handler))
		}
		*d = read{}
	}
	return true
}

// prepare finds the connections that are to be read, and returns how many there are.
func (r *reader) prepare(events []poll.Event) (n int) {
	if cap(r.reads) < len(events) {
		r.reads = make([]read, len(events))
	}
	r.reads = r.reads[:len(events)]
	for i, ev := range events {
		s := &r.loop.slots[ev.Key.Slot]
		if ev.Readable && !ev.Writable && s.generation == ev.Key.Generation &&
			s.conn != nil && !s.conn.Stopped() && !s.conn.Paused() {
			r.reads[i].conn = s.conn
			n++
		}
	}
	if n < crowd {
		clear(r.reads)
		return n
	}
	for i := range r.workers {
		r.workers[i].used = 0
	}
	r.next.Store(0)
	return n
}

// share reads until nothing is left, or its buffer is full.
func (r *reader) share(worker int) {
	w := &r.workers[worker]
	if w.buf == nil {
		w.buf = make([]byte, readerBuffer)
	}
	for {
		end := int(r.next.Add(share))
		for i := end - share; i < min(end, len(r.reads)); i++ {
			w.read(&r.reads[i])
		}
		if end >= len(r.reads) {
			return
		}
	}
}

func (w *readerWorker) read(d *read) {
	switch {
	case d.conn == nil:
	case !d.conn.Fillable(len(w.buf) - w.used):
		d.conn = nil // the loop reads it
	default:
		d.data, d.err = d.conn.Fill(w.buf[w.used:min(w.used+readAtOnce, len(w.buf))])
		w.used += len(d.data)
	}
}
