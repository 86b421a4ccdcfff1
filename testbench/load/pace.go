package load

import "time"

// catchUp is how far the clock of an open loop may be behind before what was missed is left out.
const catchUp = 100 * time.Millisecond

// maxTicks is how many publishers send in one turn: between them the loop reads.
const maxTicks = 128

// pace is the clock of an open loop: each publisher of a loop is allowed burst messages every
// interval, one publisher after the other, evenly spread.
type pace struct {
	publishers []*publisher
	interval   time.Duration
	burst      int

	round int64 // when the interval began, 0 = the clock stands
	nth   int   // publisher that is next in it
}

func (p *pace) start() {
	if len(p.publishers) > 0 && p.interval > 0 {
		p.round, p.nth = now(), 0
	}
}

func (p *pace) stop() { p.round = 0 }

// next returns when the next publisher is allowed to send.
func (p *pace) next() int64 {
	return p.round + int64(p.interval)*int64(p.nth)/int64(len(p.publishers))
}

// wait returns how long it is until then, 0 if the clock stands, and whether it is now.
func (p *pace) wait() (d time.Duration, due bool) {
	if p.round == 0 {
		return 0, false
	}
	d = time.Duration(p.next() - now())
	return max(d, 0), d <= 0
}

// tick sends what the clock allows by now.
func (l *loop) tick() {
	p := &l.pace
	if p.round == 0 {
		return
	}
	at := now()
	if late := time.Duration(at - p.round); late > catchUp+p.interval {
		rounds := int64((late - catchUp) / p.interval)
		p.round += rounds * int64(p.interval)
		l.held += uint64(rounds) * uint64(len(p.publishers)*p.burst)
	}
	for range maxTicks {
		due := p.next()
		if due > at || p.round == 0 {
			return
		}
		one := p.publishers[p.nth]
		if p.nth++; p.nth == len(p.publishers) {
			p.nth = 0
			p.round += int64(p.interval)
		}
		if one.tokens > 0 {
			l.held += uint64(p.burst)
			continue
		}
		one.tokens, one.due = p.burst, due
		if err := l.fill(one); err != nil {
			l.broke(one.client, err)
		}
	}
}
