package runner

import (
	"time"

	"dunlin/uplink/forward"
)

// quickness is how quickly the server acknowledges, as found out by one message at a time.
type quickness struct {
	seq  forward.Seq   // of the message that is watched, 0 = none
	at   time.Duration // when it was sent
	took time.Duration // the mean of the last few, 0 = nobody knows
}

// sent notes that a message is sent.
func (q *quickness) sent(seq forward.Seq, now time.Duration) {
	if q.seq == 0 {
		q.seq, q.at = seq, now
	}
}

// acknowledged takes an acknowledgement, and reports whether that was of the message that is watched.
func (q *quickness) acknowledged(seq forward.Seq, now time.Duration) bool {
	if seq != q.seq {
		return false
	}
	q.seq = 0
	took := max(now-q.at, 1)
	if q.took > 0 {
		took = max((3*q.took+took)/4, 1)
	}
	q.took = took
	return true
}

// acknowledged tells the spool whether the server acknowledges quickly enough for messages to linger:
// in half of the time that they have.
func (u *Uplink) acknowledged(seq forward.Seq) {
	if u.acks.acknowledged(seq, u.now()) && u.o.Linger > 0 {
		u.spool.Quick(u.acks.took < u.o.Linger/2)
	}
}
